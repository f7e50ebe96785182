//! The command line: one definition for help, errors and exit codes.

mod completions;
mod config;
mod demo;
mod detach;
mod doctor;
mod endpoint;
mod exec;
mod fqdn;
mod hold;
mod identity;
mod layers;
mod lines;
mod log_level;
mod man;
mod manager;
mod map;
mod metrics;
mod observe;
mod policy;
mod report;
mod run;
mod status;
mod sysdump;
mod top;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use layers::{Layered, Trouble, Whereabouts, complete};
use serde_json::Value;

pub(crate) use run::parse_duration;

use crate::control;
use crate::exit::{self, BAD_CONFIG, Exit};
use crate::instance::Instance;

/// A node-level gate by name: each workload of this node talks to the names that its policy allows.
///
/// Policies are CiliumNetworkPolicy files. DNS queries are judged and answered through the gate; what an
/// allowed name resolves to is opened in the kernel before the answer is released.
#[derive(Parser)]
#[command(name = "namegate", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub(crate) struct Namegate {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  namegate demo                               see it work, on a node of its own
  namegate policy validate policies/          check files before they are used
  namegate exec --allow github.com -- git fetch   one command that reaches nothing else
  namegate run --policy-dir policies --endpoint-dir endpoints
  namegate endpoint list                      who is guarded, and how far
  namegate detach                             take everything away again

Exit codes: 0 done, 1 failed, 2 wrong usage, 77 a privilege or kernel feature is missing,
78 the configuration can't be used.";

#[derive(Subcommand)]
enum Command {
    // Without words here: they would stand in place of those of the command itself, all of them.
    Demo(demo::Demo),
    Run(Box<run::Run>),
    Exec(exec::Exec),
    Inside(exec::Inside),
    Status(status::Status),
    #[command(subcommand)]
    Endpoint(endpoint::Endpoint),
    #[command(subcommand)]
    Fqdn(fqdn::Fqdn),
    #[command(subcommand)]
    Identity(identity::Identity),
    #[command(subcommand)]
    Map(map::Map),
    Metrics(metrics::Metrics),
    Observe(observe::Observe),
    #[command(subcommand)]
    Policy(policy::Policy),
    Report(report::Report),
    Top(top::Top),
    Doctor(doctor::Doctor),
    Detach(detach::Detach),
    Hold(hold::Hold),
    #[command(subcommand)]
    Config(config::Config),
    LogLevel(log_level::LogLevel),
    Sysdump(sysdump::Sysdump),
    Completions(completions::Completions),
    Man(man::Man),
    /// Print the version.
    Version,
}

/// Which daemon is meant.
#[derive(Args)]
struct Which {
    /// Name of the daemon, where several network namespaces of a machine have one each. Of one that runs
    /// already, what NAMEGATE_INSTANCE or its configuration says goes before this default.
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = Instance::parse)]
    instance: Instance,
    /// Its control socket [default: /run/namegate/namegate.sock, or /run/namegate-NAME/…; of a daemon that
    /// runs already, what NAMEGATE_SOCKET or its configuration says].
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl Which {
    /// The socket of a daemon that runs. What is wrong with its configuration by now it says itself, by
    /// `status`.
    ///
    /// # Errors
    /// With 78 if the configuration is named and not there.
    fn socket(&self) -> anyhow::Result<PathBuf> {
        match &self.socket {
            Some(named) => Ok(named.clone()),
            None => Ok(self.look(None)?.socket),
        }
    }

    /// Where the daemon is, whether it runs or not, by what its configuration says.
    ///
    /// # Errors
    /// As [`Which::socket`].
    fn look(&self, config: Option<&Path>) -> anyhow::Result<Whereabouts> {
        layers::whereabouts((self, config), &|name| std::env::var_os(name))
            .map_err(|text| Exit::with(BAD_CONFIG, text))
    }

    /// The same for who goes by all that it says.
    ///
    /// # Errors
    /// With 78, as `run`, if the configuration can't be read.
    fn find(&self, config: Option<&Path>) -> anyhow::Result<Whereabouts> {
        let found = self.look(config)?;
        if found.faults.is_empty() {
            return Ok(found);
        }
        let all: Vec<String> = found.faults.iter().map(ToString::to_string).collect();
        let help = "help: repair it; with --config /dev/null nothing is read, and defaults and flags are gone by";
        Err(Exit::with(
            BAD_CONFIG,
            format!("{}\n  {help}", all.join("\n")),
        ))
    }

    /// The socket that a daemon is to have, whose words are complete.
    fn own_socket(&self) -> PathBuf {
        let own = self.socket.clone();
        own.unwrap_or_else(|| self.instance.socket())
    }
}

/// Which daemon is asked, and how its answer is shown.
#[derive(Args)]
struct Ask {
    #[command(flatten)]
    which: Which,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

impl Ask {
    fn call(&self, command: &control::Command) -> anyhow::Result<Value> {
        control::call(&self.which.socket()?, command)
    }

    /// Prints an answer as it is, or as text for people.
    fn show(
        &self,
        answer: &Value,
        text: impl FnOnce(&Value) -> String,
    ) -> anyhow::Result<ExitCode> {
        match self.output {
            Output::Json => print(&format!("{answer:#}\n")),
            Output::Text => print(&text(answer)),
        }
    }
}

/// How a list begins.
#[derive(Args)]
struct Headings {
    /// Leave out the line of headings, for other programs.
    #[arg(long)]
    no_headers: bool,
}

impl Headings {
    /// A table with its headings or without.
    fn of(&self, table: String) -> String {
        match (self.no_headers, table.split_once('\n')) {
            (true, Some((_, rows))) => rows.to_owned(),
            (_, _) => table,
        }
    }
}

/// What is listed under a key; nothing if it isn't there.
fn list<'a>(answer: &'a Value, key: &str) -> &'a [Value] {
    let all = answer.get(key).and_then(Value::as_array);
    all.map_or(&[], Vec::as_slice)
}

/// How data is printed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Namegate {
    /// Reads a command line; that of `run` is completed by files and the environment.
    ///
    /// # Errors
    /// How the program ends: it has said why, or printed help.
    pub(crate) fn read(args: &[OsString]) -> Result<Self, ExitCode> {
        if let Some(hold) = hold::Hold::alone(args) {
            return Ok(Self {
                command: Command::Hold(hold),
            });
        }
        let command = Self::try_parse_from(args).map_err(|error| usage(&error))?;
        if !matches!(command.command, Command::Run(_)) {
            return Ok(command);
        }
        let layered = layered(args)?;
        let whole = Self::try_parse_from(&layered.args).map_err(|error| usage(&error))?;
        let Command::Run(run) = whole.command else {
            return Ok(whole);
        };
        Ok(Self {
            command: Command::Run(Box::new(run.settled(layered.settled))),
        })
    }

    /// Does what was asked.
    ///
    /// # Errors
    /// Why not; an `Exit` inside has a code of its own.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Demo(demo) => demo.run(),
            Command::Run(run) => run.run(),
            Command::Exec(exec) => exec.run(),
            Command::Inside(inside) => inside.run(),
            Command::Status(status) => status.run(),
            Command::Endpoint(endpoint) => endpoint.run(),
            Command::Fqdn(fqdn) => fqdn.run(),
            Command::Identity(identity) => identity.run(),
            Command::Map(map) => map.run(),
            Command::Metrics(metrics) => metrics.run(),
            Command::Observe(observe) => observe.run(),
            Command::Policy(policy) => policy.run(),
            Command::Report(report) => report.run(),
            Command::Top(top) => top.run(),
            Command::Doctor(doctor) => doctor.run(),
            Command::Detach(detach) => detach.run(),
            Command::Hold(hold) => hold.run(),
            Command::Config(config) => config.run(),
            Command::LogLevel(level) => level.run(),
            Command::Sysdump(dump) => dump.run(),
            Command::Completions(completions) => completions.run(),
            Command::Man(man) => man.run(),
            Command::Version => print(&format!("namegate {}\n", env!("CARGO_PKG_VERSION"))),
        }
    }
}

/// The command line of `run`, completed.
fn layered(args: &[OsString]) -> Result<Layered, ExitCode> {
    complete(args, &|name| std::env::var_os(name)).map_err(|trouble| match trouble {
        Trouble::Usage(error) => usage(&error),
        Trouble::Config(faults) => {
            let _ = writeln!(
                io::stderr(),
                "{}\nnamegate: the configuration can't be used",
                faults.join("\n")
            );
            ExitCode::from(BAD_CONFIG)
        }
    })
}

/// Tells of wrong usage, or prints help. `observe` ends with 1 for wrong usage, as Hubble's does, and `exec`
/// with a code that its command is not likely to have.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    let command = std::env::args_os().nth(1).unwrap_or_default();
    match error.exit_code() {
        0 => ExitCode::SUCCESS,
        _ if command == "observe" => ExitCode::FAILURE,
        _ if command == "exec" => ExitCode::from(exit::EXEC_FAILED),
        code => ExitCode::from(u8::try_from(code).unwrap_or(2)),
    }
}

/// Prints to standard output; a reader that went away is no failure.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_help_of_a_command_is_all_that_it_says() {
        let mut command = super::Namegate::command();
        command.build();
        for (words, told) in [
            (&["run"][..], "SIGHUP"),
            (&["exec"], "127"),
            (&["status"], "Exit code 0"),
            (&["observe"], "hubble observe"),
            (&["endpoint", "list"], "attaching"),
            (&["policy", "validate"], "2 if something can't be read"),
            (&["policy", "learn"], "exporter's"),
            (&["fqdn", "cache", "list"], "toFQDNs"),
            (&["fqdn", "selectors"], "toFQDNs"),
            (&["endpoint", "get"], "programs on its interface"),
            (&["identity", "list"], "keeps its number"),
            (&["map", "get"], "strongest verdict"),
            (&["map", "events"], "since its start"),
            (&["metrics"], "--metrics-addr"),
            (&["doctor"], "It changes nothing"),
            (&["report"], "one HTML page"),
            (&["top"], "live"),
            (&["detach"], "pins"),
            (&["config", "show"], "comments"),
            (&["log-level"], "running daemon"),
            (&["sysdump"], "without secrets"),
        ] {
            let mut at = &mut command;
            for word in words {
                at = at.find_subcommand_mut(word).unwrap();
            }
            let help = at.render_long_help().to_string();
            assert!(help.contains(told), "{words:?}: {help}");
        }
        for one in command.get_subcommands() {
            assert!(one.get_about().is_some(), "{}", one.get_name());
        }
    }

    #[test]
    fn the_definition_is_sound() {
        super::Namegate::command().debug_assert();
    }
}
