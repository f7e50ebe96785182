//! The bounds of this crate; each says what happens beyond it.

use std::time::Duration;

/// Connections at once by one way in, the unix socket or TCP; one more is closed at once, and counted.
pub const CONNECTIONS_MAX: usize = 128;

/// How long a client on TCP may take to show its certificate; then its connection is closed.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// Streams at once by one way in, the unix socket or TCP; one more is refused as `RESOURCE_EXHAUSTED`, and counted.
pub const STREAMS_MAX: usize = 64;

/// Flow filters of one request; more are refused as `INVALID_ARGUMENT`.
pub const FILTERS_MAX: usize = 256;

/// Octets of a request; more are refused by the protocol.
pub const REQUEST_OCTETS_MAX: usize = 1 << 20;

/// Namespaces that are remembered; one more is left out of the list.
pub const NAMESPACES_MAX: usize = 1024;

/// Agent events that are kept; the oldest goes.
pub const AGENT_EVENTS_MAX: usize = 1024;

/// Events that wait to be told to a file, a collector or the journal; more are lost, counted, and told there.
pub const SINK_FLOWS_MAX: usize = 65_536;

/// Groups of flows that are alike, which one file counts at once; a flow of a further one is told by itself.
pub const GROUPS_MAX: usize = 8_192;

/// Octets of the log records that a collector is sent at once, unless one alone is longer; more are sent
/// apart. Collectors refuse messages of more than 4 MiB.
pub const COLLECTOR_OCTETS_MAX: usize = 1 << 20;

/// Series of one metric of flows; what is beyond is counted in a series whose labels all say `other`, and
/// counted as such.
pub const SERIES_MAX: usize = 2_000;

/// Scrapers at once; one more is told so with 503, and counted.
pub const SCRAPERS_MAX: usize = 16;
