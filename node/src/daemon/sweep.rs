//! The flow table, looked through every now and then.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bpf_redirect_common::{Address, CtKey, CtValue, EGRESS};
use policy::{EndpointId, Identity};

use crate::clock;
use crate::live::is_over;
use crate::refresh::Live;

use super::Daemon;

impl Daemon {
    /// Forgets the flows that are over.
    pub(crate) fn sweep(&mut self) {
        let now = clock::boot_ns();
        let snapshot = self.learner.snapshot();
        let refreshes = self.setup.dns_refresh;
        let (mut live, mut named) = (Live::new(), Live::new());
        let is_over = |key: &CtKey, value: &CtValue| {
            let is_over = is_over(key, value, now);
            let is_asked = !is_over && value.direction == EGRESS;
            let Some(endpoint) = EndpointId::new(key.endpoint).filter(|_| is_asked) else {
                return is_over;
            };
            let peer = IpAddr::from(key.peer);
            if refreshes {
                live.entry(endpoint).or_default().insert(peer);
            }
            let is_closed = value.state & CtValue::CLOSED == CtValue::CLOSED;
            if !is_closed && snapshot.is_by_name(Identity::from_number(value.identity)) {
                named.entry(endpoint).or_default().insert(peer);
            }
            is_over
        };
        let swept = self.datapath.sweep_flows(is_over);
        self.refreshed += self.refresh(&live);
        if self.setup.cilium_metrics {
            self.tallies.outlived = self.outlived_of(&named);
        }
        self.learner.note_connected(named);
        match swept {
            Ok(left) => self.flows = left,
            Err(error) => tracing::error!("the flow table can't be swept: {error}"),
        }
    }

    /// At how many of these addresses each endpoint has connections that outlived the name which opened them.
    fn outlived_of(&self, named: &Live) -> BTreeMap<EndpointId, usize> {
        let count = |(endpoint, peers): (&EndpointId, &BTreeSet<IpAddr>)| {
            let closed = self.learner.with_knowledge(*endpoint, |knowledge| {
                let ledger = &knowledge.ledger;
                let is_closed =
                    |peer: &&IpAddr| ledger.identity_of(Address::from(**peer)).is_none();
                peers.iter().filter(is_closed).count()
            });
            (*endpoint, closed.unwrap_or_default())
        };
        named.iter().map(count).collect()
    }
}
