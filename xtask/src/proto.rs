//! `cargo xtask proto`: the Rust of `observer/proto`, which is committed so that no build needs a compiler
//! of protocols.
//!
//! The compiler is a feature of this program, since it is large and rarely wanted: without it the
//! command runs cargo once more, with it.

#[cfg(feature = "proto")]
mod generate;

use anyhow::Result;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only look whether the committed code is that of the protocols
    #[arg(long)]
    check: bool,
}

#[cfg(feature = "proto")]
pub(crate) fn run(args: &Args) -> Result<()> {
    generate::run(args.check)
}

#[cfg(not(feature = "proto"))]
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut cargo = crate::command::cargo();
    cargo.args("run --quiet --locked --package xtask --features proto -- proto".split(' '));
    if args.check {
        cargo.arg("--check");
    }
    crate::command::run(&mut cargo)
}
