//! What an earlier daemon left in the kernel: looked at first, then taken over.
//!
//! Programs, maps and links outlive the process that made them. The next one loads its own programs
//! over the same maps and puts them into the same links, one atomic replacement each: at no moment is
//! an interface without a program, or a program without its tables. That holds only if the maps are
//! what the new programs take them for, which neither the kernel nor aya looks at.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, HashMap, Map, MapData, MapError, MapInfo};
use bpf_redirect_common as common;
use bpf_redirect_common::{
    Address, CgroupEndpoint, Config, EndpointAddress, EndpointIf, LAYOUT_VERSION,
};
use zerocopy::{FromBytes, KnownLayout};

use crate::batch;
use crate::object::{OBJECT, is_own};
use crate::{DatapathError, Pins};

/// Why the pins are not taken over.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// A map isn't what this version's programs need.
    #[error("{}: {found}, and this version needs {wanted}", path.display())]
    OtherMap {
        /// The pin.
        path: PathBuf,
        /// What it is.
        found: String,
        /// What it should be.
        wanted: String,
    },
    /// The maps were written by a version with other keys, values or meanings.
    #[error("the pinned maps have layout {found}, and this version has {LAYOUT_VERSION}")]
    OtherLayout {
        /// Their layout.
        found: u32,
    },
    /// A map can't be opened or read.
    #[error("{0}")]
    Kernel(#[from] DatapathError),
}

/// What the kernel holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inherited {
    /// The marks and the side link.
    pub config: Option<Config>,
    /// Endpoints by their interface.
    pub endpoints: BTreeMap<u32, InheritedEndpoint>,
    /// Endpoints by their cgroup.
    pub cgroups: BTreeMap<u64, u32>,
    /// What each endpoint has learned.
    pub learned: BTreeMap<u32, Vec<(Address, u32)>>,
    /// The largest identity that any table names.
    pub last_identity: u32,
}

impl Inherited {
    /// Whether an endpoint has this number.
    #[must_use]
    pub fn has(&self, endpoint: u32) -> bool {
        let by_link = self.endpoints.values().map(|one| one.endpoint);
        let mut all = by_link.chain(self.cgroups.values().copied());
        all.any(|one| one == endpoint)
    }
}

/// An endpoint that the kernel knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InheritedEndpoint {
    /// Its number.
    pub endpoint: u32,
    /// The workload's own MAC.
    pub workload_mac: [u8; 6],
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether its packets are judged: all its programs were attached.
    pub is_judged: bool,
}

/// Looks whether the pinned maps are those of this version, and reads what they hold.
///
/// # Errors
/// If they are of another version, or can't be read.
pub fn inspect(pins: &Pins) -> Result<Inherited, TakeOverError> {
    verify(pins)?;
    let config = read_config(pins)?;
    if config.layout != LAYOUT_VERSION {
        return Err(TakeOverError::OtherLayout {
            found: config.layout,
        });
    }
    let mut inherited = Inherited {
        config: Some(config),
        ..Inherited::default()
    };
    for (ifindex, entry) in pairs::<u32, 144>(pins, common::EP_IF)? {
        let entry: EndpointIf = from_bytes(&entry, common::EP_IF)?;
        inherited.endpoints.insert(
            ifindex,
            InheritedEndpoint {
                endpoint: entry.endpoint,
                workload_mac: entry.workload_mac,
                addresses: addresses_of(&entry),
                is_judged: entry.attaching == 0,
            },
        );
    }
    for (cgroup, entry) in pairs::<u64, 8>(pins, common::CG_ID)? {
        let entry: CgroupEndpoint = from_bytes(&entry, common::CG_ID)?;
        inherited.cgroups.insert(cgroup, entry.endpoint);
    }
    let mut last = 0;
    for (key, identity) in pairs::<[u8; 20], 4>(pins, common::LEARNED)? {
        let key: EndpointAddress = from_bytes(&key, common::LEARNED)?;
        let identity = u32::from_ne_bytes(identity);
        last = last.max(identity);
        let of_endpoint = inherited.learned.entry(key.endpoint).or_default();
        of_endpoint.push((key.address, identity));
    }
    let flows = pairs::<[u8; 44], 24>(pins, common::CT)?;
    for (_, value) in flows {
        let value: common::CtValue = from_bytes(&value, common::CT)?;
        last = last.max(value.identity);
    }
    for (_, value) in pairs::<[u8; 20], 12>(pins, common::SERVICES)? {
        let value: common::ServiceValue = from_bytes(&value, common::SERVICES)?;
        last = last.max(value.identity);
    }
    let prefixes: LpmTrie<MapData, [u8; 16], u32> = open(pins, common::IPCACHE)?;
    let prefixes = prefixes.iter().filter_map(Result::ok);
    last = prefixes.fold(last, |last, (_, identity)| last.max(identity));
    inherited.last_identity = last;
    Ok(inherited)
}

fn addresses_of(entry: &EndpointIf) -> Vec<IpAddr> {
    let used = entry.addresses.iter().filter(|one| **one != Address::NONE);
    used.map(|address| IpAddr::from(*address)).collect()
}

/// Compares each pinned map with what the object needs.
fn verify(pins: &Pins) -> Result<(), TakeOverError> {
    let object = aya_obj::Object::parse(OBJECT)
        .map_err(|error| DatapathError::Load(aya::EbpfError::ParseError(error)))?;
    for (name, wanted) in object.maps.iter().filter(|(name, _)| !is_own(name)) {
        let path = pins.map(name);
        let wanted = shape(
            wanted.map_type(),
            (wanted.key_size(), wanted.value_size()),
            (wanted.max_entries(), wanted.map_flags()),
        );
        let found = MapInfo::from_pin(&path).map(|found| {
            let kind = found.map_type().map_or(0, |kind| kind as u32);
            let sizes = (found.key_size(), found.value_size());
            shape(kind, sizes, (found.max_entries(), found.map_flags()))
        });
        let found = found.unwrap_or_else(|source| format!("it can't be opened ({source})"));
        if found != wanted {
            return Err(TakeOverError::OtherMap {
                path,
                found,
                wanted,
            });
        }
    }
    Ok(())
}

fn shape(kind: u32, (key, value): (u32, u32), (entries, flags): (u32, u32)) -> String {
    format!(
        "map type {kind}, keys of {key} and values of {value} bytes, {entries} entries, flags {flags:#x}"
    )
}

/// Opens a pinned map.
fn open<M: TryFrom<Map, Error = MapError>>(
    pins: &Pins,
    name: &'static str,
) -> Result<M, DatapathError> {
    let failed = |source| DatapathError::Map { name, source };
    let data = MapData::from_pin(pins.map(name)).map_err(failed)?;
    Map::from_map_data(data)
        .and_then(M::try_from)
        .map_err(failed)
}

fn read_config(pins: &Pins) -> Result<Config, DatapathError> {
    let map: Array<MapData, [u8; size_of::<Config>()]> = open(pins, common::CONFIG)?;
    let config = map.get(&0, 0).map_err(|source| DatapathError::Map {
        name: common::CONFIG,
        source,
    })?;
    from_bytes(&config, common::CONFIG)
}

/// All entries of a pinned hash.
fn pairs<K: aya::Pod, const V: usize>(
    pins: &Pins,
    name: &'static str,
) -> Result<Vec<(K, [u8; V])>, DatapathError> {
    let map: HashMap<MapData, K, [u8; V]> = open(pins, name)?;
    let mut all = Vec::new();
    batch::read_all(&map, |key, value| all.push((*key, *value))).map_err(|error| {
        DatapathError::Map {
            name,
            source: MapError::IoError(error),
        }
    })?;
    Ok(all)
}

fn from_bytes<T: FromBytes + KnownLayout>(
    bytes: &[u8],
    name: &'static str,
) -> Result<T, DatapathError> {
    T::read_from_bytes(bytes).map_err(|_| DatapathError::Missing(name))
}
