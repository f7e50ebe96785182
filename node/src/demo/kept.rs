//! A stage that stays when its story is told: `demo --keep` leaves it to a process of its own, and
//! `demo --clean` ends that one.
//!
//! The whole story runs in that process, on the terminal of the command; when the story is over it turns
//! away from the terminal, names the namespaces and stays. The name of the node's namespace is the sign
//! for the command to end.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use signal_hook::consts::{SIGINT, SIGTERM};
use transport::NetNs;

use super::Options;
use super::stage::{self, Stage};
use super::voice::Voice;
use crate::daemon::Daemon;
use crate::exit::Exit;
use crate::instance;

/// Tells a `demo --keep` that it is the process that stays: no flag, since none is meant for people.
const STAY: &str = "NAMEGATE_DEMO_STAY";
/// How often a sign is looked for.
const TICK: Duration = Duration::from_millis(50);
/// How long a kept stage may take to end before it is killed.
const END_WAIT: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// Whether this is the process that stays.
pub(crate) fn is_to_stay() -> bool {
    std::env::var_os(STAY).is_some()
}

/// Tells the story in a process that stays afterwards; ends when that one has nothing more to say.
///
/// # Errors
/// If another stage is kept already, or without root.
pub(crate) fn tell_and_leave(options: Options) -> Result<ExitCode> {
    anyhow::ensure!(
        !stage::has_names()?,
        "a demo is kept already: `namegate demo --clean` takes it away"
    );
    let mut command = Command::new(std::env::current_exe().context("the program's own path")?);
    command.args(["demo", "--keep"]).env(STAY, "1");
    if options.step {
        command.arg("--step");
    }
    let mut child = command.spawn().context("the process that stays")?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(code_of(status));
        }
        if holder()? == i32::try_from(child.id()).ok() {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(TICK);
    }
}

/// As a shell says it: 128 and the signal for one that was killed.
fn code_of(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// The process that keeps a stage with names, if there is one.
fn holder() -> Result<Option<i32>> {
    let path = stage::name_of_node();
    if !path.exists() {
        return Ok(None);
    }
    // A file that is no namespace (yet) is a name half given or half taken away.
    let Ok(node) = NetNs::open(&path) else {
        return Ok(None);
    };
    Ok(node.run(instance::holder_here)?)
}

/// Until the story is told, the process ends with the command that started it. The kernel keeps this for
/// the calling thread: it must be the one that calls [`stay`].
pub(super) fn end_with_parent() -> Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(
        Signal::TERM,
    ))?)
}

/// Stays, with names, until it is told to end.
pub(super) fn stay(stage: &Stage, daemon: &Daemon, voice: &mut Voice) -> Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    // Its own session: a terminal that is closed, or Ctrl-C in it, is no business of this process.
    rustix::process::setsid().context("a session of its own")?;
    rustix::process::set_parent_process_death_signal(None)?;
    stage.give_names(|| voice.say_kept())?;
    let turned = turn_away();
    while turned.is_ok() && signals.pending().next().is_none() {
        daemon.expire();
        std::thread::sleep(TICK);
    }
    stage::forget_names()?;
    turned
}

/// Nobody who waits for the end of the output waits for this process.
fn turn_away() -> Result<()> {
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// What [`clean`] found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cleaned {
    /// A process kept the stage, and ended.
    pub(crate) process: bool,
    /// Names that had outlived their process.
    pub(crate) names: usize,
}

/// Ends a kept stage and takes its names away, also those that outlived their process.
///
/// # Errors
/// If a process can't be ended or a name can't be removed.
pub(crate) fn clean() -> Result<Cleaned> {
    let process = holder()?
        .and_then(Pid::from_raw)
        .map(end)
        .transpose()
        .context("the process that keeps the stage")?
        .is_some();
    let names = stage::forget_names()?;
    Ok(Cleaned { process, names })
}

/// Ends a process and waits until it is gone.
fn end(pid: Pid) -> Result<()> {
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    for signal in [Signal::TERM, Signal::KILL] {
        pidfd_send_signal(&process, signal)?;
        let mut events = [PollFd::new(&process, PollFlags::IN)];
        if poll(&mut events, Some(&END_WAIT))? > 0 {
            return Ok(());
        }
    }
    Err(Exit::with(1, format!("{pid:?} doesn't end")))
}
