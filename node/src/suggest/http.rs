//! HTTP requests as a rule writes them: method and path, each a regular expression that must match
//! the whole value.

use super::limits::PATH_OCTETS_MAX;

/// A request.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Request {
    pub(super) method: String,
    /// With its query; none for a CONNECT, which has no path.
    pub(super) path: Option<String>,
}

impl Request {
    /// The request of a flow; none where no rule can hold it.
    pub(super) fn of(method: &str, url: &str) -> Option<Self> {
        if method.is_empty() || !method.bytes().all(is_token) {
            return None;
        }
        let path = match path(url) {
            None if method == "CONNECT" => None,
            None => return None,
            Some(path) if path.len() > PATH_OCTETS_MAX => return None,
            Some(path) if !path.bytes().all(|byte| byte.is_ascii_graphic()) => return None,
            Some(path) => Some(path),
        };
        Some(Self {
            method: method.to_owned(),
            path,
        })
    }
}

/// A text as a regular expression that matches nothing else.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if r"\.+*?()|[]{}^$".contains(letter) {
            out.push('\\');
        }
        out.push(letter);
    }
    out
}

/// A URL without the user and password that may stand before its host.
pub(super) fn without_user(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let authority_ends = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_ends);
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

/// Path and query of a URL, or of what stands in its place.
fn path(url: &str) -> Option<String> {
    let url = url.split('#').next().unwrap_or_default();
    if url.starts_with('/') || url == "*" {
        return Some(url.to_owned());
    }
    let (_, rest) = url.split_once("://")?;
    let path = rest.trim_start_matches(|letter| letter != '/' && letter != '?');
    Some(if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    })
}

/// A letter of a token (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path_of(url: &str) -> Option<String> {
        Request::of("GET", url).and_then(|request| request.path)
    }

    #[test]
    fn the_path_is_what_comes_after_the_authority_with_its_query() {
        for (url, expected) in [
            ("http://web:8080/cart?id=7", "/cart?id=7"),
            ("http://bob:x@web/q?a=1&b=<2>", "/q?a=1&b=<2>"),
            ("https://web", "/"),
            ("https://web?x=/y", "/?x=/y"),
            ("http://web/a#b", "/a"),
            ("/plain?u=http://x/y", "/plain?u=http://x/y"),
            ("*", "*"),
        ] {
            assert_eq!(path_of(url).as_deref(), Some(expected), "{url}");
        }
    }

    #[test]
    fn passwords_are_not_told() {
        for (url, expected) in [
            ("http://bob:x@y@web:80/a@b", "http://web:80/a@b"),
            ("http://web?u=a@b", "http://web?u=a@b"),
            ("/a@b", "/a@b"),
        ] {
            assert_eq!(without_user(url), expected);
        }
    }

    #[test]
    fn what_no_rule_can_hold_is_refused() {
        let long = format!("/{}", "a".repeat(PATH_OCTETS_MAX - 1));
        assert_eq!(path_of(&long), Some(long.clone()));
        let longer = format!("{long}a");
        for url in ["", "web", "/a b", "/a\nb", "/ä", "/a\u{2028}b", &longer] {
            assert_eq!(path_of(url), None, "{url:?}");
        }
        for method in ["", "G T", "GET\n", "GÄT", "G(T"] {
            assert_eq!(Request::of(method, "/"), None, "{method:?}");
        }
        assert!(Request::of("CONNECT", "web:443").is_some_and(|it| it.path.is_none()));
    }

    #[test]
    fn an_expression_stands_for_its_text_alone() {
        assert_eq!(escaped("/a.b?c=(1)|d*"), r"/a\.b\?c=\(1\)\|d\*");
        assert_eq!(escaped(r"\d[0]{1}^$+"), r"\\d\[0\]\{1\}\^\$\+");
        assert_eq!(escaped("/cart-1_2~x,y;z'\"#%20"), "/cart-1_2~x,y;z'\"#%20");
    }
}
