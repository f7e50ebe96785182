//! The hooks of a cgroup: ten programs, each by a link of its own, beside those of others
//! (`BPF_F_ALLOW_MULTI`). They are loaded for the first cgroup: a node without one needs no kernel that
//! takes them.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use aya::programs::links::{CgroupAttachMode, FdLink};
use aya::programs::{CgroupSkb, CgroupSkbAttachType, CgroupSockAddr, ProgramError};
use bpf_redirect_common as common;
use bpf_redirect_common::{AskerKey, AskerValue, CgroupEndpoint, Listeners};
use zerocopy::FromBytes;

use crate::datapath::{Datapath, map_error};
use crate::journal::{Act, NO_VALUE};
use crate::table::bytes;
use crate::{DatapathError, PinError, Pins};

/// A cgroup to be guarded.
#[derive(Clone, Copy, Debug)]
pub struct CgroupPlace<'a> {
    /// Its directory.
    pub path: &'a Path,
    /// The kernel's number for it: the directory's inode.
    pub id: u64,
    /// Whose it is.
    pub endpoint: u32,
}

/// The programs on a cgroup. Without pins they end with this value; with them they stay.
#[derive(Debug)]
pub struct CgroupAttachment {
    links: Vec<CgroupLink>,
}

#[derive(Debug)]
struct CgroupLink {
    program: &'static str,
    /// Held beside the pin, so that a pin that somebody removes opens nothing.
    link: FdLink,
    pin: Option<PathBuf>,
}

impl CgroupAttachment {
    /// Takes the programs off the cgroup.
    ///
    /// # Errors
    /// If a pin can't be removed.
    pub fn detach(self) -> Result<(), PinError> {
        for link in self.links {
            let Some(path) = link.pin else { continue };
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed.map_err(|source| PinError::Remove { path, source })?,
            }
        }
        Ok(())
    }

    /// Pins the links of a datapath that has no pins: while one of its processes lives, a cgroup is judged,
    /// whatever became of the process that attached.
    ///
    /// # Errors
    /// If one can't be pinned; then all are off.
    pub fn pin(&mut self, pins: &Pins, id: u64) -> Result<(), DatapathError> {
        let pinned = |CgroupLink { program, link, .. }: CgroupLink| {
            let pin = pins.cgroup_link(id, program);
            let failed = |source| DatapathError::Pin {
                path: pin.clone(),
                source,
            };
            let link = link.pin(&pin).map_err(failed)?.into();
            let pin = Some(pin);
            Ok(CgroupLink { program, link, pin })
        };
        let links = std::mem::take(&mut self.links).into_iter();
        self.links = links.map(pinned).collect::<Result<_, DatapathError>>()?;
        Ok(())
    }

    /// The names of the programs, and the kernel's numbers for their links.
    pub fn programs(&self) -> impl Iterator<Item = (&'static str, Option<u32>)> {
        let id = |link: &CgroupLink| link.link.info().map(|info| info.id()).ok();
        self.links.iter().map(move |link| (link.program, id(link)))
    }
}

/// What hides the redirect from sockets: harmless before the cgroup's endpoint is written.
const SHOWING: [&str; 4] = [
    "ng_cg_peer4",
    "ng_cg_peer6",
    "ng_cg_recvmsg4",
    "ng_cg_recvmsg6",
];
/// What judges packets.
const JUDGING: [(&str, CgroupSkbAttachType); 2] = [
    ("ng_cg_egress", CgroupSkbAttachType::Egress),
    ("ng_cg_ingress", CgroupSkbAttachType::Ingress),
];
/// What leads queries to the proxy.
const LEADING: [&str; 4] = [
    "ng_cg_connect4",
    "ng_cg_connect6",
    "ng_cg_sendmsg4",
    "ng_cg_sendmsg6",
];

/// The names of all of them.
pub(crate) fn programs() -> impl Iterator<Item = &'static str> {
    let judging = JUDGING.iter().map(|(program, _)| *program);
    SHOWING.into_iter().chain(judging).chain(LEADING)
}

/// The value must be there: the kernel makes it with the first attachment.
const BPF_EXIST: u64 = 2;

impl Datapath {
    /// Attaches the programs to a cgroup, beside those of an earlier run, which then end: at no moment are
    /// there none.
    ///
    /// # Errors
    /// If the cgroup is gone, or the kernel refuses a program. Then what was attached is off again, but for
    /// what an earlier run left.
    pub fn attach_cgroup(
        &mut self,
        place: CgroupPlace<'_>,
    ) -> Result<CgroupAttachment, DatapathError> {
        let directory = File::open(place.path).map_err(|error| {
            attach_failed(place.path, JUDGING[0].0)(ProgramError::IOError(error))
        })?;
        let cgroup = (place.path, &directory);
        let mut links = Vec::new();
        for program in SHOWING {
            links.push((program, self.attach_addresses(program, cgroup)?));
        }
        self.set_cgroup(place.id, place.endpoint)?;
        for (program, kind) in JUDGING {
            links.push((program, self.attach_packets((program, kind), cgroup)?));
        }
        for program in LEADING {
            links.push((program, self.attach_addresses(program, cgroup)?));
        }
        let links = links
            .into_iter()
            .map(|(program, link)| self.keep_cgroup_link(place.id, program, link))
            .collect::<Result<_, _>>()?;
        Ok(CgroupAttachment { links })
    }

    /// Makes a cgroup unknown, once its programs are off.
    ///
    /// # Errors
    /// If the maps can't be opened; entries that are gone are fine.
    pub fn remove_cgroup(&mut self, endpoint: u32, id: u64) -> Result<(), DatapathError> {
        let mut by_id: HashMap<MapData, u64, [u8; 8]> = self.open(common::CG_ID)?;
        let _ = by_id.remove(&id);
        self.note(common::CG_ID, Act::Delete, (&id, NO_VALUE));
        self.forget_flows(|key| key.endpoint == endpoint)
    }

    /// Which of an attachment's programs are off the cgroup, by whomever.
    #[must_use]
    pub fn missing_from_cgroup(attachment: &CgroupAttachment, id: u64) -> Vec<&'static str> {
        let present = links_on(id);
        attachment
            .programs()
            .filter(|(_, link)| link.is_none_or(|link| !present.contains(&link)))
            .map(|(program, _)| program)
            .collect()
    }

    /// Where the DNS proxy listens on the node.
    ///
    /// # Errors
    /// If the map can't be read.
    pub fn listeners(&self) -> Result<Listeners, DatapathError> {
        let map: Array<MapData, [u8; 8]> = self.open(common::CG_LISTEN)?;
        let ports = map.get(&0, 0).map_err(map_error(common::CG_LISTEN))?;
        Listeners::read_from_bytes(&ports).map_err(|_| DatapathError::Missing(common::CG_LISTEN))
    }

    /// Says where it listens.
    ///
    /// # Errors
    /// If the map can't be written.
    pub fn set_listeners(&mut self, listeners: Listeners) -> Result<(), DatapathError> {
        let mut map: Array<MapData, [u8; 8]> = self.open(common::CG_LISTEN)?;
        map.set(0, bytes(&listeners), 0)
            .map_err(map_error(common::CG_LISTEN))
    }

    /// Who asks the DNS proxy on the node.
    ///
    /// # Errors
    /// If the map can't be opened.
    pub fn askers(&self) -> Result<Askers, DatapathError> {
        self.open(common::CG_ASKER).map(Askers)
    }

    /// How many instructions the verifier walked through to accept each program of a cgroup, on all ways
    /// through it. `None` from a kernel that doesn't tell.
    ///
    /// # Errors
    /// If the kernel refuses one.
    pub fn verified_for_cgroups(
        &mut self,
    ) -> Result<Vec<(&'static str, Option<u32>)>, DatapathError> {
        let mut walked = Vec::new();
        for name in SHOWING.into_iter().chain(LEADING) {
            let failed = |source| DatapathError::Program { name, source };
            let program: &mut CgroupSockAddr = self.program(name).map_err(failed)?;
            program.load().map_err(failed)?;
            let info = program.info().map_err(failed)?;
            walked.push((name, info.verified_instruction_count()));
        }
        for (name, _) in JUDGING {
            let failed = |source| DatapathError::Program { name, source };
            let program: &mut CgroupSkb = self.program(name).map_err(failed)?;
            program.load().map_err(failed)?;
            let info = program.info().map_err(failed)?;
            walked.push((name, info.verified_instruction_count()));
        }
        Ok(walked)
    }

    fn set_cgroup(&mut self, id: u64, endpoint: u32) -> Result<(), DatapathError> {
        let value = CgroupEndpoint {
            endpoint,
            reserved: 0,
        };
        let mut by_id: HashMap<MapData, u64, [u8; 8]> = self.open(common::CG_ID)?;
        by_id
            .insert(id, bytes(&value), 0)
            .map_err(map_error(common::CG_ID))?;
        let failed = map_error(common::CG_ENDPOINT);
        let data = self.open_data(common::CG_ENDPOINT)?;
        let mut own: HashMap<MapData, u64, [u8; 8]> =
            Map::HashMap(data).try_into().map_err(&failed)?;
        own.insert(id, bytes(&value), BPF_EXIST).map_err(failed)?;
        self.note(common::CG_ID, Act::Set, (&id, &value));
        self.note(common::CG_ENDPOINT, Act::Set, (&id, &value));
        Ok(())
    }

    fn attach_addresses(
        &mut self,
        name: &'static str,
        (path, directory): (&Path, &File),
    ) -> Result<FdLink, DatapathError> {
        let failed = attach_failed(path, name);
        let program: &mut CgroupSockAddr = self.program(name).map_err(&failed)?;
        if program.fd().is_err() {
            program.load().map_err(&failed)?;
        }
        // A link is beside others always; the kernel takes no flag that says so.
        let id = program
            .attach(directory, CgroupAttachMode::Single)
            .map_err(&failed)?;
        let link = program.take_link(id).map_err(failed)?;
        link.try_into().map_err(DatapathError::Link)
    }

    fn attach_packets(
        &mut self,
        (name, kind): (&'static str, CgroupSkbAttachType),
        (path, directory): (&Path, &File),
    ) -> Result<FdLink, DatapathError> {
        let failed = attach_failed(path, name);
        let program: &mut CgroupSkb = self.program(name).map_err(&failed)?;
        if program.fd().is_err() {
            program.load().map_err(&failed)?;
        }
        let id = program
            .attach(directory, kind, CgroupAttachMode::Single)
            .map_err(&failed)?;
        let link = program.take_link(id).map_err(failed)?;
        link.try_into().map_err(DatapathError::Link)
    }

    /// Pins a link, in place of the one that an earlier run left.
    fn keep_cgroup_link(
        &mut self,
        id: u64,
        program: &'static str,
        link: FdLink,
    ) -> Result<CgroupLink, DatapathError> {
        let Some(pin) = self.cgroup_pin(id, program) else {
            let pin = None;
            return Ok(CgroupLink { program, link, pin });
        };
        // A bpffs takes no dots.
        let draft = pin.with_file_name("draft");
        let _ = std::fs::remove_file(&draft);
        let link = link.pin(&draft).map_err(|source| DatapathError::Pin {
            path: draft.clone(),
            source,
        })?;
        std::fs::rename(&draft, &pin).map_err(|source| DatapathError::StalePin {
            path: pin.clone(),
            source,
        })?;
        self.keep_pin(pin.clone());
        Ok(CgroupLink {
            program,
            link: link.into(),
            pin: Some(pin),
        })
    }
}

fn attach_failed(path: &Path, program: &'static str) -> impl Fn(ProgramError) -> DatapathError {
    move |source| DatapathError::AttachCgroup {
        path: path.to_owned(),
        program,
        source,
    }
}

/// The links of this process that are on a cgroup: what the kernel tells of its descriptors. One that
/// somebody took off has no cgroup.
fn links_on(id: u64) -> BTreeSet<u32> {
    let wanted = id.to_string();
    let mut links = BTreeSet::new();
    let Ok(descriptors) = std::fs::read_dir("/proc/self/fdinfo") else {
        return links;
    };
    for descriptor in descriptors.flatten() {
        let Ok(text) = std::fs::read_to_string(descriptor.path()) else {
            continue;
        };
        let of = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim)
        };
        if of("cgroup_id:") == Some(&wanted)
            && let Some(Ok(link)) = of("link_id:").map(str::parse)
        {
            links.insert(link);
        }
    }
    links
}

/// Who asks the DNS proxy on the node: what the cgroups' programs remember of queries that are on their way
/// to it.
#[derive(Debug)]
pub struct Askers(HashMap<MapData, [u8; 24], [u8; 24]>);

/// In whose name a query goes on, and where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The endpoint.
    pub endpoint: u32,
    /// The server that was meant.
    pub server: SocketAddr,
}

impl Askers {
    /// Who sent a query from `client`; of a datagram `id` is its first two octets, of a connection 0.
    #[must_use]
    pub fn find(&self, client: SocketAddr, protocol: u8, id: [u8; 2]) -> Option<Asker> {
        let key = AskerKey {
            source: client.ip().into(),
            source_port: client.port().to_be(),
            id: u16::from_ne_bytes(id),
            protocol: protocol.into(),
        };
        let value = self.0.get(&bytes(&key), 0).ok()?;
        let value = AskerValue::read_from_bytes(&value).ok()?;
        Some(Asker {
            endpoint: value.endpoint,
            server: SocketAddr::new(IpAddr::from(value.server), u16::from_be(value.port)),
        })
    }
}

/// The pairs of a cgroup storage, which aya reads by the kind of program alone.
pub(crate) fn as_hash(map: Map) -> Result<Map, MapError> {
    if let Map::CgroupStorage(data) = map {
        return Ok(Map::HashMap(data));
    }
    Ok(map)
}
