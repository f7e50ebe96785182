//! One DNS exchange from the query that passed the gates to the bytes that go upstream.
//!
//! ```text
//! gate_query ─► Exchange ─judge─► Forward ─send─► Held (in Pending) ─hear─► Untaught ─learn─► Taught
//!     │             │                │              │                          │               │
//!  Refusal      no permit:       no place:       expired, gone:            not installed:    release:
//!  answered     denied           SERVFAIL        SERVFAIL                  SERVFAIL          the answer
//! ```
//!
//! Each arrow consumes the value at its foot. `send` needs the permit that only policy makes;
//! `release` needs what only [`Learn`](super::learn::Learn) makes.

use std::net::SocketAddr;
use std::time::Instant;

use policy::{Denial, DenyAnswer, DnsPermit, EndpointId, L4Protocol, Question};
use smallvec::SmallVec;

use super::gates::{Message, Query, Refusal};
use super::learn::NotInstalled;
use super::local::{CLOSED, Remark};
use super::pending::{Key, Pending, Via};
use super::record::{ErrorAnswers, ExchangeRecord, Outcome};
use super::scrub::{in_small_letters, split_questions, write_scrubbed};
use super::step::{DenyResponse, Fault, OnTimeout, Origin, Reply, Step};
use super::tally::Quirk;
use super::tunnels::{Seen, Tunnels};
use crate::limits::UDP_PLAIN_OCTETS;
use crate::question::{Flags, HEADER_OCTETS, Rcode};
use crate::refuse::{DnssecOk, Ede, OwnAnswer, Repeated, write_answer};

/// A query that passed the gates and is not judged yet.
#[derive(Debug)]
pub struct Exchange<'a> {
    record: ExchangeRecord,
    message: Message<'a>,
}

/// What follows from a verdict.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one at a time, on the stack: a box would be an allocation for each query"
)]
pub enum Action<'a> {
    /// Answer the client.
    Reply(Reply),
    /// Ask the server; nothing has gone out yet.
    Forward(Forward<'a>),
    /// Do nothing: the option says that denials are silent.
    Drop,
}

/// A query with its permit.
#[derive(Debug)]
pub struct Forward<'a> {
    record: ExchangeRecord,
    message: Message<'a>,
    permit: DnsPermit,
}

/// Where the bytes that were appended to [`Step::out`] go: all of it comes from the permit but the
/// client's address, which the record vouches for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the bytes must be sent"]
pub struct Upstream {
    /// Whose mark the datagram carries.
    pub endpoint: EndpointId,
    /// Which server gets it.
    pub server: SocketAddr,
    /// By which protocol.
    pub protocol: L4Protocol,
    /// Whose address it bears, where the source is the endpoint's.
    pub client: SocketAddr,
    /// The entry to take out and fail, should sending fail.
    pub key: Key,
}

/// A question that is no longer costs no allocation: a name, type and class.
const QUESTION_INLINE_OCTETS: usize = 52;

/// A query that waits for its answer, or whose answer is held.
#[derive(Debug)]
pub struct Held {
    record: ExchangeRecord,
    client_id: u16,
    flags: Flags,
    /// The question as the client wrote it, with type and class; behind it as it was sent, where it was
    /// made anew and differs.
    questions: SmallVec<[u8; QUESTION_INLINE_OCTETS]>,
    /// What an answer of ours needs of the query's OPT, and the size that the client takes.
    opt: Option<(DnssecOk, u16)>,
}

impl<'a> Exchange<'a> {
    /// Opens the exchange and its record.
    #[must_use]
    pub fn open(origin: Origin, query: Query<'a>, step: &Step<'_>) -> Self {
        Self {
            record: step.records.open(step.now, origin, query.question),
            message: query.message,
        }
    }

    /// What policy must judge.
    #[must_use]
    pub const fn question(&self) -> &Question {
        self.record.question()
    }

    /// Acts on the verdict.
    pub fn judge(mut self, verdict: Result<DnsPermit, Denial>, step: &mut Step<'_>) -> Action<'a> {
        let remark = Remark::of(self.question(), &step.settings);
        if let Some(remark) = remark {
            self.record.remark(remark);
        }
        let own = remark.and_then(|remark| remark.answer(&step.settings));
        let permit = match verdict {
            Ok(permit) => permit,
            // Who asks a resolver for itself is told that it is the only one, whatever names it may ask for.
            Err(denial) => match own.filter(|_| remark == Some(Remark::Discovery)) {
                Some(own) if is_decision(denial) => return self.answer_locally(own, step),
                Some(_) | None => return self.deny(denial, step),
            },
        };
        if !is_for(&permit, &self.record) {
            return Action::Reply(self.fail(Fault::PermitMismatch, step));
        }
        if let Some(own) = own {
            return self.answer_locally(own, step);
        }
        self.record.allow(&permit);
        Action::Forward(Forward {
            record: self.record,
            message: self.message,
            permit,
        })
    }

    /// Ends the exchange with SERVFAIL, where no verdict could be had.
    pub fn fail(self, fault: Fault, step: &mut Step<'_>) -> Reply {
        fail(self.record, &self.message.repeated(), fault, step)
    }

    /// Answers in the server's place: nothing leaves the node.
    fn answer_locally(self, own: OwnAnswer, step: &mut Step<'_>) -> Action<'a> {
        let Self { record, message } = self;
        Action::Reply(answer_locally((record, &message.repeated()), own, step))
    }

    fn deny(self, denial: Denial, step: &mut Step<'_>) -> Action<'a> {
        let answer = match denied(step.settings.deny_response, denial.answer) {
            Denied::Fault => return Action::Reply(self.fail(Fault::NoPolicy, step)),
            Denied::Answer(answer) => Some(answer),
            Denied::Silence => None,
        };
        let origin = self.record.origin();
        let outcome = Outcome::Denied {
            reason: denial.reason,
            rcode: answer.map(|answer| answer.rcode),
        };
        self.record.finish(step.now, outcome);
        let Some(answer) = answer else {
            return Action::Drop;
        };
        write_answer(&self.message.repeated(), answer, step.out);
        Action::Reply(Reply { origin })
    }
}

/// Whether a denial is policy's word, and no want of one.
fn is_decision(denial: Denial) -> bool {
    denial.answer != DenyAnswer::ServFail
}

/// Ends an exchange with an answer that no server gave.
fn answer_locally(
    (record, repeated): (ExchangeRecord, &Repeated<'_>),
    own: OwnAnswer,
    step: &mut Step<'_>,
) -> Reply {
    let origin = record.origin();
    record.finish(step.now, Outcome::Local(own.rcode));
    write_answer(repeated, own, step.out);
    Reply { origin }
}

/// Whether the permit is for the very query whose record this is.
fn is_for(permit: &DnsPermit, record: &ExchangeRecord) -> bool {
    let origin = record.origin();
    permit.endpoint() == origin.endpoint
        && permit.server() == origin.server
        && permit.protocol() == origin.protocol
        && permit.question() == record.question()
}

/// How a denial is answered.
enum Denied {
    Answer(OwnAnswer),
    Silence,
    /// It was no decision.
    Fault,
}

fn denied(option: DenyResponse, answer: DenyAnswer) -> Denied {
    let (rcode, ede) = match (answer, option) {
        (DenyAnswer::ServFail, _) => return Denied::Fault,
        (_, DenyResponse::Drop) => return Denied::Silence,
        (_, DenyResponse::Refused) => (Rcode::REFUSED, Ede::Prohibited),
        (_, DenyResponse::NxDomain) | (DenyAnswer::NxDomain, DenyResponse::Auto) => {
            (Rcode::NX_DOMAIN, Ede::Filtered)
        }
        (_, DenyResponse::NoData) | (DenyAnswer::NoData, DenyResponse::Auto) => {
            (Rcode::NO_ERROR, Ede::Filtered)
        }
    };
    let ede = Some(ede);
    Denied::Answer(OwnAnswer { rcode, ede })
}

impl Forward<'_> {
    /// Whose query it is.
    #[must_use]
    pub fn endpoint(&self) -> EndpointId {
        self.permit.endpoint()
    }

    /// Looks whether the name is part of a tunnel; where that closes it, it is answered here.
    ///
    /// # Errors
    /// The answer, if it may not go.
    pub fn watch(mut self, tunnels: &Tunnels, step: &mut Step<'_>) -> Result<Self, Reply> {
        let counters = step.records.counters();
        match tunnels.look(&self.permit, step.settings.tunnels, step.now) {
            Seen::Usual => {}
            Seen::Unwatched => counters.quirk(Quirk::TunnelUnwatched),
            Seen::Suspected => {
                counters.quirk(Quirk::TunnelSuspected);
                self.record.remark(Remark::TunnelSuspected);
            }
            Seen::Closed => {
                self.record.remark(Remark::TunnelSuspected);
                self.record.disallow();
                let repeated = self.message.repeated();
                return Err(answer_locally((self.record, &repeated), CLOSED, step));
            }
        }
        Ok(self)
    }

    /// Consumes the permit: takes a place among the outstanding and a fresh id, and appends the
    /// bytes for the server, which differ from the client's in the id and, unless the message is
    /// signed, in the UDP size that they announce.
    ///
    /// # Errors
    /// If there is no place or no id: the reply says SERVFAIL.
    pub fn send(
        self,
        pending: &mut Pending,
        via: Via<'_>,
        step: &mut Step<'_>,
    ) -> Result<Upstream, Reply> {
        let reserved = match pending.reserve(self.permit.endpoint(), via) {
            Ok(reserved) => reserved,
            Err(fault) => return Err(self.fail(fault, step)),
        };
        let upstream = Upstream {
            endpoint: self.permit.endpoint(),
            server: self.permit.server(),
            protocol: self.permit.protocol(),
            client: self.record.origin().client,
            key: reserved.key,
        };
        if step.settings.scrub {
            let asked = (&self.message, self.permit.question());
            write_scrubbed(asked, upstream.key.id, step.out);
        } else {
            write_upstream(&self.message, upstream, step);
        }
        let wait = match upstream.protocol {
            L4Protocol::Tcp => step.settings.tcp_wait,
            L4Protocol::Udp | L4Protocol::Sctp => step.settings.udp_wait,
        };
        let oldest = pending.insert(reserved, self.hold(step.settings.scrub), step.now + wait);
        if let Some(oldest) = oldest {
            oldest.end(step.now, Outcome::Superseded);
        }
        Ok(upstream)
    }

    /// Ends the exchange with SERVFAIL, where no way upstream could be had.
    pub fn fail(self, fault: Fault, step: &mut Step<'_>) -> Reply {
        fail(self.record, &self.message.repeated(), fault, step)
    }

    fn hold(self, is_scrubbed: bool) -> Held {
        let question = self.message.repeated().question;
        let sent = is_scrubbed.then(|| in_small_letters(question)).flatten();
        Held {
            questions: match sent {
                Some(sent) => SmallVec::from_vec([question, &sent].concat()),
                None => SmallVec::from_slice(question),
            },
            client_id: self.message.id,
            flags: self.message.flags,
            opt: self.message.opt.map(|opt| (opt.dnssec_ok, opt.size)),
            record: self.record,
        }
    }
}

/// Appends the query with its new id and, over UDP, the size that we let it announce.
fn write_upstream(message: &Message<'_>, upstream: Upstream, step: &mut Step<'_>) {
    let start = step.out.len();
    step.out.extend_from_slice(message.bytes);
    overwrite(step.out, start, upstream.key.id);
    let (Some(max), Some(opt)) = (step.settings.clamp_size, message.opt) else {
        return;
    };
    if upstream.protocol != L4Protocol::Tcp && !message.signed && opt.size > max {
        overwrite(step.out, start + opt.size_at, max);
    }
}

/// Overwrites two octets.
pub(super) fn overwrite(bytes: &mut [u8], at: usize, word: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&word.to_be_bytes());
    }
}

impl Held {
    /// Who asks whom.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        self.record.origin()
    }

    /// What is asked.
    #[must_use]
    pub const fn question(&self) -> &Question {
        self.record.question()
    }

    /// The client's id.
    #[must_use]
    pub const fn client_id(&self) -> u16 {
        self.client_id
    }

    /// The question as it was sent, with type and class.
    pub(crate) fn sent_question(&self) -> &[u8] {
        match split_questions(&self.questions) {
            (question, []) => question,
            (_, sent) => sent,
        }
    }

    /// Puts the client's own question back into an answer that repeats the one that was sent: stubs that
    /// choose the case of their letters take no other.
    pub(super) fn restore_question(&self, answer: &mut [u8]) {
        let (question, sent) = split_questions(&self.questions);
        let end = HEADER_OCTETS + question.len();
        if !sent.is_empty()
            && let Some(place) = answer.get_mut(HEADER_OCTETS..end)
        {
            place.copy_from_slice(question);
        }
    }

    /// The size of UDP answer that the client takes.
    pub(crate) fn udp_size(&self) -> usize {
        let size = self.opt.map_or(0, |(_, size)| size);
        usize::from(size.max(UDP_PLAIN_OCTETS))
    }

    /// What an answer of ours repeats.
    pub(crate) fn repeated(&self) -> Repeated<'_> {
        Repeated {
            id: self.client_id,
            flags: self.flags,
            question: split_questions(&self.questions).0,
            opt: self.opt.map(|(dnssec_ok, _)| dnssec_ok),
        }
    }

    /// Ends the exchange with SERVFAIL.
    pub fn fail(self, fault: Fault, step: &mut Step<'_>) -> Reply {
        let Self {
            record,
            client_id,
            flags,
            questions,
            opt,
        } = self;
        let repeated = Repeated {
            id: client_id,
            flags,
            question: split_questions(&questions).0,
            opt: opt.map(|(dnssec_ok, _)| dnssec_ok),
        };
        fail(record, &repeated, fault, step)
    }

    /// Ends the exchange because its server did not answer in time.
    #[must_use = "the reply must be sent"]
    pub fn time_out(self, step: &mut Step<'_>) -> Option<Reply> {
        match step.settings.on_timeout {
            OnTimeout::ServFail => Some(self.fail(Fault::Timeout, step)),
            OnTimeout::Silence => {
                self.end(step.now, Outcome::Timeout { answered: false });
                None
            }
        }
    }

    /// Ends the exchange without a word to the client.
    pub fn end(self, now: Instant, outcome: Outcome) {
        self.record.finish(now, outcome);
    }
}

/// The one way to SERVFAIL.
fn fail(
    record: ExchangeRecord,
    repeated: &Repeated<'_>,
    fault: Fault,
    step: &mut Step<'_>,
) -> Reply {
    let origin = record.origin();
    let outcome = if fault == Fault::Timeout {
        Outcome::Timeout { answered: true }
    } else {
        Outcome::ServFail(fault)
    };
    record.finish(step.now, outcome);
    let answer = OwnAnswer {
        rcode: Rcode::SERV_FAIL,
        ede: Some(fault.ede()),
    };
    write_answer(repeated, answer, step.out);
    Reply { origin }
}

/// What a failure of learning means for the client, `None` where it is gone: the direction of every
/// failure between an answer and its release is written down here and nowhere else, and all of them
/// are closed.
pub(super) const fn withheld(failure: NotInstalled) -> Option<Fault> {
    match failure {
        NotInstalled::Late => Some(Fault::InstallTimeout),
        NotInstalled::MapFull => Some(Fault::MapFull),
        NotInstalled::TooMany => Some(Fault::TooMany),
        NotInstalled::Rebinding => Some(Fault::Rebinding),
        NotInstalled::Kernel => Some(Fault::Kernel),
        NotInstalled::NoPolicy => Some(Fault::NoPolicy),
        NotInstalled::EndpointGone => None,
    }
}

impl Refusal<'_> {
    /// Ends a query that failed a gate: counts it, tells its record if its question was read, and
    /// answers if there is an answer and the endpoint has not had its share of them.
    #[must_use]
    pub fn conclude(
        self,
        origin: Origin,
        limit: &ErrorAnswers,
        step: &mut Step<'_>,
    ) -> Option<Reply> {
        let counters = step.records.counters();
        counters.gate(self.reason);
        let answer = self.answer();
        if let Some(question) = self.question {
            let record = step.records.open(step.now, origin, question);
            record.finish(step.now, Outcome::Malformed(self.reason));
        }
        let (repeated, answer) = answer?;
        if !limit.admit(step.now, origin.endpoint) {
            counters.quirk(Quirk::ErrorAnswerLeftOut);
            return None;
        }
        write_answer(&repeated, answer, step.out);
        Some(Reply { origin })
    }
}

#[cfg(test)]
mod tests;
