//! The pure half: decides, holds state, never touches a socket or a clock.

pub(crate) mod bytes;
pub(crate) mod client_hello;
pub(crate) mod sniff;
