//! One exchange, one record (law 4): opened when a query was read, consumed once by its outcome.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use policy::{DenialReason, DnsPermit, EndpointId, Question, RuleId};

use super::gates::GateReason;
use super::local::Remark;
use super::step::{Fault, Origin};
use super::tally::{Counters, Quirk};
use crate::answer::Answer;
use crate::limits::{ENDPOINTS_MAX, ERROR_ANSWERS_PER_SEC_MAX, TOLD_WAITING_MAX};
use crate::question::Rcode;
use crate::words::words;

/// How an exchange ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A gate refused the query after its question was read.
    Malformed(GateReason),
    /// Policy said no.
    Denied {
        /// Why.
        reason: DenialReason,
        /// What was answered; `None` where the option says silence.
        rcode: Option<Rcode>,
    },
    /// Policy allows it, and an option has it answered here; why is the exchange's remark.
    Local(Rcode),
    /// The server's answer was released; TC=1 in it is by the server or by us.
    Answered(Answer),
    /// The server did not answer in time.
    Timeout {
        /// Whether the client got SERVFAIL, and not the silence that the option asks for.
        answered: bool,
    },
    /// The client got SERVFAIL for a fault.
    ServFail(Fault),
    /// The client asked the same again too often; this, its oldest, got no answer.
    Superseded,
    /// The client closed its connection.
    ClientGone,
    /// The endpoint was removed.
    EndpointGone,
    /// The exchange was dropped unfinished.
    Abandoned,
}

words! {
    /// The outcome as a word, for counting.
    pub enum Ending {
        /// [`Outcome::Malformed`].
        Malformed = "malformed",
        /// [`Outcome::Denied`].
        Denied = "denied",
        /// [`Outcome::Local`].
        Local = "local",
        /// [`Outcome::Answered`].
        Answered = "answered",
        /// [`Outcome::Timeout`].
        Timeout = "timeout",
        /// [`Outcome::ServFail`].
        ServFail = "servfail",
        /// [`Outcome::Superseded`].
        Superseded = "superseded",
        /// [`Outcome::ClientGone`].
        ClientGone = "client-gone",
        /// [`Outcome::EndpointGone`].
        EndpointGone = "endpoint-gone",
        /// [`Outcome::Abandoned`].
        Abandoned = "abandoned",
    }
}

impl Outcome {
    /// The kind of outcome.
    #[must_use]
    pub const fn ending(&self) -> Ending {
        match self {
            Self::Malformed(_) => Ending::Malformed,
            Self::Denied { .. } => Ending::Denied,
            Self::Local(_) => Ending::Local,
            Self::Answered(_) => Ending::Answered,
            Self::Timeout { .. } => Ending::Timeout,
            Self::ServFail(_) => Ending::ServFail,
            Self::Superseded => Ending::Superseded,
            Self::ClientGone => Ending::ClientGone,
            Self::EndpointGone => Ending::EndpointGone,
            Self::Abandoned => Ending::Abandoned,
        }
    }
}

/// A finished exchange: the one value from which its events and counts are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Who asked whom.
    pub origin: Origin,
    /// What was asked.
    pub question: Question,
    /// What allowed it; `None` if nothing did.
    pub allowed_by: Option<AllowedBy>,
    /// What is remarkable in the question.
    pub remark: Option<Remark>,
    /// When the query was read.
    pub asked_at: Instant,
    /// From reading the query to its end; `None` if it was abandoned.
    pub latency: Option<Duration>,
    /// How it ended.
    pub outcome: Outcome,
}

/// By what a query was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllowedBy {
    /// The rule.
    pub rule: RuleId,
    /// The revision of the snapshot that judged.
    pub revision: u64,
    /// Policy denied it, and only audits: no rule allowed it.
    pub audited: bool,
    /// How many labels at the end of the name the rule's pattern names, as [`DnsPermit::literal_labels`].
    pub literal_labels: Option<u8>,
}

/// Where the records of one worker go when they are finished, and what counts them.
#[derive(Clone, Debug)]
pub struct Records(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    counters: Arc<Counters>,
    /// Finished exchanges in the order of their ends, until they are drained.
    told: Mutex<Vec<Told>>,
}

impl Records {
    /// An empty queue that counts on `counters`.
    #[must_use]
    pub fn new(counters: Arc<Counters>) -> Self {
        Self(Arc::new(Shared {
            counters,
            told: Mutex::new(Vec::new()),
        }))
    }

    /// Opens the record of a query that was read.
    #[must_use]
    pub fn open(&self, now: Instant, origin: Origin, question: Question) -> ExchangeRecord {
        ExchangeRecord {
            records: self.clone(),
            origin,
            question: Some(question),
            allowed_by: None,
            remark: None,
            asked_at: now,
        }
    }

    /// Moves what is finished behind what `into` holds.
    pub fn drain(&self, into: &mut Vec<Told>) {
        let mut told = self.0.told.lock().unwrap_or_else(PoisonError::into_inner);
        into.append(&mut told);
    }

    /// What counts.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    fn tell(&self, told: Told) {
        self.counters().ending(told.outcome.ending());
        if let Outcome::ServFail(fault) = &told.outcome {
            self.counters().fault(*fault);
        }
        let mut waiting = self.0.told.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < TOLD_WAITING_MAX {
            waiting.push(told);
        } else {
            self.counters().quirk(Quirk::ToldLost);
        }
    }
}

/// The open record of one exchange. To finish it is the only way to tell how the exchange ended;
/// dropped unfinished, it tells [`Outcome::Abandoned`].
#[derive(Debug)]
pub struct ExchangeRecord {
    records: Records,
    origin: Origin,
    /// `None` once it was told.
    question: Option<Question>,
    allowed_by: Option<AllowedBy>,
    remark: Option<Remark>,
    asked_at: Instant,
}

impl ExchangeRecord {
    /// Who asks whom.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// What is asked.
    #[must_use]
    pub const fn question(&self) -> &Question {
        self.question
            .as_ref()
            .expect("only `finish` and `drop` take it, and both consume the record")
    }

    /// Notes which rule of which snapshot allowed the exchange, or that it was only audited.
    pub fn allow(&mut self, permit: &DnsPermit) {
        self.allowed_by = Some(AllowedBy {
            rule: permit.rule(),
            revision: permit.revision(),
            audited: permit.is_audited(),
            literal_labels: permit.literal_labels(),
        });
    }

    /// Takes back that it was allowed: an option closes it.
    pub fn disallow(&mut self) {
        self.allowed_by = None;
    }

    /// Notes what is remarkable in the question, and counts it.
    pub fn remark(&mut self, remark: Remark) {
        self.records.counters().remark(remark);
        self.remark = Some(remark);
    }

    /// Tells how the exchange ended.
    pub fn finish(mut self, now: Instant, outcome: Outcome) {
        let latency = now.saturating_duration_since(self.asked_at);
        self.tell(Some(latency), outcome);
    }

    fn tell(&mut self, latency: Option<Duration>, outcome: Outcome) {
        let Some(question) = self.question.take() else {
            return;
        };
        self.records.tell(Told {
            origin: self.origin,
            question,
            allowed_by: self.allowed_by,
            remark: self.remark,
            asked_at: self.asked_at,
            latency,
            outcome,
        });
    }
}

impl Drop for ExchangeRecord {
    fn drop(&mut self) {
        self.tell(None, Outcome::Abandoned);
    }
}

/// Limits error answers to malformed input, per endpoint and second: one for all workers and connections. A
/// query that is well formed doesn't come here.
#[derive(Debug, Default)]
pub struct ErrorAnswers {
    /// When each endpoint's second began, and its error answers since.
    seconds: Mutex<HashMap<EndpointId, (Instant, u32)>>,
}

impl ErrorAnswers {
    /// Whether one more error answer may go to the endpoint; if so it is counted.
    pub fn admit(&self, now: Instant, endpoint: EndpointId) -> bool {
        let second = Duration::from_secs(1);
        let is_over = |began: Instant| now.saturating_duration_since(began) >= second;
        let max = ENDPOINTS_MAX as usize;
        let mut seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        if seconds.len() >= max && !seconds.contains_key(&endpoint) {
            seconds.retain(|_, (began, _)| !is_over(*began));
            if seconds.len() >= max {
                return false;
            }
        }
        let (began, answers) = seconds.entry(endpoint).or_insert((now, 0));
        if is_over(*began) {
            (*began, *answers) = (now, 0);
        }
        *answers = answers.saturating_add(1);
        *answers <= ERROR_ANSWERS_PER_SEC_MAX
    }
}

#[cfg(test)]
mod tests;
