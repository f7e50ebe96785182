//! The compiler against the plain reference, on random policies. A case is one flow, or one DNS
//! question, under one set of policies.
//!
//! The usual run takes 50,000 cases. A million:
//! `cargo test --release -p policy a_million_flows -- --ignored`

use super::*;
use crate::http::Request;
use crate::reference::random::{Dice, file, options, read};
use crate::reference::{Reference, Wire};
use crate::{Bound, HttpDecision, NameBinding, Proxy, TlsDenied};

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
        if found.verdict == EntryVerdict::Redirect(Proxy::Names) {
            let said = name(dice.of(&ASKED));
            let said = (!dice.one_in(4)).then_some(&said);
            let expected = self.reference.bound(endpoint, &other, (port, said));
            let at = (endpoint.id, direction);
            assert_eq!(
                self.bound(at, (peer, port), said),
                expected,
                "{said:?}: {}",
                place()
            );
        }
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

    /// What is found of a flow that says this name: of TLS and of a request alike.
    fn bound(
        &self,
        at: (EndpointId, Direction),
        to: (PeerRef<'_>, u16),
        said: Option<&Name>,
    ) -> Option<Bound> {
        let text = said.map(|name| name.to_string().to_ascii_uppercase());
        let text = text.as_deref();
        let access = self.snapshot.http_access(at.0, at.1, to.0, to.1);
        let request = Request {
            method: "GET",
            path: None,
            host: text,
            port: to.1,
            headers: &[],
        };
        let refused = Some(Bound {
            mode: NameBinding::Enforce,
            fits: false,
        });
        let of_request = match access.judge(&request) {
            HttpDecision::NotBound => {
                assert_eq!(access.permit(&request), None);
                refused
            }
            decision @ (HttpDecision::Allowed { .. } | HttpDecision::Denied) => {
                assert_ne!(decision, HttpDecision::Denied);
                let permit = access.permit(&request)?;
                let bound = permit.bound();
                assert_eq!(permit.is_audited(), bound.is_some_and(|bound| !bound.fits));
                bound
            }
        };
        let of_tls = match self.snapshot.permit_tls(at, to, &access, text) {
            Err(denied) => {
                assert_eq!(denied, TlsDenied::NotBound);
                refused
            }
            Ok(permit) => permit.bound(),
        };
        assert_eq!(of_tls, of_request);
        let weakest = access.bound_by().map(|(_, mode)| mode);
        assert_eq!(weakest, of_tls.map(|bound| bound.mode));
        of_tls
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
            qtype: [1, 1, 28, 16][dice.below(4)],
            qclass: 1,
        };
        let asked = (&question.name, question.qtype);
        let found =
            self.snapshot
                .judge_dns(endpoint.id, (server, port).into(), protocol, &question);
        let expected = self
            .reference
            .may_ask(endpoint, (server, protocol, port), asked);
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
        let Some(set) = read(&text) else {
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
