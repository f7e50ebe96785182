//! `namegate observe`.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use flow::{Line, Printer};

use super::Which;
use crate::control::{self, Command, stream};
use crate::exit::Exit;

/// Follow the flows of this node: DNS requests and answers, verdicts on new connections, drops,
/// traces of what passes.
///
/// Lines are those of `hubble observe`. Filters of one kind are alternatives, filters of different
/// kinds must all match. Exit code 1 for wrong usage as for failure, as Hubble's.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate observe -f --pod default/internal-client
  namegate observe --last 50 --verdict DROPPED -o json | jq .flow.destination_names")]
pub(super) struct Observe {
    #[command(flatten)]
    which: Which,
    /// Go on with the flows that come.
    #[arg(short, long)]
    follow: bool,
    /// At most this many of the flows that are there [default: 20, or 0 with --follow].
    #[arg(long, value_name = "N")]
    last: Option<usize>,
    /// Flows of a pod, on either side: [NAMESPACE/]PREFIX.
    #[arg(long, value_name = "POD")]
    pod: Vec<String>,
    /// Flows of a namespace, on either side.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Vec<String>,
    /// Flows of a protocol: tcp, udp, icmp, dns ….
    #[arg(long, value_name = "PROTOCOL")]
    protocol: Vec<String>,
    /// Flows with a verdict: FORWARDED, DROPPED, REDIRECTED, ERROR.
    #[arg(long, value_name = "VERDICT")]
    verdict: Vec<String>,
    /// Flows of a type: l7, drop, policy-verdict, trace, trace:to-endpoint ….
    #[arg(short, long = "type", value_name = "TYPE")]
    kind: Vec<String>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value = "compact")]
    output: Form,
    /// Show addresses and not names.
    #[arg(long)]
    numeric: bool,
    /// When to colour.
    #[arg(long, value_enum, default_value = "auto")]
    color: Color,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// One line a flow.
    Compact,
    /// Hubble's JSON, one object a line.
    #[value(alias = "jsonpb")]
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Color {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Flows that are shown where the number isn't given, as Hubble's.
const LAST_DEFAULT: usize = 20;

impl Observe {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let wanted = control::Observe {
            last: self
                .last
                .unwrap_or(if self.follow { 0 } else { LAST_DEFAULT }),
            follow: self.follow,
            filters: self.filters(),
        };
        // Told here, before a daemon is asked.
        wanted.filter().map_err(|error| Exit::with(1, error))?;
        let compact = Printer {
            numeric: self.numeric,
            color: match self.color {
                Color::Auto => io::stdout().is_terminal(),
                Color::Always => true,
                Color::Never => false,
            },
            ..Printer::default()
        };
        let mut out = io::stdout().lock();
        let mut text = String::new();
        for line in stream(&self.which.socket(), &Command::Observe(wanted))? {
            // The daemon ended.
            let Ok(line) = line else { break };
            text.clear();
            self.print(&line, &compact, &mut text)?;
            let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            if let Err(error) = written {
                return if error.kind() == io::ErrorKind::BrokenPipe {
                    Ok(ExitCode::SUCCESS)
                } else {
                    Err(error.into())
                };
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn filters(&self) -> Vec<(String, String)> {
        let flags = [
            ("--pod", &self.pod),
            ("--namespace", &self.namespace),
            ("--protocol", &self.protocol),
            ("--verdict", &self.verdict),
            ("--type", &self.kind),
        ];
        flags
            .into_iter()
            .flat_map(|(flag, values)| {
                values
                    .iter()
                    .map(move |value| (flag.to_owned(), value.clone()))
            })
            .collect()
    }

    fn print(&self, line: &str, compact: &Printer, out: &mut String) -> anyhow::Result<()> {
        if self.output == Form::Json {
            out.push_str(line);
            out.push('\n');
            return Ok(());
        }
        match Line::parse(line) {
            Ok(Line::Flow(flow)) => compact.write(&flow, out),
            Ok(Line::LostEvents { lost, time, .. }) => compact.write_lost(&lost, time, out),
            Err(_) if line.contains("\"error\"") => anyhow::bail!("the daemon refuses: {line}"),
            Err(error) => anyhow::bail!("the daemon's line can't be read: {error}"),
        }
        out.push('\n');
        Ok(())
    }
}
