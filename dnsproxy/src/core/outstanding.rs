//! How many queries wait for an answer, node-wide: all workers share the account.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use policy::EndpointId;

use crate::limits::{ENDPOINTS_MAX, OUTSTANDING_PER_ENDPOINT_MAX, OUTSTANDING_PER_NODE_MAX};

/// The account of outstanding queries.
///
/// Below the node's limit only the endpoint's own limit counts. At the node's limit the endpoint
/// with most is refused first: each may hold its share of what is left until half as much again,
/// and from there to twice the limit only the first query of an endpoint is let in. So nobody is
/// shut out by the others, and twice the limit is never passed.
#[derive(Debug, Default)]
pub struct Outstanding(Mutex<Account>);

#[derive(Debug, Default)]
struct Account {
    total: u32,
    /// Only endpoints with at least one.
    by_endpoint: HashMap<EndpointId, u32>,
}

impl Account {
    /// How many queries an endpoint that has `own` may have while the node's limit is reached.
    fn share(&self, own: u32) -> u32 {
        let most = 2 * OUTSTANDING_PER_NODE_MAX;
        if own == 0 {
            return u32::from(self.total < most);
        }
        let holders = u32::try_from(self.by_endpoint.len()).unwrap_or(u32::MAX);
        let room = (most - ENDPOINTS_MAX).saturating_sub(self.total);
        room / holders.max(1)
    }
}

/// One place among the outstanding, given back when it is dropped.
#[derive(Debug)]
pub struct Slot {
    outstanding: Arc<Outstanding>,
    endpoint: EndpointId,
}

/// The endpoint must not have another query outstanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many queries outstanding")]
pub struct Refused;

impl Outstanding {
    /// Takes a place for a query of the endpoint.
    ///
    /// # Errors
    /// If the endpoint's limit is reached, or the node's and the endpoint has its share.
    pub fn admit(self: &Arc<Self>, endpoint: EndpointId) -> Result<Slot, Refused> {
        let mut account = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = account.by_endpoint.get(&endpoint).copied().unwrap_or(0);
        if own >= OUTSTANDING_PER_ENDPOINT_MAX {
            return Err(Refused);
        }
        if account.total >= OUTSTANDING_PER_NODE_MAX && own >= account.share(own) {
            return Err(Refused);
        }
        account.total += 1;
        account.by_endpoint.insert(endpoint, own + 1);
        Ok(Slot {
            outstanding: Arc::clone(self),
            endpoint,
        })
    }

    /// How many queries of all endpoints wait.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).total
    }

    fn give_back(&self, endpoint: EndpointId) {
        let mut account = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        account.total = account.total.saturating_sub(1);
        let left = account.by_endpoint.get(&endpoint).copied().unwrap_or(0);
        if left > 1 {
            account.by_endpoint.insert(endpoint, left - 1);
        } else {
            account.by_endpoint.remove(&endpoint);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.outstanding.give_back(self.endpoint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(account: &Arc<Outstanding>, endpoint: u32, count: u32) -> Vec<Slot> {
        let endpoint = EndpointId::new(endpoint).unwrap();
        (0..count)
            .map_while(|_| account.admit(endpoint).ok())
            .collect()
    }

    #[test]
    fn an_endpoint_has_its_own_limit() {
        let account = Arc::default();
        let held = fill(&account, 1, OUTSTANDING_PER_ENDPOINT_MAX + 1);
        assert_eq!(held.len(), 2048);
        drop(held);
        assert_eq!(account.total(), 0);
    }

    #[test]
    fn when_the_node_is_full_the_one_with_most_is_refused_and_a_quiet_one_let_in() {
        let account = Arc::default();
        let full: Vec<_> = (1..=4).map(|number| fill(&account, number, 2048)).collect();
        assert_eq!(account.total(), OUTSTANDING_PER_NODE_MAX);
        let quiet = fill(&account, 5, 5000);
        assert_eq!(
            quiet.len(),
            4096 / 6,
            "as many as leave four others the same"
        );
        let mut heavy = full;
        heavy[0].pop();
        assert!(
            fill(&account, 1, 1).is_empty(),
            "the heavy one stays refused"
        );
        drop(quiet);
        assert_eq!(fill(&account, 1, 1).len(), 1);
    }

    #[test]
    fn the_node_never_holds_twice_its_limit() {
        let account = Arc::default();
        let held: Vec<_> = (1..=ENDPOINTS_MAX)
            .map(|number| fill(&account, number, 2048))
            .collect();
        assert!(account.total() <= 2 * OUTSTANDING_PER_NODE_MAX);
        assert!(
            held.iter().all(|slots| !slots.is_empty()),
            "nobody is shut out"
        );
    }
}
