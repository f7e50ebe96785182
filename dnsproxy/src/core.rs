//! The pure half: decides, holds state, never touches a socket or a clock.

pub(crate) mod exchange;
pub(crate) mod gates;
pub(crate) mod learn;
pub(crate) mod local;
pub(crate) mod outstanding;
pub(crate) mod pending;
pub(crate) mod record;
pub(crate) mod release;
mod scrub;
pub(crate) mod step;
pub(crate) mod tally;
pub(crate) mod tunnels;
