//! What holds of every set of policies: order says nothing, allows only open, denies only close, and
//! a compiler that has seen other revisions says the same as a new one.

use super::*;
use crate::Quic;
use crate::reference::random::{Dice, file, object, options as options_of, read};
use crate::reference::{Reference, Wire};
use crate::rule::{Effect, Peers, Policy, Rule};

/// Everything a snapshot says, without the numbers of rules: verdicts by address.
type Said = Vec<(EntryVerdict, crate::MatchType, bool)>;

const ADDRESSES: [&str; 12] = [
    B,
    O,
    DNS,
    W,
    P,
    HOST,
    "10.2.0.9",
    "10.2.0.6",
    "192.168.0.3",
    "172.16.0.9",
    "2001:db8::1",
    "10.200.0.1",
];
const L4: [(u8, u16); 8] = [
    (6, 80),
    (6, 443),
    (17, 53),
    (6, 53),
    (132, 80),
    (1, 8),
    (6, 8080),
    (47, 0),
];

fn said(snapshot: &Snapshot, cast: &Cast) -> Said {
    let asked = [name("example.com"), name("www.example.com")];
    let mut all = Vec::new();
    for endpoint in &cast.endpoints {
        for (index, text) in ADDRESSES.iter().enumerate() {
            let at = address(text);
            let (protocol, port) = L4[index % L4.len()];
            for direction in [Direction::Ingress, Direction::Egress] {
                for (protocol, port) in [(protocol, port), (6, 80), (17, 53)] {
                    let flow = FlowKey {
                        direction,
                        identity: snapshot.identity_of(at),
                        protocol,
                        port,
                    };
                    let found = snapshot.judge(endpoint.id, flow);
                    all.push((found.verdict, found.matched, false));
                    let names = asked.iter();
                    let labels = snapshot.learned_labels(endpoint.id, names, at);
                    let found = snapshot.judge_learned(endpoint.id, &labels, flow);
                    all.push((found.verdict, found.matched, true));
                }
            }
            for protocol in [L4Protocol::Udp, L4Protocol::Tcp] {
                let question = Question {
                    name: asked[index % 2].clone(),
                    qtype: 1,
                    qclass: 1,
                };
                let found = snapshot.judge_dns(endpoint.id, (at, 53).into(), protocol, &question);
                let teaches = snapshot.may_teach(endpoint.id, (at, 53).into(), protocol);
                let verdict = match found.is_ok() {
                    true => EntryVerdict::Allow,
                    false => EntryVerdict::Deny,
                };
                all.push((verdict, crate::MatchType::None, teaches));
            }
        }
    }
    all
}

/// A new compiler's answer; `None` if it refuses.
fn built(set: &PolicySet, cast: &Cast, options: Options) -> Option<Snapshot> {
    let mut identities = Identities::new();
    Compiler::new()
        .build(1, (set, cast, options), &mut identities)
        .ok()
}

/// The same policy again: its items are shared, as those of a file that did not change.
fn again(policy: &Policy) -> Policy {
    let rules = policy.rules.iter().map(|rule| Rule {
        subject: rule.subject.clone(),
        items: rule.items.clone(),
    });
    Policy {
        kind: policy.kind,
        namespace: policy.namespace.clone(),
        name: policy.name.clone(),
        file: Arc::clone(&policy.file),
        line: policy.line,
        audit: policy.audit,
        name_binding: policy.name_binding,
        rules: rules.collect(),
    }
}

fn in_a_set(policies: Vec<Policy>) -> PolicySet {
    PolicySet {
        policies: policies.into_iter().map(Arc::new).collect(),
        lookup: None,
    }
}

fn shuffle<T>(dice: &mut Dice, list: &mut [T]) {
    for index in (1..list.len()).rev() {
        list.swap(index, dice.below(index + 1));
    }
}

#[test]
fn order_of_policies_rules_and_items_says_nothing() {
    let (cast, mut dice) = (crowd(), Dice(3));
    for _ in 0..60 {
        let (text, options) = (file(&mut dice), options_of(&mut dice));
        let Some(set) = read(&text) else {
            continue;
        };
        let mut policies: Vec<Policy> = set.iter().map(again).collect();
        shuffle(&mut dice, &mut policies);
        for policy in &mut policies {
            shuffle(&mut dice, &mut policy.rules);
            for rule in &mut policy.rules {
                shuffle(&mut dice, &mut rule.items);
            }
        }
        let one = built(&set, &cast, options).map(|one| said(&one, &cast));
        let two = built(&in_a_set(policies), &cast, options).map(|one| said(&one, &cast));
        assert!(one == two, "{text}");
        let documents: Vec<&str> = text.split_inclusive("---\n").collect();
        let files = documents.iter().rev().filter(|text| text.len() > 4);
        let files = files.enumerate().map(|(index, text)| Source {
            path: format!("{index}.yaml"),
            text: text.trim_end_matches("---\n").to_owned(),
        });
        let three = load(&files.collect::<Vec<_>>());
        assert!(!three.has_errors(), "{:?}", three.problems);
        let three = built(&three.set, &cast, options).map(|one| said(&one, &cast));
        assert!(one == three, "{text}");
    }
}

/// Whether a verdict lets a flow pass, unless default deny alone would close it.
fn passes(said: &(EntryVerdict, crate::MatchType, bool)) -> bool {
    said.0.passes()
}

#[test]
fn allows_only_open_and_denies_only_close() {
    let (cast, mut dice) = (crowd(), Dice(4));
    let options = Options {
        mode: Mode::Always,
        allow_localhost: false, // comes with the first rule, whatever it says
        quic: Quic::Allow,      // else who may say some names may send no datagrams
        ..Options::default()
    };
    let mut compared = 0;
    while compared < 80 {
        let Some(set) = read(&file(&mut dice)) else {
            continue;
        };
        let Some(more) = read(&object(&mut dice, 9)) else {
            continue;
        };
        let Some(before) = built(&set, &cast, options) else {
            continue;
        };
        let before = said(&before, &cast);
        for effect in [Effect::Allow, Effect::Deny] {
            let mut policy = again(more.iter().next().unwrap());
            for rule in &mut policy.rules {
                rule.items
                    .retain(|item| item.effect == effect && !item.fails_authentication);
            }
            let closes = matches!(effect, Effect::Deny);
            let mut policies: Vec<Policy> = set.iter().map(again).collect();
            policies.push(policy);
            let Some(after) = built(&in_a_set(policies), &cast, options) else {
                continue;
            };
            for (old, new) in before.iter().zip(&said(&after, &cast)) {
                // What is asked of DNS is closed where a first rule with names comes.
                if new.1 == crate::MatchType::None && !old.2 && !closes {
                    continue;
                }
                let (weaker, stronger) = if closes { (new, old) } else { (old, new) };
                assert!(!passes(weaker) || passes(stronger), "{old:?} {new:?}");
            }
        }
        compared += 1;
    }
}

/// Changes who there is.
fn change(dice: &mut Dice, cast: &mut Cast, all: &Cast) {
    match dice.below(6) {
        0 => {
            let one = dice.below(all.peers.len());
            match cast.peers.iter().position(|peer| *peer == all.peers[one]) {
                Some(at) => drop(cast.peers.remove(at)),
                None => cast.peers.push(all.peers[one].clone()),
            }
        }
        1 => {
            let one = dice.below(all.endpoints.len());
            let id = all.endpoints[one].id;
            match cast.endpoints.iter().position(|endpoint| endpoint.id == id) {
                Some(at) => drop(cast.endpoints.remove(at)),
                None => cast.endpoints.push(all.endpoints[one].clone()),
            }
        }
        2 => {
            let value = dice.of(&["a", "b", "c"]);
            let label = Label::from_key("app", value);
            let (count, own) = (cast.peers.len(), cast.endpoints.len());
            match dice.one_in(2) {
                true if count > 0 => cast.peers[dice.below(count)].workload.labels.insert(label),
                _ if own > 0 => cast.endpoints[dice.below(own)]
                    .workload
                    .labels
                    .insert(label),
                _ => {}
            }
        }
        3 => {
            let ports = [(
                "web".into(),
                ([80, 8080, 443][dice.below(3)], L4Protocol::Tcp),
            )];
            let (count, own) = (cast.peers.len(), cast.endpoints.len());
            match dice.one_in(2) {
                true if count > 0 => cast.peers[dice.below(count)].workload.ports = ports.into(),
                _ if own > 0 => cast.endpoints[dice.below(own)].workload.ports = ports.into(),
                _ => {}
            }
        }
        4 => {
            let backend = address(dice.of(&["172.16.0.9", B, W, P]));
            cast.services[dice.below(all.services.len())].backends = vec![backend];
        }
        _ => {}
    }
}

#[test]
fn a_compiler_with_a_past_says_the_same_as_a_new_one() {
    let (all, mut dice) = (crowd(), Dice(5));
    for _ in 0..12 {
        let pool = (0..8)
            .map(|index| object(&mut dice, index))
            .collect::<String>();
        let Some(pool) = read(&pool) else {
            continue;
        };
        let (mut cast, mut compiler) = (all.clone(), Compiler::new());
        let mut identities = Identities::new();
        let mut last: Option<Snapshot> = None;
        let mut taken = [true; 8];
        let mut regime = Options::default();
        for revision in 1..30 {
            match dice.below(8) {
                0..=3 => taken[dice.below(8)] ^= true,
                4 => regime = options_of(&mut dice),
                _ => change(&mut dice, &mut cast, &all),
            }
            let policies = pool.iter().zip(taken).filter(|(_, is_taken)| *is_taken);
            let set = in_a_set(policies.map(|(policy, _)| again(policy)).collect());
            let found = compiler.build(revision, (&set, &cast, regime), &mut identities);
            let fresh = built(&set, &cast, regime);
            assert_eq!(found.is_ok(), fresh.is_some(), "revision {revision}");
            let (Ok(found), Some(fresh)) = (found, fresh) else {
                continue;
            };
            assert!(said(&found, &cast) == said(&fresh, &cast), "{revision}");
            for endpoint in &cast.endpoints {
                let (one, two) = (found.entries(endpoint.id), fresh.entries(endpoint.id));
                assert_eq!(one.map(|all| all.len()), two.map(|all| all.len()));
            }
            check_kept(&found, (&set, &cast, regime));
            if let Some(last) = last.replace(found) {
                last.release(&mut identities);
            }
        }
        last.unwrap().release(&mut identities);
        assert_eq!(identities.local_count(), 0);
    }
}

/// The reference agrees with a snapshot that was made from another one.
fn check_kept(found: &Snapshot, (set, cast, options): (&PolicySet, &Cast, Options)) {
    let reference = Reference {
        policies: set,
        cast,
        options,
    };
    let wire = Wire {
        direction: Direction::Egress,
        protocol: 6,
        port: 80,
    };
    for endpoint in &cast.endpoints {
        for at in [B, W, "172.16.0.9"].map(address) {
            let flow = FlowKey {
                direction: wire.direction,
                identity: found.identity_of(at),
                protocol: wire.protocol,
                port: wire.port,
            };
            let got = found.judge(endpoint.id, flow);
            let other = reference.other(at, &[]);
            let expected = reference.judge(endpoint, &other, wire);
            assert_eq!((got.verdict, got.matched), expected);
        }
    }
    let items = set
        .items()
        .filter(|(_, _, item)| matches!(item.peers, Peers::Some(_)));
    assert!(items.count() <= found.rules().count());
}
