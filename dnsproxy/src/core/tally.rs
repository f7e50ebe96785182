//! What the DNS path counts, by reason.

use std::sync::atomic::{AtomicU64, Ordering};

use super::gates::GateReason;
use super::local::Remark;
use super::record::Ending;
use super::step::Fault;
use crate::answer::Reject;

/// One counter for each variant of a words enum.
#[derive(Debug)]
struct Tally<const N: usize>([AtomicU64; N]);

impl<const N: usize> Tally<N> {
    fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    fn add(&self, index: usize) {
        self.add_many(index, 1);
    }

    fn add_many(&self, index: usize, many: u64) {
        if let Some(count) = self.0.get(index) {
            count.fetch_add(many, Ordering::Relaxed);
        }
    }

    fn values(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(|count| count.load(Ordering::Relaxed))
    }
}

/// The counters of the DNS path; all workers share them.
#[derive(Debug)]
pub struct Counters {
    gates: Tally<{ GateReason::ALL.len() }>,
    rejects: Tally<{ Reject::ALL.len() }>,
    faults: Tally<{ Fault::ALL.len() }>,
    endings: Tally<{ Ending::ALL.len() }>,
    quirks: Tally<{ Quirk::ALL.len() }>,
    remarks: Tally<{ Remark::ALL.len() }>,
}

crate::words::words! {
    /// What is worth counting and no reason of the others.
    pub enum Quirk {
        /// An error answer to malformed input was left out: the endpoint had its share.
        ErrorAnswerLeftOut = "error-answer-left-out",
        /// An answer was taken although the case of its question differs.
        CaseChanged = "case-changed",
        /// An answer was too large for its client and became TC=1.
        CutForClient = "cut-for-client",
        /// Keys of Encrypted Client Hello were taken out of an answer.
        EchRemoved = "ech-removed",
        /// Names under a pattern looked like a tunnel.
        TunnelSuspected = "tunnel-suspected",
        /// So much was watched for tunnels that this question was not.
        TunnelUnwatched = "tunnel-unwatched",
        /// A finished exchange found the queue of the told full.
        ToldLost = "told-lost",
        /// A datagram found a socket's buffer full.
        BufferFull = "buffer-full",
        /// A datagram or a connection bore nobody's mark.
        Unmarked = "unmarked",
        /// What waited in a listener that nobody read for longer was thrown away.
        Stale = "stale",
        /// A query had no place among those that the next daemon finds, or took another's.
        NotNoted = "not-noted",
        /// A connection was refused: the endpoint had its share, and none was idle.
        ConnectionRefused = "connection-refused",
        /// An idle connection was closed to make room for a new one.
        ConnectionReplaced = "connection-replaced",
        /// A connection was closed: a frame took too long.
        FrameSlow = "frame-slow",
        /// A connection was closed: too many frames in a row were malformed.
        FramesMalformed = "frames-malformed",
        /// A connection was closed: its client doesn't read.
        ReaderSlow = "reader-slow",
        /// A connection to a server was closed: too much of what it said answered nothing.
        ServerBabbles = "server-babbles",
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            gates: Tally::new(),
            rejects: Tally::new(),
            faults: Tally::new(),
            endings: Tally::new(),
            quirks: Tally::new(),
            remarks: Tally::new(),
        }
    }
}

impl Counters {
    /// Counts a query that failed a gate.
    pub fn gate(&self, reason: GateReason) {
        self.gates.add(reason as usize);
    }

    /// Counts a message from upstream that is no answer of ours.
    pub fn reject(&self, reason: Reject) {
        self.rejects.add(reason as usize);
    }

    /// Counts a SERVFAIL of ours.
    pub(crate) fn fault(&self, fault: Fault) {
        self.faults.add(fault as usize);
    }

    /// Counts the end of an exchange.
    pub(crate) fn ending(&self, ending: Ending) {
        self.endings.add(ending as usize);
    }

    /// Counts an oddity.
    pub(crate) fn quirk(&self, quirk: Quirk) {
        self.quirks.add(quirk as usize);
    }

    /// Counts an oddity that many times.
    pub(crate) fn quirks(&self, quirk: Quirk, many: u64) {
        self.quirks.add_many(quirk as usize, many);
    }

    /// Counts a question that is remarkable, whatever became of it.
    pub(crate) fn remark(&self, remark: Remark) {
        self.remarks.add(remark as usize);
    }

    /// All counters as (name, reason, value).
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let gates = GateReason::ALL.iter().map(|reason| reason.word());
        let rejects = Reject::ALL.iter().map(|reason| reason.word());
        let faults = Fault::ALL.iter().map(|fault| fault.word());
        let endings = Ending::ALL.iter().map(|ending| ending.word());
        let quirks = Quirk::ALL.iter().map(|quirk| quirk.word());
        let remarks = Remark::ALL.iter().map(|remark| remark.word());
        named("dns_malformed_total", gates, self.gates.values())
            .chain(named(
                "dns_upstream_rejected_total",
                rejects,
                self.rejects.values(),
            ))
            .chain(named("dns_faults_total", faults, self.faults.values()))
            .chain(named("dns_exchanges_total", endings, self.endings.values()))
            .chain(named("dns_quirks_total", quirks, self.quirks.values()))
            .chain(named("dns_remarks_total", remarks, self.remarks.values()))
    }
}

fn named(
    name: &'static str,
    words: impl Iterator<Item = &'static str>,
    values: impl Iterator<Item = u64>,
) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
    words
        .zip(values)
        .map(move |(word, value)| (name, word, value))
}
