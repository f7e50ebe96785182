//! `namegate metrics`.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::{Which, print};
use crate::control::{self, Command};

/// Print the metrics of a running daemon, as Prometheus would read them.
///
/// The daemon must have been started with --metrics-addr; else nothing is counted.
#[derive(Args)]
#[command(after_help = "Example:
  namegate metrics | grep namegate_limit_hits")]
pub(super) struct Metrics {
    #[command(flatten)]
    which: Which,
}

impl Metrics {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let answer = control::call(&self.which.socket()?, &Command::Metrics)?;
        print(
            answer
                .get("metrics")
                .and_then(Value::as_str)
                .unwrap_or_default(),
        )
    }
}
