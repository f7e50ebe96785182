//! The host of a request: what a Host field, or the authority of a target, must look like.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::head::refusal::BadHead;

/// An authority in its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Authority<'a> {
    /// The name or address; IPv6 in brackets.
    pub(crate) name: &'a str,
    pub(crate) port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// Reads a name, an IPv4 or a bracketed IPv6 address, with a port or without. No user, no escape,
    /// no list: what two servers may read in two ways is refused.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, BadHead> {
        let text = str::from_utf8(bytes).map_err(|_| BadHead::Host)?;
        let end = match text.starts_with('[') {
            true => text.find(']').map_or(0, |end| end + 1),
            false => text.find(':').unwrap_or(text.len()),
        };
        let (name, rest) = text.split_at_checked(end).ok_or(BadHead::Host)?;
        let is_name = match name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'))
        {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => !name.is_empty() && name.bytes().all(is_name_byte),
        };
        let port = match rest.strip_prefix(':') {
            None if rest.is_empty() => None,
            None => return Err(BadHead::Host),
            Some(digits) => Some(port(digits).ok_or(BadHead::Host)?),
        };
        match is_name {
            true => Ok(Self { name, port }),
            false => Err(BadHead::Host),
        }
    }

    /// Whether both are the same host: case aside, and with the scheme's own port or without it.
    pub(crate) fn is_same(&self, other: &Authority<'_>, default_port: u16) -> bool {
        self.name.eq_ignore_ascii_case(other.name)
            && self.port.unwrap_or(default_port) == other.port.unwrap_or(default_port)
    }

    /// The address, if it is one.
    pub(crate) fn address(&self) -> Option<std::net::IpAddr> {
        let inner = self.name.trim_start_matches('[').trim_end_matches(']');
        match inner.parse::<Ipv4Addr>() {
            Ok(address) => Some(address.into()),
            Err(_) => inner.parse::<Ipv6Addr>().ok().map(Into::into),
        }
    }
}

fn port(digits: &str) -> Option<u16> {
    let are_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
    (are_digits && digits.len() <= 5).then(|| digits.parse().ok())?
}

/// A reg-name (RFC 3986 §3.2.2) without escapes and commas.
const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b';'
                | b'='
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_a_port_or_without() {
        for (text, name, port) in [
            ("shop.test", "shop.test", None),
            ("SHOP.test:80", "SHOP.test", Some(80)),
            ("shop.test.", "shop.test.", None),
            ("_a-b.test:65535", "_a-b.test", Some(65535)),
            ("10.0.0.1:8080", "10.0.0.1", Some(8080)),
            ("[::1]", "[::1]", None),
            ("[2001:db8::1]:443", "[2001:db8::1]", Some(443)),
        ] {
            assert_eq!(
                Authority::read(text.as_bytes()),
                Ok(Authority { name, port }),
                "{text}"
            );
        }
        for text in [
            &b""[..],
            b":80",
            b"a:",
            b"a:65536",
            b"a:+1",
            b"a:8 0",
            b"a b",
            b"a,b",
            b"a/b",
            b"u@a",
            b"a%2e",
            b"[::1",
            b"[::1]x",
            b"[a]",
            b"::1",
            b"a:1:2",
            b"a\xc3\xa9",
            b"a\0",
            b"a?b",
            b"a#b",
            b"[",
            b"]",
            b"a\\b",
            b"<a>",
            b"a:000080",
        ] {
            let name = String::from_utf8_lossy(text);
            assert_eq!(Authority::read(text), Err(BadHead::Host), "{name}");
        }
    }

    #[test]
    fn hosts_are_the_same_without_case_and_default_port() {
        for (one, other, expected) in [
            ("shop.test", "SHOP.test", true),
            ("shop.test:80", "shop.test", true),
            ("shop.test:81", "shop.test", false),
            ("shop.test.", "shop.test", false),
            ("shop.test", "evil.test", false),
        ] {
            let read = |text: &'static str| Authority::read(text.as_bytes()).unwrap();
            assert_eq!(
                read(one).is_same(&read(other), 80),
                expected,
                "{one} {other}"
            );
        }
    }
}
