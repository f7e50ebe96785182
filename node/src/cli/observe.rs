//! `namegate observe`.

mod file;
mod filters;
mod sink;
mod time;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, ValueEnum};
use flow::{
    AgentLine, BadPath, FieldMask, Filter, Printer, Query, Recorded, Table, Time, TimeFormat,
};
use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;

use self::file::Aside;
use self::filters::Filters;
use self::sink::{Sink, is_broken_pipe};
use super::Which;
use crate::clock;
use crate::colour;
use crate::control::{self, Command, stream};
use crate::exit::Exit;

/// Follow the flows of this node: DNS and HTTP requests and answers, verdicts on new connections, drops,
/// traces of what passes.
///
/// Lines are those of `hubble observe`, and so are the flags. Filters of one kind are alternatives,
/// filters of different kinds must all match. Exit code 1 for wrong usage as for failure, as Hubble's.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate observe -f --pod default/internal-client
  namegate observe --since 5m --verdict DROPPED --not --protocol dns
  namegate observe --last 50 --verdict DROPPED -o json | jq .flow.destination_names
  namegate observe --input-file flows.json --http-status 5+ -o dict")]
pub(super) struct Observe {
    /// What is shown.
    #[arg(value_enum, default_value = "flows")]
    what: What,
    #[command(flatten)]
    which: Which,
    /// Go on with the flows that come.
    #[arg(short, long)]
    follow: bool,
    /// At most this many of the flows that are there, the newest [default: 20, or all with --follow,
    /// --since, --until and --input-file].
    #[arg(long, value_name = "N")]
    last: Option<u64>,
    /// At most this many of the flows that are there, the oldest.
    #[arg(long, value_name = "N", conflicts_with_all = ["last", "all", "follow"])]
    first: Option<u64>,
    /// All flows that are there.
    #[arg(long, conflicts_with = "last")]
    all: bool,
    /// None before: 5m, 1h30m, 2026-03-05T09:07:01Z.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// None after; not heeded with --follow.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Read flows from a file, or from standard input by -, and not from a daemon.
    #[arg(long, value_name = "FILE", conflicts_with = "follow")]
    input_file: Option<PathBuf>,
    #[command(flatten)]
    filters: Filters,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value = "compact")]
    output: Form,
    /// Only these fields of each flow, in JSON: time,verdict,source.pod_name …
    #[arg(long, value_name = "PATHS", value_delimiter = ',')]
    field_mask: Vec<String>,
    /// Show addresses and not names.
    #[arg(long)]
    numeric: bool,
    /// Show names and not addresses; =false is as --numeric.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    ip_translation: bool,
    /// How times are written: StampMilli, RFC3339, RFC3339Milli, RFC1123Z …
    #[arg(long, value_name = "FORMAT", default_value = "StampMilli")]
    time_format: String,
    /// Show which node tells it.
    #[arg(long, alias = "nodeName")]
    print_node_name: bool,
    /// Show which policies decided.
    #[arg(long)]
    print_policy_names: bool,
    /// Show the filters that the flags make, as YAML with lists of JSON for --allowlist and --denylist, and end.
    #[arg(long)]
    print_raw_filters: bool,
    /// Say nothing of what can't be read, nor of nodes.
    #[arg(short, long)]
    silent_errors: bool,
    /// Say too which nodes come and go.
    #[arg(short = 'D', long)]
    debug: bool,
    /// When to colour.
    #[arg(long, value_enum, default_value = "auto")]
    color: Color,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Flows.
    Flows,
    /// What the daemon did: its start, policies, endpoints, prefixes. No filter is about those.
    AgentEvents,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// One line a flow.
    Compact,
    /// Hubble's JSON, one object a line.
    #[value(alias = "jsonpb", alias = "JSON")]
    Json,
    /// One field a line.
    Dict,
    /// Columns, once all flows are there.
    #[value(alias = "tab")]
    Table,
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
const LAST_DEFAULT: u64 = 20;

impl Observe {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let refuse = |text: String| Exit::with(1, text);
        if self.output == Form::Table && self.follow {
            let text = "table output format is not compatible with follow mode";
            return Err(refuse(text.to_owned()));
        }
        if self.output != Form::Json && !self.field_mask.is_empty() {
            let text = "only the output format json is compatible with custom field mask";
            return Err(refuse(text.to_owned()));
        }
        let paths = self.field_mask.iter().map(String::as_str);
        let mask = FieldMask::new(paths).map_err(|error: BadPath| refuse(error.to_string()))?;
        if self.print_raw_filters {
            return super::print(&self.filters.yaml());
        }
        let since = point(self.since.as_deref(), "since")?;
        let until = point(self.until.as_deref().filter(|_| !self.follow), "until")?;
        let table = match self.what {
            What::Flows => Table::new(self.printer()),
            What::AgentEvents => Table::of_agents(self.printer()),
        };
        let mut sink = Sink::new((self.printer(), table), self.output, mask);
        let shown = match (&self.input_file, self.what) {
            (Some(path), What::Flows) => {
                file::read(path, (self.query(since, until)?, self.aside()), &mut sink)
            }
            (Some(_), What::AgentEvents) => {
                let text = "--input-file is for flows alone";
                return Err(refuse(text.to_owned()));
            }
            (None, _) => self.ask((since, until), &mut sink),
        };
        match shown.and_then(|()| sink.end()) {
            // Whoever reads has enough.
            Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
            shown => shown.map(|()| ExitCode::SUCCESS),
        }
    }

    /// What is said beside the flows.
    fn aside(&self) -> Aside {
        Aside {
            printer: Printer {
                color: false,
                ..self.printer()
            },
            is_silent: self.silent_errors,
            all_nodes: self.debug,
        }
    }

    fn printer(&self) -> Printer {
        Printer {
            numeric: self.numeric || !self.ip_translation,
            time_format: TimeFormat::from_name(&self.time_format),
            color: match self.color {
                Color::Auto => colour::fits(&io::stdout()),
                Color::Always => true,
                Color::Never => false,
            },
            node_name: self.print_node_name,
            policy_names: self.print_policy_names,
        }
    }

    fn query(&self, since: Option<Time>, until: Option<Time>) -> anyhow::Result<Query> {
        let Filters { allow, deny } = &self.filters;
        Ok(Query {
            number: self.number(),
            first: self.first().is_some(),
            follow: false,
            since,
            until,
            filter: Filter::new(allow, deny)?,
        })
    }

    /// As Hubble's command has it, 0 says nothing.
    fn first(&self) -> Option<u64> {
        self.first.filter(|first| *first > 0)
    }

    fn number(&self) -> u64 {
        let is_file = self.input_file.is_some();
        let is_timed = self.since.is_some() || self.until.is_some();
        let is_open = is_file || self.all || self.follow || is_timed;
        let default = if is_open { 0 } else { LAST_DEFAULT };
        let last = self.last.filter(|last| *last > 0);
        self.first().or(last).unwrap_or(default)
    }

    fn ask(
        &self,
        (since, until): (Option<Time>, Option<Time>),
        sink: &mut Sink,
    ) -> anyhow::Result<()> {
        let wanted = control::Observe {
            number: self.number(),
            first: self.first().is_some(),
            follow: self.follow,
            since: since.map(Time::rfc3339),
            until: until.map(Time::rfc3339),
            allow: control::filters_as_json(&self.filters.allow),
            deny: control::filters_as_json(&self.filters.deny),
        };
        let command = match self.what {
            What::Flows => Command::Observe(wanted),
            What::AgentEvents => Command::AgentEvents(wanted),
        };
        if self.follow {
            end_well_on_interrupt().context("signals")?;
        }
        for line in stream(&self.which.socket()?, &command)? {
            let line = line.context("the daemon's answer broke off")?;
            let shown = match self.what {
                What::Flows => Recorded::parse(&line).map(|read| sink.show(&read)),
                What::AgentEvents => {
                    AgentLine::parse(&line).map(|read| sink.show_agent(&read, &line))
                }
            };
            match shown {
                Ok(shown) => shown?,
                Err(_) if line.contains("\"error\"") => {
                    anyhow::bail!("the daemon refuses: {line}")
                }
                Err(error) => anyhow::bail!("the daemon's line can't be read: {error}"),
            }
        }
        match self.follow {
            true => anyhow::bail!("the daemon has ended"),
            false => Ok(()),
        }
    }
}

/// Whoever follows ends it by an interrupt, and that is no failure: as with Hubble's command. All that was shown
/// is written by then.
fn end_well_on_interrupt() -> io::Result<()> {
    let mut signals = Signals::new([SIGINT])?;
    std::thread::Builder::new().spawn(move || {
        if signals.forever().next().is_some() {
            std::process::exit(0);
        }
    })?;
    Ok(())
}

fn point(text: Option<&str>, flag: &str) -> anyhow::Result<Option<Time>> {
    let Some(text) = text else { return Ok(None) };
    let point = time::read(text, clock::time_of_day(clock::now()));
    let wrong = || {
        Exit::with(
            1,
            format!("failed to parse the {flag} time: {text:?} is no time"),
        )
    };
    Ok(Some(point.ok_or_else(wrong)?))
}
