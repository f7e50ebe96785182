//! What one endpoint has learned: names and their addresses.
//!
//! Pure: no sockets, no clock. It knows no policy and no identity; it says which addresses changed
//! their names, and what that means is for others to say.
#![forbid(unsafe_code)]

mod cache;
pub mod limits;
mod order;
mod slab;

pub use cache::{Cache, Full, Learned, Plan, Stale};
