//! What is kept of flows of QUIC, in bounds.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Instant;

use policy::EndpointId;

use crate::limits::{
    QUIC_BEGUN_MAX, QUIC_HELD_MAX, QUIC_HELD_OCTETS_MAX, QUIC_HELD_WAIT_MAX, QUIC_IDLE_MAX,
};

/// Which flow: the server's port is the listener's.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) endpoint: EndpointId,
    pub(super) client: SocketAddr,
    pub(super) server: IpAddr,
}

/// The connections that were allowed, by what they began with.
///
/// One may not be said in two flows: each could be allowed by itself, and a server that goes by the id alone would
/// put together what neither of them says.
#[derive(Default)]
pub(super) struct Begun(HashMap<(EndpointId, IpAddr, Box<[u8]>), Beginner>);

/// In which flow.
struct Beginner {
    flow: Weak<()>,
    /// When that was last seen to live.
    last: Instant,
}

impl Begun {
    /// Notes what a flow begins; `false` if another one has begun it, or too many are noted.
    pub(super) fn note(
        &mut self,
        key: Key,
        original: &[u8],
        (flow, now): (&Arc<()>, Instant),
    ) -> bool {
        let is_full = self.0.len() >= QUIC_BEGUN_MAX;
        match self.0.entry((key.endpoint, key.server, original.into())) {
            Entry::Occupied(known) => known.get().flow.as_ptr() == Arc::as_ptr(flow),
            Entry::Vacant(_) if is_full => false,
            Entry::Vacant(place) => {
                let flow = Arc::downgrade(flow);
                place.insert(Beginner { flow, last: now });
                true
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets those whose flows have long ended.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.0.retain(|_, beginner| {
            if beginner.flow.strong_count() > 0 {
                beginner.last = now;
            }
            now.saturating_duration_since(beginner.last) <= QUIC_IDLE_MAX
        });
    }
}

/// Datagrams that wait for a verdict.
#[derive(Default)]
pub(super) struct Held {
    pub(super) datagrams: Vec<Box<[u8]>>,
    octets: usize,
    since: Option<Instant>,
}

impl Held {
    /// Takes one more; `false` if there is no room for it.
    pub(super) fn take(&mut self, bytes: &[u8], now: Instant) -> bool {
        let octets = self.octets + bytes.len();
        if self.datagrams.len() == QUIC_HELD_MAX || octets > QUIC_HELD_OCTETS_MAX {
            return false;
        }
        self.octets = octets;
        self.since.get_or_insert(now);
        self.datagrams.push(bytes.into());
        true
    }

    pub(super) fn is_late(&self, now: Instant) -> bool {
        let late = |since| now.saturating_duration_since(since) > QUIC_HELD_WAIT_MAX;
        self.since.is_some_and(late)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a start for a made-up clock")]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_connection_is_begun_by_one_flow_and_remembered_for_a_while() {
        let start = Instant::now();
        let key = |client: &str| Key {
            endpoint: EndpointId::new(1).unwrap(),
            client: client.parse().unwrap(),
            server: "192.0.2.1".parse().unwrap(),
        };
        let (one, two) = (key("10.0.0.2:1"), key("10.0.0.2:2"));
        let (life, other) = (Arc::new(()), Arc::new(()));
        let mut begun = Begun::default();
        assert!(begun.note(one, b"id", (&life, start)));
        assert!(begun.note(one, b"id", (&life, start)), "its own");
        assert!(!begun.note(two, b"id", (&other, start)), "another's");
        assert!(begun.note(two, b"other", (&other, start)));
        drop(life);
        let later = start + QUIC_IDLE_MAX;
        begun.sweep(later);
        assert!(!begun.note(one, b"id", (&Arc::new(()), later)), "anew");
        begun.sweep(later + Duration::from_nanos(1));
        assert!(begun.note(two, b"id", (&other, later)), "forgotten");
        assert_eq!(begun.0.len(), 2, "one that lives stays");
        for number in 2..QUIC_BEGUN_MAX {
            assert!(begun.note(two, &number.to_be_bytes(), (&other, later)));
        }
        assert!(!begun.note(two, b"one more", (&other, later)));
    }

    #[test]
    fn what_waits_has_bounds_in_number_in_octets_and_in_time() {
        let start = Instant::now();
        let mut held = Held::default();
        for _ in 0..QUIC_HELD_MAX {
            assert!(!held.is_late(start + QUIC_HELD_WAIT_MAX * 2));
            assert!(held.take(&[0; 1_200], start));
            held.since = None;
        }
        assert!(!held.take(&[0], start), "one more");

        let mut held = Held::default();
        let large = vec![0; QUIC_HELD_OCTETS_MAX - 1];
        assert!(held.take(&large, start) && held.take(&[0], start));
        assert!(!held.take(&[0], start), "one octet more");

        let mut held = Held::default();
        assert!(held.take(&[0], start));
        let late = start + QUIC_HELD_WAIT_MAX;
        assert!(held.take(&[0], late), "the first one's time counts");
        assert!(!held.is_late(late));
        assert!(held.is_late(late + Duration::from_nanos(1)));
    }
}
