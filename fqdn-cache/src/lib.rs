//! What one endpoint has learned: names, their addresses, and when that ends.
//!
//! Pure: no sockets, no clock. It knows no policy and no identity; it says which addresses changed
//! their names, and what that means is for others to say.
#![forbid(unsafe_code)]

mod agenda;
mod cache;
mod ended;
mod lifetimes;
pub mod limits;
mod plan;
mod slab;

pub use cache::{Cache, Stale};
pub use lifetimes::Lifetimes;
pub use plan::{Full, Given, Learned, Plan};
