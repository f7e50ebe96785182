//! Packets by hand, for tests and benchmarks of the programs.

use std::net::IpAddr;

/// The loopback device: where `BPF_PROG_TEST_RUN` says that a packet came from.
pub const LOOPBACK: u32 = 1;

/// The workload's end of its link.
pub const WORKLOAD_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0a];
/// The host's end of it.
pub const HOST_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0b];
/// Where a workload sends what goes beyond its link.
pub const GATEWAY_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0c];

/// What a program returns for a packet that passes (`TCX_NEXT`).
pub const NEXT: i32 = -1;
/// … for one that dies (`TC_ACT_SHOT`).
pub const SHOT: i32 = 2;
/// … and for one that goes elsewhere (`TC_ACT_REDIRECT`).
pub const REDIRECT: i32 = 7;

/// What a packet is made of.
#[derive(Clone, Debug)]
pub struct Packet {
    /// The frame's source.
    pub source_mac: [u8; 6],
    /// The frame's destination.
    pub destination_mac: [u8; 6],
    /// Who sends it.
    pub source: IpAddr,
    /// Who gets it; of the same family.
    pub destination: IpAddr,
    /// IANA protocol number.
    pub protocol: u8,
    /// Source and destination port; of ICMP the id and the type.
    pub ports: (u16, u16),
    /// TCP only.
    pub tcp_flags: u8,
    /// IPv4 options, or an IPv6 extension header chain in front of the transport header.
    pub extra: Vec<u8>,
    /// The type of the first of `extra` (IPv6).
    pub extra_kind: u8,
    /// IPv4: the fragment field.
    pub fragment: u16,
    /// IPv4: the id.
    pub id: u16,
    /// Routers it may pass still.
    pub hop_limit: u8,
}

impl Packet {
    /// A packet of a workload; a TCP one opens a connection.
    #[must_use]
    pub fn new(
        source: IpAddr,
        destination: IpAddr,
        (protocol, source_port, port): (u8, u16, u16),
    ) -> Self {
        Self {
            source_mac: WORKLOAD_MAC,
            destination_mac: GATEWAY_MAC,
            source,
            destination,
            protocol,
            ports: (source_port, port),
            tcp_flags: 0x02,
            extra: Vec::new(),
            extra_kind: 0,
            fragment: 0,
            id: 1,
            hop_limit: 64,
        }
    }

    /// The packet that answers this one.
    #[must_use]
    pub fn answer(&self) -> Self {
        let ports = match (self.protocol, self.ports) {
            (1, (id, 8)) => (id, 0),
            (58, (id, 128)) => (id, 129),
            (_, (source, destination)) => (destination, source),
        };
        Self {
            source_mac: self.destination_mac,
            destination_mac: self.source_mac,
            source: self.destination,
            destination: self.source,
            ports,
            tcp_flags: 0x12,
            ..self.clone()
        }
    }

    /// With these TCP flags.
    #[must_use]
    pub fn flags(mut self, flags: u8) -> Self {
        self.tcp_flags = flags;
        self
    }

    /// From this port, or with this id.
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Self {
        self.ports.0 = port;
        self
    }

    /// With these IPv4 options, or with extension headers of which the first is of a kind.
    #[must_use]
    pub fn with(mut self, kind: u8, extra: &[u8]) -> Self {
        self.extra_kind = kind;
        self.extra = extra.to_vec();
        self
    }

    /// With this IPv4 fragment field.
    #[must_use]
    pub fn fragment(mut self, field: u16) -> Self {
        self.fragment = field;
        self
    }

    /// With this many routers to pass.
    #[must_use]
    pub fn hops(mut self, limit: u8) -> Self {
        self.hop_limit = limit;
        self
    }

    /// The frame.
    ///
    /// # Panics
    /// If source and destination are of two families.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
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
                frame.extend([self.hop_limit, self.protocol, 0, 0]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend(((self.extra.len() + transport.len()) as u16).to_be_bytes());
                frame.push(match self.extra.is_empty() {
                    true => self.protocol,
                    false => self.extra_kind,
                });
                frame.push(self.hop_limit);
                frame.extend(source.octets());
                frame.extend(destination.octets());
            }
            _ => panic!("one family"),
        }
        frame.extend(&self.extra);
        frame.extend(transport);
        frame
    }

    fn transport(&self) -> Vec<u8> {
        let (source, destination) = (self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes());
        let ports = [source, destination].concat();
        match self.protocol {
            6 => {
                let rest = [0x50, self.tcp_flags, 0xff, 0xff, 0, 0, 0, 0];
                [&ports[..], &[0; 8], &rest].concat()
            }
            17 => [&ports[..], &[0, 12, 0, 0], b"body"].concat(),
            // verification tag, checksum, an INIT chunk's head
            132 => [&ports[..], &[0; 8], &[1, 0, 0, 20]].concat(),
            1 | 58 => {
                let [_, kind] = destination;
                [&[kind, 0, 0, 0], &source[..], &[0, 1]].concat()
            }
            _ => vec![0; 8],
        }
    }
}
