//! Two sets of policies, and the verdicts in which they differ.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use fqdn::Name;
use policy::{
    Cast, EndpointId, EntryVerdict, Loaded, LocalEndpoint, Options, Proxy, Samples, Workload,
};

use super::question::{HttpQuestion, L7Question, Proto, Question};
use super::words::{direction, l7_verdict, verdict};
use super::{Answer, Outcome, Side, World};

/// Questions of one comparison; beyond, the rest isn't asked, and that is told.
const QUESTIONS_MAX: usize = 200_000;
/// Changed verdicts that are listed; beyond, they are counted.
pub(crate) const CHANGES_SHOWN_MAX: usize = 200;

/// What two sets say differently.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    /// By side (`default/a egress to host`) and change (`DENIED -> ALLOWED`): on what.
    pub(crate) changes: BTreeMap<(String, String), Vec<String>>,
    pub(crate) asked: usize,
    /// Whether there was more to ask than is asked.
    pub(crate) is_cut: bool,
}

/// What is asked about.
struct Plan {
    froms: Vec<String>,
    tos: Vec<String>,
    services: Vec<(Proto, u16)>,
    names: Vec<String>,
    requests: Vec<(String, String)>,
}

/// Compares two sets for a cast, or for workloads made from their selectors.
///
/// # Errors
/// If a set can't be compiled.
pub(crate) fn compare(
    (old, new): (Loaded, Loaded),
    cast: Option<Cast>,
    options: Options,
) -> Result<Difference, String> {
    let mut samples = old.set.samples();
    samples.extend(new.set.samples());
    let cast = cast.unwrap_or_else(|| made_up(&samples));
    let plan = Plan::new(&samples, &cast);
    let old = World::new(old, cast.clone(), options)?;
    let new = World::new(new, cast, options)?;
    let mut difference = Difference::default();
    for from in &plan.froms {
        for to in &plan.tos {
            for service in &plan.services {
                if difference.asked >= QUESTIONS_MAX {
                    difference.is_cut = true;
                    return Ok(difference);
                }
                difference.ask((&old, &new), &plan, plan.question((from, to), *service));
            }
        }
    }
    Ok(difference)
}

/// A workload for each selector, named by it.
fn made_up(samples: &Samples) -> Cast {
    let mut cast = Cast::default();
    for (number, (text, (namespace, labels))) in (1..).zip(&samples.workloads) {
        let Some(id) = EndpointId::new(number) else {
            break;
        };
        cast.endpoints.push(LocalEndpoint {
            id,
            workload: Workload {
                namespace: namespace.clone(),
                name: format!("({text})"),
                labels: labels.clone(),
                ports: policy::NamedPorts::new(),
                owner: None,
            },
            addresses: Vec::new(),
            audit: false,
            is_redirectable: true,
        });
    }
    cast
}

impl Plan {
    fn new(samples: &Samples, cast: &Cast) -> Self {
        let workloads = cast.endpoints.iter().map(|one| one.workload.full_name());
        let mut froms: BTreeSet<String> = workloads.collect();
        froms.extend(["host", "world", "remote-node", "kube-apiserver"].map(str::to_owned));
        froms.extend(samples.addresses.iter().map(ToString::to_string));
        let mut tos = froms.clone();
        tos.extend(samples.names.iter().cloned());
        let mut services = BTreeSet::new();
        for (number, port) in &samples.ports {
            services.extend(proto_of(*number).map(|proto| (proto.number(), *port)));
        }
        for endpoint in &cast.endpoints {
            let ports = endpoint.workload.ports.values();
            services.extend(ports.map(|(port, protocol)| (protocol.number(), *port)));
        }
        for number in [6, 17, 132] {
            let mut free = (1024..u16::MAX).rev();
            let unused = free.find(|port| !services.contains(&(number, *port)));
            services.extend(unused.map(|port| (number, port)));
        }
        services.extend([(1, 8), (58, 128)]);
        let services = services.into_iter();
        Self {
            froms: froms.into_iter().collect(),
            tos: tos.into_iter().collect(),
            services: services
                .filter_map(|(number, port)| Some((proto_of(number)?, port)))
                .collect(),
            names: samples.names.iter().cloned().collect(),
            requests: samples.requests.iter().cloned().collect(),
        }
    }

    /// A name stands for an address that it alone has.
    fn question(&self, (from, to): (&str, &str), (proto, port): (Proto, u16)) -> Question {
        let number = self.names.iter().position(|name| name == to);
        let learned = number.and_then(|number| {
            // 198.18.0.0/15 is for benchmarks (RFC 2544): nobody's, and large enough.
            let [_, _, high, low] = u32::try_from(number).ok()?.to_be_bytes();
            let address = IpAddr::V4(Ipv4Addr::new(198, 18, high, low));
            Some((Name::from_text(to).ok()?, address))
        });
        Question {
            from: from.to_owned(),
            to: to.to_owned(),
            proto,
            port,
            l7: None,
            learned: learned.into_iter().collect(),
        }
    }

    /// What may be said through a port where a proxy judges.
    fn said(&self, proxy: Proxy) -> Vec<(String, L7Question)> {
        let names = self.names.iter();
        match proxy {
            Proxy::Dns => names
                .filter_map(|text| {
                    let name = Name::from_text(text).ok()?;
                    Some((format!("dns {text}"), L7Question::Dns(name, 1)))
                })
                .collect(),
            Proxy::Tls | Proxy::Names => names
                .map(|text| (format!("sni {text}"), L7Question::Sni(text.clone())))
                .collect(),
            Proxy::Http => {
                let requests = self.requests.iter();
                let asked = requests.map(|(method, path)| HttpQuestion {
                    method: method.clone(),
                    path: path.clone(),
                    ..HttpQuestion::default()
                });
                asked
                    .map(|one| {
                        (
                            format!("{} {}", one.method, one.path),
                            L7Question::Http(one),
                        )
                    })
                    .collect()
            }
        }
    }
}

fn proto_of(number: u8) -> Option<Proto> {
    match number {
        6 => Some(Proto::Tcp),
        17 => Some(Proto::Udp),
        132 => Some(Proto::Sctp),
        1 => Some(Proto::Icmp),
        58 => Some(Proto::Icmpv6),
        _ => None,
    }
}

impl Difference {
    /// How many verdicts differ.
    pub(crate) fn count(&self) -> usize {
        self.changes.values().map(Vec::len).sum()
    }

    fn ask(&mut self, (old, new): (&World, &World), plan: &Plan, question: Question) {
        let Some((before, after)) = self.both((old, new), &question) else {
            return;
        };
        self.note(&before, &after, &question.service());
        // What is said matters where both let the flow pass.
        let passing = sides(&before, &after)
            .filter(|(old, new)| old.decision.verdict.passes() && new.decision.verdict.passes());
        let proxies: BTreeSet<Proxy> = passing
            .flat_map(|(old, new)| [old, new])
            .filter_map(|side| match side.decision.verdict {
                EntryVerdict::Redirect(proxy) => Some(proxy),
                EntryVerdict::AuditDefault
                | EntryVerdict::Allow
                | EntryVerdict::AuditDeny
                | EntryVerdict::Refuse
                | EntryVerdict::FailAuthentication
                | EntryVerdict::Deny => None,
            })
            .collect();
        for (words, l7) in proxies.iter().flat_map(|proxy| plan.said(*proxy)) {
            let asked = Question {
                l7: Some(l7),
                ..question.clone()
            };
            if let Some((before, after)) = self.both((old, new), &asked) {
                let on = format!("{} {words}", question.service());
                self.note_said(&before, &after, &on);
            }
        }
    }

    fn both(&mut self, (old, new): (&World, &World), asked: &Question) -> Option<(Answer, Answer)> {
        self.asked += 1;
        match (old.judge(asked), new.judge(asked)) {
            (Ok(Outcome::Decided(before)), Ok(Outcome::Decided(after))) => Some((before, after)),
            // Neither is an endpoint, or a name has no address.
            _ => None,
        }
    }

    fn note(&mut self, before: &Answer, after: &Answer, on: &str) {
        for (old, new) in sides(before, after) {
            let words = (verdict(old.decision.verdict), verdict(new.decision.verdict));
            if words.0 != words.1 {
                self.add(new, words, on);
            }
        }
    }

    fn note_said(&mut self, before: &Answer, after: &Answer, on: &str) {
        let of = |side: &Side| match l7_verdict(side.l7) {
            Some(word) => word,
            None if side.decision.verdict.passes() => "ALLOWED",
            None => "DENIED",
        };
        for (old, new) in sides(before, after) {
            let words = (of(old), of(new));
            if words.0 != words.1 {
                self.add(new, words, on);
            }
        }
    }

    fn add(&mut self, side: &Side, (old, new): (&str, &str), on: &str) {
        let to = match side.direction {
            policy::Direction::Egress => "to",
            policy::Direction::Ingress => "from",
        };
        let word = direction(side.direction).to_ascii_lowercase();
        let key = format!("{} {word} {to} {}", side.subject, side.peer);
        let list = self
            .changes
            .entry((key, format!("{old} -> {new}")))
            .or_default();
        if !list.iter().any(|other| other == on) {
            list.push(on.to_owned());
        }
    }
}

fn sides<'a>(before: &'a Answer, after: &'a Answer) -> impl Iterator<Item = (&'a Side, &'a Side)> {
    let egress = before.egress.as_ref().zip(after.egress.as_ref());
    let ingress = before.ingress.as_ref().zip(after.ingress.as_ref());
    egress.into_iter().chain(ingress)
}
