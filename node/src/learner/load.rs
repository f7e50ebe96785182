//! Names that somebody makes known before an endpoint asks for them.

use std::net::IpAddr;

use bpf_redirect::Table;
use dnsproxy::NotInstalled;
use fqdn::Name;
use fqdn_cache::Given;
use policy::EndpointId;

use super::Learner;

/// What became of a name's addresses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Loaded {
    /// How many are open now.
    pub(crate) opened: usize,
    /// How many others a bound took a name from.
    pub(crate) evicted: usize,
    /// Those that no name opens, each with the word of its class.
    pub(crate) refused: Vec<(IpAddr, &'static str)>,
}

impl<T: Table> Learner<T> {
    /// Opens a name's addresses, each with its TTL in seconds, as an answer would that a trusted server gives
    /// now. `None` if no rule of the endpoint names it: then nothing is learned.
    ///
    /// # Errors
    /// As of [`Learner::learn`], but for lateness of what was written.
    pub(crate) fn load(
        &self,
        endpoint: EndpointId,
        (name, addresses): (&Name, &[(IpAddr, u32)]),
    ) -> Result<Option<Loaded>, NotInstalled> {
        let now = (self.clock)();
        self.under_lock((now, endpoint), |knowledge, scope| {
            if scope.snapshot.rules_naming(endpoint, name).next().is_none() {
                return Ok(None);
            }
            let sifted = self.sift(scope, now, addresses.iter().copied())?;
            let mut evicted = 0;
            if !sifted.open.is_empty() {
                let given = Given {
                    by: None,
                    ..scope.terms.lifetimes.given(now)
                };
                let taught = self.teach(knowledge, scope, (name, &sifted.open[..], given))?;
                self.tally(&taught);
                evicted = taught.evicted;
            }
            Ok(Some(Loaded {
                opened: sifted.open.len(),
                evicted,
                refused: sifted.refused,
            }))
        })
    }
}
