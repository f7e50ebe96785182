//! The connection on a table: every row whole, cut at every octet, and after three allowed requests.

mod behaviour;
mod framing;
mod headers;
mod heads;
mod limits;
mod play;
mod told;
