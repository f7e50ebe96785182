//! Initials made as a client makes them, for tests and fuzzers.

use rustls::Side;
use rustls::quic::Version;

use super::packet::{VERSION_1, VERSION_2, initial_keys};
use crate::limits::QUIC_INITIAL_DATAGRAM_OCTETS_MIN;

/// What the Initials of a client have in common.
#[derive(Clone)]
pub(crate) struct Sealer {
    pub(crate) version: Version,
    /// Where the keys come from.
    pub(crate) original: Vec<u8>,
    pub(crate) destination: Vec<u8>,
    /// The next packet's number.
    pub(crate) number: u32,
}

impl Sealer {
    /// A new connection.
    pub(crate) fn new(version: Version, original: &[u8]) -> Self {
        Self {
            version,
            original: original.to_vec(),
            destination: original.to_vec(),
            number: 0,
        }
    }

    /// The head of a long packet of a kind (as version 1 counts them), up to its length.
    pub(crate) fn head(&self, kind: u8) -> Vec<u8> {
        let (version, kind) = match matches!(self.version, Version::V2) {
            true => (VERSION_2, (kind + 1) & 3),
            false => (VERSION_1, kind),
        };
        let mut head = vec![0xc3 | kind << 4]; // four octets of packet number
        head.extend_from_slice(&version.to_be_bytes());
        head.push(u8::try_from(self.destination.len()).unwrap_or(u8::MAX));
        head.extend_from_slice(&self.destination);
        head.extend_from_slice(&[2, 7, 7]); // the source
        head
    }

    /// An Initial packet with these frames.
    pub(crate) fn packet(&mut self, frames: &[u8]) -> Vec<u8> {
        let mut packet = self.head(0);
        packet.push(0); // no token
        let length = u16::try_from(4 + frames.len() + 16).unwrap_or(0x3fff);
        packet.extend_from_slice(&(length | 0x4000).to_be_bytes());
        let number_at = packet.len();
        packet.extend_from_slice(&self.number.to_be_bytes());
        self.seal(packet, number_at, frames).unwrap_or_default()
    }

    pub(super) fn seal(
        &mut self,
        mut packet: Vec<u8>,
        number_at: usize,
        frames: &[u8],
    ) -> Option<Vec<u8>> {
        let keys = initial_keys(&self.original, Side::Client, self.version)?.local;
        let mut sealed = frames.to_vec();
        let number = u64::from(self.number);
        self.number = self.number.wrapping_add(1);
        let tag = keys.packet.encrypt_in_place(number, &packet, &mut sealed);
        sealed.extend_from_slice(tag.ok()?.as_ref());
        let sample = sealed.get(..16)?;
        let (before, number) = packet.split_at_mut_checked(number_at)?;
        let first = before.first_mut()?;
        keys.header.encrypt_in_place(sample, first, number).ok()?;
        packet.extend_from_slice(&sealed);
        Some(packet)
    }

    /// Frames, padded to what a datagram with them has to have.
    pub(crate) fn padded(&self, frames: &[u8]) -> Vec<u8> {
        let head = self.head(0).len() + 1 + 2 + 4 + 16;
        let octets = QUIC_INITIAL_DATAGRAM_OCTETS_MIN.saturating_sub(head);
        let mut frames = frames.to_vec();
        frames.resize(frames.len().max(octets), 0);
        frames
    }

    /// A datagram with one Initial.
    pub(crate) fn datagram(&mut self, frames: &[u8]) -> Vec<u8> {
        self.packet(&self.padded(frames))
    }
}
