//! Rules of the house that no compiler checks.
//!
//! A fault fails; a note is printed and does not.

mod arrows;
mod limits;
mod manifest;
mod text;

use std::path::Path;

use anyhow::{Result, ensure};

use crate::command::{metadata, root};
use crate::source::{File, files};

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// What must not be.
    pub(crate) faults: Vec<String>,
    /// What is worth a look.
    pub(crate) notes: Vec<String>,
}

impl Report {
    fn fault(&mut self, what: impl Into<String>) {
        self.faults.push(what.into());
    }

    fn note(&mut self, what: impl Into<String>) {
        self.notes.push(what.into());
    }
}

pub(crate) fn run() -> Result<()> {
    let report = look(&root())?;
    for note in &report.notes {
        println!("note: {note}");
    }
    for fault in &report.faults {
        eprintln!("fault: {fault}");
    }
    ensure!(report.faults.is_empty(), "{} faults", report.faults.len());
    println!("tidy: no faults, {} notes", report.notes.len());
    Ok(())
}

/// Looks at everything.
fn look(root: &Path) -> Result<Report> {
    let mut report = Report::default();
    arrows::check(&metadata(&root.join("Cargo.toml"))?, &mut report);
    // Outside the workspace: that it can be read at all.
    if let Err(error) = metadata(&root.join("fuzz/Cargo.toml")) {
        report.fault(format!("fuzz/Cargo.toml: {error:#}"));
    }
    let files = files(root)?;
    manifest::check(&files, &mut report);
    text::check(&files, &mut report);
    limits::check(&files, &mut report);
    Ok(report)
}

/// The crate that a file belongs to: its folder from the root.
fn crate_of(file: &File) -> &str {
    for folder in ["bpf-redirect/common", "bpf-redirect/ebpf"] {
        if file.path.starts_with(folder) {
            return folder;
        }
    }
    file.path.split('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_tidy() {
        let report = look(&root()).unwrap();
        assert_eq!(report.faults, [] as [String; 0]);
    }
}
