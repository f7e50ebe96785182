//! A client, a connection and a server that records, without sockets.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use policy::http::{HttpPermit, Request};
use policy::{Direction, HttpAccess, PeerRef};

use crate::core::exchange::{Connection, Leg};
use crate::core::record::{Told, Verdict};
use crate::core::step::{Denied, Judge, Now, Origin, Scheme, Settings};
use crate::limits::CONTINUE_WAIT;
use crate::rows::{FIRST, Forwarded, PORT, Row, Server, statuses};
pub(super) use crate::rows::{Reaction, Script, Seen, ok};
pub(super) use crate::testing::RULES;

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

    fn is_secret(&self, header: &str) -> bool {
        self.0.is_secret(header)
    }
}

/// One run.
pub(super) struct Play {
    pub(super) connection: Connection,
    judge: &'static Rules,
    server: Server,
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
            server: Server {
                script,
                is_hasty: false,
            },
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
            while let Some((seen, octets)) = self.server.read(&self.unread) {
                self.unread.drain(..octets);
                let reaction = (self.server.script)(&seen);
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
        statuses(&self.got)
    }

    /// What was told, a word or two for each.
    fn words(&self) -> Vec<String> {
        self.told.iter().map(crate::testing::word).collect()
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

impl Row {
    /// Plays it whole, at every cut, after three allowed requests, and octet by octet.
    pub(super) fn check(&self) {
        self.play(&[&self.sent], 0);
        self.play(&[&self.sent], 3);
        let length = self.sent.len();
        let near = |cut: &usize| *cut < 700 || length - cut < 300 || cut.is_multiple_of(997);
        for cut in (1..length).filter(near) {
            let (first, rest) = self.sent.split_at(cut);
            self.play(&[first, rest], 0);
            if length < 700 {
                self.play(&[first, rest], 3);
            }
        }
        if length < 2000 {
            let single: Vec<&[u8]> = self.sent.chunks(1).collect();
            self.play(&single, 0);
        }
    }

    fn play(&self, pieces: &[&[u8]], before: usize) {
        let name = format!("{} in {} after {before}", self.id, pieces[0].len());
        let mut play = Play::new(ok);
        play.server = self.server;
        // In one segment with what follows.
        let head = [FIRST.repeat(before).as_bytes(), pieces[0]].concat();
        play.send(&head);
        for piece in &pieces[1..] {
            play.send(piece);
        }
        if !self.then.is_empty() {
            play.pass(CONTINUE_WAIT);
            play.send(self.then);
        }
        play.pass(Duration::from_secs(3));
        assert!(
            self.has_got(before, &play.got),
            "{name}: {}",
            play.got_text()
        );
        let ends = (play.end_of_client(), play.end_of_upstream());
        assert_eq!(ends, self.ends, "{name}");
        self.check_forwarded(before, &play.reached, &name);
        if let Forwarded::BeginningOf(_) = self.forwarded {
            assert_eq!(play.seen.len(), before, "{name}: {:?}", play.seen);
        }
        assert_eq!(play.words(), self.told_after(before), "{name}");
        // What is told of a request that went is what the server got.
        let told = play.told.iter().filter_map(|told| match told {
            Told::Request(record) if matches!(record.verdict, Verdict::Allowed { .. }) => {
                Some(record)
            }
            Told::Request(_) | Told::Response(_) | Told::Ended(_) | Told::Fault(_) => None,
        });
        for (record, seen) in told.zip(&play.seen) {
            assert_eq!(record.method, seen.method, "{name}");
            let is_so = record.url.ends_with(&seen.target) || record.url.ends_with('…');
            assert!(is_so, "{name}: {}", record.url);
        }
    }
}
