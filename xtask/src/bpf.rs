//! The committed BPF object: built from `bpf-redirect/ebpf` with a compiler of its own, and bound to
//! its sources by a record, so that a normal build needs neither that compiler nor LLVM.

mod build;
mod record;
mod toolchain;
pub(crate) mod wrapper;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::command::{root, target_dir};
use record::{Record, hash_of, sources_hash};
use toolchain::Toolchain;

/// The object, from the root.
const OBJECT: &str = "bpf-redirect/object/namegate.bpf.o";
/// What it was made of, from the root.
const RECORD: &str = "bpf-redirect/object/namegate.bpf.toml";

#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask bpf                            rebuild the object and its record
  cargo xtask bpf --install                  the same on a machine that lacks the compiler
  cargo xtask bpf --check                    does the object belong to the sources?
  cargo xtask bpf --check --rebuild          also build it again and compare the bytes")]
pub(crate) struct Args {
    /// Write nothing: compare sources and object with the record
    #[arg(long)]
    check: bool,
    /// With --check: build the object again and compare it byte for byte
    #[arg(long, requires = "check")]
    rebuild: bool,
    /// Install what is missing: Debian packages, and bpf-linker into the target folder
    #[arg(long)]
    install: bool,
}

/// Where things are.
struct Paths {
    root: PathBuf,
    target: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let paths = Paths {
        root: root(),
        target: target_dir()?,
    };
    if args.check {
        check(&paths)?;
        if args.rebuild {
            rebuild_and_compare(&paths, args.install)?;
        }
        return Ok(());
    }
    if args.install {
        toolchain::install(&paths.target)?;
    }
    let toolchain = Toolchain::find(&paths.target)?;
    let object = build::object(&paths, &toolchain)?;
    let record = Record {
        sources: sources_hash(&paths.root)?,
        object: hash_of(&object),
        compiler: toolchain.compiler,
        llvm: toolchain.llvm,
        linker: toolchain.linker,
    };
    write(&paths.root.join(OBJECT), &object)?;
    write(&paths.root.join(RECORD), record.to_string().as_bytes())?;
    println!("{OBJECT}: {} bytes, sha256 {}", object.len(), record.object);
    Ok(())
}

fn check(paths: &Paths) -> Result<Record> {
    let record = Record::read(&paths.root.join(RECORD))?;
    let object = read(&paths.root.join(OBJECT))?;
    ensure!(
        record.sources == sources_hash(&paths.root)?,
        "the sources of the BPF programs differ from those that the object was built from: \
         run `cargo xtask bpf`"
    );
    ensure!(
        record.object == hash_of(&object),
        "{OBJECT} isn't the object of {RECORD}: run `cargo xtask bpf`"
    );
    println!("bpf: the object belongs to the sources");
    Ok(record)
}

fn rebuild_and_compare(paths: &Paths, install: bool) -> Result<()> {
    let record = Record::read(&paths.root.join(RECORD))?;
    let found = match install {
        true => toolchain::install(&paths.target),
        false => Ok(()),
    };
    let toolchain = match found.and_then(|()| Toolchain::find(&paths.target)) {
        Ok(toolchain) => toolchain,
        Err(error) => return not_rebuilt(&format!("{error:#}")),
    };
    if let Some(difference) = record.difference(&toolchain) {
        return not_rebuilt(&difference);
    }
    let object = build::object(paths, &toolchain)?;
    let own = paths.target.join("bpf/namegate.bpf.o");
    write(&own, &object)?;
    ensure!(
        record.object == hash_of(&object),
        "the object built from the sources differs from the committed one; it is left in {}",
        own.display()
    );
    println!("bpf: built again, every byte is the same");
    Ok(())
}

/// Without the recorded compiler there is nothing to compare: that is said, and no failure.
#[expect(clippy::unnecessary_wraps, reason = "the end of a check that passes")]
fn not_rebuilt(why: &str) -> Result<()> {
    eprintln!(
        "\n*** WARNING: the BPF object was NOT built again and compared. ***\n*** {} ***\n",
        why.trim().replace('\n', " ***\n*** ")
    );
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("{} can't be read", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("{} can't be written", path.display()))
}
