//! The filter flags, in the order in which they were given: `--not` is for the one after it.

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};
use flow::{FILTER_FLAGS, FilterFlags, FlowFilter};

const NOT: &str = "not";
const ALLOWLIST: &str = "allowlist";
const DENYLIST: &str = "denylist";
const HEADING: &str = "Filters";

/// Filters that allow, and filters that deny.
#[derive(Clone, Default)]
pub(super) struct Filters {
    pub(super) allow: Vec<FlowFilter>,
    pub(super) deny: Vec<FlowFilter>,
}

impl Args for Filters {
    fn augment_args(command: Command) -> Command {
        let flags = FILTER_FLAGS.iter().map(|flag| {
            let arg = Arg::new(flag.name)
                .long(flag.name)
                .help(flag.help)
                .help_heading(HEADING)
                .action(ArgAction::Append);
            let arg = match flag.short {
                Some(short) => arg.short(short),
                None => arg,
            };
            match flag.value {
                Some(value) => arg.value_name(value),
                None => without_value(arg),
            }
        });
        let not = without_value(Arg::new(NOT).long(NOT))
            .help("The next filter is for flows that are not wanted")
            .help_heading(HEADING);
        let whole = [
            (
                ALLOWLIST,
                "A whole filter, as JSON, for flows that are wanted",
            ),
            (
                DENYLIST,
                "A whole filter, as JSON, for flows that are not wanted",
            ),
        ];
        let whole = whole.map(|(name, help)| {
            Arg::new(name)
                .long(name)
                .value_name("JSON")
                .help(help)
                .help_heading(HEADING)
                .action(ArgAction::Append)
        });
        command.args(flags).arg(not).args(whole)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn without_value(arg: Arg) -> Arg {
    arg.action(ArgAction::Append)
        .num_args(0)
        .default_missing_value("")
}

impl FromArgMatches for Filters {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let refuse = |text: String| Error::raw(ErrorKind::ValueValidation, format!("{text}\n"));
        let names = FILTER_FLAGS.iter().map(|flag| flag.name);
        let names = names.chain([NOT, ALLOWLIST, DENYLIST]);
        let mut given: Vec<(usize, &str, &str)> =
            names.flat_map(|name| values(matches, name)).collect();
        given.sort_unstable();
        let mut flags = FilterFlags::default();
        let mut is_denied = false;
        for (_, name, value) in given {
            let added = match (name, std::mem::take(&mut is_denied)) {
                (NOT, true) => {
                    let text = "invalid argument \"true\" for \"--not\" flag: \
                        consecutive --not statements";
                    return Err(refuse(text.to_owned()));
                }
                (NOT, false) => {
                    is_denied = true;
                    Ok(())
                }
                (ALLOWLIST, _) => flags.allow_json(value),
                (DENYLIST, _) => flags.deny_json(value),
                (name, true) => flags.deny(name, value),
                (name, false) => flags.allow(name, value),
            };
            added.map_err(|error| match name {
                ALLOWLIST | DENYLIST => refuse(format!("invalid --{name} flag: {error}")),
                _ => refuse(error.to_string()),
            })?;
        }
        if is_denied {
            return Err(refuse("trailing --not found in the arguments".to_owned()));
        }
        let (allow, deny) = flags.filters();
        flow::Filter::new(&allow, &deny).map_err(|error| refuse(error.to_string()))?;
        Ok(Self { allow, deny })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The values of a flag, each with its place on the command line.
fn values<'a>(
    matches: &'a ArgMatches,
    name: &'a str,
) -> impl Iterator<Item = (usize, &'a str, &'a str)> {
    let places = matches.indices_of(name).into_iter().flatten();
    let values = matches.get_many::<String>(name).into_iter().flatten();
    places
        .zip(values)
        .map(move |(place, value)| (place, name, value.as_str()))
}
