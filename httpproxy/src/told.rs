//! What the proxy tells of what happened.

use std::time::Instant;

use policy::{NameBinding, RuleId};

use crate::Redirected;
use crate::core::record::Told;

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum News {
    /// A connection was refused as a whole.
    Refused(Box<Refused>),
    /// Something about requests.
    Http(Redirected, Told),
    /// It was seen what a connection says that is bound to names.
    Named(Box<Named>),
    /// A tunnel that is no request's has ended: TLS by its server name, or what no rule looks into.
    Tunnel(Box<TunnelEnd>),
}

/// What a connection that is bound to names has said, where it is no request.
#[derive(Clone, Debug)]
pub struct Named {
    /// When.
    pub at: Instant,
    /// Which.
    pub redirected: Redirected,
    /// The rule that allows it, if it goes on.
    pub rule: RuleId,
    /// How strictly it is bound.
    pub mode: NameBinding,
    /// What it has said.
    pub said: Said,
}

/// What a connection says that is no request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Which server TLS is for.
    Server {
        /// The one that its client names.
        name: Option<String>,
        /// Whether that is one of the names that it is bound to. Else it is refused, or only audited.
        fits: bool,
    },
    /// It is neither TLS nor HTTP, which say no name.
    Nothing,
    /// What would be refused, were it not only audited.
    Unfit(Refusal),
}

/// The end of a tunnel.
#[derive(Clone, Debug)]
pub struct TunnelEnd {
    /// When.
    pub at: Instant,
    /// Since when there was something to move.
    pub begin: Instant,
    /// Of which connection.
    pub redirected: Redirected,
    /// The rule that allowed it.
    pub rule: RuleId,
    /// The server that a ClientHello named.
    pub server_name: Option<String>,
    /// Whether that had an encrypted one too: the name may stand for another, or that is GREASE.
    pub has_ech: bool,
    /// How.
    pub end: TunnelEnded,
    /// Octets to the server.
    pub sent: u64,
    /// Octets to the client.
    pub received: u64,
}

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelEnded {
    /// Both sides have ended.
    Closed,
    /// One side is gone.
    Gone,
    /// Nothing moved for too long.
    Idle,
    /// Policy allows it no longer.
    Revoked,
    /// A second ClientHello names another server than the first one, or is malformed.
    OtherName,
    /// The daemon ends.
    Stopped,
}

/// A connection that was refused: nothing of what its client said was sent on.
#[derive(Clone, Debug)]
pub struct Refused {
    /// When.
    pub at: Instant,
    /// Which.
    pub redirected: Redirected,
    /// Why.
    pub refusal: Refusal,
    /// The server that a ClientHello named.
    pub server_name: Option<String>,
    /// What else there is to say: the error of TLS, as it says it.
    pub remark: Option<String>,
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The server that a ClientHello names is not among those that may be named, or it names none.
    ServerName,
    /// The name in clear may not be the one that is meant: the ClientHello has an encrypted one.
    HiddenName,
    /// A ClientHello that is none.
    BadHello,
    /// TLS where there are rules for requests.
    TlsForHttp,
    /// Neither TLS nor HTTP where there are rules for one of them.
    Protocol,
    /// The server speaks first, so that it is neither.
    ServerFirst,
    /// The client said nothing, or too little, for too long.
    Silent,
    /// An HTTP/2 client that floods, or whose frames can't be read.
    Http2Abuse,
    /// An HTTP/2 request whose fields can't be read: its stream alone ends.
    Http2Request,
    /// The server sent what nobody had asked for: both sides end.
    Unasked,
    /// Too many connections.
    Full,
    /// The rules that end TLS have no certificate for the server that a client names.
    NoCertificate,
    /// The client offers no protocol that is served.
    Alpn,
    /// A client's handshake fails, where its TLS is ended.
    ClientTls,
    /// The server's certificate is not one of the server that is meant.
    ServerCertificate,
    /// The server's handshake fails otherwise.
    ServerTls,
    /// The server asks for a client's certificate, which can't be passed on.
    ClientCertificate,
}

impl Refusal {
    /// All of them, in order.
    pub const ALL: [Self; 17] = [
        Self::ServerName,
        Self::HiddenName,
        Self::BadHello,
        Self::TlsForHttp,
        Self::Protocol,
        Self::ServerFirst,
        Self::Silent,
        Self::Http2Abuse,
        Self::Http2Request,
        Self::Unasked,
        Self::Full,
        Self::NoCertificate,
        Self::Alpn,
        Self::ClientTls,
        Self::ServerCertificate,
        Self::ServerTls,
        Self::ClientCertificate,
    ];

    /// The word in counters and events.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::ServerName => "sni-not-allowed",
            Self::HiddenName => "server-name-may-be-hidden",
            Self::BadHello => "malformed-client-hello",
            Self::TlsForHttp => "tls-on-a-port-with-http-rules",
            Self::Protocol => "neither-http-nor-tls",
            Self::ServerFirst => "server-speaks-first",
            Self::Silent => "nothing-said-in-time",
            Self::Http2Abuse => "http2-abuse",
            Self::Http2Request => "malformed-http2-request",
            Self::Unasked => "server-sent-unasked",
            Self::Full => "too-many-connections",
            Self::NoCertificate => "no-certificate-for-server-name",
            Self::Alpn => "no-protocol-in-common",
            Self::ClientTls => "client-tls-failed",
            Self::ServerCertificate => "server-certificate-refused",
            Self::ServerTls => "server-tls-failed",
            Self::ClientCertificate => "server-asks-for-client-certificate",
        }
    }
}
