//! A request that went upstream: its body, its response, and the tunnel that it may become.

use std::sync::Arc;
use std::time::Instant;

use super::asking::Sought;
use super::waiting::Waiting;
use super::{Connection, Ending, Leg, Next, Phase, Way};
use crate::core::answer::Shape;
use crate::core::buffer::Buffer;
use crate::core::bytes::items;
use crate::core::forward::{Closing, Passing, is_listed, write_response};
use crate::core::framing::{BadBody, Body, Framing, Written};
use crate::core::head::Version;
use crate::core::head::field::Kind;
use crate::core::head::refusal::BadHead;
use crate::core::head::request::{RequestHead, values};
use crate::core::head::response::ResponseHead;
use crate::core::record::{
    By, End, Fault, Protocol, RequestRecord, ResponseRecord, Told, Why, told_fields,
};
use crate::core::step::{Now, Settings};
use crate::limits::{
    BODY_BUFFER_OCTETS_MAX, DRAIN_OCTETS_MAX, DRAIN_WAIT, INTERIM_RESPONSES_MAX,
    TUNNEL_BULK_AFTER_OCTETS,
};

/// An exchange that is under way.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) record: Arc<RequestRecord>,
    pub(super) shape: Shape,
    sought: Sought,
    client: Version,
    may_keep: bool,
    body: Body,
    /// When the client gets a 100 of ours, if it waits for one.
    continue_at: Option<Instant>,
    /// Whether it has had one.
    was_continued: bool,
    interim: u32,
    answer: Option<Answering>,
    /// Answered before the request was read: until when, and up to which octet, the rest may come.
    rest: Option<(Instant, u64)>,
}

/// A response that is being passed on.
#[derive(Debug)]
struct Answering {
    body: Body,
    may_keep: bool,
}

/// Two sides that speak something else from now on.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) record: Arc<RequestRecord>,
    sent: u64,
    received: u64,
}

/// What the head of a response leads to.
enum Headed {
    Interim,
    Final,
    Tunnel,
}

impl Running {
    pub(super) fn new(
        record: Arc<RequestRecord>,
        sought: Sought,
        (head, shape): (&RequestHead, Shape),
    ) -> Self {
        Self {
            record,
            shape,
            sought,
            client: head.version,
            may_keep: head.may_keep,
            body: Body::new(head.framing, Written::AsFramed),
            continue_at: None,
            was_continued: false,
            interim: 0,
            answer: None,
            rest: None,
        }
    }

    /// Notes until when the server may let a client wait for its 100.
    pub(super) fn waiting_for_100(mut self, now: Instant, settings: &Settings) -> Self {
        if !self.body.is_done() {
            self.continue_at = Some(now + settings.continue_wait);
        }
        self
    }

    pub(super) const fn is_answered(&self) -> bool {
        self.answer.is_some()
    }

    /// Octets of content in both directions.
    pub(super) fn octets(&self) -> (u64, u64) {
        let received = self
            .answer
            .as_ref()
            .map_or(0, |answer| answer.body.octets());
        (self.body.octets(), received)
    }

    pub(super) fn bulk(&self, way: Way) -> u64 {
        let body = match way {
            Way::Up if self.rest.is_some() => None,
            Way::Up => Some(&self.body),
            Way::Down => self.answer.as_ref().map(|answer| &answer.body),
        };
        body.map_or(0, Body::bulk)
    }

    pub(super) fn passed(&mut self, way: Way, count: u64) {
        match (way, &mut self.answer) {
            (Way::Up, _) => self.body.passed(count),
            (Way::Down, Some(answer)) => answer.body.passed(count),
            (Way::Down, None) => {}
        }
    }

    pub(super) fn deadline(&self, settings: &Settings, last: Instant) -> Option<Instant> {
        let is_streaming = !self.body.is_done() || self.answer.is_some();
        let idle = is_streaming.then(|| last + settings.stream_idle);
        let rest = self.rest.map(|(until, _)| until);
        let all = [idle, rest, self.continue_at, self.answer_by(settings)];
        all.into_iter().flatten().min()
    }

    /// Until when the head of the response must be there.
    fn answer_by(&self, settings: &Settings) -> Option<Instant> {
        let is_waiting = self.answer.is_none() && self.body.is_done();
        settings
            .response_wait
            .filter(|_| is_waiting)
            .map(|wait| self.record.at + wait)
    }
}

impl Tunnel {
    pub(super) const fn octets(&self) -> (u64, u64) {
        (self.sent, self.received)
    }

    /// As much as there will be, once it is clear that there is much.
    pub(super) const fn bulk(&self, way: Way) -> u64 {
        let octets = match way {
            Way::Up => self.sent,
            Way::Down => self.received,
        };
        match octets >= TUNNEL_BULK_AFTER_OCTETS {
            true => u64::MAX,
            false => 0,
        }
    }

    pub(super) const fn passed(&mut self, way: Way, count: u64) {
        match way {
            Way::Up => self.sent = self.sent.saturating_add(count),
            Way::Down => self.received = self.received.saturating_add(count),
        }
    }
}

impl Connection {
    /// Lets an exchange go on: the request's body up, the response down.
    pub(super) fn run(&mut self, mut running: Box<Running>, now: Now) -> Next {
        if self.is_deaf {
            running.body.discard();
        }
        let used = running
            .body
            .pass(self.client_in.bytes(), &mut self.to_upstream);
        match used {
            Ok(used) => self.client_in.take(used),
            Err(bad) => return self.bad_body(&running, bad, now),
        }
        if !running.body.is_done() && self.client_end.is_some() && self.client_in.is_empty() {
            // The server must not take half a request for a whole one.
            self.tell_running(&running, End::ClientGone, now.instant);
            self.legs(Leg::Closed, Leg::Reset);
            return Next::Wait(Phase::Over);
        }
        while running.answer.is_none() {
            match self
                .responses
                .read(self.upstream_in.bytes(), running.sought.asked)
            {
                Err(bad) => return self.fail(&running, (502, Why::BadResponse(bad)), now),
                Ok(None) if self.upstream_end.is_some() => {
                    return self.fail(&running, (502, Why::ServerGone), now);
                }
                Ok(None) => break,
                Ok(Some(head)) => match self.hear(&mut running, &head, now) {
                    Ok(Headed::Interim | Headed::Final) => {}
                    Ok(Headed::Tunnel) => return Self::open_tunnel(&running),
                    Err(bad) => return self.fail(&running, (502, Why::BadResponse(bad)), now),
                },
            }
        }
        let Some(answer) = &mut running.answer else {
            return self.await_answer(running, now);
        };
        match answer
            .body
            .pass(self.upstream_in.bytes(), &mut self.to_client)
        {
            Ok(used) => self.upstream_in.take(used),
            Err(bad) => {
                self.tell_running(&running, End::BadResponseBody(bad), now.instant);
                return self.cut();
            }
        }
        if answer.body.is_done() {
            return self.answered(running, now);
        }
        let has_ended = self.upstream_end.is_some() && self.upstream_in.is_empty();
        if has_ended && self.upstream_end == Some(Ending::Fin) && answer.body.end().is_ok() {
            return self.answered(running, now);
        }
        if has_ended {
            self.tell_running(&running, End::ServerGone, now.instant);
            return self.cut();
        }
        self.rest_or_wait(running, now)
    }

    /// A framing error in a request whose head has gone: nothing after it is read any more.
    fn bad_body(&mut self, running: &Running, bad: BadBody, now: Now) -> Next {
        if !running.is_answered() {
            return self.fail(running, (400, Why::BadBody(bad)), now);
        }
        self.tell_running(running, End::BadRequestBody(bad), now.instant);
        self.cut()
    }

    /// The server has not answered yet.
    fn await_answer(&mut self, mut running: Box<Running>, now: Now) -> Next {
        if running.continue_at.is_some_and(|at| at <= now.instant) {
            running.continue_at = None;
            if !running.was_continued && !running.body.is_done() {
                running.was_continued = true;
                self.to_client.put(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
        }
        if running
            .answer_by(&self.settings)
            .is_some_and(|by| by <= now.instant)
        {
            return self.fail(&running, (504, Why::ServerSlow), now);
        }
        self.rest_or_wait(running, now)
    }

    /// Waits, unless nothing has come for too long.
    fn rest_or_wait(&mut self, running: Box<Running>, now: Now) -> Next {
        let is_streaming = !running.body.is_done() || running.answer.is_some();
        if !is_streaming || self.last + self.settings.stream_idle > now.instant {
            return Next::Wait(Phase::Exchange(running));
        }
        self.tell_running(&running, End::Idle, now.instant);
        self.cut()
    }

    /// Passes on the head of a response.
    fn hear(
        &mut self,
        running: &mut Running,
        head: &ResponseHead,
        now: Now,
    ) -> Result<Headed, BadHead> {
        let close = match self.is_draining && head.status >= 200 {
            true => Closing::Said,
            false => Closing::AsSaid,
        };
        let passing = Passing::of_response(head, running.client, (close, self.settings.alt_svc));
        let input = (self.upstream_in.bytes(), &*self.responses.fields);
        let headed = match (head.framing, head.status) {
            (Framing::Tunnel, status) => {
                let is_asked = status != 101
                    || running.sought.upgrades && running.body.is_done() && self.is_listed();
                if !is_asked {
                    return Err(BadHead::Status);
                }
                Headed::Tunnel
            }
            (_, 100..200) => Headed::Interim,
            _ => Headed::Final,
        };
        match headed {
            Headed::Interim => {
                running.interim += 1;
                if running.interim > INTERIM_RESPONSES_MAX {
                    return Err(BadHead::TooManyInterim);
                }
                // A 100 once, and none of all to a client that knows none.
                let is_second = head.status == 100 && running.was_continued;
                if head.status == 100 {
                    running.was_continued = true;
                    running.continue_at = None;
                }
                let is_for_client = running.client == Version::Http11 && !is_second;
                if is_for_client {
                    write_response(input, (head, &passing), &mut self.to_client);
                }
            }
            Headed::Final | Headed::Tunnel => {
                write_response(input, (head, &passing), &mut self.to_client);
                running.continue_at = None;
                let is_joined =
                    head.framing == Framing::Chunked && running.client == Version::Http10;
                let written = match is_joined {
                    true => Written::Joined,
                    false => Written::AsFramed,
                };
                running.answer = Some(Answering {
                    body: Body::new(head.framing, written),
                    may_keep: head.may_keep && !is_joined,
                });
                let fields = told_fields(passing.lines(input.0, input.1));
                let record = ResponseRecord::new(
                    &running.record,
                    (head.status, By::Server),
                    (Protocol::Http1(head.version), fields),
                    now.instant,
                );
                self.told.push_back(Told::Response(record));
            }
        }
        self.upstream_in.take(head.octets);
        Ok(headed)
    }

    /// Whether the server upgrades to something that may be.
    fn is_listed(&self) -> bool {
        let is_listed = |token: &[u8]| is_listed(token, &self.settings.upgrades);
        let lines = values(
            self.upstream_in.bytes(),
            &self.responses.fields,
            Kind::Upgrade,
        );
        let mut tokens = lines.flat_map(items).peekable();
        tokens.peek().is_some() && tokens.all(is_listed)
    }

    fn open_tunnel(running: &Running) -> Next {
        Next::Go(Phase::Tunnel(Box::new(Tunnel {
            record: Arc::clone(&running.record),
            sent: 0,
            received: 0,
        })))
    }

    /// The response is complete.
    fn answered(&mut self, mut running: Box<Running>, now: Now) -> Next {
        let may_keep = running
            .answer
            .as_ref()
            .is_some_and(|answer| answer.may_keep);
        if !self.upstream_in.is_empty() {
            // Whatever follows would be taken for the answer to the next request.
            self.told.push_back(Told::Fault(Fault::Unasked));
            return Next::Go(self.last_words(Leg::Reset));
        }
        let may_keep = may_keep && self.upstream_end.is_none() && !self.is_deaf;
        if running.body.is_done() {
            if !running.may_keep && self.client_in.is_empty() {
                // Its client has said that it was the last one: nothing follows for which to linger.
                return self.close();
            }
            if !may_keep || !running.may_keep || self.is_draining {
                return Next::Go(self.last_words(Leg::Closed));
            }
            // Most connections rest most of the time. What is read into is kept, if it is small.
            self.client_in.rest();
            self.upstream_in.rest();
            self.to_upstream.free();
            return Next::Go(Phase::Head(Waiting::again(now.instant)));
        }
        if !may_keep {
            return Next::Go(self.last_words(Leg::Reset));
        }
        // Answered early: what is left of the request may still come, within bounds.
        let octets = running.body.octets();
        let rest = (now.instant + DRAIN_WAIT, octets + DRAIN_OCTETS_MAX);
        let (until, most) = *running.rest.get_or_insert(rest);
        match until <= now.instant || octets > most {
            true => Next::Go(self.last_words(Leg::Reset)),
            false => Next::Wait(Phase::Exchange(running)),
        }
    }

    /// Hands octets through, each side's end by itself.
    pub(super) fn pipe(&mut self, mut tunnel: Box<Tunnel>, now: Now) -> Next {
        let sent = move_octets(&mut self.client_in, &mut self.to_upstream);
        tunnel.passed(Way::Up, sent);
        let received = move_octets(&mut self.upstream_in, &mut self.to_client);
        tunnel.passed(Way::Down, received);
        let is_idle = self.last + self.settings.tunnel_idle <= now.instant;
        let is_cut = self.upstream_end == Some(Ending::Reset) || self.is_deaf;
        if is_idle || is_cut {
            let end = if is_idle { End::Idle } else { End::ServerGone };
            self.tell_tunnel(&tunnel, end, now.instant);
            return self.cut();
        }
        let has_client_ended = self.client_end.is_some() && self.client_in.is_empty();
        let has_upstream_ended = self.upstream_end.is_some() && self.upstream_in.is_empty();
        if has_client_ended {
            self.upstream = Leg::Shut;
        }
        if has_upstream_ended {
            self.client = Leg::Shut;
        }
        if !has_client_ended || !has_upstream_ended {
            return Next::Wait(Phase::Tunnel(tunnel));
        }
        self.tell_tunnel(&tunnel, End::TunnelClosed, now.instant);
        self.legs(Leg::Closed, Leg::Closed);
        Next::Wait(Phase::Over)
    }
}

/// Moves as many octets as there is room for.
fn move_octets(from: &mut Buffer, to: &mut Buffer) -> u64 {
    let room = BODY_BUFFER_OCTETS_MAX.saturating_sub(to.len());
    let all = from.bytes();
    let taken = all.get(..room).unwrap_or(all);
    let count = taken.len();
    to.put(taken);
    from.take(count);
    count as u64
}
