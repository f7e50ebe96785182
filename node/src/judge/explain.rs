//! Policy in sentences: one verdict, or all that holds for one endpoint.

use std::collections::BTreeSet;

use policy::{
    Direction, Enforcement, EntryVerdict, LocalEndpoint, MatchType, Problem, Proxy, RuleText,
};

use super::question::Question;
use super::words::{rule, verdict};
use super::world::World;
use super::{Answer, Side};

/// Columns of a line.
const WIDTH: usize = 80;

/// An answer in sentences.
pub(crate) fn answer(answer: &Answer, question: &Question) -> String {
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
        EntryVerdict::Redirect(Proxy::Dns) => "the flow goes to the DNS proxy",
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

impl World {
    /// All that holds for one endpoint.
    pub(crate) fn explained(&self, endpoint: &LocalEndpoint) -> String {
        let labels = endpoint.workload.full_labels();
        let rules = self.policies.rules_for(&labels);
        let own: Vec<String> = endpoint
            .workload
            .labels
            .iter()
            .map(ToString::to_string)
            .collect();
        let mut text = wrapped(
            &format!("{} ({})", endpoint.workload.full_name(), own.join(", ")),
            ("", "  "),
        );
        if endpoint.audit {
            text.push_str("Its denials are only told, not done: it is audited.\n");
        }
        for direction in [Direction::Egress, Direction::Ingress] {
            text.push('\n');
            let of_it: Vec<&RuleText> = rules
                .iter()
                .filter(|rule| rule.direction == direction)
                .collect();
            let enforcement = self.snapshot.enforcement(endpoint.id, direction);
            text.push_str(&one_direction((direction, enforcement), &of_it));
        }
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
        let mut concerning = self.warnings.iter().filter(concerns).peekable();
        if concerning.peek().is_some() {
            text.push_str("\nWarnings of its policies:\n");
        }
        for warning in concerning {
            let place = format!("{}:{}: {}", warning.file, warning.line, warning.message);
            text.push_str(&wrapped(&place, ("  - ", "    ")));
        }
        text
    }
}

fn one_direction(
    (direction, enforcement): (Direction, Option<Enforcement>),
    rules: &[&RuleText],
) -> String {
    let (word, may, may_not) = match direction {
        Direction::Egress => ("Egress", "It may reach", "It may never reach"),
        Direction::Ingress => (
            "Ingress",
            "It may be reached by",
            "It may never be reached by",
        ),
    };
    let closing: BTreeSet<String> = rules
        .iter()
        .filter(|rule| rule.closes)
        .map(|one| one.origin.policy())
        .collect();
    let by = closing.into_iter().collect::<Vec<_>>().join(", ");
    let by = if by.is_empty() {
        "the mode".to_owned()
    } else {
        by
    };
    let state = match enforcement {
        None | Some(Enforcement::Open) => "open: all is allowed, no policy closes it".to_owned(),
        Some(Enforcement::Observed) => "open to all that no rule denies".to_owned(),
        Some(Enforcement::Enforced) => format!("closed by {by}: only what is allowed passes"),
        Some(Enforcement::Audited) => format!("closed by {by}, which is only audited"),
    };
    let mut text = wrapped(&format!("{word} is {state}."), ("", ""));
    let is_open = matches!(enforcement, None | Some(Enforcement::Open));
    for (denies, head) in [(false, may), (true, may_not)] {
        let mut some = rules
            .iter()
            .filter(|rule| rule.denies == denies && !is_open)
            .peekable();
        if some.peek().is_some() {
            text.push_str(&format!("{head}\n"));
        }
        for one in some {
            text.push_str(&wrapped(&in_words(one), ("  - ", "    ")));
        }
    }
    text
}

fn in_words(one: &RuleText) -> String {
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
    let origin = &one.origin;
    format!(
        "{peers}, {ports}{said}{audited} [{} {}:{}]",
        origin.name, origin.file, origin.line
    )
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
