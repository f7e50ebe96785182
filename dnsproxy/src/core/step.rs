//! What every step of an exchange is given, and the words for how a step fails.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::Guard;
use fqdn::PatternSet;
use policy::{EndpointId, L4Protocol};

use super::record::Records;
use super::tunnels::TunnelMode;
use crate::limits::{TCP_UPSTREAM_WAIT_MAX, UDP_ANSWER_OCTETS_MAX, UDP_UPSTREAM_WAIT_MAX};
use crate::refuse::Ede;
use crate::words::words;

/// Who asks whom: the mark, the source and the original destination of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The endpoint that asks, by its mark.
    pub endpoint: EndpointId,
    /// The client's address and port.
    pub client: SocketAddr,
    /// The server that the client meant.
    pub server: SocketAddr,
    /// By which protocol.
    pub protocol: L4Protocol,
}

/// The options of the DNS path.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How a denial is answered.
    pub deny_response: DenyResponse,
    /// How long a query over UDP waits for its answer.
    pub udp_wait: Duration,
    /// How long a query over TCP waits for its answer.
    pub tcp_wait: Duration,
    /// What the client gets when that is over.
    pub on_timeout: OnTimeout,
    /// The UDP size that a query may announce upstream; `None` leaves what the client said.
    pub clamp_size: Option<u16>,
    /// Whether an answer must repeat the case of its question.
    pub case: Case,
    /// Whether a query is made anew, so that nothing of it but the question and three flags is the client's.
    pub scrub: bool,
    /// Whether questions for IPv6 addresses are answered that there are none.
    pub no_aaaa: bool,
    /// What becomes of HTTPS and SVCB records.
    pub https: Https,
    /// What becomes of names by which clients find encrypted DNS.
    pub encrypted: Encrypted,
    /// The names of public resolvers.
    pub resolvers: Arc<PatternSet<()>>,
    /// What is done about names that look like data.
    pub tunnels: TunnelMode,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            deny_response: DenyResponse::Auto,
            udp_wait: UDP_UPSTREAM_WAIT_MAX,
            tcp_wait: TCP_UPSTREAM_WAIT_MAX,
            on_timeout: OnTimeout::ServFail,
            clamp_size: Some(UDP_ANSWER_OCTETS_MAX),
            case: Case::Any,
            scrub: false,
            no_aaaa: false,
            https: Https::Pass,
            encrypted: Encrypted::Allow,
            resolvers: Arc::new(PatternSet::new()),
            tunnels: TunnelMode::Report,
        }
    }
}

/// How a denial is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenyResponse {
    /// As the denial says: the answer that stalls no stub resolver.
    Auto,
    /// REFUSED.
    Refused,
    /// NXDOMAIN.
    NxDomain,
    /// NOERROR without data.
    NoData,
    /// Nothing.
    Drop,
}

/// What becomes of HTTPS and SVCB records (RFC 9460), by which a client learns the key to hide the name that it
/// connects to (Encrypted Client Hello).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Https {
    /// They pass.
    Pass,
    /// They pass without that key: a signature of theirs doesn't fit any more.
    NoEch,
    /// There are none.
    NoData,
}

/// What becomes of names by which clients find encrypted DNS: those of public resolvers, and those that ask
/// whether it is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encrypted {
    /// They are judged as any other.
    Allow,
    /// The same, and told.
    Report,
    /// They don't exist.
    Block,
}

/// What a client gets whose server does not answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnTimeout {
    /// SERVFAIL: a stub with two servers moves on.
    ServFail,
    /// Nothing.
    Silence,
}

/// Which case of letters an answer's question may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Case {
    /// Any: some servers fold it.
    Any,
    /// The query's own.
    Strict,
}

/// What a step of an exchange has at hand.
#[derive(Debug)]
pub struct Step<'a> {
    /// The time, read by the shell.
    pub now: Instant,
    /// The options.
    pub settings: Guard<Arc<Settings>>,
    /// Where finished exchanges go.
    pub records: &'a Records,
    /// Where the step appends the bytes of what it sends; what is there already stays.
    pub out: &'a mut Vec<u8>,
}

/// Bytes for the client were appended to [`Step::out`]: they go from the origin's server to its
/// client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the bytes must be sent"]
pub struct Reply {
    /// Whose exchange it was.
    pub origin: Origin,
}

words! {
    /// Why a client gets SERVFAIL.
    pub enum Fault {
        /// No policy is known for the endpoint: a "no" must be a decision.
        NoPolicy = "no-policy",
        /// The verdict was for another query; no such thing may go on.
        PermitMismatch = "permit-mismatch",
        /// The endpoint, or the node, has too many queries outstanding.
        Outstanding = "outstanding",
        /// No id was free for the pool member.
        NoId = "no-id",
        /// The query could not be sent.
        SendFailed = "send-failed",
        /// The server can't be reached (ICMP error, connection refused or reset).
        Unreachable = "unreachable",
        /// The server did not answer in time.
        Timeout = "timeout",
        /// Too many messages pretended to be the answer.
        Guessing = "guessing",
        /// The answer section can't be read.
        InvalidAnswer = "invalid-answer",
        /// The answer's chain of aliases is too long.
        Chain = "chain",
        /// The answer, the name or the endpoint has too many addresses.
        TooMany = "too-many",
        /// The addresses were installed too late.
        InstallTimeout = "install-timeout",
        /// A map of the datapath is full.
        MapFull = "map-full",
        /// The kernel refused a write.
        Kernel = "kernel",
        /// The answer names an address that none may open, and the option says that it is withheld then.
        Rebinding = "rebinding",
    }
}

impl Fault {
    /// The extended error that goes with it.
    #[must_use]
    pub const fn ede(self) -> Ede {
        match self {
            Self::NoPolicy
            | Self::PermitMismatch
            | Self::Outstanding
            | Self::NoId
            | Self::TooMany
            | Self::InstallTimeout
            | Self::MapFull
            | Self::Kernel => Ede::NotReady,
            Self::SendFailed | Self::Unreachable => Ede::NetworkError,
            Self::Timeout => Ede::NoReachableAuthority,
            Self::Guessing | Self::InvalidAnswer | Self::Chain => Ede::InvalidData,
            Self::Rebinding => Ede::Filtered,
        }
    }
}
