//! Values by prefix: by longest match, and by what a prefix holds.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

/// Values by prefix, found by longest match: a hash map for each length that occurs, so that the cost
/// does not grow with the number of prefixes.
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

/// Values by prefix, in order, where those inside another prefix stand together: they are found
/// without a look at the others.
#[derive(Debug)]
pub(crate) struct NestedPrefixes<T>(BTreeMap<IpNet, T>);

impl<T> Default for NestedPrefixes<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> NestedPrefixes<T> {
    /// Sets the value of a prefix; host bits are cut off.
    pub(crate) fn insert(&mut self, prefix: IpNet, value: T) {
        self.0.insert(prefix.trunc(), value);
    }

    /// The values of all prefixes inside one, its own among them, in order.
    pub(crate) fn inside(&self, outer: IpNet) -> impl Iterator<Item = &T> {
        // Order is by address, then by length. A shorter prefix than `outer` begins before it, or at the
        // same address and is less.
        let last = IpNet::from(outer.broadcast());
        self.0.range(outer.trunc()..=last).map(|(_, value)| value)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Prefixes of few addresses, so that many lie in each other; host bits may be set.
    pub(crate) fn prefix() -> impl Strategy<Value = IpNet> {
        let v4 = (any::<[bool; 4]>(), 0..=32_u8).prop_map(|(bits, length)| {
            let octets = bits.map(|bit| if bit { 255 } else { 0 });
            IpNet::new(octets.into(), length).unwrap()
        });
        let v6 = (any::<[bool; 4]>(), 0..=128_u8).prop_map(|(bits, length)| {
            let words = bits.map(|bit| if bit { u32::MAX } else { 0 });
            let octets = words.map(u32::to_be_bytes).concat();
            let octets: [u8; 16] = octets.try_into().unwrap();
            IpNet::new(octets.into(), length).unwrap()
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_lies_inside_a_prefix_is_what_it_contains(
            prefixes in proptest::collection::vec(prefix(), 0..40),
            outers in proptest::collection::vec(prefix(), 1..20),
        ) {
            let mut nested = NestedPrefixes::default();
            for prefix in &prefixes {
                nested.insert(*prefix, prefix.trunc());
            }
            for outer in outers.iter().chain(&prefixes) {
                let inside: Vec<IpNet> = nested.inside(*outer).copied().collect();
                let all = prefixes.iter().map(IpNet::trunc);
                let mut contained: Vec<IpNet> = all.filter(|prefix| outer.contains(prefix)).collect();
                contained.sort_unstable();
                contained.dedup();
                prop_assert_eq!(inside, contained, "{}", outer);
            }
        }
    }
}
