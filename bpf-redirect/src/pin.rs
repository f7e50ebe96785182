//! The pins: what outlives the daemon.
//!
//! `DIR/maps/NAME`, `DIR/programs/NAME`, `DIR/links/INTERFACE-PROGRAM`,
//! `DIR/links/cgroup-NUMBER-PROGRAM`. Removing a link's pin takes the program off its interface, unless
//! the daemon still holds the link. Where there are no links but filters, `DIR/filters/INTERFACE-PROGRAM`
//! is the program of one, and says that it is ours.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use crate::{HookMode, filter};

/// A folder of pins on a bpffs, locked while this lives: two daemons with one folder would take each
/// other's programs away.
#[derive(Debug)]
pub struct Pins {
    dir: PathBuf,
    _lock: File,
}

/// Why pins can't be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// No bpffs, and none could be mounted.
    #[error("{}: no BPF file system there, and mounting one failed: {source}", path.display())]
    NoBpffs {
        /// Where it should be.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No bpffs, and one that is mounted there would hide what is there.
    #[error("{}: no BPF file system there, and one that is mounted over it would hide the files that it holds; pins need a folder in a BPF file system, or in one that is empty or not there yet", path.display())]
    Hides {
        /// Where it would be mounted.
        path: PathBuf,
    },
    /// Another process has the folder locked.
    #[error("{}: another Namegate uses these pins; give this one an --instance of its own", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A folder could not be made.
    #[error("{}: {source}", path.display())]
    Create {
        /// The folder.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A pin could not be removed.
    #[error("{}: {source}", path.display())]
    Remove {
        /// The pin.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// `f_type` of a bpffs (linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

impl Pins {
    /// The pins in `dir`, which is made and locked. A bpffs is mounted over `dir`'s parent if none is
    /// there and nothing else is.
    ///
    /// # Errors
    /// If there is no bpffs and none can be mounted, or another process has the folder.
    pub fn open(dir: &Path) -> Result<Self, PinError> {
        let parent = dir.parent().unwrap_or(dir);
        let path = || parent.to_owned();
        match Bpffs::of(dir) {
            Bpffs::Mounted => {}
            Bpffs::WouldHide => return Err(PinError::Hides { path: path() }),
            Bpffs::Missing => {
                let refused = |source| PinError::NoBpffs {
                    path: path(),
                    source,
                };
                std::fs::create_dir_all(parent).map_err(refused)?;
                mount("bpf", parent, "bpf", MountFlags::empty(), None)
                    .map_err(|errno| refused(errno.into()))?;
            }
        }
        create_folder(dir)?;
        Self::lock(dir)
    }

    /// The pins in `dir`, if there are any.
    ///
    /// # Errors
    /// If another process has the folder.
    pub fn find(dir: &Path) -> Result<Option<Self>, PinError> {
        if is_bpffs(dir) && dir.exists() {
            Self::lock(dir).map(Some)
        } else {
            Ok(None)
        }
    }

    fn lock(dir: &Path) -> Result<Self, PinError> {
        let path = || dir.to_owned();
        let lock = File::open(dir).map_err(|source| PinError::Create {
            path: path(),
            source,
        })?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                dir: path(),
                _lock: lock,
            }),
            Err(Errno::WOULDBLOCK) => Err(PinError::InUse { path: path() }),
            Err(errno) => Err(PinError::Create {
                path: path(),
                source: errno.into(),
            }),
        }
    }

    /// Whether a datapath is pinned here.
    #[must_use]
    pub fn in_use(&self) -> bool {
        self.dir.join("maps").exists()
    }

    /// Whether programs are attached, in this way: then something is enforced.
    #[must_use]
    pub fn has_attachments(&self, mode: HookMode) -> bool {
        std::fs::read_dir(self.dir.join(folder(mode))).is_ok_and(|mut pins| pins.next().is_some())
    }

    /// Takes off all that is attached but this.
    pub(crate) fn keep_attachments(
        &self,
        mode: HookMode,
        kept: &BTreeSet<PathBuf>,
    ) -> Result<(), PinError> {
        let pins = self.dir.join(folder(mode));
        let failed = |source: io::Error| PinError::Remove {
            path: pins.clone(),
            source,
        };
        for entry in std::fs::read_dir(&pins).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if kept.contains(&path) {
                continue;
            }
            let removed = match mode {
                HookMode::Tcx => std::fs::remove_file(&path),
                HookMode::Clsact => filter::remove_pinned(&path),
            };
            removed.map_err(|source| PinError::Remove { path, source })?;
        }
        Ok(())
    }

    /// Makes the folders.
    ///
    /// # Errors
    /// If one can't be made.
    pub fn create(&self) -> Result<(), PinError> {
        ["maps", "programs", "links", "filters"]
            .iter()
            .try_for_each(|sub| create_folder(&self.dir.join(sub)))
    }

    /// Removes all pins, links first, so that nothing runs with half of its maps. The folder stays.
    ///
    /// # Errors
    /// If one can't be removed.
    pub fn clear(&self) -> Result<(), PinError> {
        ["links", "filters", "programs", "maps"]
            .iter()
            .try_for_each(|sub| remove_folder(&self.dir.join(sub)))
    }

    /// Removes all pins and the folder.
    ///
    /// # Errors
    /// If one can't be removed.
    pub fn remove(self) -> Result<(), PinError> {
        self.clear()?;
        remove_folder(&self.dir)
    }

    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.dir.join("maps").join(name)
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.dir.join("programs").join(name)
    }

    /// An interface's name may hold dots, which a bpffs refuses; its index is as good a name.
    pub(crate) fn attachment(&self, mode: HookMode, ifindex: u32, program: &str) -> PathBuf {
        let name = format!("{ifindex}-{program}");
        self.dir.join(folder(mode)).join(name)
    }

    /// The pin of a link to a cgroup.
    pub(crate) fn cgroup_link(&self, id: u64, program: &str) -> PathBuf {
        self.dir
            .join("links")
            .join(format!("cgroup-{id}-{program}"))
    }
}

fn folder(mode: HookMode) -> &'static str {
    match mode {
        HookMode::Tcx => "links",
        HookMode::Clsact => "filters",
    }
}

/// Whether a folder of pins has a BPF file system to be in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bpffs {
    /// It is, or will be, in one that is mounted already.
    Mounted,
    /// One can be mounted over the folder that it is in, if the kernel lets it.
    Missing,
    /// That folder holds something that would be hidden.
    WouldHide,
}

impl Bpffs {
    /// What a folder of pins has, be it there or not.
    #[must_use]
    pub fn of(dir: &Path) -> Self {
        let parent = dir.parent().unwrap_or(dir);
        if is_bpffs(parent) || is_bpffs(dir) {
            return Self::Mounted;
        }
        match std::fs::read_dir(parent).is_ok_and(|mut entries| entries.next().is_some()) {
            true => Self::WouldHide,
            false => Self::Missing,
        }
    }
}

fn is_bpffs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type == BPF_FS_MAGIC)
}

fn create_folder(path: &Path) -> Result<(), PinError> {
    std::fs::create_dir_all(path).map_err(|source| PinError::Create {
        path: path.to_owned(),
        source,
    })
}

fn remove_folder(path: &Path) -> Result<(), PinError> {
    let failed = |source: io::Error| PinError::Remove {
        path: path.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let pin = entry.path();
        if entry.file_type().map_err(failed)?.is_file() {
            std::fs::remove_file(&pin).map_err(|source| PinError::Remove { path: pin, source })?;
        }
    }
    std::fs::remove_dir(path).map_err(failed)
}
