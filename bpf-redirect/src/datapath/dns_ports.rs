//! The further ports of proxies over UDP: of DNS, and those at which QUIC is judged.

use std::collections::BTreeSet;

use aya::maps::{Array, MapData};
use bpf_redirect_common::{self as common, DNS_PORTS_WORDS};

use super::{Datapath, DatapathError, map_error};

/// Ports of one word.
const WORD: u16 = 64;

impl Datapath {
    /// Says at which ports beside 53 names are asked or QUIC is judged: what a workload sends there over UDP is judged, though
    /// it may look like a reply, and nothing that is meant for the proxy's own sockets goes there.
    ///
    /// # Errors
    /// If the map can't be written.
    pub fn set_dns_ports(&mut self, ports: &BTreeSet<u16>) -> Result<(), DatapathError> {
        let failed = map_error(common::DNS_PORTS);
        let mut map: Array<MapData, u64> = self.open(common::DNS_PORTS)?;
        for (index, word) in (0..).zip(words(ports)) {
            if map.get(&index, 0).map_err(&failed)? != word {
                map.set(index, word, 0).map_err(&failed)?;
            }
        }
        Ok(())
    }

    /// The ports that were said last, in an earlier run too.
    ///
    /// # Errors
    /// If the map can't be read.
    pub fn dns_ports(&self) -> Result<BTreeSet<u16>, DatapathError> {
        let map: Array<MapData, u64> = self.open(common::DNS_PORTS)?;
        let mut ports = BTreeSet::new();
        for index in 0..map.len() {
            let word = map.get(&index, 0).map_err(map_error(common::DNS_PORTS))?;
            ports.extend(ports_of(index, word));
        }
        Ok(ports)
    }
}

fn words(ports: &BTreeSet<u16>) -> Vec<u64> {
    let mut words = vec![0; DNS_PORTS_WORDS];
    for port in ports {
        if let Some(word) = words.get_mut(usize::from(port / WORD)) {
            *word |= 1 << (port % WORD);
        }
    }
    words
}

/// The ports of a word, given its index.
pub(crate) fn ports_of(index: u32, word: u64) -> impl Iterator<Item = u16> {
    let first = u16::try_from(index * u32::from(WORD)).unwrap_or(u16::MAX);
    let bits = (0..WORD).filter(move |bit| word >> bit & 1 != 0);
    bits.map(move |bit| first.saturating_add(bit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_has_its_bit() {
        let ports = BTreeSet::from([0, 63, 64, 5_353, 65_535]);
        let words = words(&ports);
        let read = (0..)
            .zip(&words)
            .flat_map(|(index, word)| ports_of(index, *word));
        assert_eq!(read.collect::<BTreeSet<u16>>(), ports);
        assert_eq!(words.len(), DNS_PORTS_WORDS);
    }
}
