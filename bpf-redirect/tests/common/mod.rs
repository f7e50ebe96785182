//! Packets by hand, and a datapath to run them through.

#![allow(dead_code, reason = "each test file uses its part")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bpf_redirect::{Change, Datapath, EndpointEntry, HookMode, KernelTable, Ledger, Table};
use bpf_redirect_common::{Address, EGRESS, INGRESS, PolicyKey, PolicyValue, Verdict};

pub(crate) const ENDPOINT: u32 = 7;
pub(crate) const WORKLOAD_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0a];
pub(crate) const HOST_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0b];
pub(crate) const GATEWAY_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0c];
/// The loopback device: where `BPF_PROG_TEST_RUN` says that a packet came from.
pub(crate) const LOOPBACK: u32 = 1;

pub(crate) const NEXT: i32 = -1;
pub(crate) const SHOT: i32 = 2;
pub(crate) const REDIRECT: i32 = 7;

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
    (
        key,
        PolicyValue {
            rule: 5,
            verdict: verdict as u8,
            reserved: [0; 3],
        },
    )
}

/// Ingress isn't enforced.
pub(crate) fn open_ingress() -> (PolicyKey, PolicyValue) {
    let key = PolicyKey::new(INGRESS, 0, 0, (0, 0));
    (
        key,
        PolicyValue {
            rule: 0,
            verdict: Verdict::Allow as u8,
            reserved: [0; 3],
        },
    )
}

impl Bench {
    pub(crate) fn new(entries: &[(PolicyKey, PolicyValue)]) -> Self {
        need_root();
        let mut datapath = Datapath::load(99, HookMode::Tcx, None).unwrap();
        datapath
            .set_endpoint(&EndpointEntry {
                endpoint: ENDPOINT,
                ifindex: LOOPBACK,
                workload_mac: WORKLOAD_MAC,
                host_mac: HOST_MAC,
                addresses: vec![v4(2), v6(2)],
            })
            .unwrap();
        let mut table = datapath.table(ENDPOINT).unwrap();
        let mut all = entries.to_vec();
        all.push(open_ingress());
        table.replace_entries(&all).unwrap();
        Self {
            ledger: Ledger::new(table),
            datapath,
        }
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

/// What a packet is made of.
#[derive(Clone)]
pub(crate) struct Packet {
    pub(crate) source_mac: [u8; 6],
    pub(crate) destination_mac: [u8; 6],
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) ports: (u16, u16),
    pub(crate) tcp_flags: u8,
    /// IPv4 options, or an IPv6 extension header chain in front of the transport header.
    pub(crate) extra: Vec<u8>,
    /// The type of the first of `extra` (IPv6).
    pub(crate) extra_kind: u8,
    /// IPv4: the fragment field.
    pub(crate) fragment: u16,
    /// IPv4: the id.
    pub(crate) id: u16,
}

/// From the workload to a peer.
pub(crate) fn out(destination: IpAddr, protocol: u8, port: u16) -> Packet {
    Packet {
        source_mac: WORKLOAD_MAC,
        destination_mac: GATEWAY_MAC,
        source: if destination.is_ipv4() { v4(2) } else { v6(2) },
        destination,
        protocol,
        ports: (40_000, port),
        tcp_flags: 0x02,
        extra: Vec::new(),
        extra_kind: 0,
        fragment: 0,
        id: 1,
    }
}

impl Packet {
    /// The packet that answers this one.
    pub(crate) fn answer(&self) -> Self {
        Self {
            source_mac: self.destination_mac,
            destination_mac: self.source_mac,
            source: self.destination,
            destination: self.source,
            ports: (self.ports.1, self.ports.0),
            tcp_flags: 0x12,
            ..self.clone()
        }
    }

    pub(crate) fn flags(mut self, flags: u8) -> Self {
        self.tcp_flags = flags;
        self
    }

    pub(crate) fn with_port(mut self, port: u16) -> Self {
        self.ports.0 = port;
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.destination_mac);
        frame.extend(self.source_mac);
        let transport = self.transport();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend([0x08, 0x00]);
                let header = 20 + self.extra.len();
                frame.push(0x40 | (header / 4) as u8);
                frame.push(0);
                frame.extend(((header + transport.len()) as u16).to_be_bytes());
                frame.extend(self.id.to_be_bytes());
                frame.extend(self.fragment.to_be_bytes());
                frame.extend([64, self.protocol, 0, 0]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
                frame.extend(&self.extra);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend(((self.extra.len() + transport.len()) as u16).to_be_bytes());
                frame.push(if self.extra.is_empty() {
                    self.protocol
                } else {
                    self.extra_kind
                });
                frame.push(64);
                frame.extend(source.octets());
                frame.extend(destination.octets());
                frame.extend(&self.extra);
            }
            _ => panic!("one family"),
        }
        frame.extend(transport);
        frame
    }

    fn transport(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.protocol {
            6 => {
                bytes.extend(self.ports.0.to_be_bytes());
                bytes.extend(self.ports.1.to_be_bytes());
                bytes.extend([0; 8]);
                bytes.extend([0x50, self.tcp_flags, 0xff, 0xff, 0, 0, 0, 0]);
            }
            17 => {
                bytes.extend(self.ports.0.to_be_bytes());
                bytes.extend(self.ports.1.to_be_bytes());
                bytes.extend([0, 12, 0, 0]);
                bytes.extend(b"body");
            }
            1 => bytes.extend([8, 0, 0, 0, 0, 9, 0, 1]),
            58 => bytes.extend([128, 0, 0, 0, 0, 9, 0, 1]),
            _ => bytes.extend([0; 8]),
        }
        bytes
    }
}
