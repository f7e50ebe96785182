//! What the shell is given by whoever runs it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use bpf_redirect_common::DNS_PORT;
use policy::{Denial, DnsPermit, EndpointId, L4Protocol, Question};

use crate::core::record::{ErrorAnswers, Records};
use crate::core::step::Step;
use crate::core::tunnels::Tunnels;
use crate::{Counters, Learn, Outstanding, Settings, Told};

/// The node, seen from the DNS proxy: its clock, its policy, its datapath, its events.
pub trait Host: Learn + Send + Sync + 'static {
    /// The time.
    fn now(&self) -> Instant;

    /// The time as the next process counts it too: nanoseconds since boot.
    fn boot_ns(&self) -> u64;

    /// What policy says of a question to a server.
    ///
    /// # Errors
    /// A denial, which is an answer like any other.
    fn judge(
        &self,
        endpoint: EndpointId,
        server: (SocketAddr, L4Protocol),
        question: &Question,
    ) -> Result<DnsPermit, Denial>;

    /// Who sent a query to the proxy on the node, and to which server; `None` for what is nobody's. Of a
    /// datagram `id` is its first two octets, of a connection 0.
    fn asker(
        &self,
        client: SocketAddr,
        protocol: L4Protocol,
        id: [u8; 2],
    ) -> Option<(EndpointId, SocketAddr)>;

    /// Takes a finished exchange.
    fn tell(&self, told: Told);
}

/// What all workers share.
pub struct Proxy<H> {
    /// The node.
    pub host: H,
    /// The options; each step takes them as they are when it begins.
    settings: ArcSwap<Settings>,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// The node-wide account of what waits.
    pub outstanding: Arc<Outstanding>,
    /// What names under patterns look like.
    pub tunnels: Tunnels,
    /// What each endpoint had of error answers.
    pub(super) errors: ErrorAnswers,
    /// Ports at which the gate listens, or is about to: no socket for servers has one.
    pub(super) reserved: Reserved,
    /// The gate's end of the side link: link-local addresses need a link.
    pub link: u32,
    /// Where servers are asked in the node's own name: whom they stand for.
    away: Option<StandIns>,
}

/// Addresses that workloads ask, each with the server that is asked in its place. No two have the same one,
/// and none of the servers is asked by its own address.
pub type StandIns = BTreeMap<IpAddr, SocketAddr>;

impl<H: Host> Proxy<H> {
    /// A proxy for a gate whose end of the side link has index `link`.
    pub fn new(host: H, settings: Settings, link: u32) -> Self {
        Self {
            host,
            settings: ArcSwap::from_pointee(settings),
            counters: Arc::new(Counters::default()),
            outstanding: Arc::new(Outstanding::default()),
            tunnels: Tunnels::default(),
            errors: ErrorAnswers::default(),
            reserved: Reserved::default(),
            link,
            away: None,
        }
    }

    /// Hands on a finished exchange.
    pub(super) fn tell(&self, told: Told) {
        self.tunnels.heed(&told);
        self.host.tell(told);
    }

    /// Goes on with other options.
    pub fn set_settings(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    /// Keeps these ports of the gate free for listeners. A socket for servers that has one gives it up once
    /// its queries are over.
    pub fn reserve(&self, ports: BTreeSet<u16>) {
        self.reserved.store(Arc::new(ports));
    }

    /// The same, but servers are asked from the node's address, whoever's the query is.
    #[must_use]
    pub fn asking_from_node(mut self, stand_ins: StandIns) -> Self {
        self.away = Some(stand_ins);
        self
    }
}

/// Ports that are kept free; shared with the pools.
pub(super) type Reserved = Arc<ArcSwap<BTreeSet<u16>>>;

/// Where a worker's sockets are, and so whose address servers see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// In the gate: a mark says whose a datagram is, and queries go on from the workload's address.
    Gate,
    /// On the node: the kernel remembers whose a query is, and it goes on from the node's address.
    Node,
}

impl<H> Proxy<H> {
    /// Whether all servers see the node's address.
    #[must_use]
    pub fn asks_from_node(&self) -> bool {
        self.away.is_some()
    }

    /// From where servers are asked about what came in at a place.
    pub(super) fn leaves_from(&self, place: Place) -> Place {
        match self.away {
            Some(_) => Place::Node,
            None => place,
        }
    }

    /// Which server is asked where a workload means this one.
    pub(super) fn asked_for(&self, server: SocketAddr) -> SocketAddr {
        let stand_in = self.away.as_ref().and_then(|all| all.get(&server.ip()));
        stand_in.copied().unwrap_or(server)
    }

    /// Which server the workload means where this one has answered.
    pub(super) fn shown_for(&self, server: SocketAddr) -> SocketAddr {
        let mut all = self.away.iter().flatten();
        match all.find(|(_, asked)| **asked == server) {
            Some((shown, _)) => SocketAddr::new(*shown, DNS_PORT),
            None => server,
        }
    }

    /// What a step of the core has at hand; the bytes of the one before are gone from `out`.
    pub(super) fn step<'a>(
        &'a self,
        now: Instant,
        records: &'a Records,
        out: &'a mut Vec<u8>,
    ) -> Step<'a> {
        out.clear();
        Step {
            now,
            settings: self.settings.load(),
            records,
            out,
        }
    }
}

/// No address, of the same family as `ip`: the kernel chooses one.
pub(super) fn any_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// The loopback address of the same family as `ip`.
pub(super) fn loopback_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}
