//! What the HTTP path counts.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::core::record::Verdict;
use crate::told::{Refusal, Said};

/// The counters of the HTTP path; all workers share them.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections that were accepted.
    accepted: AtomicU64,
    /// Tunnels that were opened: TLS, upgrades, and what no rule looks into.
    tunnels: AtomicU64,
    /// Tunnels that were cut: by a change of policy, or by a second ClientHello for another server.
    cut: AtomicU64,
    /// Connections whose client ended without a byte.
    empty: AtomicU64,
    /// Connections that their client reset before it was known what they speak.
    gone: AtomicU64,
    /// Connections for which no place, or no socket, was left.
    full: AtomicU64,
    /// Connections whose server could not be reached.
    unreachable: AtomicU64,
    /// Connections whose server said what nobody had asked for.
    unasked: AtomicU64,
    /// Connections to servers from another port than the client's, which was taken.
    other_port: AtomicU64,
    /// Datagrams of QUIC flows that are open which begin nothing that was allowed, or can't be read.
    bad_datagrams: AtomicU64,
    forwarded: AtomicU64,
    denied: AtomicU64,
    malformed: AtomicU64,
    refusals: [AtomicU64; Refusal::ALL.len()],
    /// Connections that are bound to names: TLS to one of them, TLS to none, and others.
    fitting: AtomicU64,
    unfitting: AtomicU64,
    opaque: AtomicU64,
    /// Streams that were reset, and connections that were ended, towards HTTP/2 clients, by RFC 9113's
    /// number of the reason.
    resets: [AtomicU64; REASONS.len()],
    ends: [AtomicU64; REASONS.len()],
}

/// The reasons of HTTP/2 (RFC 9113 §7), by their number.
const REASONS: [&str; 14] = [
    "no-error",
    "protocol-error",
    "internal-error",
    "flow-control-error",
    "settings-timeout",
    "stream-closed",
    "frame-size-error",
    "refused-stream",
    "cancel",
    "compression-error",
    "connect-error",
    "enhance-your-calm",
    "inadequate-security",
    "http-1.1-required",
];

/// What is counted and no refusal.
#[derive(Clone, Copy, Debug)]
pub(super) enum Count {
    Accepted,
    Tunnel,
    Cut,
    Empty,
    Gone,
    Full,
    Unreachable,
    Unasked,
    OtherPort,
    BadDatagram,
}

impl Counters {
    pub(super) fn count(&self, what: Count) {
        let counter = match what {
            Count::Accepted => &self.accepted,
            Count::Tunnel => &self.tunnels,
            Count::Cut => &self.cut,
            Count::Empty => &self.empty,
            Count::Gone => &self.gone,
            Count::Full => &self.full,
            Count::Unreachable => &self.unreachable,
            Count::Unasked => &self.unasked,
            Count::OtherPort => &self.other_port,
            Count::BadDatagram => &self.bad_datagrams,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refusal(&self, refusal: Refusal) {
        if let Some(counter) = self.refusals.get(refusal as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn bound(&self, said: &Said) {
        let counter = match said {
            Said::Server { fits: true, .. } => &self.fitting,
            Said::Server { fits: false, .. } | Said::Unfit(_) => &self.unfitting,
            Said::Nothing => &self.opaque,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// An HTTP/2 stream was reset, with the number of a reason.
    pub(super) fn http2_reset(&self, code: u32) {
        count_reason(&self.resets, code);
    }

    /// An HTTP/2 connection was told to end.
    pub(super) fn http2_goaway(&self, code: u32) {
        count_reason(&self.ends, code);
    }

    pub(super) fn request(&self, verdict: &Verdict) {
        let counter = match verdict {
            Verdict::Allowed { .. } => &self.forwarded,
            Verdict::Denied(_) => &self.denied,
            Verdict::Malformed(_) | Verdict::TooSlow => &self.malformed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// All counters as (name, reason, value).
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let connections = [
            ("accepted", &self.accepted),
            ("tunnel", &self.tunnels),
            ("cut", &self.cut),
            ("empty", &self.empty),
            ("gone", &self.gone),
            ("full", &self.full),
            ("unreachable", &self.unreachable),
            ("unasked", &self.unasked),
            ("other-port", &self.other_port),
            ("bad-datagram", &self.bad_datagrams),
        ];
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let connections = connections
            .into_iter()
            .map(move |(word, counter)| ("http_connections_total", word, read(counter)));
        let requests = [
            ("forwarded", &self.forwarded),
            ("denied", &self.denied),
            ("malformed", &self.malformed),
        ];
        let requests = requests
            .into_iter()
            .map(move |(word, counter)| ("http_requests_total", word, read(counter)));
        let refusals = Refusal::ALL.iter().zip(&self.refusals);
        let refusals = refusals
            .map(move |(refusal, counter)| ("http_refused_total", refusal.word(), read(counter)));
        let bound = [
            ("allowed", &self.fitting),
            ("not-allowed", &self.unfitting),
            ("opaque", &self.opaque),
        ];
        let bound = bound
            .into_iter()
            .map(move |(word, counter)| ("http_name_binding_total", word, read(counter)));
        connections
            .chain(requests)
            .chain(refusals)
            .chain(bound)
            .chain(of_reasons("http2_resets_total", &self.resets))
            .chain(of_reasons("http2_goaways_total", &self.ends))
    }
}

fn of_reasons<'c>(
    name: &'static str,
    counters: &'c [AtomicU64],
) -> impl Iterator<Item = (&'static str, &'static str, u64)> + 'c {
    let all = REASONS.iter().zip(counters);
    all.map(move |(word, counter)| (name, *word, counter.load(Ordering::Relaxed)))
}

fn count_reason(counters: &[AtomicU64], code: u32) {
    let place = usize::try_from(code)
        .ok()
        .and_then(|code| counters.get(code));
    if let Some(counter) = place {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
