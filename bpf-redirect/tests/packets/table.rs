//! What a table of packets is made of, and how the kernel runs it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bpf_redirect::{EventReader, Hook};
use bpf_redirect_common::{
    Counter, Drop, EGRESS, EventKind, INGRESS, Match, PolicyKey, PolicyValue, Verdict,
};

use crate::common::{Bench, GATEWAY_MAC, NEXT, Packet, REDIRECT, SHOT, WORKLOAD_MAC, out, v4, v6};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;

/// The identity of [`PEER`] and its IPv6 twin; those of others are world's.
pub(crate) const SERVER: u32 = 300;
pub(crate) const PEER: u8 = 3;
pub(crate) const WORLD: u32 = 9;
pub(crate) const WORLD_V6: u32 = 10;

pub(crate) type Entry = (PolicyKey, PolicyValue);

/// What must become of a packet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Want {
    /// An entry decides: its verdict, its form, its rule.
    By(Verdict, Match, u32),
    /// No entry: dropped and told with this reason.
    Unmatched(Drop),
    /// Passes, and nobody is told: a known flow, or one that is not judged.
    Quiet,
    /// Goes to the proxy, which tells of it.
    ToProxy,
    /// Dropped before policy is asked, and told.
    Drop(Drop),
}

use Want::{By, Quiet, ToProxy, Unmatched};

/// A packet and its end.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) hook: Hook,
    pub(crate) frame: Vec<u8>,
    pub(crate) want: Want,
}

/// Rows under one policy.
pub(crate) struct Topic {
    pub(crate) entries: Vec<Entry>,
    pub(crate) prefixes: Vec<(IpAddr, u8, u32)>,
    pub(crate) rows: Vec<Row>,
}

/// A row for a packet that the workload sends.
pub(crate) fn sent(what: impl Into<String>, packet: &Packet, want: Want) -> Row {
    Row {
        what: what.into(),
        hook: Hook::FromEndpoint,
        frame: packet.bytes(),
        want,
    }
}

/// A row for a packet that is sent to it.
pub(crate) fn received(what: impl Into<String>, packet: &Packet, want: Want) -> Row {
    Row {
        hook: Hook::ToEndpoint,
        ..sent(what, packet, want)
    }
}

/// A row for a frame that the workload sends.
pub(crate) fn raw(what: impl Into<String>, frame: Vec<u8>, want: Want) -> Row {
    Row {
        what: what.into(),
        hook: Hook::FromEndpoint,
        frame,
        want,
    }
}

/// From a peer to the workload.
pub(crate) fn into(source: IpAddr, protocol: u8, port: u16) -> Packet {
    let mut packet = out(source, protocol, port);
    (packet.source, packet.destination) = (packet.destination, packet.source);
    packet.source_mac = GATEWAY_MAC;
    packet.destination_mac = WORKLOAD_MAC;
    packet
}

/// An entry of egress; the ports are those that share their first bits with one.
pub(crate) fn egress(identity: u32, l4: (u8, u16, u8), what: (Verdict, u32)) -> Entry {
    entry((EGRESS, identity), l4, what)
}

/// The same of ingress.
pub(crate) fn ingress(identity: u32, l4: (u8, u16, u8), what: (Verdict, u32)) -> Entry {
    entry((INGRESS, identity), l4, what)
}

fn entry(peer: (u8, u32), l4: (u8, u16, u8), (verdict, rule): (Verdict, u32)) -> Entry {
    let ((direction, identity), (protocol, port, bits)) = (peer, l4);
    let key = PolicyKey::new(direction, identity, protocol, (port, bits));
    (key, PolicyValue::new(rule, verdict))
}

impl Topic {
    /// The server at 10.0.0.3 and fd00::3 has an identity, all others are the world.
    pub(crate) fn new(entries: &[Entry], rows: Vec<Row>) -> Self {
        Self {
            entries: entries.to_vec(),
            prefixes: vec![
                (v4(PEER), 32, SERVER),
                (v6(PEER.into()), 128, SERVER),
                (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0, WORLD),
                (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0, WORLD_V6),
            ],
            rows,
        }
    }

    pub(crate) fn size(&self) -> usize {
        self.rows.len()
    }
}

/// An endpoint, what is told of it, and what was counted so far.
pub(crate) struct Kernel {
    pub(crate) bench: Bench,
    events: EventReader,
    counted: BTreeMap<&'static str, u64>,
}

impl Kernel {
    /// Closed.
    pub(crate) fn new() -> Self {
        let bench = Bench::with(&[]);
        Self {
            events: bench.datapath.events().unwrap(),
            counted: BTreeMap::new(),
            bench,
        }
    }

    /// Each row by itself: no flow is remembered from one to the next.
    pub(crate) fn check(&mut self, topic: &Topic) {
        self.load(topic);
        for row in &topic.rows {
            self.run(row);
            self.bench.datapath.sweep_flows(|_, _| true).unwrap();
        }
    }

    /// The rows in their order, as one story.
    pub(crate) fn check_in_turn(&mut self, topic: &Topic) {
        self.load(topic);
        for row in &topic.rows {
            self.run(row);
        }
    }

    fn load(&mut self, topic: &Topic) {
        let Bench {
            datapath, ledger, ..
        } = &mut self.bench;
        datapath.set_prefixes(&topic.prefixes).unwrap();
        let entries = topic.entries.clone();
        ledger.reload(entries, &[], |_| Vec::new()).unwrap();
    }

    fn run(&mut self, row: &Row) {
        let datapath = &mut self.bench.datapath;
        let run = datapath.try_packet(row.hook, &row.frame, 0);
        let (code, _, _) = run.unwrap_or_else(|error| panic!("{}: {error}", row.what));
        let mut told = Vec::new();
        self.events.drain(|event| {
            let (kind, verdict) = (event.kind, event.verdict);
            told.push((kind, verdict, event.matched, event.reason, event.rule));
        });
        let counters = datapath.counters().unwrap();
        let counted = counters.iter().map(|one| (one.name, one.value)).collect();
        let before = std::mem::replace(&mut self.counted, counted);
        let up = self.counted.iter();
        let up = up.filter(|(name, value)| before.get(*name) != Some(value));
        let up: Vec<&str> = up.map(|(name, _)| *name).collect();
        let (wanted, counts, events) = row.want.in_full();
        assert_eq!((code, up, told), (wanted, counts, events), "{}", row.what);
    }
}

/// Kind, verdict, form, reason and rule of an event.
pub(crate) type Told = (u8, u8, u8, u8, u32);

impl Want {
    /// What the program returns, counts and tells.
    fn in_full(self) -> (i32, Vec<&'static str>, Vec<Told>) {
        let verdict = |verdict: Verdict, form: Match, reason: u8, rule| {
            (
                EventKind::Verdict as u8,
                verdict as u8,
                form as u8,
                reason,
                rule,
            )
        };
        let drop = |verdict: Verdict, form: Match, reason: Drop, rule| {
            (
                EventKind::Drop as u8,
                verdict as u8,
                form as u8,
                reason as u8,
                rule,
            )
        };
        let to_proxy = Counter::ALL.iter();
        let to_proxy = to_proxy.filter(|(counter, _)| *counter == Counter::Redirected);
        let to_proxy = to_proxy.map(|(_, word)| *word).collect();
        let denied = |word: Verdict, form, reason: Drop, rule| {
            let events = vec![
                verdict(word, form, reason as u8, rule),
                drop(word, form, reason, rule),
            ];
            (SHOT, vec![reason.word()], events)
        };
        match self {
            Quiet => (NEXT, vec![], vec![]),
            ToProxy => (REDIRECT, to_proxy, vec![]),
            Self::Drop(reason) => {
                let event = drop(Verdict::Unmatched, Match::None, reason, 0);
                (SHOT, vec![reason.word()], vec![event])
            }
            Unmatched(reason) => denied(Verdict::Unmatched, Match::None, reason, 0),
            By(
                word @ (Verdict::Allow | Verdict::AuditUnmatched | Verdict::AuditDeny),
                form,
                rule,
            ) => (NEXT, vec![], vec![verdict(word, form, 0, rule)]),
            By(word @ Verdict::Redirect, form, rule) => {
                let told = vec![verdict(word, form, 0, rule)];
                (REDIRECT, to_proxy, told)
            }
            By(word @ Verdict::Refuse, form, rule) => {
                let (_, counted, told) = denied(word, form, Drop::NameHidden, rule);
                (REDIRECT, counted, told)
            }
            By(word @ Verdict::Deny, form, rule) => denied(word, form, Drop::PolicyDeny, rule),
            By(word @ Verdict::FailAuthentication, form, rule) => {
                denied(word, form, Drop::AuthenticationRequired, rule)
            }
            By(Verdict::Unmatched, ..) => unreachable!("no entry says so"),
        }
    }
}

pub(crate) const DENIED: Want = Unmatched(Drop::PolicyDenied);

/// An entry for the server and one port allows it.
pub(crate) const fn allowed(rule: u32) -> Want {
    By(Verdict::Allow, Match::L3L4, rule)
}

/// TCP and UDP 80 of the server, and nothing else; ingress the same.
pub(crate) fn one_port() -> Vec<Entry> {
    let allow = (Verdict::Allow, 1);
    vec![
        egress(SERVER, (TCP, 80, 16), allow),
        egress(SERVER, (UDP, 80, 16), allow),
        egress(SERVER, (SCTP, 80, 16), allow),
        ingress(SERVER, (TCP, 80, 16), allow),
        ingress(SERVER, (UDP, 80, 16), allow),
        ingress(SERVER, (SCTP, 80, 16), allow),
    ]
}

pub(crate) fn server(protocol: u8, port: u16) -> Packet {
    out(v4(PEER), protocol, port)
}

pub(crate) fn server_v6(protocol: u8, port: u16) -> Packet {
    out(v6(PEER.into()), protocol, port)
}
