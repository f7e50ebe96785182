use std::fs;
use std::net::IpAddr;
use std::os::unix::net::UnixDatagram;
use std::time::Instant;

use bpf_redirect_common::{Address, EGRESS, EventKind};
use flow::{Cursor, FieldMask, Filter};
use fqdn_cache::Lifetimes;
use observer::{Export, Target};
use policy::{Compiler, Identities, Options, PolicySet};

use super::*;
use crate::exporters::Exporters;
use crate::learner::Learner;

#[test]
fn what_comes_soon_after_the_first_is_one_batch_with_it() {
    let (sender, queue) = sync_channel(BATCH_MAX * 2);
    let running = AtomicU64::new(0);
    // A machine may be so busy that the second is late, but not again and again.
    let is_together = (0..100).any(|_| {
        let sender = sender.clone();
        let bring = std::thread::spawn(move || {
            for number in 0..2 {
                std::thread::sleep(GATHER / 4);
                sender.send(number).unwrap();
            }
        });
        let first = next_batch(&queue, &running).unwrap();
        bring.join().unwrap();
        let _ = queue.try_iter().count();
        first == [0, 1]
    });
    assert!(is_together);
    // What waits already waits no longer, and no more than fits comes at once.
    for _ in 0..=BATCH_MAX {
        sender.send(7).unwrap();
    }
    assert_eq!(next_batch(&queue, &running).unwrap().len(), BATCH_MAX);
    assert_eq!(next_batch(&queue, &running).unwrap(), [7]);
    assert!(next_batch(&queue, &running).unwrap().is_empty());
    running.store(1, Ordering::Relaxed);
    assert!(next_batch(&queue, &running).is_none());
}

/// A teller that knows nobody.
fn teller() -> Teller {
    let (mut identities, policies) = (Identities::new(), PolicySet::default());
    let cast = policy::Cast::default();
    let inputs = (&policies, &cast, Options::default());
    let nothing = Compiler::new().build(0, inputs, &mut identities).unwrap();
    let learner = Learner::new(nothing, identities, Lifetimes::default(), clock::now);
    Teller::new(Arc::new(learner), "node".into(), flow::Redaction::default())
}

/// A denied packet.
fn dropped() -> News {
    News::Kernel(KernelEvent {
        at: 0,
        endpoint: 1,
        identity: 0,
        rule: 0,
        source: Address::from(IpAddr::from([10, 0, 0, 2])),
        destination: Address::from(IpAddr::from([198, 18, 0, 1])),
        source_port: 40_000_u16.to_be(),
        destination_port: 443_u16.to_be(),
        kind: EventKind::Drop as u8,
        direction: EGRESS,
        protocol: 6,
        tcp_flags: 2,
        verdict: 0,
        matched: 0,
        reason: 133,
        family: 4,
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: [2, 0, 0, 0, 0, 2],
        reserved: 0,
    })
}

#[test]
fn a_drop_tells_its_frame_and_its_program_and_one_without_a_frame_neither() {
    let News::Kernel(event) = dropped() else {
        panic!("no event")
    };
    let teller = teller();
    let told = |event: &KernelEvent| {
        let flow = teller.kernel(event).unwrap();
        let ends = flow.ethernet.map(|it| (it.source.0, it.destination.0));
        (
            ends,
            flow.file.map(|file| (file.name.to_string(), file.line)),
        )
    };
    let ends = Some(([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]));
    assert_eq!(told(&event), (ends, Some(("ng_from_ep".into(), 0))));
    let inbound = KernelEvent {
        direction: bpf_redirect_common::INGRESS,
        ..event
    };
    assert_eq!(told(&inbound), (ends, Some(("ng_to_ep".into(), 0))));
    let verdict = KernelEvent {
        kind: EventKind::Verdict as u8,
        ..event
    };
    assert_eq!(told(&verdict), (ends, None));
    let in_cgroup = KernelEvent {
        source_mac: [0; 6],
        destination_mac: [0; 6],
        ..event
    };
    assert_eq!(told(&in_cgroup), (None, None));
}

#[test]
fn drops_that_hubble_has_no_number_for_are_told_by_one_that_it_has() {
    let News::Kernel(event) = dropped() else {
        panic!("no event")
    };
    for (ours, name) in [
        (248, "CT_MAP_INSERTION_FAILED"),
        (249, "SOCKET_LOOKUP_FAILED"),
        (155, "CT_MAP_INSERTION_FAILED"),
        (133, "POLICY_DENIED"),
    ] {
        let reason = ours;
        let flow = teller().kernel(&KernelEvent { reason, ..event }).unwrap();
        let told = flow.drop_reason().unwrap();
        assert_eq!(told.name(), Some(name), "{ours}");
        assert_eq!(flow.event.sub_number(), u32::from(told.number()));
    }
}

/// How often this thread has slept: nothing else counts here, not even that others had to run.
fn sleeps() -> u64 {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let mut lines = status.lines();
    let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.unwrap().trim().parse().unwrap()
}

/// KiB that the process has in memory.
fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mut lines = status.lines();
    let size = lines.find_map(|line| line.strip_prefix("VmRSS:"));
    size.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}

/// Events that are offered in each millisecond: 200,000 a second.
const PER_MILLISECOND: u64 = 200;

/// Offers events for a while, as steadily as the machine lets it. Says how many, and how often whoever
/// offered them slept over it.
fn offer(sink: &NewsSink, milliseconds: u64) -> (u64, u64) {
    let (begun, mut slept) = (clock::now(), 0);
    for millisecond in 0..milliseconds {
        let before = sleeps();
        for _ in 0..PER_MILLISECOND {
            sink.tell(dropped());
        }
        slept += sleeps() - before;
        let next = begun + Duration::from_millis(millisecond + 1);
        std::thread::sleep(next.saturating_duration_since(clock::now()));
    }
    (milliseconds * PER_MILLISECOND, slept)
}

/// In so many hand-overs some meet the receiver just as it goes to sleep, more of them on a busy machine. One
/// that waited for room would sleep in each of the thousands of milliseconds.
const SLEEPS_MAX: u64 = 100;

fn until(what: &str, is_it: impl Fn() -> bool) {
    let begun = clock::now();
    while !is_it() {
        assert!(begun.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What a reader gets from its place on: flows, and how many it lost.
fn read_all(ring: &SharedRing, mut cursor: Cursor) -> (u64, u64) {
    let (mut flows, mut lost) = (0, 0);
    loop {
        let batch = ring.read_from(cursor);
        if batch.flows.is_empty() && batch.lost == 0 {
            return (flows, lost);
        }
        flows += batch.flows.len() as u64;
        lost += batch.lost;
        cursor = batch.cursor;
    }
}

#[test]
fn whoever_tells_never_waits_and_each_event_is_told_or_counted_as_lost() {
    let folder = tempfile::tempdir().unwrap();
    // A journal that takes nothing, once its queue is full.
    let socket = folder.path().join("journal");
    let journal = UnixDatagram::bind(&socket).unwrap();
    let export = Export {
        to: Target::Journal(socket),
        filter: Filter::default(),
        mask: FieldMask::ALL,
        end: None,
        aggregate: None,
    };
    let exporters = Exporters::start(vec![export], None, "node".into()).unwrap();
    let ring = Arc::new(SharedRing::new(4095, clock::now()));
    let (sink, queue) = news();
    let with = (Arc::new(teller()), Arc::clone(&ring));
    let thread = FlowThread::start(queue, with, (exporters.shared(), None)).unwrap();
    // A reader that is stopped: it has its place, and reads nothing.
    let stopped = ring.end();
    let (mut offered, mut slept) = offer(&sink, 1_000);
    let before = resident_kib();
    let more = offer(&sink, 2_000);
    (offered, slept) = (offered + more.0, slept + more.1);
    until("all is told", || ring.seen() + sink.lost() == offered);
    let grown = resident_kib().saturating_sub(before);
    assert!(slept <= SLEEPS_MAX, "it slept {slept} times");
    assert!(grown < 64 * 1024, "{grown} KiB more");
    let (read, lost) = read_all(&ring, stopped);
    assert_eq!((read, read + lost), (4095, ring.seen()));
    assert_eq!(ring.overtaken(), lost);
    let figures = || exporters.shared().load()[0].sink.figures();
    assert!(figures().fault.is_some(), "the journal took everything");
    // It goes on: what waited arrives, and nothing else is missing than what was counted.
    std::thread::spawn(move || while journal.recv(&mut [0; 4096]).is_ok() {});
    until("all arrived", || {
        let figures = figures();
        figures.written + figures.lost == ring.seen()
    });
    thread.stop();
}

#[test]
fn nobody_waits_though_nobody_makes_flows_of_what_is_told() {
    let (sink, queue) = news();
    let begun: Instant = clock::now();
    let (offered, slept) = offer(&sink, 1_000);
    assert!(slept <= SLEEPS_MAX, "it slept {slept} times");
    let held = queue.news.try_iter().count();
    assert_eq!(held, NEWS_MAX);
    assert_eq!(sink.lost(), offered - held as u64);
    assert!(begun.elapsed() < Duration::from_secs(60));
}
