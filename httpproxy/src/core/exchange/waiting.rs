//! Between requests: waiting for a head, dropping an unwanted body, saying the last words.

use std::sync::Arc;
use std::time::Instant;

use super::asking::{Judged, ask};
use super::running::Running;
use super::{Connection, Ending, Leg, Next, Phase, shape_of};
use crate::core::answer::{After, Answer, Shape};
use crate::core::buffer::Buffer;
use crate::core::framing::{Body, Written};
use crate::core::head::refusal::BadHead;
use crate::core::head::request::RequestHead;
use crate::core::record::{Fault, RequestRecord, Told, Verdict, Why, told_line};
use crate::core::step::{Denied, Judge, Now, Settings};
use crate::limits::{DRAIN_OCTETS_MAX, DRAIN_WAIT};

/// Waiting for a head.
#[derive(Debug)]
pub(super) struct Waiting {
    since: Instant,
    /// When its first octet was there.
    first_octet: Option<Instant>,
    /// Whether the connection has had a request.
    was_asked: bool,
}

/// Reading a body that nobody wants.
#[derive(Debug)]
pub(super) struct Drain {
    body: Body,
    pub(super) until: Instant,
}

/// After the last words.
#[derive(Debug, Default)]
pub(super) struct Linger {
    octets: u64,
    /// Set when the last words are written.
    pub(super) until: Option<Instant>,
}

impl Waiting {
    pub(super) const fn first(now: Instant) -> Self {
        Self {
            since: now,
            first_octet: None,
            was_asked: false,
        }
    }

    pub(super) const fn again(now: Instant) -> Self {
        Self {
            since: now,
            first_octet: None,
            was_asked: true,
        }
    }

    pub(super) fn deadline(&self, settings: &Settings) -> Instant {
        match self.first_octet {
            Some(first) => first + settings.head_wait,
            None => self.since + settings.keepalive_idle,
        }
    }
}

impl Connection {
    /// Waits for a head, and acts on it.
    pub(super) fn wait(&mut self, mut waiting: Waiting, now: Now, judge: &dyn Judge) -> Next {
        if !self.upstream_in.is_empty() {
            // Whatever it is, it would be taken for the answer to the next request.
            self.told.push_back(Told::Fault(Fault::Unasked));
            self.legs(Leg::Closed, Leg::Reset);
            return Next::Wait(Phase::Over);
        }
        if let Some(end) = self.upstream_end {
            let client = match end {
                Ending::Fin => Leg::Closed,
                Ending::Reset if waiting.was_asked => Leg::Closed,
                Ending::Reset => Leg::Reset,
            };
            self.legs(client, Leg::Closed);
            return Next::Wait(Phase::Over);
        }
        match self.requests.read(self.client_in.bytes()) {
            Ok(Some(head)) => self.ask(&head, now, judge),
            Err(bad) => self.refuse(Verdict::Malformed(bad), now),
            Ok(None) if self.client_end.is_some() => self.ended(&waiting, now),
            Ok(None) => {
                if !self.client_in.is_empty() {
                    waiting.first_octet.get_or_insert(now.instant);
                }
                let is_late = waiting.deadline(&self.settings) <= now.instant;
                match waiting.first_octet {
                    Some(_) if is_late => self.refuse(Verdict::TooSlow, now),
                    None if is_late || self.is_draining => self.close(),
                    Some(_) | None => Next::Wait(Phase::Head(waiting)),
                }
            }
        }
    }

    /// The client has ended its side between requests, or in a head.
    fn ended(&mut self, waiting: &Waiting, now: Now) -> Next {
        let is_blank = |byte: &u8| matches!(byte, b'\r' | b'\n');
        if !self.client_in.bytes().iter().all(is_blank) {
            return self.refuse(Verdict::Malformed(BadHead::Incomplete), now);
        }
        if !waiting.was_asked {
            self.told.push_back(Told::Fault(Fault::Empty));
        }
        self.close()
    }

    /// Closes both sides when all is written.
    pub(super) fn close(&mut self) -> Next {
        self.legs(Leg::Closed, Leg::Closed);
        Next::Wait(Phase::Over)
    }

    /// Judges a request, and forwards or answers it.
    fn ask(&mut self, head: &RequestHead, now: Now, judge: &dyn Judge) -> Next {
        let input = (self.client_in.bytes(), &*self.requests.fields);
        let judged = ask(
            input,
            (head, &self.settings, &self.origin),
            (judge, now.instant),
            &mut self.to_upstream,
        );
        let shape = shape_of(head.method.text(self.client_in.bytes()), head.is_grpc);
        match judged {
            Judged::Malformed(bad) => self.refuse(Verdict::Malformed(bad), now),
            Judged::Denied(record, reason) => self.deny((record, reason), (head, shape), now),
            Judged::Forwarded(record, asked) => {
                self.client_in.take(head.octets);
                let record = Arc::new(record);
                self.told.push_back(Told::Request(Arc::clone(&record)));
                let mut running = Running::new(record, asked, (head, shape));
                if head.is_expecting {
                    running = running.waiting_for_100(now.instant, &self.settings);
                }
                Next::Go(Phase::Exchange(Box::new(running)))
            }
        }
    }

    /// Answers a request that may not go, and keeps the connection where its body can be told apart
    /// from the next request.
    fn deny(
        &mut self,
        (record, denied): (RequestRecord, Denied),
        (head, shape): (&RequestHead, Shape),
        now: Now,
    ) -> Next {
        let (status, why) = Why::of(denied);
        // What comes behind it may be meant for the tunnel.
        let is_tunnel = head.method.text(self.client_in.bytes()) == "CONNECT";
        self.client_in.take(head.octets);
        let body = Body::new(head.framing, Written::Nothing);
        // The client may send the body that it announced, or not, once it has the answer.
        let is_unsure = head.is_expecting && self.client_in.is_empty() && !body.is_done();
        let is_long = body.left().is_some_and(|left| left > DRAIN_OCTETS_MAX);
        let is_safe = !is_unsure && !is_long && !is_tunnel;
        let keeps = head.may_keep && !self.is_draining && why == Why::Denied && is_safe;
        let answer = Answer {
            status,
            body: &self.settings.answer_text(status),
            shape,
            after: match keeps {
                true => After::Keep(head.version),
                false => After::Close,
            },
        };
        answer.write(now.wall, &mut self.to_client);
        let record = Arc::new(record);
        self.told.push_back(Told::Request(Arc::clone(&record)));
        self.tell_own(&record, (status, why), now.instant);
        let until = now.instant + DRAIN_WAIT;
        match keeps {
            true => Next::Go(Phase::Drain(Drain { body, until })),
            false => Next::Go(self.last_words(Leg::Closed)),
        }
    }

    /// Answers what is no request. Nothing of it, and nothing after it, is read as one.
    fn refuse(&mut self, verdict: Verdict, now: Now) -> Next {
        let (status, why) = match &verdict {
            Verdict::Malformed(bad) => (bad.status(), Why::Malformed),
            Verdict::TooSlow => (408, Why::TooSlow),
            Verdict::Allowed { .. } | Verdict::Denied(_) => (400, Why::Malformed),
        };
        let answer = Answer {
            status,
            body: &self.settings.answer_text(status),
            shape: Shape::Whole,
            after: After::Close,
        };
        answer.write(now.wall, &mut self.to_client);
        let record = Arc::new(RequestRecord {
            at: now.instant,
            method: String::new(),
            url: told_line(self.requests.start_line(self.client_in.bytes())),
            is_query_hidden: false,
            version: None,
            fields: Vec::new(),
            verdict,
        });
        self.told.push_back(Told::Request(Arc::clone(&record)));
        self.tell_own(&record, (status, why), now.instant);
        Next::Go(self.last_words(Leg::Closed))
    }

    /// Reads and drops the body of a denied request.
    pub(super) fn dry(&mut self, mut drain: Drain, now: Now) -> Next {
        let used = drain
            .body
            .pass(self.client_in.bytes(), &mut Buffer::default());
        self.client_in.take(used.unwrap_or_default());
        if drain.body.is_done() {
            return Next::Go(Phase::Head(Waiting::again(now.instant)));
        }
        let is_over = used.is_err()
            || self.client_end.is_some()
            || drain.until <= now.instant
            || drain.body.octets() > DRAIN_OCTETS_MAX;
        match is_over {
            true => Next::Go(self.last_words(Leg::Closed)),
            false => Next::Wait(Phase::Drain(drain)),
        }
    }

    /// Drops what the client still sends, until it has ended or it is enough: a socket that is closed
    /// with octets unread resets the connection, and the client may lose what it was told.
    pub(super) fn linger(&mut self, mut linger: Linger, now: Now) -> Next {
        linger.octets += self.client_in.len() as u64;
        self.client_in.clear();
        if self.to_client.is_empty() {
            linger.until.get_or_insert(now.instant + DRAIN_WAIT);
        }
        let idle = self.last + self.settings.stream_idle;
        let is_late = linger.until.unwrap_or(idle) <= now.instant;
        let is_over = is_late || self.client_end.is_some() || linger.octets > DRAIN_OCTETS_MAX;
        if !is_over {
            return Next::Wait(Phase::Linger(linger));
        }
        self.client = Leg::Closed;
        Next::Wait(Phase::Over)
    }
}
