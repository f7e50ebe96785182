//! What a daemon leaves to the next one: names, addresses and their ends, and the numbers that the
//! kernel knows for them. Kept in the state folder while the daemon runs, so that it is there however
//! the daemon ends; what the kernel holds beyond it is closed.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use fqdn::Name;
use fqdn_cache::Cache;
use ipnet::IpNet;
use policy::{Family, Identities, Identity, LabelSet};
use serde::{Deserialize, Serialize};

use crate::lately::{self, Note};
use crate::learner::KEEP_REFRESHES_AFTER;

/// Octets of names and addresses that are kept; beyond, those names are left out that end first, which is said,
/// and close with the next restart. Identities take the rest of a state file's 64 MiB.
pub(crate) const KEPT_OCTETS_MAX: usize = 48 << 20;
/// Octets that an address takes at most, with its end; and those of a name beside its own, with its server.
const ADDRESS_OCTETS: usize = 66;
const NAME_OCTETS: usize = 96;

/// So many names are copied under the lock that an endpoint's answers take: a fraction of a millisecond.
pub(crate) const PLACES_AT_ONCE: usize = 256;

/// How long after the last time what was newly learned is kept on disk.
const KEEP_CHANGES_AFTER: Duration = Duration::from_secs(1);

const VERSION: u32 = 1;

/// The file.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Remembered {
    version: u32,
    /// When it was written, milliseconds since the epoch.
    written_ms: u64,
    identities: Vec<RememberedIdentity>,
    /// By `NAMESPACE/NAME`.
    endpoints: BTreeMap<String, Vec<RememberedName>>,
    /// What was noted since, likewise.
    #[serde(skip)]
    lately: BTreeMap<String, Vec<Pair>>,
}

/// A number, and the set that it stands for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RememberedIdentity {
    number: u32,
    ipv6: bool,
    prefixes: Vec<IpNet>,
    selectors: Vec<String>,
}

/// A name and its addresses, each with how long it is open yet, in milliseconds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RememberedName {
    pub(crate) name: String,
    /// Who gave them, where that is known: there they are asked for again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) server: Option<SocketAddr>,
    pub(crate) addresses: Vec<(IpAddr, u64)>,
}

/// One thing that an endpoint knew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) name: Name,
    pub(crate) address: IpAddr,
    pub(crate) end: Instant,
    /// Who gave it, where that is known.
    pub(crate) server: Option<SocketAddr>,
}

impl RememberedIdentity {
    pub(crate) fn new(number: Identity, set: &LabelSet) -> Self {
        Self {
            number: number.get(),
            ipv6: set.family() == Family::V6,
            prefixes: set.prefixes().to_vec(),
            selectors: set.selectors().iter().map(ToString::to_string).collect(),
        }
    }
}

impl Remembered {
    pub(crate) fn new(
        now: SystemTime,
        identities: &Identities,
        endpoints: BTreeMap<String, Vec<RememberedName>>,
    ) -> Self {
        let identities = identities
            .outside()
            .map(|(number, set)| RememberedIdentity::new(number, set));
        Self {
            version: VERSION,
            written_ms: since_epoch(now),
            identities: identities.collect(),
            endpoints,
            lately: BTreeMap::new(),
        }
    }

    /// The same with what was noted after it was written.
    pub(crate) fn with_notes(mut self, notes: Vec<Note>, now: (Instant, u64)) -> Self {
        let (knew, identities) = lately::read(notes, now);
        self.identities.extend(identities);
        self.lately = knew;
        self
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If it is of another version or no such file at all.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let read: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        match read.version {
            VERSION => Ok(read),
            other => Err(format!("version {other} instead of {VERSION}")),
        }
    }

    /// Gives the numbers back to their sets.
    pub(crate) fn number(&self, identities: &mut Identities) {
        for one in &self.identities {
            let family = if one.ipv6 { Family::V6 } else { Family::V4 };
            let selectors = one.selectors.iter().map(|text| text.as_str().into());
            let set = LabelSet::new(family, one.prefixes.clone(), selectors.collect());
            identities.remember(one.number, set);
        }
    }

    /// What an endpoint knew and what has not ended since. A clock that was set back gives nothing a
    /// longer life than it had when this was written.
    pub(crate) fn of_endpoint(&self, name: &str, now: (SystemTime, Instant)) -> Vec<Pair> {
        let (time_of_day, now) = now;
        let gone = since_epoch(time_of_day).saturating_sub(self.written_ms);
        let names = self.endpoints.get(name).into_iter().flatten();
        let lately = self.lately.get(name).into_iter().flatten();
        let lately = lately.filter(|pair| pair.end > now).cloned();
        names
            .flat_map(|one| one.pairs(gone, now))
            .chain(lately)
            .collect()
    }
}

/// What a cache holds in [`PLACES_AT_ONCE`] places from one on; `None` beyond the last place.
pub(crate) fn remembered_names(
    cache: &Cache,
    first: usize,
    now: Instant,
) -> Option<Vec<RememberedName>> {
    let remembered = |name: &Name| {
        let open = |ip: IpAddr| {
            let left = cache.expiry(name, ip)?.saturating_duration_since(now);
            Some((ip, u64::try_from(left.as_millis()).unwrap_or(u64::MAX)))
        };
        RememberedName {
            name: name.to_string(),
            server: cache.given_by(name),
            addresses: cache.addresses_of(name).filter_map(open).collect(),
        }
    };
    let names = cache.names_in(first, PLACES_AT_ONCE)?;
    Some(names.map(remembered).collect())
}

/// What all endpoints know, as far as there is room: those names are left out that end first, whosever they
/// are.
pub(crate) struct Gathered {
    owners: Vec<String>,
    /// Each with its owner's place.
    names: Vec<(usize, RememberedName)>,
    octets: usize,
    octets_max: usize,
    left_out: usize,
}

impl Gathered {
    /// Nothing yet, with room for so many octets.
    pub(crate) fn new(octets_max: usize) -> Self {
        Self {
            owners: Vec::new(),
            names: Vec::new(),
            octets: 0,
            octets_max,
            left_out: 0,
        }
    }

    /// With what one more endpoint knows, `NAMESPACE/NAME`.
    pub(crate) fn add(&mut self, owner: String, names: Vec<RememberedName>) {
        let place = self.owners.len();
        self.owners.push(owner);
        self.octets += names.iter().map(RememberedName::octets).sum::<usize>();
        self.names
            .extend(names.into_iter().map(|name| (place, name)));
        if self.octets > 2 * self.octets_max {
            self.cut();
        }
    }

    /// What there is room for, by endpoint, and how many names there is none for.
    pub(crate) fn finish(mut self) -> (BTreeMap<String, Vec<RememberedName>>, usize) {
        self.cut();
        let owners = self.owners.into_iter();
        let mut all: Vec<(String, Vec<RememberedName>)> =
            owners.map(|owner| (owner, Vec::new())).collect();
        for (place, name) in self.names {
            if let Some((_, names)) = all.get_mut(place) {
                names.push(name);
            }
        }
        (all.into_iter().collect(), self.left_out)
    }

    /// Leaves out what there is no room for.
    fn cut(&mut self) {
        if self.octets <= self.octets_max {
            return;
        }
        self.names.sort_by_key(|(_, name)| Reverse(name.left()));
        self.octets = 0;
        let mut fitting = 0;
        for (_, name) in &self.names {
            let octets = self.octets + name.octets();
            if octets > self.octets_max {
                break;
            }
            self.octets = octets;
            fitting += 1;
        }
        self.left_out += self.names.len() - fitting;
        self.names.truncate(fitting);
    }
}

impl RememberedName {
    /// What it says that was open and has not ended: its milliseconds are counted from `since_ms` before `now`.
    pub(crate) fn pairs(&self, since_ms: u64, now: Instant) -> Vec<Pair> {
        let Ok(name) = Name::from_text(&self.name) else {
            return Vec::new();
        };
        let pair = |(address, end_ms): &(IpAddr, u64)| {
            let left = end_ms.checked_sub(since_ms).filter(|left| *left > 0)?;
            Some(Pair {
                name: name.clone(),
                address: *address,
                end: now.checked_add(Duration::from_millis(left))?,
                server: self.server,
            })
        };
        self.addresses.iter().filter_map(pair).collect()
    }

    /// How many octets of the file it takes, at most.
    fn octets(&self) -> usize {
        let escapes = self.name.matches('\\').count();
        NAME_OCTETS + self.name.len() + escapes + self.addresses.len() * ADDRESS_OCTETS
    }

    /// How long its last address is open yet.
    fn left(&self) -> u64 {
        let left = self.addresses.iter().map(|(_, left)| *left);
        left.max().unwrap_or_default()
    }
}

/// What isn't on disk yet.
#[derive(Clone, Copy, Default)]
pub(crate) struct Unwritten {
    /// Something was learned or forgotten.
    pub(crate) has_changes: bool,
    /// What was known was learned again.
    pub(crate) has_refreshes: bool,
    /// There is soon no room for notes of it.
    pub(crate) is_filling: bool,
    /// The last writing failed.
    pub(crate) has_failed: bool,
}

impl Unwritten {
    /// Whether to write it, so long after the last time.
    pub(crate) fn is_due(self, age: Duration) -> bool {
        self.is_filling
            || self.has_changes && age >= KEEP_CHANGES_AFTER
            || (self.has_refreshes || self.has_failed) && age >= KEEP_REFRESHES_AFTER
    }
}

fn since_epoch(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use fqdn_cache::Lifetimes;

    use super::*;
    use crate::clock;

    #[test]
    fn what_was_known_comes_back_with_what_is_left_of_its_time() {
        let mut identities = Identities::new();
        let set = LabelSet::new(
            Family::V4,
            vec!["10.0.0.0/8".parse().unwrap()],
            vec!["*.a.io".into()],
        );
        let number = identities.acquire(set.clone()).unwrap();
        let written = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let server: SocketAddr = "[2001:db8::53]:5353".parse().unwrap();
        let name = RememberedName {
            name: "x.a.io.".to_owned(),
            server: Some(server),
            addresses: vec![(address, 5_000), ("10.0.0.2".parse().unwrap(), 900)],
        };
        let endpoints = [("default/a".to_owned(), vec![name])].into();
        let kept = Remembered::new(written, &identities, endpoints);
        let kept = Remembered::parse(&serde_json::to_vec(&kept).unwrap()).unwrap();

        let mut next = Identities::new();
        kept.number(&mut next);
        assert_eq!(next.acquire(set).unwrap(), number);
        let now = clock::now();
        let after = |secs| (SystemTime::UNIX_EPOCH + Duration::from_secs(secs), now);
        let ends = |secs| -> Vec<(IpAddr, Duration)> {
            let pairs = kept.of_endpoint("default/a", after(secs));
            pairs
                .iter()
                .map(|one| (one.address, one.end - now))
                .collect()
        };
        assert_eq!(ends(1_001), [(address, Duration::from_secs(4))]);
        assert_eq!(ends(1_005), []);
        assert_eq!(ends(500).len(), 2, "a clock that was set back");
        assert_eq!(ends(500)[0].1, Duration::from_secs(5));
        let pairs = kept.of_endpoint("default/a", after(1_001));
        assert_eq!(pairs[0].server, Some(server));
        assert_eq!(kept.of_endpoint("default/b", after(1_000)), []);
        // A file of a daemon that did not keep them.
        let older = r#"{"name": "x.a.io.", "addresses": [["10.0.0.1", 5]]}"#;
        let older: RememberedName = serde_json::from_str(older).unwrap();
        assert_eq!(older.server, None);
        assert!(Remembered::parse(b"{\"version\": 9}").is_err());
    }

    #[test]
    fn what_is_kept_is_no_longer_than_was_reckoned_and_bounded() {
        let mut cache = Cache::new();
        let now = clock::now();
        for number in 0..200 {
            let name = Name::from_text(&format!("{}.n{number}.io", "x".repeat(60))).unwrap();
            let addresses: Vec<_> = (0..5)
                .map(|last| {
                    let address = format!("2001:db8:1111:2222:3333:4444:{number:x}:{last:x}");
                    (address.parse().unwrap(), now + Duration::from_secs(86_400))
                })
                .collect();
            let server = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535";
            let given = fqdn_cache::Given {
                by: Some(server.parse().unwrap()),
                ..Lifetimes::default().given(now)
            };
            let plan = cache.plan(&name, &addresses, given).unwrap();
            cache.commit(plan).unwrap();
        }
        let names = || remembered_names(&cache, 0, now).unwrap();
        assert_eq!(names().len(), 200);
        let reckoned: usize = names().iter().map(RememberedName::octets).sum();
        let text = serde_json::to_vec(&names()).unwrap().len();
        assert!(text <= reckoned, "{text} of {reckoned}");
        for (octets_max, kept) in [
            (KEPT_OCTETS_MAX, 200),
            (reckoned, 200),
            (reckoned - 1, 199),
            (reckoned / 2, 100),
            (0, 0),
        ] {
            let mut gathered = Gathered::new(octets_max);
            gathered.add("default/a".to_owned(), names());
            let (endpoints, left_out) = gathered.finish();
            let found = endpoints["default/a"].len();
            assert!(found.abs_diff(kept) <= 5, "{found} in {octets_max}");
            assert_eq!(found + left_out, 200);
            assert_eq!(left_out == 0, octets_max >= reckoned);
        }
    }

    #[test]
    fn news_is_written_once_a_second_and_what_was_known_every_ten() {
        let nothing = Unwritten::default();
        let changes = Unwritten {
            has_changes: true,
            ..nothing
        };
        let refreshes = Unwritten {
            has_refreshes: true,
            ..nothing
        };
        let failed = Unwritten {
            has_failed: true,
            ..nothing
        };
        let filling = Unwritten {
            is_filling: true,
            ..nothing
        };
        for (unwritten, due_ms) in [
            (changes, 1_000),
            (refreshes, 10_000),
            (failed, 10_000),
            (filling, 1),
        ] {
            assert!(!nothing.is_due(Duration::from_millis(due_ms)));
            assert!(unwritten.is_due(Duration::from_millis(due_ms)));
            let before = Duration::from_millis(due_ms - 1);
            assert!(unwritten.is_filling || !unwritten.is_due(before));
        }
    }

    /// The room is everybody's: whose names end first loses them, however few he has.
    #[test]
    fn what_ends_first_is_left_out_whosever_it_is() {
        let name = |number: u64, left_secs: u64| RememberedName {
            name: format!("n{number:04}.io."),
            server: None,
            addresses: vec![("10.0.0.1".parse().unwrap(), left_secs * 1_000)],
        };
        let one = name(0, 0).octets();
        let mut gathered = Gathered::new(10 * one + 5);
        // So many that there is a cut before the last comes.
        for owner in 0..8 {
            let names = (0..10).map(|number| name(owner * 10 + number, 100 * number + owner));
            gathered.add(format!("default/{owner}"), names.collect());
        }
        let (kept, left_out) = gathered.finish();
        let left: BTreeMap<&str, Vec<u64>> = kept
            .iter()
            .map(|(owner, names)| {
                (
                    &owner[8..],
                    names.iter().map(|one| one.left() / 1_000).collect(),
                )
            })
            .collect();
        for owner in 0..8u64 {
            let expected: Vec<u64> = match owner {
                6 | 7 => vec![900 + owner, 800 + owner],
                _ => vec![900 + owner],
            };
            assert_eq!(left[&*owner.to_string()], expected, "{owner}");
        }
        assert_eq!(left_out, 70);
    }
}
