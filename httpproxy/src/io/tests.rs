//! Whole connections over sockets of loopback, from their first octet to their end.

pub(super) mod node;
mod rows;
mod stage;
