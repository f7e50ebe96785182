//! `namegate detach`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{Which, print};
use crate::control::{Command, call};
use crate::daemon::take_away;
use crate::exit::{Exit, NO_PERMISSION};
use crate::instance::Lock;

/// Take programs, links, pins and the gate away, whether a daemon runs or not. A running daemon ends.
///
/// Afterwards the node is as it was before `namegate run`, and its workloads are not guarded. Exit code 0 if so,
/// also where nothing was there, which it says; 1 if something is left, 78 if the configuration, which says where to
/// look, can't be read.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate detach
  namegate detach --instance nested")]
pub(super) struct Detach {
    /// The configuration of the daemon, as for `run`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the pins are [default: as the configuration says].
    #[arg(long, value_name = "DIR")]
    bpf_dir: Option<PathBuf>,
    #[command(flatten)]
    which: Which,
}

/// How long a daemon may take to end: each interface waits for the kernel, and a busy machine is slow.
const END_WAIT: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(20);

impl Detach {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        if !rustix::process::geteuid().is_root() {
            return Err(Exit::with(NO_PERMISSION, "namegate detach needs root"));
        }
        let found = self.which.find(self.config.as_deref())?;
        let was_running = call(&found.socket, &Command::Detach).is_ok();
        let lock = if was_running {
            wait_for_end()?
        } else {
            take_lock()?
        };
        let pins = self.bpf_dir.unwrap_or(found.bpf_dir);
        let was_there = take_away(&found.instance, Some(&pins))? || was_running;
        drop(lock);
        print(&match was_there {
            true => "detached\n".to_owned(),
            false => format!(
                "nothing was there of instance {}, nor at {}\n",
                found.instance.name(),
                pins.display()
            ),
        })
    }
}

fn take_lock() -> anyhow::Result<Lock> {
    Lock::take().map_err(|holder| {
        let who = holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
        anyhow::anyhow!("{who} guards this network namespace and doesn't answer here; name its --socket, or end it first")
    })
}

fn wait_for_end() -> anyhow::Result<Lock> {
    let mut waited = Duration::ZERO;
    loop {
        match Lock::take() {
            Ok(lock) => return Ok(lock),
            Err(_) if waited < END_WAIT => {
                std::thread::sleep(STEP);
                waited += STEP;
            }
            Err(_) => anyhow::bail!("the daemon was told to detach and has not ended"),
        }
    }
}
