//! Other programs, and where things are.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// The folder of the workspace's manifest.
pub(crate) fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}

/// The cargo that runs us, or the one on the PATH.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(variable("CARGO").as_deref().unwrap_or("cargo"));
    command.current_dir(root());
    command
}

/// `cargo metadata --no-deps` of a manifest.
pub(crate) fn metadata(manifest: &Path) -> Result<Value> {
    let mut command = cargo();
    command.args([
        "metadata",
        "--no-deps",
        "--format-version=1",
        "--manifest-path",
    ]);
    let text = output(command.arg(manifest))?;
    serde_json::from_str(&text).context("cargo metadata gave no JSON")
}

/// The workspace's target folder.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let metadata = metadata(&root().join("Cargo.toml"))?;
    let Some(target) = metadata.get("target_directory").and_then(Value::as_str) else {
        bail!("cargo metadata names no target folder");
    };
    Ok(PathBuf::from(target))
}

/// A variable of the environment.
#[expect(
    clippy::disallowed_methods,
    reason = "cargo tells its subcommands by the environment who and where it is"
)]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Where cargo keeps what it has fetched.
pub(crate) fn cargo_home() -> Result<PathBuf> {
    let of_user = || Some(PathBuf::from(variable("HOME")?).join(".cargo"));
    let home = variable("CARGO_HOME").map(PathBuf::from).or_else(of_user);
    home.context("neither CARGO_HOME nor HOME is set")
}

/// Runs a program with our output; an exit code other than 0 is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let name = shown(command);
    let status = command
        .status()
        .with_context(|| format!("{name}: not started"))?;
    ensure!(status.success(), "{name}: {status}");
    Ok(())
}

/// Runs a program and gives what it printed; an exit code other than 0 is an error with its words.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let name = shown(command);
    let output = command
        .output()
        .with_context(|| format!("{name}: not started"))?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{name}: {}\n{}",
        output.status,
        words.trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Where a program is, looked for as a shell does.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let path = variable("PATH").unwrap_or_default();
    let system = [PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")];
    std::env::split_paths(&path)
        .chain(system)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let program = program.file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    words.join(" ")
}
