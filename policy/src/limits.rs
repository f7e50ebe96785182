//! Every bound of this crate, with its unit and what happens beyond it.

/// Bytes of one policy file; beyond, the file is refused unread.
pub const FILE_BYTES_MAX: usize = 4 << 20;
/// YAML nodes of one policy file, aliases counted as often as they are used; beyond, it is refused.
pub const FILE_NODES_MAX: usize = 100_000;
/// Nesting of one policy file; beyond, it is refused.
pub const FILE_DEPTH_MAX: usize = 64;
/// Bytes of a line that a problem shows; a longer line is not shown, only its place.
pub const SNIPPET_BYTES_MAX: usize = 500;
/// Ports in one `toPorts` entry (Cilium's own bound); beyond, the rule is refused.
pub const PORTS_MAX: usize = 40;
/// ICMP types in one `icmps` entry (Cilium's own bound); beyond, the rule is refused.
pub const ICMP_FIELDS_MAX: usize = 40;
/// Characters of `log.value` (Cilium's own bound); beyond, the rule is refused.
pub const LOG_VALUE_MAX: usize = 32;
/// Prefixes that all references of a set to CIDR groups stand for, holes counted; beyond, it is
/// refused.
pub const GROUP_PREFIXES_MAX: usize = 65_536;
/// Prefixes of the address table, as the kernel's map has room for; beyond, the snapshot is refused.
pub const PREFIXES_MAX: usize = 65_536;
/// Virtual addresses of services, each with a port and a protocol, as the kernel's map has room for; beyond,
/// the snapshot is refused.
pub const SERVICES_MAX: usize = 16_384;
/// Static policy entries of one endpoint, as its map has room for; beyond, the snapshot is refused.
pub const ENTRIES_MAX: usize = 16_384;
/// Ports beside 53 on which names are asked, of all endpoints; a snapshot with more is refused.
pub const DNS_PORTS_MAX: usize = 16;
/// Ports on which the server name in QUIC is judged, of all endpoints; on more, datagrams are refused.
pub const QUIC_PORTS_MAX: usize = 16;
/// Bytes of one regular expression as written; beyond, it is refused.
pub const REGEX_TEXT_MAX: usize = 4_096;
/// Nesting of one regular expression; beyond, it is refused.
pub const REGEX_DEPTH_MAX: u32 = 64;
/// Bytes of one regular expression once compiled; beyond, it is refused.
pub const REGEX_SIZE_MAX: usize = 1 << 20;
/// Bytes that one thread remembers of an expression's automaton; beyond, it forgets and begins anew, or
/// goes on without one.
pub const REGEX_CACHE_MAX: usize = 64 << 10;
/// The same for many expressions that are matched at once, however many they are.
pub const REGEX_SET_CACHE_MAX: usize = 2 << 20;
/// HTTP rules of one list; beyond, the list is refused.
pub const HTTP_RULES_MAX: usize = 10_000;
/// Bytes of all expressions of one list of HTTP rules, compiled; beyond, the list is refused.
pub const HTTP_PROGRAMS_MAX: usize = 64 << 20;
/// Characters of one item of `serverNames` (the CRD's own bound); beyond, it is refused.
pub const SNI_PATTERN_MAX: usize = 255;
/// Warnings about the names of one list, and one more that counts the rest; a long list of patterns would
/// fill pages, and memory as long as its file stays.
pub const NAME_WARNINGS_MAX: usize = 16;
