//! How a command's network is made.

use std::fmt;
use std::fs;

use anyhow::Result;
use clap::ValueEnum;
use rustix::thread::{CapabilitySet, capabilities};

use crate::datapath::Carriage;
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

/// What programs and network namespaces take.
const NEEDED: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::BPF)
    .union(CapabilitySet::PERFMON);

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
            Self::Tc => "--mode tc needs root: it makes network namespaces and loads BPF programs",
            Self::Cgroup => "--net=host needs root: it makes a cgroup and loads BPF programs",
            Self::Splice => return Ok(()),
        };
        match may_load_programs() {
            true => Ok(()),
            false => Err(Exit::with(EXEC_FAILED, said)),
        }
    }
}

fn may_load_programs() -> bool {
    let effective = capabilities(None).map(|sets| sets.effective);
    let namespace = fs::read_link("/proc/self/ns/user").unwrap_or_default();
    effective.is_ok_and(|sets| sets.contains(NEEDED))
        && namespace.as_os_str() == FIRST_USER_NAMESPACE
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
