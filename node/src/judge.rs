//! Policy asked away from the node: what a set of files says about a flow between two parties.

pub(crate) mod answer;
pub(crate) mod cases;
pub(crate) mod diff;
pub(crate) mod explain;
pub(crate) mod question;
pub(crate) mod read;
pub(crate) mod resolve;
pub(crate) mod words;
pub(crate) mod world;

pub(crate) use answer::{Answer, Outcome, Side};
pub(crate) use world::World;
