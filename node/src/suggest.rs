//! A least-privilege policy from flows that were seen: flows in, policy text out.
//!
//! [`Line::parse`] reads Hubble's JSON as far as a policy needs it, [`Evidence`] gathers what each
//! workload did, [`Evidence::suggest`] writes the policies that allow that and nothing more. What a
//! rule can't say is not rounded up: the flow is left out and counted by its [`Skip`]. No files, no
//! sockets, no clock.

mod deed;
mod evidence;
mod http;
pub(crate) mod limits;
mod names;
mod peer;
mod record;
mod render;
mod rules;
mod seen;
mod selector;
mod skip;
mod yaml;

pub(crate) use evidence::{Evidence, Scope};
pub(crate) use names::Names;
pub(crate) use record::Line;

#[cfg(test)]
mod tests;
