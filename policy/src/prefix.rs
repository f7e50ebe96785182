//! Prefixes by longest match: a hash map for each length that occurs, so that the cost does not grow
//! with the number of prefixes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

/// Values by prefix.
#[derive(Debug)]
pub(crate) struct PrefixTable<T> {
    v4: ByLength<T>,
    v6: ByLength<T>,
}

type ByLength<T> = BTreeMap<Reverse<u8>, HashMap<IpAddr, T>>;

impl<T> PrefixTable<T> {
    pub(crate) fn new() -> Self {
        Self {
            v4: BTreeMap::new(),
            v6: BTreeMap::new(),
        }
    }

    /// Sets the value of a prefix; host bits are cut off.
    pub(crate) fn insert(&mut self, prefix: IpNet, value: T) {
        let prefix = prefix.trunc();
        let table = match prefix {
            IpNet::V4(_) => &mut self.v4,
            IpNet::V6(_) => &mut self.v6,
        };
        let length = table.entry(Reverse(prefix.prefix_len())).or_default();
        length.insert(prefix.addr(), value);
    }

    /// All prefixes that hold the address, longest first.
    pub(crate) fn covering(&self, address: IpAddr) -> impl Iterator<Item = (IpNet, &T)> {
        let table = match address {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        };
        table.iter().filter_map(move |(Reverse(length), values)| {
            let prefix = IpNet::new(address, *length).ok()?.trunc();
            values.get(&prefix.addr()).map(|value| (prefix, value))
        })
    }
}
