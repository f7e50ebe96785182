//! What the committed object was made of.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use super::read;
use super::toolchain::Toolchain;
use crate::source::relative;

/// Files and folders that the object depends on, from the root.
const SOURCES: [&str; 6] = [
    "bpf-redirect/common/Cargo.toml",
    "bpf-redirect/common/src",
    "bpf-redirect/ebpf/.cargo",
    "bpf-redirect/ebpf/Cargo.lock",
    "bpf-redirect/ebpf/Cargo.toml",
    "bpf-redirect/ebpf/src",
];

/// The record beside the object.
#[derive(Debug, PartialEq)]
pub(super) struct Record {
    /// Hash of all sources.
    pub(super) sources: String,
    /// Hash of the object.
    pub(super) object: String,
    /// What `rustc --version` says.
    pub(super) compiler: String,
    /// Version of the LLVM that links.
    pub(super) llvm: String,
    /// What `bpf-linker --version` says.
    pub(super) linker: String,
}

impl Record {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = String::from_utf8(read(path)?).context("the record is no text")?;
        let field = |name: &str| {
            text.lines()
                .find_map(|line| {
                    line.strip_prefix(name)?
                        .strip_prefix(" = \"")?
                        .strip_suffix('"')
                })
                .map(str::to_owned)
                .with_context(|| format!("{} has no `{name}`", path.display()))
        };
        Ok(Self {
            sources: field("sources")?,
            object: field("object")?,
            compiler: field("compiler")?,
            llvm: field("llvm")?,
            linker: field("linker")?,
        })
    }

    /// What of a toolchain isn't as recorded.
    pub(super) fn difference(&self, found: &Toolchain) -> Option<String> {
        let pairs = [
            ("compiler", &self.compiler, &found.compiler),
            ("LLVM", &self.llvm, &found.llvm),
            ("linker", &self.linker, &found.linker),
        ];
        let differ = pairs
            .iter()
            .filter(|(_, recorded, found)| recorded != found);
        let lines: Vec<_> = differ
            .map(|(what, recorded, found)| {
                format!("{what}: {found} is here, {recorded} is recorded")
            })
            .collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# Written by `cargo xtask bpf`; `cargo xtask bpf --check` compares."
        )?;
        writeln!(
            f,
            "# sha256 of paths and contents of {}",
            SOURCES.join(", ")
        )?;
        writeln!(f, "sources = \"{}\"", self.sources)?;
        writeln!(f, "# sha256 of namegate.bpf.o")?;
        writeln!(f, "object = \"{}\"", self.object)?;
        writeln!(f, "compiler = \"{}\"", self.compiler)?;
        writeln!(f, "llvm = \"{}\"", self.llvm)?;
        writeln!(f, "linker = \"{}\"", self.linker)
    }
}

/// sha256, in hexadecimal.
pub(super) fn hash_of(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes).as_slice())
}

/// One hash over all sources: for each file, by path, its path, its length and its bytes.
pub(super) fn sources_hash(root: &Path) -> Result<String> {
    let mut paths = Vec::new();
    for source in SOURCES {
        collect(root.join(source), &mut paths)?;
    }
    paths.sort_by_key(|path| relative(root, path));
    let mut hash = Sha256::new();
    for path in paths {
        let bytes = read(&path)?;
        hash.update(format!("{}\n{}\n", relative(root, &path), bytes.len()));
        hash.update(bytes);
    }
    Ok(hex(hash.finalize().as_slice()))
}

fn collect(path: PathBuf, found: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        found.push(path);
        return Ok(());
    }
    let entries = std::fs::read_dir(&path);
    for entry in entries.with_context(|| format!("{} can't be read", path.display()))? {
        collect(entry?.path(), found)?;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::root;

    #[test]
    fn the_committed_object_belongs_to_the_sources() {
        let root = root();
        let record = Record::read(&root.join(crate::bpf::RECORD)).unwrap();
        let object = read(&root.join(crate::bpf::OBJECT)).unwrap();
        let again = "run `cargo xtask bpf`";
        assert_eq!(record.sources, sources_hash(&root).unwrap(), "{again}");
        assert_eq!(record.object, hash_of(&object), "{again}");
    }

    #[test]
    fn another_compiler_is_a_difference() {
        let mut record = Record {
            sources: String::new(),
            object: String::new(),
            compiler: "rustc 1".to_owned(),
            llvm: "22".to_owned(),
            linker: "bpf-linker 1".to_owned(),
        };
        let found = Toolchain {
            compiler: "rustc 1".to_owned(),
            llvm: "22".to_owned(),
            linker: "bpf-linker 1".to_owned(),
            linker_path: PathBuf::new(),
        };
        assert_eq!(record.difference(&found), None);
        record.compiler = "rustc 2".to_owned();
        assert!(record.difference(&found).is_some());
    }
}
