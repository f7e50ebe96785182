//! Source text: lengths, `unsafe`, imports of the core, names of maps, unfinished work.

use super::{Report, crate_of};
use crate::source::{Code, File, code};

/// Lines before the tests: the aim and the limit.
const LINES_AIM: usize = 400;
const LINES_MAX: usize = 600;

/// Where `unsafe` may stand.
const UNSAFE_ROOMS: [&str; 3] = [
    "transport/src/sys.rs",
    "transport/src/sys/",
    "bpf-redirect/",
];

/// The pure halves of the proxies.
const CORES: [&str; 2] = ["dnsproxy/src/core", "httpproxy/src/core"];

/// The only file with map names in literals.
const MAPS: &str = "bpf-redirect/common/src/map.rs";

/// Words of unfinished work, in halves: this file is read too.
const UNFINISHED: [(&str, &str); 3] = [("TO", "DO"), ("FIX", "ME"), ("XX", "X")];

pub(super) fn check(files: &[File], report: &mut Report) {
    let maps = map_names(files);
    if maps.is_empty() {
        report.fault(format!("{MAPS}: no names of maps found"));
    }
    for file in files {
        check_unfinished(file, report);
        if !file.path.ends_with(".rs") {
            continue;
        }
        if file.text.trim().is_empty() {
            report.fault(format!("{}: empty", file.path));
        }
        let code = code(&file.text);
        check_length(file, report);
        check_unsafe(file, &code, report);
        check_core(file, &code, report);
        check_maps(file, &code, (&maps, report));
    }
}

fn check_length(file: &File, report: &mut Report) {
    // Nobody reads what a compiler of protocols wrote.
    if file.text.starts_with("// This file is @generated") {
        return;
    }
    let lines = file.lines_before_tests();
    if lines > LINES_MAX {
        report.fault(format!("{}: {lines} lines, at most {LINES_MAX}", file.path));
    } else if lines > LINES_AIM {
        report.note(format!("{}: {lines} lines, aim at {LINES_AIM}", file.path));
    }
}

fn check_unsafe(file: &File, code: &Code, report: &mut Report) {
    if UNSAFE_ROOMS.iter().any(|room| file.path.starts_with(room)) {
        return;
    }
    for (index, line) in code.plain.lines().enumerate() {
        if words(line).any(|word| word == "unsafe") {
            report.fault(format!("{}:{}: unsafe", file.path, index + 1));
        }
    }
}

fn check_core(file: &File, code: &Code, report: &mut Report) {
    let inside = CORES.iter().find_map(|core| file.path.strip_prefix(core));
    if !inside.is_some_and(|rest| rest.starts_with('/') || rest == ".rs") {
        return;
    }
    let joined: String = code.plain.split_whitespace().collect();
    let reaches_io = joined.split("crate::").skip(1).any(|path| {
        let path = path.split(';').next().unwrap_or_default();
        path.starts_with("io::")
            || path.starts_with("io;")
            || path.starts_with('{') && words(path).any(|word| word == "io")
    });
    if reaches_io {
        report.fault(format!("{}: the core imports crate::io", file.path));
    }
}

fn check_maps(file: &File, code: &Code, (maps, report): (&[String], &mut Report)) {
    if file.path == MAPS {
        return;
    }
    for (line, literal) in &code.literals {
        if maps.contains(literal) {
            report.fault(format!(
                "{}:{line}: \"{literal}\" is a map's name; use bpf_redirect_common's constant",
                file.path
            ));
        }
    }
}

/// The names of all maps.
fn map_names(files: &[File]) -> Vec<String> {
    let file = files.iter().find(|file| file.path == MAPS);
    let literals = file.map(|file| code(&file.text).literals);
    let names = literals.unwrap_or_default().into_iter();
    names.map(|(_, literal)| literal).collect()
}

fn check_unfinished(file: &File, report: &mut Report) {
    let readable = [".rs", ".toml", ".md", ".sh", ".yaml", ".yml", ".ci/run"];
    if !readable.iter().any(|end| file.path.ends_with(end)) || crate_of(file) == "fuzz/corpus" {
        return;
    }
    for (index, line) in file.text.lines().enumerate() {
        for (head, tail) in UNFINISHED {
            if words(line).any(|word| word == [head, tail].concat()) {
                report.fault(format!("{}:{}: {head}{tail}", file.path, index + 1));
            }
        }
    }
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(path: &str, text: &str) -> Vec<String> {
        let map = "pub const CT: &str = \"CT\";";
        let files = [(MAPS, map), (path, text)].map(|(path, text)| File {
            path: path.to_owned(),
            text: text.to_owned(),
        });
        let mut report = Report::default();
        check(&files, &mut report);
        report.faults
    }

    #[test]
    fn each_rule_finds_its_fault() {
        let long = "x\n".repeat(601);
        let unfinished = ["// TO", "DO: later"].concat();
        for (path, text, expected) in [
            ("a/src/lib.rs", "fn a() {}", 0),
            ("a/src/lib.rs", "", 1),
            ("a/src/lib.rs", "fn a() { unsafe { b() } }", 1),
            ("a/src/lib.rs", "// unsafe\nfn a() { \"unsafe\" }", 0),
            ("transport/src/sys.rs", "unsafe fn a() {}", 0),
            ("dnsproxy/src/core/a.rs", "use crate::io::b;", 1),
            ("dnsproxy/src/core/a.rs", "use crate::{\n    io::b,\n};", 1),
            ("dnsproxy/src/core/a.rs", "use std::io::b;", 0),
            ("httpproxy/src/core.rs", "use crate::io::b;", 1),
            ("httpproxy/src/io/a.rs", "use crate::io::b;", 0),
            ("node/src/a.rs", "open(\"CT\")", 1),
            ("node/src/a.rs", &unfinished, 1),
            ("node/src/a.rs", &long, 1),
            ("node/src/a/tests.rs", &long, 0),
        ] {
            assert_eq!(faults(path, text).len(), expected, "{path}: {text:.40}");
        }
    }
}
