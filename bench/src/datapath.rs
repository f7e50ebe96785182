//! A loaded datapath with one endpoint, and packets for each way through its programs.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result, ensure};
use bpf_redirect::packet::{HOST_MAC, LOOPBACK, Packet};
use bpf_redirect::{Change, Datapath, EndpointEntry, Hook, HookMode, KernelTable, Ledger};
use bpf_redirect_common::{
    Address, EGRESS, GATE_MAC, INGRESS, Kind, Mark, PolicyKey, PolicyValue, Verdict,
};

/// The endpoint.
const ENDPOINT: u32 = 7;
/// The identity of the server; the first of many that rules name.
pub const SERVER: u32 = 300;
/// The first identity of what is learned.
const LEARNED: u32 = 16_777_217;

/// A protocol, a port or its first bits, and how many of them.
pub type L4 = (u8, u16, u8);
/// A policy entry.
pub type Entry = (PolicyKey, PolicyValue);

/// The datapath, and the endpoint's ledger.
pub struct Guarded {
    /// Programs and maps.
    pub datapath: Datapath,
    /// What the endpoint has.
    pub ledger: Ledger<KernelTable>,
    learned: u32,
}

/// The MAC of both ends of its link: what a redirect writes there, so that a packet that was redirected
/// can be sent again as it left.
fn workload_mac() -> [u8; 6] {
    Mark::new(Kind::Client, ENDPOINT).map_or(HOST_MAC, Mark::to_mac)
}

fn own() -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2))
}

fn server() -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 3))
}

/// A packet of the workload to the server.
#[must_use]
pub fn out(protocol: u8, source_port: u16, port: u16) -> Packet {
    let mut packet = Packet::new(own(), server(), (protocol, source_port, port));
    packet.source_mac = workload_mac();
    packet
}

/// A datagram to port 53, as it comes out of the gate.
///
/// # Errors
/// Never: there is such an endpoint.
pub fn framed(kind: Kind, source_port: u16) -> Result<Vec<u8>> {
    let mark = Mark::new(kind, ENDPOINT).context("no such endpoint")?;
    let mut packet = out(17, source_port, 53);
    packet.destination_mac = GATE_MAC;
    packet.source_mac = mark.to_mac();
    Ok(packet.bytes())
}

/// An entry of egress.
#[must_use]
pub fn entry(identity: u32, (protocol, port, bits): L4, verdict: Verdict) -> Entry {
    let key = PolicyKey::new(EGRESS, identity, protocol, (port, bits));
    (key, PolicyValue::new(1, verdict))
}

/// Ingress is open.
#[must_use]
pub fn open_ingress() -> Entry {
    let key = PolicyKey::new(INGRESS, 0, 0, (0, 0));
    (key, PolicyValue::new(0, Verdict::Allow))
}

impl Guarded {
    /// Loads programs and maps.
    ///
    /// # Errors
    /// If the kernel refuses: this needs root.
    pub fn new() -> Result<Self> {
        let mut datapath = Datapath::load(99, HookMode::Tcx, None).context("are you root?")?;
        datapath.set_endpoint(&EndpointEntry {
            endpoint: ENDPOINT,
            ifindex: LOOPBACK,
            workload_mac: workload_mac(),
            host_mac: workload_mac(),
            addresses: vec![own()],
        })?;
        let world = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        datapath.set_prefixes(&[(server(), 32, SERVER), (world, 0, 9)])?;
        Ok(Self {
            ledger: Ledger::new(datapath.table(ENDPOINT)?),
            datapath,
            learned: 0,
        })
    }

    /// Puts a policy into force.
    ///
    /// # Errors
    /// If it doesn't fit.
    pub fn enforce(&mut self, entries: &[Entry]) -> Result<()> {
        let entries = entries.to_vec();
        self.ledger.reload(entries, &[], |_| Vec::new())?;
        Ok(())
    }

    /// A policy of so many entries, each for an identity of its own.
    ///
    /// # Errors
    /// If it doesn't fit.
    pub fn enforce_many(&mut self, count: u32) -> Result<()> {
        let entry = |index| entry(SERVER + index, (6, 443, 16), Verdict::Allow);
        self.enforce(&(0..count).map(entry).collect::<Vec<_>>())
    }

    /// Learns one more address, with an identity of its own that has one entry.
    ///
    /// # Errors
    /// If a map is full.
    pub fn learn(&mut self) -> Result<()> {
        let change = change(self.learned, Some(LEARNED + self.learned));
        let entries = |identity| vec![entry(identity, (6, 443, 16), Verdict::Allow)];
        self.ledger.install(&[change], entries)?;
        self.learned += 1;
        Ok(())
    }

    /// Learns addresses that share an identity, up to so many.
    ///
    /// # Errors
    /// If the map is full.
    pub fn learn_up_to(&mut self, count: u32) -> Result<()> {
        let changes = (self.learned..count).map(|index| change(index, Some(LEARNED)));
        let changes: Vec<Change> = changes.collect();
        self.ledger.install(&changes, |_| Vec::new())?;
        self.learned = self.learned.max(count);
        Ok(())
    }

    /// Gives so many addresses, that it knows, another identity, which they share: what the next daemon
    /// does where policy has changed. `at_once`: as it does it, else one by one, as for an answer.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn restore(&mut self, (count, identity): (u32, u32), at_once: bool) -> Result<()> {
        let changes = (0..count).map(|index| change(index, Some(LEARNED + identity)));
        let changes: Vec<Change> = changes.collect();
        let entries = |identity| vec![entry(identity, (6, 443, 16), Verdict::Allow)];
        if at_once {
            self.ledger.settle(&changes, entries);
        } else {
            self.ledger.install(&changes, entries)?;
        }
        let number = LEARNED + identity;
        let written = self.ledger.addresses().filter(|(_, one)| *one == number);
        ensure!(written.count() == count as usize, "not all were written");
        Ok(())
    }

    /// Forgets the newest address.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn unlearn(&mut self) -> Result<()> {
        self.learned = self.learned.saturating_sub(1);
        let change = change(self.learned, None);
        self.ledger.install(&[change], |_| Vec::new())?;
        Ok(())
    }

    /// Asks the server once in the workload's name, so that its answer is caught.
    ///
    /// # Errors
    /// If the kernel refuses a packet.
    pub fn ask_upstream(&mut self, source_port: u16) -> Result<()> {
        let query = out(17, 1, 53).bytes();
        self.datapath.try_packet(Hook::FromEndpoint, &query, 0)?;
        let upstream = framed(Kind::Upstream, source_port)?;
        self.datapath.try_packet(Hook::NodeEnd, &upstream, 0)?;
        Ok(())
    }

    /// Opens UDP flows to port 80, up to so many; gives one packet of each.
    ///
    /// # Errors
    /// If the kernel refuses a packet.
    pub fn open_flows(&mut self, count: u32) -> Result<Vec<Vec<u8>>> {
        let mut packets = Vec::new();
        for index in 0..count {
            let [_, _, high, low] = index.to_be_bytes();
            let mut packet = out(17, u16::from_be_bytes([high, low]), 80);
            packet.destination = match index >> 16 {
                0 => server(),
                more => IpAddr::V4(Ipv4Addr::from(0x0a00_0100 + more)),
            };
            let bytes = packet.bytes();
            self.datapath.try_packet(Hook::FromEndpoint, &bytes, 0)?;
            packets.push(bytes);
        }
        Ok(packets)
    }
}

fn change(index: u32, identity: Option<u32>) -> Change {
    Change {
        address: Address::from(IpAddr::V4(Ipv4Addr::from(0x2d00_0000 + index))),
        identity,
    }
}
