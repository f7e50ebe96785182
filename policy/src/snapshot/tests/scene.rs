//! The setting of the reference's cases: who is there, under which policies, and how one asks.

use super::*;

pub(super) const A: &str = "10.2.0.4";
pub(super) const B: &str = "10.2.0.5";
pub(super) const O: &str = "10.3.0.5";
pub(super) const DNS: &str = "10.4.0.53";
pub(super) const W: &str = "93.184.216.34";
pub(super) const P: &str = "10.1.2.3";
pub(super) const HOST: &str = "192.168.0.1";

pub(super) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn name(text: &str) -> Name {
    Name::from_text(text).unwrap()
}

pub(super) fn workload(namespace: &str, name: &str, labels: &[(&str, &str)]) -> Workload {
    let labels = labels
        .iter()
        .map(|(key, value)| Label::from_key(key, value));
    Workload {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        labels: labels.collect(),
        ports: NamedPorts::new(),
    }
}

pub(super) fn peer(workload: Workload, addresses: &[&str]) -> Peer {
    Peer {
        workload,
        addresses: addresses.iter().map(|text| address(text)).collect(),
    }
}

pub(super) fn subject() -> EndpointId {
    EndpointId::new(7).unwrap()
}

/// The setting of the reference's cases.
pub(super) fn cast() -> Cast {
    let team = "io.cilium.k8s.namespace.labels.team";
    Cast {
        endpoints: vec![LocalEndpoint {
            id: subject(),
            workload: workload("default", "a", &[("app", "a")]),
            addresses: vec![address(A), address("fd00::4")],
            audit: false,
        }],
        peers: vec![
            peer(workload("default", "b", &[("app", "b")]), &[B, "fd00::5"]),
            peer(workload("default", "bare", &[]), &["10.2.0.9"]),
            peer(workload("other", "b", &[("app", "b"), (team, "x")]), &[O]),
            peer(
                workload("kube-system", "dns", &[("k8s-app", "kube-dns")]),
                &[DNS],
            ),
        ],
        services: Vec::new(),
        host_addresses: vec![address(HOST)],
    }
}

/// A policy: `spec` without its selector, or with one if it starts so.
pub(super) fn policy(index: usize, text: &str) -> String {
    let (kind, text) = match text.strip_prefix("CCNP ") {
        Some(text) => ("CiliumClusterwideNetworkPolicy", text),
        None => ("CiliumNetworkPolicy", text),
    };
    let selector = if text.contains("endpointSelector") {
        ""
    } else {
        "endpointSelector: {matchLabels: {app: a}}, "
    };
    format!(
        "---\napiVersion: cilium.io/v2\nkind: {kind}\nmetadata: {{name: p{index}}}\nspec: {{{selector}{text}}}\n"
    )
}

pub(super) struct Scene {
    pub(super) snapshot: Snapshot,
    pub(super) identities: Identities,
    pub(super) compiler: Compiler,
}

pub(super) fn set_of(policies: &[&str]) -> PolicySet {
    let texts = policies.iter().enumerate();
    let text: String = texts.map(|(index, text)| policy(index, text)).collect();
    let path = "p.yaml".to_owned();
    let loaded = load(&[Source { path, text }]);
    assert!(!loaded.has_errors(), "{:#?}", loaded.problems);
    loaded.set
}

pub(super) fn scene(policies: &[&str]) -> Scene {
    let mut identities = Identities::new();
    let mut compiler = Compiler::new();
    let set = set_of(policies);
    let snapshot = compiler
        .build(3, (&set, &cast(), Options::default()), &mut identities)
        .unwrap();
    Scene {
        snapshot,
        identities,
        compiler,
    }
}

impl Scene {
    pub(super) fn judge(&self, identity: Identity, l4: (u8, u16), entries: &[Entry]) -> String {
        let flow = FlowKey {
            direction: Direction::Egress,
            identity,
            protocol: l4.0,
            port: l4.1,
        };
        let decision = decide(entries, flow);
        let letter = match decision.verdict {
            EntryVerdict::Allow => 'A',
            EntryVerdict::Redirect(_) => 'R',
            EntryVerdict::Deny => 'D',
            EntryVerdict::AuditDefault
            | EntryVerdict::AuditDeny
            | EntryVerdict::FailAuthentication => unreachable!("none of these policies"),
        };
        assert_eq!(
            decision.rule == RuleId::NONE,
            decision.matched.number() == 0
                || self.snapshot.is_egress_enforced(subject()) == Some(false)
        );
        format!("{letter} / {}", decision.matched)
    }

    pub(super) fn verdict(&self, to: &str, l4: (u8, u16)) -> String {
        let identity = self.snapshot.identity_of(address(to));
        self.judge(identity, l4, &self.snapshot.entries(subject()).unwrap())
    }

    /// The verdict on an address that the endpoint has learned under the names.
    pub(super) fn learned(&mut self, to: &str, names: &[&str], l4: (u8, u16)) -> String {
        let names: Vec<Name> = names.iter().map(|text| name(text)).collect();
        let set = self
            .snapshot
            .learned_labels(subject(), names.iter(), address(to));
        let identity = self.identities.acquire(set.clone()).unwrap();
        let mut entries = self.snapshot.entries(subject()).unwrap();
        entries.extend(self.snapshot.entries_for(subject(), &set, identity));
        self.judge(identity, l4, &entries)
    }

    #[expect(clippy::unwrap_in_result, reason = "the server is the test's own text")]
    pub(super) fn ask(
        &self,
        server: &str,
        protocol: L4Protocol,
        asked: &str,
    ) -> Result<RuleId, Denial> {
        let question = Question {
            name: name(asked),
            qtype: 1,
            qclass: 1,
        };
        let server = server.parse().unwrap();
        let permit = self
            .snapshot
            .judge_dns(subject(), server, protocol, &question)?;
        assert_eq!((permit.endpoint(), permit.server()), (subject(), server));
        assert_eq!((permit.protocol(), permit.revision()), (protocol, 3));
        assert_eq!(permit.question(), &question);
        Ok(permit.rule())
    }
}
