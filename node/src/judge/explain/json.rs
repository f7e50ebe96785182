//! The facts behind the sentences, for programs.

use policy::{EntryVerdict, NameBinding, Proxy, RuleText};
use serde_json::{Value, json};

use super::{Explained, OneDirection, in_words};
use crate::judge::question::Question;
use crate::judge::words::{enforcement, policy_json, rule_json};
use crate::judge::{Answer, Side};

/// An answer as `namegate policy verdict -o json` has it; beside it what was asked, and of each side
/// what the sentences say.
pub(crate) fn as_json(answer: &Answer, question: &Question) -> Value {
    let mut whole = answer.json();
    for (key, side) in [("egress", &answer.egress), ("ingress", &answer.ingress)] {
        if let (Some(json), Some(side)) = (whole.get_mut(key), side) {
            join(json, told(side, question));
        }
    }
    let (port, icmp_type) = match question.proto.is_icmp() {
        true => (None, Some(question.port)),
        false => (Some(question.port), None),
    };
    let asked = json!({
        "from": question.from,
        "to": question.to,
        "protocol": question.proto.word(),
        "port": port,
        "icmp_type": icmp_type,
    });
    join(&mut whole, asked);
    whole
}

fn told(side: &Side, question: &Question) -> Value {
    let proxy = match side.decision.verdict {
        EntryVerdict::Redirect(Proxy::Names) => Some("names"),
        EntryVerdict::Redirect(Proxy::Dns) => Some("dns"),
        EntryVerdict::Redirect(Proxy::Tls) => Some("tls"),
        EntryVerdict::Redirect(Proxy::Http) => Some("http"),
        EntryVerdict::AuditDefault
        | EntryVerdict::Allow
        | EntryVerdict::AuditDeny
        | EntryVerdict::Refuse
        | EntryVerdict::FailAuthentication
        | EntryVerdict::Deny => None,
    };
    json!({
        "subject": side.subject,
        "peer": side.peer,
        "audited": side.decision.verdict.is_audited(),
        "proxy": proxy,
        "note": side.note,
        "to_allow": side.advice(question),
    })
}

impl Explained<'_> {
    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let workload = &self.endpoint.workload;
        let labels = workload.labels.iter().map(ToString::to_string);
        json!({
            "namespace": workload.namespace,
            "name": workload.name,
            "labels": labels.collect::<Vec<_>>(),
            "audited": self.endpoint.audit,
            "egress": self.egress.json(),
            "ingress": self.ingress.json(),
            "warnings": self.warnings,
        })
    }
}

impl OneDirection {
    fn json(&self) -> Value {
        let closing = self.closing().into_values().map(policy_json);
        json!({
            "enforcement": enforcement(self.enforcement),
            "closed_by": closing.collect::<Vec<_>>(),
            "rules": self.rules.iter().map(|(rule, binding)| one_rule(rule, *binding)).collect::<Vec<_>>(),
        })
    }
}

fn one_rule(rule: &RuleText, binding: NameBinding) -> Value {
    let mut whole = json!({
        "effect": if rule.denies { "deny" } else { "allow" },
        "closes": rule.closes,
        "audited": rule.audited,
        "name_binding": binding.word(),
        "text": in_words(rule, binding),
    });
    join(&mut whole, json!(rule.parts));
    join(&mut whole, rule_json(&rule.origin));
    whole
}

/// Adds the fields of one object to another.
fn join(whole: &mut Value, part: Value) {
    if let (Value::Object(whole), Value::Object(part)) = (whole, part) {
        whole.extend(part);
    }
}

#[cfg(test)]
mod tests {
    use policy::{Mode, NameBinding, Options};

    use super::*;
    use crate::files::TextFile;
    use crate::judge::world::Party;
    use crate::judge::{Outcome, World, question, read};
    use crate::presets::DnsServers;

    /// What the files say, with policies of these specs in namespace `default`, named p0, p1 and so on.
    fn world(specs: &[&str], mode: Mode) -> World {
        let file = |path: &str, text: String| TextFile {
            path: path.into(),
            text,
        };
        let policies = specs.iter().enumerate().map(|(number, spec)| {
            let text = format!(
                "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata:\n  name: p{number}\n{spec}"
            );
            file(&format!("p{number}.yaml"), text)
        });
        let endpoints = "name: a\nlabels: {app: a}\nnetns: /run/netns/a\naddresses: [10.0.0.2]\n";
        let policies = read::policies(policies.collect(), &DnsServers::None).unwrap();
        let cast = read::endpoints(&[file("e.yaml", endpoints.to_owned())]).unwrap();
        let options = Options {
            mode,
            name_binding: NameBinding::Audit,
            ..Options::default()
        };
        World::new(policies, cast, options).unwrap()
    }

    fn explained(specs: &[&str], mode: Mode) -> Value {
        let world = world(specs, mode);
        let Party::Endpoint(index) = world.party("default/a").unwrap() else {
            panic!("no endpoint");
        };
        world.explained(world.endpoint(index).unwrap()).json()
    }

    const CLOSES: &str =
        "spec: {endpointSelector: {}, egress: [{toEntities: [host]}, {toEntities: [world]}]}";
    const AUDITED: &str = "  annotations: {namegate.io/audit: \"true\"}
spec: {endpointSelector: {}, egress: [{toEntities: [host]}]}";
    const DENIES: &str = "spec: {endpointSelector: {}, enableDefaultDeny: {egress: false}, \
        egressDeny: [{toEntities: [host]}]}";

    #[test]
    fn a_direction_says_how_far_it_is_closed_and_by_whom() {
        let words = |list: &Value, key: &str| -> String {
            let list = list.as_array().unwrap().iter();
            list.map(|one| format!(" {}", one[key].as_str().unwrap()))
                .collect()
        };
        #[rustfmt::skip]
        let rows = [
            (&[][..], Mode::Default, "open by: "),
            (&[], Mode::Always, "enforced by: "),
            (&[CLOSES], Mode::Default, "enforced by p0: allow allow"),
            (&[CLOSES], Mode::Never, "open by: "),
            (&[AUDITED], Mode::Default, "audited by p0: allow"),
            (&[DENIES], Mode::Default, "observed by: deny"),
            (&[CLOSES, DENIES], Mode::Default, "enforced by p0: allow allow deny"),
            (&[CLOSES, CLOSES], Mode::Default, "enforced by p0 p1: allow allow allow allow"),
        ];
        for (specs, mode, expected) in rows {
            let egress = &explained(specs, mode)["egress"];
            let enforcement = egress["enforcement"].as_str().unwrap();
            let by = words(&egress["closed_by"], "name");
            let rules = words(&egress["rules"], "effect");
            let got = format!("{enforcement} by{by}: {}", rules.trim());
            assert_eq!(got, expected, "{specs:?} {mode:?}");
        }
        let policy = json!({"kind": "CiliumNetworkPolicy", "namespace": "default", "name": "p0"});
        let whole = explained(&[CLOSES], Mode::Default);
        assert_eq!(whole["egress"]["closed_by"], json!([policy]));
    }

    #[test]
    fn a_rule_has_its_place_its_parts_and_its_sentence() {
        let whole = explained(&[AUDITED], Mode::Default);
        let rule = json!({"effect": "allow", "closes": true, "audited": true,
            "name_binding": "off", "peers": [{"entity": "host"}], "ports": null, "text": "host, on every port and protocol",
            "kind": "CiliumNetworkPolicy", "namespace": "default", "name": "p0", "file": "p0.yaml",
            "line": 6});
        assert_eq!(whole["egress"]["rules"], json!([rule]));
        assert_eq!(whole["labels"], json!(["k8s:app=a"]));
        assert_eq!(whole["audited"], false);
    }

    const NAMES: &str = "spec: {endpointSelector: {}, egress: [{toFQDNs: [{matchName: ok.test}]}]}";
    const BOUND: &str = "  annotations: {namegate.io/name-binding: enforce}
spec: {endpointSelector: {}, egress: [{toFQDNs: [{matchName: ok.test}]}]}";

    #[test]
    fn where_names_are_bound_is_said_of_a_rule_and_of_a_flow() {
        let words = |sni: Option<&str>| question::Words {
            from: Some("default/a".to_owned()),
            to: Some("ok.test".to_owned()),
            port: Some(443),
            sni: sni.map(str::to_owned),
            learn: vec!["ok.test=192.0.2.7".to_owned()],
            ..question::Words::default()
        };
        #[rustfmt::skip]
        let rows = [
            (NAMES, "audit", "evil.test", "ALLOWED"),
            (BOUND, "enforce", "evil.test", "DENIED"),
            (BOUND, "enforce", "ok.test", "ALLOWED"),
        ];
        for (spec, mode, sni, expected) in rows {
            let rule = &explained(&[spec], Mode::Default)["egress"]["rules"][0];
            assert_eq!(rule["name_binding"], mode);
            assert!(
                rule["text"].as_str().unwrap().contains("TLS and HTTP"),
                "{rule}"
            );
            let world = world(&[spec], Mode::Default);
            for sni in [None, Some(sni)] {
                let question = words(sni).question().unwrap();
                let Outcome::Decided(answer) = world.judge(&question).unwrap() else {
                    panic!("undecided");
                };
                let side = &as_json(&answer, &question)["egress"];
                assert_eq!(side["proxy"], "names", "{side}");
                let note = format!("name binding is {mode}");
                assert!(side["note"].as_str().unwrap().starts_with(&note), "{side}");
                let l7 = sni.map(|_| expected);
                assert_eq!(side["l7_verdict"], json!(l7), "{side}");
            }
        }
    }

    #[test]
    fn an_answer_says_of_each_side_what_would_have_to_change() {
        let world = world(&[CLOSES], Mode::Default);
        let words = question::Words {
            from: Some("default/a".to_owned()),
            to: Some("kube-apiserver".to_owned()),
            proto: Some(question::Proto::Icmp),
            ..question::Words::default()
        };
        let question = words.question().unwrap();
        let Outcome::Decided(answer) = world.judge(&question).unwrap() else {
            panic!("undecided");
        };
        let whole = as_json(&answer, &question);
        let mut of_verdict = answer.json();
        assert_eq!(whole["drop_reason"], of_verdict["drop_reason"]);
        assert_eq!(
            (&whole["protocol"], &whole["port"], &whole["icmp_type"]),
            (&json!("ICMP"), &Value::Null, &json!(8))
        );
        let advice = "a policy that selects default/a needs an egress rule to reach kube-apiserver \
            on ICMP type 8";
        let more = json!({"subject": "default/a", "peer": "kube-apiserver", "audited": false,
            "proxy": null, "note": null, "to_allow": advice});
        join(&mut of_verdict["egress"], more);
        assert_eq!(whole["egress"], of_verdict["egress"]);
        assert_eq!(whole["ingress"], Value::Null);
    }
}
