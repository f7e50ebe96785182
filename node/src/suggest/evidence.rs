//! What each workload did, flow by flow.

use std::collections::{BTreeMap, BTreeSet};

use flow::{Direction, DropReason, Verdict};

use super::deed::{Deed, Icmp, Port};
use super::http::Request;
use super::limits::{
    ANSWERS_MAX, FACTS_MAX, NAMES_MAX, PEERS_MAX, PORTS_MAX, REQUESTS_MAX, WORKLOADS_MAX,
};
use super::names::{Names, written_name};
use super::peer::{self, Peer};
use super::record::{Message, Party, Record};
use super::render;
use super::seen::Seen;
use super::selector::{Selector, namespace};
use super::skip::Skip;

/// Which flows count.
#[derive(Clone, Default, Debug)]
pub(crate) struct Scope {
    /// Of workloads of this namespace alone.
    pub(crate) namespace: Option<String>,
    /// Of pods alone whose name starts so.
    pub(crate) pod_prefix: Option<String>,
    /// Also those that policy refused for want of a rule.
    pub(crate) includes_denied: bool,
}

/// What was seen so far.
#[derive(Default)]
pub(crate) struct Evidence {
    scope: Scope,
    workloads: BTreeMap<Selector, Workload>,
    answers: Answers,
    facts: usize,
    used: u64,
    skipped: BTreeMap<Skip, u64>,
}

/// By who asked and for which name: whether an answer had data.
type Answers = BTreeMap<(Selector, String), bool>;

/// One workload: all pods with the same labels.
#[derive(Default)]
pub(super) struct Workload {
    /// What its policy is called by.
    pub(super) name: String,
    pub(super) seen: Seen,
    pub(super) egress: Side,
    pub(super) ingress: Side,
}

/// The peers of one direction.
#[derive(Default)]
pub(super) struct Side {
    pub(super) peers: BTreeMap<Peer, PeerFacts>,
}

/// What was done with one peer.
#[derive(Default)]
pub(super) struct PeerFacts {
    pub(super) ports: BTreeMap<Port, PortFacts>,
    pub(super) icmps: BTreeMap<Icmp, Seen>,
}

/// What was done on one port. A port where a proxy saw messages is never opened whole, even if no
/// message could be kept.
#[derive(Default)]
pub(super) struct PortFacts {
    pub(super) seen: Seen,
    pub(super) messages: Messages,
}

/// What a proxy saw on one port.
#[derive(Default)]
pub(super) enum Messages {
    /// Nothing.
    #[default]
    None,
    /// Names asked for.
    Dns(BTreeSet<String>),
    /// Requests.
    Http(BTreeSet<Request>),
}

impl Evidence {
    /// Nothing seen yet.
    pub(crate) fn new(scope: Scope) -> Self {
        Self {
            scope,
            ..Self::default()
        }
    }

    /// Takes a flow in, or counts why not.
    pub(crate) fn add(&mut self, record: &Record) {
        match self.try_add(record) {
            Ok(()) => self.used += 1,
            Err(skip) => *self.skipped.entry(skip).or_default() += 1,
        }
    }

    /// Flows that asked for a rule.
    pub(crate) const fn used(&self) -> u64 {
        self.used
    }

    /// Flows that did not, by reason.
    pub(crate) const fn skipped(&self) -> &BTreeMap<Skip, u64> {
        &self.skipped
    }

    /// The policies that allow what was seen, as YAML: one document a workload, none for one of
    /// which nothing could be written.
    pub(crate) fn suggest(&self, how: Names) -> Vec<String> {
        render::documents(self, how)
    }

    pub(super) const fn workloads(&self) -> &BTreeMap<Selector, Workload> {
        &self.workloads
    }

    /// Whether answers were seen to a name and none had data: a search list makes such names.
    pub(super) fn is_empty_name(&self, subject: &Selector, name: &str) -> bool {
        let key = (subject.clone(), name.to_owned());
        self.answers.get(&key) == Some(&false)
    }

    fn try_add(&mut self, record: &Record) -> Result<(), Skip> {
        if let Some(Message::DnsAnswer {
            name,
            rcode,
            has_data,
        }) = &record.message
        {
            self.note_answer(&record.destination, name, (*rcode, *has_data));
        }
        if record.is_reply {
            return Err(Skip::Reply);
        }
        self.check_verdict(record)?;
        let (own, other) = match record.direction {
            Direction::Egress => (&record.source, &record.destination),
            Direction::Ingress => (&record.destination, &record.source),
            Direction::Unknown => return Err(Skip::Direction),
        };
        if !self.scope.includes(own) {
            return Err(Skip::OutOfScope);
        }
        let subject = peer::subject(own)?;
        let deed = Deed::of(record)?;
        let names: &[String] = if record.direction == Direction::Egress && !deed.is_dns() {
            &record.destination_names
        } else {
            &[]
        };
        let peers = peer::peers(other, names)?;
        let mut budget = Budget(&mut self.facts);
        let limit = (WORKLOADS_MAX, Skip::Workloads);
        let workload = budget.slot(&mut self.workloads, subject, limit)?;
        if workload.name.is_empty() {
            workload.name = name_of(own);
        }
        let side = match record.direction {
            Direction::Egress => &mut workload.egress,
            Direction::Ingress | Direction::Unknown => &mut workload.ingress,
        };
        for peer in peers {
            let facts = budget.slot(&mut side.peers, peer, (PEERS_MAX, Skip::Peers))?;
            facts.note(record, &deed, &mut budget)?;
        }
        workload.seen.note(record);
        Ok(())
    }

    fn check_verdict(&self, record: &Record) -> Result<(), Skip> {
        match record.verdict {
            Verdict::Forwarded | Verdict::Redirected | Verdict::Audit => Ok(()),
            Verdict::Dropped => {
                // A proxy gives no reason. A deny rule would win over any rule made here.
                let is_unruled = match record.drop_reason {
                    None => record.message.is_some(),
                    Some(reason) => reason == DropReason::POLICY_DENIED,
                };
                match (is_unruled, self.scope.includes_denied) {
                    (true, true) => Ok(()),
                    (true, false) => Err(Skip::Denied),
                    (false, _) => Err(Skip::Verdict),
                }
            }
            Verdict::Unknown | Verdict::Error | Verdict::Traced | Verdict::Translated => {
                Err(Skip::Verdict)
            }
        }
    }

    /// NXDOMAIN and an empty answer speak against a name; a failure of the server says nothing.
    fn note_answer(&mut self, asker: &Party, name: &str, (rcode, has_data): (u32, bool)) {
        const NO_ERROR: u32 = 0;
        const NO_SUCH_NAME: u32 = 3;
        let has_data = match rcode {
            NO_ERROR => has_data,
            NO_SUCH_NAME => false,
            _ => return,
        };
        let (Some(name), Ok(subject)) = (written_name(name), peer::subject(asker)) else {
            return;
        };
        let key = (subject, name);
        if let Some(known) = self.answers.get_mut(&key) {
            *known |= has_data;
        } else if self.answers.len() < ANSWERS_MAX {
            self.answers.insert(key, has_data);
        }
    }
}

impl Scope {
    fn includes(&self, own: &Party) -> bool {
        let is_in = |wanted: &String| namespace(own) == Some(wanted);
        self.namespace.as_ref().is_none_or(is_in)
            && self
                .pod_prefix
                .as_ref()
                .is_none_or(|prefix| !own.pod.is_empty() && own.pod.starts_with(prefix))
    }
}

impl PeerFacts {
    fn note(&mut self, record: &Record, deed: &Deed, budget: &mut Budget<'_>) -> Result<(), Skip> {
        if let Deed::Icmp(icmp) = deed {
            let limit = (PORTS_MAX, Skip::Ports);
            budget.slot(&mut self.icmps, *icmp, limit)?.note(record);
            return Ok(());
        }
        let (Deed::Port(port) | Deed::Dns(port, _) | Deed::Http(port, _)) = deed else {
            return Ok(());
        };
        let limit = (PORTS_MAX, Skip::Ports);
        let facts = budget.slot(&mut self.ports, *port, limit)?;
        facts.messages.note(deed, budget)?;
        facts.seen.note(record);
        Ok(())
    }
}

impl Messages {
    /// The kind is kept even where the message can't be.
    fn note(&mut self, deed: &Deed, budget: &mut Budget<'_>) -> Result<(), Skip> {
        match (deed, &mut *self) {
            (Deed::Port(_) | Deed::Icmp(_), _) => return Ok(()),
            (Deed::Dns(..), Self::None) => *self = Self::Dns(BTreeSet::new()),
            (Deed::Http(..), Self::None) => *self = Self::Http(BTreeSet::new()),
            (Deed::Dns(..), Self::Http(_)) | (Deed::Http(..), Self::Dns(_)) => {
                return Err(Skip::Mixed);
            }
            (Deed::Dns(..), Self::Dns(_)) | (Deed::Http(..), Self::Http(_)) => {}
        }
        match (deed, self) {
            (Deed::Dns(_, name), Self::Dns(names)) => {
                let name = name.as_ref().ok_or(Skip::BadName)?;
                budget.insert(names, name, (NAMES_MAX, Skip::Names))
            }
            (Deed::Http(_, request), Self::Http(requests)) => {
                let request = request.as_ref().ok_or(Skip::BadRequest)?;
                budget.insert(requests, request, (REQUESTS_MAX, Skip::Requests))
            }
            (Deed::Port(_) | Deed::Icmp(_) | Deed::Dns(..) | Deed::Http(..), _) => Ok(()),
        }
    }
}

/// The facts that there is room for.
struct Budget<'a>(&'a mut usize);

impl Budget<'_> {
    /// The value of a key, new if there is room for it.
    fn slot<'m, K: Ord, V: Default>(
        &mut self,
        map: &'m mut BTreeMap<K, V>,
        key: K,
        limit: (usize, Skip),
    ) -> Result<&'m mut V, Skip> {
        if !map.contains_key(&key) {
            self.take(map.len(), limit)?;
        }
        Ok(map.entry(key).or_default())
    }

    fn insert<T: Ord + Clone>(
        &mut self,
        set: &mut BTreeSet<T>,
        item: &T,
        limit: (usize, Skip),
    ) -> Result<(), Skip> {
        if !set.contains(item) {
            self.take(set.len(), limit)?;
            set.insert(item.clone());
        }
        Ok(())
    }

    fn take(&mut self, there: usize, (max, skip): (usize, Skip)) -> Result<(), Skip> {
        if there >= max {
            return Err(skip);
        }
        if *self.0 >= FACTS_MAX {
            return Err(Skip::Facts);
        }
        *self.0 += 1;
        Ok(())
    }
}

/// What a workload is called: by what made it, by its labels, or by a pod.
fn name_of(party: &Party) -> String {
    const KEYS: [&str; 3] = ["k8s:app=", "k8s:k8s-app=", "k8s:app.kubernetes.io/name="];
    if !party.workload.is_empty() {
        return party.workload.clone();
    }
    let by_label = KEYS.iter().find_map(|key| {
        let mut labels = party.labels.iter();
        labels.find_map(|label| label.strip_prefix(key).filter(|name| !name.is_empty()))
    });
    by_label.unwrap_or(&party.pod).to_owned()
}
