//! Filters of the clsact qdisc, where the kernel has no tcx.
//!
//! A filter has no descriptor and no pin: it belongs to its interface, and is found by its side, its
//! preference and its handle. Ours are the same on every interface, so the next daemon puts its program
//! into the filter of the last one in one step (a request for a handle that is there replaces what is
//! there); two of ours at one hook would hand each other the same packet for ever. That a filter is ours
//! is said by a pin of its program, `filters/INTERFACE-PROGRAM`, made before the filter and removed after.

use std::path::{Path, PathBuf};

use aya::programs::links::Link as _;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType, tc};

use crate::DatapathError;
use crate::attach::{Hook, attach_failed};

/// The lowest there is: whoever wants to be first takes it as well, and the last one who came is first.
const PREFERENCE: u16 = 1;

/// "NG".
const MAJOR: u16 = 0x4e47;

/// The handle of what holds a hook closed while the filter of its program is made anew.
const CLOSED: TcHandle = TcHandle::new(MAJOR, 0xff);

const HOOKS: [Hook; 5] = [
    Hook::FromEndpoint,
    Hook::ToEndpoint,
    Hook::NodeEnd,
    Hook::GateIn,
    Hook::GateOut,
];

fn handle(hook: Hook) -> TcHandle {
    let minor = match hook {
        Hook::FromEndpoint => 1,
        Hook::ToEndpoint => 2,
        Hook::NodeEnd => 3,
        Hook::GateIn => 4,
        Hook::GateOut => 5,
    };
    TcHandle::new(MAJOR, minor)
}

/// Attaches a program in front of all filters, or puts it into the filter that an earlier run left there.
pub(crate) fn attach(
    program: &mut SchedClassifier,
    (hook, interface): (Hook, &str),
    pin: Option<&Path>,
) -> Result<(), DatapathError> {
    // "Exists" is the usual answer, and the wanted state.
    let _ = tc::qdisc_add_clsact(interface);
    let is_known = pin.is_some_and(Path::exists);
    if !(is_known && replace(program, (hook, interface)).is_some()) {
        pin.map_or(Ok(()), |pin| mark(program, pin))?;
        if let Err(source) = add(program, (hook, interface), handle(hook)) {
            if let Some(pin) = pin {
                // Nothing of ours is there.
                let _ = std::fs::remove_file(pin);
            }
            return Err(attach_failed(hook, interface)(source));
        }
    } else if let Some(pin) = pin {
        mark(program, pin)?;
    }
    // Of a run that ended while it held the hook closed.
    remove_handle(interface, hook.side(), CLOSED);
    Ok(())
}

/// Pins the program of a filter. At no moment is the pin missing that was there.
fn mark(program: &mut SchedClassifier, pin: &Path) -> Result<(), DatapathError> {
    let fresh = fresh(pin);
    // Of a run that ended here.
    let _ = std::fs::remove_file(&fresh);
    program.pin(&fresh).map_err(|source| DatapathError::Pin {
        path: fresh.clone(),
        source,
    })?;
    std::fs::rename(&fresh, pin).map_err(|source| DatapathError::StalePin {
        path: pin.to_owned(),
        source,
    })
}

fn fresh(pin: &Path) -> PathBuf {
    let name = pin.file_name().unwrap_or_default().to_string_lossy();
    pin.with_file_name(format!("new-{name}"))
}

/// Puts a program into the filter that is there; `None` if there is none.
fn replace(program: &mut SchedClassifier, (hook, interface): (Hook, &str)) -> Option<()> {
    let link = listed(interface, hook.side(), handle(hook))?;
    let id = program.attach_to_link(link).ok()?;
    stay(program.take_link(id).ok()?);
    Some(())
}

fn add(
    program: &mut SchedClassifier,
    (hook, interface): (Hook, &str),
    handle: TcHandle,
) -> Result<(), ProgramError> {
    let options = TcAttachOptions::Netlink(NlOptions {
        priority: PREFERENCE,
        handle,
        classid: None,
    });
    let id = program.attach_with_options(interface, hook.side(), options)?;
    stay(program.take_link(id)?);
    Ok(())
}

/// The filter belongs to the qdisc: what is forgotten here stays there.
fn stay(link: SchedClassifierLink) {
    std::mem::forget(link);
}

/// A filter of ours as a link; it may not be there.
fn listed(interface: &str, side: TcAttachType, handle: TcHandle) -> Option<SchedClassifierLink> {
    SchedClassifierLink::attached(interface, side, PREFERENCE, handle, None).ok()
}

fn remove_handle(interface: &str, side: TcAttachType, handle: TcHandle) {
    // Nothing to remove is no fault: the interface, or its qdisc, may be gone.
    let _ = listed(interface, side, handle).map(SchedClassifierLink::detach);
}

/// Removes our filter of a hook, if it is there.
pub(crate) fn remove(interface: &str, hook: Hook) {
    remove_handle(interface, hook.side(), handle(hook));
}

/// Holds a hook closed by a program that drops everything, in front of all filters, and takes ours away.
pub(crate) fn close(
    closed: &mut SchedClassifier,
    hook: Hook,
    interface: &str,
) -> Result<(), DatapathError> {
    // One that is there already may have others in front.
    remove_handle(interface, hook.side(), CLOSED);
    add(closed, (hook, interface), CLOSED).map_err(attach_failed(hook, interface))?;
    remove(interface, hook);
    Ok(())
}

/// Removes every filter of ours from an interface of the calling thread's namespace.
pub fn remove_filters(interface: &str) {
    for hook in HOOKS {
        remove(interface, hook);
        remove_handle(interface, hook.side(), CLOSED);
    }
}

/// Removes the filter that a pin tells of, and the pin.
pub(crate) fn remove_pinned(pin: &Path) -> std::io::Result<()> {
    let name = pin.file_name().unwrap_or_default().to_string_lossy();
    if let Some((ifindex, program)) = name.split_once('-')
        && let Ok(ifindex) = ifindex.parse()
        && let Some(interface) = interface(ifindex)
    {
        let own = HOOKS.into_iter().filter(|hook| hook.program() == program);
        own.for_each(|hook| remove(&interface, hook));
    }
    std::fs::remove_file(pin)
}

/// The name of an interface of the calling thread's namespace.
fn interface(ifindex: u32) -> Option<String> {
    use rustix::net::{AddressFamily, SocketType, netdevice, socket};
    let any = socket(AddressFamily::UNIX, SocketType::DGRAM, None).ok()?;
    netdevice::index_to_name(&any, ifindex).ok()
}
