//! `namegate map`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use bpf_redirect::{MapSummary, PinnedMaps, Row};
use bpf_redirect_common::{CT, EP_ID, EP_IF, IPCACHE, LEARNED, POLICY, SERVICES};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Ask, Headings, Output, Which, print};
use crate::control::{Command, stream};
use crate::exit::Exit;
use crate::{clock, maps};

/// What the kernel holds: the maps of the datapath, read by their pins, also while no daemon runs.
#[derive(Subcommand)]
pub(super) enum Map {
    List(List),
    Get(Get),
    Events(Events),
}

/// Whose maps.
#[derive(Args)]
struct Pinned {
    /// The configuration of the daemon, as for `run`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the pins are [default: as the configuration says].
    #[arg(long, value_name = "DIR")]
    bpf_dir: Option<PathBuf>,
    #[command(flatten)]
    ask: Ask,
}

/// List the maps: type, sizes, how many entries each takes and has, and where it is pinned.
#[derive(Args)]
#[command(after_help = "Example:
  namegate map list -o json | jq '.[] | {name, entries, max_entries}'")]
pub(super) struct List {
    #[command(flatten)]
    pinned: Pinned,
    #[command(flatten)]
    headings: Headings,
}

/// Show the entries of a map in words: addresses, ports, protocols, verdicts, the numbers of
/// identities, rules and endpoints.
///
/// In a policy entry `any` (null in JSON) is what it doesn't look at; the strongest verdict of all
/// entries that fit wins. EVENTS is a ring and has no entries: `namegate observe` tells what was in it.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate map get POLICY --endpoint default/internal-client
  namegate map get LEARNED -o json | jq '.[] | select(.address == \"198.51.100.44\")'")]
pub(super) struct Get {
    /// Its name, as `map list` shows it; small letters will do.
    #[arg(value_name = "NAME")]
    name: String,
    /// Entries of this endpoint alone. A number works without a daemon.
    #[arg(long, value_name = "NUMBER|NAMESPACE/NAME")]
    endpoint: Option<String>,
    #[command(flatten)]
    pinned: Pinned,
}

/// Show the daemon's last writes to the maps: 1,000 of each, since its start.
///
/// It remembers what it wrote to EP_IF, EP_ID, LEARNED, IPCACHE, SERVICES and
/// POLICY, and what it took out of CT.
/// A policy that is replaced is one line, with the number of its entries. What the kernel's programs
/// write themselves isn't told: new flows in CT, CT_USE, NEXT_HOP, NEIGHBOUR, UP_UDP, UP_TCP,
/// UP_FRAGMENT, FRAGMENT, EVENT_BUDGET, COUNTERS.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate map events LEARNED -f
  namegate map events -o json | jq 'select(.entry.endpoint == 3)'")]
pub(super) struct Events {
    /// Of this map alone.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Go on with the writes that come.
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    which: Which,
    /// Form of the output; JSON is one object a line.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

/// The maps to which the daemon writes.
const WRITTEN: [&str; 7] = [EP_IF, EP_ID, LEARNED, IPCACHE, SERVICES, POLICY, CT];

impl Map {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::List(list) => list.run(),
            Self::Get(get) => get.run(),
            Self::Events(events) => events.run(),
        }
    }
}

impl Pinned {
    fn open(&self) -> anyhow::Result<PinnedMaps> {
        let dir = match (&self.bpf_dir, &self.config) {
            (Some(named), None) => named.clone(),
            (named, config) => {
                let found = self.ask.which.find(config.as_deref())?;
                named.clone().unwrap_or(found.bpf_dir)
            }
        };
        Ok(PinnedMaps::open(&dir)?)
    }

    /// The number of an endpoint that is named.
    fn endpoint(&self, name: &str) -> anyhow::Result<u32> {
        if let Ok(number) = name.parse() {
            return Ok(number);
        }
        let answer = self.ask.call(&Command::Endpoints)
            .map_err(|error| error.context("an endpoint's name is known to a running daemon alone; its number would do, and `namegate map get EP_IF` shows it"))?;
        let all = answer.get("endpoints").and_then(Value::as_array);
        let found = all
            .into_iter()
            .flatten()
            .find(|one| one.get("name").and_then(Value::as_str) == Some(name));
        let number = found.and_then(|one| one.get("id")).and_then(Value::as_u64);
        number
            .and_then(|number| u32::try_from(number).ok())
            .ok_or_else(|| {
                anyhow::anyhow!("no endpoint {name}: `namegate endpoint list` shows them")
            })
    }
}

impl List {
    fn run(self) -> anyhow::Result<ExitCode> {
        let all = self.pinned.open()?.list()?;
        match self.pinned.ask.output {
            Output::Json => {
                let all: Vec<Value> = all.iter().map(maps::summary).collect();
                print(&format!("{:#}\n", Value::Array(all)))
            }
            Output::Text => print(&self.headings.of(list(&all))),
        }
    }
}

impl Get {
    fn run(self) -> anyhow::Result<ExitCode> {
        let pinned = self.pinned.open()?;
        let endpoint = self.endpoint.as_deref();
        let endpoint = endpoint
            .map(|name| self.pinned.endpoint(name))
            .transpose()?;
        let rows: Vec<Row> = pinned.entries(&self.name, endpoint, clock::boot_ns())?;
        match self.pinned.ask.output {
            Output::Json => {
                let all: Vec<Value> = rows.iter().map(maps::json).collect();
                print(&format!("{:#}\n", Value::Array(all)))
            }
            Output::Text => print(&maps::table(&rows)),
        }
    }
}

impl Events {
    fn run(self) -> anyhow::Result<ExitCode> {
        if let Some(name) = &self.name
            && !WRITTEN.iter().any(|map| map.eq_ignore_ascii_case(name))
        {
            let known = WRITTEN.join(", ");
            return Err(Exit::with(
                1,
                format!("the daemon writes to {known}, and not to {name}"),
            ));
        }
        let (map, follow) = (self.name, self.follow);
        let mut out = io::stdout().lock();
        for line in stream(&self.which.socket()?, &Command::MapEvents { map, follow })? {
            // The daemon ended.
            let Ok(mut line) = line else { break };
            if self.output == Output::Text {
                line = event(&line)?;
            }
            if let Err(error) = writeln!(out, "{line}").and_then(|()| out.flush()) {
                return if error.kind() == io::ErrorKind::BrokenPipe {
                    Ok(ExitCode::SUCCESS)
                } else {
                    Err(error.into())
                };
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A write in one line.
fn event(line: &str) -> anyhow::Result<String> {
    let event: Value = serde_json::from_str(line)?;
    if let Some(error) = event.get("error") {
        anyhow::bail!("the daemon refuses: {error}");
    }
    if let Some(lost) = event.get("lost") {
        return Ok(format!(
            "{lost} writes were forgotten before they could be told"
        ));
    }
    let word = |key: &str| event.get(key).and_then(Value::as_str).unwrap_or("?");
    let entry = event.get("entry").and_then(Value::as_object);
    let fields = entry.into_iter().flatten().map(|(name, value)| {
        let whole = value.as_str().map(str::to_owned);
        let text = whole.unwrap_or_else(|| value.to_string());
        format!("{name}={}", if value.is_null() { "any" } else { &text })
    });
    let fields: Vec<String> = fields.collect();
    let (time, map, action) = (word("time"), word("map"), word("action"));
    Ok(format!("{time} {map:<7} {action:<7} {}", fields.join(" ")))
}

fn list(all: &[MapSummary]) -> String {
    let head = ["NAME", "TYPE", "KEY", "VALUE", "ENTRIES", "MAX", "PIN"];
    let line = |map: &MapSummary| {
        vec![
            map.name.clone(),
            map.kind.clone(),
            map.key_size.to_string(),
            map.value_size.to_string(),
            map.entries
                .map_or_else(|| "-".into(), |count| count.to_string()),
            map.max_entries.to_string(),
            map.path.display().to_string(),
        ]
    };
    maps::aligned(head.map(str::to_owned).to_vec(), all.iter().map(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_one_line() {
        let line = r#"{"time":"2025-11-25T05:08:30Z","map":"X","action":"set",
            "entry":{"address":"198.18.0.1","endpoint":1,"port":null}}"#;
        assert_eq!(
            event(line).unwrap(),
            "2025-11-25T05:08:30Z X       set     address=198.18.0.1 endpoint=1 port=any"
        );
        assert!(event(r#"{"lost":3}"#).unwrap().starts_with("3 writes"));
        assert!(event(r#"{"error":"no"}"#).is_err());
    }
}
