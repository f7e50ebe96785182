//! Policies that the Cilium project wrote for its documentation and its tests: each loads, or is
//! refused for the reason that the corpus' own table gives.

use std::collections::BTreeMap;
use std::path::Path;

use policy::{Code, Loaded, Source, load};

#[test]
fn dump() {
    let mut counts = BTreeMap::new();
    for row in rows() {
        let loaded = load_file(&row.file);
        for p in &loaded.problems {
            *counts.entry(p.code).or_insert(0) += 1;
        }
        let got = (!loaded.has_errors(), loaded.set.len());
        if row.reason.is_none() != got.0 || (got.0 && got.1 != row.count) || row.reason.is_some() {
            println!("== {} want {:?} got {:?}", row.file, row.reason, got);
            for p in loaded.problems.iter().filter(|p| p.is_error()) {
                println!("   {p}");
            }
        }
    }
    println!("{counts:#?}");
    for row in rows() {
        for p in load_file(&row.file)
            .problems
            .iter()
            .filter(|p| !p.is_error())
        {
            println!("W {p}");
        }
    }
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
    let table = std::fs::read_to_string(folder().join("README.md")).unwrap();
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

fn load_file(name: &str) -> Loaded {
    let text = std::fs::read_to_string(folder().join(name)).unwrap();
    load(&[Source {
        path: name.to_owned(),
        text,
    }])
}
