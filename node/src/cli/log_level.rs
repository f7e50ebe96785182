//! `namegate log-level`.

use std::process::ExitCode;

use clap::Args;

use super::Ask;
use crate::control::Command;
use crate::log::parse_level;

/// Tell or change how much a running daemon logs, until it ends.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate log-level debug
  namegate log-level info,namegate::keeper=trace")]
pub(super) struct LogLevel {
    /// error, warn, info, debug, trace, off, or a filter; without it the level is only told.
    #[arg(value_name = "LEVEL", value_parser = parse_level)]
    level: Option<String>,
    #[command(flatten)]
    ask: Ask,
}

impl LogLevel {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let answer = self.ask.call(&Command::LogLevel { level: self.level })?;
        self.ask.show(&answer, |answer| {
            let level = answer.get("log_level").and_then(serde_json::Value::as_str);
            format!("{}\n", level.unwrap_or("?"))
        })
    }
}
