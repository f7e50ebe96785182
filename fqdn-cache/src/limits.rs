//! Every bound of this crate, and what happens beyond it.

/// Addresses of one name; beyond, the least recently learned of that name goes. An answer with more
/// is refused.
pub const ADDRESSES_PER_NAME_MAX: usize = 1_000;
/// Names of one endpoint; beyond, the least recently learned one goes.
pub const NAMES_MAX: usize = 10_000;
/// Addresses of one endpoint; beyond, the least recently learned one goes.
pub const ADDRESSES_MAX: usize = 20_000;
