//! `namegate observe --input-file`: flows of a file in each form, by each flag, byte for byte as the stock
//! `hubble observe` shows them. What is expected was measured: see flow/tests/data/README.md.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use std::{io::Write as _, thread};

use namegate_tests::Daemon;

const CASES: &str = include_str!("../../flow/tests/data/cases.txt");

/// The text of numbered lines.
fn unnumbered(text: &str) -> String {
    let lines = text.lines().map(|line| line.split_once('\t').unwrap().1);
    lines.map(|line| format!("{line}\n")).collect()
}

struct Flows {
    file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Flows {
    fn of(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("flows.json");
        fs::write(&file, text).unwrap();
        Self {
            file,
            _folder: folder,
        }
    }

    fn observe(&self, flags: &[&str]) -> Output {
        let mut command = Command::new(Daemon::binary().unwrap());
        let command = command.arg("observe").arg("--input-file").arg(&self.file);
        command.args(flags).output().unwrap()
    }

    fn shows(&self, flags: &[&str]) -> String {
        let output = self.observe(flags);
        assert!(output.status.success(), "{flags:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn each_form_is_hubbles_to_the_byte() {
    let flows = Flows::of(&unnumbered(CASES));
    macro_rules! data {
        ($name:literal) => {
            include_str!(concat!("../../flow/tests/data/", $name))
        };
    }
    for (flags, expected) in [
        ("", unnumbered(data!("expected.compact.txt"))),
        ("-o jsonpb", unnumbered(data!("expected.json.txt"))),
        ("-o dict", data!("expected.dict.txt").to_owned()),
        ("-o table", data!("expected.table.txt").to_owned()),
        (
            "--color always",
            unnumbered(data!("expected.compact.color.txt")),
        ),
        (
            "--numeric --time-format RFC3339Nano",
            unnumbered(data!("expected.compact.numeric.txt")),
        ),
        (
            "--print-node-name --print-policy-names",
            unnumbered(data!("expected.compact.node-policy.txt")),
        ),
    ] {
        let flags: Vec<_> = flags.split_whitespace().collect();
        assert_eq!(flows.shows(&flags), expected, "{flags:?}");
    }
}

/// The words of a line of the table; quotes keep blanks together.
fn words(line: &str) -> Vec<String> {
    if line.starts_with("--allowlist") || line.starts_with("--denylist") {
        return line.split(' ').map(str::to_owned).collect();
    }
    let parts = line.split('"').enumerate();
    let words = parts.flat_map(|(at, part)| match at % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    });
    words.collect()
}

#[test]
fn each_set_of_flags_shows_what_hubble_shows() {
    let flows = Flows::of(&unnumbered(CASES));
    let all: Vec<_> = unnumbered(include_str!("../../flow/tests/data/expected.json.txt"))
        .lines()
        .map(str::to_owned)
        .collect();
    for row in include_str!("../../flow/tests/data/filters.tsv")
        .lines()
        .skip(1)
    {
        let columns: Vec<_> = row.split('\t').collect();
        // No CEL here; lost events are shown always and not counted.
        if columns[0].starts_with("--cel") || columns[0] == "--last 3" {
            continue;
        }
        let words = words(columns[0]);
        let mut flags: Vec<_> = words.iter().map(String::as_str).collect();
        flags.extend(["-o", "json"]);
        let shown = flows.shows(&flags);
        let shown: Vec<_> = shown.lines().filter(|it| it.contains("\"flow\"")).collect();
        let expected = columns[3].split(',').filter_map(|it| it.parse().ok());
        let expected: Vec<_> = expected
            .filter(|number: &usize| ![70, 71].contains(number))
            .map(|number| all[number - 1].as_str())
            .collect();
        assert_eq!(shown, expected, "{}", columns[0]);
    }
}

/// The file of several nodes is in no order: what is later is left out, and what follows it is not.
#[test]
fn what_is_too_late_in_a_file_is_no_end() {
    let text = unnumbered(CASES);
    let lines: Vec<_> = text.lines().take(3).collect();
    let flows = Flows::of(&format!("{}\n{}\n{}\n", lines[2], lines[0], lines[1]));
    let until = ["--until", "2026-03-05T09:07:03Z"];
    let shown = flows.shows(&until);
    assert_eq!(shown.lines().count(), 2, "{shown}");
    assert!(!shown.contains("dns-response"), "{shown}");
    let first = flows.shows(&[&until[..], &["--first", "1"]].concat());
    assert_eq!(first.lines().next(), shown.lines().next());
}

#[test]
fn wrong_flags_end_with_one_and_say_which() {
    let flows = Flows::of(&unnumbered(CASES));
    for row in include_str!("../../flow/tests/data/errors.tsv")
        .lines()
        .skip(1)
    {
        let line = row.split('\t').next().unwrap();
        let words = words(line);
        let flags: Vec<_> = words.iter().map(String::as_str).collect();
        let output = flows.observe(&flags);
        assert_eq!(output.status.code(), Some(1), "{line}: {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        let names = |word: &&str| said.contains(word.trim_start_matches('-'));
        assert!(flags.iter().any(names), "{line}: {said}");
    }
}

#[test]
fn only_the_fields_that_are_wanted_are_written() {
    let flows = Flows::of(&unnumbered(CASES));
    let flags = "-o json --first 1 --field-mask time,source.pod_name,l7.dns.query";
    let flags: Vec<_> = flags.split(' ').collect();
    assert_eq!(
        flows.shows(&flags),
        "{\"flow\":{\"time\":\"2026-03-05T09:07:01.037Z\",\"source\":{\"pod_name\":\
         \"cart-6f7c9d5b8-x2x4p\"},\"l7\":{\"dns\":{\"query\":\"api.example.com.\"}}},\
         \"node_name\":\"prod/node-1\",\"time\":\"2026-03-05T09:07:01.037Z\"}\n"
    );
}

/// What an exporter writes with a mask, or of flows that it counts, and what a newer one tells, comes out as it is:
/// nothing is added, nothing is lost.
#[test]
fn what_an_exporter_left_of_a_flow_is_shown_as_it_is() {
    let lines = [
        r#"{"flow":{"verdict":"DROPPED","IP":{"source":"10.0.0.2"},"l4":{"UDP":{"destination_port":53}}},"node_name":"n"}"#,
        r#"{"flow":{"verdict":"DROPPED","l7":{"dns":{"query":"x.evil.test."}},"aggregate":{"egress_flow_count":3}}}"#,
        r#"{"flow":{"verdict":77,"traffic_direction":9,"drop_reason_desc":240,"is_reply":false,"Summary":"UDP"}}"#,
    ];
    let flows = Flows::of(&(lines.join("\n") + "\n"));
    assert_eq!(flows.shows(&["-o", "json"]), lines.join("\n") + "\n");
    let said = "N/A: 10.0.0.2 (unknown) <> :53 (unknown) UNKNOWN DROPPED ()\n\
                N/A:  (unknown) <>  (unknown) dns-unknown_l7_type  DROPPED ()\n\
                N/A:  (unknown) ->  (unknown) UNKNOWN 77 (UDP)\n";
    assert_eq!(flows.shows(&[]), said);
    let few = flows.shows(&["-o", "json", "--field-mask", "l7.dns,IP.source"]);
    let first = r#"{"flow":{"IP":{"source":"10.0.0.2"}},"node_name":"n"}"#;
    assert_eq!(few.lines().next(), Some(first));
    assert_eq!(flows.shows(&["--from-ip", "10.0.0.2"]).lines().count(), 1);
}

#[test]
fn what_is_no_event_is_told_and_left_out_and_too_long_a_line_ends_it() {
    let first = unnumbered(CASES).lines().next().unwrap().to_owned();
    let event = "{\"agent_event\":{}}";
    let flows = Flows::of(&format!("nope\n\n{event}\n{event}\n{first}\n"));
    let output = flows.observe(&[]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout.iter().filter(|it| **it == b'\n').count(), 1);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains(":1: left out") && said.contains(":3: left out"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 2, "{said}");

    let flows = Flows::of(&format!("{first}\n{}\n", "x".repeat(65_536)));
    let output = flows.observe(&[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains(":2: a line of more than 65535 octets"),
        "{said}"
    );
}

/// Flags that people have in their fingers though they change little.
#[test]
fn flags_of_the_stock_command_are_taken() {
    let flows = Flows::of(&unnumbered(CASES));
    let shown = |flags: &str| flows.shows(&flags.split(' ').collect::<Vec<_>>());
    let all = flows.shows(&[]);
    assert_eq!(all.lines().count(), 72);
    assert_eq!(shown("--ip-translation=false"), shown("--numeric"));
    assert_ne!(shown("--numeric"), all);
    for same in [
        "--ip-translation",
        "--ip-translation=true",
        "flows",
        "--last 0",
        "--first 0",
        "-D",
        "-s",
    ] {
        assert_eq!(shown(same), all, "{same}");
    }
    let since = ["--since", "Thu, 05 Mar 2026 09:08:05 +0000"];
    let expected = shown("--since 2026-03-05T09:08:05Z");
    assert_eq!(flows.shows(&since), expected);
    assert_eq!(expected.lines().count(), 8);
    assert_eq!(
        shown("--since 2026-03-05T09:08Z"),
        shown("--since 2026-03-05T09:08:00Z")
    );
    let raw = shown("--verdict DROPPED --not --protocol dns --print-raw-filters");
    let expected = "allowlist:\n    - '{\"verdict\":[\"DROPPED\"]}'\ndenylist:\n    - '{\"protocol\":[\"dns\"]}'\n";
    assert_eq!(raw, expected);
    let output = flows.observe(&["agent-events"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

/// What is said beside the flows: once, and with -s not at all.
#[test]
fn of_what_is_unknown_one_field_is_told_and_of_nodes_what_is_wrong() {
    let first = unnumbered(CASES).lines().next().unwrap().to_owned();
    let newer = first.replacen(
        "{\"flow\":{",
        "{\"flow\":{\"ext_error\":7,\"ext_more\":8,",
        1,
    );
    let status = |state: &str| {
        format!(
            "{{\"node_status\":{{\"state_change\":\"{state}\",\"node_names\":[\"b\",\"a\"]}},\"node_name\":\"relay\",\"time\":\"2026-03-05T09:07:01Z\"}}"
        )
    };
    let nodes = [
        status("NODE_UNAVAILABLE"),
        status("NODE_CONNECTED"),
        status("NODE_GONE"),
    ];
    let flows = Flows::of(&format!(
        "{first}\n{newer}\n{newer}\n{}\n",
        nodes.join("\n")
    ));
    let said = |flags: &[&str]| {
        let output = flows.observe(flags);
        assert!(output.status.success(), "{output:?}");
        let shown = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!((lines.len(), lines[0]), (3, lines[1]), "{shown}");
        let said = String::from_utf8(output.stderr).unwrap();
        said.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let usual = said(&[]);
    assert_eq!(usual.len(), 2, "{usual:?}");
    assert!(
        usual[0].contains(":2: unknown field \"flow.ext_error\""),
        "{usual:?}"
    );
    let unavailable = "Mar  5 09:07:01.000 [relay]: 2 nodes are unavailable: b, a";
    assert_eq!(usual[1], unavailable);
    let all = said(&["-D"]);
    assert_eq!(all.len(), 4, "{all:?}");
    assert!(all[2].ends_with("Receiving flows from 2 nodes: b, a"));
    assert!(all[3].ends_with("2 nodes removed from cluster: b, a"));
    assert!(said(&["-s", "-D"]).is_empty());
    // Nothing of the golden data is unknown.
    assert!(Flows::of(&unnumbered(CASES)).observe(&[]).stderr.is_empty());
}

#[test]
fn enough_is_enough_though_the_pipe_stays_open() {
    let first = unnumbered(CASES).lines().next().unwrap().to_owned();
    let mut command = Command::new(Daemon::binary().unwrap());
    let command = command.args(["observe", "--input-file", "-", "--first", "1"]);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(format!("{first}\n").as_bytes()).unwrap();
    let has_ended = (0..2_000).any(|_| {
        thread::sleep(Duration::from_millis(10));
        child.try_wait().unwrap().is_some()
    });
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(has_ended, "it waits for more: {output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 1);
    drop(pipe);
}
