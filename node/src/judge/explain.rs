//! Policy explained: one verdict, or all that holds for one endpoint; in sentences and as data.

mod json;

use std::collections::{BTreeMap, BTreeSet};

use policy::{
    Direction, Enforcement, EntryVerdict, LocalEndpoint, MatchType, NameBinding, Problem, Proxy,
    RuleOrigin, RuleText,
};

use super::question::{Proto, Question};
use super::words::{rule, verdict};
use super::world::World;
use super::{Answer, Side};
pub(crate) use json::as_json;

/// Columns of a line.
const WIDTH: usize = 80;

/// An answer in sentences.
pub(crate) fn as_text(answer: &Answer, question: &Question) -> String {
    let mut text = wrapped(
        &format!(
            "{} to {} on {}: {}{}.",
            question.from,
            question.to,
            question.service(),
            answer.word(),
            if answer.is_denied() && answer.word() == "REDIRECTED" {
                ", and denied by the proxy"
            } else {
                ""
            }
        ),
        ("", ""),
    );
    if answer.deciding().is_none() {
        text.push_str(&wrapped(
            "What a workload sends itself is not judged.",
            ("", ""),
        ));
    }
    for side in answer.egress.iter().chain(&answer.ingress) {
        text.push('\n');
        text.push_str(&sentences(side, question));
    }
    text
}

fn sentences(side: &Side, question: &Question) -> String {
    let way = match side.direction {
        Direction::Egress => format!("Out of {}, to {}", side.subject, side.peer),
        Direction::Ingress => format!("Into {}, from {}", side.subject, side.peer),
    };
    let done = match side.decision.verdict {
        EntryVerdict::Allow => "the flow is allowed",
        EntryVerdict::AuditDefault => "the flow is let pass, since its denial is only audited",
        EntryVerdict::AuditDeny => "the flow is let pass, since the deny rule is only audited",
        EntryVerdict::Redirect(Proxy::Names) => "the flow goes to the proxy that asks for its name",
        EntryVerdict::Refuse => {
            "the flow is refused, since over TCP it would have to name what it asks for (180)"
        }
        EntryVerdict::Redirect(Proxy::Dns) => "the flow goes to the DNS proxy",
        EntryVerdict::Redirect(Proxy::Tls) if question.proto == Proto::Udp => {
            "the flow goes to the proxy that judges the server name in QUIC"
        }
        EntryVerdict::Redirect(Proxy::Tls) => "the flow goes to the TLS proxy",
        EntryVerdict::Redirect(Proxy::Http) => "the flow goes to the HTTP proxy",
        EntryVerdict::FailAuthentication => "the flow is dropped for want of authentication (189)",
        EntryVerdict::Deny if side.decision.matched == MatchType::None => {
            "the flow is dropped, since no rule allows it (133)"
        }
        EntryVerdict::Deny => "the flow is dropped by a deny rule (181)",
    };
    let entry = entry_words(side.decision.matched);
    let matched = side.decision.matched;
    let mut text = wrapped(
        &format!("{way}, {done}: {entry} (match {matched})."),
        ("", ""),
    );
    match side.l7 {
        Some(true) => text.push_str(&wrapped(
            "What is said there is allowed by the proxy.",
            ("", ""),
        )),
        Some(false) => text.push_str(&wrapped(
            "What is said there is denied by the proxy.",
            ("", ""),
        )),
        None => {}
    }
    if let Some(note) = side.note {
        text.push_str(&wrapped(&format!("Note: {note}."), ("", "")));
    }
    if !side.rules.is_empty() {
        let by_default = side.decision.drop_reason() == Some(133);
        let head = if by_default {
            "The direction is closed by"
        } else {
            "It comes from"
        };
        text.push_str(&wrapped(&format!("{head}:"), ("", "")));
        for origin in &side.rules {
            text.push_str(&wrapped(&rule(origin), ("  - ", "    ")));
        }
    }
    let change = match side.advice(question) {
        Some(advice) => format!("To have it allowed, {advice}."),
        None if side.rules.is_empty() => {
            format!(
                "To have it denied, a policy that selects {} is needed.",
                side.subject
            )
        }
        None => format!(
            "It stays {} as long as one of these rules is there and no deny rule covers it.",
            verdict(side.decision.verdict)
        ),
    };
    text + &wrapped(&change, ("", ""))
}

/// Which form the entry that decides has.
const fn entry_words(matched: MatchType) -> &'static str {
    match matched {
        MatchType::None => "no entry matches",
        MatchType::L3Only => "the entry is for this peer, on every protocol",
        MatchType::L3L4 => "the entry is for this peer, protocol and port",
        MatchType::L4Only => "the entry is for every peer on this protocol and port",
        MatchType::All => "the entry is for every peer and protocol",
        MatchType::L3Proto => "the entry is for this peer and protocol, on every port",
        MatchType::ProtoOnly => "the entry is for every peer on this protocol",
    }
}

/// All that holds for one endpoint.
pub(crate) struct Explained<'a> {
    endpoint: &'a LocalEndpoint,
    egress: OneDirection,
    ingress: OneDirection,
    /// Warnings of the policies that select it.
    warnings: Vec<&'a Problem>,
}

struct OneDirection {
    direction: Direction,
    enforcement: Enforcement,
    /// What is in force, and how strictly it is bound to names: nothing where the direction is open.
    rules: Vec<(RuleText, NameBinding)>,
}

impl World {
    /// All that holds for one endpoint.
    pub(crate) fn explained<'a>(&'a self, endpoint: &'a LocalEndpoint) -> Explained<'a> {
        let rules = self.policies.rules_for(&endpoint.workload.full_labels());
        let warnings = self.warnings_of(&rules);
        let (egress, ingress) = rules
            .into_iter()
            .partition(|rule| rule.direction == Direction::Egress);
        let one = |direction, rules: Vec<RuleText>| {
            let enforcement = self.snapshot.enforcement(endpoint.id, direction);
            let rules = rules.into_iter().map(|rule| {
                let binding = self.snapshot.name_binding(endpoint.id, &rule.origin);
                (rule, binding)
            });
            OneDirection::new((direction, enforcement), rules.collect())
        };
        Explained {
            endpoint,
            egress: one(Direction::Egress, egress),
            ingress: one(Direction::Ingress, ingress),
            warnings,
        }
    }

    /// The warnings of the policies that these rules are of.
    fn warnings_of(&self, rules: &[RuleText]) -> Vec<&Problem> {
        let policies: BTreeSet<(&str, &str)> = rules
            .iter()
            .map(|rule| (&*rule.origin.file, &*rule.origin.name))
            .collect();
        let concerns = |warning: &&Problem| {
            let around = self
                .policies
                .iter()
                .map(|policy| (policy.place(), policy.name()));
            let around =
                around.filter(|((file, line), _)| *file == warning.file && *line <= warning.line);
            let policy = around.max_by_key(|((_, line), _)| *line);
            policy.is_some_and(|((file, _), name)| policies.contains(&(file, name)))
        };
        self.warnings.iter().filter(concerns).collect()
    }
}

impl Explained<'_> {
    /// In sentences.
    pub(crate) fn text(&self) -> String {
        let workload = &self.endpoint.workload;
        let own: Vec<String> = workload.labels.iter().map(ToString::to_string).collect();
        let mut text = wrapped(
            &format!("{} ({})", workload.full_name(), own.join(", ")),
            ("", "  "),
        );
        if self.endpoint.audit {
            text.push_str("Its denials are only told, not done: it is audited.\n");
        }
        for direction in [&self.egress, &self.ingress] {
            text.push('\n');
            text.push_str(&direction.text());
        }
        if !self.warnings.is_empty() {
            text.push_str("\nWarnings of its policies:\n");
        }
        for warning in &self.warnings {
            let place = format!("{}:{}: {}", warning.file, warning.line, warning.message);
            text.push_str(&wrapped(&place, ("  - ", "    ")));
        }
        text
    }
}

impl OneDirection {
    fn new(
        (direction, enforcement): (Direction, Option<Enforcement>),
        mut rules: Vec<(RuleText, NameBinding)>,
    ) -> Self {
        let enforcement = enforcement.unwrap_or(Enforcement::Open);
        if enforcement == Enforcement::Open {
            rules.clear();
        }
        Self {
            direction,
            enforcement,
            rules,
        }
    }

    /// The policies that close it, by their full names. If it is closed without one, the mode does it.
    fn closing(&self) -> BTreeMap<String, &RuleOrigin> {
        let closing = self.rules.iter().filter(|(rule, _)| rule.closes);
        closing
            .map(|(rule, _)| (rule.origin.policy(), &rule.origin))
            .collect()
    }

    fn text(&self) -> String {
        let (word, may, may_not) = match self.direction {
            Direction::Egress => ("Egress", "It may reach", "It may never reach"),
            Direction::Ingress => (
                "Ingress",
                "It may be reached by",
                "It may never be reached by",
            ),
        };
        let by = self.closing().into_keys().collect::<Vec<_>>().join(", ");
        let by = if by.is_empty() {
            "the mode".to_owned()
        } else {
            by
        };
        let state = match self.enforcement {
            Enforcement::Open => "open: all is allowed, no policy closes it".to_owned(),
            Enforcement::Observed => "open to all that no rule denies".to_owned(),
            Enforcement::Enforced => format!("closed by {by}: only what is allowed passes"),
            Enforcement::Audited => format!("closed by {by}, which is only audited"),
        };
        let mut text = wrapped(&format!("{word} is {state}."), ("", ""));
        for (denies, head) in [(false, may), (true, may_not)] {
            let some = self.rules.iter().filter(|(rule, _)| rule.denies == denies);
            let mut some = some.peekable();
            if some.peek().is_some() {
                text.push_str(&format!("{head}\n"));
            }
            for (one, binding) in some {
                let RuleOrigin {
                    name, file, line, ..
                } = &one.origin;
                let rule = format!("{} [{name} {file}:{line}]", in_words(one, *binding));
                text.push_str(&wrapped(&rule, ("  - ", "    ")));
            }
        }
        text
    }
}

fn in_words(one: &RuleText, binding: NameBinding) -> String {
    let peers = if one.peers.is_empty() {
        "nobody".to_owned()
    } else {
        one.peers.join(", or ")
    };
    let ports = match one.ports.is_empty() {
        true => "on no port".to_owned(),
        false => format!("on {}", one.ports.join(", ")),
    };
    let said = match one.said.is_empty() {
        true => String::new(),
        false => format!(", with {} only", one.said.join(" and ")),
    };
    let audited = if one.audited && one.denies {
        ", only told"
    } else {
        ""
    };
    let bound = match binding {
        NameBinding::Off => "",
        NameBinding::Audit => ", where TLS and HTTP by another name are told",
        NameBinding::Enforce => ", TLS and HTTP by a name of toFQDNs only",
    };
    format!("{peers}, {ports}{said}{audited}{bound}")
}

/// The text in lines of at most [`WIDTH`] columns where words allow it; the first and the other lines
/// begin so.
fn wrapped(text: &str, (first, other): (&str, &str)) -> String {
    let mut lines = String::new();
    let mut line = first.to_owned();
    let mut is_empty = true;
    for word in text.split_whitespace() {
        let length = line.chars().count() + 1 + word.chars().count();
        if !is_empty && length > WIDTH {
            lines.push_str(&line);
            lines.push('\n');
            other.clone_into(&mut line);
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    lines + &line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_wrapped_between_words() {
        let text = wrapped(&"word ".repeat(40), ("  - ", "    "));
        assert!(text.lines().all(|line| line.len() <= WIDTH));
        assert!(text.starts_with("  - word") && text.contains("\n    word"));
        assert_eq!(text.split_whitespace().count(), 41);
    }
}
