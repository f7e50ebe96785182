//! `namegate fqdn cache load`.

use std::fmt::Write as _;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use flow::Time;
use fqdn::Name;
use serde::Deserialize;
use serde_json::Value;

use super::{number, text};
use crate::cli::{Which, lines, list, print};
use crate::clock;
use crate::control::{Command, KnownName, REQUEST_MAX, call};

/// Make names and their addresses known before anybody asks for them, from a file.
///
/// The file is what `fqdn cache list -o json` prints, or Cilium's form of it (as of its --tofqdns-pre-cache):
/// a list of objects with `fqdn`, `ips`, and `ttl` or `expiration-time`. Each name is learned as if a trusted
/// server had answered it now: it opens what `toFQDNs` rules select, for the endpoints whose rules name it, with
/// the bounds, lifetimes and addresses that are never opened as of any answer. A time is counted from now, and
/// ends with `expiration-time`. What is refused is said, and the exit code is 1; what has ended is left out.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate fqdn cache load names.json
  cilium-dbg fqdn cache list -o json | namegate fqdn cache load -
  namegate fqdn cache load names.json --endpoint default/internal-client")]
pub(in crate::cli) struct Load {
    #[command(flatten)]
    which: Which,
    /// For this endpoint alone, whatever the file says. Else for the one that an entry names as `endpoint`, and
    /// what names none for all.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    endpoint: Option<String>,
    /// The file; `-` is standard input.
    file: PathBuf,
}

/// Octets of a file; all that `fqdn cache list` lists at most is less.
const FILE_BYTES_MAX: u64 = 32 << 20;
/// Octets of `NAMESPACE/NAME`: those of Kubernetes have 317.
const ENDPOINT_MAX: usize = 320;
/// Addresses of one request: the daemon does nothing else meanwhile.
const REQUEST_ADDRESSES_MAX: usize = 256;
/// Octets of the names of one request; the most that a name and so many addresses take is less than the rest.
const REQUEST_NAMES_MAX: usize = REQUEST_MAX as usize / 2;
/// Entries that are told one by one, of those left out and of those refused.
const TOLD_MAX: usize = 20;
const NANOS_PER_SEC: i128 = 1_000_000_000;

/// An entry of a file: Cilium's keys, and our own.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Entry {
    fqdn: Option<String>,
    ips: Option<Vec<IpAddr>>,
    ttl: Option<u32>,
    expiration_time: Option<String>,
    endpoint: Option<String>,
    name: Option<String>,
    addresses: Option<Vec<Address>>,
}

#[derive(Deserialize)]
struct Address {
    address: IpAddr,
    /// Absent where it had no end any more.
    expires_secs: Option<u64>,
}

/// What a file says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Content {
    names: Vec<KnownName>,
    /// Names of entries that have ended.
    ended: Vec<String>,
}

impl Load {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let named = || self.file.display().to_string();
        let text = read(&self.file).with_context(named)?;
        let now = clock::time_of_day(clock::now());
        let content = parse(&text, now).with_context(named)?;
        let socket = self.which.socket()?;
        let mut outcome = Outcome::default();
        for names in requests(content.names) {
            let command = Command::FqdnLoad {
                endpoint: self.endpoint.clone(),
                names,
            };
            outcome.add(
                &call(&socket, &command).map_err(|error| match outcome.opened {
                    0 => error,
                    opened => error.context(format!("{opened} addresses were opened before")),
                })?,
            );
        }
        print(&outcome.told(&content.ended))?;
        Ok(match outcome.refused + outcome.evicted {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        })
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let input = lines::open(path)?;
    input.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    let is_whole = text.len() as u64 <= FILE_BYTES_MAX;
    ensure!(is_whole, "it has more than {FILE_BYTES_MAX} bytes");
    Ok(text)
}

/// # Errors
/// What is wrong, with the line or the entry, counted from 1.
fn parse(text: &str, now: Time) -> anyhow::Result<Content> {
    // An empty list of Go's is `null`.
    let entries: Option<Vec<Entry>> = serde_json::from_str(text)?;
    let mut content = Content::default();
    for (index, entry) in entries.into_iter().flatten().enumerate() {
        let known = entry.known(now);
        let known = known.with_context(|| format!("entry {}", index + 1))?;
        match known.addresses.is_empty() {
            true => content.ended.push(known.name),
            false => content.names.push(known),
        }
    }
    Ok(content)
}

impl Entry {
    /// Without the addresses that have ended.
    fn known(self, now: Time) -> anyhow::Result<KnownName> {
        let (name, addresses) = match (self.fqdn, self.name) {
            (Some(name), None) => {
                let ttl = ttl_secs(self.ttl, self.expiration_time.as_deref(), now)?;
                let ips = self.ips.context("it has no `ips`")?;
                ensure!(!ips.is_empty(), "its `ips` are none");
                (
                    name,
                    ips.into_iter().filter_map(|ip| Some((ip, ttl?))).collect(),
                )
            }
            (None, Some(name)) => {
                let own = self.addresses.context("it has no `addresses`")?;
                ensure!(!own.is_empty(), "its `addresses` are none");
                let left = own.iter().filter_map(Address::left);
                (name, left.collect())
            }
            (Some(_), Some(_)) => bail!("it has both `fqdn` and `name`"),
            (None, None) => bail!("it has neither `fqdn` nor `name`"),
        };
        let parsed = Name::from_text(&name).with_context(|| format!("{name:?} is no name"))?;
        let is_short = |endpoint: &String| endpoint.len() <= ENDPOINT_MAX;
        let is_short = self.endpoint.as_ref().is_none_or(is_short);
        ensure!(
            is_short,
            "its `endpoint` has more than {ENDPOINT_MAX} bytes"
        );
        Ok(KnownName {
            endpoint: self.endpoint,
            name: parsed.to_string(),
            addresses,
        })
    }
}

impl Address {
    fn left(&self) -> Option<(IpAddr, u32)> {
        let left = self.expires_secs.filter(|left| *left > 0)?;
        Some((self.address, u32::try_from(left).unwrap_or(u32::MAX)))
    }
}

/// The seconds that are left; `None` if the end is past.
fn ttl_secs(ttl: Option<u32>, end: Option<&str>, now: Time) -> anyhow::Result<Option<u32>> {
    let Some(end) = end else {
        let ttl = ttl.context("it has neither `ttl` nor `expiration-time`")?;
        return Ok(Some(ttl));
    };
    let time = Time::from_rfc3339(end);
    let time = time.with_context(|| format!("its `expiration-time` {end:?} is no time"))?;
    let left = time.unix_nanos() - now.unix_nanos();
    if left <= 0 {
        return Ok(None);
    }
    let left = u32::try_from(left / NANOS_PER_SEC).unwrap_or(u32::MAX);
    Ok(Some(ttl.map_or(left, |ttl| ttl.min(left))))
}

/// The names, by requests that the daemon takes.
fn requests(names: Vec<KnownName>) -> Vec<Vec<KnownName>> {
    let mut all: Vec<Vec<KnownName>> = Vec::new();
    let (mut addresses, mut octets) = (usize::MAX, usize::MAX);
    for known in names {
        for part in known.addresses.chunks(REQUEST_ADDRESSES_MAX) {
            let part = KnownName {
                addresses: part.to_vec(),
                ..known.clone()
            };
            let own = serde_json::to_string(&part).map_or(usize::MAX, |text| text.len() + 1);
            addresses = addresses.saturating_add(part.addresses.len());
            octets = octets.saturating_add(own);
            if addresses > REQUEST_ADDRESSES_MAX || octets > REQUEST_NAMES_MAX {
                (addresses, octets) = (part.addresses.len(), own);
                all.push(Vec::new());
            }
            if let Some(last) = all.last_mut() {
                last.push(part);
            }
        }
    }
    all
}

/// What the daemon did of all requests.
#[derive(Default)]
struct Outcome {
    opened: u64,
    evicted: u64,
    refused: u64,
    refusals: Vec<String>,
}

impl Outcome {
    fn add(&mut self, answer: &Value) {
        let count = |key: &str| number(answer, key).unwrap_or(0);
        self.opened += count("opened");
        self.evicted += count("evicted");
        self.refused += count("refused");
        let room = TOLD_MAX.saturating_sub(self.refusals.len());
        let told = list(answer, "refusals").iter().take(room);
        self.refusals.extend(told.map(refusal));
    }

    fn told(&self, ended: &[String]) -> String {
        let mut told = String::new();
        for refusal in &self.refusals {
            let _ = writeln!(told, "refused: {refusal}");
        }
        for name in ended.iter().take(TOLD_MAX) {
            let _ = writeln!(told, "left out: {name}: its time is past");
        }
        let _ = write!(told, "{} addresses opened", self.opened);
        let rest = [
            (self.evicted, "closed to make room"),
            (self.refused, "refused"),
            (ended.len() as u64, "left out"),
        ];
        for (count, what) in rest.iter().filter(|(count, _)| *count > 0) {
            let _ = write!(told, ", {count} {what}");
        }
        told.push('\n');
        told
    }
}

/// A refusal in a line.
fn refusal(one: &Value) -> String {
    let given = |key: &str| one.get(key).and_then(Value::as_str);
    let endpoint = given("endpoint").map(|endpoint| format!("{endpoint}: "));
    let address = given("address").map(|address| format!(" {address}"));
    format!(
        "{}{}{}: {}",
        endpoint.unwrap_or_default(),
        text(one, "name"),
        address.unwrap_or_default(),
        text(one, "reason")
    )
}

#[cfg(test)]
mod tests;
