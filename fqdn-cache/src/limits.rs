//! Every bound of this crate, and what happens beyond it: those go that end first, before all of an answer
//! whose floor isn't over. Where these are all, those go that were answered longest ago; but of one name's
//! addresses none does, and its new answer is refused.

/// Addresses of one name, so many that one whose answers each bring others of ten thousand has room for
/// all (Cilium's figure of a thousand is full within seconds there). An answer with more is refused.
pub const ADDRESSES_PER_NAME_MAX: usize = 10_000;
/// Names of one endpoint: 300 new ones a second keep theirs for the default floor.
pub const NAMES_MAX: usize = 20_000;
/// Addresses of one endpoint.
pub const ADDRESSES_MAX: usize = 20_000;
/// Names' addresses of one endpoint, about 100 octets each. Without it ten thousand
/// names on the same thousand addresses would be ten million.
pub const PAIRS_MAX: usize = 100_000;

/// Names' addresses that are remembered beyond their end; beyond, those are forgotten that ended first.
pub const ENDED_MAX: usize = 512;
/// Addresses with connections whose names are remembered for as long as there are some; of others, as long as
/// [`ENDED_MAX`] reaches.
pub const CONNECTED_MAX: usize = 4_096;
/// Names of such an address; beyond, that one is forgotten that ended first.
pub const CONNECTED_NAMES_MAX: usize = 8;

/// The bounds of one cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) addresses_per_name: usize,
    pub(crate) names: usize,
    pub(crate) addresses: usize,
    pub(crate) pairs: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            addresses_per_name: ADDRESSES_PER_NAME_MAX,
            names: NAMES_MAX,
            addresses: ADDRESSES_MAX,
            pairs: PAIRS_MAX,
        }
    }
}
