//! HTTP/1: the core's connection between two sockets. What it says is done, and nothing else.

use std::io;

use policy::http::{Path, Request};

use super::connection::{Connection, End};
use super::detect::First;
use super::host::Host;
use super::stream::Stream;
use super::tally::Count;
use crate::core::exchange::{self, Leg};
use crate::core::record::{Fault, RequestRecord, Told, Verdict};
use crate::core::step::{Judge as _, Now, Origin};
use crate::limits::STREAM_IDLE;
use crate::told::News;

/// Turns without waiting, after which others of the same thread have theirs.
const TURNS_MAX: usize = 16;

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
}

impl Driver {
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
        match stream.try_write(octets) {
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
        match stream.try_write(octets) {
            Ok(count) => self.core.upstream_wrote(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(_) => self.core.upstream_write_failed(),
        }
        true
    }
}

impl<H: Host> Connection<H> {
    /// Serves requests until the connection ends.
    pub(super) async fn http1(&mut self, first: First, server: Trusted) -> End {
        let origin = Origin {
            scheme: self.access.scheme(),
            original_destination: self.redirected.server,
        };
        let begin = self.proxy.host.now();
        let settings = std::sync::Arc::clone(&self.proxy.settings);
        let mut core = exchange::Connection::new(settings, origin, begin);
        match server {
            Trusted::Yes => core.upstream_connected(),
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
            if let Some(end) = self.follow(&mut driver) {
                return end;
            }
            if self.wait(&mut driver).await == Waited::InVain {
                return End::Reset;
            }
        }
    }

    /// Reads, steps and writes what can be at once. Says whether anything moved.
    fn turn(&mut self, driver: &mut Driver) -> bool {
        let mut moved = driver.read_client(&mut self.client);
        moved |= driver.read_server(&mut self.server.stream);
        driver.core.step(self.now(), &self.access);
        self.tell(driver);
        moved |= driver.write_client(&mut self.client);
        moved |= driver.write_server(&mut self.server.stream);
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
                    continue;
                }
            }
            self.proxy.host.tell(News::Http(self.redirected, told));
        }
    }

    /// Does with both sides what the core says, once what is written is written.
    fn follow(&mut self, driver: &mut Driver) -> Option<End> {
        let wants = driver.core.wants();
        if !driver.is_server_over {
            let is_written =
                driver.core.to_upstream().is_empty() && !self.server.stream.has_unsent();
            match wants.upstream {
                Leg::Open => {}
                Leg::Shut if is_written && !driver.is_server_shut => {
                    driver.is_server_shut = self.server.stream.try_shutdown();
                }
                Leg::Closed if is_written => {
                    driver.is_server_over = self.server.stream.try_shutdown();
                }
                Leg::Cut if !is_written => {}
                Leg::Shut | Leg::Closed => {}
                Leg::Cut | Leg::Reset => {
                    driver.is_server_over = true;
                    self.server.stream.reset();
                }
            }
        }
        let is_written = driver.core.to_client().is_empty() && !self.client.has_unsent();
        match wants.client {
            Leg::Open => None,
            Leg::Shut if is_written && !driver.is_client_shut => {
                driver.is_client_shut = self.client.try_shutdown();
                None
            }
            // In TLS the end is said, too.
            Leg::Closed if is_written => self.client.try_shutdown().then_some(End::Closed),
            Leg::Cut if is_written => Some(End::Reset),
            Leg::Shut | Leg::Closed | Leg::Cut => None,
            Leg::Reset => Some(End::Reset),
        }
    }

    /// Ends a tunnel that policy allows no longer.
    fn review(&mut self, driver: &mut Driver) {
        let is_denied = |request: &RequestRecord| match &request.verdict {
            Verdict::Allowed { rule, .. } => {
                !self.access.has_rule(*rule) && !self.would_allow(request)
            }
            Verdict::Denied(_) | Verdict::Malformed(_) | Verdict::TooSlow => true,
        };
        if driver
            .core
            .tunnel()
            .is_some_and(|request| is_denied(request))
        {
            self.proxy.counters.count(Count::Cut);
            driver.core.revoke();
        }
    }

    /// Whether policy would allow a request again, by what is told of it. What was cut or taken out there
    /// fits no rule.
    fn would_allow(&self, request: &RequestRecord) -> bool {
        let scheme = self.access.scheme().text();
        let place = request.url.strip_prefix(scheme);
        let place = place.and_then(|place| place.strip_prefix("://"));
        let Some((host, _)) = place.and_then(|place| place.split_once('/')) else {
            return false;
        };
        let path = place.and_then(|place| place.get(host.len()..));
        let Some(Ok(path)) = path.map(|path| Path::parse(path.as_bytes())) else {
            return false;
        };
        let lines = request.fields.iter();
        let lines: Vec<_> = lines
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        let request = Request {
            method: &request.method,
            path: Some(&path),
            host: (!host.is_empty()).then_some(host),
            port: self.redirected.server.port(),
            headers: &lines,
        };
        self.access.judge(&request).is_ok()
    }

    /// Waits until something can be done.
    async fn wait(&mut self, driver: &mut Driver) -> Waited {
        let wants = driver.core.wants();
        let now = self.proxy.host.now();
        let rest = wants.deadline.map(|at| at.saturating_duration_since(now));
        let is_due = async {
            match rest {
                Some(rest) => tokio::time::sleep(rest).await,
                None => std::future::pending().await,
            }
        };
        let reads_client = !driver.core.client_room().is_empty();
        let reads_server = !driver.is_server_over && !driver.core.upstream_room().is_empty();
        let writes_client = !driver.core.to_client().is_empty();
        // The core has given all away and waits for nothing more; what TLS holds may not wait for ever.
        let lingers = wants.deadline.is_none() && !writes_client && self.client.has_unsent();
        let writes_server = !driver.is_server_over && !driver.core.to_upstream().is_empty();
        tokio::select! {
            () = self.client.ready(reads_client, writes_client) => {}
            () = self.server.stream.ready(reads_server, writes_server) => {}
            () = is_due => {}
            () = tokio::time::sleep(STREAM_IDLE), if lingers => return Waited::InVain,
            _ = self.changes.changed() => {
                self.look_again();
                self.review(driver);
            }
            () = self.stop.cancelled(), if !driver.is_draining => {
                driver.is_draining = true;
                driver.core.drain();
            }
        }
        Waited::Enough
    }
}
