//! What the shell is given by whoever runs it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use policy::{Denial, DnsPermit, EndpointId, L4Protocol, Question};

use crate::core::release::{Heard, Learned};
use crate::core::step::{Reply, Step};
use crate::{Counters, Learn, Outstanding, Settings, Told};

/// The node, seen from the DNS proxy: its clock, its policy, its datapath, its events.
pub trait Host: Learn + Send + Sync + 'static {
    /// The time.
    fn now(&self) -> Instant;

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

    /// Takes a finished exchange.
    fn tell(&self, told: Told);
}

/// What all workers share.
pub struct Proxy<H> {
    /// The node.
    pub host: H,
    /// The options.
    pub settings: Settings,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// The node-wide account of what waits.
    pub outstanding: Arc<Outstanding>,
    /// The gate's end of the side link: link-local addresses need a link.
    pub link: u32,
}

impl<H: Host> Proxy<H> {
    /// A proxy for a gate whose end of the side link has index `link`.
    pub fn new(host: H, settings: Settings, link: u32) -> Self {
        Self {
            host,
            settings,
            counters: Arc::new(Counters::default()),
            outstanding: Arc::new(Outstanding::default()),
            link,
        }
    }
}

/// Takes what was heard to what the client gets: an answer with addresses only once they hold in the
/// datapath.
pub(super) fn settle<H: Host>(heard: Heard<'_>, host: &H, step: &mut Step<'_>) -> Option<Reply> {
    let untaught = match heard {
        Heard::Ignored(_) => return None,
        Heard::Reply(reply) => return Some(reply),
        Heard::Lesson(untaught) => untaught,
    };
    let learned = untaught.learn(step.now, host);
    step.now = host.now();
    match learned {
        Learned::Taught(taught) => Some(taught.release(step)),
        Learned::Withheld(withheld) => withheld.answer(step),
    }
}
