//! The pins: what outlives the daemon.
//!
//! `DIR/maps/NAME`, `DIR/programs/NAME`, `DIR/links/INTERFACE-PROGRAM`. Removing a link's pin takes the
//! program off its interface, unless the daemon still holds the link.

use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, mount};

/// A folder of pins on a bpffs.
#[derive(Clone, Debug)]
pub struct Pins {
    dir: PathBuf,
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
    /// The pins in `dir`. A bpffs is mounted over `dir`'s parent if none is there.
    ///
    /// # Errors
    /// If there is no bpffs and none can be mounted.
    pub fn open(dir: &Path) -> Result<Self, PinError> {
        let parent = dir.parent().unwrap_or(dir);
        if !is_bpffs(parent) && !is_bpffs(dir) {
            let refused = |source: io::Error| PinError::NoBpffs {
                path: parent.to_owned(),
                source,
            };
            if !parent.exists() {
                std::fs::create_dir_all(parent).map_err(refused)?;
            }
            mount("bpf", parent, "bpf", MountFlags::empty(), None)
                .map_err(|errno| refused(errno.into()))?;
        }
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// The pins in `dir`, if there are any.
    #[must_use]
    pub fn find(dir: &Path) -> Option<Self> {
        (is_bpffs(dir) && dir.join("maps").exists()).then(|| Self {
            dir: dir.to_owned(),
        })
    }

    /// Whether a datapath is pinned here.
    #[must_use]
    pub fn in_use(&self) -> bool {
        self.dir.join("maps").exists()
    }

    /// Makes the folders.
    ///
    /// # Errors
    /// If one can't be made.
    pub fn create(&self) -> Result<(), PinError> {
        for sub in ["maps", "programs", "links"] {
            let path = self.dir.join(sub);
            std::fs::create_dir_all(&path).map_err(|source| PinError::Create { path, source })?;
        }
        Ok(())
    }

    /// Removes all pins, links first, so that nothing runs with half of its maps; then the folder.
    ///
    /// # Errors
    /// If one can't be removed.
    pub fn remove(&self) -> Result<(), PinError> {
        for sub in ["links", "programs", "maps"] {
            remove_folder(&self.dir.join(sub))?;
        }
        remove_folder(&self.dir)
    }

    /// The names of pinned links: `INTERFACE-PROGRAM`.
    #[must_use]
    pub fn links(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.dir.join("links")) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }

    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.dir.join("maps").join(name)
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.dir.join("programs").join(name)
    }

    /// An interface's name may hold dots, which a bpffs refuses; its index is as good a name.
    pub(crate) fn link(&self, ifindex: u32, program: &str) -> PathBuf {
        self.dir.join("links").join(format!("{ifindex}-{program}"))
    }
}

fn is_bpffs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type == BPF_FS_MAGIC)
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
