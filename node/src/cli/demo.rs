//! `namegate demo`.

use std::process::ExitCode;

use clap::Args;

use super::print;
use crate::demo::{Options, clean, is_to_stay, run, tell_and_leave};

/// See it work: a shop's pods, policies step by step, and what becomes of their packets.
///
/// Needs root and nothing else: no network, no other program. Everything happens in network namespaces of
/// its own, which end with it.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate demo
  namegate demo --step        wait for Enter after each step
  namegate demo --keep        leave it up afterwards, with names for `ip netns exec`
  namegate demo --clean       take away what --keep left")]
pub(super) struct Demo {
    /// Wait for Enter after each step.
    #[arg(long)]
    step: bool,
    /// Name the namespaces and leave them up afterwards, to try things by hand.
    #[arg(long)]
    keep: bool,
    /// Take away what `demo --keep` left.
    #[arg(long, conflicts_with_all = ["step", "keep"])]
    clean: bool,
}

impl Demo {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        if self.clean {
            let cleaned = clean()?;
            return print(match (cleaned.process, cleaned.names) {
                (true, _) => "the demo that was kept is gone\n",
                (false, 0) => "no demo is kept\n",
                (false, _) => "the names of a demo that was killed are gone\n",
            });
        }
        let options = Options {
            step: self.step,
            keep: self.keep,
            color: crate::colour::fits(&std::io::stdout()),
        };
        if self.keep && !is_to_stay() {
            return tell_and_leave(options);
        }
        run(options)?;
        Ok(ExitCode::SUCCESS)
    }
}
