//! A datapath to run packets through.

#![allow(dead_code, unused_imports, reason = "each test file uses its part")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) use bpf_redirect::packet::{
    GATEWAY_MAC, HOST_MAC, LOOPBACK, NEXT, Packet, REDIRECT, SHOT, WORKLOAD_MAC,
};
use bpf_redirect::{Change, Datapath, EndpointEntry, HookMode, KernelTable, Ledger, Table};
use bpf_redirect_common::{Address, EGRESS, INGRESS, PolicyKey, PolicyValue, Verdict};

pub(crate) const ENDPOINT: u32 = 7;

pub(crate) fn v4(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
}

pub(crate) fn v6(last: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last))
}

/// A datapath with one endpoint, 10.0.0.2 and fd00::2, and its policy.
pub(crate) struct Bench {
    pub(crate) datapath: Datapath,
    pub(crate) ledger: Ledger<KernelTable>,
    entries: Vec<(PolicyKey, PolicyValue)>,
}

pub(crate) fn need_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test loads BPF programs: run it as root (cargo xtask test does)"
    );
}

pub(crate) fn entry(
    identity: u32,
    protocol: u8,
    port: u16,
    verdict: Verdict,
) -> (PolicyKey, PolicyValue) {
    let bits = if port == 0 { 0 } else { 16 };
    let key = PolicyKey::new(EGRESS, identity, protocol, (port, bits));
    (key, PolicyValue::new(5, verdict))
}

/// Ingress isn't enforced.
pub(crate) fn open_ingress() -> (PolicyKey, PolicyValue) {
    let key = PolicyKey::new(INGRESS, 0, 0, (0, 0));
    (key, PolicyValue::new(0, Verdict::Allow))
}

impl Bench {
    /// With these entries of egress; ingress isn't enforced.
    pub(crate) fn new(entries: &[(PolicyKey, PolicyValue)]) -> Self {
        let mut all = entries.to_vec();
        all.push(open_ingress());
        Self::with(&all)
    }

    /// With these entries and no others.
    pub(crate) fn with(entries: &[(PolicyKey, PolicyValue)]) -> Self {
        need_root();
        let mut datapath = Datapath::load(99, HookMode::Tcx, None).unwrap();
        Self {
            ledger: Ledger::new(endpoint(&mut datapath, ENDPOINT, entries)),
            entries: entries.to_vec(),
            datapath,
        }
    }

    /// Another endpoint's ledger, with the same policy; no packet is its own.
    pub(crate) fn another(&mut self, number: u32) -> Ledger<KernelTable> {
        let mut table = self.datapath.table(number).unwrap();
        table.replace_entries(&self.entries).unwrap();
        Ledger::new(table)
    }

    /// Packets are another endpoint's from here on, which has the same policy.
    pub(crate) fn be(&mut self, number: u32) {
        endpoint(&mut self.datapath, number, &self.entries);
    }

    pub(crate) fn learn(
        &mut self,
        address: IpAddr,
        identity: u32,
        entries: &[(PolicyKey, PolicyValue)],
    ) {
        let change = Change {
            address: Address::from(address),
            identity: Some(identity),
        };
        self.ledger
            .install(&[change], |_| entries.to_vec())
            .unwrap();
    }

    /// The count of a counter; 0 if it never counted.
    pub(crate) fn count(&self, name: &str) -> u64 {
        self.datapath
            .counters()
            .unwrap()
            .iter()
            .find(|counter| counter.name == name)
            .map_or(0, |c| c.value)
    }
}

fn endpoint(
    datapath: &mut Datapath,
    number: u32,
    entries: &[(PolicyKey, PolicyValue)],
) -> KernelTable {
    datapath.set_endpoint(&workload(number)).unwrap();
    let mut table = datapath.table(number).unwrap();
    table.replace_entries(entries).unwrap();
    table
}

/// The workload of these tests, by this number.
pub(crate) fn workload(number: u32) -> EndpointEntry {
    EndpointEntry {
        endpoint: number,
        ifindex: LOOPBACK,
        workload_mac: WORKLOAD_MAC,
        host_mac: HOST_MAC,
        addresses: vec![v4(2), v6(2)],
    }
}

/// From the workload to a peer.
pub(crate) fn out(destination: IpAddr, protocol: u8, port: u16) -> Packet {
    let source = if destination.is_ipv4() { v4(2) } else { v6(2) };
    Packet::new(source, destination, (protocol, 40_000, port))
}

/// An ICMP error of somebody on the way, to the one who sent the packet that it quotes.
#[expect(clippy::indexing_slicing, reason = "a test may die")]
pub(crate) fn icmp_error(about: &Packet, kind: u8) -> Vec<u8> {
    let quoted = &about.bytes()[14..];
    let outer = Packet {
        source: if about.source.is_ipv4() { v4(1) } else { v6(1) },
        protocol: if about.source.is_ipv4() { 1 } else { 58 },
        extra: Vec::new(),
        fragment: 0,
        ..about.answer()
    };
    let mut frame = outer.bytes();
    let at = frame.len() - 8;
    frame.truncate(at);
    // Code 1, and an MTU of 1300 where it is about size.
    frame.extend([kind, 1, 0, 0, 0, 0, 5, 20]);
    frame.extend(quoted);
    let (length_at, length) = if about.source.is_ipv4() {
        (16, frame.len() - 14)
    } else {
        (18, frame.len() - 54)
    };
    let length = u16::try_from(length).unwrap().to_be_bytes();
    frame[length_at..length_at + 2].copy_from_slice(&length);
    frame
}
