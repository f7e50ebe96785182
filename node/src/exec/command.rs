//! The command as a process of ours: signals reach it as if it had been called without us, and its end is
//! ours.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use signal_hook::consts::{
    SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH,
};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::{Cause, Origin};
use transport::NetNs;

use super::{Book, Guard, Orders};
use crate::clock;
use crate::exit::{EXEC_FAILED, Exit};

/// What is passed on. What the terminal sends is the whole foreground group's, so the command has it.
const SIGNALS: [i32; 8] = [
    SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH,
];
/// Two interrupts within this time kill.
const TWICE: Duration = Duration::from_secs(1);
/// How late an address may close after its end.
const EXPIRY_STEP: Duration = Duration::from_millis(250);
/// How often flows that are over are forgotten.
const SWEEP_STEP: Duration = Duration::from_secs(10);

/// Signals to this process.
pub(super) struct Signals(SignalsInfo<WithOrigin>);

impl Signals {
    /// Catches what would end us, but for what whoever called has us ignore.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn catch() -> Result<Self> {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = ignored(&status);
        let caught = SIGNALS
            .into_iter()
            .filter(|signal| !ignored.contains(signal));
        // Where a child's end is ignored, the kernel tells nobody how it ended.
        let caught = caught.chain([SIGCHLD]);
        SignalsInfo::new(caught).map(Self).context("signals")
    }

    /// Whether one came, before there was a command that could have it.
    ///
    /// # Errors
    /// With the code of a process that the signal has ended.
    fn check(&mut self) -> Result<()> {
        let mut pending = self.0.pending();
        match pending.find(|origin| ![SIGCHLD, SIGWINCH].contains(&origin.signal)) {
            Some(origin) => Err(stopped(&origin)),
            None => Ok(()),
        }
    }
}

fn stopped(origin: &Origin) -> anyhow::Error {
    let code = code_of_signal(origin.signal);
    Exit::with(code, "stopped before the command ran")
}

/// The ignored ones, as `/proc/PID/status` tells them.
fn ignored(status: &str) -> Vec<i32> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let mask = mask.unwrap_or_default();
    let all = SIGNALS.into_iter();
    all.filter(|signal| mask >> (signal - 1) & 1 == 1).collect()
}

enum Wake {
    Signal(Origin),
    Ended(io::Result<ExitStatus>),
}

/// The command, while it runs.
pub(super) struct Running {
    pid: Pid,
    process: OwnedFd,
    woken: Receiver<Wake>,
    last_interrupt: Option<Instant>,
}

impl Running {
    /// Starts the command in its network namespace.
    ///
    /// # Errors
    /// If our own process can't be made; the command's own faults are how it ends.
    pub(super) fn start(
        inside: &NetNs,
        (orders, command): (&Orders, &[OsString]),
        mut signals: Signals,
    ) -> Result<Self> {
        let mut own = Command::new("/proc/self/exe");
        own.arg0("namegate").arg("inside");
        own.arg(serde_json::to_string(orders)?).arg("--");
        own.args(command);
        own.envs(orders.user.iter().flat_map(super::user::User::variables));
        signals.check()?;
        let (wake, woken) = mpsc::channel();
        let (pid, process) = spawn(inside.clone(), own, wake.clone())?;
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                let all = signals.0.forever();
                for origin in all.filter(|origin| origin.signal != SIGCHLD) {
                    if wake.send(Wake::Signal(origin)).is_err() {
                        break;
                    }
                }
            })?;
        Ok(Self {
            pid,
            process,
            woken,
            last_interrupt: None,
        })
    }

    /// Its process.
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Ends it.
    pub(super) fn kill(&self) {
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
    }

    /// Its code if it has ended, before it was anything but a process of ours.
    ///
    /// # Errors
    /// With the code of a process that a signal has ended.
    pub(super) fn ended(&self) -> Result<Option<u8>> {
        match self.woken.try_recv() {
            Ok(Wake::Ended(status)) => Ok(Some(code_of(status.context("waiting")?))),
            Ok(Wake::Signal(origin)) if origin.signal != SIGWINCH => {
                self.kill();
                Err(stopped(&origin))
            }
            Ok(Wake::Signal(_)) | Err(_) => Ok(None),
        }
    }

    /// Waits for its end, and does meanwhile what a daemon does now and then.
    ///
    /// # Errors
    /// If a proxy is dead, without which the command reaches nothing.
    pub(super) fn attend(mut self, guard: &mut impl Guard, book: &mut Book) -> Result<u8> {
        let mut next_sweep = clock::now() + SWEEP_STEP;
        loop {
            match self.woken.recv_timeout(EXPIRY_STEP) {
                Ok(Wake::Ended(status)) => return Ok(code_of(status.context("waiting")?)),
                Ok(Wake::Signal(origin)) => self.pass_on(&origin),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    anyhow::bail!("nobody waits for the command")
                }
            }
            guard.expire();
            book.read();
            let now = clock::now();
            if now >= next_sweep {
                guard.sweep();
                next_sweep = now + SWEEP_STEP;
            }
            if !guard.all_alive() {
                self.kill();
                return Err(Exit::with(EXEC_FAILED, "a proxy is dead"));
            }
        }
    }

    fn pass_on(&mut self, origin: &Origin) {
        let now = clock::now();
        let is_soon = |before: Instant| now.saturating_duration_since(before) < TWICE;
        let before = match origin.signal {
            SIGINT => self.last_interrupt.replace(now),
            _ => None,
        };
        let signal = match before.is_some_and(is_soon) {
            true => Some(Signal::KILL),
            // The terminal's own reach the command without us.
            false if origin.cause == Cause::Kernel => None,
            false => Signal::from_named_raw(origin.signal),
        };
        if let Some(signal) = signal {
            // It may be gone by now.
            let _ = pidfd_send_signal(&self.process, signal);
        }
    }
}

/// On a thread that lives as long as the command: the kernel kills the command when that thread ends.
fn spawn(inside: NetNs, mut own: Command, wake: Sender<Wake>) -> Result<(Pid, OwnedFd)> {
    let (begun, started) = mpsc::channel();
    std::thread::Builder::new()
        .name("command".to_owned())
        .spawn(move || {
            let child = inside.enter().and_then(|()| own.spawn());
            // Before it is waited for: its number may be another's then.
            let made = child.and_then(|child| Ok((held(&child)?, child)));
            match made {
                Ok((process, mut child)) => {
                    let _ = begun.send(Ok(process));
                    let _ = wake.send(Wake::Ended(child.wait()));
                }
                Err(error) => drop(begun.send(Err(error))),
            }
        })?;
    let process = started.recv().context("the command's thread")?;
    process.context("the command's process")
}

/// Its number, and what names it as long as it is held.
fn held(child: &Child) -> io::Result<(Pid, OwnedFd)> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
    Ok((pid, pidfd_open(pid, PidfdFlags::empty())?))
}

fn code_of(status: ExitStatus) -> u8 {
    match status.signal() {
        Some(signal) => code_of_signal(signal),
        None => status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(u8::MAX),
    }
}

/// As shells have it.
fn code_of_signal(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_caller_ignores_is_ignored() {
        let status = "Name:\tsh\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000005\n";
        assert_eq!(ignored(status), [SIGHUP, SIGQUIT]);
        assert!(ignored("").is_empty());
    }
}
