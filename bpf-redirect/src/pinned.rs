//! Maps opened by their pins to be read: with or without a daemon, which enforcement outlives.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use bpf_redirect_common::{CONFIG, Config, LAYOUT_VERSION, LEARNED_MAX};
use zerocopy::{FromBytes, IntoBytes};

use crate::cgroup::as_hash;
use crate::datapath::ports_of;
use crate::dump::{ENDPOINT, Field, Pair, Row, SHAPES, Shape, shape_of};
use crate::table::{PolicyInner, PolicyOuter};

/// A map that is pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapSummary {
    /// Its name.
    pub name: String,
    /// `hash`, `lru_hash`, `lpm_trie` ….
    pub kind: String,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// How many entries it takes; of a ring, its bytes.
    pub max_entries: u32,
    /// How many it has; `None` of arrays, of a ring, and of maps of another version.
    pub entries: Option<usize>,
    /// Where it is pinned.
    pub path: PathBuf,
}

/// Why maps can't be read.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// Nothing is pinned there.
    #[error("no maps are pinned in {}", path.display())]
    NoPins {
        /// The folder.
        path: PathBuf,
    },
    /// The folder can't be listed.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The folder.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Another version of Namegate wrote the maps.
    #[error("the maps are of layout {found}, and this namegate reads layout {LAYOUT_VERSION}")]
    Layout {
        /// Theirs.
        found: u32,
    },
    /// There is no such map.
    #[error("no map {0}; there are {names}", names = names())]
    Unknown(String),
    /// A ring has no entries to be looked up.
    #[error(
        "{0} is a ring: what is in it is read once, by the daemon, which tells it as flows (`namegate observe`)"
    )]
    Ring(&'static str),
    /// Its entries are nobody's own.
    #[error("the entries of {0} are not an endpoint's")]
    NotByEndpoint(&'static str),
    /// The kernel refused.
    #[error("map {name}: {source}")]
    Kernel {
        /// Which map.
        name: String,
        /// The kernel's answer.
        source: MapError,
    },
}

/// The maps that are pinned in a folder.
#[derive(Clone, Debug)]
pub struct PinnedMaps {
    dir: PathBuf,
}

impl PinnedMaps {
    /// The maps under a folder of pins.
    ///
    /// # Errors
    /// If there are none.
    pub fn open(bpf_dir: &Path) -> Result<Self, DumpError> {
        let dir = bpf_dir.join("maps");
        if dir.is_dir() {
            Ok(Self { dir })
        } else {
            Err(DumpError::NoPins {
                path: bpf_dir.to_owned(),
            })
        }
    }

    /// All of them, by name.
    ///
    /// # Errors
    /// If one can't be read.
    pub fn list(&self) -> Result<Vec<MapSummary>, DumpError> {
        let failed = |source| DumpError::Unreadable {
            path: self.dir.clone(),
            source,
        };
        let mut maps = BTreeMap::new();
        for pin in std::fs::read_dir(&self.dir).map_err(failed)? {
            let name = pin.map_err(failed)?.file_name();
            let name = name.to_string_lossy().into_owned();
            let summary = self.summary(&name).map_err(kernel(&name))?;
            maps.insert(name, summary);
        }
        Ok(maps.into_values().collect())
    }

    /// The layout that the maps were written by.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn layout(&self) -> Result<u32, DumpError> {
        let config = self
            .map(CONFIG)
            .and_then(|map| single::<{ size_of::<Config>() }>(map, None));
        let config = config.map_err(kernel(CONFIG))?;
        let read = |(_, value): &Pair| Config::read_from_bytes(value).ok();
        Ok(config
            .first()
            .and_then(read)
            .map_or(0, |config| config.layout))
    }

    /// The entries of a map in words and in order, of one endpoint alone if that is given; `now` is the
    /// time since boot in nanoseconds. The name may be in small letters.
    ///
    /// # Errors
    /// If there is no such map, it has no entries to be read, or is of another layout.
    pub fn entries(
        &self,
        name: &str,
        endpoint: Option<u32>,
        now: u64,
    ) -> Result<Vec<Row>, DumpError> {
        let shape = shape_of(name).ok_or_else(|| DumpError::Unknown(name.to_owned()))?;
        let pairs = shape.pairs.ok_or(DumpError::Ring(shape.name))?;
        let found = self.layout()?;
        if found != LAYOUT_VERSION {
            return Err(DumpError::Layout { found });
        }
        let pairs = self.map(shape.name).and_then(|map| pairs(map, endpoint));
        let pairs = pairs.map_err(kernel(shape.name))?;
        let mut rows: Vec<Row> = pairs
            .iter()
            .filter_map(|(key, value)| shape.row((key, value), now))
            .collect();
        if let Some(endpoint) = endpoint {
            rows = of_endpoint(shape, rows, endpoint)?;
        }
        rows.sort();
        Ok(rows)
    }

    fn summary(&self, name: &str) -> Result<MapSummary, MapError> {
        let path = self.dir.join(name);
        let data = MapData::from_pin(&path)?;
        let info = data.info()?;
        let kind = snake_case(&format!("{:?}", info.map_type()?));
        let count = shape_of(name).and_then(|shape| shape.count);
        // A map of another version has other sizes.
        let entries = count.and_then(|count| count(Map::from_map_data(data).ok()?).ok());
        Ok(MapSummary {
            name: name.to_owned(),
            kind,
            key_size: info.key_size(),
            value_size: info.value_size(),
            max_entries: info.max_entries(),
            entries,
            path,
        })
    }

    fn map(&self, name: &str) -> Result<Map, MapError> {
        Map::from_map_data(MapData::from_pin(self.dir.join(name))?)
    }
}

fn kernel(name: &str) -> impl FnOnce(MapError) -> DumpError {
    let name = name.to_owned();
    move |source| DumpError::Kernel { name, source }
}

fn names() -> String {
    let names: Vec<&str> = SHAPES.iter().map(|shape| shape.name).collect();
    names.join(", ")
}

/// `LruHash` is `lru_hash` elsewhere.
fn snake_case(word: &str) -> String {
    let mut out = String::new();
    for letter in word.chars() {
        if letter.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

fn of_endpoint(shape: &Shape, rows: Vec<Row>, endpoint: u32) -> Result<Vec<Row>, DumpError> {
    let wanted = Field::Number(endpoint.into());
    let mut kept = Vec::new();
    for row in rows {
        match row.iter().find(|(name, _)| *name == ENDPOINT) {
            Some((_, field)) if *field == wanted => kept.push(row),
            Some(_) => {}
            None => return Err(DumpError::NotByEndpoint(shape.name)),
        }
    }
    Ok(kept)
}

/// Steps of a walk: twice what the largest map takes. A walk begins anew where its last key is deleted,
/// and must end all the same.
const WALK_MAX: usize = 2 * LEARNED_MAX;

/// The pairs of a hash map. What changes under the walk may be missed; nothing is there twice.
pub(crate) fn hash<const K: usize, const V: usize>(
    map: Map,
    _: Option<u32>,
) -> Result<Vec<Pair>, MapError> {
    let map: HashMap<MapData, [u8; K], [u8; V]> = map.try_into()?;
    let mut pairs = BTreeMap::new();
    for pair in map.iter().take(WALK_MAX) {
        let (key, value) = pair?;
        pairs.insert(key, value.to_vec());
    }
    let pairs = pairs.into_iter();
    Ok(pairs.map(|(key, value)| (key.to_vec(), value)).collect())
}

/// The pairs of the cgroups' storage.
pub(crate) fn storage(map: Map, endpoint: Option<u32>) -> Result<Vec<Pair>, MapError> {
    hash::<8, 8>(as_hash(map)?, endpoint)
}

/// How many entries a hash map has.
pub(crate) fn count<const K: usize, const V: usize>(map: Map) -> Result<usize, MapError> {
    let map: HashMap<MapData, [u8; K], [u8; V]> = map.try_into()?;
    distinct(map.keys())
}

/// The one entry of an array that holds one; its key says nothing.
pub(crate) fn single<const V: usize>(map: Map, _: Option<u32>) -> Result<Vec<Pair>, MapError> {
    let map: Array<MapData, [u8; V]> = map.try_into()?;
    Ok(vec![(Vec::new(), map.get(&0, 0)?.to_vec())])
}

/// The further ports of DNS, keys without a value.
pub(crate) fn dns_ports(map: Map, _: Option<u32>) -> Result<Vec<Pair>, MapError> {
    let map: Array<MapData, u64> = map.try_into()?;
    let mut ports = Vec::new();
    for index in 0..map.len() {
        ports.extend(ports_of(index, map.get(&index, 0)?));
    }
    let key = |port: u16| (u32::from(port).as_bytes().to_vec(), Vec::new());
    Ok(ports.into_iter().map(key).collect())
}

/// The pairs of the prefix table: the length in bits before the address.
pub(crate) fn prefixes(map: Map, _: Option<u32>) -> Result<Vec<Pair>, MapError> {
    let map: LpmTrie<MapData, [u8; 16], u32> = map.try_into()?;
    let mut pairs = BTreeMap::new();
    for pair in map.iter().take(WALK_MAX) {
        let (key, identity) = pair?;
        pairs.insert((key.prefix_len(), key.data()), identity);
    }
    let pairs = pairs.into_iter();
    Ok(pairs
        .map(|((bits, octets), identity)| {
            let key = [bits.as_bytes(), &octets].concat();
            (key, identity.as_bytes().to_vec())
        })
        .collect())
}

/// How many prefixes there are.
pub(crate) fn count_prefixes(map: Map) -> Result<usize, MapError> {
    let map: LpmTrie<MapData, [u8; 16], u32> = map.try_into()?;
    distinct(
        map.keys()
            .map(|key| key.map(|key| (key.prefix_len(), key.data()))),
    )
}

/// The pairs of the endpoints' policy maps: the endpoint before the key.
pub(crate) fn policies(map: Map, endpoint: Option<u32>) -> Result<Vec<Pair>, MapError> {
    let map: PolicyOuter = map.try_into()?;
    let endpoints: Vec<u32> = match endpoint {
        Some(endpoint) => vec![endpoint],
        None => map.keys().take(WALK_MAX).collect::<Result<_, _>>()?,
    };
    let mut all = Vec::new();
    for endpoint in endpoints {
        let inner: PolicyInner = match map.get(&endpoint, 0) {
            Ok(inner) => inner,
            Err(MapError::KeyNotFound) => continue,
            Err(error) => return Err(error),
        };
        let mut pairs = BTreeMap::new();
        for pair in inner.iter().take(WALK_MAX) {
            let (key, value) = pair?;
            pairs.insert(key, value.to_vec());
        }
        let pairs = pairs.into_iter();
        all.extend(pairs.map(|(key, value)| ([endpoint.as_bytes(), &key].concat(), value)));
    }
    Ok(all)
}

/// How many endpoints have a policy map.
pub(crate) fn count_policies(map: Map) -> Result<usize, MapError> {
    let map: PolicyOuter = map.try_into()?;
    distinct(map.keys())
}

/// The counters that are not 0, over all CPUs.
pub(crate) fn counters(map: Map, _: Option<u32>) -> Result<Vec<Pair>, MapError> {
    let map: PerCpuArray<MapData, u64> = map.try_into()?;
    let mut pairs = Vec::new();
    for slot in 0..map.len() {
        let value: u64 = map.get(&slot, 0)?.iter().sum();
        if value > 0 {
            pairs.push((slot.as_bytes().to_vec(), value.as_bytes().to_vec()));
        }
    }
    Ok(pairs)
}

fn distinct<K: Ord>(keys: impl Iterator<Item = Result<K, MapError>>) -> Result<usize, MapError> {
    let all: BTreeSet<K> = keys.take(WALK_MAX).collect::<Result<_, _>>()?;
    Ok(all.len())
}
