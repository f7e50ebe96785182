//! Frames over a socket, written and read octet by octet: the client and the server of the tests.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::core::hpack::Hpack;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const END: u8 = END_STREAM | END_HEADERS;

/// The octets of a frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut octets = length[1..].to_vec();
    octets.extend([kind, flags]);
    octets.extend(stream.to_be_bytes());
    octets.extend(payload);
    octets
}

/// A header block of literals that nobody has to keep.
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut octets = Vec::new();
    for (name, value) in fields {
        octets.push(0);
        for text in [name, value] {
            number(text.len(), &mut octets);
            octets.extend(text.bytes());
        }
    }
    octets
}

fn number(number: usize, octets: &mut Vec<u8>) {
    if number < 127 {
        octets.push(u8::try_from(number).unwrap());
        return;
    }
    octets.push(127);
    let mut rest = number - 127;
    while rest >= 128 {
        octets.push(u8::try_from(rest & 127).unwrap() | 128);
        rest >>= 7;
    }
    octets.push(u8::try_from(rest).unwrap());
}

/// A GET as most of them are, and as it may be changed.
pub(super) fn get(path: &str) -> Vec<(&str, &str)> {
    vec![
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "shop.test"),
        (":path", path),
    ]
}

pub(super) fn post(path: &str) -> Vec<(&str, &str)> {
    let mut fields = get(path);
    fields[0].1 = "POST";
    fields
}

pub(super) fn headers(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, flags, stream, &block(fields))
}

pub(super) fn reset(stream: u32, reason: u32) -> Vec<u8> {
    frame(RST, 0, stream, &reason.to_be_bytes())
}

/// One side of a connection.
pub(super) struct Wire {
    pub(super) stream: TcpStream,
    buffer: Vec<u8>,
    table: Hpack,
}

/// A frame that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Came {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
    /// Of HEADERS.
    pub(super) fields: Vec<(String, String)>,
}

impl Came {
    pub(super) fn ends(&self) -> bool {
        self.flags & END_STREAM != 0
    }

    pub(super) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        fields.find(|(n, _)| n == name).map(|(_, value)| &**value)
    }
}

impl Wire {
    pub(super) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffer: Vec::new(),
            table: Hpack::default(),
        }
    }

    /// Says it; who doesn't listen any more shows at the next read.
    pub(super) async fn say(&mut self, octets: &[u8]) {
        let _ = self.stream.write_all(octets).await;
    }

    /// Reads the preface of a client.
    pub(super) async fn preface(&mut self) {
        while self.buffer.len() < PREFACE.len() {
            if self.stream.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                return;
            }
        }
        assert_eq!(&self.buffer[..PREFACE.len()], PREFACE);
        self.buffer.drain(..PREFACE.len());
    }

    /// The next frame; `None` at the end, by FIN or reset, or after five seconds of silence.
    pub(super) async fn next(&mut self) -> Option<Came> {
        let read = async {
            loop {
                if let Some(came) = self.parse() {
                    return Some(came);
                }
                if self.stream.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                    return None;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(5), read)
            .await
            .unwrap_or(None)
    }

    fn parse(&mut self) -> Option<Came> {
        let (mut came, mut at) = self.frame_at(0)?;
        while came.kind == HEADERS && came.flags & END_HEADERS == 0 {
            let (more, after) = self.frame_at(at)?;
            assert_eq!(more.kind, CONTINUATION);
            came.flags |= more.flags;
            came.payload.extend(more.payload);
            at = after;
        }
        self.buffer.drain(..at);
        if came.kind == HEADERS {
            let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
            self.table
                .read(&came.payload, |name, value| {
                    came.fields.push((text(name), text(value)))
                })
                .unwrap();
        }
        Some(came)
    }

    /// The frame that begins here, and where it ends.
    fn frame_at(&self, at: usize) -> Option<(Came, usize)> {
        let head = self.buffer.get(at..at + 9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let came = Came {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes(head[5..9].try_into().unwrap()),
            payload: self.buffer.get(at + 9..at + 9 + length)?.to_vec(),
            fields: Vec::new(),
        };
        Some((came, at + 9 + length))
    }

    /// The next frame of a kind.
    pub(super) async fn await_kind(&mut self, kind: u8) -> Option<Came> {
        loop {
            let came = self.next().await?;
            if came.kind == kind {
                return Some(came);
            }
        }
    }
}
