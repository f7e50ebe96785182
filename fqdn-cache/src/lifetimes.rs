//! How long an answer's promise holds.

use std::time::{Duration, Instant};

use crate::plan::Given;

/// From a TTL to an end: clamped by floor and ceiling, and a little more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// The least, by default 60 s: an answer that a cache has held until its last second is still
    /// to be used once.
    pub floor: Duration,
    /// The most, by default 24 h; also where the floor is above.
    pub ceiling: Duration,
    /// On top, by default 30 s: for programs that connect a little late.
    pub grace: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            floor: Duration::from_secs(60),
            ceiling: Duration::from_secs(24 * 3600),
            grace: Duration::from_secs(30),
        }
    }
}

impl Lifetimes {
    /// When what was learned now ends. Where no clock reaches that far, it ends at once.
    #[must_use]
    pub fn expiry(&self, now: Instant, ttl_secs: u32) -> Instant {
        let ttl = Duration::from_secs(ttl_secs.into());
        let life = ttl.max(self.floor).min(self.ceiling);
        let end = now.checked_add(life.saturating_add(self.grace));
        end.unwrap_or(now)
    }

    /// An answer of now, firm for the floor.
    #[must_use]
    pub fn given(&self, now: Instant) -> Given {
        let until = now.checked_add(self.floor.min(self.ceiling));
        Given {
            now,
            firm_until: until.unwrap_or(now),
            by: None,
        }
    }

    /// The same of some time ago, where all that is known is when it ends: firm as if its TTL was the floor,
    /// and never longer than a new one.
    #[must_use]
    pub fn given_before(&self, now: Instant, end: Instant) -> Given {
        let fresh = self.given(now);
        Given {
            firm_until: end
                .checked_sub(self.grace)
                .unwrap_or(now)
                .min(fresh.firm_until),
            ..fresh
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "where a test's time begins")]
    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_ttl_is_clamped_and_gets_the_grace() {
        let now = now();
        let life = |ttl_secs| {
            let end = Lifetimes::default().expiry(now, ttl_secs);
            end.duration_since(now).as_secs()
        };
        let rows = [
            (0, 90),
            (1, 90),
            (30, 90),
            (60, 90),
            (61, 91),
            (300, 330),
            (86_400, 86_430),
            (86_401, 86_430),
            (2_147_483_647, 86_430),
            (u32::MAX, 86_430),
        ];
        for (ttl_secs, expected) in rows {
            assert_eq!(life(ttl_secs), expected, "TTL {ttl_secs}");
        }
    }

    #[test]
    fn an_answer_is_firm_for_its_floor_and_what_is_old_for_what_is_left_of_it() {
        let now = now();
        let secs = Duration::from_secs;
        let lifetimes = Lifetimes::default();
        assert_eq!(lifetimes.given(now).firm_until, now + secs(60));
        // Learned with a TTL of no more than the floor 50 s ago, and with a long one.
        for (left, firm) in [(40, 20), (20, 0), (3_000, 70)] {
            let until = lifetimes.given_before(now, now + secs(left)).firm_until;
            let expected = now - secs(10) + secs(firm);
            assert_eq!(until, expected, "{left} s left");
        }
    }

    #[test]
    fn the_ceiling_wins_and_no_option_overflows() {
        let now = now();
        let minute = Duration::from_secs(60);
        let odd = Lifetimes {
            floor: 2 * minute,
            ceiling: minute,
            grace: Duration::ZERO,
        };
        assert_eq!(odd.expiry(now, 600), now + minute);
        let huge = Lifetimes {
            floor: Duration::MAX,
            ceiling: Duration::MAX,
            grace: Duration::MAX,
        };
        assert_eq!(huge.expiry(now, 0), now);
    }
}
