//! The bounds of this crate; each says what happens beyond it.

/// Flows that a ring keeps unless told otherwise; beyond it the oldest goes, and a reader that has
/// not seen it is told so.
pub const RING_FLOWS_MAX: usize = 4096;

/// Octets of one exported line without its newline: the stock `hubble --input-file` ends at a longer
/// one. Beyond it the lists of the flow are cut, and `policy_log` says so.
pub const LINE_OCTETS_MAX: usize = 65_535;
