//! What all programs agree on, as it is at first.

use bpf_redirect_common::{Aggregation, Config, LAYOUT_VERSION};
use rustix::time::{ClockId, clock_getres};

/// With marks of its own, and nothing traced.
pub(super) fn fresh(side_link_ifindex: u32) -> Config {
    let inject_mark = random_mark();
    Config {
        layout: LAYOUT_VERSION,
        side_link_ifindex,
        inject_mark,
        client_mark: inject_mark ^ (1 << 31),
        aggregation: Aggregation::Off as u32,
        trace_ticks: 0,
    }
}

/// How often the kernel's clock ticks: the coarse clock goes by it.
pub(super) fn ticks_per_second() -> u32 {
    let tick = clock_getres(ClockId::MonotonicCoarse);
    let tick_ns = u32::try_from(tick.tv_nsec).unwrap_or(0).max(1);
    (1_000_000_000 / tick_ns).clamp(1, 10_000)
}

/// A mark that nobody else on the node uses, but for a chance of one in four thousand million; 0
/// would be every packet's.
fn random_mark() -> u32 {
    getrandom::u32().map_or(0x4e47_0001, |mark| mark | 1)
}
