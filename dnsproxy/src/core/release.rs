//! One DNS exchange from the answer that comes in to the bytes that the client gets.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use policy::{EndpointId, L4Protocol};

use super::exchange::{Held, overwrite, withheld};
use super::learn::{Learn, Lesson, NotInstalled};
use super::pending::{Key, Member, Pending};
use super::record::Outcome;
use super::step::{Case, Fault, Https, Reply, Step};
use super::tally::Quirk;
use crate::answer::{
    Answer, Invalid, Matched, Reject, Sent, matches, read_answer, read_answer_header,
};
use crate::ech;
use crate::limits::{REJECTED_PER_EXCHANGE_MAX, UDP_PAYLOAD_OCTETS_MAX};
use crate::question::Header;
use crate::refuse::{OwnAnswer, Repeated, write_answer, write_truncated};

/// A message that came to a pool member.
#[derive(Clone, Copy, Debug)]
pub struct Arrived<'a> {
    /// Which socket or connection it came to.
    pub member: Member,
    /// Who sent it.
    pub server: SocketAddr,
    /// To which address it came, where the upstream source is the endpoint's own.
    pub local: Option<IpAddr>,
    /// Whose mark it bears, where the shell knows.
    pub endpoint: Option<EndpointId>,
    /// The message.
    pub bytes: &'a [u8],
}

/// What became of a message from upstream.
#[derive(Debug)]
#[must_use = "a reply must be sent, a lesson must be learned"]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one at a time, on the stack: a box would be an allocation for each answer"
)]
pub enum Heard<'a> {
    /// It is no answer of ours; counted, and the exchange, if any, waits on.
    Ignored(Reject),
    /// The exchange is over: nothing was to be learned, or the answer was no good.
    Reply(Reply),
    /// It carries addresses, which must be learned first.
    Lesson(Untaught<'a>),
}

/// An answer with addresses that nobody learned yet. There is no way from here to the client but
/// through a [`Learn`].
#[derive(Debug)]
pub struct Untaught<'a> {
    held: Held,
    bytes: &'a [u8],
    answer: Answer,
}

/// What became of a lesson.
#[derive(Debug)]
pub enum Learned<'a, I> {
    /// It is in the datapath: the answer may be released.
    Taught(Taught<'a, I>),
    /// It is not, or not in time: SERVFAIL.
    Withheld(Withheld),
}

/// An answer whose addresses are in the datapath: it holds the proof.
#[derive(Debug)]
pub struct Taught<'a, I> {
    held: Held,
    bytes: &'a [u8],
    answer: Answer,
    installed: I,
}

/// An answer that must not be released, since its addresses are not in the datapath.
#[derive(Debug)]
pub struct Withheld {
    held: Held,
    failure: NotInstalled,
}

/// The proof that an answer needs no learning: it carries no address of the question's name.
struct NothingToLearn;

impl Pending {
    /// Takes a message from upstream. Only the answer to an outstanding query ends its exchange.
    pub fn hear<'a>(&mut self, arrived: &Arrived<'a>, step: &mut Step<'_>) -> Heard<'a> {
        let (key, matched) = match self.recognise(arrived, step) {
            Ok(recognised) => recognised,
            Err((reject, key)) => return self.reject(reject, key, step),
        };
        let Some(held) = self.take(key) else {
            return Heard::Ignored(Reject::Id);
        };
        match matched {
            Matched::HeaderOnly => return Heard::Reply(release_header(held, arrived.bytes, step)),
            Matched::CaseChanged => step.records.counters().quirk(Quirk::CaseChanged),
            Matched::Exact => {}
        }
        let bytes = arrived.bytes;
        match read_answer(bytes) {
            Err(invalid) => Heard::Reply(held.fail(invalid_fault(invalid), step)),
            Ok(answer) if answer.addresses.is_empty() => {
                Heard::Reply(release((held, bytes, answer), &NothingToLearn, step))
            }
            Ok(answer) => Heard::Lesson(Untaught {
                held,
                bytes,
                answer,
            }),
        }
    }

    /// Takes an error from the network about a datagram that a member sent: `arrived` holds the
    /// server that it was for and as much of it as the error quotes.
    pub fn hear_error(&mut self, arrived: &Arrived<'_>, step: &mut Step<'_>) -> Option<Reply> {
        let id = Header::read(arrived.bytes)?.id;
        let key = Key {
            member: arrived.member,
            id,
        };
        let entry = self.get_mut(key)?;
        let quoted = arrived.bytes.get(crate::question::HEADER_OCTETS..)?;
        let sent = entry.held.sent_question();
        let is_ours = entry.held.origin().server == arrived.server
            && (quoted.starts_with(sent) || sent.starts_with(quoted));
        if !is_ours {
            return None;
        }
        Some(self.take(key)?.fail(Fault::Unreachable, step))
    }

    /// Finds the outstanding query that a message answers; on an error also the one that it
    /// pretends to answer.
    fn recognise(
        &mut self,
        arrived: &Arrived<'_>,
        step: &Step<'_>,
    ) -> Result<(Key, Matched), (Reject, Option<Key>)> {
        let header = read_answer_header(arrived.bytes).map_err(|reject| (reject, None))?;
        let key = Key {
            member: arrived.member,
            id: header.id,
        };
        let entry = self.get_mut(key).ok_or((Reject::Id, None))?;
        let fail = |reject| Err((reject, Some(key)));
        let origin = entry.held.origin();
        let is_from = arrived.server == origin.server
            && arrived
                .local
                .is_none_or(|local| local == origin.client.ip())
            && arrived.endpoint.is_none_or(|mark| mark == origin.endpoint);
        if !is_from {
            return fail(Reject::Source);
        }
        if step.now >= entry.deadline {
            return fail(Reject::Late);
        }
        let sent = Sent {
            id: key.id,
            question: entry.held.sent_question(),
        };
        match matches(&sent, arrived.bytes) {
            Err(reject) => fail(reject),
            Ok(Matched::CaseChanged) if step.settings.case == Case::Strict => fail(Reject::Case),
            Ok(matched) => Ok((key, matched)),
        }
    }

    /// Counts a message that is no answer, against the exchange that it pretended to answer too.
    fn reject<'a>(&mut self, reject: Reject, key: Option<Key>, step: &mut Step<'_>) -> Heard<'a> {
        step.records.counters().reject(reject);
        let Some((key, entry)) = key.and_then(|key| Some((key, self.get_mut(key)?))) else {
            return Heard::Ignored(reject);
        };
        entry.rejected = entry.rejected.saturating_add(1);
        if entry.rejected < REJECTED_PER_EXCHANGE_MAX {
            return Heard::Ignored(reject);
        }
        match self.take(key) {
            Some(held) => Heard::Reply(held.fail(Fault::Guessing, step)),
            None => Heard::Ignored(reject),
        }
    }
}

impl<'a> Untaught<'a> {
    /// Hands the lesson to the datapath.
    #[must_use = "the client waits"]
    pub fn learn<L: Learn>(self, now: Instant, learner: &L) -> Learned<'a, L::Installed> {
        let origin = self.held.origin();
        let aliases = self.answer.aliases.iter();
        let lesson = Lesson {
            endpoint: origin.endpoint,
            server: origin.server,
            protocol: origin.protocol,
            name: self.held.question().name.clone(),
            aliases: aliases.map(|alias| alias.name.clone()).collect(),
            addresses: self.answer.addresses.clone(),
        };
        match learner.learn(now, lesson) {
            Ok(installed) => Learned::Taught(Taught {
                held: self.held,
                bytes: self.bytes,
                answer: self.answer,
                installed,
            }),
            Err(failure) => Learned::Withheld(Withheld {
                held: self.held,
                failure,
            }),
        }
    }
}

impl<I> Taught<'_, I> {
    /// Releases the answer: the only way for one that carries addresses.
    pub fn release(self, step: &mut Step<'_>) -> Reply {
        release((self.held, self.bytes, self.answer), &self.installed, step)
    }
}

impl Withheld {
    /// Why.
    #[must_use]
    pub const fn failure(&self) -> NotInstalled {
        self.failure
    }

    /// Ends the exchange with SERVFAIL, or in silence where nobody waits.
    #[must_use = "the reply must be sent"]
    pub fn answer(self, step: &mut Step<'_>) -> Option<Reply> {
        let Some(fault) = withheld(self.failure) else {
            self.held.end(step.now, Outcome::EndpointGone);
            return None;
        };
        Some(self.held.fail(fault, step))
    }
}

/// Appends the server's bytes with the client's id (and without what an option takes out of them), or TC=1
/// where they are too many for it.
/// `_proof` is why this is allowed: what was installed, or that there was nothing to learn.
fn release<P>(heard: (Held, &[u8], Answer), _proof: &P, step: &mut Step<'_>) -> Reply {
    let (held, bytes, mut answer) = heard;
    let origin = held.origin();
    let fits = match origin.protocol {
        L4Protocol::Tcp => true,
        L4Protocol::Udp | L4Protocol::Sctp => {
            bytes.len() <= held.udp_size().min(UDP_PAYLOAD_OCTETS_MAX)
        }
    };
    if fits {
        let start = step.out.len();
        step.out.extend_from_slice(bytes);
        overwrite(step.out, start, held.client_id());
        let reply = step.out.get_mut(start..).unwrap_or_default();
        held.restore_question(reply);
        if step.settings.https == Https::NoEch && ech::remove(reply) > 0 {
            step.records.counters().quirk(Quirk::EchRemoved);
        }
    } else {
        step.records.counters().quirk(Quirk::CutForClient);
        write_truncated(&held.repeated(), answer.rcode, step.out);
        answer.is_truncated = true;
    }
    held.end(step.now, Outcome::Answered(answer));
    Reply { origin }
}

/// Gives the client the rcode of an answer that is a header only, with the client's own question
/// put back. No OPT: a server that refuses so knows no EDNS, and the client should see that.
fn release_header(held: Held, bytes: &[u8], step: &mut Step<'_>) -> Reply {
    let origin = held.origin();
    let rcode = Header::read(bytes).map_or(crate::question::Rcode::SERV_FAIL, |header| {
        header.flags.rcode()
    });
    let repeated = Repeated {
        opt: None,
        ..held.repeated()
    };
    write_answer(&repeated, OwnAnswer { rcode, ede: None }, step.out);
    held.end(step.now, Outcome::Answered(Answer::bare(rcode)));
    Reply { origin }
}

const fn invalid_fault(invalid: Invalid) -> Fault {
    match invalid {
        Invalid::Malformed => Fault::InvalidAnswer,
        Invalid::Chain => Fault::Chain,
        Invalid::TooMany => Fault::TooMany,
    }
}
