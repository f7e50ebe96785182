//! The path of a request: one normal form, and every other way in which a server might read it.

use std::borrow::Cow;

/// The target of a request, in the form that is judged and forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path<'a> {
    normal: Cow<'a, str>,
    /// What servers that treat `%2F`, `%5C` or `;` in another way would make of it; mostly empty.
    others: Vec<String>,
}

/// Why a target is none; the answer is 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// It doesn't begin with a slash, and isn't `*`.
    #[error("the target begins with no slash")]
    Form,
    /// A byte that must be escaped: a space, a control byte, one that isn't ASCII.
    #[error("the target has a byte {0:#04x}")]
    Byte(u8),
    /// A fragment, which clients keep to themselves.
    #[error("the target has a fragment")]
    Fragment,
    /// A percent sign in the path without two hex digits.
    #[error("the path has a percent sign that escapes nothing")]
    Escape,
    /// An escaped NUL in the path.
    #[error("the path has an escaped NUL")]
    Nul,
    /// More `..` than directories, in the normal form or in another reading.
    #[error("the path leads above the root")]
    AboveRoot,
}

impl<'a> Path<'a> {
    /// Brings a target into its normal form: escapes of letters, digits and `-._~` decoded, the other
    /// escapes in upper case, `\` turned to `/`, ``"<>^`{|}`` escaped, slashes merged, dot segments
    /// resolved. Done once, never twice; a query stays as it is.
    ///
    /// The target is in origin form (`/a?b`) or `*`; of an absolute form give the rest behind the
    /// host.
    ///
    /// # Errors
    /// If it must be refused whatever the rules are.
    pub fn parse(target: &'a [u8]) -> Result<Self, BadPath> {
        let target = checked(target)?;
        let (path, query) = split_query(target);
        if target == "*" || is_normal(path) {
            return Ok(Self::raw(target));
        }
        let normal = normalise(path)?;
        let mut others = Vec::new();
        if normal.contains("%2F") || normal.contains("%5C") || normal.contains(';') {
            let slashes = normalise(&decode_slashes(&normal))?;
            let cut = normalise(&cut_parameters(&normal))?;
            let slashes_then_cut = normalise(&cut_parameters(&slashes))?;
            let cut_then_slashes = normalise(&decode_slashes(&cut))?;
            for reading in [slashes, cut, slashes_then_cut, cut_then_slashes] {
                let reading = reading + query;
                if !others.contains(&reading) && reading.strip_suffix(query) != Some(&normal) {
                    others.push(reading);
                }
            }
        }
        let normal = match normal == path {
            true => Cow::Borrowed(target),
            false => Cow::Owned(normal + query),
        };
        Ok(Self { normal, others })
    }

    /// Takes a target as it is, but for what is refused in any case: for a node on which paths are not
    /// normalised.
    ///
    /// # Errors
    /// If it must be refused whatever the rules are.
    pub fn parse_raw(target: &'a [u8]) -> Result<Self, BadPath> {
        let parsed = Self::parse(target)?;
        match parsed.normal {
            Cow::Borrowed(text) => Ok(Self::raw(text)),
            Cow::Owned(_) => checked(target).map(Self::raw),
        }
    }

    fn raw(target: &'a str) -> Self {
        Self {
            normal: Cow::Borrowed(target),
            others: Vec::new(),
        }
    }

    /// The form to forward, with its query.
    #[must_use]
    pub fn normal(&self) -> &str {
        &self.normal
    }

    /// All forms that must be allowed: the normal one first, then at most four readings.
    pub fn readings(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&*self.normal).chain(self.others.iter().map(String::as_str))
    }
}

/// The target as text, if nothing in it is refused at sight.
fn checked(target: &[u8]) -> Result<&str, BadPath> {
    let text = std::str::from_utf8(target);
    let odd = target.iter().find(|byte| !byte.is_ascii_graphic());
    let text = match (text, odd) {
        (_, Some(byte)) => return Err(BadPath::Byte(*byte)),
        (Err(_), None) => return Err(BadPath::Form), // graphic bytes are UTF-8
        (Ok(text), None) => text,
    };
    if text.contains('#') {
        return Err(BadPath::Fragment);
    }
    if !text.starts_with('/') && text != "*" {
        return Err(BadPath::Form);
    }
    let (path, _) = split_query(text);
    for escape in path.split('%').skip(1) {
        match hex_of(escape) {
            None => return Err(BadPath::Escape),
            Some(0) => return Err(BadPath::Nul),
            Some(_) => {}
        }
    }
    Ok(text)
}

/// The path, and the query with its question mark.
fn split_query(target: &str) -> (&str, &str) {
    target.split_at(target.find('?').unwrap_or(target.len()))
}

/// The byte that two hex digits at the start of a text stand for.
fn hex_of(text: &str) -> Option<u8> {
    let digits = text.get(..2)?;
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| u8::from_str_radix(digits, 16).ok())?
}

/// Whether a path can be seen to be in normal form, with one reading, without building it.
fn is_normal(path: &str) -> bool {
    let mut after_slash = false;
    path.bytes().all(|byte| {
        let plain = match byte {
            b'/' | b'.' => !after_slash,
            b'%' | b';' => false,
            byte => !must_change(byte),
        };
        after_slash = byte == b'/';
        plain
    })
}

/// Whether a byte never stands in a normal form.
fn must_change(byte: u8) -> bool {
    byte == b'\\' || must_escape(byte)
}

fn must_escape(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}')
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// The normal form of a path that was checked.
fn normalise(path: &str) -> Result<String, BadPath> {
    remove_dots(&unescape(path))
}

fn unescape(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(next) = rest.chars().next() {
        let escape = rest.strip_prefix('%').and_then(hex_of);
        let (byte, width) = match escape {
            Some(byte) => (byte, 3),
            None => (next as u8, 1), // ASCII
        };
        match escape {
            Some(byte) if is_unreserved(byte) => out.push(char::from(byte)),
            Some(_) => push_escape(&mut out, byte),
            None if byte == b'\\' => out.push('/'),
            None if must_escape(byte) => push_escape(&mut out, byte),
            None => out.push(next),
        }
        rest = rest.get(width..).unwrap_or_default();
    }
    out
}

fn push_escape(out: &mut String, byte: u8) {
    out.push('%');
    for nibble in [byte >> 4, byte & 15] {
        let digit = char::from_digit(u32::from(nibble), 16).unwrap_or('0'); // below 16
        out.push(digit.to_ascii_uppercase());
    }
}

/// Merges slashes and resolves dot segments (RFC 3986, 5.2.4).
fn remove_dots(path: &str) -> Result<String, BadPath> {
    let mut out = String::with_capacity(path.len());
    let mut ends_open = true;
    for segment in path.split('/').skip(1) {
        ends_open = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => out.truncate(out.rfind('/').ok_or(BadPath::AboveRoot)?),
            name => {
                out.push('/');
                out.push_str(name);
            }
        }
    }
    if ends_open {
        out.push('/');
    }
    Ok(out)
}

/// As a server reads that takes an escaped slash for a slash.
fn decode_slashes(path: &str) -> String {
    path.replace("%2F", "/").replace("%5C", "\\")
}

/// As a server reads that takes what follows a semicolon in a segment for parameters.
fn cut_parameters(path: &str) -> String {
    let names = path.split('/').map(|segment| match segment.find(';') {
        Some(end) => segment.get(..end).unwrap_or_default(),
        None => segment,
    });
    names.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_target_is_judged_and_forwarded_in_normal_form() {
        for (sent, readings) in [
            ("/", &["/"][..]),
            ("/a/./b/../c", &["/a/c"]),
            ("/a/b/..", &["/a/"]),
            ("/a/b/.", &["/a/b/"]),
            ("/a/b/", &["/a/b/"]),
            ("/a/..", &["/"]),
            ("/.well-known/x", &["/.well-known/x"]),
            ("/...", &["/..."]),
            ("//a///b", &["/a/b"]),
            ("/%7Euser/%2e%2e/x", &["/x"]),
            ("/p/a%2fb", &["/p/a%2Fb", "/p/a/b"]),
            ("/p/a%5cb", &["/p/a%5Cb", "/p/a/b"]),
            ("/p/..%2fadmin", &["/p/..%2Fadmin", "/admin"]),
            ("/p/..;x/admin", &["/p/..;x/admin", "/admin"]),
            ("/p;v=1/a", &["/p;v=1/a", "/p/a"]),
            ("/p;v=1/a?x;y", &["/p;v=1/a?x;y", "/p/a?x;y"]),
            (
                "/p/..%2f;/admin",
                &["/p/..%2F;/admin", "/;/admin", "/p/..%2F/admin", "/admin"],
            ),
            ("/a;%2Fb/c", &["/a;%2Fb/c", "/a;/b/c", "/a/c", "/a/b/c"]),
            ("/p\\..\\x", &["/x"]),
            ("/a?b=/../c", &["/a?b=/../c"]),
            ("/a?", &["/a?"]),
            ("/./?a", &["/?a"]),
            ("/a%3Fb", &["/a%3Fb"]),
            ("/a%3fb", &["/a%3Fb"]),
            ("/a%3bb", &["/a%3Bb"]),
            ("/a%252fb", &["/a%252fb"]),
            ("/%41%7e%2d", &["/A~-"]),
            ("/%70ublic/a", &["/public/a"]),
            ("/a?x=%zz", &["/a?x=%zz"]),
            ("/a?x=\"<", &["/a?x=\"<"]),
            ("/<\">{}|^`[]", &["/%3C%22%3E%7B%7D%7C%5E%60[]"]),
            ("/public/a%23b", &["/public/a%23b"]),
            ("/public/%252e%252e/secret", &["/public/%252e%252e/secret"]),
            ("/public/./b/../c/", &["/public/c/"]),
            ("*", &["*"]),
        ] {
            let path = Path::parse(sent.as_bytes()).expect(sent);
            assert_eq!(path.readings().collect::<Vec<_>>(), readings, "{sent}");
            assert_eq!(path.normal(), readings[0]);
        }
    }

    #[test]
    fn a_target_without_a_meaning_is_refused() {
        for (sent, expected) in [
            (&b""[..], BadPath::Form),
            (b"a", BadPath::Form),
            (b"**", BadPath::Form),
            (b"?a", BadPath::Form),
            (b"/a%zz", BadPath::Escape),
            (b"/a%", BadPath::Escape),
            (b"/a%2", BadPath::Escape),
            (b"/a%+1", BadPath::Escape),
            (b"/a%2?b", BadPath::Escape),
            (b"/a%00", BadPath::Nul),
            (b"/a#b", BadPath::Fragment),
            (b"/a?b#c", BadPath::Fragment),
            (b"/a b", BadPath::Byte(b' ')),
            (b"/a?b c", BadPath::Byte(b' ')),
            (b"/a\tb", BadPath::Byte(b'\t')),
            (b"/a\x7f", BadPath::Byte(0x7f)),
            (b"/\xc3\xa9", BadPath::Byte(0xc3)),
            (b"/\xff", BadPath::Byte(0xff)),
            (b"/../a", BadPath::AboveRoot),
            (b"/a/%2e./../b", BadPath::AboveRoot),
            (b"/..%2fa", BadPath::AboveRoot),
            (b"/..;/a", BadPath::AboveRoot),
        ] {
            let name = String::from_utf8_lossy(sent);
            assert_eq!(Path::parse(sent), Err(expected), "{name}");
            assert_eq!(Path::parse_raw(sent), Err(expected), "{name}");
        }
    }

    #[test]
    fn a_raw_target_is_left_alone() {
        for sent in ["/a/./b", "//a", "/p;v/%2f", "/a\\b", "/a?b", "*"] {
            let path = Path::parse_raw(sent.as_bytes()).expect(sent);
            assert_eq!(path.readings().collect::<Vec<_>>(), [sent]);
        }
    }

    #[test]
    fn a_common_path_is_not_copied() {
        for sent in ["/api/v1/items/7?x=%zz", "/a.b/c-d_e~f", "/p;v=1", "/a%2Fb"] {
            let path = Path::parse(sent.as_bytes()).expect(sent);
            assert!(matches!(path.normal, Cow::Borrowed(_)), "{sent}");
        }
    }

    proptest! {
        #[test]
        fn the_normal_form_is_its_own(sent in r"/([ab./;\\?<]|%2e|%2[fF]|%5c|%3b|%41|%25){0,24}") {
            let Ok(path) = Path::parse(sent.as_bytes()) else { return Ok(()) };
            let again = Path::parse(path.normal().as_bytes()).expect("normal");
            prop_assert_eq!(&again, &path);
            prop_assert!(path.readings().count() <= 5);
            let (plain, query) = split_query(path.normal());
            // Whatever a server reads was judged.
            for read in [decode_slashes(plain), cut_parameters(plain)] {
                let read = normalise(&read).expect("judged") + query;
                prop_assert!(path.readings().any(|reading| reading == read), "{}", read);
            }
        }
    }
}
