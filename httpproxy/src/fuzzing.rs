//! Doors for fuzzers: whatever the bytes, these return, and hold what the readers promise.

mod quic;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use policy::http::{HttpPermit, Path, Request};

pub use self::quic::quic_initial;
use crate::core::buffer::Buffer;
use crate::core::client_hello::second::{Follow, SecondHello};
use crate::core::frames::{Side, Watch};
use crate::core::framing::{BadBody, Body, Framing, Written};
use crate::core::head::refusal::BadHead;
use crate::core::head::request::RequestReader;
use crate::core::head::response::{Asked, ResponseReader};
use crate::core::target::{Target, read_target};
use crate::limits::HELLO_WIRE_OCTETS_MAX;
use crate::{
    ClientHello, ClientHelloReader, Connection, Denied, HelloState, Judge, Now, Origin, Scheme,
    Settings,
};

/// A request's head: the same whole and octet by octet, and nothing of it outside the buffer.
///
/// # Panics
/// If a promise does not hold.
pub fn http_head(bytes: &[u8]) {
    let whole = RequestReader::default().read(bytes);
    let mut reader = RequestReader::default();
    let single = (0..=bytes.len()).find_map(|end| {
        let read = reader.read(bytes.get(..end).unwrap_or_default());
        read.transpose()
    });
    assert_eq!(single.transpose(), whole);
    if let Ok(Some(head)) = whole {
        let is_line = |part: &[u8]| part.iter().all(|byte| !matches!(byte, b'\r' | b'\n' | 0));
        assert!(head.octets <= bytes.len());
        assert!(is_line(head.method.of(bytes)) && is_line(head.target.of(bytes)));
        for field in &reader.fields {
            assert!(is_line(field.name.of(bytes)) && is_line(field.value.of(bytes)));
        }
    }
}

/// A request as it is read, for comparison with what others read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// As it was sent.
    pub method: String,
    /// As it was sent.
    pub target: String,
    /// All lines, in order.
    pub fields: Vec<(String, Vec<u8>)>,
    /// How many octets its head takes.
    pub octets: usize,
}

/// Reads a request up to where a policy would be asked. None if it isn't whole, or is refused.
#[must_use]
pub fn read_request(bytes: &[u8]) -> Option<ReadRequest> {
    let mut reader = RequestReader::default();
    let head = reader.read(bytes).ok()??;
    let method = head.method.text(bytes);
    let host = head.host.map(|host| host.text(bytes));
    let target = read_target(method, head.target.of(bytes), (host, Scheme::Http)).ok()?;
    match target {
        Target::Tunnel(_) if head.framing != Framing::Length(0) => return None,
        Target::Tunnel(_) => {}
        Target::Path(path) => _ = Path::parse(&path).ok()?,
    }
    let fields = reader.fields.iter().map(|field| {
        let name = field.name.text(bytes).to_owned();
        (name, field.value.of(bytes).to_vec())
    });
    Some(ReadRequest {
        method: method.to_owned(),
        target: head.target.text(bytes).to_owned(),
        fields: fields.collect(),
        octets: head.octets,
    })
}

/// A response's head: the same whole and octet by octet.
///
/// # Panics
/// If a promise does not hold.
pub fn http_response(bytes: &[u8]) {
    for asked in [Asked::Head, Asked::Connect, Asked::Other] {
        let whole = ResponseReader::default().read(bytes, asked);
        let mut reader = ResponseReader::default();
        let single: Option<Result<_, BadHead>> = (0..=bytes.len()).find_map(|end| {
            let read = reader.read(bytes.get(..end).unwrap_or_default(), asked);
            read.transpose()
        });
        assert_eq!(single.transpose(), whole);
    }
}

/// A chunked body: the same whole and octet by octet; and what is passed on is a body that passes as it
/// is.
///
/// # Panics
/// If a promise does not hold.
pub fn http_chunked(bytes: &[u8]) {
    let whole = pass(bytes, bytes.len().max(1));
    assert_eq!(whole, pass(bytes, 1));
    if let Ok((written, true)) = whole {
        assert_eq!(pass(&written, 7), Ok((written, true)));
    }
}

/// What is passed on of a body that comes in pieces, and whether it is complete.
fn pass(bytes: &[u8], piece: usize) -> Result<(Vec<u8>, bool), BadBody> {
    let mut body = Body::new(Framing::Chunked, Written::AsFramed);
    let (mut out, mut written) = (Buffer::default(), Vec::new());
    for mut piece in bytes.chunks(piece) {
        while !piece.is_empty() && !body.is_done() {
            let used = body.pass(piece, &mut out)?;
            piece = piece.get(used..).unwrap_or_default();
            written.extend_from_slice(out.bytes());
            out.clear();
        }
    }
    Ok((written, body.is_done()))
}

/// A ClientHello: the same whole and octet by octet, and a name that is one.
///
/// # Panics
/// If a promise does not hold.
pub fn client_hello(bytes: &[u8]) {
    let whole = hello(bytes, bytes.len().max(1));
    assert_eq!(whole, hello(bytes, 1));
    if bytes.len() <= HELLO_WIRE_OCTETS_MAX {
        assert_eq!(second(bytes, bytes.len().max(1)), second(bytes, 1));
    }
    if let Some(Ok(hello)) = whole {
        let name = hello.server_name.unwrap_or_else(|| "a".to_owned());
        let is_fit = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.')
        };
        assert!(!name.is_empty() && name.bytes().all(is_fit) && !name.ends_with('.'));
    }
}

/// How the connection ends if these are said after a ClientHello.
fn second(bytes: &[u8], piece: usize) -> Option<Follow> {
    let mut second = SecondHello::new(None);
    let mut all = bytes.chunks(piece).map(|bytes| second.push(bytes));
    all.find(|follow| matches!(follow, Follow::Over | Follow::Cut))
}

fn hello(bytes: &[u8], piece: usize) -> Option<Result<ClientHello, String>> {
    let mut reader = ClientHelloReader::default();
    for bytes in bytes.chunks(piece) {
        reader.push(bytes);
    }
    match reader.state() {
        HelloState::Incomplete => None,
        HelloState::NotTls => Some(Err("not TLS".to_owned())),
        HelloState::Malformed(reason) => Some(Err(reason.to_string())),
        HelloState::Hello(hello) => Some(Ok(hello.clone())),
    }
}

/// Frames of HTTP/2: the same whole and octet by octet, and no more held than bounds say.
///
/// # Panics
/// If a promise does not hold.
pub fn http2_frames(bytes: &[u8]) {
    for side in [Side::Client, Side::Server] {
        let watch = |piece: usize| {
            let mut watch = Watch::new(side);
            for bytes in bytes.chunks(piece) {
                watch.came(bytes);
            }
            let flaws: Vec<_> = (0..64).map(|stream| watch.flaws_of(stream)).collect();
            (watch.abuse(), watch.is_leaving(), flaws)
        };
        let whole = watch(bytes.len().max(1));
        assert_eq!(whole, watch(1));
        assert_eq!(whole, watch(7));
    }
}

/// A connection on which everything is denied: not one octet goes upstream.
///
/// # Panics
/// If a promise does not hold.
pub fn http_connection(bytes: &[u8]) {
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    let start = Instant::now();
    for piece in [bytes.len().max(1), 1] {
        let origin = Origin {
            scheme: Scheme::Http,
            original_destination: SocketAddr::from(([192, 0, 2, 7], 80)),
        };
        let mut connection = Connection::new(Arc::new(Settings::default()), origin, start);
        connection.upstream_connected();
        let step = |connection: &mut Connection, seconds| {
            let now = Now {
                instant: start + Duration::from_secs(seconds),
                wall: SystemTime::UNIX_EPOCH,
            };
            connection.step(now, &Nobody);
            let written = connection.to_client().len();
            connection.client_wrote(written);
            assert!(connection.to_upstream().is_empty());
            while connection.next_told().is_some() {}
        };
        for bytes in bytes.chunks(piece) {
            let room = connection.client_room();
            for (slot, byte) in room.iter_mut().zip(bytes) {
                *slot = *byte;
            }
            let count = room.len().min(bytes.len());
            connection.client_read(count);
            step(&mut connection, 0);
        }
        connection.client_eof();
        step(&mut connection, 0);
        step(&mut connection, 400);
        assert_ne!(connection.wants().client, crate::Leg::Open, "it ends");
    }
}

/// Nobody may do anything.
struct Nobody;

impl Judge for Nobody {
    fn judge<'a>(&'a self, _: &Request<'a>) -> Result<HttpPermit<'a>, Denied> {
        Err(Denied::NotAllowed)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Dice, corpus_dir};

    #[test]
    fn the_doors_hold_for_the_corpus_and_for_what_is_near_it() {
        type Door = fn(&[u8]);
        let doors: [(&str, Door); 7] = [
            ("http2_frames", super::http2_frames),
            ("http_head", super::http_head),
            ("http_response", super::http_response),
            ("http_chunked", super::http_chunked),
            ("client_hello", super::client_hello),
            ("http_connection", super::http_connection),
            ("quic_initial", super::quic_initial),
        ];
        let mut dice = Dice(4711);
        for (target, door) in doors {
            let files: Vec<_> = std::fs::read_dir(corpus_dir(target)).unwrap().collect();
            assert!(files.len() >= 6, "{target}");
            for file in files {
                let bytes = std::fs::read(file.unwrap().path()).unwrap();
                door(&bytes);
                let times = if bytes.len() > 2000 { 3 } else { 100 };
                for _ in 0..times {
                    let mut near = bytes.clone();
                    dice.mutate(&mut near);
                    door(&near);
                }
            }
        }
    }
}
