//! Debian packages.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::command::{run, which};

/// Where Debian's scripts ask whether a package may start its service.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs packages, starting none of their services: a name server would take port 53.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    ensure!(
        which("apt-get").is_some(),
        "this isn't Debian; install these by hand: {}",
        packages.join(" ")
    );
    run(Command::new("apt-get").args(["update", "-q"]))?;
    let policy = Path::new(POLICY);
    let is_ours = !policy.exists();
    if is_ours {
        write_policy(policy).with_context(|| format!("{POLICY} can't be written"))?;
    }
    let installed = run(Command::new("apt-get")
        .args(["install", "-y", "-q", "--no-install-recommends"])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(packages));
    if is_ours {
        std::fs::remove_file(policy).with_context(|| format!("{POLICY} can't be removed"))?;
    }
    installed
}

/// 101: "not allowed" (policy-rc.d, section "exit status").
fn write_policy(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, "#!/bin/sh\nexit 101\n")?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}

/// Keeps a service of a package that was installed just now from starting at the next boot.
pub(crate) fn disable_service(service: &str) -> Result<()> {
    if Path::new("/run/systemd/system").exists() {
        run(Command::new("systemctl").args(["disable", "--now", service]))?;
    }
    Ok(())
}
