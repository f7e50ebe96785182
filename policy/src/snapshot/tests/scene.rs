//! The setting of the reference's cases: who is there, under which policies, and how one asks.

use super::*;
pub(super) use crate::reference::setting::*;

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
    scene_with(policies, Options::default())
}

pub(super) fn scene_with(policies: &[&str], options: Options) -> Scene {
    let mut identities = Identities::new();
    let mut compiler = Compiler::new();
    let set = set_of(policies);
    let snapshot = compiler
        .build(3, (&set, &cast(), options), &mut identities)
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
            EntryVerdict::Refuse => 'Q',
            EntryVerdict::Deny => 'D',
            EntryVerdict::AuditDefault
            | EntryVerdict::AuditDeny
            | EntryVerdict::FailAuthentication => unreachable!("none of these policies"),
        };
        if self.snapshot.is_egress_enforced(subject()) == Some(true) {
            let by_default = decision.matched.number() == 0;
            assert_eq!(decision.rule == RuleId::NONE, by_default);
        }
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
