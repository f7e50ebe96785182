//! Why a flow asked for no rule.

/// Why a flow asked for no rule. The order is that of the report.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Skip {
    /// It answers another flow.
    Reply,
    /// Policy refused it, and refused flows were not asked for.
    Denied,
    /// Dropped for another reason than a missing rule, failed, or only seen on its way.
    Verdict,
    /// It doesn't say which side's policy is meant.
    Direction,
    /// The side whose policy is meant is no pod: the host, for example.
    NotAWorkload,
    /// Another namespace or pod than was asked for.
    OutOfScope,
    /// The other side has neither labels nor a reserved identity nor an address.
    PeerUnknown,
    /// No label tells a pod apart.
    NoLabels,
    /// A label or a namespace that no policy can hold.
    BadLabel,
    /// A protocol without ports, or port 0, which in a policy is every port.
    NoPort,
    /// An ICMP answer or error, which needs no rule.
    IcmpAnswer,
    /// A DNS name that no policy can hold.
    BadName,
    /// A method or path that no policy can hold.
    BadRequest,
    /// A DNS message and an HTTP request on the same port.
    Mixed,
    /// One workload over [`super::limits::WORKLOADS_MAX`].
    Workloads,
    /// One peer over [`super::limits::PEERS_MAX`].
    Peers,
    /// One port over [`super::limits::PORTS_MAX`].
    Ports,
    /// One name over [`super::limits::NAMES_MAX`].
    Names,
    /// One request over [`super::limits::REQUESTS_MAX`].
    Requests,
    /// One over [`super::limits::FACTS_MAX`].
    Facts,
}

impl Skip {
    /// What such flows are, in the plural.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Reply => "replies",
            Self::Denied => "denied by policy (--include-denied takes them)",
            Self::Verdict => "dropped, failed or only traced",
            Self::Direction => "of unknown direction",
            Self::NotAWorkload => "of no pod",
            Self::OutOfScope => "of other pods",
            Self::PeerUnknown => "with an unknown peer",
            Self::NoLabels => "of pods without labels",
            Self::BadLabel => "with labels that no policy can hold",
            Self::NoPort => "without a port",
            Self::IcmpAnswer => "ICMP answers and errors",
            Self::BadName => "with a name that no policy can hold",
            Self::BadRequest => "with a request that no policy can hold",
            Self::Mixed => "with HTTP and DNS on one port",
            Self::Workloads => "over the limit of workloads",
            Self::Peers => "over the limit of peers of a workload",
            Self::Ports => "over the limit of ports of a peer",
            Self::Names => "over the limit of names asked of a server",
            Self::Requests => "over the limit of requests on a port",
            Self::Facts => "over the limit of a whole policy file",
        }
    }

    /// Whether the policy lacks something that the workload did.
    pub(crate) const fn is_loss(self) -> bool {
        match self {
            Self::Reply
            | Self::Denied
            | Self::Verdict
            | Self::Direction
            | Self::NotAWorkload
            | Self::OutOfScope
            | Self::IcmpAnswer => false,
            Self::PeerUnknown
            | Self::NoLabels
            | Self::BadLabel
            | Self::NoPort
            | Self::BadName
            | Self::BadRequest
            | Self::Mixed
            | Self::Workloads
            | Self::Peers
            | Self::Ports
            | Self::Names
            | Self::Requests
            | Self::Facts => true,
        }
    }
}
