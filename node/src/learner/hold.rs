//! How long answers were held for the datapath, and whole exchanges took, as histograms.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

/// Upper bounds of the buckets, in microseconds; one more bucket holds what is above.
const BOUNDS_US: [u64; 15] = [
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 10_000, 25_000, 50_000, 100_000, 1_000_000, 2_500_000,
    10_000_000,
];

/// Counts of answers, by how long they were held.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    sum_ns: AtomicU64,
}

/// [`Hold`] at one moment, in seconds.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) sum_secs: f64,
    pub(crate) answers: u64,
    /// Upper bounds, the last one as much as there is; how many were held no longer, but longer than the one before.
    pub(crate) buckets: Vec<(f64, u64)>,
}

impl Hold {
    /// Counts an answer.
    pub(crate) fn note(&self, held: Duration) {
        let us = u64::try_from(held.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let ns = u64::try_from(held.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// As Prometheus wants it.
    pub(crate) fn read(&self) -> Held {
        let bounds = BOUNDS_US.map(|bound| Duration::from_micros(bound).as_secs_f64());
        let bounds = bounds.into_iter().chain([f64::MAX]);
        let counts = self
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        Held {
            sum_secs: Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed)).as_secs_f64(),
            answers: buckets.iter().map(|(_, count)| count).sum(),
            buckets,
        }
    }

    /// Each bucket with its upper bound, the last one without.
    pub(crate) fn to_json(&self) -> Value {
        let bounds = BOUNDS_US.iter().map(|bound| Some(*bound)).chain([None]);
        let buckets = bounds.zip(&self.counts).map(
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
            (1_000_001, 13),
            (10_000_000, 14),
            (u64::MAX, 15),
        ];
        for (us, bucket) in rows {
            let hold = Hold::default();
            hold.note(Duration::from_micros(us));
            let buckets = hold.to_json();
            assert_eq!(buckets[bucket]["answers"], 1, "{us}: {buckets}");
            let bound = &buckets[bucket]["up_to_us"];
            assert!(bound.as_u64().is_none_or(|bound| us <= bound), "{us}");
        }
        assert_eq!(Hold::default().to_json().as_array().unwrap().len(), 16);
    }

    #[test]
    fn it_is_read_in_seconds() {
        let hold = Hold::default();
        for micros in [10, 11, 20_000_000] {
            hold.note(Duration::from_micros(micros));
        }
        let held = hold.read();
        assert_eq!(held.answers, 3);
        assert!((held.sum_secs - 20.000_021).abs() < 1e-9);
        let filled = held.buckets.iter().filter(|(_, count)| *count > 0);
        let filled: Vec<_> = filled.map(|(bound, _)| *bound).collect();
        assert_eq!(filled, [0.000_01, 0.000_025, f64::MAX]);
    }
}
