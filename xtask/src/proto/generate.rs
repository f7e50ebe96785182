//! Runs the compiler and compares or writes what it made.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::command;

/// Our protocols, by package.
const PACKAGES: [&str; 4] = ["flow", "observer", "peer", "relay"];

pub(super) fn run(is_check: bool) -> Result<()> {
    let room = command::root().join("observer");
    let folder = room.join("proto");
    let files = PACKAGES.map(|package| folder.join(package).join(format!("{package}.proto")));
    let descriptors = protox::compile(&files, [&folder]).context("observer/proto")?;
    let made = command::target_dir()?.join("proto");
    fs::create_dir_all(&made)?;
    let compiled = tonic_prost_build::configure()
        .out_dir(&made)
        .compile_fds(descriptors);
    let done = compiled
        .map_err(anyhow::Error::from)
        .and_then(|()| take(&made, &room.join("src/proto"), is_check));
    fs::remove_dir_all(&made)?;
    done
}

/// Compares what was made with what is there, or puts it there.
fn take(made: &Path, committed: &Path, is_check: bool) -> Result<()> {
    let place = |folder: &Path, package: &str| -> PathBuf { folder.join(format!("{package}.rs")) };
    for package in PACKAGES {
        let text = fs::read_to_string(place(made, package)).context(package)?;
        let path = place(committed, package);
        if !is_check {
            fs::write(&path, text)?;
        } else if fs::read_to_string(&path).unwrap_or_default() != text {
            bail!(
                "{} is not what the protocols make: run `cargo xtask proto`",
                path.display()
            );
        }
    }
    Ok(())
}
