//! The compiler against the plain reference, on random policies. A case is one flow, or one DNS
//! question, under one set of policies.
//!
//! The usual run takes 50,000 cases. A million:
//! `cargo test --release -p policy a_million_flows -- --ignored`

use super::random::{Dice, file};
use super::*;
use crate::Severity;
use crate::reference::{Reference, Wire};

const ADDRESSES: [&str; 16] = [
    B,
    O,
    DNS,
    W,
    P,
    HOST,
    "10.2.0.9",
    "10.2.0.6",
    "192.168.0.2",
    "192.168.0.3",
    "192.168.0.4",
    "10.200.0.1",
    "10.1.3.9",
    "172.16.0.9",
    "2001:db8::1",
    "2a00::1",
];
const L4: [(u8, u16); 18] = [
    (6, 80),
    (6, 80),
    (6, 443),
    (6, 53),
    (17, 53),
    (17, 53),
    (17, 54),
    (17, 80),
    (132, 80),
    (132, 53),
    (6, 85),
    (6, 8080),
    (6, 444),
    (1, 8),
    (1, 0),
    (58, 128),
    (58, 2),
    (47, 0),
];
const ASKED: [&str; 5] = [
    "example.com",
    "www.example.com",
    "a.b.example.com",
    "x.org",
    "com",
];

/// The setting of the cases with more in it: nodes, ports with names, services, more endpoints.
pub(super) fn crowd() -> Cast {
    let mut cast = cast();
    let ports = |list: &[(&str, u16, L4Protocol)]| -> NamedPorts {
        let named = list
            .iter()
            .map(|(name, port, protocol)| ((*name).into(), (*port, *protocol)));
        named.collect()
    };
    cast.endpoints[0].workload.ports =
        ports(&[("web", 80, L4Protocol::Tcp), ("dns", 53, L4Protocol::Udp)]);
    let endpoint = |id, workload, at: &str| LocalEndpoint {
        id: EndpointId::new(id).unwrap(),
        workload,
        addresses: vec![address(at)],
        audit: id == 9,
    };
    cast.endpoints.extend([
        endpoint(8, workload("default", "c", &[("app", "c")]), "10.2.0.7"),
        endpoint(9, workload("other", "a", &[("app", "a")]), "10.3.0.7"),
        endpoint(
            10,
            workload("default", "new", &[("reserved:init", "")]),
            "10.2.0.8",
        ),
        endpoint(11, workload("default", "a2", &[("app", "a")]), "10.2.0.3"),
    ]);
    cast.peers[0].workload.ports = ports(&[("web", 8080, L4Protocol::Tcp)]);
    cast.peers[3].workload.ports = ports(&[("dns", 53, L4Protocol::Udp)]);
    let mut twin = peer(workload("default", "b2", &[("app", "b")]), &["10.2.0.6"]);
    twin.workload.ports = ports(&[("web", 80, L4Protocol::Tcp), ("dns", 53, L4Protocol::Tcp)]);
    cast.peers.push(twin);
    for (name, at) in [
        ("remote-node", "192.168.0.2"),
        ("kube-apiserver", "192.168.0.3"),
        ("health", "192.168.0.4"),
    ] {
        let labels = [(format!("reserved:{name}"), "")];
        let labels = labels.each_ref().map(|(key, value)| (key.as_str(), *value));
        cast.peers
            .push(peer(workload("kube-system", name, &labels), &[at]));
    }
    let service = |name: &str, backend: &str| crate::Service {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        labels: [Label::from_key("kind", "svc")].into_iter().collect(),
        backends: vec![address(backend)],
        frontends: Vec::new(),
    };
    cast.services = vec![service("out", "172.16.0.9"), service("b", B)];
    cast
}

pub(super) fn options(dice: &mut Dice) -> Options {
    Options {
        mode: match dice.below(12) {
            0 => Mode::Always,
            1 => Mode::Never,
            _ => Mode::Default,
        },
        audit: dice.one_in(15),
        allow_localhost: !dice.one_in(4),
    }
}

/// What a file says; `None` where policies contradict each other.
pub(super) fn load_text(text: &str) -> Option<PolicySet> {
    let path = "p.yaml".to_owned();
    let loaded = load(&[Source {
        path,
        text: text.to_owned(),
    }]);
    let errors = loaded
        .problems
        .iter()
        .filter(|problem| problem.severity == Severity::Error);
    let mut is_valid = true;
    for error in errors {
        assert_eq!(error.code, Code::Conflict, "{error}\n{text}");
        is_valid = false;
    }
    is_valid.then_some(loaded.set)
}

/// A compiled set and all that it was made from.
pub(super) struct World<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) reference: Reference<'a>,
    pub(super) told: &'a str,
}

impl World<'_> {
    /// One random flow of a random endpoint.
    pub(super) fn check_flow(&self, dice: &mut Dice) {
        let endpoints = &self.reference.cast.endpoints;
        let endpoint = &endpoints[dice.below(endpoints.len())];
        let at = address(dice.of(&ADDRESSES));
        let (protocol, port) = L4[dice.below(L4.len())];
        let direction = [Direction::Egress, Direction::Egress, Direction::Ingress][dice.below(3)];
        let may_learn = self.snapshot.may_learn(at).is_ok();
        let names: Vec<Name> = match dice.below(3) {
            count if may_learn => (0..count).map(|_| name(dice.of(&ASKED))).collect(),
            _ => Vec::new(),
        };
        let identity = self.snapshot.identity_of(at);
        let flow = FlowKey {
            direction,
            identity,
            protocol,
            port,
        };
        let labels = self.snapshot.learned_labels(endpoint.id, names.iter(), at);
        let (found, peer) = if names.is_empty() {
            (
                self.snapshot.judge(endpoint.id, flow),
                PeerRef::Known(identity),
            )
        } else {
            let found = self.snapshot.judge_learned(endpoint.id, &labels, flow);
            (found, PeerRef::Learned(&labels))
        };
        let other = self.reference.other(at, &names);
        let wire = Wire {
            direction,
            protocol,
            port,
        };
        let expected = self.reference.judge(endpoint, &other, wire);
        let place = || {
            format!(
                "{} with {at} {names:?} {wire:?}\n{:?}\n{}",
                endpoint.id, self.reference.options, self.told
            )
        };
        assert_eq!((found.verdict, found.matched), expected, "{}", place());
        if found.rule != RuleId::NONE {
            let rules = self.snapshot.deciding_rules(endpoint.id, peer, flow);
            assert!(
                rules.contains(&found.rule),
                "{:?} in {rules:?}: {}",
                found.rule,
                place()
            );
        }
    }

    /// One random question of a random endpoint.
    pub(super) fn check_question(&self, dice: &mut Dice) {
        let endpoints = &self.reference.cast.endpoints;
        let endpoint = &endpoints[dice.below(endpoints.len())];
        let server = address(dice.of(&[DNS, DNS, DNS, B, "10.2.0.6", W, P, HOST]));
        let protocol = [L4Protocol::Udp, L4Protocol::Tcp][dice.below(2)];
        let port = [53, 53, 53, 54, 80][dice.below(5)];
        let question = Question {
            name: name(dice.of(&ASKED)),
            qtype: 1,
            qclass: 1,
        };
        let found =
            self.snapshot
                .judge_dns(endpoint.id, (server, port).into(), protocol, &question);
        let expected = self
            .reference
            .may_ask(endpoint, (server, protocol, port), &question.name);
        // What is only audited is permitted, and not by a rule.
        let by_rule = found.as_ref().is_ok_and(|permit| !permit.is_audited());
        assert_eq!(
            by_rule, expected,
            "{} asks {server} {port} {protocol:?} for {:?}: {found:?}\n{:?}\n{}",
            endpoint.id, question.name, self.reference.options, self.told
        );
    }
}

/// Compares `count` cases, from a seed on.
fn compare(count: usize, seed: u64) {
    let cast = crowd();
    let mut dice = Dice(seed);
    let (mut cases, mut sets, mut conflicts) = (0, 0, 0);
    while cases < count {
        sets += 1;
        let text = file(&mut dice);
        let options = options(&mut dice);
        let Some(set) = load_text(&text) else {
            conflicts += 1;
            continue;
        };
        let mut identities = Identities::new();
        let built = Compiler::new().build(1, (&set, &cast, options), &mut identities);
        let snapshot = match built {
            Ok(snapshot) => snapshot,
            Err(problems) => {
                assert!(
                    problems.iter().all(|one| one.code == Code::Conflict),
                    "{problems:#?}\n{text}"
                );
                conflicts += 1;
                continue;
            }
        };
        let reference = Reference {
            policies: &set,
            cast: &cast,
            options,
        };
        let world = World {
            snapshot: &snapshot,
            reference,
            told: &text,
        };
        for _ in 0..30 {
            world.check_flow(&mut dice);
        }
        for _ in 0..10 {
            world.check_question(&mut dice);
        }
        cases += 40;
    }
    assert!(
        conflicts * 4 < sets,
        "{conflicts} of {sets} sets are refused"
    );
}

#[test]
fn fifty_thousand_flows_are_judged_as_the_reference_judges() {
    compare(50_000, 1);
}

#[test]
#[ignore = "minutes: see the head of the file"]
fn a_million_flows_are_judged_as_the_reference_judges() {
    compare(1_000_000, 2);
}
