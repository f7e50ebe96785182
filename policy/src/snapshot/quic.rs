//! Datagrams where TCP needs a name. QUIC hides names and requests: what the proxy would judge over TCP must
//! not go round it over UDP. At best it reads the server name in QUIC's first datagrams.

mod ports;

use std::collections::{BTreeMap, BTreeSet};

use super::direction::{What, merge};
use super::item::L4Key;
use crate::Identity;
use crate::verdict::{EntryVerdict, PortPrefix, Proxy};
pub(super) use ports::Ports;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
/// Names are asked there: rules for TCP say nothing of it, and the DNS proxy takes what is redirected.
pub(super) const DNS: PortPrefix = PortPrefix::exact(53);

/// What the items of one direction say, merged.
#[derive(Default)]
pub(super) struct Merged {
    pub(super) any: BTreeMap<L4Key, What>,
    pub(super) one: BTreeMap<(Identity, L4Key), What>,
    opened: Opened,
}

/// The ports that rules without names or requests open over TCP: there the proxy lets pass everything.
#[derive(Debug, Default)]
pub(super) struct Opened {
    any: Vec<PortPrefix>,
    one: BTreeMap<Identity, Vec<PortPrefix>>,
    /// Where the server name in QUIC is judged.
    judged: BTreeSet<u16>,
}

impl Merged {
    /// What an item says of a peer, or of every peer.
    pub(super) fn add(&mut self, peer: Option<Identity>, key: L4Key, what: What) {
        match peer {
            None => merge(&mut self.any, key, what),
            Some(peer) => merge(&mut self.one, (peer, key), what),
        }
        self.opened.note(peer, key, what);
    }

    /// Refuses datagrams where TCP needs a name, or judges them at these ports. Gives what is open for every
    /// peer.
    pub(super) fn refuse(&mut self, judged: BTreeSet<u16>) -> Opened {
        self.opened.judged = judged;
        let refusals = self
            .opened
            .refused(&self.any, |ports| self.opened.opens(None, ports));
        for (key, what) in refusals {
            merge(&mut self.any, key, what);
        }
        let needing = self
            .one
            .iter()
            .filter(|((_, key), what)| needs_name(*key, what.0));
        let needing: Vec<_> = needing.map(|(key, what)| (*key, *what)).collect();
        for ((peer, (_, ports)), (verdict, rule)) in needing {
            if !self.opened.opens(Some(peer), ports) {
                let what = (self.opened.instead(ports, verdict), rule);
                for part in ports.without(&[DNS]) {
                    merge(&mut self.one, (peer, (UDP, part)), what);
                }
            }
        }
        self.opened.one.clear();
        std::mem::take(&mut self.opened)
    }
}

impl Opened {
    fn note(&mut self, peer: Option<Identity>, (protocol, ports): L4Key, (verdict, _): What) {
        if !opens_tcp(protocol, verdict) {
            return;
        }
        match peer {
            None => self.any.push(ports),
            Some(peer) => self.one.entry(peer).or_default().push(ports),
        }
    }

    fn opens(&self, peer: Option<Identity>, ports: PortPrefix) -> bool {
        let of_peer = peer.and_then(|peer| self.one.get(&peer));
        let mut all = self.any.iter().chain(of_peer.into_iter().flatten());
        all.any(|opened| opened.bits <= ports.bits && opened.contains(ports.port))
    }

    /// The ports that are open for every peer.
    pub(super) fn for_any(&self) -> impl Iterator<Item = PortPrefix> {
        self.any.iter().copied()
    }

    /// The refusals that belong to what the items that select one peer say of it; `said` as they said it.
    pub(super) fn refusals(
        &self,
        merged: &BTreeMap<L4Key, What>,
        said: impl Iterator<Item = (L4Key, What)>,
    ) -> Vec<(L4Key, What)> {
        let mut own = Self::default();
        for (key, what) in said {
            own.note(None, key, what);
        }
        self.refused(merged, |ports| {
            self.opens(None, ports) || own.opens(None, ports)
        })
    }

    /// The ports where the server name in QUIC is judged.
    pub(super) fn judged(&self) -> &BTreeSet<u16> {
        &self.judged
    }

    fn refused(
        &self,
        merged: &BTreeMap<L4Key, What>,
        is_open: impl Fn(PortPrefix) -> bool,
    ) -> Vec<(L4Key, What)> {
        let needing = merged
            .iter()
            .filter(|(key, what)| needs_name(**key, what.0) && !is_open(key.1));
        let refused = needing.flat_map(|((_, ports), (verdict, rule))| {
            let what = (self.instead(*ports, *verdict), *rule);
            let parts = ports.without(&[DNS]).into_iter();
            parts.map(move |part| ((UDP, part), what))
        });
        refused.collect()
    }

    /// What becomes of datagrams where this is what becomes of TCP.
    fn instead(&self, ports: PortPrefix, of_tcp: EntryVerdict) -> EntryVerdict {
        let judges = EntryVerdict::Redirect(Proxy::Tls);
        let is_port = ports.bits == 16 && self.judged.contains(&ports.port);
        match of_tcp == judges && is_port {
            true => judges,
            false => EntryVerdict::Refuse,
        }
    }
}

/// Whether a proxy judges server names or requests there.
pub(super) fn needs_name((protocol, _): L4Key, verdict: EntryVerdict) -> bool {
    protocol == TCP && matches!(verdict, EntryVerdict::Redirect(Proxy::Tls | Proxy::Http))
}

/// Whether it opens ports of TCP to whatever is said there.
pub(super) fn opens_tcp(protocol: u8, verdict: EntryVerdict) -> bool {
    verdict == EntryVerdict::Allow && matches!(protocol, 0 | TCP)
}
