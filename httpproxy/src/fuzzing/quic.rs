//! The door to QUIC's first datagrams: as they come, and as frames that are sealed first.

use std::collections::BTreeMap;

use rustls::quic::Version;

use crate::core::quic::frames::cryptos_of;
use crate::core::quic::seal::Sealer;
use crate::core::quic::{Heard, QuicFlow};
use crate::{BadQuic, ClientHello, ClientHelloReader, HelloState};

/// A client's first datagrams: nothing passes before a hello was permitted, and what is given is what
/// the octets of the frames say. The bytes are one datagram; then packets, each a head of three
/// octets and frames.
///
/// # Panics
/// If a promise does not hold.
pub fn quic_initial(bytes: &[u8]) {
    datagram(bytes);
    let mut said = Said::default();
    let mut rest = bytes;
    for _ in 0..PACKETS_MAX {
        let [flags, high, low, frames @ ..] = rest else {
            return;
        };
        let octets = usize::from(u16::from_be_bytes([*high, *low])).min(FRAMES_OCTETS_MAX);
        let (frames, after) = frames.split_at_checked(octets).unwrap_or((frames, &[]));
        said.packet(*flags, frames);
        rest = after;
    }
}

const PACKETS_MAX: usize = 16;
const FRAMES_OCTETS_MAX: usize = 4_000;

fn datagram(bytes: &[u8]) {
    let mut flow = QuicFlow::default();
    match flow.push(bytes) {
        Heard::Pass => panic!("nothing was permitted"),
        Heard::Hold | Heard::Drop(_) => {}
        Heard::Hello(_) => {
            assert_eq!(flow.push(bytes), Heard::Hold);
            flow.permit();
            assert_eq!(flow.push(bytes), Heard::Pass);
        }
    }
}

/// A flow, and what went into it.
#[derive(Default)]
struct Said {
    flow: QuicFlow,
    /// By what connections begin with.
    connections: BTreeMap<u8, Connection>,
}

struct Connection {
    sealer: Sealer,
    octets: BTreeMap<u64, u8>,
    /// Whether a packet of it was taken.
    came: bool,
    is_permitted: bool,
}

/// By the bits of a packet's first octet.
const VERSION_2: u8 = 1;
const TO_SERVERS: u8 = 2;
const PERMIT: u8 = 4;
const ORIGINAL: u8 = 0x38;

impl Said {
    fn packet(&mut self, flags: u8, frames: &[u8]) {
        let original = [flags & ORIGINAL; 8];
        let connection = self.connections.entry(flags & ORIGINAL);
        let connection = connection.or_insert_with(|| Connection {
            sealer: Sealer::new(Version::V1, &original),
            octets: BTreeMap::new(),
            came: false,
            is_permitted: false,
        });
        let sealer = &mut connection.sealer;
        sealer.version = match flags & VERSION_2 {
            0 => Version::V1,
            _ => Version::V2,
        };
        sealer.destination = match flags & TO_SERVERS {
            0 => original.to_vec(),
            _ => b"server's".to_vec(),
        };
        let frames = sealer.padded(frames);
        let heard = self.flow.push(&sealer.datagram(&frames));
        if !matches!(heard, Heard::Drop(reason) if reason != BadQuic::Unjudged) {
            connection.take(&frames);
        }
        let mut came = self.connections.values_mut().filter(|one| one.came);
        match heard {
            Heard::Hello(hello) => {
                let mut came = came.filter(|one| !one.is_permitted);
                let asked = came.find(|one| one.hello().as_ref() == Some(&hello));
                let asked = asked.expect("somebody said it");
                if flags & PERMIT != 0 {
                    self.flow.permit();
                    asked.is_permitted = true;
                }
            }
            Heard::Pass => assert!(came.all(|one| one.is_permitted)),
            Heard::Hold | Heard::Drop(_) => {}
        }
    }
}

impl Connection {
    fn take(&mut self, frames: &[u8]) {
        self.came = true;
        for crypto in cryptos_of(frames).unwrap_or_default() {
            for (at, octet) in (crypto.at..).zip(crypto.octets) {
                let old = self.octets.insert(at, *octet);
                assert_eq!(old.unwrap_or(*octet), *octet, "at {at}");
            }
        }
    }

    fn hello(&self) -> Option<ClientHello> {
        let octets = (0..).zip(&self.octets);
        let octets = octets.take_while(|(expected, (at, _))| expected == *at);
        let octets: Vec<u8> = octets.map(|(_, (_, octet))| *octet).collect();
        let mut reader = ClientHelloReader::default();
        match reader.push_message(&octets) {
            HelloState::Hello(hello) => Some(hello.clone()),
            HelloState::Incomplete | HelloState::NotTls | HelloState::Malformed(_) => None,
        }
    }
}
