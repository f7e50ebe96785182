//! A command in the machine's own network: a cgroup of its own at whose hooks it is judged.
//!
//! The links of the programs are pinned, so that what a command leaves behind stays judged when this process
//! is killed. Who finds such a cgroup whose process is gone ends what runs in it, and takes it away.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use bpf_redirect::{PinError, Pins};
use rustix::fs::{FlockOperation, flock};

use super::Guard;
use crate::daemon::Daemon;
use crate::endpoints::GuardedCgroup;
use crate::endpoints::cgroup::{inspect, root};

/// Where pins are.
const BPF_FS: &str = "/sys/fs/bpf";
/// What the names of cgroups and of folders of pins begin with.
const STEM: &str = "namegate-exec-";
/// How long the kernel may take to end what runs in a cgroup.
const END_STEPS: u32 = 1_000;
const END_STEP: Duration = Duration::from_millis(5);

/// Names that are tried: another process may take a cgroup away before it is locked.
const NAMES_MAX: u32 = 5;

/// The cgroup, which is locked as long as this process lives, and the folder of its pins.
pub(super) struct Job {
    pub(super) cgroup: PathBuf,
    _lock: fs::File,
    pins: Option<Pins>,
}

impl Job {
    /// Makes both; what killed ones have left is taken away before, and said.
    ///
    /// # Errors
    /// If there is no hierarchy of version 2, or the kernel refuses.
    pub(super) fn create() -> Result<Self> {
        let cgroups = root().map_err(anyhow::Error::msg)?;
        for line in sweep(&cgroups, Path::new(BPF_FS)) {
            super::say(&line);
        }
        for _ in 0..NAMES_MAX {
            let name = format!("{STEM}{:016x}", rand::random::<u64>());
            let cgroup = cgroups.join(&name);
            let Some(lock) = make(&cgroup).with_context(|| cgroup.display().to_string())? else {
                continue;
            };
            let pins = None;
            let mut job = Self {
                cgroup,
                _lock: lock,
                pins,
            };
            let pins = Pins::open(&Path::new(BPF_FS).join(&name))?;
            job.pins.insert(pins).create()?;
            return Ok(job);
        }
        anyhow::bail!("{}: no cgroup stays there", cgroups.display())
    }

    /// What is to be guarded. Sockets by which others resolve are hidden inside, so that nobody is in the way.
    ///
    /// # Errors
    /// If the cgroup can't be guarded.
    pub(super) fn site(&self) -> Result<GuardedCgroup> {
        let found = inspect(&self.cgroup).map_err(anyhow::Error::msg)?;
        Ok(GuardedCgroup {
            bypass: None,
            ..found
        })
    }

    /// Keeps the programs where they are, whatever becomes of this process.
    ///
    /// # Errors
    /// If a link can't be pinned.
    pub(super) fn pin(&self, daemon: &mut Daemon) -> Result<()> {
        let pins = self.pins.as_ref().context("a folder of pins")?;
        Ok(daemon.guards.pin_cgroups(pins)?)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // First whoever would be open without pins.
        let ended = end(&self.cgroup);
        let removed = self.pins.take().map(Pins::remove).transpose();
        if let Err(error) = ended {
            super::say(&format!("{}: {error}", self.cgroup.display()));
        }
        if let Err(error) = removed {
            super::say(&error.to_string());
        }
    }
}

/// A command's cgroup with the daemon that guards it.
pub(super) struct Guarded {
    pub(super) daemon: Daemon,
    pub(super) job: Job,
}

impl Guard for Guarded {
    fn expire(&mut self) {
        Guard::expire(&mut self.daemon);
    }

    fn sweep(&mut self) {
        Guard::sweep(&mut self.daemon);
    }

    fn all_alive(&self) -> bool {
        self.daemon.all_alive()
    }

    /// What the command left running would be open without programs: it ends before.
    fn end(self) -> Result<()> {
        let Self { mut daemon, job } = self;
        kill(&job.cgroup).with_context(|| job.cgroup.display().to_string())?;
        daemon.guards.detach_all();
        Guard::end(daemon)
    }
}

/// Makes a cgroup and locks it; `None` where somebody took it away in between.
fn make(cgroup: &Path) -> io::Result<Option<fs::File>> {
    fs::create_dir(cgroup)?;
    let Some(lock) = fs::File::open(cgroup).map(Some).or_else(gone)? else {
        return Ok(None);
    };
    flock(&lock, FlockOperation::LockExclusive)?;
    let there = cgroup.metadata().map(Some).or_else(gone)?;
    let is_own =
        there.is_some_and(|there| lock.metadata().is_ok_and(|own| own.ino() == there.ino()));
    Ok(is_own.then_some(lock))
}

fn gone<T>(error: io::Error) -> io::Result<Option<T>> {
    match error.kind() == io::ErrorKind::NotFound {
        true => Ok(None),
        false => Err(error),
    }
}

/// Takes away what killed ones have left, and says what it was. What is locked is somebody's.
fn sweep(cgroups: &Path, bpf_fs: &Path) -> Vec<String> {
    let places = [cgroups, bpf_fs].into_iter();
    let entries = places.flat_map(|place| fs::read_dir(place).into_iter().flatten().flatten());
    let names = entries.map(|entry| entry.file_name());
    let ours = names.filter(|name| name.to_string_lossy().starts_with(STEM));
    let names: BTreeSet<OsString> = ours.collect();
    let swept = names.iter().filter_map(|name| {
        let cgroup = cgroups.join(name);
        match sweep_one(&cgroup, &bpf_fs.join(name)) {
            Ok(None) => None,
            Ok(Some(left)) => Some(format!(
                "an earlier exec was killed: its cgroup is taken away, and {left} processes that it left were ended"
            )),
            Err(error) => Some(format!("what an earlier exec left: {}: {error:#}", cgroup.display())),
        }
    });
    swept.collect()
}

/// How many processes were left by one; `None` where it lives.
fn sweep_one(cgroup: &Path, folder: &Path) -> Result<Option<usize>> {
    let lock = fs::File::open(cgroup).map(Some).or_else(gone)?;
    if let Some(lock) = &lock
        && flock(lock, FlockOperation::NonBlockingLockExclusive).is_err()
    {
        return Ok(None);
    }
    let pins = match Pins::find(folder) {
        Ok(pins) => pins,
        Err(PinError::InUse { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let left = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    end(cgroup)?;
    pins.map(Pins::remove).transpose()?;
    Ok(Some(left.lines().count()))
}

/// Ends what runs in a cgroup, and removes it; one that is gone is fine.
fn end(cgroup: &Path) -> io::Result<()> {
    kill(cgroup)?;
    remove(cgroup).map(Some).or_else(gone).map(drop)
}

/// Ends what runs in a cgroup and below, and waits for it.
fn kill(cgroup: &Path) -> io::Result<()> {
    let door = cgroup.join("cgroup.kill");
    let door = fs::OpenOptions::new().write(true).open(door);
    let Some(mut door) = door.map(Some).or_else(gone)? else {
        return Ok(());
    };
    door.write_all(b"1")?;
    for _ in 0..END_STEPS {
        let events = fs::read_to_string(cgroup.join("cgroup.events"))?;
        if !events.lines().any(|line| line == "populated 1") {
            return Ok(());
        }
        std::thread::sleep(END_STEP);
    }
    Err(io::Error::other("what runs in it does not end"))
}

/// With what was made below; nothing runs in it.
fn remove(cgroup: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cgroup)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_locked_is_somebodys_and_the_rest_is_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        let living = make(&place("namegate-exec-1")).unwrap().unwrap();
        drop(make(&place("namegate-exec-2")).unwrap());
        fs::create_dir(place("another")).unwrap();
        let nowhere = place("nowhere");
        let said = sweep(dir.path(), &nowhere);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(place("namegate-exec-1").exists() && place("another").exists());
        assert!(!place("namegate-exec-2").exists());
        drop(living);
        assert_eq!(sweep(dir.path(), &nowhere).len(), 1);
        assert!(!place("namegate-exec-1").exists());
    }
}
