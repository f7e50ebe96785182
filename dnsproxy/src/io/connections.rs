//! How many TCP connections each endpoint has open, and which one makes room.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use policy::EndpointId;
use tokio_util::sync::CancellationToken;

use crate::Counters;
use crate::core::tally::Quirk;
use crate::limits::TCP_CONNECTIONS_PER_ENDPOINT_MAX;

/// Who has how many connections open, and how an idle one is told to close.
#[derive(Default)]
pub(super) struct Connections {
    next: AtomicU64,
    open: Mutex<HashMap<EndpointId, Vec<Open>>>,
}

struct Open {
    id: u64,
    /// Idle since; `None` while queries wait.
    idle_since: Option<Instant>,
    close: CancellationToken,
}

impl Connections {
    /// Takes a place. The oldest idle connection makes room; `None` if none is idle. Both are counted.
    #[expect(
        clippy::too_many_arguments,
        reason = "whose connection, when, how it is closed, and what counts"
    )]
    pub(super) fn admit(
        &self,
        endpoint: EndpointId,
        now: Instant,
        close: CancellationToken,
        counters: &Counters,
    ) -> Option<u64> {
        let mut all = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let open = all.entry(endpoint).or_default();
        if open.len() >= TCP_CONNECTIONS_PER_ENDPOINT_MAX {
            let idle = open
                .iter()
                .enumerate()
                .filter_map(|(place, one)| Some((one.idle_since?, place)));
            let Some((_, place)) = idle.min() else {
                counters.quirk(Quirk::ConnectionRefused);
                return None;
            };
            counters.quirk(Quirk::ConnectionReplaced);
            open.swap_remove(place).close.cancel();
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        open.push(Open {
            id,
            idle_since: Some(now),
            close,
        });
        Some(id)
    }

    pub(super) fn set_idle(&self, endpoint: EndpointId, id: u64, since: Option<Instant>) {
        let mut all = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(one) = all
            .get_mut(&endpoint)
            .and_then(|open| open.iter_mut().find(|one| one.id == id))
        {
            one.idle_since = since;
        }
    }

    pub(super) fn remove(&self, endpoint: EndpointId, id: u64) {
        let mut all = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = all.get_mut(&endpoint) {
            open.retain(|one| one.id != id);
            if open.is_empty() {
                all.remove(&endpoint);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant can be had in no other way"
    )]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn the_oldest_idle_connection_makes_room_and_without_one_the_new_one_is_refused() {
        let (connections, now) = (Connections::default(), start());
        let counters = Counters::default();
        let endpoint = EndpointId::new(5).unwrap();
        let closes: Vec<CancellationToken> = (0..TCP_CONNECTIONS_PER_ENDPOINT_MAX)
            .map(|_| CancellationToken::new())
            .collect();
        let ids: Vec<u64> = closes
            .iter()
            .map(|close| {
                connections
                    .admit(endpoint, now, close.clone(), &counters)
                    .unwrap()
            })
            .collect();
        for id in &ids {
            connections.set_idle(endpoint, *id, None);
        }
        assert_eq!(
            connections.admit(endpoint, now, CancellationToken::new(), &counters),
            None,
            "all are busy"
        );
        assert!(
            connections
                .admit(
                    EndpointId::new(6).unwrap(),
                    now,
                    CancellationToken::new(),
                    &counters
                )
                .is_some()
        );

        connections.set_idle(
            endpoint,
            ids[9],
            Some(now + std::time::Duration::from_secs(1)),
        );
        connections.set_idle(endpoint, ids[7], Some(now));
        assert!(
            connections
                .admit(endpoint, now, CancellationToken::new(), &counters)
                .is_some()
        );
        let closed: Vec<usize> = (0..closes.len())
            .filter(|place| closes[*place].is_cancelled())
            .collect();
        assert_eq!(closed, [7], "idle for longest");

        let counted = counters.iter().filter(|(.., value)| *value > 0);
        let counted: Vec<_> = counted.map(|(_, word, value)| (word, value)).collect();
        assert_eq!(
            counted,
            [("connection-refused", 1), ("connection-replaced", 1)]
        );

        connections.remove(endpoint, ids[0]);
        assert!(
            connections
                .admit(endpoint, now, CancellationToken::new(), &counters)
                .is_some(),
            "a place is free"
        );
    }
}
