//! The shell: moves bytes between the gate's sockets and the core, and decides nothing.

pub(crate) mod host;
mod pool;
pub(crate) mod tcp;
pub(crate) mod udp;
