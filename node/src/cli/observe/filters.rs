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

impl Filters {
    /// What the flags mean, as a document of YAML: lists of filters as JSON, each as it can be given again.
    pub(super) fn yaml(&self) -> String {
        let mut text = String::new();
        for (name, filters) in [(ALLOWLIST, &self.allow), (DENYLIST, &self.deny)] {
            if filters.is_empty() {
                continue;
            }
            text.push_str(&format!("{name}:\n"));
            for filter in filters {
                let mut json = String::new();
                filter.write_json(&mut json);
                // A quote within quotes is doubled, and nothing else means anything there.
                text.push_str(&format!("    - '{}'\n", json.replace('\'', "''")));
            }
        }
        if text.is_empty() {
            text.push_str("{}\n");
        }
        text
    }
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
        // Else it would be shown with the usage of `namegate` itself.
        let usage = "namegate observe [OPTIONS] [WHAT]";
        let mut command = Command::new("observe").override_usage(usage);
        let mut refuse =
            |text: String| Error::raw(ErrorKind::ValueValidation, text).format(&mut command);
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_the_flags_mean_is_yaml_that_can_be_read_back() {
        let read = |filters: &Filters| {
            let lists: BTreeMap<String, Vec<String>> =
                serde_yaml::from_str(&filters.yaml()).unwrap();
            let of = |name: &str| {
                let list = lists.get(name).cloned().unwrap_or_default();
                list.iter()
                    .flat_map(|text| FlowFilter::all_from_json(text).unwrap())
                    .collect::<Vec<_>>()
            };
            (of(ALLOWLIST), of(DENYLIST))
        };
        let mut flags = FilterFlags::default();
        for (flag, value) in [
            ("verdict", "DROPPED"),
            ("verdict", "ERROR"),
            ("pod", "shop/cart"),
            ("http-path", "it's: # \"quoted\" \\\\"),
        ] {
            flags.allow(flag, value).unwrap();
        }
        flags.deny("protocol", "dns").unwrap();
        let (allow, deny) = flags.filters();
        let filters = Filters { allow, deny };
        let both = (filters.allow.clone(), filters.deny.clone());
        assert_eq!(both.0.len(), 2);
        assert_eq!(read(&filters), both);
        assert_eq!(Filters::default().yaml(), "{}\n");
        let allow = vec![FlowFilter::from_json(r#"{"verdict":["DROPPED","ERROR"]}"#).unwrap()];
        let filters = Filters {
            allow,
            ..Filters::default()
        };
        let expected = "allowlist:\n    - '{\"verdict\":[\"DROPPED\",\"ERROR\"]}'\n";
        assert_eq!(filters.yaml(), expected);
    }
}
