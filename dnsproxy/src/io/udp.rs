//! One worker for DNS over UDP: the thread that reads a query sends it on, the thread that reads the
//! answer replies, and both are this one. Nothing but the account of what waits is shared.
//!
//! A worker is in the gate, or on the node, for endpoints that are cgroups (`Place`).

mod backlog;
mod own;
mod upkeep;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bpf_redirect_common::{DNS_PORT, Kind, Mark};
use policy::{EndpointId, L4Protocol};
use rustix::event::epoll;
use rustix::event::{EventfdFlags, eventfd};
use transport::{DATAGRAM_MAX, Datagram, GateUdp, Inbox, NetNs, Outbox};

use super::host::{Host, Place, Proxy, any_of, loopback_of};
use super::pool::Pool;
use super::waiting::{Kept, Waiting};
use super::way::{Asked, Asking, ask, settle};
use crate::core::exchange::{Held, Upstream};
use crate::core::pending::{Key, Member, Pending};
use crate::core::record::{Records, Told};
use crate::core::release::Arrived;
use crate::core::step::{Fault, Origin, Reply};
use crate::core::tally::Quirk;

use own::OWN_PORT;
pub use own::{Own, OwnQuery};
use upkeep::Upkeep;

/// Datagrams that are read or sent by one system call.
pub(super) const BATCH: usize = 64;
/// A query's buffer: one over 1,232 octets is refused, so what is cut off isn't missed.
pub(super) const QUERY_BUFFER: usize = 2_048;
/// Receive buffer of a listener: 20,000 waiting queries of 60 octets.
const RECEIVE_BUFFER: i32 = 8 << 20;
/// Keys of what epoll watches; members of the pool count from [`FIRST_MEMBER`].
const LISTENER: u64 = 0;
const STOP: u64 = 1;
const OWN: u64 = 2;
const FIRST_MEMBER: u64 = 3;
/// Between two looks at retired sockets, where no deadline comes earlier, and between two signs of life
/// to the next daemon.
const IDLE_WAIT: Duration = Duration::from_secs(1);

/// A handle that ends a worker.
#[derive(Clone)]
pub struct StopUdp(Arc<OwnedFd>);

impl StopUdp {
    /// Ends the worker: it reads nothing more, and answers what comes until its drain is over.
    pub fn stop(&self) {
        // A full counter means that it was told already.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
}

/// A worker, ready to run in the namespace that its pool was made in.
pub struct UdpWorker<H: Host> {
    proxy: Arc<Proxy<H>>,
    place: Place,
    /// From where it asks servers.
    leaves: Place,
    /// Where it listens; in the gate everywhere.
    local: IpAddr,
    listener: GateUdp,
    pool: Pool,
    pending: Pending,
    records: Records,
    waiting: Option<Waiting>,
    /// What an earlier process had read and not answered.
    kept: VecDeque<Kept>,
    /// While what waited in an earlier process's listener is worked off: when more of it may be read though
    /// much of it waits for answers.
    catching_up: Option<Instant>,
    own: Own,
    watch: OwnedFd,
    stop: StopUdp,
    upkeep: Upkeep,
}

/// What is read, apart from the worker so that it can lend itself meanwhile.
struct Inboxes {
    queries: Inbox,
    answers: Inbox,
}

/// What is about to be sent.
struct Outgoing {
    to_clients: Outbox,
    to_servers: Outbox,
    /// The pending keys of what is in `to_servers`, to fail what could not be sent.
    sent: Vec<Key>,
    /// The bytes of one step.
    scratch: Vec<u8>,
    told: Vec<Told>,
    /// What was read and isn't answered, for the next daemon.
    waiting: Option<Waiting>,
    /// Whose answers are in `to_clients`, each with its id.
    answered: Vec<(SocketAddr, [u8; 2])>,
}

impl Outgoing {
    /// A query is answered, or gets no answer.
    fn forget(&mut self, client: SocketAddr, message: &[u8]) {
        if let Some(waiting) = &mut self.waiting {
            waiting.remove(client, message);
        }
    }
}

impl<H: Host> UdpWorker<H> {
    /// Opens the listener in the gate, at port 53 or another one that rules name, and the pool in the calling
    /// thread's namespace: the gate too, unless servers are asked from the node's address.
    ///
    /// # Errors
    /// If a socket can't be made.
    pub fn open(proxy: Arc<Proxy<H>>, (gate, port): (&NetNs, u16)) -> io::Result<Self> {
        let listener = gate.run(|| GateUdp::bind(port, RECEIVE_BUFFER, true))??;
        Self::with(proxy, (Place::Gate, EVERYWHERE), listener)
    }

    /// The same with a listener that was opened in a gate where this process is not, at port 53.
    ///
    /// # Errors
    /// If a socket of the pool can't be made.
    pub fn given(proxy: Arc<Proxy<H>>, listener: OwnedFd) -> io::Result<Self> {
        let listener = GateUdp::given(listener, DNS_PORT);
        Self::with(proxy, (Place::Gate, EVERYWHERE), listener)
    }

    /// The same with the listener of an earlier process and with what waits in it.
    ///
    /// # Errors
    /// If it is another socket, or one elsewhere.
    pub fn adopt(proxy: Arc<Proxy<H>>, listener: OwnedFd) -> io::Result<Self> {
        let listener = GateUdp::adopt(listener, DNS_PORT, RECEIVE_BUFFER)?;
        Self::with(proxy, (Place::Gate, EVERYWHERE), listener)?.with_backlog()
    }

    /// Opens a listener and the pool on the node, in the calling thread's namespace. `listen` is a loopback
    /// address, port 0 one that the kernel chooses.
    ///
    /// # Errors
    /// If a socket can't be made.
    pub fn open_on_node(proxy: Arc<Proxy<H>>, listen: SocketAddr) -> io::Result<Self> {
        let listener = GateUdp::bind_on_node(listen, RECEIVE_BUFFER)?;
        Self::with(proxy, (Place::Node, listen.ip()), listener)
    }

    /// The same with the listener of an earlier process at an address, and with what waits in it.
    ///
    /// # Errors
    /// If it is another socket, or one elsewhere.
    pub fn adopt_on_node(
        proxy: Arc<Proxy<H>>,
        (listener, ip): (OwnedFd, IpAddr),
    ) -> io::Result<Self> {
        let listener = GateUdp::adopt_on_node(listener, ip, RECEIVE_BUFFER)?;
        Self::with(proxy, (Place::Node, ip), listener)?.with_backlog()
    }

    fn with(
        proxy: Arc<Proxy<H>>,
        (place, local): (Place, IpAddr),
        listener: GateUdp,
    ) -> io::Result<Self> {
        let watch = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(
            &watch,
            &stop,
            epoll::EventData::new_u64(STOP),
            epoll::EventFlags::IN,
        )?;
        hear(&watch, &listener)?;
        let own = Own::new()?;
        let data = epoll::EventData::new_u64(OWN);
        epoll::add(&watch, own.waker(), data, epoll::EventFlags::IN)?;
        let leaves = proxy.leaves_from(place);
        let reserved = Arc::clone(&proxy.reserved);
        let pool = Pool::open((leaves, FIRST_MEMBER, reserved), proxy.host.now(), &watch)?;
        Ok(Self {
            pending: Pending::new(Arc::clone(&proxy.outstanding)),
            records: Records::new(Arc::clone(&proxy.counters)),
            stop: StopUdp(Arc::new(stop)),
            proxy,
            place,
            leaves,
            local,
            listener,
            pool,
            watch,
            waiting: None,
            kept: VecDeque::new(),
            catching_up: None,
            own,
            upkeep: Upkeep::default(),
        })
    }

    /// The listener, for somebody who keeps it.
    #[must_use]
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// The port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.listener.port()
    }

    /// What ends it.
    #[must_use]
    pub fn stopper(&self) -> StopUdp {
        self.stop.clone()
    }

    /// Runs until it is stopped, and then until what waits is answered or `drain` is over.
    ///
    /// # Errors
    /// If waiting fails; a socket's own errors are its datagram's.
    pub fn run(mut self, drain: Duration) -> io::Result<()> {
        let mut inboxes = self.inboxes();
        let link = |place| match place {
            Place::Gate => self.proxy.link,
            // By which link a link-local server is meant is not known here: nothing is sent to it.
            Place::Node => 0,
        };
        let mut out = Outgoing {
            to_clients: Outbox::new(BATCH, DATAGRAM_MAX, link(self.place)),
            to_servers: Outbox::new(BATCH, QUERY_BUFFER, link(self.leaves)),
            sent: Vec::with_capacity(BATCH),
            scratch: Vec::with_capacity(4_096),
            told: Vec::new(),
            waiting: self.waiting.take(),
            answered: Vec::with_capacity(BATCH),
        };
        let mut events = Vec::with_capacity(BATCH);
        let mut ends_at: Option<Instant> = None;
        loop {
            events.clear();
            // Before anything is noted: a table that nobody lives by is taken for empty.
            if let Some(waiting) = &mut out.waiting {
                waiting.live(self.proxy.host.boot_ns());
            }
            self.catch_up(&mut inboxes.queries, &mut out)?;
            let timeout = self.wait_for(ends_at);
            match epoll::wait(
                &self.watch,
                rustix::buffer::spare_capacity(&mut events),
                Some(&timeout),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER if ends_at.is_none() => {
                        self.read_queries(&mut inboxes.queries, &mut out);
                    }
                    LISTENER => {}
                    OWN => self.ask_own(&mut out),
                    STOP => {
                        let now = self.proxy.host.now();
                        ends_at.get_or_insert(now + drain);
                        // What waited for this process waits on, for the next one.
                        self.catching_up = None;
                        let _ = epoll::delete(&self.watch, &*self.stop.0);
                        let _ = epoll::delete(&self.watch, self.listener.as_fd());
                    }
                    member => {
                        let flags = event.flags;
                        if flags.contains(epoll::EventFlags::ERR) {
                            self.read_errors(Member(member), &mut out);
                        }
                        self.read_answers(Member(member), &mut inboxes.answers, &mut out);
                    }
                }
            }
            self.expire(&mut out);
            self.keep_up();
            self.tell(&mut out);
            if let Some(end) = ends_at
                && (self.pending.is_empty() || self.proxy.host.now() >= end)
            {
                // What waits in vain is told as abandoned.
                self.pending = Pending::new(Arc::clone(&self.proxy.outstanding));
                self.tell(&mut out);
                return Ok(());
            }
        }
    }

    /// What is read into; queries where the next daemon finds them.
    fn inboxes(&mut self) -> Inboxes {
        let kept = self.waiting.as_mut().and_then(Waiting::inbox);
        Inboxes {
            queries: kept.unwrap_or_else(|| Inbox::new(BATCH, QUERY_BUFFER)),
            answers: Inbox::new(BATCH / 2, DATAGRAM_MAX),
        }
    }

    /// Reads one batch of queries, judges each, and sends what may go. Says how many there were.
    fn read_queries(&mut self, queries: &mut Inbox, out: &mut Outgoing) -> usize {
        let Ok(count @ 1..) = queries.read(&self.listener) else {
            return 0;
        };
        let read = |index| queries.get(index);
        if let Some(waiting) = &mut out.waiting {
            let now_ns = self.proxy.host.boot_ns();
            let not_noted = (0..count)
                .filter_map(read)
                .filter(|datagram| !waiting.put(datagram, now_ns))
                .count();
            let counters = &self.proxy.counters;
            counters.quirks(Quirk::NotNoted, not_noted as u64);
        }
        let now = self.proxy.host.now();
        let uses = u32::try_from(count).unwrap_or(u32::MAX);
        let chosen = self.pool.choose(uses, now, &self.watch);
        let Some(member) = chosen.map(|member| member.id) else {
            return count;
        };
        for datagram in (0..count).filter_map(read) {
            self.take_query(&datagram, (member, now), out);
        }
        queries.forget();
        self.flush_upstream(member, now, out);
        self.flush_clients(out);
        count
    }

    /// Takes one query as far as it goes without waiting: to an answer of our own, or to the server.
    fn take_query(
        &mut self,
        datagram: &Datagram<'_>,
        (member, now): (Member, Instant),
        out: &mut Outgoing,
    ) {
        let origin = match self.place {
            Place::Gate => origin(datagram, self.listener.port()),
            Place::Node => self.origin_on_node(datagram),
        };
        let Some(origin) = origin else {
            self.proxy.counters.quirk(Quirk::Unmarked);
            return out.forget(datagram.peer, datagram.bytes);
        };
        let asking = Asking {
            origin,
            message: datagram.bytes,
            member,
            pending: &mut self.pending,
            errors: &self.proxy.errors,
            tunnels: &self.proxy.tunnels,
        };
        let mut step = self.proxy.step(now, &self.records, &mut out.scratch);
        match ask(asking, &self.proxy.host, &mut step) {
            Asked::Malformed(None) | Asked::Over(None) => out.forget(datagram.peer, datagram.bytes),
            Asked::Malformed(reply) | Asked::Over(reply) => self.push_reply(reply, out),
            Asked::Send(upstream) => self.push_query(&upstream, now, out),
        }
    }

    /// Adds a query for a server; one that can't be sent is answered at once.
    fn push_query(&mut self, upstream: &Upstream, now: Instant, out: &mut Outgoing) {
        let from = match self.leaves {
            Place::Gate => Mark::new(Kind::Upstream, upstream.endpoint.get())
                .map(|mark| (upstream.client.ip(), Some(mark))),
            Place::Node => Some((any_of(upstream.server.ip()), None)),
        };
        let pushed = from.is_some_and(|(local, mark)| {
            out.to_servers.push(&Datagram {
                peer: self.proxy.asked_for(upstream.server),
                local,
                mark,
                bytes: &out.scratch,
            })
        });
        if pushed {
            out.sent.push(upstream.key);
        } else {
            self.fail_send(upstream.key, now, out);
        }
    }

    /// Sends what waits for the servers; what can't be sent is answered at once.
    fn flush_upstream(&mut self, member: Member, now: Instant, out: &mut Outgoing) {
        let Some(member) = self.pool.get(member) else {
            return;
        };
        let mut failed = Vec::new();
        out.to_servers.flush(&member.socket, |index, _| {
            failed.extend(out.sent.get(index).copied())
        });
        out.sent.clear();
        for key in failed {
            self.fail_send(key, now, out);
        }
    }

    fn fail_send(&mut self, key: Key, now: Instant, out: &mut Outgoing) {
        if let Some(held) = self.pending.take(key) {
            self.fail(held, Fault::SendFailed, now, out);
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "what failed, how, when, and where the answer goes"
    )]
    fn fail(&self, held: Held, fault: Fault, now: Instant, out: &mut Outgoing) {
        let mut step = self.proxy.step(now, &self.records, &mut out.scratch);
        let reply = held.fail(fault, &mut step);
        self.push_reply(Some(reply), out);
    }

    /// Reads one batch of what came back to a member of the pool.
    fn read_answers(&mut self, id: Member, answers: &mut Inbox, out: &mut Outgoing) {
        let Some(member) = self.pool.get(id) else {
            return;
        };
        let Ok(count) = answers.read(&member.socket) else {
            return;
        };
        for index in 0..count {
            let Some(datagram) = answers.get(index) else {
                continue;
            };
            let is_upstream = datagram.mark.map(Mark::kind) == Some(Kind::Upstream);
            if is_upstream || self.leaves == Place::Node {
                self.take_answer(id, &datagram, out);
            }
        }
        self.flush_clients(out);
    }

    /// Takes one answer: to the client, once what it teaches holds.
    fn take_answer(&mut self, member: Member, datagram: &Datagram<'_>, out: &mut Outgoing) {
        let arrived = Arrived {
            member,
            server: self.proxy.shown_for(datagram.peer),
            // On the node it is the node's address, whosever the query was.
            local: (self.leaves == Place::Gate).then_some(datagram.local),
            endpoint: datagram
                .mark
                .and_then(|mark| EndpointId::new(mark.endpoint())),
            bytes: datagram.bytes,
        };
        let now = self.proxy.host.now();
        let mut step = self.proxy.step(now, &self.records, &mut out.scratch);
        let heard = self.pending.hear(&arrived, &mut step);
        let reply = settle(heard, &self.proxy.host, &mut step);
        self.push_reply(reply, out);
    }

    /// Reads one batch of what the network says of queries that a member sent: each that is recognised
    /// need not wait any longer.
    fn read_errors(&mut self, id: Member, out: &mut Outgoing) {
        let mut quoted = [0; QUERY_BUFFER];
        for _ in 0..BATCH {
            let Some(member) = self.pool.get(id) else {
                return;
            };
            let Ok(Some((server, len))) = member.socket.next_error(&mut quoted) else {
                return;
            };
            let arrived = Arrived {
                member: id,
                server: self.proxy.shown_for(server),
                local: None,
                endpoint: None,
                bytes: quoted.get(..len).unwrap_or(&[]),
            };
            let now = self.proxy.host.now();
            let mut step = self.proxy.step(now, &self.records, &mut out.scratch);
            let reply = self.pending.hear_error(&arrived, &mut step);
            self.push_reply(reply, out);
        }
    }

    /// Adds a reply; a full outbox is sent first.
    fn push_reply(&self, reply: Option<Reply>, out: &mut Outgoing) {
        let Some(reply) = reply else { return };
        let client = reply.origin.client;
        if client.port() == OWN_PORT {
            return;
        }
        let (local, mark) = match self.place {
            Place::Gate => {
                let Some(mark) = Mark::new(Kind::Client, reply.origin.endpoint.get()) else {
                    return;
                };
                (reply.origin.server.ip(), Some(mark))
            }
            // The listener's own; the workload is shown the server's.
            Place::Node => (loopback_of(client.ip()), None),
        };
        if out.to_clients.is_full() {
            self.flush_clients(out);
        }
        if let Some(id) = out.scratch.first_chunk() {
            out.answered.push((client, *id));
        }
        // Not pushed: longer than any datagram, which the core doesn't write.
        let _ = out.to_clients.push(&Datagram {
            peer: client,
            local,
            mark,
            bytes: &out.scratch,
        });
    }

    /// A reply that can't be sent is lost as on any network: the client asks again.
    fn flush_clients(&self, out: &mut Outgoing) {
        out.to_clients.flush(&self.listener, |_, _| {});
        if let Some(waiting) = &mut out.waiting {
            for (client, id) in &out.answered {
                waiting.remove(*client, id);
            }
        }
        out.answered.clear();
    }

    /// Whose query it is that came to a listener on the node.
    fn origin_on_node(&self, datagram: &Datagram<'_>) -> Option<Origin> {
        let id = *datagram.bytes.first_chunk()?;
        let protocol = L4Protocol::Udp;
        let (endpoint, server) = self.proxy.host.asker(datagram.peer, protocol, id)?;
        Some(Origin {
            endpoint,
            client: datagram.peer,
            server,
            protocol,
        })
    }
}

/// Whose query it is that came to a port; `None` for what is no client's.
fn origin(datagram: &Datagram<'_>, port: u16) -> Option<Origin> {
    let mark = datagram.mark.filter(|mark| mark.kind() == Kind::Client)?;
    Some(Origin {
        endpoint: EndpointId::new(mark.endpoint())?,
        client: datagram.peer,
        server: SocketAddr::new(datagram.local, port),
        protocol: L4Protocol::Udp,
    })
}

/// Has a listener's queries wake its worker.
fn hear(watch: &OwnedFd, listener: &GateUdp) -> io::Result<()> {
    let data = epoll::EventData::new_u64(LISTENER);
    epoll::add(watch, listener.as_fd(), data, epoll::EventFlags::IN)?;
    Ok(())
}

/// Where the listener in the gate listens.
const EVERYWHERE: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
