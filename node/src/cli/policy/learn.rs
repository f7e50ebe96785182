//! `namegate policy learn`.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;

use crate::cli::lines::{FlowSource, TooLong};
use crate::cli::{Which, print};
use crate::exit::{Exit, USAGE};
use crate::suggest::limits::LINE_BYTES_MAX;
use crate::suggest::{Evidence, Line, Names, Scope};

/// Write policies that allow what recorded flows did, and nothing more.
///
/// Reads Hubble's JSON, one object a line: ours, or that of a real Cilium (`hubble observe -o json`,
/// an exporter's file). Each workload gets one CiliumNetworkPolicy; each peer has a comment that says
/// which flows asked for it. Flows that were denied don't count, replies never do. A DNS name counts
/// unless answers to it were recorded and none had data. What no policy can say, and lines that can't
/// be read, are counted on standard error.
///
/// Exit code 0 if something could be read, 1 if not, 2 if the file can't be opened.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate policy learn --from flows.jsonl > learned.yaml
  hubble observe --all -o json | namegate policy learn --from - --namespace shop
  namegate policy learn --live --pod default/internal-client")]
pub(in crate::cli) struct Learn {
    #[command(flatten)]
    flows: FlowSource,
    /// Workloads of this namespace alone.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Pods alone whose name starts so: [NAMESPACE/]PREFIX [default namespace: --namespace, or default].
    #[arg(long, value_name = "POD")]
    pod: Option<String>,
    /// Allow too what policy denied for want of a rule.
    #[arg(long)]
    include_denied: bool,
    /// Write three and more names below the same parent as one pattern, `*.PARENT`.
    #[arg(long, alias = "generalize-names")]
    generalise_names: bool,
    #[command(flatten)]
    which: Which,
}

/// Lines that can't be read, of which each is told; the rest is counted.
const BAD_LINES_TOLD: u64 = 10;

/// What was read.
struct Reading {
    evidence: Evidence,
    line: u64,
    /// Lines that were flows or other events.
    read: u64,
    bad: u64,
    lost: u64,
    /// Of the lines that can't be read, the first ones.
    told: Vec<String>,
}

impl Learn {
    pub(in crate::cli) fn run(self) -> anyhow::Result<ExitCode> {
        let mut reading = Reading::new(self.scope()?);
        self.flows.each(&self.which, |line| reading.add(line))?;
        let how = if self.generalise_names {
            Names::Generalised
        } else {
            Names::Exact
        };
        let documents = reading.evidence.suggest(how);
        // Standard error may be closed; the policies are what counts.
        let _ = io::stderr()
            .lock()
            .write_all(reading.report(documents.len()).as_bytes());
        if reading.read == 0 {
            return Ok(ExitCode::FAILURE);
        }
        print(&documents.join("---\n"))
    }

    fn scope(&self) -> anyhow::Result<Scope> {
        let mut scope = Scope {
            namespace: self.namespace.clone(),
            pod_prefix: None,
            includes_denied: self.include_denied,
        };
        let Some(pod) = &self.pod else {
            return Ok(scope);
        };
        let (namespace, prefix) = match pod.split_once('/') {
            Some((namespace, prefix)) => (Some(namespace), prefix),
            None => (None, pod.as_str()),
        };
        scope.pod_prefix = Some(prefix.to_owned());
        match (namespace, &self.namespace) {
            (Some(of_pod), Some(named)) if of_pod != named => {
                let message = format!("--pod {pod:?} is not in --namespace {named:?}");
                return Err(Exit::with(USAGE, message));
            }
            (Some(of_pod), _) => scope.namespace = Some(of_pod.to_owned()),
            (None, None) => scope.namespace = Some("default".to_owned()),
            (None, Some(_)) => {}
        }
        Ok(scope)
    }
}

impl Reading {
    fn new(scope: Scope) -> Self {
        Self {
            evidence: Evidence::new(scope),
            line: 0,
            read: 0,
            bad: 0,
            lost: 0,
            told: Vec::new(),
        }
    }

    fn add(&mut self, line: Result<&[u8], TooLong>) {
        match line {
            Ok(line) => self.take(line),
            Err(TooLong) => {
                self.line += 1;
                self.refuse(&format_args!("longer than {LINE_BYTES_MAX} bytes"));
            }
        }
    }

    fn take(&mut self, line: &[u8]) {
        self.line += 1;
        let text = match std::str::from_utf8(line) {
            Ok(text) if text.trim().is_empty() => return,
            Ok(text) => text,
            Err(error) => return self.refuse(&error),
        };
        match Line::parse(text) {
            Ok(Line::Flow(flow)) => self.evidence.add(&flow),
            Ok(Line::Lost(count)) => self.lost = self.lost.saturating_add(count),
            Ok(Line::Other) => {}
            Err(error) => return self.refuse(&error),
        }
        self.read += 1;
    }

    fn refuse(&mut self, reason: &dyn std::fmt::Display) {
        self.bad += 1;
        if self.bad <= BAD_LINES_TOLD {
            self.told.push(format!(
                "line {}: {}",
                self.line,
                harmless(&reason.to_string())
            ));
        }
    }

    /// What goes to standard error.
    fn report(&self, policies: usize) -> String {
        let mut lines = self.told.clone();
        if self.bad > BAD_LINES_TOLD {
            lines.push(format!(
                "and {} lines more that can't be read",
                self.bad - BAD_LINES_TOLD
            ));
        }
        if self.read == 0 {
            lines.push("no flow could be read".to_owned());
        }
        if self.lost > 0 {
            lines.push(format!("{} events were lost while recording", self.lost));
        }
        let skipped = self.evidence.skipped();
        for (words, is_loss) in [("not used", false), ("left out of the policies", true)] {
            let parts: Vec<String> = skipped
                .iter()
                .filter(|(skip, _)| skip.is_loss() == is_loss)
                .map(|(skip, count)| format!("{count} {}", skip.text()))
                .collect();
            if !parts.is_empty() {
                lines.push(format!("{words}: {}", parts.join(", ")));
            }
        }
        let used = self.evidence.used();
        lines.push(format!("{policies} policies from {used} flows"));
        lines
            .iter()
            .map(|line| format!("namegate: {line}\n"))
            .collect()
    }
}

/// A text of the input for a terminal: on one line, of bounded length, without control characters.
fn harmless(text: &str) -> String {
    const LETTERS: usize = 200;
    text.chars()
        .take(LETTERS)
        .map(|letter| if letter.is_control() { '?' } else { letter })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;
    use crate::cli::lines;

    const EVENT: &str = r#"{"agent_event":{"type":"AGENT_STARTED"}}"#;

    fn read(text: &[u8]) -> Reading {
        let mut reading = Reading::new(Scope::default());
        // A small buffer, so that lines cross its ends.
        let mut input = BufReader::with_capacity(7, text);
        lines::each(&mut input, |line| reading.add(line)).unwrap();
        reading
    }

    #[test]
    fn a_line_over_the_limit_is_refused_and_the_next_one_read() {
        let fits = format!("{EVENT}{}", " ".repeat(LINE_BYTES_MAX - EVENT.len()));
        let longer = format!("{fits} ");
        let much_longer = format!("{fits}{fits}{fits}");
        let text = [&fits, &longer, EVENT, &much_longer, EVENT].join("\n");
        let reading = read(text.as_bytes());
        assert_eq!((reading.line, reading.read, reading.bad), (5, 3, 2));
        let told = [
            "line 2: longer than 1048576 bytes",
            "line 4: longer than 1048576 bytes",
        ];
        assert_eq!(reading.told, told);
        let reading = read(longer.as_bytes());
        assert_eq!((reading.read, reading.bad), (0, 1));
    }

    #[test]
    fn only_the_first_bad_lines_are_told_and_all_are_counted() {
        let reading = read("\u{1b}[31m\n".repeat(25).as_bytes());
        assert_eq!(reading.told.len(), 10);
        let report = reading.report(0);
        assert!(report.contains("and 15 lines more"), "{report}");
        assert!(report.contains("no flow could be read"), "{report}");
        assert!(!report.contains('\u{1b}'), "{report}");
        let reading = read(b"\xff\n\n  \n[]\n1\n{}\n{\"flow\":3}\n");
        assert_eq!((reading.line, reading.read, reading.bad), (7, 0, 5));
    }

    #[test]
    fn lost_events_and_losses_are_told() {
        let lost = r#"{"lost_events":{"num_events_lost":"12"},"time":"2026-03-05T09:08:11Z"}"#;
        let flow = r#"{"verdict":"FORWARDED","traffic_direction":"EGRESS",
            "l4":{"TCP":{"destination_port":80}},
            "source":{"namespace":"a","pod_name":"b-1","identity":300}}"#
            .replace('\n', "");
        let reading = read(format!("{lost}\n{flow}\n").as_bytes());
        let report = reading.report(0);
        assert!(report.contains("12 events were lost"), "{report}");
        let expected = "left out of the policies: 1 of pods without labels";
        assert!(report.contains(expected), "{report}");
    }
}
