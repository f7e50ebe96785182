//! `namegate policy verdict`: what a set of policies says about one flow, and why.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use fqdn::Name;
use policy::{Direction, EntryVerdict, Question, RuleOrigin};
use serde_json::{Value, json};

use super::judge::{Asked, HttpAsked, Outcome, Side, Undecided};
use super::scene::SceneArgs;
use crate::cli::{Output, print};
use crate::exit::{Exit, USAGE};

/// Say what a set of policies decides about one flow, and by which rules.
///
/// Both sides are asked: the egress policy of who sends and the ingress policy of who receives, each if
/// it is an endpoint of the files. Exit code 0 if it is allowed (a flow that a proxy would judge is, as
/// long as no question, request or server name is given that it denies), 1 if it is denied, 2 for wrong
/// usage, 3 if it can't be told from what was given.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate policy verdict --policy policies --endpoints endpoints --from default/client --to 192.0.2.1 --port 443
  namegate policy verdict --policy p.yaml --endpoints e.yaml --from default/client --to kube-system/dns --dns example.com
  namegate policy verdict --policy p.yaml --endpoints e.yaml --from default/client --to api.example.com \\
      --learn api.example.com=192.0.2.7 --port 80 --http 'GET /v1/items host=api.example.com'")]
pub(in crate::cli) struct Verdict {
    #[command(flatten)]
    scene: SceneArgs,
    #[command(flatten)]
    flow: FlowArgs,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

/// Which flow is meant.
#[derive(Args, Clone, Debug)]
pub(super) struct FlowArgs {
    /// Who sends: NS/NAME of an endpoint file, an address, or host, remote-node, …
    #[arg(long, value_name = "NS/NAME|ADDRESS")]
    pub(super) from: String,
    /// Who receives; also a name of DNS.
    #[arg(long, value_name = "NS/NAME|ADDRESS|NAME")]
    pub(super) to: String,
    /// The destination port [default: 53 with --dns, 80 with --http, 443 with --sni].
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// The protocol [default: udp with --dns, else tcp].
    #[arg(long, value_enum, ignore_case = true)]
    proto: Option<Proto>,
    /// The type of ICMP [default: an echo request].
    #[arg(long, value_name = "N")]
    icmp_type: Option<u8>,
    /// A name that is asked of the receiver.
    #[arg(long, value_name = "NAME", value_parser = parse_name, conflicts_with_all = ["http", "sni"])]
    dns: Option<Name>,
    /// The type of the question: A, AAAA, HTTPS, … or a number.
    #[arg(long, value_name = "T", default_value = "A", value_parser = parse_qtype)]
    qtype: u16,
    /// A request that is made of the receiver.
    #[arg(long, value_name = "METHOD PATH [host=H] [Name: value]...", value_parser = HttpAsked::parse)]
    http: Option<HttpAsked>,
    /// The server name that a TLS client says; empty for none.
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
}

/// Protocols by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Proto {
    Tcp,
    Udp,
    Sctp,
    Icmp,
    Icmpv6,
}

fn parse_name(text: &str) -> Result<Name, String> {
    Name::from_text(text).map_err(|error| error.to_string())
}

/// Types that people ask by name (IANA's numbers).
const QTYPES: [(&str, u16); 12] = [
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("PTR", 12),
    ("MX", 15),
    ("TXT", 16),
    ("AAAA", 28),
    ("SRV", 33),
    ("SVCB", 64),
    ("HTTPS", 65),
    ("ANY", 255),
];

fn parse_qtype(text: &str) -> Result<u16, String> {
    let known = QTYPES
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text));
    let number = known
        .map(|(_, number)| *number)
        .or_else(|| text.parse().ok());
    number.ok_or_else(|| format!("{text:?} is no type: A, AAAA, HTTPS, … or a number"))
}

impl FlowArgs {
    /// What is asked.
    ///
    /// # Errors
    /// As wrong usage, if the port isn't known.
    pub(super) fn asked(&self) -> Result<Asked> {
        let default = if self.dns.is_some() {
            Proto::Udp
        } else {
            Proto::Tcp
        };
        let icmp = self.icmp_type.map(|_| Proto::Icmp);
        let proto = self.proto.or(icmp).unwrap_or(default);
        let by_question = match (&self.dns, &self.http, &self.sni) {
            (Some(_), _, _) => Some(53),
            (None, Some(_), _) => Some(80),
            (None, None, Some(_)) => Some(443),
            (None, None, None) => None,
        };
        let port = || {
            self.port.or(by_question).ok_or_else(|| {
                Exit::with(
                    USAGE,
                    "--port is needed, or --proto icmp, --dns, --http or --sni",
                )
            })
        };
        let (protocol, port) = match proto {
            Proto::Tcp => (6, port()?),
            Proto::Udp => (17, port()?),
            Proto::Sctp => (132, port()?),
            Proto::Icmp => (1, u16::from(self.icmp_type.unwrap_or(8))),
            Proto::Icmpv6 => (58, u16::from(self.icmp_type.unwrap_or(128))),
        };
        Ok(Asked {
            protocol,
            port,
            dns: self.dns.clone().map(|name| Question {
                name,
                qtype: self.qtype,
                qclass: 1,
            }),
            http: self.http.clone(),
            sni: self.sni.clone(),
        })
    }
}

impl Verdict {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let scene = self.scene.load()?;
        let (from, to) = (scene.party(&self.flow.from)?, scene.party(&self.flow.to)?);
        let outcome = scene.ask((&from, &to), &self.flow.asked()?)?;
        match (&outcome, self.output) {
            (_, Output::Json) => print(&format!("{:#}\n", to_json(&outcome)))?,
            (Ok(outcome), Output::Text) => print(&to_text(outcome))?,
            (Err(Undecided(reason)), Output::Text) => print(&format!("UNDECIDED: {reason}\n"))?,
        };
        Ok(exit_code(&outcome))
    }
}

/// 0 allowed, 1 denied, 3 undecided.
pub(super) fn exit_code(outcome: &Result<Outcome, Undecided>) -> ExitCode {
    ExitCode::from(match outcome {
        Ok(outcome) if outcome.is_allowed() => 0,
        Ok(_) => 1,
        Err(_) => 3,
    })
}

pub(super) fn word_of(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "EGRESS",
        Direction::Ingress => "INGRESS",
    }
}

fn l7_word(l7: Option<bool>) -> Option<&'static str> {
    l7.map(|allowed| if allowed { "ALLOWED" } else { "DENIED" })
}

fn to_json(outcome: &Result<Outcome, Undecided>) -> Value {
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(Undecided(reason)) => return json!({"verdict": "UNDECIDED", "reason": reason}),
    };
    let deciding = outcome.deciding();
    json!({
        "verdict": outcome.word(),
        "l7_verdict": l7_word(outcome.l7()),
        "direction": word_of(outcome.direction),
        "match": deciding.map(|side| side.matched),
        "drop_reason": deciding.and_then(|side| side.drop_reason),
        "rules": deciding.map(rules_json).unwrap_or_default(),
        "egress": outcome.egress.as_ref().map(|side| side_json(side, Direction::Egress)),
        "ingress": outcome.ingress.as_ref().map(|side| side_json(side, Direction::Ingress)),
    })
}

fn side_json(side: &Side, direction: Direction) -> Value {
    json!({
        "verdict": side.word(),
        "l7_verdict": l7_word(side.l7),
        "direction": word_of(direction),
        "match": side.matched,
        "drop_reason": side.drop_reason,
        "audited": side.verdict.is_audited(),
        "rules": rules_json(side),
    })
}

fn rules_json(side: &Side) -> Vec<Value> {
    let rules = side.rules.iter();
    rules
        .map(|rule| {
            json!({
                "kind": rule.kind.to_string(),
                "namespace": rule.namespace,
                "name": rule.name,
                "file": &*rule.file,
                "line": rule.line,
            })
        })
        .collect()
}

/// A policy as it is named in sentences.
pub(super) fn named(rule: &RuleOrigin) -> String {
    let namespace = rule.namespace.as_deref().map(|text| format!("{text}/"));
    format!(
        "{} {}{} ({}:{})",
        rule.kind,
        namespace.unwrap_or_default(),
        rule.name,
        rule.file,
        rule.line
    )
}

fn to_text(outcome: &Outcome) -> String {
    let l7 = match outcome.l7() {
        Some(true) => ", what is asked is ALLOWED",
        Some(false) => ", what is asked is DENIED",
        None => "",
    };
    let mut text = format!("{}{l7}\n", outcome.word());
    if outcome.egress.is_none() && outcome.ingress.is_none() {
        text.push_str("  an endpoint may always reach itself\n");
    }
    for (direction, side) in outcome.sides() {
        let word = word_of(direction);
        text.push_str(&format!(
            "  {word} {} by {}: {}\n",
            side.word(),
            side.matched,
            why(side)
        ));
        for rule in &side.rules {
            text.push_str(&format!("    {}\n", named(rule)));
        }
    }
    text
}

/// The reason in a few words; the rules follow.
pub(super) fn why(side: &Side) -> &'static str {
    match (side.verdict, side.drop_reason, side.l7) {
        (EntryVerdict::Redirect(_), _, Some(false)) => {
            "a proxy judges, and no rule allows what is asked"
        }
        (EntryVerdict::Redirect(_), _, Some(true)) => {
            "a proxy judges, and a rule allows what is asked"
        }
        (EntryVerdict::Redirect(_), _, None) => "a proxy judges what is asked",
        (_, Some(133), _) => "no rule allows it, and these close the direction",
        (_, Some(181), _) => "a deny rule covers it",
        (_, Some(189), _) => "it fails authentication",
        (EntryVerdict::AuditDefault | EntryVerdict::AuditDeny, _, _) => {
            "it would be denied, and is only audited"
        }
        _ if side.matched == "all" && side.rules.is_empty() => "no rule closes the direction",
        _ if side.rules.is_empty() => "it is always allowed",
        _ => "a rule allows it",
    }
}
