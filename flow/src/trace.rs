//! Where a packet was seen that passes, and what is known of its flow.

/// Where a packet was seen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TracePoint(u8);

/// Names in print, by number.
const POINTS: [&str; 14] = [
    "to-endpoint",
    "to-proxy",
    "to-host",
    "to-stack",
    "to-overlay",
    "from-endpoint",
    "from-proxy",
    "from-host",
    "from-stack",
    "from-overlay",
    "from-network",
    "to-network",
    "from-crypto",
    "to-crypto",
];

impl TracePoint {
    /// On its way to the workload. As a field of its own it has another number, 101.
    pub const TO_ENDPOINT: Self = Self(0);
    /// On its way to the proxy.
    pub const TO_PROXY: Self = Self(1);
    /// On its way to the node.
    pub const TO_STACK: Self = Self(3);
    /// As the workload sent it.
    pub const FROM_ENDPOINT: Self = Self(5);
    /// As the proxy sent it.
    pub const FROM_PROXY: Self = Self(6);

    const TO_ENDPOINT_FIELD: u8 = 101;

    /// The point with this number, as the event's sub type has it.
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        Self(number)
    }

    /// The number, as the event's sub type has it.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The number, as the flow's own field has it.
    #[must_use]
    pub const fn field_number(self) -> u8 {
        match self {
            Self::TO_ENDPOINT => Self::TO_ENDPOINT_FIELD,
            Self(number) => number,
        }
    }

    /// The name in print and in `--type trace:NAME`.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        POINTS.get(usize::from(self.0)).copied()
    }

    /// The point with this name in print.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let at = POINTS.iter().position(|point| *point == name)?;
        u8::try_from(at).ok().map(Self)
    }

    /// The value of JSON's `trace_observation_point`: a name, or the number of one that has none.
    pub(crate) fn json(self) -> Result<String, u8> {
        match self.name() {
            Some(name) => Ok(name.to_uppercase().replace('-', "_")),
            None if self.0 == Self::TO_ENDPOINT_FIELD => Ok("TO_ENDPOINT".to_owned()),
            None => Err(self.0),
        }
    }
}

/// What is known of the flow of a packet that was seen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub enum TraceReason {
    /// Nothing: it was not asked.
    #[default]
    Unknown,
    /// The packet begins it.
    New,
    /// It goes on.
    Established,
    /// It is answered.
    Reply,
    /// An ICMP error about it.
    Related,
    /// It begins anew; only other agents tell it, and those that follow.
    Reopened,
    /// It goes into SRv6.
    Srv6Encap,
    /// It comes out of SRv6.
    Srv6Decap,
    /// It goes into an overlay that is encrypted.
    EncryptOverlay,
}

impl TraceReason {
    const ALL: [Self; 9] = [
        Self::Unknown,
        Self::New,
        Self::Established,
        Self::Reply,
        Self::Related,
        Self::Reopened,
        Self::Srv6Encap,
        Self::Srv6Decap,
        Self::EncryptOverlay,
    ];

    /// The name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "TRACE_REASON_UNKNOWN",
            Self::New => "NEW",
            Self::Established => "ESTABLISHED",
            Self::Reply => "REPLY",
            Self::Related => "RELATED",
            Self::Reopened => "REOPENED",
            Self::Srv6Encap => "SRV6_ENCAP",
            Self::Srv6Decap => "SRV6_DECAP",
            Self::EncryptOverlay => "ENCRYPT_OVERLAY",
        }
    }

    /// The reason of this name, case counts.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }

    /// The reason of this number.
    #[must_use]
    pub fn from_number(number: usize) -> Option<Self> {
        Self::ALL.get(number).copied()
    }
}
