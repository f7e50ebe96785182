//! The command's view of `/run`: as it is, but without the sockets behind which somebody outside resolves names
//! or opens connections for others.
//!
//! It is a folder of our own with everything else bound into it. Something mounted over a socket would not do:
//! it goes when the socket's owner unlinks it to make it anew, and over a folder when that is made anew.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, chown, symlink};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::mount::{mount_bind, mount_bind_recursive};

const RUN: &str = "/run";
/// What is not shown, below that; if it comes later it isn't either.
const HIDDEN: [&str; 12] = [
    "nscd",
    "systemd/resolve/io.systemd.Resolve",
    "systemd/resolve/io.systemd.Resolve.Monitor",
    "avahi-daemon",
    "dbus/system_bus_socket",
    "systemd/private",
    "systemd/io.systemd.Manager",
    "docker.sock",
    "containerd/containerd.sock",
    "podman/podman.sock",
    "crio/crio.sock",
    "snapd.socket",
];
/// The folders of users are there, one for each.
const USERS: &str = "user";
/// What is not shown of each.
const HIDDEN_OF_USER: [&str; 6] = [
    "bus",
    "systemd/private",
    "systemd/io.systemd.Manager",
    "docker.sock",
    "podman/podman.sock",
    "at-spi/bus",
];

/// Draws the view in an empty folder, and has it in the place of `/run`. What can't be shown is empty there.
///
/// # Errors
/// If the kernel refuses.
pub(super) fn draw(view: &Path) -> Result<()> {
    let run = Path::new(RUN);
    if !run.is_dir() {
        return Ok(());
    }
    show(run, (Path::new(""), view)).context(RUN)?;
    mount_bind_recursive(view, run).context(RUN)
}

/// Shows a folder of `/run` in another, which is empty.
fn show(run: &Path, (path, view): (&Path, &Path)) -> io::Result<()> {
    fs::create_dir_all(view)?;
    for entry in fs::read_dir(run.join(path))? {
        let entry = entry?;
        let (own, below) = (entry.path(), path.join(entry.file_name()));
        let shown = view.join(entry.file_name());
        if is_hidden(&below) {
            continue;
        }
        // One that is gone by now is not shown.
        let (Ok(kind), Ok(about)) = (entry.file_type(), entry.metadata()) else {
            continue;
        };
        if kind.is_symlink() {
            if let Ok(target) = fs::read_link(&own) {
                symlink(target, &shown)?;
            }
        } else if kind.is_dir() && leads_to_hidden(&below) {
            // Whose folder it isn't sees nothing of it, here as there.
            let _ = show(run, (&below, &shown));
            fs::set_permissions(&shown, about.permissions())?;
            // In a user namespace others than its owner are nobody.
            let _ = chown(&shown, Some(about.uid()), Some(about.gid()));
        } else if kind.is_dir() {
            fs::create_dir(&shown)?;
            let _ = mount_bind_recursive(&own, &shown);
        } else {
            fs::File::create(&shown)?;
            let _ = mount_bind(&own, &shown);
        }
    }
    Ok(())
}

fn is_hidden(path: &Path) -> bool {
    let of_user = |rest: &Path| {
        HIDDEN_OF_USER
            .iter()
            .any(|hidden| rest == Path::new(hidden))
    };
    HIDDEN.iter().any(|hidden| path == Path::new(hidden)) || of_user_at(path).is_some_and(of_user)
}

/// Whether something hidden is or may come to be below a folder.
fn leads_to_hidden(path: &Path) -> bool {
    let leads = |hidden: &[&str], path: &Path| {
        let mut all = hidden.iter();
        all.any(|hidden| Path::new(hidden).starts_with(path))
    };
    path == Path::new(USERS)
        || leads(&HIDDEN, path)
        || of_user_at(path).is_some_and(|rest| leads(&HIDDEN_OF_USER, rest))
}

/// A path in the folder of a user.
fn of_user_at(path: &Path) -> Option<&Path> {
    let mut parts = path.strip_prefix(USERS).ok()?.components();
    parts.next()?;
    Some(parts.as_path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_hidden_and_what_leads_to_them_is_drawn_anew() {
        for (path, hidden, leads) in [
            ("docker.sock", true, true),
            ("nscd", true, true),
            ("systemd", false, true),
            ("systemd/resolve", false, true),
            ("systemd/resolve/stub-resolv.conf", false, false),
            ("systemd/journal", false, false),
            ("user", false, true),
            ("user/1000", false, true),
            ("user/1000/bus", true, true),
            ("user/1000/systemd", false, true),
            ("user/1000/systemd/private", true, true),
            ("user/1000/pulse", false, false),
            ("bus", false, false),
            ("lock", false, false),
        ] {
            let path = Path::new(path);
            assert_eq!(is_hidden(path), hidden, "{}", path.display());
            assert_eq!(leads_to_hidden(path), leads, "{}", path.display());
        }
    }
}
