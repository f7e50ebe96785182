//! Every bound of the HTTP path, with its unit and with what happens beyond it. Some are defaults, for
//! which `namegate run` has an option.

use std::time::Duration;

/// Connections of one endpoint at a time; one more is reset.
pub const CONNECTIONS_PER_ENDPOINT_MAX: usize = 4_096;
/// Connections of all endpoints at a time; one more is reset.
pub const CONNECTIONS_MAX: usize = 50_000;
/// How long a server may take to accept a connection; then the client's is reset.
pub const CONNECT_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long a client may say nothing that tells its protocol; then its connection is closed.
pub const DETECT_WAIT_MAX: Duration = Duration::from_secs(15);
/// How long a ClientHello may take from its first octet; then the connection is reset.
pub const HELLO_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a handshake of TLS that is ended or begun here may take, on each side; then it has failed.
pub const TLS_WAIT_MAX: Duration = Duration::from_secs(10);
/// Octets of a tunnel, in one direction, after which what follows goes through a pipe.
pub const TUNNEL_BULK_AFTER_OCTETS: u64 = 1 << 20;
/// Octets of a body that are still to come, from which on they go through a pipe.
pub const BODY_BULK_OCTETS_MIN: u64 = 256 << 10;
/// Pipes that are in use at a time, for large bodies and long tunnels; beyond them octets are copied.
pub const PIPES_MAX: usize = 256;
/// Octets that a tunnel holds for a side that doesn't take them; then the other side isn't read.
pub const TUNNEL_OCTETS_MAX: usize = 64 << 10;

/// Octets of a ClientHello as a handshake message; a longer one is malformed.
pub const HELLO_OCTETS_MAX: usize = 64 * 1024;
/// Octets of all records up to the end of a ClientHello; more is malformed.
pub const HELLO_WIRE_OCTETS_MAX: usize = 65_540;
/// Octets of one TLS record's payload (RFC 8446 §5.1, for plaintext); a longer one is malformed.
pub const RECORD_OCTETS_MAX: usize = 16_384;
/// Octets of a server name (RFC 1035 §2.3.4, as text); a longer one is malformed.
pub const SERVER_NAME_OCTETS_MAX: usize = 253;
/// Octets of one label of a server name; a longer one is malformed.
pub const LABEL_OCTETS_MAX: usize = 63;
/// Protocols that one ALPN extension may offer; more is malformed.
pub const ALPN_PROTOCOLS_MAX: usize = 64;

/// Octets of the handshake that one QUIC connection's Initials hold; more is refused.
pub const QUIC_CRYPTO_OCTETS_MAX: usize = 16 * 1024;
/// Pieces of them with gaps between; one more is refused.
pub const QUIC_SEGMENTS_MAX: usize = 64;
/// QUIC connections of one flow whose Initials are read; with one more the oldest gives way that was judged,
/// and where none was, it is refused.
pub const QUIC_CONNECTIONS_MAX: usize = 4;
/// Those of a flow that gave way; then no more does, and one more is refused.
pub const QUIC_FORGOTTEN_MAX: usize = 256;
/// Packets with long headers in one datagram; one more is refused.
pub const QUIC_PACKETS_MAX: usize = 16;
/// Octets of a connection ID in QUIC's versions 1 and 2 (RFC 9000 §17.2); a longer one is malformed.
pub const QUIC_CONNECTION_ID_OCTETS_MAX: usize = 20;
/// Octets of a datagram with an Initial (RFC 9000 §14.1); a shorter one is refused.
pub const QUIC_INITIAL_DATAGRAM_OCTETS_MIN: usize = 1_200;

/// Empty lines before a request line that are skipped (RFC 9112 §2.2); one more is answered 400.
pub const LEADING_LINES_MAX: usize = 4;
/// Octets of a request line or status line; a longer request line is answered 414.
pub const START_LINE_OCTETS_MAX: usize = 32 * 1024;
/// Octets of a head, to its empty line; a longer one is answered 431.
pub const HEAD_OCTETS_MAX: usize = 64 * 1024;
/// Field lines of a head; one more is answered 431.
pub const FIELDS_MAX: usize = 100;
/// Octets of a field's name; a longer one is answered 431.
pub const FIELD_NAME_OCTETS_MAX: usize = 256;
/// Octets of a field's value; a longer one is answered 431.
pub const FIELD_VALUE_OCTETS_MAX: usize = 32 * 1024;

/// Octets of a body that are held in one direction while the other side is slow; beyond them nothing
/// more is read.
pub const BODY_BUFFER_OCTETS_MAX: usize = 64 * 1024;
/// Digits of a chunk's size, zeros before it included; one more is answered 400.
pub const CHUNK_SIZE_DIGITS_MAX: usize = 32;
/// Octets of one chunk's extension; more is answered 400.
pub const CHUNK_EXTENSION_OCTETS_MAX: usize = 256;
/// Octets of all extensions of a body; more is answered 400.
pub const BODY_EXTENSION_OCTETS_MAX: usize = 16 * 1024;
/// Fields of a trailer section; one more is answered 400.
pub const TRAILERS_MAX: usize = 32;
/// Octets of a trailer section; more is answered 400.
pub const TRAILER_OCTETS_MAX: usize = 8 * 1024;

/// Octets of an unwanted body that are read and dropped, so that its connection can be kept or its
/// answer arrives; beyond them the connection is closed.
pub const DRAIN_OCTETS_MAX: u64 = 64 * 1024;
/// How long that may take.
pub const DRAIN_WAIT: Duration = Duration::from_secs(1);
/// Interim responses to one request; one more is answered 502.
pub const INTERIM_RESPONSES_MAX: u32 = 100;
/// How long a connection may rest between two requests, before it is closed.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// How long a head may take from its first octet; then 408.
pub const HEAD_WAIT: Duration = Duration::from_secs(10);
/// How long a body may rest; then both sides are closed.
pub const STREAM_IDLE: Duration = Duration::from_secs(300);
/// How long nothing may move through a tunnel; then both sides are reset.
pub const TUNNEL_IDLE: Duration = Duration::from_secs(3600);
/// After which silence of the server a client that waits for a 100 gets one of ours.
pub const CONTINUE_WAIT: Duration = Duration::from_millis(250);

/// Streams of an HTTP/2 client at a time; one more is refused.
pub const HTTP2_STREAMS_MAX: u32 = 100;
/// Octets of the fields of a head, as RFC 9113 §6.5.2 counts them; more are answered 431.
pub const HTTP2_HEADER_LIST_OCTETS_MAX: u32 = 64 * 1024;
/// Octets of one frame; a longer one ends the connection.
pub const HTTP2_FRAME_OCTETS_MAX: u32 = 16 * 1024;
/// Octets of HPACK's table, for each direction; a larger one ends the connection.
pub const HTTP2_TABLE_OCTETS_MAX: usize = 4096;
/// Octets of one body that are on their way through; beyond them the sender has to wait.
pub const HTTP2_STREAM_WINDOW_OCTETS: u32 = 256 * 1024;
/// The same for all bodies of a connection in one direction.
pub const HTTP2_CONNECTION_WINDOW_OCTETS: u32 = 1024 * 1024;
/// What small frames of content that nobody has read yet may cost (256 less its length each); more end
/// the connection. They are read as they come, so that no window is too small for them.
pub const HTTP2_DATA_FRAMES_COST_MAX: usize = 4 * 1024 * 1024;
/// Frames that go on with one header block; one more ends the connection.
pub const HTTP2_CONTINUATIONS_MAX: u32 = 8;
/// Frames without content, beyond those that streams justify, in ten seconds; more end the connection.
pub const HTTP2_CONTROL_FRAMES_MAX: u32 = 1000;
/// How many of them streams may justify in advance.
pub const HTTP2_JUSTIFIED_MAX: u32 = 4096;
/// Streams that a client resets in [`HTTP2_RESETS_WINDOW`]; more end the connection, if they are most
/// of all.
pub const HTTP2_RESETS_MAX: u32 = 100;
/// See [`HTTP2_RESETS_MAX`].
pub const HTTP2_RESETS_WINDOW: Duration = Duration::from_secs(30);
/// Requests with a flaw that wait for their answer; more end the connection.
pub const HTTP2_FLAWS_MAX: usize = 256;
/// How often an HTTP/2 client with open streams is asked whether it lives.
pub const HTTP2_PING_EVERY: Duration = Duration::from_secs(60);
/// How long its answer may take; then the connection is reset.
pub const HTTP2_PING_WAIT: Duration = Duration::from_secs(20);

/// Octets of a URL that a record tells; the rest is cut off.
pub const TOLD_URL_OCTETS_MAX: usize = 2048;
/// Fields that a record tells; the rest is left out.
pub const TOLD_FIELDS_MAX: usize = 64;
/// Octets of a field's value that a record tells; the rest is cut off.
pub const TOLD_VALUE_OCTETS_MAX: usize = 256;
/// Octets of a malformed request's first line that a record tells; the rest is cut off.
pub const TOLD_LINE_OCTETS_MAX: usize = 128;

/// Datagrams of a QUIC flow that wait until its ClientHello is whole; with one more they are all given up, and
/// what the client sends again is read anew.
pub const QUIC_HELD_MAX: usize = 4;
/// Octets of them, likewise.
pub const QUIC_HELD_OCTETS_MAX: usize = 16 << 10;
/// How long they wait, likewise.
pub const QUIC_HELD_WAIT_MAX: Duration = Duration::from_millis(500);
/// How long a QUIC flow may rest on both sides; then it has ended, and goes on only with a new ClientHello.
pub const QUIC_IDLE_MAX: Duration = Duration::from_secs(180);
/// QUIC connections of all flows at a port that are remembered, as long as their flows live and as long again as
/// such a flow may rest; one more is refused.
pub const QUIC_BEGUN_MAX: usize = 65_536;
/// How long a QUIC flow may rest in which nothing was allowed; then it is forgotten.
pub const QUIC_UNOPENED_REST: Duration = Duration::from_secs(10);
/// How often it is looked at what waits or rests.
pub(crate) const QUIC_STEP: Duration = Duration::from_millis(100);
/// Octets of a datagram; a longer one is lost, as beyond an MTU.
pub const QUIC_DATAGRAM_OCTETS_MAX: usize = 9_216;
/// Datagrams that are read or written at once.
pub(crate) const QUIC_BATCH: usize = 32;
