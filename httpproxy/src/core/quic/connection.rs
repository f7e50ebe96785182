//! One QUIC connection, as far as its client's Initials tell.

use rustls::Side;
use rustls::quic::{DirectionalKeys, Version};

use super::BadQuic;
use super::frames::Crypto;
use super::packet::{Initial, Opened, initial_keys};
use super::stream::CryptoStream;
use crate::core::client_hello::{BadHello, ClientHello, ClientHelloReader, HelloState};

/// A connection is what it began with: the keys of all its Initials come from there.
pub(super) struct Connection {
    /// The destination of its first packet.
    original: Vec<u8>,
    /// What opens its Initials of version 1, and of version 2, in which it may go on (RFC 9369 §4.1).
    keys: [Option<DirectionalKeys>; 2],
    /// The largest packet number that came. `None` before the first.
    largest: Option<u64>,
    stream: CryptoStream,
    /// Where the hello is read that is being collected.
    reader: ClientHelloReader,
    /// Up to where the stream was read: a hello that is whole ends there.
    read: usize,
    /// The first hello; an empty one before it is whole.
    hello: ClientHello,
    stage: Stage,
}

/// How far its hellos are.
///
/// ```text
/// First --whole--> Whole --given--> Asked --permitted--> Permitted --more--> Second --whole--> Over
///                                     +-----denied-----> Denied
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The first is being collected.
    First,
    /// The first is whole; nobody was asked about it.
    Whole,
    /// Whoever judges it has it.
    Asked,
    /// It may go on.
    Permitted,
    /// A second one, after a HelloRetryRequest (RFC 8446 §4.1.4), is being collected.
    Second,
    /// The second may go on; a third there is not.
    Over,
    /// Nothing of it goes on.
    Denied,
}

impl Connection {
    pub(super) fn new(original: &[u8]) -> Self {
        Self {
            original: original.to_vec(),
            keys: [None, None],
            largest: None,
            stream: CryptoStream::default(),
            reader: ClientHelloReader::default(),
            read: 0,
            hello: ClientHello::default(),
            stage: Stage::First,
        }
    }

    /// Whether it began with this destination.
    pub(super) fn began_with(&self, destination: &[u8]) -> bool {
        self.original == destination
    }

    /// What it began with.
    pub(super) fn original(&self) -> &[u8] {
        &self.original
    }

    /// The same.
    pub(super) fn into_original(self) -> Box<[u8]> {
        self.original.into()
    }

    /// Opens an Initial if it is its own.
    pub(super) fn open(&mut self, initial: &Initial<'_>) -> Option<Opened> {
        let [first, second] = &mut self.keys;
        let place = match matches!(initial.version, Version::V2) {
            true => second,
            false => first,
        };
        if place.is_none() {
            let keys = initial_keys(&self.original, Side::Server, initial.version)?;
            *place = Some(keys.remote);
        }
        initial.open(place.as_ref()?, self.largest)
    }

    /// Takes what a packet that it opened says of the handshake.
    pub(super) fn take(&mut self, number: u64, cryptos: &[Crypto<'_>]) -> Result<(), BadQuic> {
        self.largest = self.largest.max(Some(number));
        for crypto in cryptos {
            self.stream.put(*crypto)?;
        }
        self.read()
    }

    fn read(&mut self) -> Result<(), BadQuic> {
        let has_more = self.stream.end() > self.read;
        match self.stage {
            Stage::First => {
                if let Some(hello) = self.read_on()? {
                    self.hello = hello;
                    self.stage = Stage::Whole;
                    return self.read();
                }
                Ok(())
            }
            Stage::Permitted if has_more => {
                self.reader = ClientHelloReader::default();
                self.stage = Stage::Second;
                self.read()
            }
            Stage::Second => match self.read_on()? {
                None => Ok(()),
                Some(second) if second.server_name != self.hello.server_name => {
                    Err(BadQuic::SecondHello)
                }
                Some(_) => {
                    self.stage = Stage::Over;
                    self.read()
                }
            },
            Stage::Denied => Err(BadQuic::Denied),
            // A second one is said only when the server has asked for it.
            Stage::Whole | Stage::Asked | Stage::Over if has_more => Err(BadQuic::Trailing),
            Stage::Whole | Stage::Asked | Stage::Permitted | Stage::Over => Ok(()),
        }
    }

    /// Reads what is new without a gap: a hello, if it is whole by that.
    fn read_on(&mut self) -> Result<Option<ClientHello>, BadQuic> {
        let octets = self.stream.from(self.read);
        self.read += octets.len();
        match self.reader.push_message(octets) {
            HelloState::Incomplete => Ok(None),
            HelloState::Hello(hello) => Ok(Some(hello.clone())),
            HelloState::Malformed(BadHello::Trailing) => Err(BadQuic::Trailing),
            HelloState::Malformed(reason) => Err(BadQuic::Hello(reason)),
            HelloState::NotTls => Err(BadQuic::Malformed), // what a record may be, not a message
        }
    }

    /// Whether its first hello is whole, and nobody was asked about it.
    pub(super) fn is_whole(&self) -> bool {
        self.stage == Stage::Whole
    }

    /// Its hello, for somebody who is asked about it.
    pub(super) fn ask(&mut self) -> ClientHello {
        self.stage = Stage::Asked;
        self.hello.clone()
    }

    /// Whether somebody was asked and has not answered.
    pub(super) fn is_asked(&self) -> bool {
        self.stage == Stage::Asked
    }

    /// Lets go on what was asked for.
    pub(super) fn permit(&mut self) {
        if self.is_asked() {
            self.stage = Stage::Permitted;
        }
    }

    /// Lets nothing go on of what was asked for.
    pub(super) fn deny(&mut self) {
        if self.is_asked() {
            self.stage = Stage::Denied;
        }
    }

    /// Whether nothing of it goes on.
    pub(super) fn is_denied(&self) -> bool {
        self.stage == Stage::Denied
    }

    /// Whether all that it said may go on.
    pub(super) fn is_permitted(&self) -> bool {
        matches!(self.stage, Stage::Permitted | Stage::Over)
    }
}
