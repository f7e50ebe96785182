//! Policies that the Cilium project wrote for its documentation and its tests: each loads, or is
//! refused for the reason that the corpus' own table gives.

use std::collections::BTreeMap;
use std::path::Path;

use policy::{Code, Loaded, Source, format, load};

/// Valid files that need what Namegate refuses, with the name that the refusal gives.
const REFUSED_BY_NAME: [(&str, &str); 3] = [
    (
        "exk8s-servicemesh_cnp-with-mutual-auth.yaml",
        "mutual authentication",
    ),
    ("ex-l4_envoy_forward_proxy.yaml", "`listener`"),
    ("ex-l4_envoy_listener_redirect.yaml", "`listener`"),
];

/// What the refusal says where the table gives that reason: its start, the code, the words.
const REASONS: [(&str, Code, &str); 6] = [
    ("strict: unknown field", Code::UnknownField, "unknown field"),
    (
        "port must be specified",
        Code::NotSupported,
        "port must be specified",
    ),
    (
        "FromNodes/ToNodes need",
        Code::NotSupported,
        "node labels are off",
    ),
    ("operator", Code::InvalidValue, "is no operator"),
    (
        "fromRequires/toRequires",
        Code::InvalidValue,
        "only an empty list is accepted",
    ),
    ("ValueError", Code::InvalidValue, "is no address prefix"),
];

#[test]
fn each_file_loads_or_is_refused_as_the_table_says() {
    let rows = rows();
    assert_eq!(rows.len(), 124);
    assert_eq!(rows.iter().filter(|row| row.reason.is_none()).count(), 108);
    for row in &rows {
        let loaded = load_file(&row.file);
        let by_name = REFUSED_BY_NAME.iter().find(|(file, _)| *file == row.file);
        let (code, words) = match (&row.reason, by_name) {
            (None, None) => {
                assert!(!loaded.has_errors(), "{}: {:#?}", row.file, loaded.problems);
                assert_eq!(loaded.set.len(), row.count, "{}", row.file);
                continue;
            }
            (None, Some((_, words))) => (Code::NotSupported, *words),
            (Some(reason), _) => {
                let known = REASONS.iter().find(|(start, ..)| reason.starts_with(start));
                let (_, code, words) = known.unwrap_or_else(|| panic!("a reason for {reason:?}"));
                (*code, *words)
            }
        };
        assert!(loaded.set.is_empty(), "{}", row.file);
        let errors = loaded.problems.iter().filter(|problem| problem.is_error());
        for problem in errors {
            let is_expected = problem.code == code && problem.message.contains(words);
            assert!(is_expected, "{code:?} {words:?} in {problem}");
            assert!(problem.line > 0 && problem.column > 0, "{problem}");
        }
        assert!(loaded.has_errors(), "{} must be refused", row.file);
    }
}

/// A warning that is told of what is right is worse than none: the counts show what a change does.
#[test]
fn formatting_changes_no_verdict_on_a_file() {
    let mut formatted = 0;
    for row in rows() {
        let before = source(&row.file);
        let Ok(text) = format(&before) else {
            continue;
        };
        formatted += 1;
        let after = Source {
            path: row.file.clone(),
            text,
        };
        assert_eq!(format(&after).as_ref(), Ok(&after.text), "{}", row.file);
        let codes = |one: &Source| -> Vec<Code> {
            let problems = load(std::slice::from_ref(one)).problems;
            let mut codes: Vec<Code> = problems.iter().map(|problem| problem.code).collect();
            codes.sort_unstable();
            codes
        };
        assert_eq!(codes(&after), codes(&before), "{}", row.file);
    }
    assert!(formatted > 100, "{formatted} files could be formatted");
}

#[test]
fn warnings_of_the_corpus_are_few() {
    let mut counts: BTreeMap<Code, usize> = BTreeMap::new();
    for row in rows() {
        for problem in load_file(&row.file).problems {
            if !problem.is_error() {
                *counts.entry(problem.code).or_default() += 1;
            }
        }
    }
    let expected = [
        (Code::NeverTeaches, 6),
        (Code::NeverFed, 8),
        (Code::MissesApex, 4),
        (Code::MissesQuery, 18),
        (Code::UnescapedDot, 1),
        (Code::NoEffect, 1),
    ];
    assert_eq!(counts, BTreeMap::from(expected));
}

struct Row {
    file: String,
    count: usize,
    reason: Option<String>,
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus"))
}

fn rows() -> Vec<Row> {
    let table = std::fs::read_to_string(folder().join("README.md")).expect("the table");
    let rows = table.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, file, _kind, count, outcome, ..] = cells.as_slice() else {
            return None;
        };
        let count = count.parse().ok()?;
        let reason = outcome.strip_prefix("INVALID");
        assert!(reason.is_some() || *outcome == "valid", "{line}");
        Some(Row {
            file: (*file).to_owned(),
            count,
            reason: reason.map(|text| text.trim_start_matches([' ', ':']).to_owned()),
        })
    });
    rows.collect()
}

fn source(name: &str) -> Source {
    let text = std::fs::read_to_string(folder().join(name)).expect("a file of the table");
    Source {
        path: name.to_owned(),
        text,
    }
}

fn load_file(name: &str) -> Loaded {
    load(&[source(name)])
}
