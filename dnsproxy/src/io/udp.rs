//! One worker for DNS over UDP: the thread that reads a query sends it on, the thread that reads the
//! answer replies, and both are this one. Nothing but the account of what waits is shared.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bpf_redirect_common::{DNS_PORT, Kind, Mark};
use policy::{EndpointId, L4Protocol};
use rand::RngExt;
use rustix::event::epoll;
use rustix::event::{EventfdFlags, eventfd};
use transport::{DATAGRAM_MAX, Datagram, GateUdp, Inbox, Outbox};

use super::host::{Host, Proxy};
use super::pool::Pool;
use crate::core::exchange::{Action, Exchange};
use crate::core::gates::gate_query;
use crate::core::pending::{Member, Pending, Via};
use crate::core::record::{ErrorAnswers, Records, Told};
use crate::core::release::{Arrived, Heard, Learned};
use crate::core::step::{Fault, Origin, Reply, Step};

/// Datagrams that are read or sent by one system call.
const BATCH: usize = 64;
/// A query's buffer: one over 1,232 octets is refused, so what is cut off isn't missed.
const QUERY_BUFFER: usize = 2_048;
/// Receive buffer of a listener: 20,000 waiting queries of 60 octets.
const RECEIVE_BUFFER: i32 = 8 << 20;
/// Keys of what epoll watches; members of the pool count from [`FIRST_MEMBER`].
const LISTENER: u64 = 0;
const STOP: u64 = 1;
const FIRST_MEMBER: u64 = 2;
/// Between two looks at retired sockets, where no deadline comes earlier.
const IDLE_WAIT: Duration = Duration::from_secs(5);

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

/// A worker, ready to run in the namespace that it was made in.
pub struct UdpWorker<H: Host> {
    proxy: Arc<Proxy<H>>,
    listener: GateUdp,
    pool: Pool,
    pending: Pending,
    records: Records,
    errors: ErrorAnswers,
    watch: OwnedFd,
    stop: StopUdp,
}

/// The buffers of a worker, apart from it so that it can lend itself while they are read.
struct Buffers {
    queries: Inbox,
    answers: Inbox,
    to_clients: Outbox,
    to_servers: Outbox,
    scratch: Vec<u8>,
    told: Vec<Told>,
    /// The pending keys of what is in `to_servers`, to fail what could not be sent.
    sent: Vec<crate::core::pending::Key>,
}

impl<H: Host> UdpWorker<H> {
    /// Opens the listener and the pool in the calling thread's namespace, which must be the gate.
    ///
    /// # Errors
    /// If a socket can't be made.
    pub fn open(proxy: Arc<Proxy<H>>) -> io::Result<Self> {
        let watch = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(
            &watch,
            &stop,
            epoll::EventData::new_u64(STOP),
            epoll::EventFlags::IN,
        )?;
        let listener = GateUdp::bind(DNS_PORT, RECEIVE_BUFFER, true)?;
        let data = epoll::EventData::new_u64(LISTENER);
        epoll::add(&watch, listener.as_fd(), data, epoll::EventFlags::IN)?;
        let pool = Pool::open(FIRST_MEMBER, proxy.host.now(), &watch)?;
        Ok(Self {
            pending: Pending::new(Arc::clone(&proxy.outstanding)),
            records: Records::new(Arc::clone(&proxy.counters)),
            errors: ErrorAnswers::default(),
            stop: StopUdp(Arc::new(stop)),
            proxy,
            listener,
            pool,
            watch,
        })
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
        let mut buffers = Buffers {
            queries: Inbox::new(BATCH, QUERY_BUFFER),
            answers: Inbox::new(BATCH / 2, DATAGRAM_MAX),
            to_clients: Outbox::new(BATCH, DATAGRAM_MAX, self.proxy.link),
            to_servers: Outbox::new(BATCH, QUERY_BUFFER, self.proxy.link),
            scratch: Vec::with_capacity(4_096),
            told: Vec::new(),
            sent: Vec::with_capacity(BATCH),
        };
        let mut events = Vec::with_capacity(BATCH);
        let mut ends_at: Option<Instant> = None;
        loop {
            events.clear();
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
                    LISTENER if ends_at.is_none() => self.read_queries(&mut buffers),
                    LISTENER => {}
                    STOP => {
                        let now = self.proxy.host.now();
                        ends_at.get_or_insert(now + drain);
                        let _ = epoll::delete(&self.watch, &*self.stop.0);
                        let _ = epoll::delete(&self.watch, self.listener.as_fd());
                    }
                    member => self.read_answers(Member(member), &mut buffers),
                }
            }
            self.expire(&mut buffers);
            self.tell(&mut buffers);
            if let Some(end) = ends_at
                && (self.pending.is_empty() || self.proxy.host.now() >= end)
            {
                return Ok(());
            }
        }
    }

    fn wait_for(&self, ends_at: Option<Instant>) -> rustix::event::Timespec {
        let now = self.proxy.host.now();
        let next = [self.pending.next_deadline(), ends_at]
            .into_iter()
            .flatten()
            .min();
        let wait = next.map_or(IDLE_WAIT, |at| {
            at.saturating_duration_since(now).min(IDLE_WAIT)
        });
        // A millisecond more, so that a deadline has passed when we wake for it.
        let wait = wait + Duration::from_millis(1);
        rustix::event::Timespec {
            tv_sec: wait.as_secs().cast_signed(),
            tv_nsec: i64::from(wait.subsec_nanos()),
        }
    }

    /// Reads one batch of queries, judges each, and sends what may go.
    fn read_queries(&mut self, buffers: &mut Buffers) {
        let Ok(count) = buffers.queries.read(&self.listener) else {
            return;
        };
        if count == 0 {
            return;
        }
        let now = self.proxy.host.now();
        let queries = u32::try_from(count).unwrap_or(u32::MAX);
        let Some(member) = self.pool.choose(queries, now, &self.watch) else {
            return;
        };
        let member_id = member.id;
        let mut rng = rand::rng();
        let mut draw = || rng.random::<u16>();
        let Buffers {
            queries,
            to_clients,
            to_servers,
            scratch,
            sent,
            ..
        } = buffers;
        for index in 0..count {
            let Some(datagram) = queries.get(index) else {
                continue;
            };
            let Some(origin) = origin(&datagram) else {
                continue;
            };
            scratch.clear();
            let mut step = Step {
                now,
                settings: &self.proxy.settings,
                records: &self.records,
                out: scratch,
            };
            let query = match gate_query(datagram.bytes, L4Protocol::Udp) {
                Ok(query) => query,
                Err(refusal) => {
                    let reply = refusal.conclude(origin, &mut self.errors, &mut step);
                    if let Some(reply) = reply {
                        push_reply(&self.listener, to_clients, reply, scratch);
                    }
                    continue;
                }
            };
            let exchange = Exchange::open(origin, query, &step);
            let server = (origin.server, origin.protocol);
            let verdict = self
                .proxy
                .host
                .judge(origin.endpoint, server, exchange.question());
            match exchange.judge(verdict, &mut step) {
                Action::Drop => {}
                Action::Reply(reply) => push_reply(&self.listener, to_clients, reply, scratch),
                Action::Forward(forward) => {
                    let via = Via {
                        member: member_id,
                        draw: &mut draw,
                    };
                    match forward.send(&mut self.pending, via, &mut step) {
                        Err(reply) => push_reply(&self.listener, to_clients, reply, scratch),
                        Ok(upstream) => {
                            let pushed = Mark::new(Kind::Upstream, upstream.endpoint.get())
                                .is_some_and(|mark| {
                                    to_servers.push(&Datagram {
                                        peer: upstream.server,
                                        local: upstream.client.ip(),
                                        mark,
                                        bytes: scratch,
                                    })
                                });
                            if pushed {
                                sent.push(upstream.key);
                            } else if let Some(held) = self.pending.take(upstream.key) {
                                scratch.clear();
                                let mut step = Step {
                                    now,
                                    settings: &self.proxy.settings,
                                    records: &self.records,
                                    out: scratch,
                                };
                                let reply = held.fail(Fault::SendFailed, &mut step);
                                push_reply(&self.listener, to_clients, reply, scratch);
                            }
                        }
                    }
                }
            }
        }
        self.flush_upstream(member_id, now, buffers);
        flush_clients(&self.listener, &mut buffers.to_clients);
    }

    /// Sends what waits for the servers; what can't be sent is answered at once.
    fn flush_upstream(&mut self, member: Member, now: Instant, buffers: &mut Buffers) {
        let Buffers {
            to_clients,
            to_servers,
            scratch,
            sent,
            ..
        } = buffers;
        let Some(member) = self.pool.get(member) else {
            return;
        };
        let mut failed = Vec::new();
        to_servers.flush(&member.socket, |index, _| {
            failed.extend(sent.get(index).copied())
        });
        sent.clear();
        for key in failed {
            let Some(held) = self.pending.take(key) else {
                continue;
            };
            scratch.clear();
            let mut step = Step {
                now,
                settings: &self.proxy.settings,
                records: &self.records,
                out: scratch,
            };
            let reply = held.fail(Fault::SendFailed, &mut step);
            push_reply(&self.listener, to_clients, reply, scratch);
        }
    }

    /// Reads one batch of what came back to a member of the pool.
    fn read_answers(&mut self, id: Member, buffers: &mut Buffers) {
        let Some(member) = self.pool.get(id) else {
            return;
        };
        let Ok(count) = buffers.answers.read(&member.socket) else {
            return;
        };
        let now = self.proxy.host.now();
        let Buffers {
            answers,
            to_clients,
            scratch,
            ..
        } = buffers;
        for index in 0..count {
            let Some(datagram) = answers.get(index) else {
                continue;
            };
            if datagram.mark.kind() != Kind::Upstream {
                continue;
            }
            let arrived = Arrived {
                member: id,
                server: datagram.peer,
                local: Some(datagram.local),
                endpoint: EndpointId::new(datagram.mark.endpoint()),
                bytes: datagram.bytes,
            };
            scratch.clear();
            let mut step = Step {
                now,
                settings: &self.proxy.settings,
                records: &self.records,
                out: scratch,
            };
            let reply = match self.pending.hear(&arrived, &mut step) {
                Heard::Ignored(_) => None,
                Heard::Reply(reply) => Some(reply),
                Heard::Lesson(untaught) => match untaught.learn(now, &self.proxy.host) {
                    Learned::Taught(taught) => Some(taught.release(&mut step)),
                    Learned::Withheld(withheld) => withheld.answer(&mut step),
                },
            };
            if let Some(reply) = reply {
                push_reply(&self.listener, to_clients, reply, scratch);
            }
        }
        flush_clients(&self.listener, &mut buffers.to_clients);
    }

    /// Answers what waited too long.
    fn expire(&mut self, buffers: &mut Buffers) {
        let now = self.proxy.host.now();
        let Buffers {
            to_clients,
            scratch,
            ..
        } = buffers;
        while let Some(held) = self.pending.expire(now) {
            scratch.clear();
            let mut step = Step {
                now,
                settings: &self.proxy.settings,
                records: &self.records,
                out: scratch,
            };
            let reply = held.fail(Fault::Timeout, &mut step);
            push_reply(&self.listener, to_clients, reply, scratch);
        }
        flush_clients(&self.listener, to_clients);
        let pending = &self.pending;
        self.pool
            .close_retired(now, |member| pending.len_of(member) > 0);
    }

    fn tell(&self, buffers: &mut Buffers) {
        self.records.drain(&mut buffers.told);
        for told in buffers.told.drain(..) {
            self.proxy.host.tell(told);
        }
    }
}

/// Whose query it is; `None` for what is no client's.
fn origin(datagram: &Datagram<'_>) -> Option<Origin> {
    if datagram.mark.kind() != Kind::Client {
        return None;
    }
    Some(Origin {
        endpoint: EndpointId::new(datagram.mark.endpoint())?,
        client: datagram.peer,
        server: SocketAddr::new(datagram.local, DNS_PORT),
        protocol: L4Protocol::Udp,
    })
}

/// Adds a reply; a full outbox is sent first.
fn push_reply(listener: &GateUdp, to_clients: &mut Outbox, reply: Reply, bytes: &[u8]) {
    if to_clients.is_full() {
        flush_clients(listener, to_clients);
    }
    let Some(mark) = Mark::new(Kind::Client, reply.origin.endpoint.get()) else {
        return;
    };
    // Not pushed: longer than any datagram, which the core doesn't write.
    let _ = to_clients.push(&Datagram {
        peer: reply.origin.client,
        local: reply.origin.server.ip(),
        mark,
        bytes,
    });
}

/// A reply that can't be sent is lost as on any network: the client asks again.
fn flush_clients(listener: &GateUdp, to_clients: &mut Outbox) {
    to_clients.flush(listener, |_, _| {});
}
