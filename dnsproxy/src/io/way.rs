//! The way of a message through the core, the same for UDP and TCP: what a client asks, and what a
//! server answers.

use rand::RngExt;

use super::host::Host;
use crate::core::exchange::{Action, Exchange, Upstream};
use crate::core::gates::gate_query;
use crate::core::pending::{Member, Pending, Via};
use crate::core::record::ErrorAnswers;
use crate::core::release::{Heard, Learned};
use crate::core::step::{Origin, Reply, Step};
use crate::core::tunnels::Tunnels;

/// A client's message, and what it meets on its way.
pub(super) struct Asking<'a> {
    pub(super) origin: Origin,
    pub(super) message: &'a [u8],
    /// Who sends it on, if it may go.
    pub(super) member: Member,
    pub(super) pending: &'a mut Pending,
    pub(super) errors: &'a ErrorAnswers,
    pub(super) tunnels: &'a Tunnels,
}

/// What comes of a client's message. The bytes are in [`Step::out`].
pub(super) enum Asked {
    /// It is no query that may be asked; answered, or not.
    Malformed(Option<Reply>),
    /// It goes nowhere; answered, or not.
    Over(Option<Reply>),
    /// It goes to the server.
    Send(Upstream),
}

/// Takes a client's message as far as it goes without waiting: the one way to a server, by UDP and
/// by TCP.
pub(super) fn ask<H: Host>(asking: Asking<'_>, host: &H, step: &mut Step<'_>) -> Asked {
    let origin = asking.origin;
    let query = match gate_query(asking.message, origin.protocol) {
        Ok(query) => query,
        Err(refusal) => return Asked::Malformed(refusal.conclude(origin, asking.errors, step)),
    };
    let exchange = Exchange::open(origin, query, step);
    let server = (origin.server, origin.protocol);
    let verdict = host.judge(origin.endpoint, server, exchange.question());
    let forward = match exchange.judge(verdict, step) {
        Action::Drop => return Asked::Over(None),
        Action::Reply(reply) => return Asked::Over(Some(reply)),
        Action::Forward(forward) => forward,
    };
    let forward = match forward.watch(asking.tunnels, step) {
        Ok(forward) => forward,
        Err(reply) => return Asked::Over(Some(reply)),
    };
    let mut rng = rand::rng();
    let via = Via {
        member: asking.member,
        draw: &mut || rng.random(),
    };
    match forward.send(asking.pending, via, step) {
        Ok(upstream) => Asked::Send(upstream),
        Err(reply) => Asked::Over(Some(reply)),
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
