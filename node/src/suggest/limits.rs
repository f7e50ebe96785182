//! Every bound of learning a policy; what is beyond one is left out, counted and told.

/// Bytes of one line of the input; a longer one counts as unreadable.
pub(crate) const LINE_BYTES_MAX: usize = 1 << 20;
/// Workloads, each of which gets a policy; flows of others are left out.
pub(crate) const WORKLOADS_MAX: usize = 256;
/// Peers of one workload in one direction; flows with others are left out.
pub(crate) const PEERS_MAX: usize = 512;
/// Ports, and ICMP types, of one peer; flows to others are left out.
pub(crate) const PORTS_MAX: usize = 256;
/// Names asked of one DNS server by one workload; other names are left out.
pub(crate) const NAMES_MAX: usize = 512;
/// Pairs of method and path on one port of one peer; other requests are left out.
pub(crate) const REQUESTS_MAX: usize = 512;
/// Workloads, peers, ports, names and requests together, so that the text stays within what one
/// policy file may hold; what comes later is left out.
pub(crate) const FACTS_MAX: usize = 5_000;
/// Names of which it is remembered whether they had an answer; later ones count as unanswered.
pub(crate) const ANSWERS_MAX: usize = 20_000;
/// Labels of one workload or peer; one with more is left out.
pub(crate) const LABELS_MAX: usize = 64;
/// Characters of the path of one HTTP request; a longer one is left out.
pub(crate) const PATH_OCTETS_MAX: usize = 2_048;
/// Characters of one comment; it is cut there.
pub(crate) const COMMENT_OCTETS_MAX: usize = 300;
