//! What the shell is given by whoever runs it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use policy::LabelSet;
use tokio::net::TcpStream;
use tokio::sync::watch;
use transport::NetNs;

use super::access::{Redirected, Scope};
use super::tally::Counters;
use crate::core::step::Settings;
use crate::told::News;

/// The node, seen from the HTTP proxy: its clock, its policy, its events.
pub trait Host: Send + Sync + 'static {
    /// The time.
    fn now(&self) -> Instant;

    /// The time of day, for the answers that we make.
    fn wall(&self) -> SystemTime;

    /// The policy in force, and who the other end of a connection is. `seen` is what was known of its
    /// address before: what was allowed once lives on when a name ends.
    fn scope(&self, redirected: &Redirected, seen: &mut Option<LabelSet>) -> Scope;

    /// Whether policy lets a connection begin, where nobody has judged it before it came here.
    fn admits(&self, redirected: &Redirected) -> bool;

    /// Takes a connection over which names are asked, which is another proxy's. Gives back every other.
    fn divert(&self, redirected: &Redirected, client: TcpStream) -> Option<TcpStream>;

    /// Whether an address is an endpoint's on this node.
    fn is_endpoint(&self, address: IpAddr) -> bool;

    /// The names that an endpoint has learned for the address of its peer.
    fn names(&self, redirected: &Redirected) -> Vec<String>;

    /// Takes what happened.
    fn tell(&self, news: News);
}

/// What all workers share.
pub struct Proxy<H> {
    /// The node.
    pub host: H,
    /// The options.
    pub settings: Arc<Settings>,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// The gate's end of the side link: link-local addresses need a link.
    pub link: u32,
    /// Where connections to endpoints of this node are made, if the workers are elsewhere.
    pub(super) gate: Option<NetNs>,
    pub(super) places: super::places::Places,
    pub(super) pipes: super::lane::Pipes,
    changes: watch::Sender<()>,
}

impl<H: Host> Proxy<H> {
    /// A proxy for a gate whose end of the side link has index `link`.
    pub fn new(host: H, link: u32, settings: Settings) -> Self {
        Self {
            host,
            places: super::places::Places::new(&settings),
            pipes: super::lane::Pipes::default(),
            settings: Arc::new(settings),
            counters: Arc::default(),
            link,
            gate: None,
            changes: watch::Sender::new(()),
        }
    }

    /// The same, for workers that are not in the gate: they call servers from where they are, but endpoints of this
    /// node through the gate, which sees whose connection it is.
    #[must_use]
    pub fn calling_from_node(mut self, gate: NetNs) -> Self {
        self.gate = Some(gate);
        self
    }

    /// Says that another policy is in force: live connections are judged by it from here on.
    pub fn policy_changed(&self) {
        self.changes.send_replace(());
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}
