//! The ClientHello of a TLS connection: which server it names.
//!
//! Any segmentation, any records: the reader takes bytes as they come and keeps only the handshake
//! message. What is forwarded are the bytes as they came; nothing here is written again.

pub(crate) mod second;

use crate::limits::{
    ALPN_PROTOCOLS_MAX, HELLO_OCTETS_MAX, HELLO_WIRE_OCTETS_MAX, LABEL_OCTETS_MAX,
    RECORD_OCTETS_MAX, SERVER_NAME_OCTETS_MAX,
};

/// What a client says before it is answered.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ClientHello {
    /// The server that it names, in lower case and without a dot at the end. `None` if it names none,
    /// or an address, which is no name (RFC 6066 §3).
    pub server_name: Option<String>,
    /// The protocols that it offers, in its order.
    pub alpn: Vec<Vec<u8>>,
    /// Whether it has an `encrypted_client_hello`: the name may be the outer one, or that is GREASE.
    pub ech: bool,
}

/// Why bytes that begin like TLS are no ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHello {
    /// Another record than a handshake's.
    #[error("a record of type {0} stands where a ClientHello should")]
    RecordType(u8),
    /// A record that holds nothing.
    #[error("a handshake record is empty")]
    EmptyRecord,
    /// A record longer than [`RECORD_OCTETS_MAX`].
    #[error("a record has {0} octets, at most {RECORD_OCTETS_MAX}")]
    RecordTooLong(usize),
    /// A version that no TLS has.
    #[error("a record's version is not one of TLS")]
    RecordVersion,
    /// Another handshake message.
    #[error("a handshake message of type {0} stands where a ClientHello should")]
    MessageType(u8),
    /// Longer than [`HELLO_OCTETS_MAX`], or than [`HELLO_WIRE_OCTETS_MAX`] with its records.
    #[error("the ClientHello is too long")]
    TooLong,
    /// More in the record than the message.
    #[error("something follows the ClientHello in its record")]
    Trailing,
    /// A length that leads beyond the end, or leaves something over.
    #[error("a length in the ClientHello lies")]
    Length,
    /// The same extension twice.
    #[error("an extension stands twice in the ClientHello")]
    RepeatedExtension,
    /// More than one name, or a name of another type.
    #[error("the server name list is not one host name")]
    NameList,
    /// A name that is none.
    #[error("the server name is no host name")]
    Name,
    /// An ALPN list that is empty, holds an empty item, or more than [`ALPN_PROTOCOLS_MAX`].
    #[error("the ALPN list is malformed")]
    Alpn,
}

/// What the bytes are so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelloState<'a> {
    /// Read on.
    Incomplete,
    /// It isn't TLS.
    NotTls,
    /// It is, and wrong: reset.
    Malformed(BadHello),
    /// All of it.
    Hello(&'a ClientHello),
}

/// Takes the bytes of a connection until its ClientHello is complete.
#[derive(Debug, Default)]
pub struct ClientHelloReader {
    /// The head of the record that is being read.
    head: Vec<u8>,
    /// Octets of the record that are still to come.
    left: usize,
    message: Vec<u8>,
    wire_octets: usize,
    end: Option<End>,
}

#[derive(Debug)]
enum End {
    NotTls,
    Malformed(BadHello),
    Hello(ClientHello),
}

const RECORD_HEAD_OCTETS: usize = 5;
const MESSAGE_HEAD_OCTETS: usize = 4;

impl ClientHelloReader {
    /// Takes the next bytes. Once the state is another than `Incomplete`, it stays what it is.
    pub fn push(&mut self, bytes: &[u8]) -> HelloState<'_> {
        if self.end.is_none() {
            self.end = self.read(bytes);
        }
        self.state()
    }

    /// Takes the next octets of the message itself, whose records somebody else reads.
    pub(crate) fn push_message(&mut self, octets: &[u8]) -> HelloState<'_> {
        if self.end.is_none() {
            self.message.extend_from_slice(octets);
            self.end = self.message_end();
        }
        self.state()
    }

    /// How many octets a complete one took.
    pub(crate) const fn octets(&self) -> usize {
        self.wire_octets
    }

    /// What the bytes were so far.
    #[must_use]
    pub const fn state(&self) -> HelloState<'_> {
        match &self.end {
            None => HelloState::Incomplete,
            Some(End::NotTls) => HelloState::NotTls,
            Some(End::Malformed(reason)) => HelloState::Malformed(*reason),
            Some(End::Hello(hello)) => HelloState::Hello(hello),
        }
    }

    fn read(&mut self, mut bytes: &[u8]) -> Option<End> {
        while !bytes.is_empty() {
            let taken = match self.left {
                0 => self.take_head(bytes),
                _ => self.take_payload(bytes),
            };
            match taken {
                Ok(taken) => bytes = bytes.get(taken..).unwrap_or_default(),
                Err(end) => return Some(end),
            }
            if self.wire_octets > HELLO_WIRE_OCTETS_MAX {
                return Some(End::Malformed(BadHello::TooLong));
            }
            if let Some(end) = self.message_end() {
                return Some(end);
            }
        }
        None
    }

    /// Takes octets of a record's head, and judges what is there of it.
    fn take_head(&mut self, bytes: &[u8]) -> Result<usize, End> {
        let wanted = RECORD_HEAD_OCTETS - self.head.len();
        let taken = bytes.get(..wanted).unwrap_or(bytes);
        self.head.extend_from_slice(taken);
        self.wire_octets += taken.len();
        let is_first = self.message.is_empty();
        match *self.head.as_slice() {
            [0x16, 3, 0..=4, high, low] => {
                self.left = usize::from(u16::from_be_bytes([high, low]));
                self.head.clear();
            }
            [0x16] | [0x16, 3] | [0x16, 3, 0..=4] | [0x16, 3, 0..=4, _] => return Ok(taken.len()),
            [0x14 | 0x15 | 0x17, 3, ..] => {
                let kind = self.head.first().copied().unwrap_or_default();
                return Err(End::Malformed(BadHello::RecordType(kind)));
            }
            [0x14 | 0x15 | 0x17] if is_first => return Ok(taken.len()),
            _ if is_first => return Err(End::NotTls),
            [0x16, ..] => return Err(End::Malformed(BadHello::RecordVersion)),
            [kind, ..] => return Err(End::Malformed(BadHello::RecordType(kind))),
            [] => {} // bytes were not empty
        }
        match self.left {
            0 => Err(End::Malformed(BadHello::EmptyRecord)),
            left if left > RECORD_OCTETS_MAX => Err(End::Malformed(BadHello::RecordTooLong(left))),
            _ => Ok(taken.len()),
        }
    }

    fn take_payload(&mut self, bytes: &[u8]) -> Result<usize, End> {
        let taken = bytes.get(..self.left).unwrap_or(bytes);
        self.message.extend_from_slice(taken);
        self.left -= taken.len();
        self.wire_octets += taken.len();
        Ok(taken.len())
    }

    /// The end, if the message is complete or can't become one.
    fn message_end(&self) -> Option<End> {
        let kind = *self.message.first()?;
        if kind != 1 {
            return Some(End::Malformed(BadHello::MessageType(kind)));
        }
        let [_, high, middle, low, body @ ..] = self.message.as_slice() else {
            return None;
        };
        let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
        if length + MESSAGE_HEAD_OCTETS > HELLO_OCTETS_MAX {
            return Some(End::Malformed(BadHello::TooLong));
        }
        if body.len() < length {
            return None;
        }
        // Before keys are agreed nothing else may share the record (RFC 8446 §5.1).
        if body.len() > length || self.left > 0 {
            return Some(End::Malformed(BadHello::Trailing));
        }
        Some(read_hello(body).map_or_else(End::Malformed, End::Hello))
    }
}

/// Bytes that are taken from the front.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], BadHello> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(BadHello::Length)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, BadHello> {
        let [byte] = *self.take(1)? else {
            return Err(BadHello::Length);
        };
        Ok(byte)
    }

    fn short(&mut self) -> Result<u16, BadHello> {
        Ok(u16::from_be_bytes([self.byte()?, self.byte()?]))
    }

    /// What a length of one octet announces.
    fn by_byte(&mut self) -> Result<&'a [u8], BadHello> {
        let length = self.byte()?;
        self.take(usize::from(length))
    }

    /// What a length of two octets announces.
    fn by_short(&mut self) -> Result<&'a [u8], BadHello> {
        let length = self.short()?;
        self.take(usize::from(length))
    }

    const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn end(self) -> Result<(), BadHello> {
        match self.is_empty() {
            true => Ok(()),
            false => Err(BadHello::Length),
        }
    }
}

/// Reads the body of a ClientHello (RFC 8446 §4.1.2).
fn read_hello(body: &[u8]) -> Result<ClientHello, BadHello> {
    let mut rest = Rest(body);
    rest.take(2 + 32)?; // version, random
    let session = rest.by_byte()?;
    let suites = rest.by_short()?;
    let compressions = rest.by_byte()?;
    let are_suites = !suites.is_empty() && suites.len().is_multiple_of(2);
    if session.len() > 32 || !are_suites || compressions.is_empty() {
        return Err(BadHello::Length);
    }
    let mut hello = ClientHello::default();
    if rest.is_empty() {
        return Ok(hello); // TLS 1.2 and before may have no extensions
    }
    let mut extensions = Rest(rest.by_short()?);
    rest.end()?;
    let mut seen = Vec::new();
    while !extensions.is_empty() {
        let kind = extensions.short()?;
        let content = extensions.by_short()?;
        seen.push(kind);
        match kind {
            SERVER_NAME => hello.server_name = read_server_name(content)?,
            ALPN => hello.alpn = read_alpn(content)?,
            ENCRYPTED_CLIENT_HELLO => hello.ech = true,
            _ => {}
        }
    }
    seen.sort_unstable();
    match seen.windows(2).any(|pair| pair.first() == pair.last()) {
        true => Err(BadHello::RepeatedExtension),
        false => Ok(hello),
    }
}

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
const HOST_NAME: u8 = 0;

/// Reads a list that must be one host name; `None` if that is an address.
fn read_server_name(content: &[u8]) -> Result<Option<String>, BadHello> {
    let mut content = Rest(content);
    let mut list = Rest(content.by_short()?);
    content.end()?;
    if list.byte()? != HOST_NAME {
        return Err(BadHello::NameList);
    }
    let name = list.by_short()?;
    if !list.is_empty() {
        return Err(BadHello::NameList);
    }
    normal_name(name)
}

/// The normal form of a host name.
fn normal_name(name: &[u8]) -> Result<Option<String>, BadHello> {
    let name = name.strip_suffix(b".").unwrap_or(name);
    let is_label = |label: &[u8]| {
        let is_fit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=LABEL_OCTETS_MAX).contains(&label.len()) && label.iter().all(is_fit)
    };
    let are_labels = name.split(|byte| *byte == b'.').all(is_label);
    let text = str::from_utf8(name).map_err(|_| BadHello::Name)?;
    if name.len() > SERVER_NAME_OCTETS_MAX || !are_labels {
        return Err(BadHello::Name);
    }
    let is_address = text.parse::<std::net::Ipv4Addr>().is_ok();
    Ok((!is_address).then(|| text.to_ascii_lowercase()))
}

fn read_alpn(content: &[u8]) -> Result<Vec<Vec<u8>>, BadHello> {
    let mut content = Rest(content);
    let mut list = Rest(content.by_short()?);
    content.end()?;
    let mut protocols = Vec::new();
    while !list.is_empty() {
        let protocol = list.by_byte()?;
        if protocol.is_empty() || protocols.len() == ALPN_PROTOCOLS_MAX {
            return Err(BadHello::Alpn);
        }
        protocols.push(protocol.to_vec());
    }
    match protocols.is_empty() {
        true => Err(BadHello::Alpn),
        false => Ok(protocols),
    }
}

#[cfg(test)]
mod tests;
