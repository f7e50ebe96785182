//! Whole connections over sockets of loopback, from their first octet to their end.

mod beginnings;
mod behaviour;
pub(super) mod node;
mod rows;
mod stage;
