//! The store of descriptors of systemd (`FDSTORE=1` of sd_notify, `LISTEN_FDS` at the next start). The unit
//! needs `FileDescriptorStoreMax=`.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use transport::Passed;

use super::wire::send;

/// What every name in the store begins with: a unit may have descriptors of others in it.
const PREFIX: &str = "namegate-";

/// What the environment says of who started us.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manager {
    /// `NOTIFY_SOCKET`.
    pub(crate) notify: Option<OsString>,
    /// `LISTEN_PID`, `LISTEN_FDS`, `LISTEN_FDNAMES`.
    pub(crate) passed: [String; 3],
}

impl Manager {
    pub(super) fn is_there(&self) -> bool {
        self.notify.is_some()
    }

    /// What an earlier daemon left in the store, each by its name without our prefix.
    pub(super) fn take(&self) -> Vec<(String, OwnedFd)> {
        let [pid, count, names] = &self.passed;
        let all = Passed { pid, count, names }.take();
        let ours = all.into_iter().filter_map(|(name, fd)| {
            let name = name.strip_prefix(PREFIX)?.to_owned();
            Some((name, fd))
        });
        ours.collect()
    }

    /// Puts them into the store. What is there already is not put twice.
    pub(super) fn keep(&self, kept: &[(&'static str, OwnedFd)]) -> io::Result<()> {
        let socket = self.connect()?;
        for (name, fd) in kept {
            // Without the poll: an error that waits at a socket is no reason to let it go.
            let text = format!("FDSTORE=1\nFDPOLL=0\nFDNAME={PREFIX}{name}\n");
            send(&socket, &text, Some(fd.as_fd()))?;
        }
        Ok(())
    }

    /// Takes all that is ours out of the store.
    pub(super) fn forget(&self) {
        let Ok(socket) = self.connect() else { return };
        for name in super::NAMES {
            let text = format!("FDSTOREREMOVE=1\nFDNAME={PREFIX}{name}\n");
            // Who doesn't listen keeps nothing.
            let _ = send(&socket, &text, None);
        }
    }

    fn connect(&self) -> io::Result<UnixDatagram> {
        let path = self.notify.as_deref().unwrap_or_default();
        let address = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(path)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        Ok(socket)
    }
}
