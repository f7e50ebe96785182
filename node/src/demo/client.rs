//! What a pod's programs do: look names up as a stub resolver does, and get pages.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use dnsproxy::{RawQuestion, Rcode, read_answer};
use fqdn::Name;

use super::servers::WEB_PORT;
use super::stage::DNS;

/// How long a program of the story waits; real ones wait longer.
const PATIENCE: Duration = Duration::from_millis(600);
/// What Kubernetes writes into a pod's resolv.conf.
const SEARCH: [&str; 3] = [
    "default.svc.cluster.local",
    "svc.cluster.local",
    "cluster.local",
];
const NDOTS: usize = 5;
const A: u16 = 1;
const AAAA: u16 = 28;

/// Why a program did not get what it wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server answered: no such name.
    UnknownName,
    /// The server answered: no address.
    NoData,
    /// No answer from the DNS server.
    Silence,
    /// Nobody answers at the address.
    Unreachable,
}

impl Failure {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::UnknownName => "no such name",
            Self::NoData => "no address",
            Self::Silence => "no answer from the DNS server",
            Self::Unreachable => "no connection: timed out",
        }
    }
}

/// Looks a name up along the search list; gives its IPv4 addresses.
pub(super) fn look_up(name: &str) -> Result<Vec<IpAddr>, Failure> {
    let searched = SEARCH.iter().map(|suffix| format!("{name}.{suffix}"));
    let candidates: Vec<String> = if name.matches('.').count() < NDOTS {
        searched.chain([name.to_owned()]).collect()
    } else {
        vec![name.to_owned()]
    };
    let mut last = Failure::UnknownName;
    for candidate in &candidates {
        match ask_both(candidate) {
            Ok(addresses) => return Ok(addresses),
            Err(Failure::UnknownName) => {}
            Err(Failure::Silence) => return Err(Failure::Silence),
            Err(other) => last = other,
        }
    }
    Err(last)
}

/// Asks for A and AAAA, as stubs do; the IPv4 addresses count.
fn ask_both(name: &str) -> Result<Vec<IpAddr>, Failure> {
    let addresses = ask(name, A)?;
    let _ = ask(name, AAAA);
    if addresses.is_empty() {
        Err(Failure::NoData)
    } else {
        Ok(addresses)
    }
}

/// One query to the cluster's DNS server.
fn ask(name: &str, qtype: u16) -> Result<Vec<IpAddr>, Failure> {
    let name = Name::from_text(name).map_err(|_| Failure::UnknownName)?;
    let id: u16 = rand::random();
    let mut query = id.to_be_bytes().to_vec();
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    query.extend(name.as_wire());
    query.extend(qtype.to_be_bytes());
    query.extend([0, 1]);
    let answer = exchange(&query).map_err(|_| Failure::Silence)?;
    let fits = answer.starts_with(&id.to_be_bytes()) && RawQuestion::read(&answer).is_ok();
    let reading = read_answer(&answer)
        .ok()
        .filter(|_| fits)
        .ok_or(Failure::Silence)?;
    match reading.rcode {
        Rcode::NO_ERROR => Ok(reading.addresses.iter().map(|learned| learned.ip).collect()),
        _ => Err(Failure::UnknownName),
    }
}

fn exchange(query: &[u8]) -> io::Result<Vec<u8>> {
    #[expect(clippy::disallowed_methods, reason = "a workload's own socket")]
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect((DNS, 53))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(query)?;
    let mut buffer = vec![0; 4_096];
    let len = socket.recv(&mut buffer)?;
    buffer.truncate(len);
    Ok(buffer)
}

/// Connects to a name.
pub(super) fn connect(name: &str, port: u16) -> Result<TcpStream, Failure> {
    let ip = *look_up(name)?.first().ok_or(Failure::NoData)?;
    connect_to(ip, port)
}

/// Connects to an address.
pub(super) fn connect_to(ip: IpAddr, port: u16) -> Result<TcpStream, Failure> {
    TcpStream::connect_timeout(&SocketAddr::new(ip, port), PATIENCE)
        .map_err(|_| Failure::Unreachable)
}

/// Gets a page from a server.
pub(super) fn get(name: &str, port: u16) -> Result<String, Failure> {
    get_by(&mut connect(name, port)?, name).map_err(|_| Failure::Unreachable)
}

/// Gets a page over a connection that is kept.
pub(super) fn get_by(stream: &mut TcpStream, host: &str) -> io::Result<String> {
    Ok(request(stream, "GET / HTTP/1.1", host)?.1)
}

/// Sends a request, by its first line; gives the status line of the answer, and its body.
pub(super) fn request(
    stream: &mut TcpStream,
    line: &str,
    host: &str,
) -> io::Result<(String, String)> {
    stream.set_read_timeout(Some(PATIENCE * 8))?;
    stream.write_all(format!("{line}\r\nHost: {host}\r\n\r\n").as_bytes())?;
    let mut text = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        let len = stream.read(&mut buffer)?;
        text.extend(buffer.get(..len).unwrap_or(&[]));
        let shown = String::from_utf8_lossy(&text);
        let Some((head, body)) = shown.split_once("\r\n\r\n") else {
            if len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            continue;
        };
        let mut fields = head.lines().filter_map(|line| line.split_once(": "));
        let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let length = length.and_then(|(_, value)| value.parse::<usize>().ok());
        if length.is_some_and(|length| body.len() >= length) || len == 0 {
            let status = head.lines().next().unwrap_or_default();
            return Ok((status.to_owned(), body.to_owned()));
        }
    }
}

/// The page of the shop: whole if its parts can be had.
pub(super) fn product_page() -> String {
    let part = |name: &str| match get(name, WEB_PORT) {
        Ok(_) => format!("{name}: here\n"),
        Err(failure) => format!("{name}: not available ({})\n", failure.text()),
    };
    format!("product page\n{}{}", part("details"), part("reviews"))
}

/// A review, with its stars if the ratings can be had.
pub(super) fn review() -> String {
    match get("ratings", WEB_PORT) {
        Ok(_) => "a review with stars\n".to_owned(),
        Err(_) => "a review\n".to_owned(),
    }
}
