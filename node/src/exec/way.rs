//! How a command's network is made.

use std::fmt;
use std::fs;

use anyhow::Result;
use clap::ValueEnum;

use crate::datapath::Carriage;
use crate::doctor::lacking_here;
use crate::exit::{EXEC_FAILED, Exit};

/// One of three ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Way {
    /// Programs of the kernel.
    Tc,
    /// Rules in a user namespace, and sockets.
    Splice,
    /// None is made: programs of the kernel at a cgroup, in the machine's own network.
    Cgroup,
}

/// The user namespace that a machine starts with (`PROC_USER_INIT_INO`): elsewhere privileges load no programs.
const FIRST_USER_NAMESPACE: &str = "user:[4026531837]";

impl Way {
    /// How what the command sends gets to where policy lets it.
    pub(super) const fn carriage(self) -> Carriage {
        match self {
            Self::Tc | Self::Splice => Carriage::ByProxy,
            Self::Cgroup => Carriage::Direct,
        }
    }

    /// By programs where this process may load them.
    pub(super) fn probe() -> Self {
        match may_load_programs() {
            true => Self::Tc,
            false => Self::Splice,
        }
    }

    /// Whether it can be gone.
    ///
    /// # Errors
    /// If a privilege is missing.
    pub(super) fn check(self) -> Result<()> {
        let said = match self {
            Self::Tc => "--mode tc makes network namespaces and loads BPF programs",
            Self::Cgroup => "--net=host makes a cgroup and loads BPF programs",
            Self::Splice => return Ok(()),
        };
        match may_load_programs() {
            true => Ok(()),
            false => Err(Exit::with(EXEC_FAILED, format!("{said}; {}", privileges()))),
        }
    }
}

/// What of privileges would help whoever calls.
pub(super) fn privileges() -> String {
    match rustix::process::geteuid().is_root() {
        false => "run it as root".to_owned(),
        true => of_root(is_first_user_namespace(), &lacking_here()),
    }
}

/// The same for root, as it is in a container or in a user namespace.
fn of_root(is_first_namespace: bool, lacking: &[&str]) -> String {
    match is_first_namespace {
        false => "run it as root outside of this user namespace, whose privileges load no programs"
            .to_owned(),
        true => format!("give root what it lacks here: {}", lacking.join(", ")),
    }
}

fn may_load_programs() -> bool {
    lacking_here().is_empty() && is_first_user_namespace()
}

fn is_first_user_namespace() -> bool {
    let namespace = fs::read_link("/proc/self/ns/user").unwrap_or_default();
    namespace.as_os_str() == FIRST_USER_NAMESPACE
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tc => "tc",
            Self::Splice => "splice",
            Self::Cgroup => "cgroup",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_not_told_to_be_root() {
        let said = of_root(true, &["CAP_BPF", "CAP_NET_ADMIN"]);
        assert_eq!(said, "give root what it lacks here: CAP_BPF, CAP_NET_ADMIN");
        assert!(of_root(false, &[]).contains("outside of this user namespace"));
    }
}
