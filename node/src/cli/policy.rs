//! `namegate policy`.

mod ask;
mod cases;
mod diff;
mod explain;
mod fmt;
mod learn;
mod matching;
mod sarif;
mod schema;

use std::path::PathBuf;
use std::process::ExitCode;

use anstream::{AutoStream, ColorChoice};
use clap::{Args, Subcommand, ValueEnum};
use policy::{Problem, Source};

use super::print;
use super::run::DnsServersFlag;
use crate::exit::{Exit, USAGE};
use crate::files::TextFile;
use crate::judge::read::{all_files, told};
use crate::judge::resolve::{self, Resolvers, SYSTEM};
use crate::run::ENFORCED;

/// Policy files.
#[derive(Subcommand)]
pub(super) enum Policy {
    #[command(visible_alias = "lint")]
    Validate(Validate),
    Verdict(ask::Verdict),
    Explain(explain::Explain),
    Diff(diff::Diff),
    Match(matching::Match),
    Test(cases::Test),
    Learn(learn::Learn),
    Fmt(fmt::Fmt),
    Schema(schema::Schema),
}

/// Check policy files: all problems of all documents, each with file, line and column.
///
/// Exit code 0 if all are valid, 1 if one has an error, 2 if something can't be read, or there is no server
/// to ask.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate policy validate policies/ extra.yaml
  namegate policy validate --for-run /etc/namegate/policies
  namegate policy validate -o sarif policies/ > policies.sarif
  namegate policy validate --resolve=10.96.0.10 policies/")]
pub(super) struct Validate {
    /// Files, folders, or - for standard input.
    #[arg(required = true, value_name = "FILE|DIR|-")]
    paths: Vec<PathBuf>,
    /// Warnings fail too.
    #[arg(long)]
    deny_warnings: bool,
    /// Refuse also what `namegate run` does not enforce yet.
    #[arg(long)]
    for_run: bool,
    /// Ask DNS for each `matchName`, and warn of those that don't exist, have no address, are aliases of what may
    /// not be asked, or have a TTL below the floor. Asks the machine's servers, or those at these addresses, with
    /// commas between (as 10.96.0.10 or [::1]:5353).
    #[arg(
        long,
        value_name = "SERVERS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = SYSTEM
    )]
    resolve: Option<Resolvers>,
    #[command(flatten)]
    servers: DnsServersFlag,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value = "text")]
    output: ReportForm,
}

/// How problems are printed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReportForm {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// For code scanners and forges: SARIF 2.1.0.
    Sarif,
}

impl Policy {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Validate(validate) => validate.run(),
            Self::Verdict(verdict) => verdict.run(),
            Self::Match(matching) => matching.run(),
            Self::Test(test) => test.run(),
            Self::Explain(explain) => explain.run(),
            Self::Diff(diff) => diff.run(),
            Self::Learn(learn) => learn.run(),
            Self::Fmt(fmt) => fmt.run(),
            Self::Schema(schema) => schema.run(),
        }
    }
}

impl Validate {
    fn run(self) -> anyhow::Result<ExitCode> {
        let files = all_files(&self.paths).map_err(|error| Exit::with(USAGE, error))?;
        let sources: Vec<Source> = files.into_iter().map(TextFile::into_source).collect();
        let loader = self.servers.dns_servers.loader();
        let mut loader = loader.map_err(|problems| Exit::with(USAGE, told(problems.iter())))?;
        let mut loaded = loader.load(&sources);
        if self.for_run {
            loaded.problems.extend(loaded.set.lacking(ENFORCED));
        }
        if let Some(resolvers) = &self.resolve {
            let found = resolve::problems(&loaded.set, resolvers);
            let found = found.map_err(|error| Exit::with(USAGE, format!("{error:#}")))?;
            loaded.problems.extend(found);
        }
        match self.output {
            ReportForm::Json => print(&format!(
                "{}\n",
                serde_json::to_string_pretty(&loaded.problems)?
            ))?,
            ReportForm::Sarif => print(&format!("{:#}\n", sarif::log(&loaded.problems)?))?,
            ReportForm::Text => print(&text(&loaded.problems, loaded.set.len()))?,
        };
        let fails = loaded.has_errors() || (self.deny_warnings && !loaded.problems.is_empty());
        Ok(if fails {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}

fn text(problems: &[Problem], valid: usize) -> String {
    let choice = AutoStream::choice(&std::io::stdout());
    let mut out: String = problems
        .iter()
        .map(|problem| shown(problem, choice))
        .collect();
    let errors = problems.iter().filter(|problem| problem.is_error()).count();
    let warnings = problems.len() - errors;
    out.push_str(&format!(
        "{valid} valid, {errors} errors, {warnings} warnings\n"
    ));
    out
}

/// A problem as its stream takes it.
fn shown(problem: &Problem, choice: ColorChoice) -> String {
    match choice {
        ColorChoice::Never => format!("{problem}\n"),
        ColorChoice::Auto | ColorChoice::Always | ColorChoice::AlwaysAnsi => {
            format!("{problem:#}\n")
        }
    }
}
