//! The pure half: decides, holds state, never touches a socket or a clock.

pub(crate) mod buffer;
pub(crate) mod bytes;
pub(crate) mod client_hello;
pub(crate) mod framing;
pub(crate) mod head;
pub(crate) mod host;
pub(crate) mod sniff;
