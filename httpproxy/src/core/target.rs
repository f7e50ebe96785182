//! The target of a request: its form, and the path that is judged.

use std::borrow::Cow;

use super::head::refusal::BadHead;
use super::host::Authority;
use super::step::Scheme;

/// What a request is for, before its path is brought into normal form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    /// A path with its query, or `*`.
    Path(Cow<'a, [u8]>),
    /// A tunnel to an authority.
    Tunnel(Authority<'a>),
}

/// Reads a target in the form that fits its method (RFC 9112 §3.2). A host in it must be the Host.
pub(crate) fn read_target<'a>(
    method: &str,
    target: &'a [u8],
    (host, scheme): (Option<&str>, Scheme),
) -> Result<Target<'a>, BadHead> {
    if method == "CONNECT" {
        let authority = Authority::read(target).map_err(|_| BadHead::TargetForm)?;
        let port = authority.port.ok_or(BadHead::TargetForm)?;
        check_host(&authority, host, port)?;
        return Ok(Target::Tunnel(authority));
    }
    match target {
        b"*" if method == "OPTIONS" => Ok(Target::Path(Cow::Borrowed(target))),
        [b'/', ..] => Ok(Target::Path(Cow::Borrowed(target))),
        _ => absolute(target, (host, scheme)).map(Target::Path),
    }
}

/// The path of an absolute form, which goes upstream in origin form.
fn absolute<'a>(
    target: &'a [u8],
    (host, scheme): (Option<&str>, Scheme),
) -> Result<Cow<'a, [u8]>, BadHead> {
    let written = scheme.text().len();
    let (start, rest) = target
        .split_at_checked(written)
        .ok_or(BadHead::TargetForm)?;
    let rest = rest.strip_prefix(b"://").ok_or(BadHead::TargetForm)?;
    if !start.eq_ignore_ascii_case(scheme.text().as_bytes()) {
        return Err(BadHead::TargetForm);
    }
    let end = rest
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?' | b'#'));
    let (authority, path) = rest
        .split_at_checked(end.unwrap_or(rest.len()))
        .unwrap_or_default();
    check_host(&Authority::read(authority)?, host, scheme.port())?;
    match path {
        [b'/', ..] => Ok(Cow::Borrowed(path)),
        _ => Ok(Cow::Owned([b"/", path].concat())),
    }
}

fn check_host(
    authority: &Authority<'_>,
    host: Option<&str>,
    default_port: u16,
) -> Result<(), BadHead> {
    let host = Authority::read(host.ok_or(BadHead::NoHost)?.as_bytes())?;
    match authority.is_same(&host, default_port) {
        true => Ok(()),
        false => Err(BadHead::OtherHost),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absolute_target_is_the_path_behind_its_host() {
        for (target, expected) in [
            ("http://shop.test", Some("/")),
            ("http://shop.test/", Some("/")),
            ("http://shop.test?q", Some("/?q")),
            ("http://shop.test?q=/../x", Some("/?q=/../x")),
            ("HTTP://SHOP.test:80/a?q", Some("/a?q")),
            ("http://shop.test//a", Some("//a")),
            ("https://shop.test/a", None),
            ("http://shop.test:81/a", None),
            ("http://a@shop.test/a", None),
            ("http://shop.test.evil.test/a", None),
            ("http:///a", None),
            ("http:/shop.test/a", None),
            ("http:", None),
            ("shop.test/a", None),
            ("", None),
        ] {
            let given = (Some("shop.test"), Scheme::Http);
            let read = read_target("GET", target.as_bytes(), given).ok();
            let path = expected.map(|path| Target::Path(Cow::Borrowed(path.as_bytes())));
            assert_eq!(read, path, "{target}");
        }
    }
}
