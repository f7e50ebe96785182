//! The only place that reads a clock.

use std::time::Instant;

/// The time.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
