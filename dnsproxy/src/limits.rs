//! Every bound of the DNS path, with its unit and with what happens beyond it.

use std::time::Duration;

/// Octets of a query over UDP; a longer one is answered FORMERR.
pub const UDP_QUERY_OCTETS_MAX: usize = 1232;
/// Octets that we let a client announce to a server over UDP; a larger figure is overwritten, since
/// larger answers come in fragments, which can be spoofed.
pub const UDP_ANSWER_OCTETS_MAX: u16 = 1232;
/// Octets of any UDP answer to a client: what fits into one datagram. A longer one becomes TC=1.
pub const UDP_PAYLOAD_OCTETS_MAX: usize = 65_507;
/// Octets that a client without EDNS takes over UDP (RFC 1035 §4.2.1).
pub const UDP_PLAIN_OCTETS: u16 = 512;
/// Octets by which an answer of our own may exceed its query; our texts are chosen to fit.
pub const OWN_ANSWER_GROWTH_MAX: usize = 50;

/// Jumps within one compressed name; one more makes the answer invalid.
pub const POINTER_JUMPS_MAX: usize = 128;
/// Names that CNAMEs may add to the question's; one more is answered SERVFAIL, `chain`.
pub const CHAIN_NAMES_MAX: usize = 16;
/// CNAME and DNAME records in one answer; one more is answered SERVFAIL, `chain`.
pub const ALIASES_PER_ANSWER_MAX: usize = 64;
/// Addresses in one answer; one more is answered SERVFAIL, `too-many`.
pub const ADDRESSES_PER_ANSWER_MAX: usize = 1000;

/// Types of answer records that an event tells; the others are left out of it.
pub const RECORD_TYPES_TOLD_MAX: usize = 64;

/// Queries of one endpoint that wait for an answer; one more is answered SERVFAIL.
pub const OUTSTANDING_PER_ENDPOINT_MAX: u32 = 2048;
/// Queries of all endpoints that wait for an answer; from it to twice of it an endpoint is let in
/// only while it holds less than its share; any other gets SERVFAIL.
pub const OUTSTANDING_PER_NODE_MAX: u32 = 8192;
/// Equal queries (client, server, id, question) that wait at once; one more ends the oldest.
pub const EQUAL_OUTSTANDING_MAX: usize = 4;
/// Draws for an id that no outstanding query of the pool member has; then SERVFAIL.
pub const ID_DRAWS_MAX: usize = 64;
/// Answers rejected for one exchange; then it ends with SERVFAIL: somebody is guessing.
pub const REJECTED_PER_EXCHANGE_MAX: u8 = 10;

/// How long a query over UDP waits for its answer; then SERVFAIL. Below glibc's 5 s, so that a stub
/// with two servers moves on.
pub const UDP_UPSTREAM_WAIT_MAX: Duration = Duration::from_millis(4500);
/// How long a query over TCP waits for its answer; then SERVFAIL.
pub const TCP_UPSTREAM_WAIT_MAX: Duration = Duration::from_millis(9500);

/// Error answers to malformed input, per second and endpoint; the rest is silent and counted. A denial by policy never counts here.
pub const ERROR_ANSWERS_PER_SEC_MAX: u32 = 100;
/// Endpoints of a node, as the datapath's map holds them. Beyond it: no error answer within that
/// second, and no promise of a place among the outstanding when the node's limit is reached.
pub const ENDPOINTS_MAX: u32 = 4096;
/// Finished exchanges that wait to be drained; one more is lost, and counted as lost.
pub const TOLD_WAITING_MAX: usize = 65_536;

/// Octets that a TCP connection's reader holds: one whole frame and one more read.
pub const TCP_BUFFER_OCTETS_MAX: usize = 2 * (2 + 65_535);
/// How long one frame may take from its first byte to its last; then the connection is closed.
pub const TCP_FRAME_WAIT_MAX: Duration = Duration::from_secs(5);
/// Queries of one TCP connection that wait for an answer; reading stops until one has it.
pub const TCP_OUTSTANDING_MAX: usize = 64;
/// Malformed frames in a row on one TCP connection; then it is closed.
pub const TCP_MALFORMED_MAX: u8 = 3;

/// Messages that a server sends over one TCP connection and that answer nothing outstanding, since its last
/// answer; then the connection is closed, and what waits on it is answered SERVFAIL.
pub const TCP_REJECTED_MAX: u8 = 10;

/// Upstream sockets of one worker; what is left to guess for somebody who saw one port.
pub const POOL_MEMBERS: usize = 16;
/// Queries through one upstream socket; then it is replaced.
pub const POOL_USES_MAX: u32 = 4096;
/// Life of an upstream socket; then it is replaced with its next use.
pub const POOL_AGE_MAX: Duration = Duration::from_secs(10);

/// TCP connections of one endpoint; then the oldest idle one is closed, and where none is idle the
/// new one is refused.
pub const TCP_CONNECTIONS_PER_ENDPOINT_MAX: usize = 64;
/// How long a TCP connection may be without outstanding queries, where no server says another time; then it
/// is closed.
pub const TCP_IDLE_MAX: Duration = Duration::from_secs(30);
/// The longest such time that a server may say (edns-tcp-keepalive, RFC 7828).
pub const TCP_KEEPALIVE_MAX: Duration = Duration::from_secs(120);
/// Octets that wait for a slow reader of a TCP connection; then it is closed.
pub const TCP_UNREAD_OCTETS_MAX: usize = 256 << 10;

/// Queries of one worker over UDP that are noted for the next daemon until they are answered, should this
/// one die; one more takes another's place, which a crash then loses.
pub const WAITING_PER_WORKER_MAX: usize = 4_096;
/// Octets of a query that is noted so; a longer one is lost with a crash.
pub const WAITING_OCTETS_MAX: usize = 256;
/// Age of a query that is asked again by the next daemon; whoever asked an older one has asked again
/// or given up.
pub const WAITING_AGE_MAX: Duration = Duration::from_secs(4);
/// Queries of the daemon's own that wait for their worker; one more is not asked.
pub const OWN_QUERIES_MAX: usize = 256;
/// Datagrams that are thrown away from a socket that nobody read for longer; what is left is answered.
pub const STALE_DATAGRAMS_MAX: usize = 65_536;

/// How long names under a pattern are counted together, in a window that slides by a twelfth of it.
pub const TUNNEL_WINDOW: Duration = Duration::from_secs(60);
/// Names of one endpoint under one pattern in that time; with one more they look like a tunnel.
pub const TUNNEL_NAMES_MAX: usize = 300;
/// Octets that such names have before what the pattern names, in that time; with one more likewise.
pub const TUNNEL_OCTETS_MAX: usize = 20_000;
/// How long new names under a pattern are denied that looks like a tunnel, where that is wanted.
pub const TUNNEL_CLOSED: Duration = Duration::from_secs(600);
/// Patterns, by what they name, that are watched for one endpoint at a time. One more is denied where tunnels are,
/// else not watched, and counted.
pub const TUNNEL_WATCHED_PER_ENDPOINT_MAX: usize = 512;
/// The same for all endpoints: beyond it whoever has most gives one up.
pub const TUNNEL_WATCHED_MAX: usize = 4_096;
