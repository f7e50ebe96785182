//! Every bound of the HTTP path, with its unit and with what happens beyond it.

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

/// Empty lines before a request line that are skipped (RFC 9112 §2.2); one more is answered 400.
pub const LEADING_LINES_MAX: usize = 4;
