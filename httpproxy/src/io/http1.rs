//! HTTP/1: the core's connection between two sockets. What it says is done, and nothing else.

use std::io;
use std::time::Instant;

use transport::Follows;

use super::connection::{Connection, End, tell_refused};
use super::detect::First;
use super::host::Host;
use super::lane::{Lane, Moving, Pipes};
use super::stream::Stream;
use super::tally::Count;
use super::tunnel::TURNS_MAX;
use crate::core::exchange::{self, Leg, Way};
use crate::core::record::{Fault, Told};
use crate::core::step::{Now, Origin};
use crate::limits::BODY_BULK_OCTETS_MIN;
use crate::told::{News, Refusal};

/// Whether the server has shown that it is the one that is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trusted {
    Yes,
    /// Nothing is sent to it: each request that may go is answered so.
    No,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waited {
    Enough,
    /// The client takes nothing of what is left.
    InVain,
}

/// The core, and what the client said before it was there.
struct Driver {
    core: exchange::Connection,
    first: First,
    /// How many of the first octets the core has.
    fed: usize,
    /// Whether the server's side is as good as closed; its socket may still be there.
    is_server_over: bool,
    is_client_shut: bool,
    is_server_shut: bool,
    is_draining: bool,
    up: Option<Lane>,
    down: Option<Lane>,
    /// Until when the server must be there, while it is coming.
    connect_by: Option<Instant>,
}

impl Driver {
    fn drain(&mut self) {
        self.is_draining = true;
        self.core.drain();
    }

    /// Lets content pass without being seen, where there is much of it. Says whether anything moved; `None`:
    /// what there is must be read.
    fn bulk(&mut self, way: Way, streams: (&Stream, &Stream), pipes: &Pipes) -> Option<bool> {
        if !streams.0.is_plain() || !streams.1.is_plain() {
            return None;
        }
        let left = self.core.bulk(way);
        let lane = match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        };
        if lane.as_ref().is_none_or(|lane| lane.held() == 0) {
            let is_long = left >= BODY_BULK_OCTETS_MIN || (left > 0 && lane.is_some());
            let is_fed = way == Way::Down || self.fed == self.first.octets.len();
            if !is_long || !is_fed {
                *lane = None;
                return None;
            }
            if !self.core.is_clear(way) {
                return Some(false);
            }
            *lane = lane.take().or_else(|| pipes.lane());
        }
        let (from, to) = match way {
            Way::Up => streams,
            Way::Down => (streams.1, streams.0),
        };
        let moving = lane.as_mut()?.turn(from.socket(), to.socket(), left);
        let held = lane.as_ref().map_or(0, Lane::held);
        if held == 0 && !matches!(moving, Moving::Wrote(_)) {
            // Others may need it.
            *lane = None;
        }
        match (moving, way) {
            (Moving::Wrote(count), _) => self.core.bulk_moved(way, count),
            (Moving::Held, _) => {}
            (Moving::Nothing, _) => return Some(false),
            (Moving::Ended, Way::Up) => self.core.client_eof(),
            (Moving::Ended, Way::Down) => self.core.upstream_eof(),
            (Moving::NoSender, Way::Up) => self.core.client_reset(),
            (Moving::NoReceiver, Way::Down) => {
                self.down = None; // what it holds is nobody's
                self.core.client_reset();
            }
            (Moving::NoSender, Way::Down) => self.core.upstream_reset(),
            (Moving::NoReceiver, Way::Up) => {
                self.up = None;
                self.core.bulk_moved(way, held);
                self.core.upstream_write_failed();
            }
        }
        Some(true)
    }

    /// Whether octets are to be read, or wait to be written, in a direction.
    fn is_waiting(&mut self, way: Way) -> (bool, bool) {
        let lane = match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        };
        let is_held = lane.as_ref().is_some_and(|lane| lane.held() > 0);
        let is_blocked = self.core.bulk(way) >= BODY_BULK_OCTETS_MIN && !self.core.is_clear(way);
        let (room, octets) = match way {
            Way::Up => (!self.core.client_room().is_empty(), self.core.to_upstream()),
            Way::Down => (!self.core.upstream_room().is_empty(), self.core.to_client()),
        };
        (
            room && !is_held && !is_blocked,
            is_held || !octets.is_empty(),
        )
    }

    fn read_client(&mut self, stream: &mut Stream) -> bool {
        let room = self.core.client_room();
        if room.is_empty() {
            return false;
        }
        let first = self.first.octets.get(self.fed..).unwrap_or_default();
        if !first.is_empty() {
            let count = first.len().min(room.len());
            for (to, from) in room.iter_mut().zip(first) {
                *to = *from;
            }
            self.core.client_read(count);
            self.fed += count;
            if self.fed == self.first.octets.len() && self.first.is_over {
                self.core.client_eof();
            }
            return true;
        }
        match stream.try_read(room) {
            Ok(0) => self.core.client_eof(),
            Ok(count) => self.core.client_read(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(_) => self.core.client_reset(),
        }
        true
    }

    fn read_server(&mut self, stream: &mut Stream) -> bool {
        let room = self.core.upstream_room();
        if room.is_empty() || self.is_server_over {
            return false;
        }
        match stream.try_read(room) {
            Ok(0) => self.core.upstream_eof(),
            Ok(count) => self.core.upstream_read(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(_) => self.core.upstream_reset(),
        }
        true
    }

    fn write_client(&mut self, stream: &mut Stream) -> bool {
        let octets = self.core.to_client();
        if octets.is_empty() {
            return false;
        }
        match stream.try_write(octets, behind(self.core.wants().client)) {
            Ok(count) => self.core.client_wrote(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(_) => self.core.client_reset(),
        }
        true
    }

    fn write_server(&mut self, stream: &mut Stream) -> bool {
        let octets = self.core.to_upstream();
        if octets.is_empty() || self.is_server_over {
            return false;
        }
        match stream.try_write(octets, Follows::Unknown) {
            Ok(count) => self.core.upstream_wrote(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(_) => self.core.upstream_write_failed(),
        }
        true
    }
}

/// What comes behind all that is to be written to the client.
const fn behind(leg: Leg) -> Follows {
    match leg {
        // Its end, which is said before the socket is closed, and goes with the last octets.
        Leg::Shut | Leg::Closed => Follows::More,
        Leg::Open | Leg::Cut | Leg::Reset => Follows::Unknown,
    }
}

impl<H: Host> Connection<H> {
    /// Serves requests until the connection ends.
    pub(super) async fn http1(&mut self, first: First, server: Trusted) -> End {
        self.look_again_if_changed(); // before the first request is judged, as before each that follows
        let origin = Origin {
            scheme: self.access.scheme(),
            original_destination: self.redirected.server,
        };
        let begin = self.proxy.host.now();
        let settings = std::sync::Arc::clone(&self.proxy.settings);
        let mut core = exchange::Connection::new(settings, origin, begin);
        match server {
            Trusted::Yes if self.server.is_up => core.upstream_connected(),
            Trusted::Yes => {}
            Trusted::No => core.upstream_untrusted(),
        }
        let mut driver = Driver {
            core,
            first,
            fed: 0,
            is_server_over: false,
            is_client_shut: false,
            is_server_shut: false,
            is_draining: false,
            up: None,
            down: None,
            connect_by: None,
        };
        let mut was_tunnel = false;
        loop {
            let mut turns = 0;
            while self.turn(&mut driver) {
                turns += 1;
                if turns % TURNS_MAX == 0 {
                    tokio::task::yield_now().await;
                }
            }
            if driver.core.tunnel().is_some() != was_tunnel {
                was_tunnel = true;
                self.proxy.counters.count(Count::Tunnel);
            }
            if driver.core.wants().connect {
                self.begin_call(&mut driver);
            }
            if let Some(end) = self.follow(&mut driver) {
                return end;
            }
            if self.wait(&mut driver).await == Waited::InVain {
                return End::Reset;
            }
        }
    }

    /// Begins the connection to the server: a request may go.
    fn begin_call(&mut self, driver: &mut Driver) {
        driver.core.upstream_connecting();
        match self.call() {
            Ok(()) => {
                let wait = self.proxy.settings.connect_wait;
                driver.connect_by = Some(self.proxy.host.now() + wait);
            }
            Err(_) => self.no_server(driver),
        }
    }

    /// Looks whether the server is there by now.
    fn settle(&mut self, driver: &mut Driver) {
        let is_late = driver
            .connect_by
            .is_some_and(|by| by <= self.proxy.host.now());
        match self.server.settle() {
            Ok(()) if self.server.is_up => {
                driver.connect_by = None;
                driver.core.upstream_connected();
            }
            Ok(()) if !is_late => {}
            Ok(()) | Err(_) => self.no_server(driver),
        }
    }

    /// The server can't be reached: the core answers.
    fn no_server(&mut self, driver: &mut Driver) {
        let _ = self.unreachable();
        self.server.stream = None;
        driver.connect_by = None;
        driver.core.upstream_failed();
    }

    /// Reads, steps and writes what can be at once. Says whether anything moved.
    fn turn(&mut self, driver: &mut Driver) -> bool {
        let (client, server) = (&self.client, self.server.stream.as_ref());
        let streams = server.map(|server| (client, server));
        let bulk = |driver: &mut Driver, way| driver.bulk(way, streams?, &self.proxy.pipes);
        let (up, down) = (bulk(driver, Way::Up), bulk(driver, Way::Down));
        let mut moved = up.unwrap_or_else(|| driver.read_client(&mut self.client));
        if let Some(server) = &mut self.server.stream {
            moved |= down.unwrap_or_else(|| driver.read_server(server));
        }
        driver.core.step(self.now(), &self.access);
        self.tell(driver);
        moved |= driver.write_client(&mut self.client);
        if let Some(server) = &mut self.server.stream {
            moved |= driver.write_server(server);
        }
        moved
    }

    fn now(&self) -> Now {
        Now {
            instant: self.proxy.host.now(),
            wall: self.proxy.host.wall(),
        }
    }

    fn tell(&self, driver: &mut Driver) {
        while let Some(told) = driver.core.next_told() {
            match &told {
                Told::Request(request) => self.proxy.counters.request(&request.verdict),
                Told::Response(_) | Told::Ended(_) => {}
                Told::Fault(fault) => {
                    self.proxy.counters.count(match fault {
                        Fault::Unasked => Count::Unasked,
                        Fault::Unreachable => Count::Unreachable,
                        Fault::Empty => Count::Empty,
                    });
                    if matches!(fault, Fault::Unasked) {
                        let refused = (Refusal::Unasked, None, None);
                        tell_refused(&self.proxy, self.redirected, refused);
                    }
                    continue;
                }
            }
            self.proxy.host.tell(News::Http(self.redirected, told));
        }
    }

    /// Does with both sides what the core says, once what is written is written.
    fn follow(&mut self, driver: &mut Driver) -> Option<End> {
        let end = self.follow_client(driver);
        // Its socket is closed next, which ends the writing too.
        let is_plain = self.server.stream.as_ref().is_none_or(Stream::is_plain);
        let is_closing = end == Some(End::Closed) && driver.core.wants().upstream == Leg::Closed;
        if !is_closing || !is_plain {
            self.follow_server(driver);
        }
        end
    }

    fn follow_client(&mut self, driver: &mut Driver) -> Option<End> {
        let is_written = driver.core.to_client().is_empty() && !self.client.has_unsent();
        match driver.core.wants().client {
            Leg::Open => None,
            Leg::Shut if is_written && !driver.is_client_shut => {
                driver.is_client_shut = self.client.try_shutdown();
                None
            }
            // The end is said even to who has sent more than was read: the close alone would be a reset then.
            Leg::Closed if is_written => self.client.try_shutdown().then_some(End::Closed),
            Leg::Cut if is_written => Some(End::Reset),
            Leg::Shut | Leg::Closed | Leg::Cut => None,
            Leg::Reset => Some(End::Reset),
        }
    }

    fn follow_server(&mut self, driver: &mut Driver) {
        let Some(server) = &mut self.server.stream else {
            return;
        };
        if driver.is_server_over {
            return;
        }
        let is_written = driver.core.to_upstream().is_empty() && !server.has_unsent();
        match driver.core.wants().upstream {
            Leg::Open => {}
            Leg::Shut if is_written && !driver.is_server_shut => {
                driver.is_server_shut = server.try_shutdown();
            }
            Leg::Closed if is_written => {
                driver.is_server_over = server.try_shutdown();
            }
            Leg::Cut if !is_written => {}
            Leg::Shut | Leg::Closed => {}
            Leg::Cut | Leg::Reset => {
                driver.is_server_over = true;
                server.reset();
            }
        }
    }

    /// Ends a tunnel that policy allows no longer.
    fn review(&mut self, driver: &mut Driver) {
        if driver
            .core
            .tunnel()
            .is_some_and(|request| !self.access.still_allows(request, self.proxy.settings.paths))
        {
            self.proxy.counters.count(Count::Cut);
            driver.core.revoke();
        }
    }

    /// Waits until something can be done.
    async fn wait(&mut self, driver: &mut Driver) -> Waited {
        let wants = driver.core.wants();
        let now = self.proxy.host.now();
        let deadline = [wants.deadline, driver.connect_by]
            .into_iter()
            .flatten()
            .min();
        let rest = deadline.map(|at| at.saturating_duration_since(now));
        let is_due = async {
            match rest {
                Some(rest) => tokio::time::sleep(rest).await,
                None => std::future::pending().await,
            }
        };
        let (reads_client, writes_server) = driver.is_waiting(Way::Up);
        let (reads_server, writes_client) = driver.is_waiting(Way::Down);
        let reads_server = reads_server && !driver.is_server_over;
        let writes_server = writes_server && !driver.is_server_over;
        let is_coming = driver.connect_by.is_some();
        let server = async {
            match &mut self.server.stream {
                Some(stream) if !is_coming => stream.ready(reads_server, writes_server).await,
                Some(_) | None => self.server.is_near().await,
            }
        };
        // The core has given all away and waits for nothing more; what TLS holds may not wait for ever.
        let is_given = driver.core.to_client().is_empty() && self.client.has_unsent();
        let lingers = wants.deadline.is_none() && is_given;
        let idle = self.proxy.settings.stream_idle;
        tokio::select! {
            () = self.client.ready(reads_client, writes_client) => {}
            () = server => {}
            () = is_due => {}
            () = tokio::time::sleep(idle), if lingers => return Waited::InVain,
            _ = self.changes.changed() => {
                self.look_again();
                self.review(driver);
                if self.access.begins_tls() {
                    driver.drain(); // the next one is to be in TLS
                }
            }
            () = self.stop.cancelled(), if !driver.is_draining => driver.drain(),
            () = self.cut.cancelled() => driver.core.abandon(),
        }
        if is_coming {
            self.settle(driver);
        }
        Waited::Enough
    }
}
