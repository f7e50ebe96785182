//! Metrics as text, by their kinds.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::learner::Held;

/// A name without its `_total`, and what it means.
pub(super) type Titled<'a> = (&'a str, &'a str);

/// A text of metrics in the making.
pub(super) struct Page<'a>(DescriptorEncoder<'a>);

impl<'a> Page<'a> {
    /// One that is written there.
    pub(super) const fn of(encoder: DescriptorEncoder<'a>) -> Self {
        Self(encoder)
    }

    pub(super) fn counter(&mut self, (name, help): Titled<'_>, value: u64) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    pub(super) fn gauge(&mut self, (name, help): Titled<'_>, value: usize) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        metric.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX))
    }

    /// Counters that differ in one label.
    pub(super) fn words(
        &mut self,
        title: Titled<'_>,
        label: &str,
        rows: &[(&str, u64)],
    ) -> fmt::Result {
        self.counters(
            title,
            rows.iter().map(|(word, value)| ([(label, *word)], *value)),
        )
    }

    pub(super) fn counters<'r, const N: usize>(
        &mut self,
        (name, help): Titled<'_>,
        rows: impl Iterator<Item = ([(&'r str, &'r str); N], u64)>,
    ) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in rows {
            let mut one = metric.encode_family(&labels)?;
            one.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
        }
        Ok(())
    }

    pub(super) fn gauges<'r>(
        &mut self,
        (name, help): Titled<'_>,
        rows: impl Iterator<Item = ([(&'r str, &'r str); 1], usize)>,
    ) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in rows {
            let mut one = metric.encode_family(&labels)?;
            one.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX))?;
        }
        Ok(())
    }

    /// Times, by labels where there are some.
    pub(super) fn histogram<const N: usize>(
        &mut self,
        (name, help): Titled<'_>,
        rows: &[([(&str, &str); N], Held)],
    ) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, times) in rows {
            let (sum, count, buckets) = (times.sum_secs, times.answers, &times.buckets);
            match N {
                0 => metric.encode_histogram::<NoLabelSet>(sum, count, buckets, None)?,
                _ => metric
                    .encode_family(labels)?
                    .encode_histogram::<NoLabelSet>(sum, count, buckets, None)?,
            }
        }
        Ok(())
    }
}
