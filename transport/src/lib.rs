//! Addresses, namespaces, links and sockets: everything that touches the network from user space.
//!
//! It knows marks and interfaces, but no policy and no DNS. Every socket is made here, in the right
//! namespace and with its mark; the only unsafe code is in `sys`.

mod addr;
mod dropped;
mod gate;
mod link;
mod netns;
mod passed;
mod pipe;
mod private;
mod refused;
mod sandbox;
mod shared;
mod splice;
#[expect(
    unsafe_code,
    reason = "socket options and control messages that no safe crate has"
)]
mod sys;
mod tcp;
mod udp;

pub use addr::{ClientAddr, OrigDstAddr, UpstreamAddr};
pub use dropped::{DropLog, DroppedPacket};
pub use gate::{Gate, SideLinkNames};
pub use link::{Filter, Link, LinkError, Netlink, Route, Veth};
pub use netns::NetNs;
pub use passed::Passed;
pub use pipe::{PIPE_OCTETS_MAX, Pipe};
pub use private::{BRIDGE, HostLink, PrivateHost, PrivateNode};
pub use refused::refuse_system_calls;
pub use sandbox::{SANDBOX_GATEWAY, SANDBOX_V4, SANDBOX_V6, Sandbox, unshare_mounts};
pub use shared::{SharedFile, SharedPart};
pub use splice::{
    Listening, SPLICE_ENDPOINT, SpliceError, enter_user, enter_user_network, open_splice,
};
pub use tcp::{
    Begin, FirstWord, Follows, GateListener, SourcePort, client_of, connect_as, connect_like,
    connect_on_node, reset, reset_at_end, send, set_up,
};
pub use udp::{DATAGRAM_MAX, Datagram, GateUdp, Inbox, Outbox};
