//! The compiler, the linker and the LLVM that make the object, and how to get them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::command::{self, output, which};
use crate::debian;

/// Debian's second Rust: its LLVM is the one that Debian packages for linking.
pub(super) const RUSTC: &str = "/usr/bin/rustc";
/// `core` is built from source.
const CORE: &str = "/usr/lib/rustlib/src/rust/library/core/Cargo.toml";
const LLVM: &str = "/usr/lib/llvm-22";
/// Takes debug information away, and with it every path of the machine; BTF stays.
pub(super) const STRIP: &str = "/usr/lib/llvm-22/bin/llvm-strip";
/// Version of bpf-linker.
const LINKER: &str = "0.13.0";
/// Debian packages: compiler, source of `core`, LLVM to link with, its tools; what building
/// bpf-linker needs.
const PACKAGES: [&str; 7] = [
    "rustc-web",
    "rust-web-src",
    "llvm-22-dev",
    "llvm-22",
    "g++",
    "zlib1g-dev",
    "libzstd-dev",
];

/// What is on this machine.
pub(super) struct Toolchain {
    pub(super) compiler: String,
    pub(super) llvm: String,
    pub(super) linker: String,
    pub(super) linker_path: PathBuf,
}

impl Toolchain {
    /// Looks for all of it.
    pub(super) fn find(target: &Path) -> Result<Self> {
        let hint = "`cargo xtask bpf --install` installs what is missing";
        for file in [RUSTC, CORE, STRIP] {
            ensure!(Path::new(file).is_file(), "{file} not found; {hint}");
        }
        let linker_path = find_linker(target)
            .with_context(|| format!("bpf-linker {LINKER} not found; {hint}"))?;
        Ok(Self {
            compiler: output(Command::new(RUSTC).arg("--version"))?,
            llvm: output(Command::new(format!("{LLVM}/bin/llvm-config")).arg("--version"))?,
            linker: output(Command::new(&linker_path).arg("--version"))?,
            linker_path,
        })
    }
}

/// Installs what is missing; asks no package source where nothing is.
pub(super) fn install(target: &Path) -> Result<()> {
    if [RUSTC, CORE, STRIP]
        .iter()
        .any(|file| !Path::new(file).is_file())
        || !Path::new(LLVM).join("include/llvm/Config").is_dir()
    {
        debian::install(&PACKAGES)?;
    }
    if find_linker(target).is_some() {
        return Ok(());
    }
    let mut cargo = command::cargo();
    cargo.args(["install", "bpf-linker", "--locked", "--version", LINKER]);
    cargo.args([
        "--no-default-features",
        "--features",
        "llvm-22",
        "--force",
        "--root",
    ]);
    cargo.arg(own_tools(target));
    command::run(cargo.env("LLVM_PREFIX", LLVM).env_remove("RUSTC"))
}

/// Ours in the target folder, or the one on the PATH, if it is the version that we want.
fn find_linker(target: &Path) -> Option<PathBuf> {
    let own = own_tools(target).join("bin/bpf-linker");
    let wanted = format!("bpf-linker {LINKER}");
    [Some(own), which("bpf-linker")]
        .into_iter()
        .flatten()
        .find(|path| output(Command::new(path).arg("--version")).is_ok_and(|v| v == wanted))
}

fn own_tools(target: &Path) -> PathBuf {
    target.join("tools")
}
