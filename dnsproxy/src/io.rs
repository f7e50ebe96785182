//! The shell: moves bytes between the gate's sockets and the core, and decides nothing.

mod connections;
pub(crate) mod host;
mod pool;
mod side;
pub(crate) mod tcp;
pub(crate) mod udp;
pub(crate) mod waiting;
mod way;
