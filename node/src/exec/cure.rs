//! What a system forbids to who has no privileges, in one line, with what would help.

use std::fs;

use rustix::process::geteuid;
use rustix::thread::{CapabilitySet, capabilities};
use transport::SpliceError;

use super::way;
use crate::exit::{EXEC_FAILED, Exit};

/// Where a system says what it allows.
const KNOBS: [&str; 3] = [
    "kernel/unprivileged_userns_clone",
    "kernel/apparmor_restrict_unprivileged_userns",
    "user/max_user_namespaces",
];

/// What a cure names of this process, before it is in a user namespace: there it is somebody else.
pub(super) struct Here {
    privileges: String,
    binary: String,
    /// Whether it is root, and may not be root in a user namespace too (since Linux 5.12).
    is_unmappable_root: bool,
}

impl Here {
    pub(super) fn look() -> Self {
        let binary = std::env::current_exe().unwrap_or_default();
        let may_map =
            capabilities(None).is_ok_and(|own| own.effective.contains(CapabilitySet::SETFCAP));
        Self {
            privileges: way::privileges(),
            binary: binary.display().to_string(),
            is_unmappable_root: geteuid().is_root() && !may_map,
        }
    }

    /// The error with its cure.
    pub(super) fn explained(&self, error: &SpliceError) -> anyhow::Error {
        let knobs = KNOBS.map(|knob| {
            let text = fs::read_to_string(format!("/proc/sys/{knob}")).ok()?;
            text.trim().parse().ok()
        });
        Exit::with(EXEC_FAILED, explain(error, (knobs, self)))
    }
}

fn explain(
    error: &SpliceError,
    ([clone, apparmor, max], here): ([Option<u64>; 3], &Here),
) -> String {
    let says = |what: &str| format!("{error}: {what}; or {}", here.privileges);
    match error {
        SpliceError::UserNamespace(_) if max == Some(0) => {
            says("the system allows none, `sysctl user.max_user_namespaces=10000` does")
        }
        SpliceError::UserNamespace(_) if clone == Some(0) => {
            says("only root may make one, `sysctl kernel.unprivileged_userns_clone=1` lets all")
        }
        SpliceError::UserNamespace(source) if source.raw_os_error() == Some(ENOSPC) => {
            says("there are too many, see `sysctl user.max_user_namespaces`")
        }
        SpliceError::UserNamespace(_) | SpliceError::Powerless(_) if apparmor == Some(1) => {
            says(&format!(
                "AppArmor forbids it to programs without a profile: /etc/apparmor.d/namegate for {}, whose lines are in docs/install.md, allows it to this one, `sysctl kernel.apparmor_restrict_unprivileged_userns=0` to all",
                here.binary
            ))
        }
        SpliceError::UserNamespace(_) => says(
            "a container's seccomp filter forbids it, likely; start it with --security-opt seccomp=unconfined",
        ),
        SpliceError::Powerless(_) if here.is_unmappable_root => format!(
            "{error}: root needs CAP_SETFCAP for it, which it lacks here, as in a command of `namegate exec`; call it as another user, as by setpriv"
        ),
        SpliceError::Powerless(_) => says("a security module forbids it, likely"),
        SpliceError::NoNft(_) => says("the package nftables has it"),
        SpliceError::Nft(_) => says(
            "the kernel lacks what the rules ask for, likely: `modprobe -a nft_tproxy nft_log nfnetlink_log` by root loads it (nft_nat does in place of nft_tproxy)",
        ),
        SpliceError::Link(_) | SpliceError::Sockets(_) => format!("the command's network: {error}"),
    }
}

const ENOSPC: i32 = 28;

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn what_a_system_forbids_is_named_with_its_cure() {
        let eperm = || io::Error::from_raw_os_error(1);
        for (error, knobs, cure) in [
            (
                SpliceError::UserNamespace(io::Error::from_raw_os_error(ENOSPC)),
                [None, None, Some(0)],
                "user.max_user_namespaces=10000",
            ),
            (
                SpliceError::UserNamespace(io::Error::from_raw_os_error(ENOSPC)),
                [None, None, Some(9)],
                "see `sysctl",
            ),
            (
                SpliceError::UserNamespace(eperm()),
                [Some(0), None, Some(9)],
                "unprivileged_userns_clone=1",
            ),
            (
                SpliceError::UserNamespace(eperm()),
                [Some(1), None, Some(9)],
                "seccomp=unconfined",
            ),
            (
                SpliceError::Powerless(eperm()),
                [None, Some(1), Some(9)],
                "apparmor_restrict_unprivileged_userns=0",
            ),
            (
                SpliceError::UserNamespace(eperm()),
                [None, Some(1), Some(9)],
                "/etc/apparmor.d/namegate for /home/me/.cargo/bin/namegate,",
            ),
            (
                SpliceError::NoNft(io::ErrorKind::NotFound.into()),
                [None; 3],
                "the package nftables",
            ),
            (
                SpliceError::Nft("Error: Could not process rule: No such file".to_owned()),
                [None; 3],
                "modprobe -a nft_tproxy",
            ),
        ] {
            let here = Here {
                privileges: "run it as root".to_owned(),
                binary: "/home/me/.cargo/bin/namegate".to_owned(),
                is_unmappable_root: false,
            };
            let said = explain(&error, (knobs, &here));
            assert!(said.contains(cure), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }
}
