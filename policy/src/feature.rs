//! What a set of policies asks of whoever enforces it.

use std::fmt;

use crate::Direction;
use crate::l4::{L7Rules, PortMatch, PortRule, RuleProtocol};
use crate::problem::{Code, Problem};
use crate::rule::{Item, Policy, PolicySet, Subject};

/// A part of the language that an enforcer may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Feature {
    /// Rules for nodes themselves (`nodeSelector`).
    NodePolicy,
    /// Rules for what is sent to a workload.
    Ingress,
    /// Types of ICMP.
    Icmp,
    /// Ranges of ports.
    PortRange,
    /// HTTP rules.
    Http,
    /// Server names.
    ServerNames,
    /// TLS that is ended or begun on the way.
    Tls,
    /// `authentication.mode: test-always-fail`.
    Authentication,
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NodePolicy => "rules for nodes (`nodeSelector`)",
            Self::Ingress => "ingress rules",
            Self::Icmp => "rules for types of ICMP (`icmps`)",
            Self::PortRange => "port ranges (`endPort`)",
            Self::Http => "`http` rules",
            Self::ServerNames => "`serverNames`",
            Self::Tls => "TLS contexts (`terminatingTLS`, `originatingTLS`)",
            Self::Authentication => "failing authentication",
        })
    }
}

impl PolicySet {
    /// An error for each place that needs a feature which is not among `has`: a policy that is in
    /// force is in force as a whole.
    #[must_use]
    pub fn lacking(&self, has: &[Feature]) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (policy, rule, item) in self.items() {
            let of_nodes = matches!(rule.subject, Subject::Nodes(_));
            let mut needs = needs_of(item);
            needs.extend(of_nodes.then_some(Feature::NodePolicy));
            needs.sort_unstable();
            needs.dedup();
            let lacking = needs.into_iter().filter(|need| !has.contains(need));
            problems.extend(lacking.map(|need| problem(policy, item, need)));
        }
        problems
    }
}

fn needs_of(item: &Item) -> Vec<Feature> {
    let mut needs: Vec<Feature> = item.port_list().iter().flat_map(needs_of_port).collect();
    needs.extend((item.direction == Direction::Ingress).then_some(Feature::Ingress));
    needs.extend(item.fails_authentication.then_some(Feature::Authentication));
    needs
}

fn needs_of_port(port: &PortRule) -> Vec<Feature> {
    let mut needs = Vec::new();
    if matches!(port.protocol, RuleProtocol::Icmp(_)) {
        needs.push(Feature::Icmp);
    } else if matches!(port.port, PortMatch::Range(first, last) if first != last) {
        needs.push(Feature::PortRange);
    }
    let Some(l7) = port.l7.as_deref() else {
        return needs;
    };
    match l7.rules {
        L7Rules::Http(_) => needs.push(Feature::Http),
        L7Rules::Dns(_) | L7Rules::None => {}
    }
    if !l7.server_names.is_empty() {
        needs.push(Feature::ServerNames);
    }
    if l7.terminating_tls.is_some() || l7.originating_tls.is_some() {
        needs.push(Feature::Tls);
    }
    needs
}

fn problem(policy: &Policy, item: &Item, need: Feature) -> Problem {
    let message = format!(
        "policy {:?} has {need}, which are not enforced yet",
        policy.name
    );
    let help = "a policy holds as a whole or not at all: take them out of this set";
    Problem {
        help: Some(help.to_owned()),
        ..Problem::of_item(policy, item, Code::NotSupported, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Source, load};

    #[test]
    fn what_an_enforcer_lacks_is_refused_at_its_place() {
        let tcp = |rest: &str| {
            format!("egress: [{{toPorts: [{{ports: [{{port: '80', protocol: TCP{rest}}}]}}]}}]")
        };
        #[rustfmt::skip]
        let rows: Vec<(String, &[Feature])> = vec![
            ("egress: [{toCIDR: [10.0.0.0/8]}], egressDeny: [{toEntities: [host]}]".into(), &[]),
            (tcp(""), &[]),
            (tcp(", endPort: 90"), &[Feature::PortRange]),
            ("ingress: [{}]".into(), &[Feature::Ingress]),
            ("ingressDeny: [{}], egress: [{}]".into(), &[Feature::Ingress]),
            ("egress: [{icmps: [{fields: [{type: 8}]}]}]".into(), &[Feature::Icmp]),
            ("egress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}]}}]}]".into(), &[Feature::Http]),
            ("egress: [{toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: [a.b]}]}]".into(), &[Feature::ServerNames]),
            ("egress: [{toPorts: [{ports: [{port: '53'}], rules: {dns: [{matchName: a.b}]}}]}]".into(), &[]),
            ("egress: [{toPorts: [{ports: [{port: '5353'}], rules: {dns: [{matchName: a.b}]}}]}]".into(), &[]),
            ("egress: [{authentication: {mode: test-always-fail}}]".into(), &[Feature::Authentication]),
        ];
        for (spec, needs) in rows {
            let text = format!(
                "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p}}\nspec: {{endpointSelector: {{}}, {spec}}}\n"
            );
            let loaded = load(&[Source {
                path: "p.yaml".to_owned(),
                text,
            }]);
            assert!(!loaded.has_errors(), "{spec}: {:#?}", loaded.problems);
            let problems = loaded.set.lacking(&[]);
            let messages: Vec<&str> = problems.iter().map(|one| &*one.message).collect();
            assert_eq!(messages.len(), needs.len(), "{spec}: {messages:?}");
            for (message, need) in messages.iter().zip(needs) {
                assert!(message.contains(&need.to_string()), "{message}");
            }
            assert!(problems.iter().all(|one| one.is_error() && one.line == 4));
            assert!(loaded.set.lacking(needs).is_empty());
        }
    }
}
