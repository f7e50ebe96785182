//! The tables of HTTP/1 (http.md §5, §7 and §14), each row once: what a client sends, what the server
//! answers, and what must come of it. The core plays them without sockets at every cut, the shell over
//! sockets of loopback.

pub(crate) mod behaviour;
pub(crate) mod framing;
pub(crate) mod heads;

/// The port that the server has in every play.
pub(crate) const PORT: u16 = 8080;
/// A request that every play may make before its row, and what the client gets of it.
pub(crate) const FIRST: &str = "GET /public/first HTTP/1.1\r\nHost: shop.test\r\n\r\n";
/// What the server answers where a row says nothing else.
pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A row.
pub(crate) struct Row {
    pub(crate) id: &'static str,
    pub(crate) sent: Vec<u8>,
    /// What the client sends once it has got something.
    pub(crate) then: &'static [u8],
    pub(crate) server: Server,
    pub(crate) got: Got,
    /// How the client's side and the server's end: kept, closed or reset.
    pub(crate) ends: (char, char),
    pub(crate) forwarded: Forwarded,
    /// What is told, a word or two for each.
    pub(crate) told: Vec<String>,
}

/// What the server does.
#[derive(Clone, Copy)]
pub(crate) struct Server {
    /// With each request: the octets that it answers, and whether it then closes.
    pub(crate) script: Script,
    /// It answers a head, and waits for no body.
    pub(crate) is_hasty: bool,
}

/// What the client gets.
pub(crate) enum Got {
    /// The statuses of responses, interim ones in brackets.
    Statuses(&'static str),
    /// These octets.
    Text(String),
}

/// What the server gets.
pub(crate) enum Forwarded {
    /// These octets, which are what was judged.
    Exactly(Vec<u8>),
    /// As much of them as was there before an error was seen; never all of the request.
    BeginningOf(Vec<u8>),
}

pub(crate) type Script = fn(&Seen) -> Reaction;

/// What a server does with a request: the octets, and whether it then closes.
pub(crate) struct Reaction {
    pub(crate) bytes: Vec<u8>,
    pub(crate) closes: bool,
}

impl From<&str> for Reaction {
    fn from(text: &str) -> Self {
        let bytes = text.as_bytes().to_vec();
        Self {
            bytes,
            closes: false,
        }
    }
}

/// A request as the server saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    /// All of its head.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

/// Answers all that is asked.
pub(crate) fn ok(seen: &Seen) -> Reaction {
    match seen.method.as_str() {
        "HEAD" => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".into(),
        _ => OK.into(),
    }
}

impl Row {
    /// One that a server answers plainly. `expected` is as http.md writes it: statuses, and the end.
    fn new(id: &'static str, sent: Vec<u8>, expected: &'static str, forwarded: Vec<u8>) -> Self {
        let (statuses, end) = expected.split_once(' ').unwrap();
        let end = end.chars().next().unwrap();
        Self {
            id,
            sent,
            then: b"",
            server: Server {
                script: ok,
                is_hasty: false,
            },
            got: Got::Statuses(statuses),
            ends: (end, end),
            forwarded: Forwarded::Exactly(forwarded),
            told: told_of(statuses),
        }
    }

    /// The octets that the server must get, or may.
    pub(crate) fn octets(&self) -> &[u8] {
        match &self.forwarded {
            Forwarded::Exactly(octets) | Forwarded::BeginningOf(octets) => octets,
        }
    }

    /// Fails unless the server got what it must, after some requests that were allowed.
    pub(crate) fn check_forwarded(&self, before: usize, reached: &[u8], play: &str) {
        let first = FIRST.repeat(before);
        let reached = reached.strip_prefix(first.as_bytes());
        let reached = reached.unwrap_or_else(|| panic!("{play}: not the requests before it"));
        let octets = self.octets();
        let is_so = match &self.forwarded {
            Forwarded::Exactly(_) => reached == octets,
            Forwarded::BeginningOf(_) => octets.starts_with(reached),
        };
        let text = |octets| String::from_utf8_lossy(octets).into_owned();
        assert!(
            is_so,
            "{play}: forwarded {:?}, not {:?}",
            text(reached),
            text(octets)
        );
    }

    /// What the client must have got, after some requests that were allowed.
    pub(crate) fn has_got(&self, before: usize, got: &[u8]) -> bool {
        let Some(got) = got.strip_prefix(OK.repeat(before).as_bytes()) else {
            return false;
        };
        match &self.got {
            Got::Statuses(expected) => statuses(got) == *expected,
            Got::Text(expected) => got == expected.as_bytes(),
        }
    }

    /// What must be told, after some requests that were allowed.
    pub(crate) fn told_after(&self, before: usize) -> Vec<String> {
        let first = (0..before).flat_map(|_| told_of("200"));
        first.chain(self.told.iter().cloned()).collect()
    }
}

/// What is told of requests that are answered so, where 200 is the server's and all else ours.
fn told_of(statuses: &str) -> Vec<String> {
    let finals = statuses.split(',').map(|status| {
        // Interim responses are not told.
        let (_, status) = status.rsplit_once(')').unwrap_or(("", status));
        let request = match status {
            "200" => "allowed",
            "403" => "denied",
            _ => "malformed",
        };
        let by = if status == "200" { "server" } else { "proxy" };
        [request.to_owned(), format!("{status} {by}")]
    });
    finals.flatten().collect()
}

/// Every row.
pub(crate) fn all() -> Vec<Row> {
    [heads::rows(), framing::rows(), behaviour::rows()]
        .into_iter()
        .flatten()
        .collect()
}

fn value<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    lines
        .find(|(other, _)| other.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

/// A message's head and body, if it is complete, and its length. Until the end: all there is.
fn read_message(bytes: &[u8], until_end: bool) -> Option<(String, Vec<u8>, usize)> {
    let end = end_of_head(bytes)?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let rest = &bytes[end..];
    if value(&head, "transfer-encoding").is_some() {
        let last = rest
            .windows(5)
            .position(|window| window == b"0\r\n\r\n" || window == b"0\r\nX-");
        let last = last?;
        let octets = last + end_of_head(&rest[last..])?;
        return Some((head, rest[..octets].to_vec(), end + octets));
    }
    let length = match value(&head, "content-length") {
        Some(digits) => digits.parse().unwrap(),
        None if until_end => rest.len(),
        None => 0,
    };
    let body = rest.get(..length)?;
    Some((head, body.to_vec(), end + length))
}

/// Where a head ends, which lies at the beginning.
pub(crate) fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let at = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some(at + 4)
}

impl Server {
    /// The request at the beginning, once it has as much of it as it waits for; and its length.
    pub(crate) fn read(self, bytes: &[u8]) -> Option<(Seen, usize)> {
        let (head, body, octets) = match self.is_hasty {
            true => {
                let end = end_of_head(bytes)?;
                let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
                (head, Vec::new(), bytes.len())
            }
            false => read_message(bytes, false)?,
        };
        let mut words = head.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let seen = Seen {
            method,
            target,
            head,
            body,
        };
        Some((seen, octets))
    }
}

fn read_response(bytes: &[u8]) -> Option<(u16, usize)> {
    let status = String::from_utf8_lossy(bytes.get(9..12)?).parse().ok()?;
    if matches!(status, 100..200 | 204 | 304) {
        return Some((status, end_of_head(bytes)?));
    }
    let (_, _, octets) = read_message(bytes, true)?;
    Some((status, octets))
}

/// The statuses of responses, interim ones in brackets, and whether the last one is whole.
pub(crate) fn statuses(got: &[u8]) -> String {
    let mut words = Vec::new();
    let mut rest = got;
    while !rest.is_empty() {
        let Some((status, octets)) = read_response(rest) else {
            words.push("cut".to_owned());
            break;
        };
        words.push(match status {
            100..200 => format!("({status})"),
            _ => status.to_string(),
        });
        rest = &rest[octets.min(rest.len())..];
        if status == 101 {
            break;
        }
    }
    words.join(",").replace("),", ")")
}
