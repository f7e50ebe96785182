//! How many connections there are, of each endpoint and of all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use policy::EndpointId;

use crate::core::step::Settings;

/// Who has how many connections open.
#[derive(Clone, Debug)]
pub(super) struct Places {
    taken: Arc<Mutex<Taken>>,
    all_max: usize,
    per_endpoint_max: usize,
}

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
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            taken: Arc::default(),
            all_max: settings.connections,
            per_endpoint_max: settings.connections_per_endpoint,
        }
    }

    /// Takes a place, if there is one.
    pub(super) fn take(&self, endpoint: EndpointId) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.all >= self.all_max {
            return None;
        }
        let of = taken.of.entry(endpoint).or_default();
        if *of >= self.per_endpoint_max {
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
        let taken = self.places.taken.lock();
        let mut taken = taken.unwrap_or_else(PoisonError::into_inner);
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
    use crate::limits::{CONNECTIONS_MAX, CONNECTIONS_PER_ENDPOINT_MAX};

    fn endpoint(number: u32) -> EndpointId {
        EndpointId::new(number).unwrap()
    }

    #[test]
    fn an_endpoint_has_its_share_and_the_node_its_whole() {
        let places = Places::new(&Settings::default());
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
