//! How many queries wait for an answer, node-wide: all workers share the account.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use policy::EndpointId;

use crate::limits::{OUTSTANDING_PER_ENDPOINT_MAX, OUTSTANDING_PER_NODE_MAX};

/// The account of outstanding queries.
///
/// Below the node's limit only the endpoint's own limit counts. At the node's limit each endpoint
/// may hold its share, the limit divided by those who have queries outstanding: so the one with
/// most is refused first, and a quiet one is always let in.
#[derive(Debug, Default)]
pub struct Outstanding(Mutex<Account>);

#[derive(Debug, Default)]
struct Account {
    total: u32,
    /// Only endpoints with at least one.
    by_endpoint: HashMap<EndpointId, u32>,
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
        if account.total >= OUTSTANDING_PER_NODE_MAX {
            let newcomers = usize::from(own == 0);
            let holders = u32::try_from(account.by_endpoint.len() + newcomers).unwrap_or(u32::MAX);
            let share = (OUTSTANDING_PER_NODE_MAX / holders.max(1)).max(1);
            if own >= share {
                return Err(Refused);
            }
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
