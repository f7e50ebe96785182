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
/// Static policy entries of one endpoint, as its map has room for; beyond, the snapshot is refused.
pub const ENTRIES_MAX: usize = 16_384;
