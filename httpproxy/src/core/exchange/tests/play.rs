//! A client, a connection and a server that records, without sockets.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use policy::http::{HttpPermit, Request};
use policy::{Direction, HttpAccess, PeerRef};

use crate::core::exchange::{Connection, Leg};
use crate::core::record::Told;
use crate::core::step::{Denied, Judge, Now, Origin, Scheme, Settings};
pub(super) use crate::testing::RULES;

pub(super) const PORT: u16 = 8080;

/// HTTP rules as policy has them.
pub(super) struct Rules(HttpAccess);

/// Compiled once for all plays.
static COMPILED: Mutex<BTreeMap<String, &'static Rules>> = Mutex::new(BTreeMap::new());

impl Rules {
    fn of(rules: &str) -> &'static Self {
        let mut compiled = COMPILED.lock().unwrap();
        let new = || &*Box::leak(Box::new(Self::new(rules)));
        compiled.entry(rules.to_owned()).or_insert_with(new)
    }

    fn new(rules: &str) -> Self {
        let (snapshot, endpoint) = crate::testing::snapshot(rules, PORT);
        let peer = snapshot.identity_of("192.0.2.7".parse().unwrap());
        let peer = PeerRef::Known(peer);
        Self(snapshot.http_access(endpoint, Direction::Egress, peer, PORT))
    }
}

impl Judge for Rules {
    fn judge<'a>(&'a self, request: &Request<'a>) -> Result<HttpPermit<'a>, Denied> {
        self.0.permit(request).ok_or(Denied::NotAllowed)
    }
}

/// What the server does with each request: the bytes, and whether it then closes.
pub(super) type Script = fn(&Seen) -> Reaction;

pub(super) struct Reaction {
    pub(super) bytes: Vec<u8>,
    pub(super) closes: bool,
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
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) target: String,
    /// All of its head.
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

/// One run.
pub(super) struct Play {
    pub(super) connection: Connection,
    judge: &'static Rules,
    script: Script,
    pub(super) now: Instant,
    /// What the client has got.
    pub(super) got: Vec<u8>,
    /// What the server has got.
    pub(super) reached: Vec<u8>,
    unread: Vec<u8>,
    pub(super) seen: Vec<Seen>,
    answers: VecDeque<u8>,
    is_closing: bool,
    pub(super) told: Vec<Told>,
}

pub(super) fn judge(rules: &str) -> &'static Rules {
    Rules::of(rules)
}

pub(super) fn origin() -> Origin {
    Origin {
        scheme: Scheme::Http,
        original_destination: format!("192.0.2.7:{PORT}").parse().unwrap(),
    }
}

#[expect(clippy::disallowed_methods, reason = "any instant will do")]
pub(super) fn now() -> Now {
    Now {
        instant: Instant::now(),
        wall: SystemTime::UNIX_EPOCH,
    }
}

pub(super) fn ok(seen: &Seen) -> Reaction {
    match seen.method.as_str() {
        "HEAD" => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".into(),
        _ => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".into(),
    }
}

impl Play {
    pub(super) fn new(script: Script) -> Self {
        Self::with(script, (RULES, Settings::default()))
    }

    pub(super) fn with(script: Script, (rules, settings): (&str, Settings)) -> Self {
        let now = now().instant;
        let mut connection = Connection::new(Arc::new(settings), origin(), now);
        connection.upstream_connected();
        Self {
            connection,
            judge: Rules::of(rules),
            script,
            now,
            got: Vec::new(),
            reached: Vec::new(),
            unread: Vec::new(),
            seen: Vec::new(),
            answers: VecDeque::new(),
            is_closing: false,
            told: Vec::new(),
        }
    }

    /// The client sends some bytes, and everything happens that follows from them.
    pub(super) fn send(&mut self, mut bytes: &[u8]) -> &mut Self {
        loop {
            let room = self.connection.client_room();
            let count = room.len().min(bytes.len());
            room[..count].copy_from_slice(&bytes[..count]);
            self.connection.client_read(count);
            bytes = &bytes[count..];
            self.settle();
            if bytes.is_empty() || count == 0 {
                return self;
            }
        }
    }

    /// The client ends its side.
    pub(super) fn end(&mut self) -> &mut Self {
        self.connection.client_eof();
        self.settle();
        self
    }

    /// The server says something of its own accord.
    pub(super) fn say(&mut self, bytes: &[u8]) -> &mut Self {
        self.answers.extend(bytes);
        self.settle();
        self
    }

    /// The server ends its side.
    pub(super) fn server_ends(&mut self) -> &mut Self {
        self.is_closing = true;
        self.settle();
        self
    }

    /// Time passes; each deadline is met in its turn.
    pub(super) fn pass(&mut self, time: Duration) -> &mut Self {
        let end = self.now + time;
        while let Some(next) = self.connection.wants().deadline.filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.settle();
            if self.connection.wants().deadline == Some(next) {
                break;
            }
        }
        self.now = end;
        self.settle();
        self
    }

    fn settle(&mut self) {
        for _ in 0..10_000 {
            let wall = SystemTime::UNIX_EPOCH;
            let now = Now {
                instant: self.now,
                wall,
            };
            self.connection.step(now, self.judge);
            while let Some(told) = self.connection.next_told() {
                self.told.push(told);
            }
            let got = self.connection.to_client().to_vec();
            self.connection.client_wrote(got.len());
            let reached = self.connection.to_upstream().to_vec();
            self.connection.upstream_wrote(reached.len());
            self.got.extend_from_slice(&got);
            self.reached.extend_from_slice(&reached);
            self.unread.extend_from_slice(&reached);
            while let Some((seen, octets)) = read_request(&self.unread) {
                self.unread.drain(..octets);
                let reaction = (self.script)(&seen);
                self.answers.extend(reaction.bytes);
                self.is_closing |= reaction.closes;
                self.seen.push(seen);
            }
            let room = self.connection.upstream_room();
            let count = room.len().min(self.answers.len());
            for (slot, byte) in room.iter_mut().zip(self.answers.drain(..count)) {
                *slot = byte;
            }
            self.connection.upstream_read(count);
            let ends = self.is_closing && self.answers.is_empty();
            if ends {
                self.is_closing = false;
                self.connection.upstream_eof();
            }
            if got.is_empty() && reached.is_empty() && count == 0 && !ends {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// How the client's side ended: kept, closed or reset.
    pub(super) fn end_of_client(&self) -> char {
        end_of(self.connection.wants().client)
    }

    pub(super) fn end_of_upstream(&self) -> char {
        end_of(self.connection.wants().upstream)
    }

    pub(super) fn got_text(&self) -> String {
        String::from_utf8_lossy(&self.got).into_owned()
    }

    /// The statuses of the responses, interim ones in brackets, and whether the last one is whole.
    pub(super) fn statuses(&self) -> String {
        let mut words = Vec::new();
        let mut rest = self.got.as_slice();
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

    pub(super) fn targets(&self) -> Vec<&str> {
        self.seen.iter().map(|seen| &*seen.target).collect()
    }
}

const fn end_of(leg: Leg) -> char {
    match leg {
        Leg::Open => 'k',
        Leg::Shut => 's',
        Leg::Closed => 'c',
        Leg::Cut | Leg::Reset => 'R',
    }
}

fn value<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    lines
        .find(|(other, _)| other.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

/// A message's head and body, if it is complete, and its length. Until the end: all there is.
fn read_message(bytes: &[u8], until_end: bool) -> Option<(String, Vec<u8>, usize)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let rest = &bytes[end..];
    if value(&head, "transfer-encoding").is_some() {
        let last = rest
            .windows(5)
            .position(|window| window == b"0\r\n\r\n" || window == b"0\r\nX-");
        let last = last?;
        let end_of_trailers = rest[last..]
            .windows(4)
            .position(|window| window == b"\r\n\r\n")?;
        let octets = last + end_of_trailers + 4;
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

fn read_request(bytes: &[u8]) -> Option<(Seen, usize)> {
    let (head, body, octets) = read_message(bytes, false)?;
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

fn read_response(bytes: &[u8]) -> Option<(u16, usize)> {
    let status = String::from_utf8_lossy(bytes.get(9..12)?).parse().ok()?;
    if matches!(status, 100..200 | 204 | 304) {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        return Some((status, end));
    }
    let (_, _, octets) = read_message(bytes, true)?;
    Some((status, octets))
}

/// A row: what is sent, then statuses and end as `http.md` writes them, and the targets that the server
/// saw.
pub(super) struct Row<'a> {
    pub(super) id: &'a str,
    pub(super) sent: &'a [u8],
    pub(super) expected: &'a str,
    pub(super) targets: &'a [&'a str],
}

impl Row<'_> {
    /// Plays it whole, at every cut, after three allowed requests, and octet by octet.
    pub(super) fn check(&self, script: Script) {
        self.play(script, &[self.sent], 0);
        self.play(script, &[self.sent], 3);
        let length = self.sent.len();
        let near = |cut: &usize| *cut < 700 || length - cut < 300 || cut.is_multiple_of(997);
        for cut in (1..length).filter(near) {
            let (first, rest) = self.sent.split_at(cut);
            self.play(script, &[first, rest], 0);
            if length < 700 {
                self.play(script, &[first, rest], 3);
            }
        }
        if length < 2000 {
            let single: Vec<&[u8]> = self.sent.chunks(1).collect();
            self.play(script, &single, 0);
        }
    }

    fn play(&self, script: Script, pieces: &[&[u8]], before: usize) {
        let name = format!("{} in {} after {before}", self.id, pieces[0].len());
        let mut play = Play::new(script);
        let first = b"GET /public/first HTTP/1.1\r\nHost: shop.test\r\n\r\n".repeat(before);
        // In one segment with what follows.
        let head = [&first, pieces[0]].concat();
        play.send(&head);
        for piece in &pieces[1..] {
            play.send(piece);
        }
        play.pass(Duration::from_secs(3));
        let first = std::iter::repeat_n("200", before);
        let statuses = play.statuses();
        let mut words: Vec<&str> = first.collect();
        let (expected, end) = self
            .expected
            .split_once(' ')
            .unwrap_or((self.expected, "k"));
        words.extend(Some(expected).filter(|word| !word.is_empty()));
        assert_eq!(statuses, words.join(","), "{name}: {}", play.got_text());
        let is_end = end.contains(play.end_of_client());
        assert!(is_end, "{name}: {end} is not {}", play.end_of_client());
        let mut targets = vec!["/public/first"; before];
        targets.extend(self.targets);
        assert_eq!(play.targets(), targets, "{name}");
        if self.targets.is_empty() && expected.starts_with(['4', '5']) {
            let seen: usize = play.seen.iter().map(|seen| seen.head.len()).sum();
            assert_eq!(play.reached.len(), seen, "{name}: something of it went on");
        }
    }
}
