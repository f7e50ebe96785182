//! Runs the compiler and compares or writes what it made.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::command;

/// Our protocols: the file, the package in it, and the module that it becomes.
const PROTOCOLS: [(&str, &str, &str); 5] = [
    ("flow/flow.proto", "flow", "flow"),
    ("observer/observer.proto", "observer", "observer"),
    (
        "otlp/logs.proto",
        "opentelemetry.proto.collector.logs.v1",
        "otlp",
    ),
    ("peer/peer.proto", "peer", "peer"),
    ("relay/relay.proto", "relay", "relay"),
];

pub(super) fn run(is_check: bool) -> Result<()> {
    let room = command::root().join("observer");
    let folder = room.join("proto");
    let files = PROTOCOLS.map(|(file, ..)| folder.join(file));
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
    let place = |folder: &Path, name: &str| -> PathBuf { folder.join(format!("{name}.rs")) };
    for (_, package, module) in PROTOCOLS {
        let text = fs::read_to_string(place(made, package)).context(package)?;
        let path = place(committed, module);
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
