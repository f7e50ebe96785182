//! One archive of what somebody needs who looks for a fault: texts, without secrets, as a tar file.

/// Octets of one part; of a longer one the beginning is kept, and that is said in it.
pub(crate) const PART_OCTETS_MAX: usize = 8 << 20;
/// Octets of a name in the archive, as its form has it.
const NAME_OCTETS_MAX: usize = 100;
const BLOCK: usize = 512;
/// What stands in place of a secret.
const REDACTED: &str = "[redacted]";
/// What is in the names of headers and keys whose values are secrets.
const SECRET_NAMES: [&str; 10] = [
    "authorization",
    "cookie",
    "token",
    "password",
    "passwd",
    "passphrase",
    "apikey",
    "api-key",
    "api_key",
    "credential",
];
/// Keys of policies whose values may be secrets: what a request must say.
const POLICY_KEYS: [&str; 2] = ["headers", "value"];

/// What a text is, which says what can be a secret in it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Policies: values of headers are secrets too.
    Policy,
    Other,
}

/// The archive, part by part.
#[derive(Default)]
pub(crate) struct Archive {
    octets: Vec<u8>,
}

impl Archive {
    /// Puts a text into it, without secrets.
    pub(crate) fn add(&mut self, name: &str, text: &str, kind: Kind) {
        let mut text = redact(text, kind);
        if text.len() > PART_OCTETS_MAX {
            let end = text.floor_char_boundary(PART_OCTETS_MAX);
            text.truncate(end);
            text.push_str("\n[the rest is left out]\n");
        }
        self.octets.extend(header(name, text.len()));
        self.octets.extend_from_slice(text.as_bytes());
        self.fill(text.len());
    }

    /// Its octets.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.octets.resize(self.octets.len() + 2 * BLOCK, 0);
        self.octets
    }

    fn fill(&mut self, length: usize) {
        let rest = length.next_multiple_of(BLOCK) - length;
        self.octets.resize(self.octets.len() + rest, 0);
    }
}

/// The header of a file, in the form of POSIX (`ustar`), whose numbers are octal.
fn header(name: &str, size: usize) -> Vec<u8> {
    let end = name.floor_char_boundary(NAME_OCTETS_MAX);
    let mut header = Vec::with_capacity(BLOCK);
    header.extend_from_slice(name.get(..end).unwrap_or_default().as_bytes());
    header.resize(NAME_OCTETS_MAX, 0);
    for field in ["0000600\0", "0000000\0", "0000000\0"] {
        header.extend_from_slice(field.as_bytes());
    }
    header.extend_from_slice(format!("{size:011o}\0{:011o}\0", 0).as_bytes());
    let sum_at = header.len();
    header.extend_from_slice(b"        0");
    header.resize(257, 0);
    header.extend_from_slice(b"ustar\x0000");
    header.resize(BLOCK, 0);
    let sum: u64 = header.iter().map(|octet| u64::from(*octet)).sum();
    let sum = format!("{sum:06o}\0 ");
    header.splice(sum_at..sum_at + sum.len(), sum.into_bytes());
    header
}

/// A text without what is or may be a secret: keys and certificates, passwords in URLs, values of headers and
/// keys that are named so, in policies values of all headers.
pub(crate) fn redact(text: &str, kind: Kind) -> String {
    let text = without_pem(text);
    let mut out = String::with_capacity(text.len());
    // Where the key stands whose value is a secret, over as many lines as it may go.
    let mut key: Option<usize> = None;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let is_item = line.trim_start().starts_with('-');
        key = key.filter(|at| indent > *at || (indent == *at && is_item) || line.trim().is_empty());
        if key.is_some() {
            let head = line.get(..indent).unwrap_or_default();
            out.push_str(&format!("{head}{REDACTED}\n"));
            continue;
        }
        let line = without_password(line);
        match cut(&line, kind) {
            Some(at) => {
                key = Some(line.len() - line.trim_start_matches([' ', '-']).len());
                let (head, rest) = line.split_at(at);
                out.push_str(head);
                if !rest.trim().is_empty() {
                    out.push_str(&format!(" {REDACTED}"));
                }
            }
            None => out.push_str(&line),
        }
        out.push('\n');
    }
    out
}

/// Where in a line the value begins that is a secret.
fn cut(line: &str, kind: Kind) -> Option<usize> {
    let small = line.to_ascii_lowercase();
    let value_of = |at: usize, length: usize| {
        let rest = small.get(at + length..)?;
        let is_name =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '"' | '\'' | ' ');
        let skipped = rest.find(|c: char| !is_name(c))?;
        let sign = rest.get(skipped..)?.chars().next()?;
        matches!(sign, ':' | '=').then_some(at + length + skipped + 1)
    };
    let named = SECRET_NAMES.iter().filter_map(|name| {
        let mut found = small.match_indices(name);
        found.find_map(|(at, name)| value_of(at, name.len()))
    });
    let keys = POLICY_KEYS.iter().filter(|_| kind == Kind::Policy);
    let keyed = keys.filter_map(|key| {
        let mut found = small.match_indices(key);
        found.find_map(|(at, key)| {
            let before = small.get(..at)?.chars().next_back();
            let is_whole = before.is_none_or(|c| !c.is_ascii_alphanumeric());
            let rest = small.get(at + key.len()..)?;
            let quoted = rest.trim_start_matches(['"', '\'']);
            let colon = at + key.len() + (rest.len() - quoted.len());
            (is_whole && quoted.starts_with(':')).then_some(colon + 1)
        })
    });
    named.chain(keyed).min()
}

/// Without what stands between the lines of PEM.
fn without_pem(text: &str) -> String {
    const BEGIN: &str = "-----BEGIN";
    const END: &str = "-----END";
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, secret)) = rest.split_once(BEGIN) {
        out.push_str(before);
        out.push_str(REDACTED);
        let after = secret.split_once(END).map_or("", |(_, after)| after);
        let name_end = after.find("-----").map_or(after.len(), |at| at + 5);
        rest = after.get(name_end..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// Without user and password in URLs.
fn without_password(line: &str) -> String {
    const SIGN: &str = "://";
    let mut out = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once(SIGN) {
        out.push_str(before);
        out.push_str(SIGN);
        let ends = |c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'' | ',' | '?' | '#');
        let end = after.find(ends).unwrap_or(after.len());
        let (authority, behind) = after.split_at(end);
        match authority.rsplit_once('@') {
            Some((_, host)) => out.push_str(&format!("{REDACTED}@{host}")),
            None => out.push_str(authority),
        }
        rest = behind;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_or_may_be_a_secret_is_not_there() {
        for (text, expected) in [
            (
                "a: http://me:pw@host:1/x?y",
                "a: http://[redacted]@host:1/x?y\n",
            ),
            ("http://host/a@b", "http://host/a@b\n"),
            ("Authorization: Bearer abc", "Authorization: [redacted]\n"),
            (
                "  \"x-auth-token\": \"abc\",",
                "  \"x-auth-token\": [redacted]\n",
            ),
            ("my_password=abc", "my_password= [redacted]\n"),
            ("no secret: here", "no secret: here\n"),
            (
                "k: |\n -----BEGIN PRIVATE KEY-----\n abc\n -----END PRIVATE KEY-----\nb: 1",
                "k: |\n [redacted]\nb: 1\n",
            ),
            (
                "\"-----BEGIN X-----\\nabc\\n-----END X-----\\n\"",
                "\"[redacted]\\n\"\n",
            ),
            ("-----BEGIN X-----\nabc", "[redacted]\n"),
        ] {
            assert_eq!(redact(text, Kind::Other), expected, "{text}");
        }
        for (text, expected) in [
            (
                "http: [{headers: ['X-A: abc']}]",
                "http: [{headers: [redacted]\n",
            ),
            (
                "- headers:\n  - 'X-A: abc'\n  - b\n  path: /x",
                "- headers:\n  [redacted]\n  [redacted]\n  path: /x\n",
            ),
            (
                "headers:\n- abc\nmethod: GET",
                "headers:\n[redacted]\nmethod: GET\n",
            ),
            (
                "  value: abc\n  values: [a]",
                "  value: [redacted]\n  values: [a]\n",
            ),
            (
                "headers: [\n  'X-A: abc'\n  ]\npath: /",
                "headers: [redacted]\n  [redacted]\n  [redacted]\npath: /\n",
            ),
            (
                "- value: |\n    abc\n- name: b",
                "- value: [redacted]\n    [redacted]\n- name: b\n",
            ),
            ("{\"value\": \"abc\"}", "{\"value\": [redacted]\n"),
        ] {
            assert_eq!(redact(text, Kind::Policy), expected, "{text}");
        }
    }

    #[test]
    fn a_long_part_is_cut_and_says_so() {
        let mut archive = Archive::default();
        archive.add("long", &"x".repeat(PART_OCTETS_MAX + 1), Kind::Other);
        let octets = archive.finish();
        assert!(octets.len() < PART_OCTETS_MAX + 8 * BLOCK);
        assert!(octets.windows(8).any(|part| part == b"left out"));
    }

    #[test]
    fn tar_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut archive = Archive::default();
        archive.add("a/one.txt", "1\n", Kind::Other);
        archive.add("two.txt", &"y\n".repeat(400), Kind::Other);
        std::fs::write(dir.path().join("x.tar"), archive.finish()).unwrap();
        let tar = |words: &[&str]| {
            let output = std::process::Command::new("tar")
                .current_dir(dir.path())
                .args(words)
                .output()
                .unwrap();
            assert!(
                output.status.success() && output.stderr.is_empty(),
                "{output:?}"
            );
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(tar(&["-tf", "x.tar"]), "a/one.txt\ntwo.txt\n");
        assert_eq!(tar(&["-xOf", "x.tar", "two.txt"]), "y\n".repeat(400));
    }
}
