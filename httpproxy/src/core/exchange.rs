//! One HTTP/1 connection without its sockets: what came in, what may go out, and when it ends.
//!
//! ```text
//!            head complete, permit                    101, CONNECT 2xx
//!   Head ────────────────────────────► Exchange ───────────────────────► Tunnel
//!    ▲ │ denied                          │  │                              │
//!    │ └─────────► Drain ─┐              │  │ no way to go on              │
//!    │◄───────────────────┴──────────────┘  ▼                              ▼
//!    │          body read, may be kept    Linger ───────────────────────► Over
//! ```
//!
//! The shell reads into the rooms, calls [`Connection::step`], writes what stands in the buffers, and
//! does with the two legs what [`Connection::wants`] says. Requests are taken one at a time: the next
//! head is read when the response to the last one is out, so each gets its answer, in order. Nothing
//! of a request goes upstream but by `write_request`, which takes the permit that only policy makes.

mod asking;
mod running;
mod waiting;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::answer::{After, Answer, Shape};
use super::buffer::Buffer;
use super::head::request::RequestReader;
use super::head::response::ResponseReader;
use super::record::{
    By, End, EndRecord, Fault, Protocol, RequestRecord, ResponseRecord, Told, Why,
};
use super::step::{Connect, Judge, Now, Origin, Settings};
use crate::limits::{BODY_BUFFER_OCTETS_MAX, HEAD_OCTETS_MAX, LEADING_LINES_MAX};
use running::{Running, Tunnel};
use waiting::{Drain, Linger, Waiting};

/// One connection of a client and the one to its server.
#[derive(Debug)]
pub struct Connection {
    settings: Arc<Settings>,
    origin: Origin,
    client_in: Buffer,
    to_client: Buffer,
    upstream_in: Buffer,
    to_upstream: Buffer,
    requests: RequestReader,
    responses: ResponseReader,
    phase: Phase,
    client: Leg,
    upstream: Leg,
    link: Link,
    client_end: Option<Ending>,
    upstream_end: Option<Ending>,
    /// The server takes nothing more, and may still answer.
    is_deaf: bool,
    /// The connection is to end with the response that is under way.
    is_draining: bool,
    /// When octets moved last, and whether some did since.
    last: Instant,
    moved: bool,
    told: VecDeque<Told>,
}

/// What is to be done with one side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// Read and write.
    Open,
    /// When all is written, end the writing; go on reading.
    Shut,
    /// When all is written, close.
    Closed,
    /// When all is written, reset: the other side must see that it is not whole.
    Cut,
    /// Reset now; what isn't written is lost.
    Reset,
}

/// What the shell is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wants {
    /// Open the connection to the server, if that is not done yet.
    pub connect: bool,
    /// The client's side. Once it is `Closed`, `Cut` or `Reset`, the connection is over when that is
    /// done.
    pub client: Leg,
    /// The server's side.
    pub upstream: Leg,
    /// When to step again even if nothing happens.
    pub deadline: Option<Instant>,
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// The connection to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// Nobody has asked for it yet.
    Unasked,
    Connecting,
    Open,
    Failed,
    /// It is not the one that is meant, as its TLS shows.
    Untrusted,
}

/// How a side ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Fin,
    Reset,
}

#[derive(Debug)]
enum Phase {
    /// Waits for a request's head.
    Head(Waiting),
    /// A request is on its way, or its response.
    Exchange(Box<Running>),
    /// A denied request's body is read and dropped.
    Drain(Drain),
    /// Answered for the last time: what the client still sends is dropped, so that it can read that.
    Linger(Linger),
    Tunnel(Box<Tunnel>),
    Over,
}

/// What a step of a phase came to.
enum Next {
    /// More can be done at once.
    Go(Phase),
    /// Nothing more until something happens.
    Wait(Phase),
}

impl Connection {
    /// A connection whose client was accepted. If it is eager the shell is connecting already.
    #[must_use]
    pub fn new(settings: Arc<Settings>, origin: Origin, now: Instant) -> Self {
        let link = match settings.connect {
            Connect::Eager => Link::Connecting,
            Connect::Lazy => Link::Unasked,
        };
        Self {
            settings,
            origin,
            client_in: Buffer::default(),
            to_client: Buffer::default(),
            upstream_in: Buffer::default(),
            to_upstream: Buffer::default(),
            requests: RequestReader::default(),
            responses: ResponseReader::default(),
            phase: Phase::Head(Waiting::first(now)),
            client: Leg::Open,
            upstream: Leg::Open,
            link,
            client_end: None,
            upstream_end: None,
            is_deaf: false,
            is_draining: false,
            last: now,
            moved: false,
            told: VecDeque::new(),
        }
    }

    /// Where to read the client's next octets. None: don't read now, which is the backpressure.
    pub fn client_room(&mut self) -> &mut [u8] {
        let is_open = matches!(self.client, Leg::Open | Leg::Shut) && self.client_end.is_none();
        let max = match self.phase {
            Phase::Head(_) => HEAD_ROOM_OCTETS,
            Phase::Exchange(_) | Phase::Drain(_) | Phase::Linger(_) | Phase::Tunnel(_) => {
                BODY_BUFFER_OCTETS_MAX
            }
            Phase::Over => 0,
        };
        self.client_in.room(if is_open { max } else { 0 })
    }

    /// Octets were read into the client's room.
    pub fn client_read(&mut self, count: usize) {
        self.client_in.filled(count);
        self.moved |= count > 0;
    }

    /// The client has ended its side.
    pub fn client_eof(&mut self) {
        self.client_end.get_or_insert(Ending::Fin);
    }

    /// The client is gone.
    pub fn client_reset(&mut self) {
        self.client_end = Some(Ending::Reset);
    }

    /// Where to read the server's next octets. None: don't read now.
    pub fn upstream_room(&mut self) -> &mut [u8] {
        let is_open = matches!(self.upstream, Leg::Open | Leg::Shut)
            && self.upstream_end.is_none()
            && self.link == Link::Open;
        let max = match &self.phase {
            Phase::Exchange(running) if !running.is_answered() => HEAD_ROOM_OCTETS,
            Phase::Exchange(_) | Phase::Tunnel(_) => BODY_BUFFER_OCTETS_MAX,
            // Only to see whether it ends, or speaks unasked.
            Phase::Head(_) | Phase::Drain(_) => 1024,
            Phase::Linger(_) | Phase::Over => 0,
        };
        self.upstream_in.room(if is_open { max } else { 0 })
    }

    /// Octets were read into the server's room.
    pub fn upstream_read(&mut self, count: usize) {
        self.upstream_in.filled(count);
        self.moved |= count > 0;
    }

    /// The server has ended its side.
    pub fn upstream_eof(&mut self) {
        self.upstream_end.get_or_insert(Ending::Fin);
    }

    /// The server is gone.
    pub fn upstream_reset(&mut self) {
        self.upstream_end = Some(Ending::Reset);
        self.is_deaf = true;
    }

    /// The server takes nothing more. What it has said may still be read.
    pub fn upstream_write_failed(&mut self) {
        self.is_deaf = true;
    }

    /// The shell has begun to connect.
    pub fn upstream_connecting(&mut self) {
        if self.link == Link::Unasked {
            self.link = Link::Connecting;
        }
    }

    /// The connection to the server stands.
    pub fn upstream_connected(&mut self) {
        self.link = Link::Open;
    }

    /// The server has not shown that it is the one that is meant: nothing is sent to it, and each
    /// request that may go is answered 502.
    pub fn upstream_untrusted(&mut self) {
        self.link = Link::Untrusted;
    }

    /// The server can't be reached.
    pub fn upstream_failed(&mut self) {
        self.link = Link::Failed;
    }

    /// What is to be written to the client.
    #[must_use]
    pub fn to_client(&self) -> &[u8] {
        match self.client {
            Leg::Reset => &[],
            Leg::Open | Leg::Shut | Leg::Closed | Leg::Cut => self.to_client.bytes(),
        }
    }

    /// Octets were written to the client.
    pub fn client_wrote(&mut self, count: usize) {
        self.to_client.take(count);
        if matches!(self.phase, Phase::Head(_)) {
            self.to_client.free();
        }
        self.moved |= count > 0;
    }

    /// What is to be written to the server, once the connection stands.
    #[must_use]
    pub fn to_upstream(&self) -> &[u8] {
        match self.upstream {
            Leg::Reset => &[],
            _ if self.is_deaf || self.link != Link::Open => &[],
            Leg::Open | Leg::Shut | Leg::Closed | Leg::Cut => self.to_upstream.bytes(),
        }
    }

    /// Octets were written to the server.
    pub fn upstream_wrote(&mut self, count: usize) {
        self.to_upstream.take(count);
        self.moved |= count > 0;
    }

    /// How many octets are to come that may pass from one socket to the other without being seen here:
    /// content that passes as it is.
    #[must_use]
    pub fn bulk(&self, way: Way) -> u64 {
        let are_open =
            (self.client, self.upstream, self.link) == (Leg::Open, Leg::Open, Link::Open);
        if !are_open || self.is_deaf {
            return 0;
        }
        match &self.phase {
            Phase::Exchange(running) => running.bulk(way),
            Phase::Tunnel(tunnel) => tunnel.bulk(way),
            Phase::Head(_) | Phase::Drain(_) | Phase::Linger(_) | Phase::Over => 0,
        }
    }

    /// Whether nothing is held that must go before such octets.
    #[must_use]
    pub fn is_clear(&self, way: Way) -> bool {
        match way {
            Way::Up => self.client_in.is_empty() && self.to_upstream.is_empty(),
            Way::Down => self.upstream_in.is_empty() && self.to_client.is_empty(),
        }
    }

    /// Octets passed by [`Connection::bulk`]: no more than that told.
    pub fn bulk_moved(&mut self, way: Way, count: u64) {
        self.moved |= count > 0;
        match &mut self.phase {
            Phase::Exchange(running) => running.passed(way, count),
            Phase::Tunnel(tunnel) => tunnel.passed(way, count),
            Phase::Head(_) | Phase::Drain(_) | Phase::Linger(_) | Phase::Over => {}
        }
    }

    /// Ends the connection with the response that is under way, or at once if none is.
    pub fn drain(&mut self) {
        self.is_draining = true;
    }

    /// Ends it at once.
    pub fn abandon(&mut self) {
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Exchange(running) => self.tell_running(&running, End::Stopped, self.last),
            Phase::Tunnel(tunnel) => self.tell_tunnel(&tunnel, End::Stopped, self.last),
            Phase::Head(_) | Phase::Drain(_) | Phase::Linger(_) | Phase::Over => {}
        }
        self.legs(Leg::Reset, Leg::Reset);
    }

    /// Ends a tunnel that policy allows no longer.
    pub fn revoke(&mut self) {
        if let Phase::Tunnel(tunnel) = std::mem::replace(&mut self.phase, Phase::Over) {
            self.tell_tunnel(&tunnel, End::Revoked, self.last);
            self.legs(Leg::Reset, Leg::Reset);
        }
    }

    /// Whether it is a tunnel, and of which request.
    #[must_use]
    pub fn tunnel(&self) -> Option<&Arc<RequestRecord>> {
        match &self.phase {
            Phase::Tunnel(tunnel) => Some(&tunnel.record),
            Phase::Head(_)
            | Phase::Exchange(_)
            | Phase::Drain(_)
            | Phase::Linger(_)
            | Phase::Over => None,
        }
    }

    /// The next thing to tell.
    pub fn next_told(&mut self) -> Option<Told> {
        self.told.pop_front()
    }

    /// Does all that can be done with what is there by now.
    pub fn step(&mut self, now: Now, judge: &dyn Judge) {
        if std::mem::take(&mut self.moved) {
            self.last = now.instant;
        }
        if self.is_deaf {
            self.to_upstream.clear();
        }
        loop {
            let phase = std::mem::replace(&mut self.phase, Phase::Over);
            let next = match phase {
                Phase::Over => self.over(now),
                _ if self.client_end == Some(Ending::Reset) => self.client_gone(phase, now),
                phase if self.link == Link::Failed => self.unreachable(phase, now),
                Phase::Exchange(running) if self.link == Link::Untrusted => {
                    self.fail(&running, (502, Why::Untrusted), now)
                }
                Phase::Head(waiting) => self.wait(waiting, now, judge),
                Phase::Exchange(running) => self.run(running, now),
                Phase::Drain(drain) => self.dry(drain, now),
                Phase::Linger(linger) => self.linger(linger, now),
                Phase::Tunnel(tunnel) => self.pipe(tunnel, now),
            };
            match next {
                Next::Go(phase) => self.phase = phase,
                Next::Wait(phase) => {
                    self.phase = phase;
                    return;
                }
            }
        }
    }

    /// What the shell is to do.
    #[must_use]
    pub fn wants(&self) -> Wants {
        let is_running = matches!(self.phase, Phase::Exchange(_));
        Wants {
            connect: is_running && self.link == Link::Unasked,
            client: self.client,
            upstream: self.upstream,
            deadline: self.deadline(),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let settings = &self.settings;
        match &self.phase {
            Phase::Head(waiting) => Some(waiting.deadline(settings)),
            Phase::Exchange(running) => running.deadline(settings, self.last),
            Phase::Drain(drain) => Some(drain.until),
            Phase::Linger(linger) => linger.until.or(Some(self.last + settings.stream_idle)),
            Phase::Tunnel(_) => Some(self.last + settings.tunnel_idle),
            Phase::Over => {
                let is_waiting = self.client != Leg::Reset && !self.to_client.is_empty();
                is_waiting.then(|| self.last + settings.stream_idle)
            }
        }
    }

    /// All that is left is to write; but not for ever.
    fn over(&mut self, now: Now) -> Next {
        let is_late = self
            .deadline()
            .is_some_and(|deadline| deadline <= now.instant);
        if is_late || self.client_end == Some(Ending::Reset) {
            self.client = Leg::Reset;
        }
        Next::Wait(Phase::Over)
    }

    fn client_gone(&mut self, phase: Phase, now: Now) -> Next {
        let upstream = match phase {
            Phase::Exchange(running) => {
                self.tell_running(&running, End::ClientGone, now.instant);
                Leg::Reset
            }
            Phase::Tunnel(tunnel) => {
                self.tell_tunnel(&tunnel, End::ClientGone, now.instant);
                Leg::Reset
            }
            Phase::Head(_) | Phase::Drain(_) | Phase::Linger(_) | Phase::Over => Leg::Closed,
        };
        self.legs(Leg::Reset, upstream);
        Next::Wait(Phase::Over)
    }

    /// The server can't be reached: the client sees what it would have seen without us.
    fn unreachable(&mut self, phase: Phase, now: Now) -> Next {
        self.link = Link::Unasked; // told once
        self.upstream = Leg::Closed;
        match (phase, self.settings.connect) {
            (Phase::Exchange(running), Connect::Lazy) => {
                self.fail(&running, (503, Why::Unreachable), now)
            }
            (Phase::Exchange(running), Connect::Eager) => {
                self.tell_running(&running, End::Unreachable, now.instant);
                self.legs(Leg::Reset, Leg::Closed);
                Next::Wait(Phase::Over)
            }
            (Phase::Linger(linger), _) => Next::Go(Phase::Linger(linger)),
            (Phase::Head(_) | Phase::Drain(_) | Phase::Tunnel(_) | Phase::Over, _) => {
                self.told.push_back(Told::Fault(Fault::Unreachable));
                self.legs(Leg::Reset, Leg::Closed);
                Next::Wait(Phase::Over)
            }
        }
    }

    /// Answers a running request ourselves, for the last time on this connection.
    fn fail(&mut self, running: &Running, (status, why): (u16, Why), now: Now) -> Next {
        let answer = Answer {
            status,
            body: &self.settings.answer_text(status),
            shape: running.shape,
            after: After::Close,
        };
        answer.write(now.wall, &mut self.to_client);
        self.tell_own(&running.record, (status, why), now.instant);
        self.to_upstream.clear();
        Next::Go(self.last_words(Leg::Reset))
    }

    /// Nothing more is said: the client gets what is written, and the end.
    fn last_words(&mut self, upstream: Leg) -> Phase {
        self.legs(Leg::Shut, upstream);
        Phase::Linger(Linger::default())
    }

    /// The client gets what is written, and must not take it for something whole.
    fn cut(&mut self) -> Next {
        self.legs(Leg::Cut, Leg::Reset);
        Next::Wait(Phase::Over)
    }

    const fn legs(&mut self, client: Leg, upstream: Leg) {
        self.client = client;
        self.upstream = upstream;
    }

    fn tell_own(&mut self, request: &Arc<RequestRecord>, (status, why): (u16, Why), now: Instant) {
        let head = (Protocol::Http1(super::head::Version::Http11), Vec::new());
        let record = ResponseRecord::new(request, (status, By::Proxy(why)), head, now);
        self.told.push_back(Told::Response(record));
    }

    fn tell_running(&mut self, running: &Running, end: End, now: Instant) {
        let (sent, received) = running.octets();
        let how = (running.is_answered(), now);
        let record = EndRecord::new(&running.record, (end, sent, received), how);
        self.told.push_back(Told::Ended(record));
    }

    /// A tunnel is what its request was answered with.
    fn tell_tunnel(&mut self, tunnel: &Tunnel, end: End, now: Instant) {
        let (sent, received) = tunnel.octets();
        let record = EndRecord::new(&tunnel.record, (end, sent, received), (true, now));
        self.told.push_back(Told::Ended(record));
    }
}

/// Octets that are held of a side whose next head isn't complete: so many that a head which is too long
/// is seen to be.
const HEAD_ROOM_OCTETS: usize = HEAD_OCTETS_MAX + 2 * LEADING_LINES_MAX + 2;

/// The shape of our answers to a request.
pub(crate) fn shape_of(method: &str, is_grpc: bool) -> Shape {
    match method {
        "HEAD" => Shape::Head,
        _ if is_grpc => Shape::Grpc,
        _ => Shape::Whole,
    }
}

#[cfg(test)]
mod tests;
