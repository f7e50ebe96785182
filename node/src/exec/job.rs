//! A command in the machine's own network: a cgroup of its own at whose hooks it is judged.
//!
//! The links of the programs are pinned, so that what a command leaves behind stays judged when this process
//! is killed. Who finds such a cgroup whose process is gone ends what runs in it, and takes it away.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use bpf_redirect::{PinError, Pins, has_bpffs};
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

/// The cgroup, and the folder of its pins, which is locked as long as this process lives.
pub(super) struct Job {
    pub(super) cgroup: PathBuf,
    pins: Option<Pins>,
}

impl Job {
    /// Makes both; what killed ones have left is taken away before, and said.
    ///
    /// # Errors
    /// If there is no hierarchy of version 2, or the kernel refuses.
    pub(super) fn create() -> Result<Self> {
        let cgroups = root().map_err(anyhow::Error::msg)?;
        let name = format!("{STEM}{:016x}", rand::random::<u64>());
        let folder = Path::new(BPF_FS).join(&name);
        if !has_bpffs(&folder) {
            // This mounts one, in which there is nothing yet.
            Pins::open(&folder)?.remove()?;
        }
        // No other process looks for what is left before this one has locked its own.
        let alone = fs::File::open(BPF_FS).context(BPF_FS)?;
        flock(&alone, FlockOperation::LockExclusive).context(BPF_FS)?;
        for line in sweep(&cgroups, Path::new(BPF_FS)) {
            super::say(&line);
        }
        let pins = Pins::open(&folder)?;
        let cgroup = cgroups.join(&name);
        let job = Self {
            cgroup: cgroup.clone(),
            pins: Some(pins),
        };
        fs::create_dir(&cgroup).with_context(|| cgroup.display().to_string())?;
        job.pins().create()?;
        Ok(job)
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

    #[expect(clippy::expect_used, reason = "see there")]
    fn pins(&self) -> &Pins {
        self.pins
            .as_ref()
            .expect("they are taken by the drop alone")
    }

    /// Keeps the programs where they are, whatever becomes of this process.
    ///
    /// # Errors
    /// If a link can't be pinned.
    pub(super) fn pin(&self, daemon: &mut Daemon) -> Result<()> {
        Ok(daemon.guards.pin_cgroups(self.pins())?)
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
        let Self { daemon, job } = self;
        kill(&job.cgroup).with_context(|| job.cgroup.display().to_string())?;
        Guard::end(daemon)
    }
}

/// Takes away what killed ones have left, and says what it was. What is locked is somebody's.
fn sweep(cgroups: &Path, bpf_fs: &Path) -> Vec<String> {
    let mut said = Vec::new();
    for folder in fs::read_dir(bpf_fs).into_iter().flatten().flatten() {
        let name = folder.file_name();
        if !name.to_string_lossy().starts_with(STEM) {
            continue;
        }
        let pins = match Pins::find(&folder.path()) {
            Ok(Some(pins)) => pins,
            Ok(None) | Err(PinError::InUse { .. }) => continue,
            Err(error) => {
                said.push(error.to_string());
                continue;
            }
        };
        let cgroup = cgroups.join(&name);
        let left = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        let left = left.lines().count();
        let removed = end(&cgroup).map_err(anyhow::Error::new);
        match removed.and_then(|()| Ok(pins.remove()?)) {
            Ok(()) => said.push(format!(
                "an earlier exec was killed: its cgroup is taken away, and {left} processes that it left were ended"
            )),
            Err(error) => said.push(format!("what an earlier exec left: {}: {error:#}", cgroup.display())),
        }
    }
    said
}

/// Ends what runs in a cgroup, and removes it; one that is gone is fine.
fn end(cgroup: &Path) -> io::Result<()> {
    kill(cgroup)?;
    match remove(cgroup) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Ends what runs in a cgroup and below, and waits for it.
fn kill(cgroup: &Path) -> io::Result<()> {
    match fs::write(cgroup.join("cgroup.kill"), "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        written => written?,
    }
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
