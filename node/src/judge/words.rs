//! Answers as JSON, as lines, and as advice.

use std::fmt::Write;

use fqdn::Name;
use policy::{Direction, Enforcement, EntryVerdict, MatchType, RuleOrigin};
use serde_json::{Value, json};

use super::question::{L7Question, Question};
use super::{Answer, Side};

/// A name as people write it in policies: without its final dot.
pub(super) fn bare(name: &Name) -> String {
    let text = name.to_string();
    text.trim_end_matches('.').to_owned()
}

/// The word of a direction in flows.
pub(crate) const fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "EGRESS",
        Direction::Ingress => "INGRESS",
    }
}

/// The word of a verdict.
pub(crate) const fn verdict(verdict: EntryVerdict) -> &'static str {
    match verdict {
        EntryVerdict::AuditDefault | EntryVerdict::Allow | EntryVerdict::AuditDeny => "ALLOWED",
        EntryVerdict::Redirect(_) => "REDIRECTED",
        EntryVerdict::Refuse | EntryVerdict::FailAuthentication | EntryVerdict::Deny => "DENIED",
    }
}

/// The word of what a proxy says.
pub(crate) const fn l7_verdict(allowed: Option<bool>) -> Option<&'static str> {
    match allowed {
        Some(true) => Some("ALLOWED"),
        Some(false) => Some("DENIED"),
        None => None,
    }
}

/// The word of how far a direction is closed.
pub(crate) const fn enforcement(enforcement: Enforcement) -> &'static str {
    match enforcement {
        Enforcement::Open => "open",
        Enforcement::Observed => "observed",
        Enforcement::Enforced => "enforced",
        Enforcement::Audited => "audited",
    }
}

/// `kind namespace/name file:line`.
pub(crate) fn rule(origin: &RuleOrigin) -> String {
    format!("{} {}:{}", origin.policy(), origin.file, origin.line)
}

/// A rule by its policy and place.
pub(crate) fn rule_json(origin: &RuleOrigin) -> Value {
    json!({
        "kind": origin.kind.to_string(),
        "namespace": origin.namespace,
        "name": origin.name,
        "file": &*origin.file,
        "line": origin.line,
    })
}

/// The policy of a rule.
pub(crate) fn policy_json(origin: &RuleOrigin) -> Value {
    json!({
        "kind": origin.kind.to_string(),
        "namespace": origin.namespace,
        "name": origin.name,
    })
}

impl Side {
    fn json(&self) -> Value {
        json!({
            "verdict": verdict(self.decision.verdict),
            "l7_verdict": l7_verdict(self.l7),
            "direction": direction(self.direction),
            "match": self.decision.matched.word(),
            "drop_reason": self.decision.drop_reason(),
            "rules": self.rules.iter().map(rule_json).collect::<Vec<_>>(),
        })
    }

    /// What happens, in a word or two.
    fn happens(&self) -> String {
        let mut text = verdict(self.decision.verdict).to_owned();
        if let Some(word) = l7_verdict(self.l7) {
            text.push_str(&format!(" to the proxy, which says {word}"));
        }
        if self.decision.verdict.is_audited() {
            text.push_str(" (audit: it would be denied)");
        }
        text
    }

    fn reason(&self) -> &'static str {
        match self.decision.drop_reason() {
            Some(133) => ", Policy denied (133)",
            Some(180) => ", Proxy redirection not supported for protocol (180)",
            Some(181) => ", Policy denied by denylist (181)",
            Some(_) => ", Authentication required (189)",
            None => "",
        }
    }

    /// The side in lines.
    pub(crate) fn lines(&self, question: &Question) -> String {
        let word = match self.direction {
            Direction::Egress => "egress",
            Direction::Ingress => "ingress",
        };
        let mut text = String::new();
        let _ = writeln!(
            text,
            "  {word} of {}: {}, match {}{}",
            self.subject,
            self.happens(),
            self.decision.matched,
            self.reason()
        );
        text.push_str(&self.rule_lines());
        if let Some(note) = self.note {
            let _ = writeln!(text, "    note: {note}");
        }
        if let Some(advice) = self.advice(question) {
            let _ = writeln!(text, "    to allow it: {advice}");
        }
        text
    }

    fn rule_lines(&self) -> String {
        let by_default = self.decision.drop_reason() == Some(133);
        let mut text = String::new();
        let mut last = None;
        for origin in &self.rules {
            // Which of its rules closes a direction doesn't matter.
            let policy = (origin.kind, &origin.namespace, &origin.name);
            if by_default && last.replace(policy) == Some(policy) {
                continue;
            }
            let how = if by_default { "closed by" } else { "by" };
            let _ = writeln!(text, "    {how} {}", rule(origin));
        }
        match (self.rules.is_empty(), self.decision.matched) {
            (false, _) => {}
            (true, MatchType::All) => text.push_str("    no policy closes this direction\n"),
            (true, MatchType::None) => {
                text.push_str("    closed in this mode, or without labels yet\n")
            }
            (true, MatchType::L4Only | MatchType::ProtoOnly) => {}
            (true, MatchType::L3Only | MatchType::L3L4 | MatchType::L3Proto) => {
                text.push_str("    the local host may reach every endpoint\n");
            }
        }
        text
    }

    /// What would have to change, if it is denied.
    pub(crate) fn advice(&self, question: &Question) -> Option<String> {
        let (rule, list) = match self.direction {
            Direction::Egress => ("egress", "reach"),
            Direction::Ingress => ("ingress", "let in"),
        };
        match self.decision.drop_reason() {
            Some(133) => Some(format!(
                "a policy that selects {} needs an {rule} rule to {list} {} on {}",
                self.subject,
                self.peer,
                question.service()
            )),
            Some(180) => Some(
                "use TCP, where names and requests are seen, or run with `--quic allow`".to_owned(),
            ),
            Some(181) => {
                Some("take out or narrow the deny rule; it wins over every allow".to_owned())
            }
            Some(_) => Some("take out `authentication.mode: test-always-fail`".to_owned()),
            None if self.l7 == Some(false) && self.asks_for_name() => Some(
                "say a name of `toFQDNs`, or add the name that is said to one that is about this port"
                    .to_owned(),
            ),
            None if self.l7 == Some(false) => Some(match &question.l7 {
                Some(L7Question::Dns(name, _)) => {
                    let name = bare(name);
                    format!("add `matchName: {name}` to a `dns` list of these rules")
                }
                Some(L7Question::Http(request)) => format!(
                    "add an `http` rule for {} {} to one of these",
                    request.method, request.path
                ),
                Some(L7Question::Sni(name)) => {
                    format!("add {name} to `serverNames` of these rules")
                }
                None => return None,
            }),
            None => None,
        }
    }
}

impl Answer {
    /// As the contract of `namegate policy verdict -o json` has it.
    pub(crate) fn json(&self) -> Value {
        let side = |side: &Option<Side>| side.as_ref().map_or(Value::Null, Side::json);
        let mut whole = self.deciding().map_or_else(
            || {
                json!({
                    "verdict": "ALLOWED",
                    "l7_verdict": null,
                    "direction": "EGRESS",
                    "match": "all",
                    "drop_reason": null,
                    "rules": [],
                })
            },
            Side::json,
        );
        if let Value::Object(map) = &mut whole {
            map.insert("egress".to_owned(), side(&self.egress));
            map.insert("ingress".to_owned(), side(&self.ingress));
        }
        whole
    }

    /// The word for the whole.
    pub(crate) fn word(&self) -> &'static str {
        self.deciding()
            .map_or("ALLOWED", |side| verdict(side.decision.verdict))
    }

    /// The answer in lines.
    pub(crate) fn lines(&self, question: &Question) -> String {
        let (from, to) = (&question.from, &question.to);
        let l7 = self.deciding().and_then(|side| l7_verdict(side.l7));
        let l7 = l7.map(|word| format!(" ({word} by the proxy)"));
        let mut text = format!(
            "{}{}  {from} -> {to}, {}\n",
            self.word(),
            l7.unwrap_or_default(),
            question.service()
        );
        if self.deciding().is_none() {
            text.push_str("  what a workload sends itself is not judged\n");
        }
        for side in self.egress.iter().chain(&self.ingress) {
            text.push_str(&side.lines(question));
        }
        text
    }
}
