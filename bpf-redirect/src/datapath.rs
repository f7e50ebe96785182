//! The loaded datapath: programs and maps.

mod ahead;
mod config;
mod dns_ports;
mod links;
mod listener;
mod load;
mod shift;
mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, HashOfMaps, Map, MapData, MapError, PerCpuArray, RingBuf};
use aya::programs::{Program, ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfError};
use bpf_redirect_common as common;
use bpf_redirect_common::{
    Aggregation, Config, Counter, CtKey, CtValue, Drop, ServiceKey, ServiceValue, TRACE_SECS,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::attach::{Hook, HookMode};
use crate::batch;
use crate::journal::{Act, NO_VALUE};
use crate::object::{OBJECT, PROGRAMS, is_own};
use crate::table::{bytes, gone_is_fine};
use crate::{EventReader, Journal, KernelTable, Pins};

use ahead::Ahead;
pub(crate) use dns_ports::ports_of;
pub(crate) use shift::Echoes;
use shift::{Prefixes, keyed};

/// What can go wrong with the kernel's part.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The object could not be loaded; the verifier's log is in the cause.
    #[error("loading the BPF object: {0}")]
    Load(#[from] EbpfError),
    /// A program could not be loaded or run.
    #[error("BPF program {name}: {source}")]
    Program {
        /// Which one.
        name: &'static str,
        /// The kernel's answer.
        source: ProgramError,
    },
    /// A program could not be attached.
    #[error("attaching {hook:?} to {interface}: {source}")]
    Attach {
        /// The interface.
        interface: String,
        /// The hook.
        hook: Hook,
        /// The kernel's answer.
        source: ProgramError,
    },
    /// A program could not be attached to a cgroup, or the kernel doesn't take it.
    #[error("attaching {program} to {}: {source}", path.display())]
    AttachCgroup {
        /// The cgroup.
        path: PathBuf,
        /// The program.
        program: &'static str,
        /// The kernel's answer.
        source: ProgramError,
    },
    /// A link has no descriptor.
    #[error("{0}")]
    Link(aya::programs::links::LinkError),
    /// Something could not be pinned.
    #[error("pinning {}: {source}", path.display())]
    Pin {
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        source: aya::pin::PinError,
    },
    /// The pin of a link that is on no interface any more could not be removed.
    #[error("{}: {source}", path.display())]
    StalePin {
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A map could not be opened, read or written.
    #[error("map {name}: {source}")]
    Map {
        /// Which one.
        name: &'static str,
        /// The kernel's answer.
        source: MapError,
    },
    /// The object lacks a program or a map: it is of another version.
    #[error("the BPF object has no {0}")]
    Missing(&'static str),
}

pub use listener::Listening;
pub use load::{Loader, SideLink};
pub use trial::Timed;

/// Programs and maps, loaded.
pub struct Datapath {
    ebpf: Ebpf,
    mode: HookMode,
    pins: Option<Pins>,
    config: Config,
    /// The pins of what this run attached.
    links: BTreeSet<PathBuf>,
    ahead: Ahead,
    journal: Option<Arc<Journal>>,
    /// For the policy maps to come, while addresses change.
    echoes: Arc<Echoes>,
}

/// One counter of the datapath.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CounterValue {
    /// The word for it: a drop reason's, or what is counted.
    pub name: &'static str,
    /// Whether it counts drops.
    pub drop: bool,
    /// The count, over all CPUs.
    pub value: u64,
}

impl Datapath {
    /// Loads the committed object over new maps; pins maps and programs if `pins` are given.
    ///
    /// # Errors
    /// If the kernel refuses a map or a program, or a pin is taken.
    pub fn load(
        side_link_ifindex: u32,
        mode: HookMode,
        pins: Option<Pins>,
    ) -> Result<Self, DatapathError> {
        Self::load_meanwhile(Loader::start(), (mode, pins), |side_link| {
            side_link.set(side_link_ifindex)
        })
        .and_then(|(datapath, set)| set.map(|()| datapath))
    }

    /// The same, with the side link made and furnished meanwhile: the kernel takes most of the time to verify
    /// the programs of endpoints, which nothing runs before they are attached.
    ///
    /// # Errors
    /// If the kernel refuses a map or a program, or a pin is taken; what was made meanwhile is dropped.
    pub fn load_meanwhile<T>(
        loader: Loader,
        (mode, pins): (HookMode, Option<Pins>),
        make: impl FnOnce(&mut SideLink<'_>) -> T,
    ) -> Result<(Self, T), DatapathError> {
        let ebpf = loader.fresh()?;
        let mut datapath = Self::over(ebpf, mode, (pins, config::fresh(0)));
        // Before anything is attached: links without maps could not be taken over.
        datapath.pin_maps()?;
        let made = load::all(&mut datapath, make)?;
        datapath.pin_programs()?;
        Ok((datapath, made))
    }

    /// Loads the committed object over the maps that an earlier run pinned, which [`inspect`] found
    /// to be of this version. Links and filters go on with the old programs until each is attached.
    ///
    /// # Errors
    /// If the kernel refuses a map or a program.
    ///
    /// [`inspect`]: crate::inspect
    pub fn take_over(
        loader: Loader,
        (side_link_ifindex, mode): (u32, HookMode),
        (pins, config): (Pins, Config),
    ) -> Result<Self, DatapathError> {
        let names = aya_obj::Object::parse(OBJECT)
            .map_err(|error| DatapathError::Load(EbpfError::ParseError(error)))?;
        let mut loader = loader.finish();
        for name in names.maps.keys().filter(|name| !is_own(name)) {
            loader.map_pin_path(name, pins.map(name));
        }
        // Two marks at once would be a packet storm: they stay.
        let config = Config {
            side_link_ifindex,
            ..config
        };
        let mut datapath = Self::over(loader.load(OBJECT)?, mode, (Some(pins), config));
        load::all(&mut datapath, |_| ())?;
        datapath.write_config()?;
        datapath.pin_programs()?;
        Ok(datapath)
    }

    fn over(ebpf: Ebpf, mode: HookMode, (pins, config): (Option<Pins>, Config)) -> Self {
        Self {
            ebpf,
            mode,
            pins,
            config,
            links: BTreeSet::new(),
            ahead: Ahead::default(),
            journal: None,
            echoes: Arc::default(),
        }
    }

    /// Remembers the writes to come, those of tables that are opened from here on too.
    pub fn keep_journal(&mut self, journal: Arc<Journal>) {
        self.journal = Some(journal);
    }

    /// How programs are attached.
    #[must_use]
    pub fn mode(&self) -> HookMode {
        self.mode
    }

    /// The marks and the side link.
    #[must_use]
    pub fn config(&self) -> Config {
        self.config
    }

    /// Says where the side link is now.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_side_link(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.config.side_link_ifindex = ifindex;
        self.write_config()
    }

    /// Says how much is told of packets that pass; nothing at first.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_aggregation(&mut self, aggregation: Aggregation) -> Result<(), DatapathError> {
        self.config.aggregation = aggregation as u32;
        self.config.trace_ticks = match aggregation {
            Aggregation::Off | Aggregation::Maximum => 0,
            Aggregation::Medium | Aggregation::Low | Aggregation::None => {
                TRACE_SECS * config::ticks_per_second()
            }
        };
        self.write_config()
    }

    /// The maps of one endpoint's ledger.
    ///
    /// # Errors
    /// If they can't be opened.
    pub fn table(&self, endpoint: u32) -> Result<KernelTable, DatapathError> {
        let policies: HashOfMaps<MapData, u32, HashMap<MapData, [u8; 8], [u8; 8]>> =
            self.open(common::POLICY)?;
        Ok(KernelTable::new(
            endpoint,
            self.open(common::LEARNED)?,
            policies,
            (self.journal.clone(), Arc::clone(&self.echoes)),
        ))
    }

    /// Makes the prefix table hold exactly `prefixes`: new ones are written before old ones go, and
    /// what is there already is not written again.
    ///
    /// # Errors
    /// If they don't fit or the kernel refuses.
    pub fn set_prefixes(&mut self, prefixes: &[(IpAddr, u8, u32)]) -> Result<(), DatapathError> {
        self.write_prefixes(&keyed(prefixes))
    }

    fn write_prefixes(&self, wanted: &Prefixes) -> Result<(), DatapathError> {
        let failed = map_error(common::IPCACHE);
        let old = self.prefixes()?;
        let mut table: LpmTrie<MapData, [u8; 16], u32> = self.open(common::IPCACHE)?;
        for ((bits, octets), identity) in wanted {
            if old.get(&(*bits, *octets)) != Some(identity) {
                let key = Key::new(*bits, *octets);
                table.insert(&key, identity, 0).map_err(&failed)?;
                self.note_prefix(Act::Set, (*bits, octets), identity);
            }
        }
        for (bits, octets) in old.into_keys().filter(|key| !wanted.contains_key(key)) {
            table.remove(&Key::new(bits, octets)).map_err(&failed)?;
            self.note_prefix(Act::Delete, (bits, &octets), NO_VALUE);
        }
        Ok(())
    }

    fn note_prefix<V>(&self, act: Act, (bits, octets): (u32, &[u8; 16]), value: &V)
    where
        V: IntoBytes + Immutable + ?Sized,
    {
        let key = [bits.as_bytes(), octets].concat();
        self.note(common::IPCACHE, act, (key.as_slice(), value));
    }

    /// Makes the service map hold exactly these virtual addresses and ports.
    ///
    /// # Errors
    /// If they don't fit or the kernel refuses; what isn't there is judged by the address alone.
    pub fn set_services(
        &mut self,
        services: &[(ServiceKey, ServiceValue)],
    ) -> Result<(), DatapathError> {
        let failed = map_error(common::SERVICES);
        let mut table: HashMap<MapData, [u8; 20], [u8; 12]> = self.open(common::SERVICES)?;
        let mut wanted = BTreeSet::new();
        for (key, value) in services {
            let key: [u8; 20] = bytes(key);
            let value: [u8; 12] = bytes(value);
            wanted.insert(key);
            if table.get(&key, 0).ok() != Some(value) {
                table.insert(key, value, 0).map_err(&failed)?;
                self.note(common::SERVICES, Act::Set, (&key, &value));
            }
        }
        let old: Vec<[u8; 20]> = table.keys().collect::<Result<_, _>>().map_err(&failed)?;
        for key in old.into_iter().filter(|key| !wanted.contains(key)) {
            table.remove(&key).map_err(&failed)?;
            self.note(common::SERVICES, Act::Delete, (&key, NO_VALUE));
        }
        Ok(())
    }

    /// A reader of the kernel's events. One at a time: the ring has one reading position.
    ///
    /// # Errors
    /// If the ring can't be mapped.
    pub fn events(&self) -> Result<EventReader, DatapathError> {
        Ok(EventReader::new(
            self.open::<RingBuf<MapData>>(common::EVENTS)?,
        ))
    }

    /// All counters that are not 0.
    ///
    /// # Errors
    /// If the map can't be read.
    pub fn counters(&self) -> Result<Vec<CounterValue>, DatapathError> {
        let map: PerCpuArray<MapData, u64> = self.open(common::COUNTERS_MAP)?;
        let drops = Drop::ALL
            .iter()
            .map(|(reason, word)| (*reason as u32, *word, true));
        let others = Counter::ALL
            .iter()
            .map(|(counter, word)| (*counter as u32, *word, false));
        let mut values = Vec::new();
        for (slot, name, drop) in drops.chain(others) {
            let cpus = map.get(&slot, 0).map_err(map_error(common::COUNTERS_MAP))?;
            let value = cpus.iter().sum();
            if value > 0 {
                values.push(CounterValue { name, drop, value });
            }
        }
        Ok(values)
    }

    /// How many events were lost since the ring was full, all programs and daemons of these maps together.
    ///
    /// # Errors
    /// If the map can't be read.
    pub fn events_lost(&self) -> Result<u64, DatapathError> {
        let map: PerCpuArray<MapData, u64> = self.open(common::COUNTERS_MAP)?;
        let slot = Counter::EventsLost as u32;
        let cpus = map.get(&slot, 0).map_err(map_error(common::COUNTERS_MAP))?;
        Ok(cpus.iter().sum())
    }

    /// Forgets the flows for which `is_over` says so; gives how many are left.
    ///
    /// # Errors
    /// If the table can't be read.
    pub fn sweep_flows(
        &self,
        mut is_over: impl FnMut(&CtKey, &CtValue) -> bool,
    ) -> Result<usize, DatapathError> {
        let failed = map_error(common::CT);
        let table: HashMap<MapData, [u8; 44], [u8; 24]> = self.open(common::CT)?;
        let mut over = Vec::new();
        let mut left: BTreeMap<u32, u64> = BTreeMap::new();
        let read = batch::read_all(&table, |key, value| {
            let (Ok(flow), Ok(state)) =
                (CtKey::read_from_bytes(key), CtValue::read_from_bytes(value))
            else {
                return;
            };
            if is_over(&flow, &state) {
                over.push(*key);
            } else {
                *left.entry(flow.endpoint).or_default() += 1;
            }
        });
        read.and_then(|()| batch::delete_all(&table, &over))
            .map_err(|error| failed(MapError::IoError(error)))?;
        for key in &over {
            self.note(common::CT, Act::Delete, (key, NO_VALUE));
        }
        self.set_use(&left)?;
        Ok(usize::try_from(left.values().sum::<u64>()).unwrap_or(usize::MAX))
    }

    /// Says how many flows each endpoint has. What was opened since they were counted counts from the
    /// next sweep on.
    fn set_use(&self, flows: &BTreeMap<u32, u64>) -> Result<(), DatapathError> {
        let failed = map_error(common::CT_USE);
        let mut table: HashMap<MapData, u32, u64> = self.open(common::CT_USE)?;
        let known: Vec<u32> = table.keys().filter_map(Result::ok).collect();
        for endpoint in known.into_iter().filter(|one| !flows.contains_key(one)) {
            gone_is_fine(table.remove(&endpoint)).map_err(&failed)?;
        }
        for (endpoint, count) in flows {
            table.insert(endpoint, count, 0).map_err(&failed)?;
        }
        Ok(())
    }

    pub(crate) fn note<K, V>(&self, map: &'static str, act: Act, entry: (&K, &V))
    where
        K: IntoBytes + Immutable + ?Sized,
        V: IntoBytes + Immutable + ?Sized,
    {
        if let Some(journal) = &self.journal {
            journal.tell(map, act, entry);
        }
    }

    pub(crate) fn forget_flows(&self, of: impl Fn(&CtKey) -> bool) -> Result<(), DatapathError> {
        self.sweep_flows(|key, _| of(key)).map(|_| ())
    }

    fn write_config(&mut self) -> Result<(), DatapathError> {
        write_config(&mut self.open(common::CONFIG)?, &self.config)
    }

    fn pin_maps(&self) -> Result<(), DatapathError> {
        let Some(pins) = &self.pins else {
            return Ok(());
        };
        // The compiler's own read-only data (`.rodata…`) goes with the programs; a bpffs takes no dots.
        for (name, map) in self.ebpf.maps().filter(|(name, _)| !is_own(name)) {
            let path = pins.map(name);
            map.pin(&path)
                .map_err(|source| DatapathError::Pin { path, source })?;
        }
        Ok(())
    }

    fn pin_programs(&mut self) -> Result<(), DatapathError> {
        let Some(pins) = &self.pins else {
            return Ok(());
        };
        for name in PROGRAMS {
            let path = pins.program(name);
            // Of an earlier run: its links keep it as long as they need it.
            let _ = std::fs::remove_file(&path);
            classifier(&mut self.ebpf, name)?
                .pin(&path)
                .map_err(|source| DatapathError::Pin {
                    path: path.clone(),
                    source,
                })?;
        }
        Ok(())
    }

    /// Opens a map by a descriptor of its own.
    pub(crate) fn open<M: TryFrom<Map, Error = MapError>>(
        &self,
        name: &'static str,
    ) -> Result<M, DatapathError> {
        let failed = map_error(name);
        let map = Map::from_map_data(self.open_data(name)?).map_err(&failed)?;
        M::try_from(map).map_err(&failed)
    }

    pub(crate) fn open_data(&self, name: &'static str) -> Result<MapData, DatapathError> {
        let failed = map_error(name);
        let map = self.ebpf.map(name).ok_or(DatapathError::Missing(name))?;
        let data = map_data(map).ok_or(DatapathError::Missing(name))?;
        let fd = data
            .fd()
            .as_fd()
            .try_clone_to_owned()
            .map_err(|error| failed(MapError::IoError(error)))?;
        MapData::from_fd(fd).map_err(failed)
    }

    /// A program of the object, as the type that it is.
    pub(crate) fn program<'a, P>(&'a mut self, name: &str) -> Result<&'a mut P, ProgramError>
    where
        &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
    {
        let program = self.ebpf.program_mut(name);
        program.ok_or(ProgramError::NotLoaded)?.try_into()
    }

    pub(crate) fn cgroup_pin(&self, id: u64, program: &str) -> Option<PathBuf> {
        self.pins.as_ref().map(|pins| pins.cgroup_link(id, program))
    }

    /// Counts a pinned link as one of this run.
    pub(crate) fn keep_pin(&mut self, pin: PathBuf) {
        self.links.insert(pin);
    }
}

fn map_data(map: &Map) -> Option<&MapData> {
    let (Map::Array(data)
    | Map::CgroupStorage(data)
    | Map::HashMap(data)
    | Map::HashOfMaps(data)
    | Map::LpmTrie(data)
    | Map::LruHashMap(data)
    | Map::PerCpuArray(data)
    | Map::RingBuf(data)
    | Map::SockMap(data)) = map
    else {
        return None;
    };
    Some(data)
}

type ConfigMap = Array<MapData, [u8; size_of::<Config>()]>;

fn write_config(map: &mut ConfigMap, config: &Config) -> Result<(), DatapathError> {
    map.set(0, bytes(config), 0)
        .map_err(map_error(common::CONFIG))
}

fn classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, DatapathError> {
    let program = ebpf.program_mut(name).ok_or(DatapathError::Missing(name))?;
    program.try_into().map_err(program_error(name))
}

fn program_error(name: &'static str) -> impl Fn(ProgramError) -> DatapathError {
    move |source| DatapathError::Program { name, source }
}

pub(crate) fn map_error(name: &'static str) -> impl Fn(MapError) -> DatapathError {
    move |source| DatapathError::Map { name, source }
}
