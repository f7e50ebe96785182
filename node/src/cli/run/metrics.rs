//! The options of metrics, with Cilium's names where it has them.

use std::net::SocketAddr;

use clap::Args;
use observer::{DEFAULT_METRICS, MetricChoice};

use crate::exit::{Exit, USAGE};

/// Which numbers are told, and where.
#[derive(Args)]
#[command(next_help_heading = "Metrics")]
pub(super) struct MetricsOptions {
    /// Serve metrics for Prometheus (/metrics), health (/healthz) and readiness (/readyz) by HTTP:
    /// 127.0.0.1:9965. Whoever reaches it may read it.
    #[arg(long, value_name = "ADDRESS", visible_alias = "prometheus-serve-addr")]
    pub(super) metrics_addr: Option<SocketAddr>,
    /// Which metrics of flows, by blanks, each with its options: 'dns:query;ignoreAAAA drop:sourceContext=pod'.
    #[arg(long, value_name = "LIST", default_value = DEFAULT_METRICS, requires = "metrics_addr")]
    hubble_metrics: String,
    /// Tell what is known of names and proxies by the names of Cilium's agent too: cilium_fqdn_active_names,
    /// cilium_policy_l7_total …
    #[arg(long, requires = "metrics_addr")]
    pub(super) metrics_cilium_names: bool,
}

impl MetricsOptions {
    /// What is counted, if somebody may ask.
    ///
    /// # Errors
    /// A metric or an option that isn't one.
    pub(super) fn choices(&self) -> anyhow::Result<Option<Vec<MetricChoice>>> {
        if self.metrics_addr.is_none() {
            return Ok(None);
        }
        let choices = MetricChoice::read_all(&self.hubble_metrics);
        let choices =
            choices.map_err(|error| Exit::with(USAGE, format!("--hubble-metrics: {error}")))?;
        Ok(Some(choices))
    }
}
