//! What a connection is given: settings, where it belongs, the time, and who judges.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use policy::http::{BadPath, HttpPermit, Path, Request};

use super::answer::reason;
use super::host::Authority;
use crate::limits;

/// How connections are treated: the same for all.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The body of a 403, with its line end.
    pub denied_text: Box<str>,
    /// What a connection may be upgraded to, in lower case.
    pub upgrades: Vec<Box<str>>,
    /// In which form paths are judged and forwarded.
    pub paths: Paths,
    /// What becomes of TLS that may hide another name than it shows.
    pub ech: Ech,
    /// What becomes of what servers say of other ways to them.
    pub alt_svc: AltSvc,
    /// When the connection to the server is opened.
    pub connect: Connect,
    /// From whose address.
    pub source: Source,
    /// How long that may take.
    pub connect_wait: Duration,
    /// Connections of all endpoints at a time.
    pub connections: usize,
    /// Connections of one endpoint at a time.
    pub connections_per_endpoint: usize,
    /// Whether queries are told.
    pub queries: Queries,
    /// How long a connection may rest between two requests.
    pub keepalive_idle: Duration,
    /// How long a head may take from its first octet.
    pub head_wait: Duration,
    /// How long a body may rest.
    pub stream_idle: Duration,
    /// How long a tunnel may rest.
    pub tunnel_idle: Duration,
    /// How long a server may take for the head of its response; `None`: as long as it likes.
    pub response_wait: Option<Duration>,
    /// How often an HTTP/2 client with open streams is asked whether it lives, and how long it may take.
    pub ping: (Duration, Duration),
    /// After which silence of the server a client that waits for a 100 gets one of ours.
    pub continue_wait: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            denied_text: "Access denied\r\n".into(),
            upgrades: vec!["websocket".into()],
            paths: Paths::Normalised,
            ech: Ech::Outer,
            alt_svc: AltSvc::Passed,
            connect: Connect::Eager,
            source: Source::Client,
            connect_wait: limits::CONNECT_WAIT_MAX,
            connections: limits::CONNECTIONS_MAX,
            connections_per_endpoint: limits::CONNECTIONS_PER_ENDPOINT_MAX,
            queries: Queries::Told,
            keepalive_idle: limits::KEEPALIVE_IDLE,
            head_wait: limits::HEAD_WAIT,
            stream_idle: limits::STREAM_IDLE,
            tunnel_idle: limits::TUNNEL_IDLE,
            response_wait: None,
            ping: (limits::HTTP2_PING_EVERY, limits::HTTP2_PING_WAIT),
            continue_wait: limits::CONTINUE_WAIT,
        }
    }
}

impl Settings {
    /// The text of an answer of our own, with its line end.
    pub(crate) fn answer_text(&self, status: u16) -> Cow<'_, str> {
        match status {
            403 => Cow::Borrowed(&self.denied_text),
            _ => Cow::Owned(format!("{}\r\n", reason(status))),
        }
    }
}

/// In which form paths are judged and forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paths {
    /// In normal form, and allowed only if each reading of it is.
    Normalised,
    /// As they were sent.
    Raw,
}

impl Paths {
    /// Reads a path with its query in this form.
    pub(crate) fn parse(self, path: &[u8]) -> Result<Path<'_>, BadPath> {
        match self {
            Self::Normalised => Path::parse(path),
            Self::Raw => Path::parse_raw(path),
        }
    }
}

/// What becomes of TLS that is judged by its name and whose ClientHello has an `encrypted_client_hello`. The
/// name in clear may be a front's then; or that extension is GREASE, which nobody can tell on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ech {
    /// The name in clear is judged, as of all others.
    Outer,
    /// It is refused.
    Refused,
}

/// What becomes of `Alt-Svc` (RFC 7838) in responses: with it servers name other ways to them, QUIC's mostly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AltSvc {
    /// It passes, as all of a response does.
    Passed,
    /// It is left out, so that no client tries a way that is closed.
    Dropped,
}

/// When the connection to the server is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connect {
    /// When the client connects: the shell does it. A failure is the client's reset.
    Eager,
    /// With the first request that may go. A failure is a 503.
    Lazy,
}

/// From whose address servers are called.
#[derive(Clone, Debug)]
pub enum Source {
    /// The client's own, through the datapath.
    Client,
    /// The node's, in whose namespace the worker's thread is.
    Node(Closed),
}

/// What is not called from the node, whatever policy says: addresses that mean something else there than
/// they mean to the client, such as loopback, and metadata services.
#[derive(Clone, Debug, Default)]
pub struct Closed {
    /// Those of them that are open all the same.
    pub but: Vec<IpAddr>,
    /// Servers that others are called for, whatever these are.
    pub stand_ins: BTreeMap<SocketAddr, SocketAddr>,
}

impl Closed {
    /// Whether an address is closed.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        policy::class_of(address).is_some() && !self.but.contains(&address)
    }

    /// Who is called where a client means `server`; nobody where that is closed.
    #[must_use]
    pub fn called_for(&self, server: SocketAddr) -> Option<SocketAddr> {
        match self.stand_ins.get(&server) {
            Some(other) => Some(*other),
            None => (!self.contains(server.ip())).then_some(server),
        }
    }
}

/// Whether queries stand in records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queries {
    /// They do.
    Told,
    /// They are left out.
    LeftOut,
}

impl Queries {
    /// Whether something of a path isn't told.
    pub(crate) fn hide_of(self, path: &str) -> bool {
        self.of(path).len() < path.len()
    }

    /// What is told of a path with its query.
    pub(crate) fn of(self, path: &str) -> &str {
        match self {
            Self::Told => path,
            Self::LeftOut => path.split('?').next().unwrap_or_default(),
        }
    }
}

/// What a client's requests are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// Behind TLS that was terminated here.
    Https,
}

impl Scheme {
    /// As it is written in a URL.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    pub(crate) const fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Where a connection belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// What its requests are for.
    pub scheme: Scheme,
    /// Where its client wanted to go.
    pub original_destination: SocketAddr,
}

impl Origin {
    /// Whether a tunnel to an authority leads where the connection was going: policy has let it go nowhere
    /// else.
    pub(crate) fn is_at(&self, authority: &Authority<'_>) -> bool {
        let destination = self.original_destination;
        let is_address = authority
            .address()
            .is_none_or(|address| address == destination.ip());
        is_address && authority.port == Some(destination.port())
    }
}

/// The time of a step.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// What deadlines are measured by.
    pub instant: Instant,
    /// What an answer's Date says.
    pub wall: SystemTime,
}

/// Who judges requests: policy, by the snapshot in force, and what binds names to addresses.
pub trait Judge {
    /// Whether a request may go upstream. Asked once for each, when its head is complete.
    ///
    /// # Errors
    /// Why it may not.
    fn judge<'a>(&'a self, request: &Request<'a>) -> Result<HttpPermit<'a>, Denied>;

    /// Whether a header may hold a secret that a rule compares it with: it is told without its value.
    fn is_secret(&self, _header: &str) -> bool {
        false
    }
}

/// Why a request may not go upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Denied {
    /// No rule allows it: 403.
    NotAllowed,
    /// Its host is no name that was learned for this address: 403.
    NameNotBound,
    /// On a connection that TLS named otherwise: 421.
    OtherName,
    /// There is no policy to ask, which is no decision: 503.
    NoPolicy,
}
