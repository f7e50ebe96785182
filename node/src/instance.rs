//! One daemon for each network namespace: two on one endpoint would hand each other the same packet
//! for ever. And the names and paths that an instance has.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;

use transport::SideLinkNames;

/// The name of a daemon, `default` unless it was told another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Instance(String);

/// Longest name of an instance: it becomes part of paths and of a link's alias.
const NAME_MAX: usize = 64;

impl Instance {
    /// A name of letters, digits, `-` and `_`.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(is_plain) {
            return Err(format!(
                "an instance's name has 1 to {NAME_MAX} letters, digits, - and _"
            ));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// `namegate`, or `namegate-NAME`.
    fn stem(&self) -> String {
        if self.0 == "default" {
            "namegate".to_owned()
        } else {
            format!("namegate-{}", self.0)
        }
    }

    /// Its configuration.
    pub(crate) fn config(&self) -> PathBuf {
        PathBuf::from("/etc").join(self.stem()).join("config.yaml")
    }

    /// Where it keeps state.
    pub(crate) fn state_dir(&self) -> PathBuf {
        PathBuf::from("/var/lib").join(self.stem())
    }

    /// Its control socket.
    pub(crate) fn socket(&self) -> PathBuf {
        PathBuf::from("/run")
            .join(self.stem())
            .join("namegate.sock")
    }

    /// Where the process that holds its listeners is found.
    pub(crate) fn holder(&self) -> PathBuf {
        PathBuf::from("/run").join(self.stem()).join("holder.sock")
    }

    /// Its pins.
    pub(crate) fn bpf_dir(&self) -> PathBuf {
        PathBuf::from("/sys/fs/bpf").join(self.stem())
    }

    /// The pin of its gate namespace.
    pub(crate) fn gate_pin(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(format!("namegate-{}", self.0))
    }

    /// The names of its side link.
    pub(crate) fn side_link(&self) -> SideLinkNames {
        SideLinkNames::of_instance(&self.0)
    }
}

impl Default for Instance {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

/// Held while a daemon runs; ends with the process, however that ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _listener: UnixListener,
}

/// Abstract names belong to a network namespace.
const LOCK_NAME: &[u8] = b"namegate";

impl Lock {
    /// Takes the lock of the calling thread's network namespace; `Err(Some(pid))` names its holder.
    pub(crate) fn take() -> Result<Self, Option<i32>> {
        let bind = || UnixListener::bind_addr(&SocketAddr::from_abstract_name(LOCK_NAME)?);
        match bind() {
            Ok(listener) => Ok(Self {
                _listener: listener,
            }),
            Err(_) => Err(holder_here()),
        }
    }
}

/// The process that holds the lock of the calling thread's network namespace.
pub(crate) fn holder_here() -> Option<i32> {
    holder().ok()
}

fn holder() -> io::Result<i32> {
    let stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(LOCK_NAME)?)?;
    let credentials = rustix::net::sockopt::socket_peercred(&stream)?;
    Ok(credentials.pid.as_raw_nonzero().get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_goes_into_every_default() {
        let default = Instance::parse("default").unwrap();
        assert_eq!(default.bpf_dir(), PathBuf::from("/sys/fs/bpf/namegate"));
        let named = Instance::parse("perf").unwrap();
        assert_eq!(
            named.socket(),
            PathBuf::from("/run/namegate-perf/namegate.sock")
        );
        assert_eq!(
            named.holder(),
            PathBuf::from("/run/namegate-perf/holder.sock")
        );
        assert_eq!(named.state_dir(), PathBuf::from("/var/lib/namegate-perf"));
        assert_eq!(named.gate_pin(), PathBuf::from("/run/netns/namegate-perf"));
        assert_ne!(named.side_link().node, default.side_link().node);
        assert!(named.side_link().node.len() <= 15);
    }

    #[test]
    fn names_that_would_leave_their_folder_are_refused() {
        for name in ["", "../x", "a b", "ü", &"x".repeat(65)] {
            assert!(Instance::parse(name).is_err(), "{name}");
        }
    }
}
