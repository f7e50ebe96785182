//! `namegate config`: what a daemon would be started with, and from where each value is.

mod schema;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::layers::{self, Layered, Origin, Settled, Trouble, complete, keys};
use super::{Output, print};
use crate::exit::{BAD_CONFIG, Exit, USAGE};
use crate::run::RELOADED;

/// Check and show the configuration of `namegate run`.
///
/// It is one YAML file, /etc/namegate/config.yaml, with drop-ins beside it, config.d/*.yaml by name. A key is
/// a flag of `namegate run` without the dashes and with `_`. Flags stand in place of variables of the
/// environment (`NAMEGATE_LOG` for `--log`), those of drop-ins, those of the file, those of defaults; lists whole.
#[derive(Subcommand)]
pub(super) enum Config {
    Check(Check),
    Show(Show),
    Template(Template),
    Reference(Reference),
    Schema(Schema),
}

/// Read the configuration as `namegate run` would, and tell all that is wrong with it.
///
/// Exit code 0 if it can be used, 1 if not.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate config check
  namegate config check ./config.yaml")]
pub(super) struct Check {
    /// The file [default: /etc/namegate/config.yaml].
    file: Option<PathBuf>,
}

/// Print what `namegate run` would be started with, as a file that says the same.
///
/// Defaults, and keys without a value, are comments.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate config show --origin
  namegate config show --origin -- --audit --log debug
  namegate config show -o json | jq .quic")]
pub(super) struct Show {
    /// The file [default: /etc/namegate/config.yaml].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Say of each value where it is from: a file with its line, a variable, the command line, or the default.
    #[arg(long)]
    origin: bool,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
    /// Flags of `namegate run` beside it.
    #[arg(last = true, value_name = "FLAGS")]
    flags: Vec<OsString>,
}

/// Print a configuration file in which every key is there, as a comment with what it means and its default.
#[derive(Args)]
#[command(after_help = "Example:
  namegate config template > /etc/namegate/config.yaml")]
pub(super) struct Template {}

/// Print the JSON Schema of the configuration, for editors.
#[derive(Args)]
#[command(after_help = "Example:
  namegate config schema > ~/.config/namegate.schema.json

Then, at the top of the file, for editors with the YAML language server:
  # yaml-language-server: $schema=/home/me/.config/namegate.schema.json")]
pub(super) struct Schema {}

/// Print the page of all keys, as Markdown: docs/configuration.md is this.
#[derive(Args)]
pub(super) struct Reference {}

impl Config {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Check(check) => check.run(),
            Self::Show(show) => show.run(),
            Self::Template(_) => print(&template()),
            Self::Reference(_) => print(&reference()),
            Self::Schema(_) => print(&format!("{:#}\n", schema::schema())),
        }
    }
}

impl Check {
    fn run(self) -> anyhow::Result<ExitCode> {
        let layered = match read(self.file, &[]) {
            Ok(layered) => layered,
            Err(Trouble::Usage(error)) => return Err(Exit::with(USAGE, error)),
            Err(Trouble::Config(faults)) => {
                print(&format!("{}\n", faults.join("\n")))?;
                return Ok(ExitCode::FAILURE);
            }
        };
        let from = layered.settled.values();
        let here = from.filter(|one| one.origin != Origin::Default).count();
        let file = layered.file.display();
        print(&match layered.file.exists() {
            true => format!("{file}: good; {here} keys are set\n"),
            false => format!("{file} is not there: defaults, but for {here} keys\n"),
        })
    }
}

impl Show {
    fn run(self) -> anyhow::Result<ExitCode> {
        let layered = read(self.config, &self.flags).map_err(|trouble| match trouble {
            Trouble::Usage(error) => Exit::with(USAGE, error.render()),
            Trouble::Config(faults) => Exit::with(BAD_CONFIG, faults.join("\n")),
        })?;
        print(&match self.output {
            Output::Json => format!("{:#}\n", as_json(&layered.settled, self.origin)),
            Output::Text => as_yaml(&layered.settled, self.origin),
        })
    }
}

/// What `namegate run` would read with this file and these flags.
pub(super) fn read(file: Option<PathBuf>, flags: &[OsString]) -> Result<Layered, Trouble> {
    let mut args: Vec<OsString> = ["namegate", "run"].map(OsString::from).into();
    args.extend(flags.iter().cloned());
    if let Some(file) = file {
        args.push("--config".into());
        args.push(file.into());
    }
    complete(&args, &|name| std::env::var_os(name))
}

/// A value of YAML and JSON alike: as text, a switch as what it is.
fn value_of(key: &str, settled: &Settled) -> Value {
    let run = layers::definition();
    let arg = keys(&run).find(|arg| arg.get_id() == key);
    let is = |what: fn(&clap::Arg) -> bool| arg.is_some_and(what);
    match settled.values.as_slice() {
        values if is(layers::is_list) => values.iter().cloned().collect(),
        [] => Value::Null,
        [one] if is(layers::is_switch) => Value::Bool(one == "true"),
        [one, ..] => Value::String(one.clone()),
    }
}

fn as_json(settled: &BTreeMap<String, Settled>, with_origin: bool) -> Value {
    let members = settled.iter().map(|(key, one)| {
        let value = value_of(key, one);
        let shown = match with_origin {
            true => json!({ "value": value, "origin": one.origin.to_string() }),
            false => value,
        };
        (key.clone(), shown)
    });
    Value::Object(members.collect::<Map<String, Value>>())
}

fn as_yaml(settled: &BTreeMap<String, Settled>, with_origin: bool) -> String {
    let mut text = String::new();
    for (key, one) in settled {
        // JSON's values are YAML's too.
        let line = match value_of(key, one) {
            value if value.is_null() || value.as_array().is_some_and(Vec::is_empty) => {
                format!("# {key}:")
            }
            value if one.origin == Origin::Default => format!("# {key}: {value}"),
            value => format!("{key}: {value}"),
        };
        let _ = match with_origin {
            true => writeln!(text, "{line:<44} # {}", one.origin),
            false => writeln!(text, "{line}"),
        };
    }
    text
}

/// Columns of a comment in a template.
const WIDTH: usize = 100;

/// A file of comments alone.
fn template() -> String {
    let mut text = "# yaml-language-server: $schema=/usr/share/namegate/config.schema.json\n\
        # What `namegate run` does. Every key is here with its default; take the # away to change it.\n\
        # `namegate config check` tells what is wrong, SIGHUP (systemctl reload) has a daemon read it again.\n"
        .to_owned();
    for arg in keys(&layers::definition()) {
        text.push('\n');
        let mut line = String::from("#");
        for word in help_of(arg).split(' ') {
            if line.len() + 1 + word.len() > WIDTH {
                let _ = writeln!(text, "{line}");
                line = String::from("#");
            }
            let _ = write!(line, " {word}");
        }
        let defaults = arg.get_default_values().iter();
        let defaults: Value = match layers::is_switch(arg) {
            true => Value::Bool(false),
            false => defaults.map(|one| one.to_string_lossy()).collect(),
        };
        let default = match defaults.as_array().map(Vec::as_slice) {
            None => defaults.to_string(),
            Some(_) if layers::is_list(arg) => defaults.to_string(),
            Some([one, ..]) => one.to_string(),
            Some([]) => String::new(),
        };
        let key = format!("#{}: {default}", arg.get_id());
        let _ = writeln!(text, "{line}\n{}", key.trim_end());
    }
    text
}

/// What a key means, in one line.
pub(super) fn help_of(arg: &clap::Arg) -> String {
    let help = arg.get_long_help().or_else(|| arg.get_help());
    let help = help.map(ToString::to_string).unwrap_or_default();
    help.split_whitespace().collect::<Vec<&str>>().join(" ")
}

const INTRODUCTION: &str = "# Configuration

This page is made by `cargo xtask reference` from the definition of the flags of `namegate run`.

`namegate run` reads `/etc/namegate/config.yaml` (`--config FILE` for another; `/etc/namegate-NAME/config.yaml`
for `--instance NAME`), and then the files of `config.d` beside it, `*.yaml` in the order of their names. A file
has a key on each line, with a value or a list:

    enforcement_mode: always
    policy_dir: [/etc/namegate/policies, /srv/policies]
    dns_ttl_floor: 2m
    audit: true

A flag of the command line stands in place of a variable of the environment, that of a drop-in's key, that of the
file's, that of the default. A list stands in place of a list, whole; in a variable its values are parted by
commas. What a file switches on, `NAMEGATE_KEY=false` switches off.

An unknown key, a key that is there twice and a value that can't be are refused with their place, and the daemon
ends with 78 before it has changed anything; a daemon that runs goes on with what it has. `namegate config check`
tells all that is wrong, `namegate config show --origin` what a daemon would have and from where.

SIGHUP reads it again. These keys change while a daemon runs: LIVE.
What else has changed waits for the next start; `namegate status` and the log name it.
";

/// What there is to know of the configuration but its keys, as Markdown.
pub(super) fn introduction() -> String {
    let live: Vec<String> = RELOADED.iter().map(|key| format!("`{key}`")).collect();
    INTRODUCTION.replace("LIVE", &live.join(", "))
}

/// The page of all keys.
fn reference() -> String {
    let run = layers::definition();
    let mut text = introduction();
    let mut heading = None;
    for arg in keys(&run) {
        let own = arg.get_help_heading().unwrap_or("The daemon");
        if heading != Some(own) {
            let _ = write!(text, "\n## {own}\n");
            heading = Some(own);
        }
        text.push_str(&entry(arg));
    }
    text
}

/// One key of the page.
fn entry(arg: &clap::Arg) -> String {
    let key = arg.get_id().as_str();
    let mut text = format!("\n### `{key}`\n\n");
    let _ = writeln!(text, "{}\n", help_of(arg));
    let kind = match (layers::is_switch(arg), layers::is_list(arg)) {
        (true, _) => "`true` or `false`",
        (_, true) => "a list",
        (_, false) => "a value",
    };
    let _ = write!(
        text,
        "- {kind}; `--{}`, `{}`",
        arg.get_long().unwrap_or(key),
        layers::variable(key)
    );
    let defaults = arg.get_default_values();
    if !defaults.is_empty() && !layers::is_switch(arg) {
        let defaults = defaults.iter().map(|one| one.to_string_lossy());
        let _ = write!(
            text,
            "; default `{}`",
            defaults.collect::<Vec<_>>().join("`, `")
        );
    }
    text.push('\n');
    if !layers::is_switch(arg) {
        for choice in arg
            .get_possible_values()
            .iter()
            .filter(|one| !one.is_hide_set())
        {
            let told = choice
                .get_help()
                .map(|help| format!(": {help}"))
                .unwrap_or_default();
            let _ = writeln!(text, "- `{}`{told}", choice.get_name());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_page_is_that_of_the_code() {
        let page = std::fs::read_to_string(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../docs/configuration.md"
        ));
        assert!(
            page.is_ok_and(|page| page == reference()),
            "docs/configuration.md is not what `cargo xtask reference` makes"
        );
    }

    #[test]
    fn what_is_shown_is_a_file_that_says_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        std::fs::write(
            &file,
            "quic: allow\npolicy_dir: [/a, \"/b: c\"]\naudit: true\n",
        )
        .unwrap();
        let first = read(Some(file.clone()), &["--log".into(), "debug".into()]).unwrap();
        for with_origin in [false, true] {
            std::fs::write(&file, as_yaml(&first.settled, with_origin)).unwrap();
            let second = read(Some(file.clone()), &[]).unwrap();
            let values = |layered: &Layered| -> Vec<(String, Vec<String>)> {
                let all = layered.settled.iter();
                all.map(|(key, one)| (key.clone(), one.values.clone()))
                    .collect()
            };
            assert_eq!(values(&first), values(&second));
        }
    }

    #[test]
    fn a_template_is_a_file_that_changes_nothing_also_where_each_key_is_taken_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        let text = template();
        std::fs::write(&file, &text).unwrap();
        let plain = read(Some(file.clone()), &[]).unwrap();
        let keys = text.lines().filter_map(|line| line.strip_prefix('#'));
        let keys = keys.filter(|line| !line.starts_with(' ') && !line.ends_with(':'));
        let mut count = 0;
        for key in keys {
            std::fs::write(&file, key).unwrap();
            match read(Some(file.clone()), &[]) {
                Ok(one) => {
                    let values = |all: &Layered| -> Vec<Vec<String>> {
                        all.settled.values().map(|one| one.values.clone()).collect()
                    };
                    assert_eq!(values(&one), values(&plain), "{key}");
                }
                Err(Trouble::Config(faults)) => {
                    assert!(
                        faults.concat().contains("were not provided"),
                        "{key}: {faults:?}"
                    );
                }
                Err(Trouble::Usage(error)) => panic!("{key}: {error}"),
            }
            count += 1;
        }
        assert!(count > 20, "{count} keys");
    }

    #[test]
    fn keys_that_change_while_a_daemon_runs_are_keys() {
        let run = layers::definition();
        for key in RELOADED {
            assert!(keys(&run).any(|arg| arg.get_id() == key), "{key}");
        }
    }
}
