//! One build of the object.

use std::process::Command;

use anyhow::{Context as _, Result};

use super::toolchain::{RUSTC, STRIP, Toolchain};
use super::{Paths, read};
use crate::command::{self, cargo_home, run};

/// The architecture.
pub(super) const TARGET: &str = "bpfel-unknown-none";

/// Builds and strips the object; its bytes depend on sources and toolchain only, not on folders.
pub(super) fn object(paths: &Paths, toolchain: &Toolchain) -> Result<Vec<u8>> {
    let sources = paths.root.join("bpf-redirect/ebpf");
    let target = paths.target.join("bpf");
    // Cargo would keep what another compiler wrapper or LLVM made.
    let old = target.join(TARGET);
    if old.exists() {
        std::fs::remove_dir_all(&old)
            .with_context(|| format!("{} can't be removed", old.display()))?;
    }
    // The folders of crates are known by name once they are there.
    run(command::cargo()
        .args(["fetch", "--locked"])
        .current_dir(&sources))?;
    let mut cargo = command::cargo();
    cargo
        .args(["build", "--release", "--locked", "-Z", "build-std=core"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target)
        .current_dir(&sources)
        .env("RUSTC", RUSTC)
        .env("RUSTC_BOOTSTRAP", "1") // build-std is unstable
        .env("CARGO_ENCODED_RUSTFLAGS", flags(paths, toolchain)?)
        .env("AYA_BPF_TARGET_ARCH", "x86_64") // else the machine's own, and other bytes
        .env("CARGO_INCREMENTAL", "0")
        .env("RUSTC_WRAPPER", std::env::current_exe()?)
        .env(super::wrapper::FLAG, "1")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    run(&mut cargo)?;
    let built = target.join(TARGET).join("release/namegate");
    let stripped = target.join("stripped.o");
    run(Command::new(STRIP)
        .arg("-g")
        .arg(&built)
        .arg("-o")
        .arg(&stripped))?;
    read(&stripped)
}

/// Compiler flags, in the form that lets paths hold spaces.
fn flags(paths: &Paths, toolchain: &Toolchain) -> Result<String> {
    let home = cargo_home()?;
    let home = home.display();
    let root = paths.root.display();
    let mut flags = vec![
        "-C".to_owned(),
        format!("linker={}", toolchain.linker_path.display()),
        "-C".to_owned(),
        "link-arg=--btf".to_owned(),
        // Else what is zeroed or copied is so octet by octet, in a loop that the verifier walks too.
        "-C".to_owned(),
        "link-arg=--disable-expand-memcpy-in-order".to_owned(),
        "-C".to_owned(),
        "debuginfo=2".to_owned(),
        format!("--remap-path-prefix={home}=/home"),
        format!("--remap-path-prefix={}=/target", paths.target.display()),
        format!("--remap-path-prefix={root}/bpf-redirect/common=/common"),
        format!("--remap-path-prefix={root}/bpf-redirect/ebpf=/src"),
    ];
    // Their names hold a hash of the registry's address.
    let crates = format!("{home}/registry/src");
    for folder in std::fs::read_dir(&crates).with_context(|| format!("{crates} can't be read"))? {
        let folder = folder?.path();
        flags.push(format!("--remap-path-prefix={}=/crates", folder.display()));
    }
    Ok(flags.join("\x1f"))
}
