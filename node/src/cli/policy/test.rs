//! `namegate policy test`: what a set of policies must decide, as cases in a file, for a CI of one's own.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser};
use policy::{Options, Source};
use serde::Deserialize;
use serde_yaml::Spanned;

use super::judge::{Outcome, Undecided};
use super::scene::{Scene, parse_learned, read_all};
use super::verdict::{FlowArgs, named};
use crate::cli::print;
use crate::endpoints::file::describe;
use crate::exit::{Exit, USAGE};
use crate::files::{TextFile, read_file};

/// Run cases: flows, and what a set of policies must decide about each.
///
/// Exit code 0 if all pass, 1 if one fails, 2 if a file can't be used.
#[derive(Args)]
#[command(
    after_help = "A file of cases (paths are relative to it; text of several lines stands for itself):
  policy: policies/                # or [a.yaml, b.yaml]
  endpoints: endpoints/
  cases:
  - {from: default/client, to: kube-system/dns, dns: example.com, expect: allowed}
  - {from: default/client, to: kube-system/dns, dns: evil.example, expect: denied}
  - {from: default/client, to: api.example.com, learn: [api.example.com=192.0.2.7], port: 443, expect: allowed}
  - name: only reading
    from: default/client
    to: default/web
    http: POST /items
    expect: {verdict: redirected, l7: denied}

The fields of a case are the flags of `policy verdict`. `expect` is allowed, denied, redirected (a
proxy judges, and no question was given) or undecided; or some of verdict, l7, match, dropReason, rule."
)]
pub(in crate::cli) struct Test {
    /// Files of cases.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    policy: OneOrMany,
    #[serde(default)]
    endpoints: OneOrMany,
    cases: Vec<Spanned<Case>>,
}

#[derive(Default, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    #[default]
    None,
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Case {
    name: Option<String>,
    from: String,
    to: String,
    port: Option<u16>,
    proto: Option<String>,
    icmp_type: Option<u8>,
    dns: Option<String>,
    qtype: Option<String>,
    http: Option<String>,
    sni: Option<String>,
    #[serde(default)]
    learn: Vec<String>,
    expect: Expect,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Expect {
    Word(String),
    Parts(Parts),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Parts {
    verdict: Option<String>,
    l7: Option<String>,
    #[serde(rename = "match")]
    matched: Option<String>,
    drop_reason: Option<u8>,
    /// The name of a policy that decides.
    rule: Option<String>,
}

/// The flags of `policy verdict`, as a case spells them.
#[derive(Parser)]
#[command(name = "case", no_binary_name = true, disable_help_flag = true)]
struct CaseFlow {
    #[command(flatten)]
    flow: FlowArgs,
}

impl Test {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let (mut passed, mut failed) = (0_usize, 0_usize);
        for path in &self.files {
            let file = read_file(path).map_err(|error| Exit::with(USAGE, error))?;
            let options = serde_yaml::options! { with_snippet: false };
            let cases: Cases = serde_yaml::from_str_with_options(&file.text, options)
                .map_err(|error| Exit::with(USAGE, format!("{}: {error}", path.display())))?;
            let folder = path.parent().unwrap_or_else(|| Path::new("."));
            let mut scene =
                scene(folder, &cases).map_err(|error| error.context(path.display().to_string()))?;
            for case in &cases.cases {
                let line = case.referenced.line();
                let fault = check(&mut scene, &case.value)
                    .map_err(|error| error.context(format!("{}:{line}", path.display())))?;
                let Some(fault) = fault else {
                    passed += 1;
                    continue;
                };
                failed += 1;
                let name = case.value.name.as_deref().map(|name| format!(" {name}:"));
                let name = name.unwrap_or_default();
                print(&format!("FAIL {}:{line}:{name} {fault}\n", path.display()))?;
            }
        }
        print(&format!("{passed} passed, {failed} failed\n"))?;
        Ok(ExitCode::from(u8::from(failed > 0)))
    }
}

fn scene(folder: &Path, cases: &Cases) -> Result<Scene> {
    let policies = files_of(folder, &cases.policy)?.into_iter();
    let sources: Vec<Source> = policies
        .map(|file| Source {
            path: file.path.display().to_string(),
            text: file.text,
        })
        .collect();
    let endpoints = files_of(folder, &cases.endpoints)?;
    let described = describe(&endpoints).map_err(|errors| Exit::with(USAGE, errors.join("\n")))?;
    Scene::new(&sources, (described, Options::default()), Vec::new())
}

/// Text of several lines stands for itself; else it is a path.
fn files_of(folder: &Path, texts: &OneOrMany) -> Result<Vec<TextFile>> {
    let texts = match texts {
        OneOrMany::None => Vec::new(),
        OneOrMany::One(text) => vec![text],
        OneOrMany::Many(texts) => texts.iter().collect(),
    };
    let mut files = Vec::new();
    for text in texts {
        if text.contains('\n') {
            files.push(TextFile {
                path: "inline".into(),
                text: text.clone(),
            });
        } else {
            files.extend(read_all(&[folder.join(text)])?);
        }
    }
    Ok(files)
}

/// What is wrong with a case's outcome, if anything is.
///
/// # Errors
/// If the case itself can't be asked.
fn check(scene: &mut Scene, case: &Case) -> Result<Option<String>> {
    let wrong = |error: String| Exit::with(USAGE, error);
    let learned = case.learn.iter().map(|text| parse_learned(text));
    scene.learned = learned.collect::<Result<_, _>>().map_err(wrong)?;
    let flow = CaseFlow::try_parse_from(case.flags())
        .map_err(|error| Exit::with(USAGE, error.render().to_string()))?
        .flow;
    let (from, to) = (scene.party(&flow.from)?, scene.party(&flow.to)?);
    let outcome = scene.ask((&from, &to), &flow.asked()?)?;
    case.expect.fault(&outcome).map_err(wrong)
}

impl Case {
    fn flags(&self) -> Vec<String> {
        let number = |number: Option<u16>| number.map(|number| number.to_string());
        let flags = [
            ("from", Some(self.from.clone())),
            ("to", Some(self.to.clone())),
            ("port", number(self.port)),
            ("proto", self.proto.clone()),
            ("icmp-type", number(self.icmp_type.map(u16::from))),
            ("dns", self.dns.clone()),
            ("qtype", self.qtype.clone()),
            ("http", self.http.clone()),
            ("sni", self.sni.clone()),
        ];
        let set = flags.into_iter();
        set.filter_map(|(flag, value)| Some(format!("--{flag}={}", value?)))
            .collect()
    }
}

impl Expect {
    /// How an outcome differs from what is expected, if it does.
    ///
    /// # Errors
    /// If a word means nothing.
    fn fault(&self, outcome: &Result<Outcome, Undecided>) -> Result<Option<String>, String> {
        let (expected, is_met) = match self {
            Self::Word(word) => (word.clone(), is_so(word, outcome)?),
            Self::Parts(parts) => parts.is_met(outcome)?,
        };
        Ok((!is_met).then(|| format!("expected {expected}, got {}", told(outcome))))
    }
}

fn is_so(word: &str, outcome: &Result<Outcome, Undecided>) -> Result<bool, String> {
    let redirected = |outcome: &Outcome| outcome.word() == "REDIRECTED" && outcome.l7().is_none();
    match (word.to_ascii_lowercase().as_str(), outcome) {
        ("undecided", outcome) => Ok(outcome.is_err()),
        ("allowed" | "denied" | "redirected", Err(_)) => Ok(false),
        ("allowed", Ok(outcome)) => Ok(outcome.is_allowed() && !redirected(outcome)),
        ("denied", Ok(outcome)) => Ok(!outcome.is_allowed()),
        ("redirected", Ok(outcome)) => Ok(redirected(outcome)),
        _ => Err(format!(
            "expect: {word:?} is none of allowed, denied, redirected, undecided"
        )),
    }
}

impl Parts {
    fn is_met(&self, outcome: &Result<Outcome, Undecided>) -> Result<(String, bool), String> {
        let mut expected = Vec::new();
        let mut is_met = true;
        let mut part = |name: &str, wanted: Option<String>, holds: bool| {
            if let Some(wanted) = wanted {
                expected.push(format!("{name} {wanted}"));
                is_met &= holds;
            }
        };
        let known = outcome.as_ref().ok();
        let side = known.and_then(Outcome::deciding);
        let same = |wanted: &Option<String>, got: Option<&str>| {
            wanted
                .as_deref()
                .is_some_and(|wanted| got.is_some_and(|got| got.eq_ignore_ascii_case(wanted)))
        };
        let verdict = known.map_or("UNDECIDED", Outcome::word);
        part(
            "verdict",
            self.verdict.clone(),
            same(&self.verdict, Some(verdict)),
        );
        let l7 = known.and_then(Outcome::l7);
        let l7 = l7.map_or("none", |allowed| if allowed { "allowed" } else { "denied" });
        part("l7", self.l7.clone(), same(&self.l7, Some(l7)));
        let matched = side.map(|side| side.matched);
        part("match", self.matched.clone(), same(&self.matched, matched));
        let reason = side.and_then(|side| side.drop_reason);
        let wanted = self.drop_reason.map(|reason| reason.to_string());
        part("dropReason", wanted, reason == self.drop_reason);
        let rules = side.map(|side| side.rules.as_slice()).unwrap_or_default();
        let by_rule = rules
            .iter()
            .any(|rule| Some(&rule.name) == self.rule.as_ref());
        part("rule", self.rule.clone(), by_rule);
        if expected.is_empty() {
            return Err("expect: nothing is expected".to_owned());
        }
        Ok((expected.join(", "), is_met))
    }
}

fn told(outcome: &Result<Outcome, Undecided>) -> String {
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(Undecided(reason)) => return format!("UNDECIDED: {reason}"),
    };
    let l7 = match outcome.l7() {
        Some(true) => ", l7 allowed",
        Some(false) => ", l7 denied",
        None => "",
    };
    let Some(side) = outcome.deciding() else {
        return format!("{}{l7}", outcome.word());
    };
    let rules: Vec<String> = side.rules.iter().map(named).collect();
    format!(
        "{}{l7} by {}: {}",
        outcome.word(),
        side.matched,
        rules.join(", ")
    )
}
