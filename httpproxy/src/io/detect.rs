//! What a connection speaks, by its first octets; while the one to the server is being opened.

use std::io;
use std::time::Instant;

use super::host::Host;
use super::stream::{Heard, Stream};
use super::tally::Count;
use crate::core::client_hello::{ClientHello, ClientHelloReader, HelloState};
use crate::core::sniff::{Looked, Sniffed, sniff};
use crate::limits::{DETECT_WAIT_MAX, HELLO_WAIT_MAX, HELLO_WIRE_OCTETS_MAX};
use crate::told::Refusal;

use super::access::Opaque;
use super::connection::{Connection, End};

/// How much is read at a time.
const ROOM_OCTETS: usize = 2_048;

/// How a record of a handshake begins (RFC 8446 §5.1).
const HANDSHAKE: u8 = 0x16;

/// What it speaks.
pub(super) enum Spoken {
    Http1,
    Http2,
    Tls(ClientHello),
    /// Something else, which no rule looks into.
    Opaque,
}

/// The first octets of a client, and what they are so far.
#[derive(Default)]
pub(super) struct First {
    pub(super) octets: Vec<u8>,
    pub(super) looked: Looked,
    hello: ClientHelloReader,
    /// How many of them the reader of the ClientHello has.
    read: usize,
    pub(super) is_over: bool,
    pub(super) since: Option<Instant>,
}

impl First {
    /// Reads what is there.
    pub(super) fn read(&mut self, client: &mut Stream, now: Instant) -> io::Result<()> {
        let mut room = [0; ROOM_OCTETS];
        match client.try_read(&mut room) {
            Ok(0) => self.is_over = true,
            Ok(count) => {
                self.octets.extend(room.iter().take(count));
                self.since.get_or_insert(now);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// What it is, once that is known.
    fn spoken(&mut self) -> Result<Option<Spoken>, Refusal> {
        self.spoken_as(sniff(&self.octets))
    }

    /// The same, by what its first octets are.
    pub(super) fn spoken_as(&mut self, sniffed: Sniffed) -> Result<Option<Spoken>, Refusal> {
        match sniffed {
            Sniffed::Http1 => Ok(Some(Spoken::Http1)),
            Sniffed::H2 => Ok(Some(Spoken::Http2)),
            Sniffed::Other => Err(Refusal::Protocol),
            Sniffed::NeedMore => Ok(None),
            Sniffed::Tls => {
                let new = self.octets.get(self.read..).unwrap_or_default();
                self.read = self.octets.len();
                match self.hello.push(new) {
                    HelloState::Incomplete => Ok(None),
                    HelloState::NotTls => Err(Refusal::Protocol),
                    HelloState::Malformed(_) => Err(Refusal::BadHello),
                    HelloState::Hello(hello) => Ok(Some(Spoken::Tls(hello.clone()))),
                }
            }
        }
    }

    /// What a complete ClientHello took of them, and what came behind it.
    pub(super) fn around_hello(&self) -> (&[u8], &[u8]) {
        let all = self.octets.as_slice();
        all.split_at_checked(self.hello.octets())
            .unwrap_or((all, &[]))
    }

    /// Since when it may be TLS.
    fn tls_since(&self) -> Option<Instant> {
        self.since
            .filter(|_| self.octets.first() == Some(&HANDSHAKE))
    }

    pub(super) fn has_room(&self) -> bool {
        !self.is_over && self.octets.len() <= HELLO_WIRE_OCTETS_MAX
    }
}

impl<H: Host> Connection<H> {
    /// Finds out what is spoken, and waits for the server.
    pub(super) async fn detect(&mut self, first: &mut First) -> Result<Spoken, End> {
        let begin = self.proxy.host.now();
        let mut spoken = None;
        let is_plain = !self.access.has_request_rules() && self.access.opaque() == Opaque::Allowed;
        if is_plain && (self.bound.is_some() || self.access.tls_rules().is_empty()) {
            spoken = Some(Spoken::Opaque);
        }
        // A server that has said so waits for its client; what it may also say is read later.
        let mut is_http2 = false;
        loop {
            let is_coming = self.server.is_coming();
            if !is_coming && let Some(spoken) = spoken {
                return Ok(spoken);
            }
            let now = self.proxy.host.now();
            let deadline = match (is_coming, first.tls_since()) {
                (true, _) => begin + self.proxy.settings.connect_wait,
                (false, Some(since)) => since + HELLO_WAIT_MAX,
                (false, None) => begin + DETECT_WAIT_MAX,
            };
            if now >= deadline {
                return Err(match (is_coming, first.tls_since()) {
                    (true, _) => self.unreachable(),
                    (false, Some(_)) => End::Refused(Refusal::Silent),
                    (false, None) => End::Dismissed(Refusal::Silent),
                });
            }
            let speaks_first = self.server.is_up && first.octets.is_empty() && !is_http2;
            tokio::select! {
                () = self.client.ready(true, false), if spoken.is_none() && first.has_room() => {
                    if first.read(&mut self.client, now).is_err() {
                        return Err(self.gone());
                    }
                    spoken = self.heard(first)?;
                }
                () = self.server.moves(speaks_first) => {
                    if is_coming {
                        if self.server.settle().is_err() {
                            return Err(self.unreachable());
                        }
                    } else if self.access.has_request_rules()
                        && self.server.begins_http2().await.map_err(|_| End::Reset)?
                    {
                        is_http2 = true;
                    } else if let Some(spoken) = self.server_first().await? {
                        return Ok(spoken);
                    }
                }
                () = tokio::time::sleep(deadline - now) => {}
                () = self.stop.cancelled(), if first.octets.is_empty() => return Err(End::Closed),
            }
        }
    }

    /// What the octets are that came so far.
    fn heard(&mut self, first: &mut First) -> Result<Option<Spoken>, End> {
        match first.spoken() {
            Ok(Some(spoken @ (Spoken::Http1 | Spoken::Http2))) if self.access.begins_tls() => {
                Ok(Some(spoken))
            }
            Ok(Some(Spoken::Http1 | Spoken::Http2)) if !self.access.has_request_rules() => {
                match self.access.opaque() {
                    Opaque::Allowed => Ok(Some(Spoken::Opaque)),
                    Opaque::Bound(..) | Opaque::Denied => Err(End::Refused(Refusal::Protocol)),
                }
            }
            Ok(Some(spoken)) => Ok(Some(spoken)),
            Err(Refusal::Protocol) if self.access.opaque() == Opaque::Allowed => {
                Ok(Some(Spoken::Opaque))
            }
            Err(refusal) => Err(End::Refused(refusal)),
            Ok(None) if first.is_over && first.octets.is_empty() => {
                self.proxy.counters.count(Count::Empty);
                Err(End::Closed)
            }
            Ok(None) if first.is_over => match self.access.opaque() {
                Opaque::Allowed => Ok(Some(Spoken::Opaque)),
                Opaque::Bound(..) | Opaque::Denied => Err(End::Refused(Refusal::Protocol)),
            },
            Ok(None) => Ok(None),
        }
    }

    /// The server says something before the client does, or ends.
    async fn server_first(&mut self) -> Result<Option<Spoken>, End> {
        let Some(server) = &mut self.server.stream else {
            return Err(End::Reset);
        };
        match (server.hears().await, self.access.opaque()) {
            (Ok(None), _) => Ok(None),
            (Ok(Some(Heard::End)), _) => Err(End::Closed),
            (Ok(Some(Heard::Content)), Opaque::Allowed) => Ok(Some(Spoken::Opaque)),
            (Ok(Some(Heard::Content)), Opaque::Bound(..) | Opaque::Denied) => {
                Err(End::Refused(Refusal::ServerFirst))
            }
            (Err(_), _) => Err(End::Reset),
        }
    }

    /// The client has reset the connection before it was known what it speaks.
    pub(super) fn gone(&self) -> End {
        self.proxy.counters.count(Count::Gone);
        End::Reset
    }

    pub(super) fn unreachable(&self) -> End {
        self.proxy.counters.count(Count::Unreachable);
        End::Reset
    }
}
