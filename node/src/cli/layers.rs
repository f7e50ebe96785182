//! Where the values of `namegate run` come from. One definition, that of the flags, says what there is: a key
//! of the configuration file is a flag's name with `_`, and so is a variable of the environment, in capitals
//! and with `NAMEGATE_` in front. A flag stands in place of a variable, that of a file's key, that of a default.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory as _};

use super::run::{ENDPOINT_DIR, POLICY_DIR};
use super::{Namegate, Which};
use crate::instance::Instance;
use crate::settings::{self, Fault, Place, Setting, Values};

/// Of `namegate run`: what says where the configuration is can't stand in it.
const CONFIG: &str = "config";

/// Where a value is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Default,
    File(Place),
    Environment(String),
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(place) => write!(f, "{}:{}", place.file, place.line),
            Self::Environment(name) => f.write_str(name),
            Self::Flag => f.write_str("command line"),
        }
    }
}

/// The values of a key, with where they are from; none where there is no default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) values: Vec<String>,
    pub(crate) origin: Origin,
}

/// A command line with what it doesn't say itself.
#[derive(Debug)]
pub(super) struct Layered {
    /// All of it as flags.
    pub(super) args: Vec<OsString>,
    /// The file that was read, if it was there.
    pub(super) file: PathBuf,
    /// By key.
    pub(super) settled: BTreeMap<String, Settled>,
}

/// Why a command line can't be completed.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Its own fault.
    Usage(clap::Error),
    /// What files and environment say, a line for each fault.
    Config(Vec<String>),
}

/// Variables of the environment.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Completes the words of `namegate run`.
///
/// # Errors
/// All that is wrong with what it would be completed by.
pub(super) fn complete(
    args: &[OsString],
    environment: Environment<'_>,
) -> Result<Layered, Trouble> {
    let whole = Namegate::command();
    let parse = |args: &[OsString]| whole.clone().try_get_matches_from(args);
    let matches = parse(args).map_err(Trouble::Usage)?;
    let said = run_of(&matches);
    let named = said.get_one::<PathBuf>(CONFIG).map(PathBuf::as_path);
    let own = said.get_one::<Instance>("instance").cloned();
    let file = file_of(named, environment, &own.unwrap_or_default())
        .map_err(|text| Trouble::Config(vec![text]))?;
    let told = |faults: Vec<Fault>| Trouble::Config(faults.iter().map(Fault::to_string).collect());
    let settings = settings::read(&file).map_err(told)?;
    let run = definition();
    let mut faults = unknown(&run, &settings);
    let mut origins = BTreeMap::new();
    let mut words: Vec<OsString> = Vec::new();
    for arg in keys(&run) {
        let key = arg.get_id().as_str();
        if said.value_source(key) == Some(ValueSource::CommandLine) {
            origins.insert(key.to_owned(), Origin::Flag);
            continue;
        }
        let Some((values, origin)) = beyond(arg, &settings, environment) else {
            continue;
        };
        match words_of(arg, &values).and_then(|own| alone(&run, own)) {
            Ok(own) => {
                words.extend(own.into_iter().map(OsString::from));
                origins.insert(key.to_owned(), origin);
            }
            Err(reason) => faults.push(match origin {
                Origin::File(place) => format!("{place}: error: {key}: {reason}"),
                Origin::Default | Origin::Environment(_) | Origin::Flag => {
                    format!("{origin}: error: {reason}")
                }
            }),
        }
    }
    if !faults.is_empty() {
        return Err(Trouble::Config(faults));
    }
    let has_more = !words.is_empty();
    let args: Vec<OsString> = args.iter().cloned().chain(words).collect();
    let matches = parse(&args).map_err(|error| match has_more {
        true => Trouble::Config(vec![said_of(&error)]),
        false => Trouble::Usage(error),
    })?;
    let settled = keys(&run).map(|arg| settle(arg, run_of(&matches), &origins));
    Ok(Layered {
        settled: settled.collect(),
        args,
        file,
    })
}

/// Where a daemon is whose command line isn't known, and what it is guided by.
pub(super) struct Whereabouts {
    pub(super) instance: Instance,
    pub(super) socket: PathBuf,
    pub(super) bpf_dir: PathBuf,
    pub(super) policy_dirs: Vec<PathBuf>,
    pub(super) endpoint_dir: PathBuf,
    /// Why its configuration can't be read: then it says nothing here.
    pub(super) faults: Vec<Fault>,
}

/// What is said by a flag, by a variable, by the configuration that the daemon was started with, in this order;
/// `config` names that one.
///
/// # Errors
/// If the configuration is named and not there.
pub(super) fn whereabouts(
    (which, config): (&Which, Option<&Path>),
    environment: Environment<'_>,
) -> Result<Whereabouts, String> {
    let file = file_of(config, environment, &which.instance)?;
    let (settings, faults) = match settings::read(&file) {
        Ok(settings) => (settings, Vec::new()),
        Err(faults) => (BTreeMap::new(), faults),
    };
    let run = definition();
    let said = |key: &str| {
        let arg = keys(&run).find(|arg| arg.get_id() == key)?;
        match beyond(arg, &settings, environment)?.0 {
            Values::Unset => None,
            Values::One(value) => Some(vec![value]),
            Values::List(values) => Some(values),
        }
    };
    let all = |key| Some(said(key)?.into_iter().map(PathBuf::from).collect());
    let one = |key: &str| said(key)?.into_iter().next();
    let of_instance = || Instance::parse(&one("instance")?).ok();
    let is_named = which.instance != Instance::default();
    let instance = match is_named {
        true => which.instance.clone(),
        false => of_instance().unwrap_or_default(),
    };
    let socket = which.socket.clone();
    let socket = socket.or_else(|| one("socket").map(PathBuf::from));
    Ok(Whereabouts {
        socket: socket.unwrap_or_else(|| instance.socket()),
        bpf_dir: one("bpf_dir").map_or_else(|| instance.bpf_dir(), PathBuf::from),
        policy_dirs: all("policy_dir").unwrap_or_else(|| vec![POLICY_DIR.into()]),
        endpoint_dir: one("endpoint_dir")
            .unwrap_or_else(|| ENDPOINT_DIR.to_owned())
            .into(),
        instance,
        faults,
    })
}

/// The definition of `namegate run`.
pub(super) fn definition() -> Command {
    let mut whole = Namegate::command();
    whole.build();
    let run = whole.find_subcommand("run").cloned();
    run.unwrap_or_default()
}

/// What can stand in a configuration.
pub(super) fn keys(run: &Command) -> impl Iterator<Item = &Arg> {
    let is_key = |arg: &&Arg| arg.get_long().is_some() && arg.get_id() != CONFIG;
    let is_help = |arg: &&Arg| {
        let action = arg.get_action();
        matches!(
            action,
            ArgAction::Help | ArgAction::HelpLong | ArgAction::HelpShort
        )
    };
    run.get_arguments()
        .filter(is_key)
        .filter(move |arg| !is_help(arg))
}

/// The variable of the environment that stands for a key.
pub(super) fn variable(key: &str) -> String {
    format!("NAMEGATE_{}", key.to_uppercase())
}

/// Whether a key takes a list.
pub(super) fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// Whether a key is only on or off.
pub(super) fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

fn run_of(matches: &ArgMatches) -> &ArgMatches {
    matches.subcommand_matches("run").unwrap_or(matches)
}

/// Where the file is: by a flag, by a variable, or an instance's own.
///
/// # Errors
/// If it is named and not there.
fn file_of(
    named: Option<&Path>,
    environment: Environment<'_>,
    instance: &Instance,
) -> Result<PathBuf, String> {
    let of_variable = || environment(&variable(CONFIG)).map(PathBuf::from);
    match named.map(Path::to_owned).or_else(of_variable) {
        Some(file) if !file.exists() => Err(format!("{}: there is no such file", file.display())),
        Some(file) => Ok(file),
        None => Ok(instance.config()),
    }
}

/// Keys that nothing knows.
fn unknown(run: &Command, settings: &BTreeMap<String, Setting>) -> Vec<String> {
    let known: Vec<String> = keys(run).flat_map(names_of).collect();
    let strange = settings.iter().filter(|(key, _)| !known.contains(key));
    let told = strange.map(|(key, setting)| {
        let place = &setting.place;
        let meant = key.trim_start_matches('-').replace('-', "_");
        let help = match known.contains(&meant) {
            true => format!("write {meant}"),
            false => "`namegate config show` lists all keys".to_owned(),
        };
        format!("{place}: error: unknown key {key:?}\n  help: {help}")
    });
    told.collect()
}

/// How a file may call a key: as its flag, or as that is called too.
pub(super) fn names_of(arg: &Arg) -> Vec<String> {
    let aliases = arg.get_visible_aliases().unwrap_or_default();
    let aliases = aliases.into_iter().map(|alias| alias.replace('-', "_"));
    std::iter::once(arg.get_id().to_string())
        .chain(aliases)
        .collect()
}

/// What environment and files say of a key.
fn beyond(
    arg: &Arg,
    settings: &BTreeMap<String, Setting>,
    environment: Environment<'_>,
) -> Option<(Values, Origin)> {
    let key = arg.get_id().as_str();
    let name = variable(key);
    if let Some(value) = environment(&name) {
        let text = value.to_string_lossy().into_owned();
        let values = match is_list(arg) {
            true => Values::List(text.split(',').map(str::to_owned).collect()),
            false => Values::One(text),
        };
        return Some((values, Origin::Environment(name)));
    }
    let setting = names_of(arg).iter().find_map(|name| settings.get(name))?;
    let origin = Origin::File(setting.place.clone());
    (setting.values != Values::Unset).then(|| (setting.values.clone(), origin))
}

/// A key with its values as words of a command line.
fn words_of(arg: &Arg, values: &Values) -> Result<Vec<String>, String> {
    let long = arg.get_long().unwrap_or_default();
    let worded = |value: &String| format!("--{long}={value}");
    let may_stand_alone = arg
        .get_num_args()
        .is_some_and(|range| range.min_values() == 0);
    let choices = arg.get_possible_values();
    let is_bool = choices.iter().any(|choice| choice.get_name() == "false");
    match values {
        Values::Unset => Ok(Vec::new()),
        Values::One(value) if is_switch(arg) || (may_stand_alone && !is_bool) => {
            match (value.as_str(), is_switch(arg)) {
                ("true", _) => Ok(vec![format!("--{long}")]),
                ("false", _) => Ok(Vec::new()),
                (_, true) => Err(format!("{value:?} is neither true nor false")),
                (_, false) => Ok(vec![worded(value)]),
            }
        }
        Values::One(value) => Ok(vec![worded(value)]),
        Values::List(all) if is_list(arg) => Ok(all.iter().map(worded).collect()),
        Values::List(_) => Err("it takes one value, not a list".to_owned()),
    }
}

/// The words again, if they are good by themselves; what they need beside them is asked later.
fn alone(run: &Command, words: Vec<String>) -> Result<Vec<String>, String> {
    let name = std::iter::once("run".to_owned());
    match run.clone().try_get_matches_from(name.chain(words.clone())) {
        Err(error) if error.kind() != ErrorKind::MissingRequiredArgument => Err(said_of(&error)),
        Ok(_) | Err(_) => Ok(words),
    }
}

/// What is wrong, in one line; which flag it is of is said elsewhere.
fn said_of(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let lines = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.is_empty());
    let line = lines.collect::<Vec<&str>>().join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    let flag = line.split_once(" for '--");
    let flag = flag.and_then(|(before, after)| Some((before, after.split_once('\'')?.1)));
    flag.map_or_else(
        || line.to_owned(),
        |(before, after)| format!("{before}{after}"),
    )
}

fn settle(
    arg: &Arg,
    matches: &ArgMatches,
    origins: &BTreeMap<String, Origin>,
) -> (String, Settled) {
    let key = arg.get_id().as_str();
    let values = if is_switch(arg) {
        vec![matches.get_flag(key).to_string()]
    } else {
        let raw = matches.get_raw(key).into_iter().flatten();
        raw.map(|value| value.to_string_lossy().into_owned())
            .collect()
    };
    let origin = origins.get(key).cloned().unwrap_or(Origin::Default);
    (key.to_owned(), Settled { values, origin })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    /// `namegate run` with this file, these variables and these flags.
    #[expect(clippy::unwrap_in_result, reason = "a test may die")]
    fn layered(
        text: &str,
        variables: &[(&str, &str)],
        flags: &str,
    ) -> Result<BTreeMap<String, Settled>, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        std::fs::write(&file, text).unwrap();
        let find = |name: &str| {
            let found = variables.iter().find(|(own, _)| *own == name);
            found.map(|(_, value)| OsString::from(value))
        };
        let mut args = words(&format!("namegate run {flags} --config"));
        args.push(file.clone().into());
        match complete(&args, &find) {
            Ok(layered) => Ok(layered.settled),
            Err(Trouble::Usage(error)) => panic!("{error}"),
            Err(Trouble::Config(faults)) => {
                let told = faults.join("\n");
                Err(told.replace(&file.display().to_string(), "c.yaml"))
            }
        }
    }

    fn said(settled: &BTreeMap<String, Settled>, key: &str) -> (String, String) {
        let one = settled.get(key).unwrap();
        let origin = one.origin.to_string();
        let origin = origin.rsplit('/').next().unwrap().to_owned();
        (one.values.join(" "), origin)
    }

    #[test]
    fn a_daemon_that_runs_is_found_by_flag_variable_and_configuration_in_this_order() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        let found = |text: &str, variables: &[(&str, &str)], flag: Option<&str>| {
            std::fs::write(&file, text).unwrap();
            let which = Which {
                instance: Instance::default(),
                socket: flag.map(PathBuf::from),
            };
            let environment = |name: &str| {
                let named = variables.iter().find(|(own, _)| *own == name);
                let named = named.map(|(_, value)| OsString::from(value));
                named.or_else(|| (name == "NAMEGATE_CONFIG").then(|| file.clone().into()))
            };
            whereabouts((&which, None), &environment).unwrap()
        };
        let default = "/run/namegate/namegate.sock";
        let (text, variables) = ("socket: /c.sock\n", [("NAMEGATE_SOCKET", "/v.sock")]);
        for (text, variables, flag, wanted) in [
            (text, &variables[..], Some("/f.sock"), "/f.sock"),
            (text, &variables, None, "/v.sock"),
            (text, &[], None, "/c.sock"),
            (
                "instance: perf\n",
                &[],
                None,
                "/run/namegate-perf/namegate.sock",
            ),
            ("quic: allow\n", &[], None, default),
            // A fault in it is the daemon's business.
            ("socket: [\n", &[], None, default),
        ] {
            let found = found(text, variables, flag);
            assert_eq!(found.socket, PathBuf::from(wanted), "{text}");
        }
        let text = "instance: perf\npolicy_dir: [/p, /q]\n";
        let all = found(text, &[("NAMEGATE_ENDPOINT_DIR", "/e")], None);
        assert_eq!(all.instance.name(), "perf");
        assert_eq!(all.bpf_dir, PathBuf::from("/sys/fs/bpf/namegate-perf"));
        assert_eq!(all.policy_dirs, ["/p", "/q"].map(PathBuf::from));
        assert_eq!(all.endpoint_dir, PathBuf::from("/e"));
        assert_eq!(
            found("bpf_dir: /b\n", &[], None).bpf_dir,
            PathBuf::from("/b")
        );
        let broken = found("socket: [\n", &[], None);
        assert_eq!(
            (broken.faults.len(), broken.instance.name()),
            (1, "default")
        );
    }

    #[test]
    fn a_flag_goes_before_a_variable_that_before_a_file_that_before_a_default() {
        let text = "quic: allow\nlog: warn\naudit: true\nname_binding: audit\n";
        let variables = [
            ("NAMEGATE_LOG", "debug"),
            ("NAMEGATE_AUDIT", "false"),
            ("NAMEGATE_QUIC", "x"),
        ];
        let settled = layered(text, &variables, "--quic refuse").unwrap();
        for (key, value, origin) in [
            ("quic", "refuse", "command line"),
            ("log", "debug", "NAMEGATE_LOG"),
            ("audit", "false", "NAMEGATE_AUDIT"),
            ("name_binding", "audit", "config.yaml:4"),
            ("enforcement_mode", "default", "default"),
            ("tls_secrets", "", "default"),
        ] {
            assert_eq!(
                said(&settled, key),
                (value.to_owned(), origin.to_owned()),
                "{key}"
            );
        }
    }

    #[test]
    fn lists_replace_lists() {
        let text = "policy_dir: [/a, /b]\n";
        let settled = layered(text, &[], "").unwrap();
        assert_eq!(said(&settled, "policy_dir").0, "/a /b");
        let settled = layered(text, &[("NAMEGATE_POLICY_DIR", "/c,/d")], "").unwrap();
        assert_eq!(said(&settled, "policy_dir").0, "/c /d");
        let settled = layered(text, &[("NAMEGATE_POLICY_DIR", "/c")], "--policy-dir /e").unwrap();
        assert_eq!(said(&settled, "policy_dir").0, "/e");
    }

    #[test]
    fn what_can_not_be_is_told_by_its_place_and_all_of_it() {
        let text = "quic: perhaps\naudit: maybe\nlog: [a]\nname-binding: off\nnonsense: 1\ndns_ttl_floor: 5 minutes\n";
        let told = layered(text, &[("NAMEGATE_ENFORCEMENT_MODE", "some")], "").unwrap_err();
        for part in [
            "c.yaml:1:7: error: quic: invalid value 'perhaps' [possible values: refuse, sni, allow]",
            "c.yaml:2:8: error: audit: \"maybe\" is neither true nor false",
            "c.yaml:3:6: error: log: it takes one value, not a list",
            "c.yaml:4:15: error: unknown key \"name-binding\"\n  help: write name_binding",
            "c.yaml:5:11: error: unknown key \"nonsense\"\n  help: `namegate config show`",
            "c.yaml:6:16: error: dns_ttl_floor: invalid value '5 minutes'",
            "NAMEGATE_ENFORCEMENT_MODE: error: invalid value 'some'",
        ] {
            assert!(told.contains(part), "{part} is not in:\n{told}");
        }
    }

    #[test]
    fn a_key_may_have_the_other_name_of_its_flag() {
        let settled = layered("hubble_socket: /h.sock\n", &[], "").unwrap();
        let own = said(&settled, "hubble_socket_path");
        assert_eq!(own, ("/h.sock".to_owned(), "config.yaml:1".to_owned()));
    }

    #[test]
    fn what_needs_another_key_says_which() {
        let told = layered("hubble_tls_cert_file: /c\n", &[], "").unwrap_err();
        assert!(told.contains("--hubble-listen-address"), "{told}");
    }

    #[test]
    fn a_key_with_a_value_that_may_be_left_out_is_on_or_off_or_has_one() {
        let journal = |text: &str| {
            let settled = layered(&format!("hubble_export_journald: {text}\n"), &[], "").unwrap();
            said(&settled, "hubble_export_journald").0
        };
        assert_eq!(journal("/x"), "/x");
        assert_eq!(journal("false"), "");
        assert!(journal("true").starts_with('/'));
    }

    #[test]
    fn who_looks_for_a_daemon_by_a_file_that_is_not_there_is_told() {
        let which = Which {
            instance: Instance::parse("no-such-instance").unwrap(),
            socket: None,
        };
        let named = Some(Path::new("/nowhere/c.yaml"));
        let by_variable =
            |name: &str| (name == "NAMEGATE_CONFIG").then(|| OsString::from("/nowhere/c.yaml"));
        for told in [
            whereabouts((&which, named), &|_| None).err(),
            whereabouts((&which, None), &by_variable).err(),
        ] {
            assert_eq!(
                told.as_deref(),
                Some("/nowhere/c.yaml: there is no such file")
            );
        }
        assert!(whereabouts((&which, None), &|_| None).is_ok());
    }

    #[test]
    fn a_file_that_is_named_must_be_there_and_others_need_not() {
        let args = words("namegate run --config /nowhere/c.yaml");
        let Err(Trouble::Config(told)) = complete(&args, &|_| None) else {
            panic!("it is not there");
        };
        assert_eq!(told, ["/nowhere/c.yaml: there is no such file"]);
        let args = words("namegate run --instance no-such-instance");
        assert_eq!(complete(&args, &|_| None).unwrap().args, args);
    }

    #[test]
    fn what_the_command_line_says_wrongly_is_no_fault_of_the_file() {
        let args = words("namegate run --no-such-flag");
        assert!(matches!(complete(&args, &|_| None), Err(Trouble::Usage(_))));
    }
}
