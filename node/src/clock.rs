//! The only place that reads a clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flow::Time;
use rustix::time::{ClockId, clock_gettime};

/// The time.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The time of day at an instant that lies a little back.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub(crate) fn time_of_day(at: Instant) -> Time {
    let ago = Instant::now().saturating_duration_since(at);
    since_epoch(SystemTime::now(), ago)
}

/// The time of day.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub(crate) fn wall() -> SystemTime {
    SystemTime::now()
}

/// Nanoseconds since boot, as the kernel's programs count them.
pub(crate) fn boot_ns() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// The time of day at a moment that the kernel counted in nanoseconds since boot.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub(crate) fn time_of_boot_ns(at: u64) -> Time {
    since_epoch(
        SystemTime::now(),
        Duration::from_nanos(boot_ns().saturating_sub(at)),
    )
}

fn since_epoch(now: SystemTime, ago: Duration) -> Time {
    let since = now
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .saturating_sub(ago);
    Time::from_unix_nanos(i128::try_from(since.as_nanos()).unwrap_or(i128::MAX))
}
