//! Network namespaces held by file descriptor.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::sys;

/// A network namespace. It lives as long as a clone of this, a pin, a process or a socket in it.
#[derive(Clone, Debug)]
pub struct NetNs(Arc<OwnedFd>);

impl NetNs {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// If /proc isn't there.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The namespace behind a path (`/run/netns/NAME`, `/proc/PID/ns/net`).
    ///
    /// # Errors
    /// If the path can't be opened or is no namespace.
    pub fn open(path: &Path) -> io::Result<Self> {
        let ns = Self(Arc::new(File::open(path)?.into()));
        let magic = rustix::fs::fstatfs(&*ns.0)?.f_type;
        if magic == NSFS_MAGIC {
            Ok(ns)
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a network namespace",
            ))
        }
    }

    /// A new, empty namespace, with its loopback down.
    ///
    /// # Errors
    /// Without `CAP_SYS_ADMIN`.
    pub fn create() -> io::Result<Self> {
        on_thread(|| {
            sys::unshare_network()?;
            Self::current()
        })?
    }

    /// Runs `f` on a thread of its own inside the namespace. Sockets made there stay there.
    ///
    /// # Errors
    /// If the namespace can't be entered.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_thread(|| {
            self.enter()?;
            Ok(f())
        })?
    }

    /// Moves the calling thread into the namespace, for good. Where it is there already nothing is asked.
    ///
    /// # Errors
    /// Without `CAP_SYS_ADMIN`.
    pub fn enter(&self) -> io::Result<()> {
        if Self::current()?.inode()? == self.inode()? {
            return Ok(());
        }
        move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    }

    /// What the namespace is: equal for two handles of the same one.
    ///
    /// # Errors
    /// If the descriptor can't be read.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&*self.0)?.st_ino)
    }

    /// Keeps the namespace alive under a path.
    ///
    /// # Errors
    /// If something is there already, or the mount is refused.
    pub fn pin(&self, path: &Path) -> io::Result<()> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        OpenOptions::new().write(true).create_new(true).open(path)?;
        let source = format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&self.0.as_fd())
        );
        mount_bind(source.as_str(), path).inspect_err(|_| {
            let _ = std::fs::remove_file(path);
        })?;
        Ok(())
    }

    /// Removes what [`NetNs::pin`] made; nothing there is fine.
    ///
    /// # Errors
    /// If the mount is busy or the file can't be removed.
    pub fn unpin(path: &Path) -> io::Result<()> {
        if !path.exists() {
            return Ok(());
        }
        match unmount(path, UnmountFlags::DETACH) {
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
        std::fs::remove_file(path)
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// `f_type` of a namespace file (linux/magic.h).
const NSFS_MAGIC: i64 = 0x6e73_6673;

fn on_thread<T: Send>(f: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, f)?;
        thread
            .join()
            .map_err(|_| io::Error::other("the thread in the namespace died"))
    })
}
