//! How many connections there are, of each endpoint and of all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use policy::EndpointId;

use crate::limits::{CONNECTIONS_MAX, CONNECTIONS_PER_ENDPOINT_MAX};

/// Who has how many connections open.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    of: HashMap<EndpointId, usize>,
}

/// One connection's place; it is free again at its end.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    endpoint: EndpointId,
}

impl Places {
    /// Takes a place, if there is one.
    pub(super) fn take(&self, endpoint: EndpointId) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.all >= CONNECTIONS_MAX {
            return None;
        }
        let of = taken.of.entry(endpoint).or_default();
        if *of >= CONNECTIONS_PER_ENDPOINT_MAX {
            return None;
        }
        *of += 1;
        taken.all += 1;
        Some(Place {
            places: self.clone(),
            endpoint,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all = taken.all.saturating_sub(1);
        if let Some(of) = taken.of.get_mut(&self.endpoint) {
            *of = of.saturating_sub(1);
            if *of == 0 {
                taken.of.remove(&self.endpoint);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(number: u32) -> EndpointId {
        EndpointId::new(number).unwrap()
    }

    #[test]
    fn an_endpoint_has_its_share_and_the_node_its_whole() {
        let places = Places::default();
        let mut held: Vec<Place> = (0..CONNECTIONS_PER_ENDPOINT_MAX)
            .map(|_| places.take(endpoint(1)).unwrap())
            .collect();
        assert!(places.take(endpoint(1)).is_none());
        let mut number = 2;
        while held.len() < CONNECTIONS_MAX {
            match places.take(endpoint(number)) {
                Some(place) => held.push(place),
                None => number += 1,
            }
        }
        assert!(places.take(endpoint(number + 1)).is_none(), "all are taken");
        held.truncate(held.len() - 1);
        assert!(places.take(endpoint(number + 1)).is_some());
        assert!(places.take(endpoint(1)).is_none());
        drop(held.swap_remove(0));
        assert!(places.take(endpoint(1)).is_some());
    }
}
