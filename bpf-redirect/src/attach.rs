//! The five hooks, by tcx where the kernel has it, else by clsact.

use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, tc};

use crate::object;
use crate::{DatapathError, PinError};

/// Where a program sits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::FromEndpoint => object::FROM_ENDPOINT,
            Self::ToEndpoint => object::TO_ENDPOINT,
            Self::NodeEnd => object::NODE_END,
            Self::GateIn => object::GATE_IN,
            Self::GateOut => object::GATE_OUT,
        }
    }

    fn side(self) -> TcAttachType {
        match self {
            Self::FromEndpoint | Self::NodeEnd | Self::GateIn => TcAttachType::Ingress,
            Self::ToEndpoint | Self::GateOut => TcAttachType::Egress,
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
    /// What this kernel has: an old one refuses to list tcx programs.
    #[must_use]
    pub fn probe() -> Self {
        match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
            Ok(_) => Self::Tcx,
            Err(_) => Self::Clsact,
        }
    }
}

/// A program on an interface. Without a pin it ends with this value; with one it stays.
#[derive(Debug)]
pub struct Attachment {
    kept: Kept,
}

#[derive(Debug)]
enum Kept {
    /// The link lives in the bpffs.
    Pinned(PathBuf),
    /// The link ends with this value, and with the process.
    Held { _link: SchedClassifierLink },
    /// The filter lives in the interface's qdisc until it is removed.
    Filter { interface: String, hook: Hook },
}

impl Attachment {
    /// Takes the program off the interface.
    ///
    /// # Errors
    /// If the pin can't be removed. A filter whose interface is gone is gone too.
    pub fn detach(self) -> Result<(), PinError> {
        match self.kept {
            Kept::Held { .. } => Ok(()),
            Kept::Pinned(path) => {
                std::fs::remove_file(&path).map_err(|source| PinError::Remove { path, source })
            }
            Kept::Filter { interface, hook } => {
                remove_filter(&interface, hook);
                Ok(())
            }
        }
    }
}

/// Removes our filter from an interface's clsact qdisc, if it is there.
pub(crate) fn remove_filter(interface: &str, hook: Hook) {
    // Nothing to remove is no fault: the interface, or its qdisc, may be gone.
    let _ = tc::qdisc_detach_program(interface, hook.side(), hook.program());
}

/// Attaches a loaded program to an interface of the calling thread's namespace.
pub(crate) fn attach(
    program: &mut SchedClassifier,
    (hook, mode): (Hook, HookMode),
    interface: &str,
    pin: Option<&Path>,
) -> Result<Attachment, DatapathError> {
    let failed = |source| DatapathError::Attach {
        interface: interface.to_owned(),
        hook,
        source,
    };
    if let (HookMode::Tcx, Some(path)) = (mode, pin)
        && path.exists()
    {
        if replace(program, (hook, interface), path) {
            return Ok(Attachment {
                kept: Kept::Pinned(path.to_owned()),
            });
        }
        // Its interface is gone, and another one has its number.
        std::fs::remove_file(path).map_err(|source| DatapathError::StalePin {
            path: path.to_owned(),
            source,
        })?;
    }
    let options = match mode {
        HookMode::Tcx => TcAttachOptions::TcxOrder(LinkOrder::first()),
        HookMode::Clsact => {
            // "Exists" is the usual answer, and the wanted state.
            let _ = tc::qdisc_add_clsact(interface);
            TcAttachOptions::Netlink(NlOptions {
                priority: 1,
                ..NlOptions::default()
            })
        }
    };
    let id = program
        .attach_with_options(interface, hook.side(), options)
        .map_err(failed)?;
    let link = program.take_link(id).map_err(failed)?;
    let kept = match (mode, pin) {
        (HookMode::Clsact, _) => {
            // The filter belongs to the qdisc: what is forgotten here stays there.
            std::mem::forget(link);
            Kept::Filter {
                interface: interface.to_owned(),
                hook,
            }
        }
        (HookMode::Tcx, None) => Kept::Held { _link: link },
        (HookMode::Tcx, Some(path)) => {
            let link: FdLink = link.try_into().map_err(DatapathError::Link)?;
            link.pin(path).map_err(|source| DatapathError::Pin {
                path: path.to_owned(),
                source,
            })?;
            Kept::Pinned(path.to_owned())
        }
    };
    Ok(Attachment { kept })
}

/// Puts a program into the link that an earlier run pinned, in one step. `false` if that link is on
/// no interface any more, or on another one.
fn replace(program: &mut SchedClassifier, (hook, interface): (Hook, &str), pin: &Path) -> bool {
    let Ok(link) = PinnedLink::from_pin(pin) else {
        return false;
    };
    let Ok(link) = SchedClassifierLink::try_from(FdLink::from(link)) else {
        return false;
    };
    let Ok(id) = program.attach_to_link(link) else {
        return false;
    };
    // The pin holds the link from here on.
    drop(program.take_link(id));
    let Ok(own) = program.info() else {
        return false;
    };
    let chain = SchedClassifier::query_tcx(interface, hook.side());
    chain.is_ok_and(|(_, programs)| programs.iter().any(|one| one.id() == own.id()))
}

/// Names of programs like ours that sit on an interface of the calling thread's namespace and were
/// attached by somebody else, or by an earlier run.
#[must_use]
pub fn strangers(interface: &str) -> Vec<String> {
    [TcAttachType::Ingress, TcAttachType::Egress]
        .into_iter()
        .filter_map(|side| SchedClassifier::query_tcx(interface, side).ok())
        .flat_map(|(_, programs)| programs)
        .filter_map(|program| program.name_as_str().map(str::to_owned))
        .filter(|name| object::PROGRAMS.contains(&name.as_str()))
        .collect()
}

/// Removes every filter of ours from an interface's clsact qdisc: what an earlier run left.
pub fn remove_filters(interface: &str) {
    for hook in [Hook::FromEndpoint, Hook::ToEndpoint, Hook::NodeEnd] {
        remove_filter(interface, hook);
    }
}
