//! What is taken out of HTTP messages before anybody is told of them, by Hubble's options.

use std::borrow::Cow;
use std::collections::BTreeSet;

/// What stands for a value that is not told.
pub const REDACTED: &str = "HUBBLE_REDACTED";

/// What is not told of HTTP messages. The default is what holds without any option: passwords in URLs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Redaction {
    /// URLs end before their query and fragment.
    pub url_query: bool,
    /// Passwords in URLs are not told.
    pub user_info: bool,
    /// Which values of header fields are not told; none for all that are.
    pub headers: Option<HeaderLists>,
}

/// Names of header fields, in lower case.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct HeaderLists {
    /// Those whose values are told.
    pub allow: BTreeSet<String>,
    /// Those whose values are not.
    pub deny: BTreeSet<String>,
}

impl Default for Redaction {
    fn default() -> Self {
        Self {
            url_query: false,
            user_info: true,
            headers: None,
        }
    }
}

impl HeaderLists {
    /// Without lists nothing is told; with one, what it doesn't name is told unless there is one of those
    /// that are.
    fn hides(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        if self.allow.contains(&name) {
            return false;
        }
        let has_none = self.allow.is_empty() && self.deny.is_empty();
        has_none || self.deny.contains(&name) || !self.allow.is_empty()
    }
}

impl Redaction {
    /// What is told of a URL, or of the first line of a request that has one.
    #[must_use]
    pub fn url<'a>(&self, url: &'a str) -> Cow<'a, str> {
        let url = match self.url_query {
            true => url.split(['?', '#']).next().unwrap_or_default(),
            false => url,
        };
        match self.user_info.then(|| password_in(url)).flatten() {
            Some((before, after)) => Cow::Owned(format!("{before}{REDACTED}{after}")),
            None => Cow::Borrowed(url),
        }
    }

    /// What is told of a header field's value.
    #[must_use]
    pub fn header<'a>(&self, name: &str, value: &'a str) -> &'a str {
        match &self.headers {
            Some(lists) if lists.hides(name) => REDACTED,
            Some(_) | None => value,
        }
    }
}

/// What stands before and behind the password in a URL's authority.
fn password_in(url: &str) -> Option<(&str, &str)> {
    let authority = url.find("://")? + 3;
    let rest = url.get(authority..)?;
    let len = rest.find(['/', '?', '#', ' ']).unwrap_or(rest.len());
    let at = rest.get(..len)?.rfind('@')?;
    let colon = rest.get(..at)?.find(':')?;
    let (begin, end) = (authority + colon + 1, authority + at);
    Some((url.get(..begin)?, url.get(end..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn headers_are_told_by_hubbles_table() {
        let with = |allow: &[&str], deny: &[&str]| Redaction {
            headers: Some(HeaderLists {
                allow: names(allow),
                deny: names(deny),
            }),
            ..Redaction::default()
        };
        for (redaction, name, told) in [
            (Redaction::default(), "Cookie", "a=1"),
            (with(&[], &[]), "Accept", REDACTED),
            (with(&["host"], &[]), "Host", "a=1"),
            (with(&["host"], &[]), "Cookie", REDACTED),
            (with(&[], &["cookie"]), "COOKIE", REDACTED),
            (with(&[], &["cookie"]), "Accept", "a=1"),
            (with(&["cookie"], &["cookie"]), "Cookie", "a=1"),
            (with(&["host"], &["cookie"]), "Accept", REDACTED),
        ] {
            assert_eq!(redaction.header(name, "a=1"), told, "{redaction:?} {name}");
        }
    }

    #[test]
    fn urls_lose_passwords_and_their_query_if_that_is_wanted() {
        let query = Redaction {
            url_query: true,
            ..Redaction::default()
        };
        let bare = Redaction {
            user_info: false,
            ..Redaction::default()
        };
        for (redaction, url, told) in [
            (&query, "http://h/p?q=1#f", "http://h/p"),
            (&query, "http://h/p#f?q", "http://h/p"),
            (&query, "http://u:p@h?u:p@h", "http://u:HUBBLE_REDACTED@h"),
            (&bare, "http://u:p@h/p?q", "http://u:p@h/p?q"),
        ] {
            assert_eq!(redaction.url(url), told, "{url}");
        }
        for (url, told) in [
            ("http://u:p@h/p?q=1", "http://u:HUBBLE_REDACTED@h/p?q=1"),
            ("http://u:p:@@h", "http://u:HUBBLE_REDACTED@h"),
            (
                "GET http://u:p@h HTTP/1.1",
                "GET http://u:HUBBLE_REDACTED@h HTTP/1.1",
            ),
            ("http://u@h/a:b@c", "http://u@h/a:b@c"),
            ("http://h:80/a@b", "http://h:80/a@b"),
            ("http://h?u:p@h", "http://h?u:p@h"),
            ("GET /a:b@c HTTP/1.1", "GET /a:b@c HTTP/1.1"),
            ("", ""),
        ] {
            assert_eq!(Redaction::default().url(url), told, "{url}");
        }
    }
}
