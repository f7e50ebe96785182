//! DNS over TCP: one task for each connection, with one upstream connection, opened at the first
//! query that may go (RFC 7766).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bpf_redirect_common::{DNS_PORT, Kind};
use policy::{EndpointId, L4Protocol};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use transport::{GateListener, client_of};

use super::connections::Connections;
use super::host::{Host, Place, Proxy};
use super::side::Side;
use super::way::{Asked, Asking, ask, settle};
use crate::Counters;
use crate::answer::{Reject, keepalive};
use crate::core::exchange::{Held, Upstream};
use crate::core::gates::GateReason;
use crate::core::pending::{Member, Pending};
use crate::core::record::{Outcome, Records};
use crate::core::release::{Arrived, Heard};
use crate::core::step::{Fault, Origin, Reply};
use crate::core::tally::Quirk;
use crate::frames::FrameError;
use crate::limits::{
    TCP_FRAME_WAIT_MAX, TCP_IDLE_MAX, TCP_KEEPALIVE_MAX, TCP_MALFORMED_MAX, TCP_OUTSTANDING_MAX,
    TCP_REJECTED_MAX, TCP_UNREAD_OCTETS_MAX,
};
use server::{Server, connect, server_ready};

mod server;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1_024;

/// Connections that were accepted elsewhere and wait to be served; one more is closed.
const HANDED_MAX: usize = 1_024;

/// By which connections for names get here that another listener accepted: at ports other than 53 one
/// listener takes all that is redirected.
#[derive(Clone, Debug)]
pub struct Handover(mpsc::Sender<std::net::TcpStream>, Arc<Counters>);

impl Handover {
    /// Hands a client's connection over. If too many wait, it is closed, and counted.
    pub fn give(&self, client: std::net::TcpStream) {
        if self.0.try_send(client).is_err() {
            self.1.quirk(Quirk::ConnectionRefused);
        }
    }
}

/// The TCP side, ready to run in the namespace that its listener was made in.
pub struct TcpServer<H: Host> {
    proxy: Arc<Proxy<H>>,
    place: Place,
    listener: std::net::TcpListener,
    connections: Arc<Connections>,
    handed: mpsc::Receiver<std::net::TcpStream>,
    handover: Handover,
}

impl<H: Host> TcpServer<H> {
    /// Listens in the calling thread's namespace, which must be the gate.
    ///
    /// # Errors
    /// If the port is taken.
    pub fn open(proxy: Arc<Proxy<H>>) -> io::Result<Self> {
        let listener = GateListener::bind(DNS_PORT, BACKLOG)?;
        Ok(Self::with(proxy, Place::Gate, listener))
    }

    /// The same with the listener of an earlier process and with what waits in it.
    ///
    /// # Errors
    /// If it is another socket, or one elsewhere.
    pub fn adopt(proxy: Arc<Proxy<H>>, listener: OwnedFd) -> io::Result<Self> {
        let listener = GateListener::adopt(listener, DNS_PORT)?;
        Ok(Self::with(proxy, Place::Gate, listener))
    }

    /// The same with a listener that was opened in a gate where this process is not.
    ///
    /// # Errors
    /// If it is no such socket.
    pub fn given(proxy: Arc<Proxy<H>>, listener: OwnedFd) -> io::Result<Self> {
        let listener = GateListener::given(listener)?;
        Ok(Self::with(proxy, Place::Gate, listener))
    }

    /// Listens on the node, in the calling thread's namespace. `listen` is a loopback address, port 0 one
    /// that the kernel chooses.
    ///
    /// # Errors
    /// If the address isn't there, or the port is taken.
    pub fn open_on_node(proxy: Arc<Proxy<H>>, listen: SocketAddr) -> io::Result<Self> {
        let listener = GateListener::bind_on_node(listen, BACKLOG)?;
        Ok(Self::with(proxy, Place::Node, listener))
    }

    /// The same with the listener of an earlier process at an address, and with what waits in it.
    ///
    /// # Errors
    /// If it is another socket, or one elsewhere.
    pub fn adopt_on_node(
        proxy: Arc<Proxy<H>>,
        (listener, ip): (OwnedFd, IpAddr),
    ) -> io::Result<Self> {
        let listener = GateListener::adopt_on_node(listener, ip)?;
        Ok(Self::with(proxy, Place::Node, listener))
    }

    fn with(proxy: Arc<Proxy<H>>, place: Place, listener: GateListener) -> Self {
        let (give, handed) = mpsc::channel(HANDED_MAX);
        let counters = Arc::clone(&proxy.counters);
        Self {
            proxy,
            place,
            listener: listener.into_std(),
            connections: Arc::default(),
            handed,
            handover: Handover(give, counters),
        }
    }

    /// By which it is given connections that were accepted elsewhere.
    #[must_use]
    pub fn handover(&self) -> Handover {
        self.handover.clone()
    }

    /// The listener, for somebody who keeps it.
    #[must_use]
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// The port that it listens on.
    ///
    /// # Errors
    /// If the socket is broken.
    pub fn port(&self) -> io::Result<u16> {
        Ok(self.listener.local_addr()?.port())
    }

    /// Serves until `stop`, and then until open exchanges are over or `drain` is. Must run on a
    /// single-threaded runtime whose thread is where it listens: upstream connections are made on it.
    ///
    /// # Errors
    /// If the listener can't be used.
    pub async fn run(mut self, stop: CancellationToken, drain: Duration) -> io::Result<()> {
        let listener = TcpListener::from_std(self.listener)?;
        let tasks = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted.map(|(stream, _)| stream),
                Some(handed) = self.handed.recv() => TcpStream::from_std(handed),
            };
            let Ok(stream) = accepted else {
                // Out of descriptors, or a client that gave up: the next one may do better.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let Some(origin) = origin(&self.proxy, self.place, &stream) else {
                self.proxy.counters.quirk(Quirk::Unmarked);
                continue;
            };
            let shared = (&self.proxy, &self.connections);
            let Some(connection) = Connection::open(shared, (self.place, origin), stream, &stop)
            else {
                continue;
            };
            tasks.spawn(connection.run());
        }
        tasks.close();
        // What is still open after the drain ends with the runtime.
        let _ = tokio::time::timeout(drain, tasks.wait()).await;
        Ok(())
    }
}

/// One client's connection.
struct Connection<H: Host> {
    proxy: Arc<Proxy<H>>,
    connections: Arc<Connections>,
    id: u64,
    place: Place,
    origin: Origin,
    client: Side,
    server: Option<Server>,
    /// Numbers upstream connections: an answer of an old one is nobody's.
    next_member: u64,
    pending: Pending,
    records: Records,
    /// How long it may be idle: as the server said last, if it did.
    idle_max: Duration,
    /// A frame came since the time was taken last: whoever is denied all that it asks is not idle.
    has_heard: bool,
    /// Malformed frames since the last good one.
    malformed: u8,
    scratch: Vec<u8>,
    close: CancellationToken,
    stop: CancellationToken,
}

/// A connection's task may be dropped unfinished, by the end of its runtime: what waits then is told as
/// abandoned.
impl<H: Host> Drop for Connection<H> {
    fn drop(&mut self) {
        drop(self.pending.take_of(self.origin.endpoint));
        self.tell();
        self.connections.remove(self.origin.endpoint, self.id);
    }
}

/// Why a connection ends.
enum End {
    /// All is answered, or a limit says so.
    Closed,
    /// The client is gone.
    ClientGone,
}

impl<H: Host> Connection<H> {
    fn open(
        (proxy, connections): (&Arc<Proxy<H>>, &Arc<Connections>),
        (place, origin): (Place, Origin),
        stream: TcpStream,
        stop: &CancellationToken,
    ) -> Option<Self> {
        let close = CancellationToken::new();
        let (now, counters) = (proxy.host.now(), &proxy.counters);
        let id = connections.admit(origin.endpoint, now, close.clone(), counters)?;
        Some(Self {
            place,
            origin,
            pending: Pending::new(Arc::clone(&proxy.outstanding)),
            records: Records::new(Arc::clone(&proxy.counters)),
            idle_max: TCP_IDLE_MAX,
            proxy: Arc::clone(proxy),
            connections: Arc::clone(connections),
            id,
            client: Side::new(stream),
            server: None,
            next_member: 0,
            has_heard: false,
            malformed: 0,
            scratch: Vec::new(),
            close,
            stop: stop.clone(),
        })
    }

    async fn run(mut self) {
        let outcome = match self.serve().await {
            End::Closed => Outcome::Abandoned,
            End::ClientGone => Outcome::ClientGone,
        };
        let now = self.proxy.host.now();
        for held in self.pending.take_of(self.origin.endpoint) {
            held.end(now, outcome.clone());
        }
    }

    async fn serve(&mut self) -> End {
        let mut idle_since = Some(self.proxy.host.now());
        loop {
            let now = self.proxy.host.now();
            if let Some(end) = self.work() {
                return end;
            }
            self.tell();
            let is_idle = self.pending.is_empty();
            if is_idle != idle_since.is_some() || std::mem::take(&mut self.has_heard) {
                idle_since = is_idle.then_some(now);
                self.connections
                    .set_idle(self.origin.endpoint, self.id, idle_since);
            }
            if is_idle
                && self.client.unwritten.is_empty()
                && (self.client.at_end || self.stop.is_cancelled())
            {
                return End::Closed;
            }
            let deadlines = [
                self.pending.next_deadline(),
                self.client
                    .frame_since
                    .map(|since| since + TCP_FRAME_WAIT_MAX),
                idle_since.map(|since| since + self.idle_max),
            ];
            let next = deadlines.into_iter().flatten().min();
            let wait = next.map_or(TCP_IDLE_MAX, |at| at.saturating_duration_since(now));
            let wants_queries = !self.client.at_end && !self.stop.is_cancelled() && self.has_room();
            let stop = self.stop.clone();
            tokio::select! {
                () = self.client.ready(wants_queries, !self.client.unwritten.is_empty()) => {}
                () = server_ready(self.server.as_ref()) => {}
                () = tokio::time::sleep(wait) => {}
                () = self.close.cancelled() => return End::Closed,
                () = stop.cancelled(), if !stop.is_cancelled() => {}
            }
            let now = self.proxy.host.now();
            let frame_since = self.client.frame_since;
            if frame_since.is_some_and(|since| now >= since + TCP_FRAME_WAIT_MAX) {
                self.proxy.counters.quirk(Quirk::FrameSlow);
                return End::Closed;
            }
            if idle_since.is_some_and(|since| now >= since + self.idle_max) {
                return End::Closed;
            }
        }
    }

    /// Does all that can be done without waiting.
    fn work(&mut self) -> Option<End> {
        let now = self.proxy.host.now();
        if !self.client.at_end && self.has_room() && self.client.read(now).is_err() {
            return Some(End::ClientGone);
        }
        self.hear(now);
        while let Some(held) = self.pending.expire(now) {
            let mut step = self.proxy.step(now, &self.records, &mut self.scratch);
            let reply = held.time_out(&mut step);
            self.put(reply);
        }
        if let Some(end) = self.take_queries(now) {
            return Some(end);
        }
        self.write_upstream(now);
        if self.client.write().is_err() {
            return Some(End::ClientGone);
        }
        if self.client.unwritten.len() > TCP_UNREAD_OCTETS_MAX {
            self.proxy.counters.quirk(Quirk::ReaderSlow);
            return Some(End::Closed);
        }
        None
    }

    fn has_room(&self) -> bool {
        self.pending.len() < TCP_OUTSTANDING_MAX
    }

    /// Takes whole frames from the client while there is room for what waits.
    fn take_queries(&mut self, now: Instant) -> Option<End> {
        while self.has_room() {
            let member = self.member();
            let message = match self.client.frames.next_message() {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(FrameError::Short(_)) => {
                    self.proxy.counters.gate(GateReason::Short);
                    return Some(End::Closed);
                }
                Err(FrameError::Overfull) => return Some(End::Closed),
            };
            let asking = Asking {
                origin: self.origin,
                message,
                member,
                pending: &mut self.pending,
                errors: &self.proxy.errors,
                tunnels: &self.proxy.tunnels,
            };
            let mut step = self.proxy.step(now, &self.records, &mut self.scratch);
            let asked = ask(asking, &self.proxy.host, &mut step);
            self.has_heard = true;
            self.client.frame_since = self.client.frames.is_amid().then_some(now);
            self.malformed = match asked {
                Asked::Malformed(_) => self.malformed.saturating_add(1),
                Asked::Over(_) | Asked::Send(_) => 0,
            };
            match asked {
                Asked::Malformed(reply) | Asked::Over(reply) => self.put(reply),
                Asked::Send(upstream) => self.send(upstream, now),
            }
            if self.malformed >= TCP_MALFORMED_MAX {
                self.proxy.counters.quirk(Quirk::FramesMalformed);
                let _ = self.client.write();
                return Some(End::Closed);
            }
        }
        // What is whole and waits for room costs the client no time.
        let runs = self.has_room() && self.client.frames.is_amid();
        self.client.frame_since = runs.then(|| self.client.frame_since.unwrap_or(now));
        None
    }

    /// Puts the reply in `scratch`, if there is one, where the client reads it.
    fn put(&mut self, reply: Option<Reply>) {
        if reply.is_some() {
            self.client.put(&self.scratch);
        }
    }

    fn fail(&mut self, held: Held, fault: Fault, now: Instant) {
        let mut step = self.proxy.step(now, &self.records, &mut self.scratch);
        let reply = held.fail(fault, &mut step);
        self.put(Some(reply));
    }

    /// Hands the query in `scratch` to the upstream connection, which is made if there is none.
    fn send(&mut self, upstream: Upstream, now: Instant) {
        if self.server.is_none() {
            match connect(&self.proxy, self.place, &upstream) {
                Ok(stream) => {
                    let side = Side::new(stream);
                    self.server = Some(Server {
                        side,
                        member: upstream.key.member,
                        is_up: false,
                        rejected: 0,
                        unanswered: 0,
                    });
                }
                Err(_) => return self.fail_upstream(Fault::Unreachable, now),
            }
        }
        if let Some(server) = &mut self.server {
            server.side.put(&self.scratch);
            server.unanswered += 1;
        }
    }

    /// The upstream connection's number, or the one that the next will have.
    fn member(&self) -> Member {
        self.server
            .as_ref()
            .map_or(Member(self.next_member), |server| server.member)
    }

    fn write_upstream(&mut self, now: Instant) {
        let Some(server) = &mut self.server else {
            return;
        };
        if !server.is_up {
            match server.side.stream.take_error() {
                Ok(None) if server.side.stream.peer_addr().is_ok() => server.is_up = true,
                Ok(None) => return,
                Ok(Some(_)) | Err(_) => return self.fail_upstream(Fault::Unreachable, now),
            }
        }
        if server.side.write().is_err() {
            self.fail_upstream(Fault::Unreachable, now);
        }
    }

    /// The upstream connection is gone: each query that waits gets its answer; the client stays.
    fn fail_upstream(&mut self, fault: Fault, now: Instant) {
        let member = self.member();
        self.server = None;
        self.next_member = member.0 + 1;
        while let Some(held) = self.pending.take_from(member) {
            self.fail(held, fault, now);
        }
    }

    /// Reads what the server says.
    fn hear(&mut self, now: Instant) {
        let Some(server) = &mut self.server else {
            return;
        };
        if !server.is_up {
            return;
        }
        if server.side.read(now).is_err() {
            return self.fail_upstream(Fault::Unreachable, now);
        }
        loop {
            let Some(server) = &mut self.server else {
                return;
            };
            let message = match server.side.frames.next_message() {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(FrameError::Short(_)) => {
                    self.proxy.counters.reject(Reject::Short);
                    return self.fail_upstream(Fault::Unreachable, now);
                }
                Err(FrameError::Overfull) => return self.fail_upstream(Fault::Unreachable, now),
            };
            let arrived = Arrived {
                member: server.member,
                server: self.origin.server,
                local: None,
                endpoint: None,
                bytes: message,
            };
            let said = keepalive(message);
            // Not the batch's: each answer is timed for itself, as over UDP.
            let now = self.proxy.host.now();
            let mut step = self.proxy.step(now, &self.records, &mut self.scratch);
            let heard = self.pending.hear(&arrived, &mut step);
            if matches!(heard, Heard::Ignored(Reject::Id)) && server.unanswered > self.pending.len()
            {
                // Of a query that nobody waits for any more: it came too late, or its client asked again.
                server.unanswered -= 1;
                continue;
            }
            if matches!(heard, Heard::Ignored(_)) {
                server.rejected += 1;
                if server.rejected >= TCP_REJECTED_MAX {
                    self.proxy.counters.quirk(Quirk::ServerBabbles);
                    return self.fail_upstream(Fault::Guessing, now);
                }
                continue;
            }
            server.rejected = 0;
            server.unanswered = server.unanswered.saturating_sub(1);
            self.idle_max = said.map_or(self.idle_max, idle_for);
            let reply = settle(heard, &self.proxy.host, &mut step);
            self.put(reply);
        }
        if self
            .server
            .as_ref()
            .is_some_and(|server| server.side.at_end)
        {
            self.fail_upstream(Fault::Unreachable, now);
        }
    }

    fn tell(&self) {
        let mut told = Vec::new();
        self.records.drain(&mut told);
        for told in told {
            self.proxy.tell(told);
        }
    }
}

/// How long a connection may be idle where the server says so. One that wants none is given a second: what
/// was answered is to be read.
fn idle_for(said: Duration) -> Duration {
    said.clamp(Duration::from_secs(1), TCP_KEEPALIVE_MAX)
}

/// Whose connection it is, and which server it is meant for.
fn origin<H: Host>(proxy: &Proxy<H>, place: Place, stream: &TcpStream) -> Option<Origin> {
    let protocol = L4Protocol::Tcp;
    let (client, (endpoint, server)) = match place {
        Place::Gate => {
            let (client, server, mark) = GateListener::meaning(stream.as_fd()).ok()?;
            if mark.kind() != Kind::Client {
                return None;
            }
            (client.0, (EndpointId::new(mark.endpoint())?, server.0))
        }
        Place::Node => {
            let client = client_of(stream.as_fd()).ok()?.0;
            (client, proxy.host.asker(client, protocol, [0; 2])?)
        }
    };
    Some(Origin {
        endpoint,
        client,
        server,
        protocol,
    })
}

#[cfg(test)]
mod tests;
