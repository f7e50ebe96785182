//! The five hooks, by tcx where the kernel has it, else by clsact.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, tc};

use crate::filter;
use crate::object;
use crate::{DatapathError, PinError};

/// Where a program sits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Hook {
    /// Ingress of an endpoint's interface: what the workload sends.
    FromEndpoint,
    /// Egress of an endpoint's interface: what is sent to the workload.
    ToEndpoint,
    /// Ingress of the node's end of the side link.
    NodeEnd,
    /// Ingress of the gate's end.
    GateIn,
    /// Egress of the gate's end.
    GateOut,
}

impl Hook {
    /// The name of its program.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::FromEndpoint => object::FROM_ENDPOINT,
            Self::ToEndpoint => object::TO_ENDPOINT,
            Self::NodeEnd => object::NODE_END,
            Self::GateIn => object::GATE_IN,
            Self::GateOut => object::GATE_OUT,
        }
    }

    pub(crate) fn is_ingress(self) -> bool {
        match self {
            Self::FromEndpoint | Self::NodeEnd | Self::GateIn => true,
            Self::ToEndpoint | Self::GateOut => false,
        }
    }

    pub(crate) fn side(self) -> TcAttachType {
        match self.is_ingress() {
            true => TcAttachType::Ingress,
            false => TcAttachType::Egress,
        }
    }
}

/// By which means programs are attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HookMode {
    /// tcx links (Linux 6.6), ours first in the chain.
    Tcx,
    /// Filters of the clsact qdisc, preference 1.
    Clsact,
}

impl HookMode {
    /// What this kernel has: an old one doesn't know how to list tcx programs.
    ///
    /// # Errors
    /// If this process may not ask it.
    pub fn probe() -> Result<Self, ProgramError> {
        match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
            Ok(_) => Ok(Self::Tcx),
            Err(error) if is_refusal(&error) => Err(error),
            Err(_) => Ok(Self::Clsact),
        }
    }

    /// For the interfaces of a namespace of our own, the calling thread's: filters, which are there at once,
    /// since nobody else's programs are to be in front of. Each change of a tcx chain waits until no CPU runs
    /// the old one (`tcx_entry_sync`), 8 to 16 ms. Where the kernel has no clsact, as [`HookMode::probe`].
    #[must_use]
    pub fn of_own_namespace() -> Self {
        match tc::qdisc_add_clsact("lo") {
            Ok(()) => Self::Clsact,
            Err(_) => Self::probe().unwrap_or(Self::Clsact),
        }
    }
}

/// Whether the kernel refused the call to this process: by its privileges, or a filter of its calls.
fn is_refusal(error: &(dyn Error + 'static)) -> bool {
    let refusals = [libc::EPERM, libc::EACCES, libc::ENOSYS].map(Some);
    let number = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::raw_os_error);
    refusals.contains(&number) || error.source().is_some_and(is_refusal)
}

/// A program on an interface. Without a pin it ends with this value; with one it stays.
#[derive(Debug)]
pub struct Attachment {
    kept: Kept,
}

#[derive(Debug)]
enum Kept {
    /// The link lives in the bpffs; held as well, so that a pin that somebody removes opens nothing.
    Pinned {
        path: PathBuf,
        _link: SchedClassifierLink,
    },
    /// The link ends with this value, and with the process.
    Held { _link: SchedClassifierLink },
    /// The filter lives in the interface's qdisc until it is removed; the pin says that it is ours.
    Filter {
        interface: String,
        hook: Hook,
        pin: Option<PathBuf>,
    },
}

impl Attachment {
    fn filter((hook, interface): (Hook, &str), pin: Option<&Path>) -> Self {
        let kept = Kept::Filter {
            interface: interface.to_owned(),
            hook,
            pin: pin.map(Path::to_owned),
        };
        Self { kept }
    }

    /// Takes the program off the interface.
    ///
    /// # Errors
    /// If the pin can't be removed. A filter whose interface is gone is gone too.
    pub fn detach(self) -> Result<(), PinError> {
        match self.kept {
            Kept::Held { .. } => Ok(()),
            Kept::Pinned { path, .. } => remove_pin(path),
            Kept::Filter {
                interface,
                hook,
                pin,
            } => {
                filter::remove(&interface, hook);
                pin.map_or(Ok(()), remove_pin)
            }
        }
    }
}

/// Removes a pin; one that isn't there is fine.
fn remove_pin(path: PathBuf) -> Result<(), PinError> {
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|source| PinError::Remove { path, source }),
    }
}

/// Attaches a loaded program to an interface of the calling thread's namespace.
pub(crate) fn attach(
    program: &mut SchedClassifier,
    (hook, mode): (Hook, HookMode),
    interface: &str,
    pin: Option<&Path>,
) -> Result<Attachment, DatapathError> {
    match mode {
        HookMode::Tcx => attach_link(program, hook, interface, pin),
        HookMode::Clsact => {
            filter::attach(program, (hook, interface), pin)?;
            Ok(Attachment::filter((hook, interface), pin))
        }
    }
}

/// Attaches a program by a link of its own, first in the chain, or by the one that an earlier run pinned.
fn attach_link(
    program: &mut SchedClassifier,
    hook: Hook,
    interface: &str,
    pin: Option<&Path>,
) -> Result<Attachment, DatapathError> {
    let failed = attach_failed(hook, interface);
    if let Some(path) = pin.filter(|path| path.exists()) {
        if let Some(link) = replace(program, (hook, interface), path) {
            return Ok(Attachment {
                kept: Kept::Pinned {
                    path: path.to_owned(),
                    _link: link,
                },
            });
        }
        // Its interface is gone, and another one has its number.
        std::fs::remove_file(path).map_err(|source| DatapathError::StalePin {
            path: path.to_owned(),
            source,
        })?;
    }
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program
        .attach_with_options(interface, hook.side(), first)
        .map_err(&failed)?;
    keep(program.take_link(id).map_err(failed)?, pin)
}

pub(crate) fn attach_failed(hook: Hook, interface: &str) -> impl Fn(ProgramError) -> DatapathError {
    move |source| DatapathError::Attach {
        interface: interface.to_owned(),
        hook,
        source,
    }
}

/// Keeps a link, by a pin if there is one to be.
fn keep(link: SchedClassifierLink, pin: Option<&Path>) -> Result<Attachment, DatapathError> {
    let Some(path) = pin else {
        let kept = Kept::Held { _link: link };
        return Ok(Attachment { kept });
    };
    let link: FdLink = link.try_into().map_err(DatapathError::Link)?;
    let pinned = link.pin(path).map_err(|source| DatapathError::Pin {
        path: path.to_owned(),
        source,
    })?;
    let kept = Kept::Pinned {
        path: path.to_owned(),
        _link: FdLink::from(pinned)
            .try_into()
            .map_err(DatapathError::Link)?,
    };
    Ok(Attachment { kept })
}

/// Attaches the program that drops everything, first in the chain: what holds an interface closed while
/// the programs behind it change.
pub(crate) fn close(
    closed: &mut SchedClassifier,
    hook: Hook,
    interface: &str,
) -> Result<SchedClassifierLink, DatapathError> {
    let failed = attach_failed(hook, interface);
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = closed
        .attach_with_options(interface, hook.side(), first)
        .map_err(&failed)?;
    closed.take_link(id).map_err(failed)
}

/// Puts a program in place of the one that holds an interface closed, in one step.
pub(crate) fn reopen(
    program: &mut SchedClassifier,
    link: SchedClassifierLink,
    (hook, interface): (Hook, &str),
    pin: Option<&Path>,
) -> Result<Attachment, DatapathError> {
    let failed = attach_failed(hook, interface);
    let id = program.attach_to_link(link).map_err(&failed)?;
    keep(program.take_link(id).map_err(failed)?, pin)
}

/// How a program stands among those of its hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It decides first.
    First,
    /// These run before it, and may keep packets from it.
    Behind(Vec<String>),
    /// It is not there.
    Gone,
    /// The interface can't be asked: it is gone.
    Unknown,
}

/// How a program stands at a hook of an interface of the calling thread's namespace, by tcx.
pub(crate) fn standing(program: &SchedClassifier, hook: Hook, interface: &str) -> Standing {
    match SchedClassifier::query_tcx(interface, hook.side()) {
        Ok((_, chain)) => standing_among(
            program,
            chain.iter().map(|one| {
                let name = one.name_as_str().unwrap_or("?");
                (one.id(), name)
            }),
        ),
        Err(_) => Standing::Unknown,
    }
}

/// How a program stands in a chain, which is told by numbers and names, in the order in which it runs.
pub(crate) fn standing_among<'a>(
    program: &SchedClassifier,
    chain: impl Iterator<Item = (u32, &'a str)>,
) -> Standing {
    let Ok(own) = program.info().map(|info| info.id()) else {
        return Standing::Unknown;
    };
    let mut before = Vec::new();
    for (id, name) in chain {
        if id == own {
            return match before.is_empty() {
                true => Standing::First,
                false => Standing::Behind(before),
            };
        }
        before.push(name.to_owned());
    }
    Standing::Gone
}

/// Puts a program into the link that an earlier run pinned, in one step. `None` if that link is on
/// no interface any more, or on another one.
fn replace(
    program: &mut SchedClassifier,
    (hook, interface): (Hook, &str),
    pin: &Path,
) -> Option<SchedClassifierLink> {
    let link = FdLink::from(PinnedLink::from_pin(pin).ok()?);
    let link = SchedClassifierLink::try_from(link).ok()?;
    let id = program.attach_to_link(link).ok()?;
    let link = program.take_link(id).ok()?;
    match standing(program, hook, interface) {
        Standing::First | Standing::Behind(_) => Some(link),
        Standing::Gone | Standing::Unknown => None,
    }
}

/// A program at a hook of an interface, or a filter of another kind, whoever attached it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// On what comes in by the interface; else on what goes out.
    pub ingress: bool,
    /// Its name, which may be empty; the kind of a filter that has no program.
    pub program: String,
    /// The kernel's number for it; 0 of a filter that has no program.
    pub id: u32,
}

/// The tcx programs on an interface of the calling thread's namespace, in the order in which they run;
/// none where the kernel has no tcx.
#[must_use]
pub fn chain(interface: &str) -> Vec<Seat> {
    let side = |side: TcAttachType, ingress: bool| {
        let programs = SchedClassifier::query_tcx(interface, side).map(|(_, programs)| programs);
        programs
            .unwrap_or_default()
            .into_iter()
            .map(move |program| Seat {
                ingress,
                program: program.name_as_str().unwrap_or_default().to_owned(),
                id: program.id(),
            })
    };
    side(TcAttachType::Ingress, true)
        .chain(side(TcAttachType::Egress, false))
        .collect()
}

/// Whether a program has the name of one of ours.
#[must_use]
pub fn is_ours(program: &str) -> bool {
    object::PROGRAMS.contains(&program)
}

/// Names of programs like ours that sit on an interface of the calling thread's namespace and were
/// attached by somebody else, or by an earlier run; `filters` are those of its clsact qdisc.
#[must_use]
pub fn strangers(interface: &str, filters: Vec<Seat>) -> Vec<String> {
    let seats = chain(interface).into_iter().chain(filters);
    let names = seats.map(|seat| seat.program);
    names.filter(|name| is_ours(name)).collect()
}
