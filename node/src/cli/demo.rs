//! `namegate demo`.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;

use super::print;
use crate::demo::{Options, clean, run};

/// See it work: a shop's pods, policies step by step, and what becomes of their packets.
///
/// Needs root and nothing else: no network, no other program. Everything happens in network namespaces of
/// its own, which end with it.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate demo
  namegate demo --step        wait for Enter after each step
  namegate demo --keep        stay up afterwards, with names for `ip netns exec`")]
pub(super) struct Demo {
    /// Wait for Enter after each step.
    #[arg(long)]
    step: bool,
    /// Name the namespaces and stay up until Ctrl-C, to try things by hand.
    #[arg(long)]
    keep: bool,
    /// Take away the names that a killed `demo --keep` left.
    #[arg(long, conflicts_with_all = ["step", "keep"])]
    clean: bool,
}

impl Demo {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        if self.clean {
            let count = clean()?;
            return print(&format!("{count} names taken away\n"));
        }
        run(Options {
            step: self.step,
            keep: self.keep,
            color: std::io::stdout().is_terminal(),
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
