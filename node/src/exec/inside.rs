//! The last steps before a command, in its own process: files that are others inside, less power, and then
//! the command in this process' place.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change,
    mount_remount, unmount,
};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};
use serde::{Deserialize, Serialize};

use super::door::{self, Door};
use super::surroundings::{Surroundings, nsswitch_conf, resolv_conf};
use super::user::User;
use super::veil;
use crate::exit::{CANT_RUN, EXEC_FAILED, Exit, NOT_FOUND};

/// What is to be done, from one process of ours to the next.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Orders {
    parent: i32,
    /// `None`: as it is.
    resolv_conf: Option<String>,
    nsswitch: Option<String>,
    /// How many descriptors it may have: this process took more.
    descriptors: Option<u64>,
    pub(super) user: Option<User>,
    /// Where the sockets of its network are taken, which it makes itself; `None`: it is in it.
    door: Option<String>,
    /// Where it waits, when all is done, until it may become the command.
    gate: Option<String>,
    /// The cgroup in which it is judged; `None`: it has a network of its own.
    cgroup: Option<PathBuf>,
}

impl Orders {
    pub(super) fn new(around: &Surroundings, user: Option<&User>) -> Self {
        Self {
            parent: rustix::process::getpid().as_raw_nonzero().get(),
            resolv_conf: Some(around.resolver.text.clone()),
            nsswitch: around.nsswitch.clone(),
            descriptors: around.descriptors,
            user: user.cloned(),
            door: None,
            gate: None,
            cgroup: None,
        }
    }

    /// The same for one that stays in the machine's network, in a cgroup.
    pub(super) fn in_cgroup(self, cgroup: &Path) -> Self {
        Self {
            resolv_conf: None,
            cgroup: Some(cgroup.to_owned()),
            ..self
        }
    }

    /// The same for one that isn't guarded yet.
    pub(super) fn with_gate(self, door: &Door) -> Self {
        Self {
            gate: Some(door.name.clone()),
            ..self
        }
    }

    /// The same for one that makes its network itself.
    pub(super) fn with_door(self, door: &Door) -> Self {
        Self {
            door: Some(door.name.clone()),
            ..self
        }
    }
}

/// What root keeps inside: whose files are whose, and who it is. Nothing by which it could leave its
/// namespaces, or see into other processes.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::NET_BIND_SERVICE);

/// Becomes the command.
///
/// # Errors
/// 125 if a step fails, 127 if there is no such program, 126 if it can't be run.
pub(crate) fn run(orders: &Orders, command: &[OsString]) -> Result<()> {
    prepare(orders).map_err(|error| Exit::with(EXEC_FAILED, format!("{error:#}")))?;
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| Exit::with(EXEC_FAILED, "no command"))?;
    let error = Command::new(program).args(arguments).exec();
    let code = match error.kind() == io::ErrorKind::NotFound {
        true => NOT_FOUND,
        false => CANT_RUN,
    };
    Err(Exit::with(code, format!("{}: {error}", program.display())))
}

fn prepare(orders: &Orders) -> Result<()> {
    let limit = Rlimit {
        current: orders.descriptors,
        ..getrlimit(Resource::Nofile)
    };
    setrlimit(Resource::Nofile, limit)?;
    let gate = orders.gate.as_deref().map(door::come).transpose()?;
    if let Some(cgroup) = &orders.cgroup {
        // Before it has a socket.
        fs::write(cgroup.join("cgroup.procs"), "0").context("its cgroup")?;
    }
    if let Some(door) = &orders.door {
        door::make_network(door)?;
    }
    change_files(orders).context("the command's files")?;
    lose_power(orders.user.as_ref(), orders.door.is_some()).context("the command's privileges")?;
    // After the change of user, which undoes it.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let is_orphan = getppid().map(Pid::as_raw_nonzero).map(i32::from) != Some(orders.parent);
    anyhow::ensure!(!is_orphan, "namegate is gone");
    gate.as_ref().map_or(Ok(()), door::wait)
}

/// Where the new files are made: anywhere that none of them is to go.
const STAGES: [&str; 4] = ["/tmp", "/mnt", "/var/tmp", "/srv"];

fn change_files(orders: &Orders) -> Result<()> {
    transport::unshare_mounts().context("a mount namespace")?;
    let downstream = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", downstream).context("its mounts")?;
    let stage = STAGES.into_iter().map(Path::new).find(|path| path.is_dir());
    let stage = stage.context("none of /tmp, /mnt, /var/tmp and /srv is there")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tmpfs", stage, "tmpfs", flags, None).context("a place for them")?;
    let outcome = lay(orders, stage);
    unmount(stage, UnmountFlags::DETACH).context("their place")?;
    outcome?;
    match &orders.cgroup {
        Some(_) => close_cgroups(&fs::read_to_string("/proc/self/mounts")?),
        None => Ok(()),
    }
}

/// Has nobody inside move to another cgroup, or take programs off.
fn close_cgroups(mounts: &str) -> Result<()> {
    let closed = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        let (Some(place), Some(kind)) = (words.next(), words.next()) else {
            continue;
        };
        let outcome = match kind {
            "cgroup2" => mount_remount(place, MountFlags::BIND | closed, ""),
            "bpf" => mount("tmpfs", place, "tmpfs", closed, None),
            _ => continue,
        };
        outcome.with_context(|| place.to_owned())?;
    }
    Ok(())
}

fn lay(orders: &Orders, stage: &Path) -> Result<()> {
    // First: what follows may be in it.
    veil::draw(&stage.join("run"))?;
    let over = |name: &str, text: &str, place: &Path| -> Result<()> {
        let file = stage.join(name);
        fs::write(&file, text).with_context(|| name.to_owned())?;
        mount_bind(&file, place).with_context(|| place.display().to_string())
    };
    match (&orders.resolv_conf, resolv_conf()) {
        (None, _) => {}
        (Some(text), Ok(place)) => over("resolv.conf", text, &place)?,
        // Then libc asks 127.0.0.1, which is nobody inside.
        (Some(_), Err(error)) => {
            let said = format!("namegate: /etc/resolv.conf: {error}: no names are resolved\n");
            let _ = io::stderr().write_all(said.as_bytes());
        }
    }
    if let (Some(text), Ok(place)) = (&orders.nsswitch, nsswitch_conf()) {
        over("nsswitch.conf", text, &place)?;
    }
    Ok(())
}

fn lose_power(user: Option<&User>, is_in_own_namespace: bool) -> Result<()> {
    let uid = user.map_or_else(|| rustix::process::geteuid().as_raw(), |user| user.uid);
    let kept = match uid {
        0 => KEPT,
        _ => CapabilitySet::empty(),
    };
    // In a user namespace of its own none has power over anything outside, and `no_new_privs` gives none back;
    // without the bounding set programs whose files have one (ping, a node that may bind port 80) would not run.
    let lost = match is_in_own_namespace {
        true => CapabilitySet::empty(),
        false => CapabilitySet::all() - kept,
    };
    for one in lost.iter() {
        // One that this kernel doesn't know is lost already.
        let _ = remove_capability_from_bounding_set(one);
    }
    if let Some(user) = user {
        let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        set_thread_groups(&groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
    }
    let _ = clear_ambient_capability_set();
    let has = capabilities(None)?.permitted & kept;
    set_capabilities(
        None,
        CapabilitySets {
            effective: has,
            permitted: has,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    set_no_new_privs(true)?;
    Ok(())
}
