//! QUIC, judged by the server name in its first datagrams, which everybody on the way can read
//! (RFC 9001 §5.2). What a client sends waits until its ClientHello is whole and judged; then datagrams pass
//! both ways, and each that could begin another connection is read too.

mod kept;
mod socket;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bpf_redirect_common::{Kind, Mark};
use policy::{Direction, EndpointId, L4Protocol, LabelSet, RuleId, TlsDenied, TlsPermit};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use transport::{Datagram, GateUdp, Inbox, Outbox};

use self::kept::{Begun, Held, Key};
use self::socket::{Answers, Back, Hearing, Socket};
use super::access::{Access, Redirected};
use super::connection::tell_refused;
use super::host::{Host, Proxy};
use super::places::Place;
use super::tally::Count;
use crate::core::client_hello::ClientHello;
use crate::core::quic::{BadQuic, Heard, QuicFlow};
use crate::limits::{
    QUIC_BATCH, QUIC_DATAGRAM_OCTETS_MAX, QUIC_IDLE_MAX, QUIC_STEP, QUIC_UNOPENED_REST,
};
use crate::told::{News, Refusal, TunnelEnd, TunnelEnded};

/// Receive buffer of the listener, in octets.
const LISTENER_BUFFER: i32 = 4 << 20;
/// That of the socket of one flow.
const FLOW_BUFFER: i32 = 1 << 20;

/// What is told of a connection that two flows begin.
const BEGUN_ELSEWHERE: &str = "its connection ID began another flow";

/// Who listens at one port.
pub struct QuicServer<H: Host> {
    proxy: Arc<Proxy<H>>,
    listener: GateUdp,
}

impl<H: Host> QuicServer<H> {
    /// Opens its socket; the calling thread must be in the gate.
    ///
    /// # Errors
    /// If the port is taken, or the kernel refuses.
    pub fn open(proxy: &Arc<Proxy<H>>, port: u16) -> io::Result<Self> {
        Ok(Self {
            proxy: Arc::clone(proxy),
            listener: GateUdp::bind(port, LISTENER_BUFFER, false)?,
        })
    }

    /// Serves until it is to stop. Must run on a single-threaded runtime whose thread is in the gate: sockets
    /// to servers are made on it.
    ///
    /// # Errors
    /// If the listener can't be used.
    pub async fn run(self, stop: CancellationToken) -> io::Result<()> {
        let mut changes = self.proxy.changes();
        let near = Arc::new(Socket::watched(self.listener)?);
        let mut inbox = Inbox::new(QUIC_BATCH, QUIC_DATAGRAM_OCTETS_MAX);
        let mut table = Table::new(self.proxy, Arc::clone(&near));
        let mut pulse = tokio::time::interval(QUIC_STEP);
        pulse.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                changed = changes.changed() => match changed {
                    Ok(()) => table.judge_again(),
                    Err(_) => break,
                },
                _ = pulse.tick(), if !table.is_empty() => table.sweep(),
                ready = near.watch.readable() => {
                    ready?;
                    // One that was cut is `None`: it is lost, as one that finds no room.
                    for index in 0..near.read(&mut inbox)? {
                        if let Some(datagram) = inbox.get(index) {
                            table.take(&datagram);
                        }
                    }
                }
            }
        }
        // A port that no policy names any more is closed too.
        table.judge_again();
        for flow in table.flows.values_mut() {
            flow.close(&table.proxy, TunnelEnded::Stopped);
        }
        Ok(())
    }
}

/// The flows of one listener.
struct Table<H: Host> {
    proxy: Arc<Proxy<H>>,
    near: Arc<Socket>,
    flows: HashMap<Key, Flow>,
    begun: Begun,
    /// Room for what goes to servers.
    out: Outbox,
    /// Room for what comes from them, for whichever flow reads.
    back: Arc<Mutex<Back>>,
}

/// What one client's port and one server say to each other.
struct Flow {
    redirected: Redirected,
    /// What was known of the server's address: what was allowed once lives on when a name ends.
    seen: Option<LabelSet>,
    reader: QuicFlow,
    /// Lives as long as it.
    life: Arc<()>,
    held: Held,
    /// The names that were allowed, and which may stand for others.
    names: BTreeSet<(Option<String>, bool)>,
    /// Once one was.
    open: Option<Open>,
    /// Whether it was told that something of it can't be read, before anything was allowed.
    is_told: bool,
    last: Instant,
    _place: Place,
}

/// A flow whose name was allowed.
struct Open {
    rule: RuleId,
    server_name: Option<String>,
    has_ech: bool,
    begin: Instant,
    far: Arc<Socket>,
    mark: Mark,
    sent: u64,
    heard: Arc<Answers>,
    hearing: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.hearing.abort();
    }
}

impl<H: Host> Table<H> {
    fn new(proxy: Arc<Proxy<H>>, near: Arc<Socket>) -> Self {
        let outbox = || Outbox::new(QUIC_BATCH, QUIC_DATAGRAM_OCTETS_MAX, proxy.link);
        let back = Back {
            inbox: Inbox::new(QUIC_BATCH, QUIC_DATAGRAM_OCTETS_MAX),
            outbox: outbox(),
        };
        Self {
            out: outbox(),
            back: Arc::new(Mutex::new(back)),
            proxy,
            near,
            flows: HashMap::new(),
            begun: Begun::default(),
        }
    }

    /// Takes what a client has sent.
    fn take(&mut self, datagram: &Datagram<'_>) {
        let mark = datagram.mark.filter(|mark| mark.kind() == Kind::Client);
        let Some(endpoint) = mark.and_then(|mark| EndpointId::new(mark.endpoint())) else {
            return;
        };
        let key = Key {
            endpoint,
            client: datagram.peer,
            server: datagram.local,
        };
        let Some(mut flow) = self.flows.remove(&key).or_else(|| self.begin(key)) else {
            return;
        };
        if self.hear(&mut flow, datagram.bytes) {
            self.flows.insert(key, flow);
        }
    }

    fn begin(&self, key: Key) -> Option<Flow> {
        let redirected = Redirected {
            endpoint: key.endpoint,
            direction: Direction::Egress,
            protocol: L4Protocol::Udp,
            client: key.client,
            server: SocketAddr::new(key.server, self.near.udp.port()),
        };
        let Some(place) = self.proxy.places.take(key.endpoint) else {
            self.proxy.counters.count(Count::Full);
            tell_refused(&self.proxy, redirected, (Refusal::Full, None, None));
            return None;
        };
        self.proxy.counters.count(Count::Accepted);
        Some(Flow {
            redirected,
            seen: None,
            reader: QuicFlow::default(),
            life: Arc::default(),
            held: Held::default(),
            names: BTreeSet::new(),
            open: None,
            is_told: false,
            last: self.proxy.host.now(),
            _place: place,
        })
    }

    /// Reads a datagram of a client and does with it what follows. Says whether the flow goes on.
    fn hear(&mut self, flow: &mut Flow, bytes: &[u8]) -> bool {
        let now = self.proxy.host.now();
        flow.last = now;
        let hello = match flow.reader.push(bytes) {
            Heard::Pass => {
                flow.send_on(&mut self.out, bytes);
                return true;
            }
            // Given up, and begun anew by what the client sends again.
            Heard::Hold => return flow.held.take(bytes, now) || self.give_up(flow),
            Heard::Drop(bad) => return self.lose(flow, bad),
            Heard::Hello(hello) => hello,
        };
        let refused = match flow.judge(&self.proxy, (hello.server_name.as_deref(), hello.ech)) {
            Ok(permit) if self.begins(flow, now) => {
                return self.open(flow, (&permit, hello), bytes);
            }
            Ok(_) => (Refusal::BadHello, Some(BEGUN_ELSEWHERE.to_owned())),
            Err(refusal) => (refusal, None),
        };
        // Others of the flow go on; what waited may be this one's.
        flow.reader.deny();
        flow.held = Held::default();
        let (refusal, remark) = refused;
        let told = (refusal, hello.server_name, remark);
        tell_refused(&self.proxy, flow.redirected, told);
        true
    }

    /// Loses a datagram that can't be read, or isn't allowed. Says whether the flow goes on.
    fn lose(&self, flow: &mut Flow, bad: BadQuic) -> bool {
        self.proxy.counters.count(Count::BadDatagram);
        if flow.open.is_some() && bad == BadQuic::SecondHello {
            flow.close(&self.proxy, TunnelEnded::OtherName);
            return false;
        }
        if flow.open.is_none() && !flow.is_told && bad != BadQuic::Denied {
            flow.is_told = true;
            let told = (Refusal::BadHello, None, Some(bad.to_string()));
            tell_refused(&self.proxy, flow.redirected, told);
        }
        true
    }

    /// Whether the connection that is asked about is this flow's alone.
    fn begins(&mut self, flow: &Flow, now: Instant) -> bool {
        let original = flow.reader.asked_original();
        let mut note = |original| self.begun.note(flow.key(), original, (&flow.life, now));
        original.is_some_and(&mut note)
    }

    fn is_empty(&self) -> bool {
        self.flows.is_empty() && self.begun.is_empty()
    }

    /// Lets a flow go on whose name is allowed, beginning with what has waited.
    fn open(
        &mut self,
        flow: &mut Flow,
        (permit, hello): (&TlsPermit, ClientHello),
        bytes: &[u8],
    ) -> bool {
        flow.names.insert((hello.server_name.clone(), hello.ech));
        if flow.open.is_none() {
            match self.reach(flow.redirected, (permit, hello)) {
                Ok(open) => flow.open = Some(open),
                Err(_) => {
                    self.proxy.counters.count(Count::Unreachable);
                    return false;
                }
            }
            self.proxy.counters.count(Count::Tunnel);
        }
        flow.reader.permit();
        flow.send_on(&mut self.out, bytes);
        true
    }

    /// A socket for what the server is asked in the client's name, and a task that hears what it answers.
    fn reach(
        &self,
        redirected: Redirected,
        (permit, hello): (&TlsPermit, ClientHello),
    ) -> io::Result<Open> {
        let mark = |kind| {
            let mark = Mark::new(kind, redirected.endpoint.get());
            mark.ok_or_else(|| io::Error::other("an endpoint without a mark"))
        };
        let far = GateUdp::bind(0, FLOW_BUFFER, false)?;
        let far = Arc::new(Socket::watched(far)?);
        let heard = Arc::new(Answers::default());
        let listening = Hearing {
            near: Arc::clone(&self.near),
            far: Arc::clone(&far),
            redirected,
            mark: mark(Kind::Client)?,
            heard: Arc::clone(&heard),
        };
        Ok(Open {
            rule: permit.rule(),
            server_name: hello.server_name,
            has_ech: hello.ech,
            begin: self.proxy.host.now(),
            far,
            mark: mark(Kind::Upstream)?,
            sent: 0,
            heard,
            hearing: tokio::spawn(listening.run(Arc::clone(&self.back))),
        })
    }

    /// Forgets a flow whose ClientHello doesn't come whole; one that is open goes on without what waits.
    fn give_up(&self, flow: &mut Flow) -> bool {
        flow.held = Held::default();
        if flow.open.is_some() {
            return true;
        }
        tell_refused(&self.proxy, flow.redirected, (Refusal::Silent, None, None));
        false
    }

    /// Ends what rests, and what waits for too long.
    fn sweep(&mut self) {
        let now = self.proxy.host.now();
        let mut flows = std::mem::take(&mut self.flows);
        flows.retain(|_, flow| {
            if flow.held.is_late(now) && !self.give_up(flow) {
                return false;
            }
            flow.note_answers(now);
            let rested = now.saturating_duration_since(flow.last);
            if flow.open.is_none() {
                return rested <= QUIC_UNOPENED_REST;
            }
            if rested > QUIC_IDLE_MAX {
                flow.close(&self.proxy, TunnelEnded::Idle);
                return false;
            }
            true
        });
        self.flows = flows;
        self.begun.sweep(now);
    }

    /// Asks the policy that is in force now about all flows.
    fn judge_again(&mut self) {
        let proxy = &self.proxy;
        self.flows.retain(|_, flow| {
            if flow.open.is_none() {
                return false; // begun anew by what its client sends again
            }
            let names = std::mem::take(&mut flow.names);
            let is_allowed = names
                .iter()
                .all(|(name, has_ech)| flow.judge(proxy, (name.as_deref(), *has_ech)).is_ok());
            flow.names = names;
            if !is_allowed {
                flow.close(proxy, TunnelEnded::Revoked);
            }
            is_allowed
        });
    }
}

impl Flow {
    fn key(&self) -> Key {
        Key {
            endpoint: self.redirected.endpoint,
            client: self.redirected.client,
            server: self.redirected.server.ip(),
        }
    }

    /// What policy says of a name in QUIC: what it says of it in TLS over TCP.
    fn judge<H: Host>(
        &mut self,
        proxy: &Proxy<H>,
        (name, has_ech): (Option<&str>, bool),
    ) -> Result<TlsPermit, Refusal> {
        let scope = proxy.host.scope(&self.redirected, &mut self.seen);
        let access = Access::new(self.redirected, scope, None);
        // TLS that is ended here can't be ended in QUIC.
        if !access.judges_quic() || !access.tls_rules().is_empty() {
            return Err(Refusal::Protocol);
        }
        if access.may_hide(has_ech, proxy.settings.ech) {
            return Err(Refusal::HiddenName);
        }
        let permit = access.tls(name);
        permit.map_err(|denied| match denied {
            TlsDenied::Name | TlsDenied::NotBound => Refusal::ServerName,
            TlsDenied::Requests => Refusal::TlsForHttp,
        })
    }

    /// Sends a datagram on, after those that wait.
    fn send_on(&mut self, out: &mut Outbox, bytes: &[u8]) {
        let held = std::mem::take(&mut self.held).datagrams;
        let all = held.iter().map(|datagram| &**datagram);
        self.send(out, all.chain(std::iter::once(bytes)));
    }

    /// Sends datagrams on to the server. What can't be sent is lost, as on any network.
    fn send<'d>(&mut self, out: &mut Outbox, datagrams: impl Iterator<Item = &'d [u8]>) {
        let Some(open) = &mut self.open else {
            return;
        };
        let (client, server) = (self.redirected.client, self.redirected.server);
        for bytes in datagrams {
            if out.is_full() {
                out.flush(&open.far.udp, |_, _| ());
            }
            let datagram = Datagram {
                peer: server,
                local: client.ip(),
                mark: Some(open.mark),
                bytes,
            };
            if out.push(&datagram) {
                open.sent += bytes.len() as u64;
            }
        }
        out.flush(&open.far.udp, |_, _| ());
    }

    /// That its server has said something since the last look is a sign of life too.
    fn note_answers(&mut self, now: Instant) {
        let heard = self.open.as_ref().map(|open| &open.heard);
        if heard.is_some_and(|heard| heard.datagrams.swap(0, Ordering::Relaxed) > 0) {
            self.last = now;
        }
    }

    /// Ends what is open, and tells it.
    fn close<H: Host>(&mut self, proxy: &Proxy<H>, end: TunnelEnded) {
        let Some(open) = self.open.take() else {
            return;
        };
        if matches!(end, TunnelEnded::Revoked | TunnelEnded::OtherName) {
            proxy.counters.count(Count::Cut);
        }
        proxy.host.tell(News::Tunnel(Box::new(TunnelEnd {
            at: proxy.host.now(),
            begin: open.begin,
            redirected: self.redirected,
            rule: open.rule,
            server_name: open.server_name.clone(),
            has_ech: open.has_ech,
            end,
            sent: open.sent,
            received: open.heard.octets.load(Ordering::Relaxed),
        })));
    }
}
