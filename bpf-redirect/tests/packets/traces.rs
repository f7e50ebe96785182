//! What is told of packets that pass, by level of aggregation.

use std::net::IpAddr;
use std::time::Duration;

use bpf_redirect::Hook;
use bpf_redirect_common::{
    Aggregation, EventKind, INGRESS, TRACE_SECS, TRACES_PER_SECOND_MAX, TracePoint, TraceReason,
    Verdict,
};

use crate::common::{Bench, NEXT, Packet, SHOT, icmp_error, out, v4, v6};
use crate::table::{ICMP, ICMPV6, PEER, SERVER, TCP, UDP, egress, ingress, one_port};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const SYN_ACK: u8 = 0x12;
const FIN_ACK: u8 = 0x11;
const RST: u8 = 0x04;

const LEVELS: [Aggregation; 5] = [
    Aggregation::Off,
    Aggregation::Maximum,
    Aggregation::Medium,
    Aggregation::Low,
    Aggregation::None,
];

const NEW: TraceReason = TraceReason::New;
const ESTABLISHED: TraceReason = TraceReason::Established;
const REPLY: TraceReason = TraceReason::Reply;

/// A packet, where it is seen, what is known of it, and whether it is told of at every level but `off`, or
/// only where each packet is.
type Step = (&'static str, Hook, Vec<u8>, (TraceReason, bool));

struct Traced {
    bench: Bench,
    events: bpf_redirect::EventReader,
}

impl Traced {
    fn new(level: Aggregation) -> Self {
        let mut entries = one_port();
        entries.push(egress(SERVER, (TCP, 53, 16), (Verdict::Redirect, 4)));
        entries.push(egress(SERVER, (UDP, 53, 16), (Verdict::Redirect, 4)));
        entries.push(egress(SERVER, (ICMP, 8, 16), (Verdict::Allow, 1)));
        entries.push(egress(SERVER, (ICMPV6, 128, 16), (Verdict::Allow, 1)));
        entries.push(ingress(SERVER, (TCP, 8_080, 16), (Verdict::Allow, 1)));
        let mut bench = Bench::with(&entries);
        let prefixes = [(v4(PEER), 32, SERVER), (v6(PEER.into()), 128, SERVER)];
        bench.datapath.set_prefixes(&prefixes).unwrap();
        bench.datapath.set_aggregation(level).unwrap();
        let events = bench.datapath.events().unwrap();
        Self { bench, events }
    }

    /// Runs a packet: the points and reasons of its traces.
    fn run(&mut self, hook: Hook, frame: &[u8]) -> Vec<(u8, u8)> {
        let (code, _, _) = self.bench.datapath.try_packet(hook, frame, 0).unwrap();
        assert_ne!(code, SHOT);
        let mut told = Vec::new();
        self.events.drain(|event| {
            if event.kind == EventKind::Trace as u8 {
                let by_look_up = event.matched != TracePoint::FromEndpoint as u8;
                assert_eq!(event.identity, if by_look_up { SERVER } else { 0 });
                assert_eq!(event.direction == INGRESS, hook == Hook::ToEndpoint);
                told.push((event.matched, event.reason));
            }
        });
        told
    }
}

fn check(level: Aggregation, steps: &[Step], pass_to: TracePoint) {
    let mut traced = Traced::new(level);
    for (what, hook, frame, (reason, is_news)) in steps {
        let mut wanted = Vec::new();
        if level == Aggregation::None && *hook == Hook::FromEndpoint {
            let unknown = TraceReason::Unknown as u8;
            wanted.push((TracePoint::FromEndpoint as u8, unknown));
        }
        let point = match hook {
            Hook::ToEndpoint => TracePoint::ToEndpoint,
            Hook::FromEndpoint | Hook::NodeEnd | Hook::GateIn | Hook::GateOut => pass_to,
        };
        if level >= Aggregation::Low || level != Aggregation::Off && *is_news {
            wanted.push((point as u8, *reason as u8));
        }
        assert_eq!(traced.run(*hook, frame), wanted, "{level:?} {what}");
    }
}

fn tcp(peer: IpAddr, port: u16) -> Vec<Step> {
    let syn = out(peer, TCP, port);
    let sent = |flags| (Hook::FromEndpoint, syn.clone().flags(flags).bytes());
    let back = |flags| (Hook::ToEndpoint, syn.answer().flags(flags).bytes());
    [
        ("SYN", sent(SYN), (NEW, true)),
        ("SYN ACK", back(SYN_ACK), (REPLY, true)),
        ("SYN ACK again", back(SYN_ACK), (REPLY, false)),
        ("ACK", sent(ACK), (ESTABLISHED, false)),
        ("data", sent(0x18), (ESTABLISHED, false)),
        ("data back", back(0x18), (REPLY, false)),
        ("FIN", sent(FIN_ACK), (ESTABLISHED, true)),
        ("FIN again", sent(FIN_ACK), (ESTABLISHED, false)),
        ("ACK of it", back(ACK), (REPLY, false)),
        ("FIN back", back(FIN_ACK), (REPLY, true)),
        ("RST", sent(RST), (ESTABLISHED, true)),
        ("RST back", back(RST), (REPLY, true)),
        ("RST again", sent(RST), (ESTABLISHED, false)),
        ("SYN anew", sent(SYN), (NEW, true)),
        ("its answer", back(SYN_ACK), (REPLY, true)),
    ]
    .map(|(what, (hook, frame), wanted)| (what, hook, frame, wanted))
    .into()
}

fn others(peer: IpAddr) -> Vec<Step> {
    let (ping, error) = match peer {
        IpAddr::V4(_) => (out(peer, ICMP, 8), 3),
        IpAddr::V6(_) => (out(peer, ICMPV6, 128), 1),
    };
    let mut steps = Vec::new();
    for packet in [out(peer, UDP, 80), ping] {
        let back = packet.answer();
        let told = icmp_error(&packet, error);
        steps.extend([
            ("first", Hook::FromEndpoint, packet.bytes(), (NEW, true)),
            (
                "second",
                Hook::FromEndpoint,
                packet.bytes(),
                (ESTABLISHED, false),
            ),
            ("answer", Hook::ToEndpoint, back.bytes(), (REPLY, true)),
            ("more", Hook::ToEndpoint, back.bytes(), (REPLY, false)),
            (
                "an error",
                Hook::ToEndpoint,
                told,
                (TraceReason::Related, true),
            ),
        ]);
    }
    steps
}

#[test]
fn traces_tell_of_begin_answer_and_end_or_of_every_packet() {
    for level in LEVELS {
        for peer in [v4(PEER), v6(PEER.into())] {
            check(level, &tcp(peer, 80), TracePoint::ToStack);
            check(level, &others(peer), TracePoint::ToStack);
            let query = out(peer, TCP, 53);
            let more = query.clone().flags(ACK);
            let steps = [
                ("query", Hook::FromEndpoint, query.bytes(), (NEW, true)),
                (
                    "more of it",
                    Hook::FromEndpoint,
                    more.bytes(),
                    (ESTABLISHED, false),
                ),
                // The proxy tells of it, and it has no flow.
                (
                    "by UDP",
                    Hook::FromEndpoint,
                    out(peer, UDP, 53).bytes(),
                    (TraceReason::Unknown, false),
                ),
            ];
            check(level, &steps, TracePoint::ToProxy);
        }
    }
}

#[test]
fn a_flow_that_a_peer_began_is_traced_from_its_side() {
    let mut traced = Traced::new(Aggregation::Maximum);
    let request = crate::table::into(v4(PEER), TCP, 8_080);
    let mut reply = request.answer();
    reply.source_mac = crate::common::WORKLOAD_MAC;
    let (to, from) = (TracePoint::ToEndpoint as u8, TracePoint::ToStack as u8);
    for (hook, packet, wanted) in [
        (Hook::ToEndpoint, &request, vec![(to, NEW as u8)]),
        (Hook::FromEndpoint, &reply, vec![(from, REPLY as u8)]),
        (Hook::ToEndpoint, &request.clone().flags(ACK), vec![]),
        (
            Hook::ToEndpoint,
            &request.clone().flags(FIN_ACK),
            vec![(to, ESTABLISHED as u8)],
        ),
    ] {
        assert_eq!(traced.run(hook, &packet.bytes()), wanted);
    }
}

/// Of each direction one in an interval of five seconds, whichever the other one does.
#[test]
fn a_flow_that_lives_is_told_of_once_in_an_interval() {
    let secs = u64::from(TRACE_SECS);
    let count = |level, packet: Packet| {
        let mut traced = Traced::new(level);
        traced.run(Hook::FromEndpoint, &packet.bytes());
        traced.run(Hook::ToEndpoint, &packet.answer().bytes());
        let mut told = [0, 0];
        for _ in 0..(2 * secs * 20 + 10) {
            for (told, (hook, packet)) in told.iter_mut().zip([
                (Hook::FromEndpoint, packet.clone()),
                (Hook::ToEndpoint, packet.answer()),
            ]) {
                *told += traced.run(hook, &packet.bytes()).len();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        told
    };
    let (medium, maximum) = std::thread::scope(|scope| {
        let medium = scope.spawn(|| count(Aggregation::Medium, out(v4(PEER), UDP, 80)));
        let maximum = scope.spawn(|| count(Aggregation::Maximum, out(v4(PEER), UDP, 80)));
        (medium.join().unwrap(), maximum.join().unwrap())
    });
    // Two and a bit intervals have two or three beginnings; a note is up to 2.56 s late.
    for told in medium {
        assert!((1..=3).contains(&told), "{medium:?}");
    }
    assert_eq!(maximum, [0, 0]);
}

/// Traces leave room in the second's budget for what matters more.
#[test]
fn traces_are_limited_before_verdicts_are() {
    let mut traced = Traced::new(Aggregation::Low);
    let packet = out(v4(PEER), UDP, 80).bytes();
    let mut told = 0;
    for _ in 0..2 * TRACES_PER_SECOND_MAX {
        told += traced.run(Hook::FromEndpoint, &packet).len() as u64;
    }
    let limited = traced.bench.count("events-limited");
    assert_eq!(told + limited, 2 * TRACES_PER_SECOND_MAX);
    assert!(limited > 0);
    let denied = out(v4(PEER), UDP, 81).bytes();
    let datapath = &mut traced.bench.datapath;
    let (code, _, _) = datapath.try_packet(Hook::FromEndpoint, &denied, 0).unwrap();
    assert_ne!(code, NEXT);
    let mut kinds = Vec::new();
    traced.events.drain(|event| kinds.push(event.kind));
    assert_eq!(kinds, [EventKind::Verdict as u8, EventKind::Drop as u8]);
}
