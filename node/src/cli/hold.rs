//! `namegate hold`, for the daemon alone.

use std::process::ExitCode;

use clap::Args;

use crate::instance::Instance;
use crate::keeper;

/// Hold the listeners of a daemon until the next one takes them. `namegate run` starts it by itself.
#[derive(Args)]
#[command(hide = true)]
pub(super) struct Hold {
    /// Whose.
    #[arg(long, value_name = "NAME", value_parser = Instance::parse)]
    instance: Instance,
}

impl Hold {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        keeper::hold(&self.instance)?;
        Ok(ExitCode::SUCCESS)
    }
}
