//! QUIC's first datagrams: which servers a client's ClientHellos name (RFC 9000, 9001, 9369).
//!
//! What is judged must be what the server acts on. So all of a flow is read that a server may read as
//! an Initial, with each key that it may be sealed with, and kept: the same place may not say another
//! thing later. What goes on are the datagrams as they came.

mod connection;
pub(crate) mod frames;
mod octets;
mod packet;
pub(crate) mod seal;
mod stream;

use self::connection::Connection;
use self::frames::cryptos_of;
use self::packet::{Initial, Opened, initials_of};
use super::client_hello::{BadHello, ClientHello};
use crate::limits::{
    QUIC_CONNECTIONS_MAX, QUIC_CRYPTO_OCTETS_MAX, QUIC_FORGOTTEN_MAX,
    QUIC_INITIAL_DATAGRAM_OCTETS_MIN, QUIC_PACKETS_MAX, QUIC_SEGMENTS_MAX,
};

/// One UDP flow of a client, as far as its QUIC is read.
#[derive(Default)]
pub(crate) struct QuicFlow {
    /// Those that the client began last, in that order.
    connections: Vec<Connection>,
    /// With what earlier ones began: what such a one says now can't be compared with what it said.
    forgotten: Vec<Box<[u8]>>,
    /// What it did that no honest client does: nothing of it goes on any more.
    lie: Option<BadQuic>,
}

/// What is to be done with a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Nothing in it begins what was not permitted: it may go on, after those that wait.
    Pass,
    /// A ClientHello is not complete yet, or not permitted: it waits, with those after it.
    Hold,
    /// A ClientHello is complete: whoever judges it calls [`QuicFlow::permit`], after which what waits
    /// may go on, and this datagram; or [`QuicFlow::deny`], after which neither may.
    Hello(ClientHello),
    /// It must not go on.
    Drop(BadQuic),
}

/// Why a datagram must not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadQuic {
    /// A version whose packets are not known here (RFC 9000 §15).
    #[error("a QUIC packet has a version that is neither 1 nor 2")]
    UnknownVersion,
    /// Another packet, before any hello was permitted.
    #[error("a flow does not begin with an Initial packet")]
    NotInitial,
    /// A datagram too small for an Initial (RFC 9000 §14.1).
    #[error(
        "a datagram with an Initial packet is shorter than {QUIC_INITIAL_DATAGRAM_OCTETS_MIN} octets"
    )]
    TooShort,
    /// Packets or frames that are wrong, or a server's (RFC 9000 §12, §17, §19), a connection ID that is
    /// too long among them.
    #[error("a QUIC packet is malformed, or none that a client sends")]
    Malformed,
    /// It opens with no key that an Initial of this flow can have (RFC 9001 §5.2).
    #[error("an Initial packet does not open")]
    Sealed,
    /// It opens with the keys of more than one connection, so that it says more than one thing.
    #[error("an Initial packet opens with the keys of two connections")]
    TwoKeys,
    /// Other octets of the handshake where some were said before.
    #[error("a CRYPTO frame says other than what was said there before")]
    Conflict,
    /// A ClientHello that is wrong.
    #[error(transparent)]
    Hello(#[from] BadHello),
    /// More than a ClientHello before the server answers, or than two after (RFC 8446 §4.1.4).
    #[error("something follows the ClientHello in its Initial packets")]
    Trailing,
    /// A second ClientHello that names another server.
    #[error("a second ClientHello names another server")]
    SecondHello,
    /// More than [`QUIC_CRYPTO_OCTETS_MAX`].
    #[error("a connection's CRYPTO frames lead beyond {QUIC_CRYPTO_OCTETS_MAX} octets")]
    TooLong,
    /// More than [`QUIC_SEGMENTS_MAX`].
    #[error("a connection's CRYPTO frames leave more than {QUIC_SEGMENTS_MAX} pieces apart")]
    TooScattered,
    /// More than [`QUIC_CONNECTIONS_MAX`] that were not judged, or than [`QUIC_FORGOTTEN_MAX`] others.
    #[error("a flow begins too many connections")]
    TooManyConnections,
    /// More than [`QUIC_PACKETS_MAX`].
    #[error("a datagram has more than {QUIC_PACKETS_MAX} packets with long headers")]
    TooManyPackets,
    /// Of a connection that was denied.
    #[error("an Initial packet belongs to a connection that is not allowed")]
    Denied,
    /// A ClientHello is complete while another one is being judged.
    #[error("a second ClientHello is complete before the first was judged")]
    Unjudged,
}

impl QuicFlow {
    /// Takes the next datagram of the client.
    pub(crate) fn push(&mut self, datagram: &[u8]) -> Heard {
        match self.read(datagram) {
            Ok(heard) => heard,
            Err(bad) => Heard::Drop(bad),
        }
    }

    /// Lets the hello that was given last go on: also what is kept by the same connection later (ACKs,
    /// its rest).
    pub(crate) fn permit(&mut self) {
        self.connections.iter_mut().for_each(Connection::permit);
    }

    /// Lets nothing go on of the connection whose hello was given last; others do.
    pub(crate) fn deny(&mut self) {
        self.connections.iter_mut().for_each(Connection::deny);
    }

    /// What the connection began with whose hello was given last and not permitted yet.
    pub(crate) fn asked_original(&self) -> Option<&[u8]> {
        let mut all = self.connections.iter();
        all.find(|one| one.is_asked()).map(Connection::original)
    }

    fn read(&mut self, datagram: &[u8]) -> Result<Heard, BadQuic> {
        self.lie.map_or(Ok(()), Err)?;
        let initials = initials_of(datagram)?;
        if !initials.is_empty() {
            self.read_initials(datagram, &initials)?;
        }
        if self.connections.iter().all(Connection::is_denied) {
            return Err(BadQuic::NotInitial);
        }
        self.verdict()
    }

    fn read_initials(&mut self, datagram: &[u8], initials: &[Initial<'_>]) -> Result<(), BadQuic> {
        if datagram.len() < QUIC_INITIAL_DATAGRAM_OCTETS_MIN {
            return Err(BadQuic::TooShort);
        }
        let mut new = self.new_connection(initials);
        let (mut all, mut owner) = (Vec::new(), None);
        for initial in initials {
            let candidates = self.connections.iter_mut().chain(new.as_mut());
            let (index, opened) = open(candidates, initial)?;
            if *owner.get_or_insert(index) != index {
                return Err(BadQuic::Malformed);
            }
            all.push(opened);
        }
        if owner == Some(self.connections.len()) {
            self.make_room()?;
            self.connections.extend(new);
            owner = self.connections.len().checked_sub(1);
        }
        let connection = owner.and_then(|owner| self.connections.get_mut(owner));
        let taken = connection.map_or(Ok(()), |connection| take(connection, &all));
        // What is denied says nothing of the others.
        self.lie = taken.err().filter(|bad| *bad != BadQuic::Denied);
        taken
    }

    /// Makes room for one more connection: the oldest gives way that was judged. It needs no Initials any more,
    /// long before a client has begun three others, or has none.
    fn make_room(&mut self) -> Result<(), BadQuic> {
        if self.connections.len() < QUIC_CONNECTIONS_MAX {
            return Ok(());
        }
        let mut all = self.connections.iter();
        let oldest = all.position(|one| one.is_permitted() || one.is_denied());
        let oldest = oldest.filter(|_| self.forgotten.len() < QUIC_FORGOTTEN_MAX);
        let oldest = oldest.ok_or(BadQuic::TooManyConnections)?;
        self.forgotten
            .push(self.connections.remove(oldest).into_original());
        Ok(())
    }

    /// The connection that these begin if none opens them that is known.
    fn new_connection(&self, initials: &[Initial<'_>]) -> Option<Connection> {
        let destination = initials.first()?.destination;
        let mut known = self.connections.iter();
        let is_known = known.any(|known| known.began_with(destination));
        let mut forgotten = self.forgotten.iter();
        let is_known = is_known || forgotten.any(|original| **original == *destination);
        (!is_known).then(|| Connection::new(destination))
    }

    /// What is to be done with what was read.
    fn verdict(&mut self) -> Result<Heard, BadQuic> {
        let is_asked = self.connections.iter().any(Connection::is_asked);
        let mut others = self.connections.iter().filter(|one| !one.is_denied());
        let is_permitted = others.all(Connection::is_permitted);
        let mut connections = self.connections.iter_mut();
        match connections.find(|connection| connection.is_whole()) {
            // What waits goes on when that one is permitted; this one may not be among it.
            Some(_) if is_asked => Err(BadQuic::Unjudged),
            Some(connection) => Ok(Heard::Hello(connection.ask())),
            None if is_permitted => Ok(Heard::Pass),
            None => Ok(Heard::Hold),
        }
    }
}

/// Opens an Initial: by which of the connections, and what it holds.
///
/// AES-GCM doesn't bind what it seals to a key: a packet can be made that opens with two, and says
/// another thing with each. So all are tried, and such a one is refused.
fn open<'a>(
    connections: impl Iterator<Item = &'a mut Connection>,
    initial: &Initial<'_>,
) -> Result<(usize, Opened), BadQuic> {
    let opened = connections.map(|connection| connection.open(initial));
    let mut opened = opened
        .enumerate()
        .filter_map(|(index, opened)| Some((index, opened?)));
    let first = opened.next().ok_or(BadQuic::Sealed)?;
    match opened.next() {
        None => Ok(first),
        Some(_) => Err(BadQuic::TwoKeys),
    }
}

/// Gives a connection what its packets hold.
fn take(connection: &mut Connection, all: &[Opened]) -> Result<(), BadQuic> {
    for opened in all {
        let cryptos = cryptos_of(&opened.frames).ok_or(BadQuic::Malformed)?;
        connection.take(opened.number, &cryptos)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
