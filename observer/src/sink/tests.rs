//! Files, full and empty.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use flate2::read::GzDecoder;
use flow::{AgentEvent, DropReason, Event, FlowFilter, Line, Verdict};

use super::*;

fn file(path: &Path) -> FileTarget {
    FileTarget {
        path: path.to_owned(),
        octets_max: 1 << 20,
        backups_max: None,
        compress: false,
        agent_events: false,
    }
}

fn into(file: FileTarget) -> Export {
    to(Target::File(file))
}

fn to(to: Target) -> Export {
    Export {
        to,
        filter: Filter::default(),
        mask: FieldMask::ALL,
        end: None,
        aggregate: None,
    }
}

fn start(export: Export) -> FlowSink {
    let now = || Time::from_unix_nanos(1_000_000_000);
    FlowSink::start(export, "node".into(), now).unwrap()
}

fn flow(number: u8) -> Arc<Flow> {
    let reason = DropReason::from_number(number);
    Arc::new(Flow::new(Event::Drop { reason }, Verdict::Dropped))
}

/// The numbers of the flows in a text of lines, and how many it says were lost.
fn read(text: &str) -> (Vec<u8>, u64) {
    let (mut numbers, mut lost) = (Vec::new(), 0);
    for line in text.lines() {
        match Line::parse(line).unwrap() {
            Line::Flow(flow) => numbers.push(flow.drop_reason().unwrap().number()),
            Line::LostEvents { lost: these, .. } => lost += these.count,
        }
    }
    (numbers, lost)
}

#[test]
fn flows_after_the_end_are_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flows.json");
    let sink = start(Export {
        end: Some(Time::from_unix_nanos(5)),
        ..into(file(&path))
    });
    for (number, nanos) in [(132, 5), (133, 6), (134, 4)] {
        let flow = Flow::clone(&flow(number));
        let time = Some(Time::from_unix_nanos(nanos));
        sink.tell(&Arc::new(Flow { time, ..flow }));
    }
    sink.stop();
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(read(&text), (vec![132, 134], 0));
}

#[test]
fn flows_that_are_wanted_are_in_the_file_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flows.json");
    let deny = FlowFilter {
        drop_reason_desc: vec![DropReason::POLICY_DENIED],
        ..FlowFilter::default()
    };
    let sink = start(Export {
        filter: Filter::new(&[], &[deny]).unwrap(),
        mask: FieldMask::new(["verdict", "event_type"]).unwrap(),
        ..into(file(&path))
    });
    for number in [132, 133, 181] {
        sink.tell(&flow(number));
    }
    sink.stop();
    let text = fs::read_to_string(path).unwrap();
    assert_eq!(
        text.lines().next().unwrap(),
        "{\"flow\":{\"verdict\":\"DROPPED\",\"event_type\":{\"type\":1,\"sub_type\":132}}}"
    );
    assert_eq!(text.lines().count(), 2);
}

#[test]
fn a_file_has_what_the_agent_did_whatever_flows_are_wanted_and_until_the_end() {
    let event = |revision| {
        Arc::new(AgentEvent::PolicyUpdated {
            labels: Vec::new(),
            revision,
            rule_count: 1,
        })
    };
    for agent_events in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flows.json");
        let deny = FlowFilter {
            verdict: vec![Verdict::Dropped],
            ..FlowFilter::default()
        };
        let sink = start(Export {
            filter: Filter::new(&[], &[deny]).unwrap(),
            mask: FieldMask::new(["verdict"]).unwrap(),
            end: Some(Time::from_unix_nanos(5)),
            ..into(FileTarget {
                agent_events,
                ..file(&path)
            })
        });
        for (nanos, revision) in [(5, 1), (6, 2), (4, 3)] {
            sink.tell_agent(Time::from_unix_nanos(nanos), &event(revision));
            sink.tell(&flow(133));
        }
        let figures = Arc::clone(&sink.figures);
        sink.stop();
        let mut expected = String::new();
        for (nanos, revision) in [(5, 1), (4, 3)] {
            let time = Time::from_unix_nanos(nanos);
            event(revision).write_exporter_line("node", time, &mut expected);
            expected.push('\n');
        }
        if !agent_events {
            expected.clear();
        }
        assert_eq!(fs::read_to_string(path).unwrap(), expected);
        let written = figures.written.load(Ordering::Relaxed);
        assert_eq!(written, 2 * u64::from(agent_events));
    }
}

#[test]
fn a_full_file_is_put_aside_compressed_and_the_oldest_goes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flows.json");
    let other = folder.path().join("flows-of-somebody.json");
    fs::write(&other, "not ours").unwrap();
    let sink = start(into(FileTarget {
        octets_max: 1_000,
        backups_max: Some(3),
        compress: true,
        ..file(&path)
    }));
    for number in 0..100 {
        sink.tell(&flow(number));
    }
    sink.stop();
    let mut names: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == "gz"))
        .collect();
    names.sort();
    assert_eq!(names.len(), 3, "{names:?}");
    let mut text = String::new();
    for name in &names {
        let packed = fs::File::open(name).unwrap();
        GzDecoder::new(packed).read_to_string(&mut text).unwrap();
    }
    let last = fs::read_to_string(&path).unwrap();
    assert!(!last.is_empty() && last.len() <= 1_000);
    text.push_str(&last);
    let (numbers, lost) = read(&text);
    let first = numbers[0];
    assert_eq!(numbers, (first..100).collect::<Vec<_>>(), "none is missing");
    assert_eq!((lost, first > 0), (0, true));
    assert_eq!(fs::read_to_string(other).unwrap(), "not ours");
}

#[test]
fn what_the_queue_cannot_hold_is_counted_and_told_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flows.json");
    let sink = start(into(FileTarget {
        octets_max: u64::MAX,
        ..file(&path)
    }));
    let flow = flow(133);
    let told = 4 * SINK_FLOWS_MAX;
    for _ in 0..told {
        sink.tell(&flow);
    }
    let lost = sink.figures().lost;
    sink.stop();
    let (numbers, told_lost) = read(&fs::read_to_string(path).unwrap());
    assert!(lost > 0, "the queue held everything");
    assert_eq!(told_lost, lost);
    assert_eq!(numbers.len() as u64 + lost, told as u64);
}

#[test]
fn what_was_lost_before_the_sink_is_told_and_is_none_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flows.json");
    let sink = start(into(file(&path)));
    let lost = |kernel, queue| Losses { kernel, queue };
    sink.tell_lost(lost(3, 0));
    sink.tell_lost(lost(4, 5));
    sink.tell(&flow(133));
    let figures = Arc::clone(&sink.figures);
    sink.stop();
    assert_eq!(figures.lost.load(Ordering::Relaxed), 0);
    assert_eq!(figures.written.load(Ordering::Relaxed), 1);
    let text = fs::read_to_string(path).unwrap();
    assert_eq!(told_lost(&text), lost(7, 5));
}

/// What a text of lines says was lost before the sink.
fn told_lost(text: &str) -> Losses {
    let told = text.lines().map(|line| match Line::parse(line).unwrap() {
        Line::LostEvents { lost, .. } => lost.to_losses(),
        Line::Flow(_) => Losses::default(),
    });
    told.fold(Losses::default(), Losses::and)
}

/// A file need not wait for a flow that it wants, nor for any.
#[test]
fn what_was_lost_is_told_though_nothing_comes_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flows.json");
    let all = FlowFilter::default();
    let sink = start(Export {
        filter: Filter::new(&[], &[all]).unwrap(),
        ..into(file(&path))
    });
    let lost = |kernel, queue| Losses { kernel, queue };
    let told = || told_lost(&fs::read_to_string(&path).unwrap());
    sink.tell_lost(lost(3, 2));
    let is_told = (0..250).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        told() == lost(3, 2)
    });
    assert!(is_told, "{:?}", told());
    // As if the queue had been full.
    sink.figures.lose(1);
    sink.stop();
    assert_eq!(told(), lost(3, 3));
}

/// `/dev/full` takes nothing; nobody waits for it, and all is counted.
#[test]
fn a_full_disk_loses_flows_and_stops_nobody() {
    let sink = start(into(file(Path::new("/dev/full"))));
    for number in 0..200 {
        sink.tell(&flow(number));
    }
    std::thread::sleep(Duration::from_millis(400));
    for number in 0..200 {
        sink.tell(&flow(number));
    }
    for _ in 0..100 {
        if sink.figures().fault.is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let fault = sink.figures().fault;
    assert!(fault.is_some_and(|it| it.contains("space")), "ENOSPC");
    let counted = || (sink.figures().written, sink.figures().lost);
    for _ in 0..100 {
        if counted().1 == 400 {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(counted(), (0, 400), "to the flow");
    sink.stop();
}

#[test]
fn half_a_line_of_a_full_disk_spoils_none_that_follows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flows.json");
    fs::write(&path, "{\"flow\":{\"verd").unwrap();
    let sink = start(into(file(&path)));
    sink.tell(&flow(7));
    sink.stop();
    let text = fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once('\n').unwrap();
    assert_eq!(read(rest), (vec![7], 0));
}

#[test]
fn a_file_that_was_taken_away_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flows.json");
    let sink = start(into(FileTarget {
        octets_max: 200,
        backups_max: Some(1),
        ..file(&path)
    }));
    sink.tell(&flow(1));
    std::thread::sleep(Duration::from_millis(300));
    fs::remove_file(&path).unwrap();
    for number in 2..20 {
        sink.tell(&flow(number));
        std::thread::sleep(Duration::from_millis(5));
    }
    sink.stop();
    assert!(path.exists());
}
