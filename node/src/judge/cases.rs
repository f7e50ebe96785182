//! Files of cases: questions with the answers that are expected.

use std::path::{Path, PathBuf};

use policy::{Cast, Loaded, Source};
use serde::Deserialize;
use serde_yaml::Spanned;

use super::question::{Proto, Words};
use super::words::{l7_verdict, rule};
use super::{Answer, Outcome, World, read};
use crate::files::{TextFile, read_file};
use crate::presets::DnsServers;

/// A file of cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseFile {
    policy: Texts,
    endpoints: Texts,
    #[serde(default)]
    cases: Vec<Spanned<Case>>,
}

/// Where texts are: in files or folders beside the file, or in it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Texts {
    /// A path, or documents as a block of text.
    One(String),
    Many(Vec<String>),
}

/// One question.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Case {
    name: Option<String>,
    from: String,
    to: String,
    port: Option<u16>,
    proto: Option<Proto>,
    icmp_type: Option<u8>,
    dns: Option<String>,
    qtype: Option<String>,
    http: Option<String>,
    sni: Option<String>,
    #[serde(default)]
    learn: Vec<String>,
    expect: Expect,
}

/// What is expected.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Expect {
    Word(String),
    Parts(Parts),
}

/// The parts that must be so; what is left out may be anything.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Parts {
    verdict: Option<String>,
    l7: Option<String>,
    #[serde(rename = "match")]
    matched: Option<String>,
    drop_reason: Option<u8>,
    direction: Option<String>,
    /// The name of a policy among those that decide.
    rule: Option<String>,
}

/// What came of a file.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    pub(crate) passed: usize,
    /// `file:line: name: expected …, got …`.
    pub(crate) failures: Vec<String>,
}

/// Runs the cases of a file.
///
/// # Errors
/// If it, or a file that it names, can't be used.
pub(crate) fn run(
    path: &Path,
    options: policy::Options,
    servers: &DnsServers,
) -> Result<Outcomes, String> {
    let file = read_file(path).map_err(|error| error.to_string())?;
    let shown = path.display().to_string();
    let yaml_options = serde_yaml::options! { with_snippet: false };
    let cases: CaseFile = serde_yaml::from_str_with_options(&file.text, yaml_options)
        .map_err(|error| format!("{shown}: {}", error.render()))?;
    let base = path.parent().unwrap_or_else(|| Path::new(""));
    let policies: Loaded = cases.policy.policies((base, &shown), servers)?;
    let cast: Cast = read::endpoints(&cases.endpoints.files(base, &shown)?)?;
    let world = World::new(policies, cast, options)?;
    if cases.cases.is_empty() {
        return Err(format!("{shown}: no cases"));
    }
    let mut outcomes = Outcomes::default();
    for spanned in &cases.cases {
        let (case, line) = (&spanned.value, spanned.referenced.line());
        match case
            .fault(&world)
            .map_err(|error| format!("{shown}:{line}: {error}"))?
        {
            None => outcomes.passed += 1,
            Some(fault) => {
                let name = case.shown();
                outcomes
                    .failures
                    .push(format!("{shown}:{line}: {name}: {fault}"));
            }
        }
    }
    Ok(outcomes)
}

impl Texts {
    fn files(&self, base: &Path, shown: &str) -> Result<Vec<TextFile>, String> {
        let all = match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        };
        let mut files = Vec::new();
        for text in all {
            if text.contains('\n') {
                files.push(TextFile {
                    path: PathBuf::from(format!("{shown}#{}", files.len() + 1)),
                    text: text.clone(),
                });
                continue;
            }
            let found =
                read::files(&base.join(text)).map_err(|error| format!("{shown}: {error}"))?;
            files.extend(found);
        }
        Ok(files)
    }

    fn policies(
        &self,
        (base, shown): (&Path, &str),
        servers: &DnsServers,
    ) -> Result<Loaded, String> {
        if matches!(self, Self::Many(texts) if texts.is_empty()) {
            let none: [Source; 0] = [];
            return Ok(policy::load(&none));
        }
        read::policies(self.files(base, shown)?, servers)
    }
}

impl Case {
    fn shown(&self) -> String {
        self.name
            .clone()
            .unwrap_or_else(|| format!("{} -> {}", self.from, self.to))
    }

    fn words(&self) -> Words {
        Words {
            from: Some(self.from.clone()),
            to: Some(self.to.clone()),
            port: self.port,
            proto: self.proto,
            icmp_type: self.icmp_type,
            dns: self.dns.clone(),
            qtype: self.qtype.clone(),
            http: self.http.clone(),
            sni: self.sni.clone(),
            learn: self.learn.clone(),
        }
    }

    /// How the answer differs from what is expected.
    fn fault(&self, world: &World) -> Result<Option<String>, String> {
        let outcome = world.judge(&self.words().question()?)?;
        let expected = self.expect.parts()?;
        let Some(wrong) = expected.differs(&outcome) else {
            return Ok(None);
        };
        let Outcome::Decided(answer) = &outcome else {
            return Ok(Some(wrong));
        };
        let rules = answer.deciding().map(|side| side.rules.as_slice());
        let by = match rules.and_then(<[_]>::first) {
            Some(origin) => format!(" (by {})", rule(origin)),
            None => " (by no rule)".to_owned(),
        };
        Ok(Some(wrong + &by))
    }
}

impl Expect {
    /// `allowed` and `denied` mean the outcome: a request that the proxy refuses is denied.
    fn parts(&self) -> Result<&Self, String> {
        let verdict = match self {
            Self::Word(word) => Some(word),
            Self::Parts(parts) => parts.verdict.as_ref(),
        };
        match verdict.map(|word| word.to_ascii_lowercase()).as_deref() {
            None | Some("allowed" | "denied" | "redirected" | "undecided") => Ok(self),
            Some(word) => Err(format!(
                "expect: {word:?} is none of allowed, denied, redirected, undecided"
            )),
        }
    }

    fn differs(&self, outcome: &Outcome) -> Option<String> {
        let (verdict, parts) = match self {
            Self::Word(word) => (Some(word), None),
            Self::Parts(parts) => (parts.verdict.as_ref(), Some(parts)),
        };
        let verdict = verdict.map(|word| word.to_ascii_lowercase());
        let answer = match (outcome, verdict.as_deref()) {
            (Outcome::Undecided(_), Some("undecided")) => return None,
            (Outcome::Undecided(reason), _) => {
                let wanted = verdict.as_deref().unwrap_or("an answer");
                return Some(format!("expected {wanted}, got undecided: {reason}"));
            }
            (Outcome::Decided(answer), _) => answer,
        };
        let got = summary(answer);
        let fits = match verdict.as_deref() {
            Some("allowed") => !answer.is_denied(),
            Some("denied") => answer.is_denied(),
            Some("redirected") => answer.word() == "REDIRECTED",
            Some(_) => false,
            None => true,
        };
        if !fits {
            let wanted = verdict.unwrap_or_default();
            return Some(format!("expected {wanted}, got {got}"));
        }
        parts.and_then(|parts| parts.differs(answer, &got))
    }
}

impl Parts {
    fn differs(&self, answer: &Answer, got: &str) -> Option<String> {
        let side = answer.deciding();
        let l7 = side.and_then(|side| l7_verdict(side.l7));
        let matched = side.map_or("all", |side| side.decision.matched.word());
        let direction = side.map_or("EGRESS", |side| super::words::direction(side.direction));
        let same = |wanted: &Option<String>, is: &str| {
            wanted
                .as_ref()
                .is_none_or(|wanted| wanted.eq_ignore_ascii_case(is))
        };
        if !same(&self.l7, l7.unwrap_or("none")) {
            let wanted = self.l7.as_deref().unwrap_or_default();
            return Some(format!("expected l7 {wanted}, got {got}"));
        }
        if !same(&self.matched, matched) {
            let wanted = self.matched.as_deref().unwrap_or_default();
            return Some(format!("expected match {wanted}, got {got}"));
        }
        if !same(&self.direction, direction) {
            return Some(format!("expected another direction, got {got}"));
        }
        let reason = side.and_then(|side| side.decision.drop_reason());
        if self.drop_reason.is_some() && self.drop_reason != reason {
            let wanted = self.drop_reason.unwrap_or_default();
            return Some(format!("expected drop reason {wanted}, got {got}"));
        }
        let mut rules = side.into_iter().flat_map(|side| &side.rules);
        let wanted = self.rule.as_ref()?;
        let decides = rules.any(|origin| origin.name == *wanted);
        (!decides).then(|| format!("expected a rule of {wanted}, got {got}"))
    }
}

/// `DENIED EGRESS none 133`.
fn summary(answer: &Answer) -> String {
    let Some(side) = answer.deciding() else {
        return "ALLOWED".to_owned();
    };
    let mut text = format!(
        "{} {} {}",
        answer.word(),
        super::words::direction(side.direction),
        side.decision.matched
    );
    if let Some(reason) = side.decision.drop_reason() {
        text.push_str(&format!(" {reason}"));
    }
    if let Some(l7) = l7_verdict(side.l7) {
        text.push_str(&format!(", l7 {l7}"));
    }
    text
}
