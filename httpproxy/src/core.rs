//! The pure half: decides, holds state, never touches a socket or a clock.

pub(crate) mod answer;
pub(crate) mod buffer;
pub(crate) mod bytes;
pub(crate) mod client_hello;
pub(crate) mod exchange;
pub(crate) mod forward;
pub(crate) mod frames;
pub(crate) mod framing;
pub(crate) mod h2;
pub(crate) mod head;
pub(crate) mod host;
pub(crate) mod hpack;
pub(crate) mod quic;
pub(crate) mod record;
pub(crate) mod sniff;
pub(crate) mod step;
pub(crate) mod target;
