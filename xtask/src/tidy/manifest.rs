//! Manifests: lints, doc headers, and a reason for each dependency.

use super::Report;
use crate::source::File;

/// Crates outside the workspace: its lints can't reach them.
const OUTSIDE: [&str; 2] = ["bpf-redirect/ebpf/Cargo.toml", "fuzz/Cargo.toml"];

pub(super) fn check(files: &[File], report: &mut Report) {
    for file in files {
        let Some(folder) = file.path.strip_suffix("Cargo.toml") else {
            continue;
        };
        check_reasons(file, report);
        if folder.is_empty() {
            continue;
        }
        if !OUTSIDE.contains(&file.path.as_str())
            && !file.text.contains("\n[lints]\nworkspace = true\n")
        {
            report.fault(format!("{}: no `[lints] workspace = true`", file.path));
        }
        check_headers(folder, files, report);
    }
}

/// Each root file of a crate says what the crate is.
fn check_headers(folder: &str, files: &[File], report: &mut Report) {
    for name in ["src/lib.rs", "src/main.rs"] {
        let path = format!("{folder}{name}");
        let root = files.iter().find(|file| file.path == path);
        if root.is_some_and(|file| !file.text.starts_with("//! ")) {
            report.fault(format!("{path}: no `//!` header"));
        }
    }
}

fn check_reasons(file: &File, report: &mut Report) {
    let mut in_dependencies = false;
    for (index, line) in file.text.lines().enumerate() {
        if line.starts_with('[') {
            in_dependencies = line.contains("dependencies");
            if in_dependencies && line.contains("dependencies.") {
                report.fault(format!(
                    "{}:{}: write the dependency on one line, with its reason",
                    file.path,
                    index + 1
                ));
            }
        } else if in_dependencies && is_unreasoned(line) {
            report.fault(format!(
                "{}:{}: no reason beside the dependency: {line}",
                file.path,
                index + 1
            ));
        }
    }
}

/// Whether a line names an outside crate and says no word about why.
fn is_unreasoned(line: &str) -> bool {
    let names_one = line.contains('=') && !line.starts_with([' ', '#', ']', '}']);
    let is_ours = line.contains("path = ") || line.contains(".workspace = true");
    let reason = line.split_once(" # ").map_or("", |(_, reason)| reason);
    names_one && !is_ours && reason.trim().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_needs_a_reason() {
        for (line, expected) in [
            ("anyhow = \"1\"", true),
            ("anyhow = \"1\" # a test may fail in any way", false),
            ("fqdn.workspace = true", false),
            ("fqdn = { path = \"../fqdn\" }", false),
            ("# words", false),
            ("", false),
        ] {
            assert_eq!(is_unreasoned(line), expected, "{line}");
        }
    }
}
