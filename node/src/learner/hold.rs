//! How long answers were held for the datapath, as a histogram.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

/// Upper bounds of the buckets, in microseconds; one more bucket holds what is above.
const BOUNDS_US: [u64; 12] = [
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 10_000, 25_000, 50_000, 100_000,
];

/// Counts of answers, by how long they were held.
#[derive(Debug, Default)]
pub(crate) struct Hold([AtomicU64; BOUNDS_US.len() + 1]);

impl Hold {
    /// Counts an answer.
    pub(super) fn note(&self, held: Duration) {
        let us = u64::try_from(held.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        if let Some(count) = self.0.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Each bucket with its upper bound, the last one without.
    pub(crate) fn to_json(&self) -> Value {
        let bounds = BOUNDS_US.iter().map(|bound| Some(*bound)).chain([None]);
        let buckets = bounds.zip(&self.0).map(
            |(bound, count)| json!({ "up_to_us": bound, "answers": count.load(Ordering::Relaxed) }),
        );
        buckets.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_has_its_bucket() {
        let rows = [
            (0, 0),
            (10, 0),
            (11, 1),
            (1_000, 6),
            (1_001, 7),
            (100_000, 11),
            (100_001, 12),
            (u64::MAX, 12),
        ];
        for (us, bucket) in rows {
            let hold = Hold::default();
            hold.note(Duration::from_micros(us));
            let buckets = hold.to_json();
            assert_eq!(buckets[bucket]["answers"], 1, "{us}: {buckets}");
            let bound = &buckets[bucket]["up_to_us"];
            assert!(bound.as_u64().is_none_or(|bound| us <= bound), "{us}");
        }
        assert_eq!(Hold::default().to_json().as_array().unwrap().len(), 13);
    }
}
