//! What the journal gets, by its socket; and what happens where nobody takes it. systemd's own is asked in
//! `tests/tests/sinks.rs`.

#![expect(clippy::unwrap_used, reason = "a test may die")]
#![expect(clippy::disallowed_methods, reason = "the test's own clock")]

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flow::{Dns, DropReason, Event, FieldMask, Filter, Flow, RecordType, Time, Verdict};
use observer::limits::SINK_FLOWS_MAX;
use observer::{Export, FlowSink, SinkFigures, Target};

fn start(socket: &Path, mask: FieldMask) -> FlowSink {
    let export = Export {
        to: Target::Journal(socket.to_owned()),
        filter: Filter::default(),
        mask,
        end: None,
        aggregate: None,
    };
    FlowSink::start(export, "node-1".into(), || Time::from_unix_nanos(9)).unwrap()
}

fn query(name: &str) -> Arc<Flow> {
    let query = Dns::request(name.into(), RecordType::Number(1));
    Arc::new(Flow::new(Event::Dns(query), Verdict::Dropped))
}

fn drop_of(number: u8) -> Arc<Flow> {
    let reason = DropReason::from_number(number);
    Arc::new(Flow::new(Event::Drop { reason }, Verdict::Dropped))
}

fn listen(socket: &Path) -> UnixDatagram {
    let _ = std::fs::remove_file(socket);
    let journal = UnixDatagram::bind(socket).unwrap();
    journal
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    journal
}

/// The fields of the next entry; none of ours has a line break in it.
fn entry(journal: &UnixDatagram) -> Vec<(String, String)> {
    let mut octets = vec![0; 1 << 20];
    let len = journal.recv(&mut octets).unwrap();
    octets.truncate(len);
    let text = String::from_utf8(octets).unwrap();
    assert!(text.ends_with('\n'), "{text}");
    let field = |line: &str| {
        let (name, value) = line.split_once('=').unwrap();
        (name.to_owned(), value.to_owned())
    };
    text.lines().map(field).collect()
}

fn value<'a>(entry: &'a [(String, String)], name: &str) -> &'a str {
    let mut found = entry.iter().filter(|(it, _)| it == name);
    found.next().map_or("", |(_, value)| value)
}

fn wait(sink: &FlowSink, is_it: impl Fn(&SinkFigures) -> bool) -> SinkFigures {
    let begun = Instant::now();
    loop {
        let figures = sink.figures();
        if is_it(&figures) {
            return figures;
        }
        let is_late = begun.elapsed() > Duration::from_secs(60);
        assert!(!is_late, "{figures:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_flow_is_an_entry_with_a_line_and_fields() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let journal = listen(&socket);
    let sink = start(&socket, FieldMask::ALL);
    sink.tell(&query("x.evil.test."));
    let got = entry(&journal);
    let line = " (unknown) <>  (unknown) dns-request proxy DROPPED (DNS Query x.evil.test. A)";
    assert_eq!(value(&got, "MESSAGE"), line);
    assert_eq!(value(&got, "PRIORITY"), "4");
    assert_eq!(value(&got, "SYSLOG_IDENTIFIER"), "namegate");
    assert_eq!(value(&got, "MESSAGE_ID").len(), 32);
    assert_eq!(value(&got, "HUBBLE_VERDICT"), "DROPPED");
    assert_eq!(value(&got, "DNS_QUESTION_NAME"), "x.evil.test.");
    let mut json = String::new();
    query("x.evil.test.").write_exporter_line(&mut json);
    assert_eq!(value(&got, "HUBBLE_FLOW"), json);
    // The journal takes names of capital letters, digits and underscores, of at most 64.
    let is_fit = |name: &str| {
        let is_fit = |it: u8| it.is_ascii_uppercase() || it.is_ascii_digit() || it == b'_';
        name.len() <= 64 && !name.starts_with('_') && name.bytes().all(is_fit)
    };
    assert!(got.iter().all(|(name, _)| is_fit(name)), "{got:?}");
    sink.stop();
}

#[test]
fn only_what_is_wanted_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let journal = listen(&socket);
    let sink = start(&socket, FieldMask::new(["uuid"]).unwrap());
    sink.tell(&query("secret.test."));
    let got = entry(&journal);
    assert!(!format!("{got:?}").contains("secret"), "{got:?}");
    assert_eq!(
        value(&got, "PRIORITY"),
        "6",
        "the verdict isn't told either"
    );
    sink.stop();
}

#[test]
fn a_journal_that_is_not_there_is_a_fault_and_one_that_comes_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let sink = start(&socket, FieldMask::ALL);
    for number in [132, 133] {
        sink.tell(&drop_of(number));
    }
    let figures = wait(&sink, |it| it.lost == 2);
    assert!(figures.fault.unwrap().contains("No such file"));
    for round in 1..=2_u64 {
        // The second time another one listens, at the same place.
        let journal = listen(&socket);
        sink.tell(&drop_of(181));
        let got = entry(&journal);
        assert!(value(&got, "MESSAGE").contains("denylist"), "{got:?}");
        let figures = wait(&sink, |it| it.written == round);
        assert_eq!((figures.lost, figures.fault), (2, None));
        if round == 1 {
            let got = entry(&journal);
            assert_eq!(value(&got, "HUBBLE_LOST_EVENTS"), "2");
            assert!(value(&got, "MESSAGE").starts_with("EVENTS LOST: OBSERVER_EVENTS_QUEUE"));
        }
    }
    sink.stop();
}

#[test]
fn a_journal_that_takes_nothing_holds_up_nobody_and_what_is_lost_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let journal = listen(&socket);
    let sink = start(&socket, FieldMask::ALL);
    let flow = drop_of(133);
    let offered = SINK_FLOWS_MAX + 10_000;
    for _ in 0..offered {
        sink.tell(&flow);
    }
    wait(&sink, |it| it.fault.as_deref() == Some("it takes nothing"));
    let begun = Instant::now();
    let held = sink.figures();
    assert!(held.lost > 0, "the queue held everything");
    // It goes on, and gets what waited, and how many did not.
    let (mut flows, mut lost) = (0_u64, 0_u64);
    while flows + lost < u64::try_from(offered).unwrap() {
        let got = entry(&journal);
        match value(&got, "HUBBLE_LOST_EVENTS") {
            "" => flows += 1,
            count => lost += count.parse::<u64>().unwrap(),
        }
    }
    let figures = wait(&sink, |it| it.written == flows);
    assert_eq!((figures.lost, figures.fault), (lost, None));
    // Full again, it doesn't hold up the end either.
    for _ in 0..10_000 {
        sink.tell(&flow);
    }
    wait(&sink, |it| it.fault.is_some());
    sink.stop();
    assert!(begun.elapsed() < Duration::from_secs(60));
    drop(journal);
}
