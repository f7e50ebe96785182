//! `namegate detach`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{Which, print};
use crate::control::{Command, call};
use crate::daemon::{Setup, take_away};
use crate::exit::{Exit, NO_PERMISSION};
use crate::instance::Lock;
use crate::learner::{INSTALL_WAIT, Scruples};

/// Take programs, links, pins and the gate away, whether a daemon runs or not. A running daemon ends.
///
/// Afterwards the node is as it was before `namegate run`, and its workloads are not guarded.
#[derive(Args)]
#[command(after_help = "Example:
  namegate detach")]
pub(super) struct Detach {
    /// Where the pins are [default: /sys/fs/bpf/namegate].
    #[arg(long, value_name = "DIR")]
    bpf_dir: Option<PathBuf>,
    #[command(flatten)]
    which: Which,
}

/// How long a daemon may take to end.
const END_WAIT: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(20);

impl Detach {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        if !rustix::process::geteuid().is_root() {
            return Err(Exit::with(NO_PERMISSION, "namegate detach needs root"));
        }
        let was_running = call(&self.which.socket(), &Command::Detach).is_ok();
        let lock = if was_running {
            wait_for_end()?
        } else {
            take_lock()?
        };
        let instance = self.which.instance.clone();
        take_away(&Setup {
            pins: Some(self.bpf_dir.unwrap_or_else(|| instance.bpf_dir())),
            hook_mode: None,
            export: None,
            flows_max: 1,
            aggregation: bpf_redirect_common::Aggregation::Off,
            enforcement: policy::Options::default(),
            http: httpproxy::Settings::default(),
            lifetimes: fqdn_cache::Lifetimes::default(),
            install_wait: INSTALL_WAIT,
            scruples: Scruples::default(),
            dns_refresh: false,
            dns: dnsproxy::Settings::default(),
            instance,
        })?;
        drop(lock);
        print("detached\n")
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
