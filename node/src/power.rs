//! What the daemon is able to do: what it needs, and no more, from before its first thread on.

use anyhow::{Context as _, Result};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// Programs, maps and their links; interfaces, routes and transparent sockets; port 53; the gate's namespace,
/// and those of workloads, which belong to processes of other users; files that root may read and write
/// wherever they are.
const KEPT: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH);

/// Gives up all else, for this process and those that it starts. To be called before there is a second
/// thread: capabilities belong to threads (capabilities(7)).
///
/// # Errors
/// If the kernel refuses; then nothing is as it should be.
pub(crate) fn give_up() -> Result<()> {
    for one in CapabilitySet::all().difference(KEPT).iter() {
        // One that this kernel doesn't know is lost already.
        let _ = remove_capability_from_bounding_set(one);
    }
    let own = capabilities(None).context("capabilities")?;
    let left = CapabilitySets {
        effective: own.effective & KEPT,
        permitted: own.permitted & KEPT,
        inheritable: CapabilitySet::empty(),
    };
    clear_ambient_capability_set().context("ambient capabilities")?;
    set_capabilities(None, left).context("capabilities")?;
    set_no_new_privs(true).context("no_new_privs")?;
    // No core file and no debugger gets to see the keys of certificates.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("dumpable")?;
    transport::refuse_system_calls().context("the filter of system calls")
}
