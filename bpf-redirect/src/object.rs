//! The committed object and the names of its programs.

/// The compiled programs, as `cargo xtask bpf` made them from `ebpf/`; `object/namegate.bpf.toml`
/// says from which sources and with which compiler.
pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!("../object/namegate.bpf.o");

/// Ingress of an endpoint's interface.
pub(crate) const FROM_ENDPOINT: &str = "ng_from_ep";
/// Egress of an endpoint's interface.
pub(crate) const TO_ENDPOINT: &str = "ng_to_ep";
/// Ingress of the node's end of the side link.
pub(crate) const NODE_END: &str = "ng_node_end";
/// Ingress of the gate's end.
pub(crate) const GATE_IN: &str = "ng_gate_in";
/// Egress of the gate's end.
pub(crate) const GATE_OUT: &str = "ng_gate_out";

/// Drops everything, while another is being attached.
pub(crate) const CLOSED: &str = "ng_closed";

/// Searches a socket in the gate. It is attached to the namespace by the daemon whose listener it finds.
pub(crate) const LISTEN: &str = "ng_listen";

/// Does nothing: what a run costs by itself. Never attached, and loaded by benchmarks alone.
pub(crate) const NOTHING: &str = "ng_nothing";
/// Looks up the endpoint of the interface, in the same way.
pub(crate) const LOOK_UP: &str = "ng_look_up";

/// What one daemon has for itself: such a map is not pinned.
pub(crate) fn is_own(map: &str) -> bool {
    map == bpf_redirect_common::LISTENER || map.starts_with('.')
}

/// All that a node loads, beside [`LISTEN`].
pub(crate) const PROGRAMS: [&str; 6] = [
    FROM_ENDPOINT,
    TO_ENDPOINT,
    NODE_END,
    GATE_IN,
    GATE_OUT,
    CLOSED,
];
