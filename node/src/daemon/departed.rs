//! Endpoints that went.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use flow::AgentEndpoint;

/// How long the series of an endpoint that went can still be read, as with Hubble.
const SERIES_OUTLIVE: Duration = Duration::from_secs(60);

/// Those whose series can still be read, the first that went in front. How many there are is bounded by what
/// can come and go in that time, each by a file.
#[derive(Debug, Default)]
pub(super) struct Departed(VecDeque<(Instant, AgentEndpoint)>);

impl Departed {
    /// These went now.
    pub(super) fn add(&mut self, now: Instant, gone: Vec<AgentEndpoint>) {
        self.0
            .extend(gone.into_iter().map(|endpoint| (now, endpoint)));
    }

    /// Takes those that went long enough ago.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<AgentEndpoint> {
        let is_due = |at: Instant| now.saturating_duration_since(at) >= SERIES_OUTLIVE;
        let due = self.0.iter().take_while(|(at, _)| is_due(*at)).count();
        self.0.drain(..due).map(|(_, endpoint)| endpoint).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn an_endpoint_is_due_a_minute_after_it_went() {
        let endpoint = |id| AgentEndpoint {
            id,
            labels: Vec::new(),
            pod_name: "cart".into(),
            namespace: "shop".into(),
        };
        let start = clock::now();
        let mut departed = Departed::default();
        departed.add(start, vec![endpoint(1), endpoint(2)]);
        departed.add(start + Duration::from_secs(10), vec![endpoint(3)]);
        let mut due = |secs| {
            let due = departed.take_due(start + Duration::from_secs(secs));
            due.iter().map(|endpoint| endpoint.id).collect::<Vec<_>>()
        };
        assert_eq!(due(59), [0; 0]);
        assert_eq!(due(60), [1, 2]);
        assert_eq!(due(69), [0; 0]);
        assert_eq!(due(100), [3]);
        assert_eq!(due(1_000), [0; 0]);
    }
}
