//! The programs, loaded: those of endpoints by threads of their own. The kernel verifies each of them for
//! longer than all others together.

use std::collections::BTreeMap;
use std::io;
use std::thread::{self, JoinHandle, Scope, ScopedJoinHandle};

use aya::programs::{Program, ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfError, EbpfLoader};
use bpf_redirect_common as common;
use bpf_redirect_common::Config;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use super::ahead::Ahead;
use super::links::attach_ahead;
use super::{ConfigMap, Datapath, DatapathError, listener, program_error, write_config};
use crate::Pins;
use crate::attach::{Hook, HookMode};
use crate::object::{FROM_ENDPOINT, LISTEN, OBJECT, PROGRAMS, TO_ENDPOINT};

/// What loads the programs.
///
/// aya reads the kernel's types for each, 20 ms of 2 MB that none of our programs asks for, and can't be told
/// not to. So it is made on a thread that may open no file, which is taken for a kernel without them.
pub struct Loader(Source);

enum Source {
    /// A thread makes it.
    Made(Option<JoinHandle<EbpfLoader<'static>>>),
    /// A thread makes it and the maps.
    Ahead(JoinHandle<Result<Ebpf, EbpfError>>),
}

/// Entries of a map that is not used.
const UNUSED_ENTRIES: u32 = 64;

impl Loader {
    /// Starts to make one.
    #[must_use]
    pub fn start() -> Self {
        let thread = thread::Builder::new().name("loader".to_owned());
        let make = || {
            // Where that can't be had, it takes those 20 ms, beside what else there is to do.
            let _ = open_nothing();
            EbpfLoader::new()
        };
        Self(Source::Made(thread.spawn(make).ok()))
    }

    /// Makes the maps too, new ones, while whoever calls makes ready where they are needed. No cgroup is going
    /// to be guarded: what only those need has no room.
    #[must_use]
    pub fn ahead_for_links(self) -> Self {
        let thread = thread::Builder::new().name("maps".to_owned());
        // Where there is no thread to be had, it is made later.
        let loaded = thread.spawn(move || {
            let mut loader = self.finish();
            for name in [common::CG_SOCKET, common::CG_ASKER] {
                loader.map_max_entries(name, UNUSED_ENTRIES);
            }
            loader.load(OBJECT)
        });
        Self(loaded.map_or(Source::Made(None), Source::Ahead))
    }

    /// The programs, not loaded yet, with maps of their own.
    pub(super) fn fresh(self) -> Result<Ebpf, EbpfError> {
        match self.0 {
            // A panic goes on here.
            Source::Ahead(thread) => thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            made @ Source::Made(_) => Self(made).finish().load(OBJECT),
        }
    }

    /// The loader, for maps that are there or are to be made.
    pub(super) fn finish(self) -> EbpfLoader<'static> {
        let made = match self.0 {
            Source::Made(thread) => thread.and_then(|thread| thread.join().ok()),
            Source::Ahead(_) => None,
        };
        let mut loader = made.unwrap_or_default();
        loader.btf(None);
        loader
    }
}

/// Has the kernel refuse to open files to this thread, as long as it lives.
fn open_nothing() -> io::Result<()> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    let refuse = SeccompAction::Errno(libc::ENOENT.unsigned_abs());
    let rules = [(libc::SYS_openat, Vec::new())].into();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch);
    let program = filter
        .and_then(BpfProgram::try_from)
        .map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(io::Error::other)
}

/// The programs of the side link, while those of endpoints are being loaded.
pub struct SideLink<'a> {
    programs: BTreeMap<&'static str, &'a mut SchedClassifier>,
    mode: HookMode,
    pins: Option<&'a Pins>,
    ahead: &'a mut Ahead,
    config: &'a mut Config,
    map: ConfigMap,
}

impl SideLink<'_> {
    /// Says where the side link is, before anything is attached.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.config.side_link_ifindex = ifindex;
        write_config(&mut self.map, self.config)
    }

    /// As [`Datapath::attach_ahead`].
    pub fn attach_ahead(
        &mut self,
        places: &[(Hook, (&str, u32))],
        enter: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) {
        let by = (self.mode, self.pins);
        let program = |hook: Hook| self.programs.get(hook.program()).map(|one| &**one);
        attach_ahead(self.ahead, (by, program), places, enter);
    }
}

/// Loads all programs, and makes the side link meanwhile.
pub(super) fn all<T>(
    datapath: &mut Datapath,
    make: impl FnOnce(&mut SideLink<'_>) -> T,
) -> Result<T, DatapathError> {
    let map = datapath.open(common::CONFIG)?;
    let mut found: BTreeMap<&str, &mut Program> = datapath.ebpf.programs_mut().collect();
    let mut take = |name| found.remove(name).ok_or(DatapathError::Missing(name));
    let listen = take(LISTEN)?;
    let mut take = |name| -> Result<&mut SchedClassifier, DatapathError> {
        take(name)?.try_into().map_err(program_error(name))
    };
    let (from, to) = (take(FROM_ENDPOINT)?, take(TO_ENDPOINT)?);
    let mut programs = BTreeMap::new();
    for name in PROGRAMS {
        if ![FROM_ENDPOINT, TO_ENDPOINT].contains(&name) {
            programs.insert(name, take(name)?);
        }
    }
    thread::scope(|scope| {
        // One of the long ones first, and the other when there is nothing else to verify: two CPUs have
        // enough to do then.
        let from = load(scope, FROM_ENDPOINT, from)?;
        for (name, program) in &mut programs {
            program.load().map_err(program_error(name))?;
        }
        listener::load(listen)?;
        let to = load(scope, TO_ENDPOINT, to)?;
        let mut side_link = SideLink {
            programs,
            mode: datapath.mode,
            pins: datapath.pins.as_ref(),
            ahead: &mut datapath.ahead,
            config: &mut datapath.config,
            map,
        };
        let made = make(&mut side_link);
        for one in [from, to] {
            // A panic goes on here.
            one.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(made)
    })
}

/// Loads one in a thread of its own.
fn load<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    name: &'static str,
    program: &'env mut SchedClassifier,
) -> Result<ScopedJoinHandle<'scope, Result<(), DatapathError>>, DatapathError> {
    let thread = thread::Builder::new().name("verify".to_owned());
    let started = thread.spawn_scoped(scope, move || program.load().map_err(program_error(name)));
    started.map_err(|error| program_error(name)(ProgramError::IOError(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_makes_a_loader_opens_nothing_and_all_others_do() {
        let read = || std::fs::read("/proc/self/status");
        let refused = thread::spawn(move || {
            open_nothing().unwrap();
            read()
        });
        let refused = refused.join().unwrap();
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::NotFound);
        read().unwrap();
    }
}
