//! The packets of a datagram (RFC 9000 §12.2, §17), and how an Initial among them is opened.

use rustls::quic::{DirectionalKeys, Keys, Suite, Version};
use rustls::{Side, SupportedCipherSuite};

use super::BadQuic;
use super::octets::Octets;
use crate::limits::{QUIC_CONNECTION_ID_OCTETS_MAX, QUIC_PACKETS_MAX};

/// An Initial packet as it came.
pub(super) struct Initial<'a> {
    pub(super) version: Version,
    pub(super) destination: &'a [u8],
    octets: &'a [u8],
    /// Where the packet number begins.
    number_at: usize,
}

/// What an Initial packet holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) number: u64,
    pub(super) frames: Vec<u8>,
}

const LONG: u8 = 0x80;
const RESERVED: u8 = 0x0c;
pub(super) const VERSION_1: u32 = 0x0000_0001;
pub(super) const VERSION_2: u32 = 0x6b33_43cf;
/// From where on a packet is sampled, as if its number had four octets (RFC 9001 §5.4.2).
const NUMBER_OCTETS_MAX: usize = 4;
const SAMPLE_OCTETS: usize = 16;

enum Kind {
    Initial,
    ZeroRtt,
    Handshake,
    Retry,
}

/// The Initials of a datagram, which is walked to its end.
///
/// The bit that is always one in version 1 is not looked at: a server may take a zero there (RFC 9287),
/// and what it takes must be read.
pub(super) fn initials_of(datagram: &[u8]) -> Result<Vec<Initial<'_>>, BadQuic> {
    let mut rest = Octets(datagram);
    let mut initials = Vec::new();
    let mut destination = None;
    let mut packets = 0;
    // A short header says no length: its packet takes what is left.
    while rest.0.first().is_some_and(|first| first & LONG != 0) {
        packets += 1;
        if packets > QUIC_PACKETS_MAX {
            return Err(BadQuic::TooManyPackets);
        }
        let (to, initial) = take_long(&mut rest)?;
        // "Senders MUST NOT coalesce" others (RFC 9000 §12.2).
        if *destination.get_or_insert(to) != to {
            return Err(BadQuic::Malformed);
        }
        initials.extend(initial);
    }
    Ok(initials)
}

/// Takes a packet with a long header: its destination, and itself if it is an Initial.
fn take_long<'a>(rest: &mut Octets<'a>) -> Result<(&'a [u8], Option<Initial<'a>>), BadQuic> {
    let whole = rest.0;
    let (first, word) = (rest.byte(), rest.word());
    let (first, word) = first.zip(word).ok_or(BadQuic::Malformed)?;
    let version = match word {
        VERSION_1 => Version::V1,
        VERSION_2 => Version::V2,
        0 => return Err(BadQuic::Malformed), // Version Negotiation: a server's word
        _ => return Err(BadQuic::UnknownVersion),
    };
    let kind = kind_of(first, version);
    take_rest(whole, rest, version, &kind).ok_or(BadQuic::Malformed)
}

/// Version 2 has the kinds of version 1, one further (RFC 9369 §3.2).
const fn kind_of(first: u8, version: Version) -> Kind {
    let bits = first >> 4 & 3;
    let bits = match matches!(version, Version::V2) {
        true => bits.wrapping_sub(1) & 3,
        false => bits,
    };
    match bits {
        0 => Kind::Initial,
        1 => Kind::ZeroRtt,
        2 => Kind::Handshake,
        _ => Kind::Retry,
    }
}

fn take_rest<'a>(
    whole: &'a [u8],
    rest: &mut Octets<'a>,
    version: Version,
    kind: &Kind,
) -> Option<(&'a [u8], Option<Initial<'a>>)> {
    let destination = rest.by_byte()?;
    let source = rest.by_byte()?;
    if destination.len().max(source.len()) > QUIC_CONNECTION_ID_OCTETS_MAX {
        return None;
    }
    match kind {
        Kind::Initial => _ = rest.by_number()?, // the token
        Kind::ZeroRtt | Kind::Handshake => {}
        Kind::Retry => return None, // a server's word
    }
    let mut body = *rest;
    body.number()?;
    let number_at = whole.len() - body.0.len();
    let sealed = rest.by_number()?;
    if sealed.len() < NUMBER_OCTETS_MAX + SAMPLE_OCTETS {
        return None;
    }
    let octets = whole.get(..number_at + sealed.len())?;
    let is_initial = matches!(kind, Kind::Initial);
    let initial = is_initial.then_some(Initial {
        version,
        destination,
        octets,
        number_at,
    });
    Some((destination, initial))
}

impl Initial<'_> {
    /// Opens it, if it was sealed with these keys (RFC 9001 §5). `largest` is the largest packet number
    /// that came.
    pub(super) fn open(&self, keys: &DirectionalKeys, largest: Option<u64>) -> Option<Opened> {
        let sample = self.octets.get(self.number_at + NUMBER_OCTETS_MAX..)?;
        let sample = sample.get(..SAMPLE_OCTETS)?;
        let header = self.octets.get(..self.number_at + NUMBER_OCTETS_MAX)?;
        let mut header = header.to_vec();
        let (before, number) = header.split_at_mut_checked(self.number_at)?;
        let first = before.first_mut()?;
        keys.header.decrypt_in_place(sample, first, number).ok()?;
        let first = *first;
        let number_octets = usize::from(first & 3) + 1;
        let short = number.iter().take(number_octets);
        let short = short.fold(0, |number, byte| number << 8 | u64::from(*byte));
        let number = full_number(short, number_octets, largest);
        header.truncate(self.number_at + number_octets);
        let mut frames = self.octets.get(header.len()..)?.to_vec();
        let opened = keys.packet.decrypt_in_place(number, &header, &mut frames);
        let octets = opened.ok()?.len();
        frames.truncate(octets);
        // Other than zeros here are a fault (RFC 9000 §17.2), as a packet without frames is.
        if first & RESERVED != 0 {
            frames.clear();
        }
        Some(Opened { number, frames })
    }
}

/// The packet number that is nearest to the one that is expected (RFC 9000 §A.3).
fn full_number(short: u64, octets: usize, largest: Option<u64>) -> u64 {
    let expected = largest.map_or(0, |largest| largest + 1);
    let window = 1 << (8 * octets);
    let near = expected & !(window - 1) | short;
    if near + window / 2 <= expected && near < (1 << 62) - window {
        near + window
    } else if near > expected + window / 2 && near >= window {
        near - window
    } else {
        near
    }
}

/// The keys of Initials on a connection that began with a destination (RFC 9001 §5.2, RFC 9369 §3.3).
/// `None`: there is no such cipher.
pub(super) fn initial_keys(destination: &[u8], side: Side, version: Version) -> Option<Keys> {
    Some(suite()?.keys(destination, side, version))
}

fn suite() -> Option<Suite> {
    use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
    match TLS13_AES_128_GCM_SHA256 {
        SupportedCipherSuite::Tls13(suite) => suite.quic_suite(),
        SupportedCipherSuite::Tls12(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_number_is_the_one_that_is_nearest() {
        assert_eq!(full_number(0x9b32, 2, Some(0xa82f_30ea)), 0xa82f_9b32); // RFC 9000 §A.3
        assert_eq!(full_number(0, 1, None), 0);
        assert_eq!(full_number(255, 1, None), 255);
        assert_eq!(full_number(1, 1, Some(255)), 257);
        assert_eq!(full_number(254, 1, Some(257)), 254);
        assert_eq!(
            full_number(u64::from(u32::MAX), 4, None),
            u64::from(u32::MAX)
        );
    }
}
