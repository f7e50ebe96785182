//! Endpoints with an interface of their own, as the kernel knows them.

use std::net::IpAddr;

use aya::maps::{HashMap, MapData};
use bpf_redirect_common::{
    self as common, ADDRESSES_PER_ENDPOINT_MAX, Address, EndpointIf, EndpointLink,
};
use zerocopy::FromBytes as _;

use crate::datapath::{Datapath, DatapathError, map_error};
use crate::journal::{Act, NO_VALUE};
use crate::table::bytes;

/// An endpoint as the datapath sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointEntry {
    /// Its number.
    pub endpoint: u32,
    /// The host side of its link.
    pub ifindex: u32,
    /// The workload's own MAC.
    pub workload_mac: [u8; 6],
    /// The MAC of the host side.
    pub host_mac: [u8; 6],
    /// Its addresses, at most [`ADDRESSES_PER_ENDPOINT_MAX`].
    pub addresses: Vec<IpAddr>,
}

impl Datapath {
    /// Makes an endpoint known. Its interface's programs judge from here on by its policy map, and
    /// drop everything while it has none.
    ///
    /// # Errors
    /// If a table is full or the kernel refuses; addresses over the limit are refused by the caller.
    pub fn set_endpoint(&mut self, entry: &EndpointEntry) -> Result<(), DatapathError> {
        self.write_endpoint(entry, false)
    }

    /// Makes an endpoint known whose programs are not all attached yet: they let everything pass until
    /// [`Datapath::set_endpoint`]. An interface at which they judge already stays judged.
    ///
    /// # Errors
    /// As there.
    pub fn announce_endpoint(&mut self, entry: &EndpointEntry) -> Result<(), DatapathError> {
        let by_if: HashMap<MapData, u32, [u8; 144]> = self.open(common::EP_IF)?;
        let known = by_if.get(&entry.ifindex, 0).ok();
        let known = known.and_then(|known| EndpointIf::read_from_bytes(&known).ok());
        self.write_endpoint(entry, known.is_none_or(|known| known.attaching != 0))
    }

    fn write_endpoint(
        &mut self,
        entry: &EndpointEntry,
        attaching: bool,
    ) -> Result<(), DatapathError> {
        let mut addresses = [Address::NONE; ADDRESSES_PER_ENDPOINT_MAX];
        for (slot, ip) in addresses.iter_mut().zip(&entry.addresses) {
            *slot = Address::from(*ip);
        }
        let link = EndpointLink {
            ifindex: entry.ifindex,
            workload_mac: entry.workload_mac,
            host_mac: entry.host_mac,
        };
        let interface = EndpointIf {
            addresses,
            endpoint: entry.endpoint,
            workload_mac: entry.workload_mac,
            attaching: attaching.into(),
            reserved: [0; 5],
        };
        let mut by_id: HashMap<MapData, u32, [u8; 16]> = self.open(common::EP_ID)?;
        by_id
            .insert(entry.endpoint, bytes(&link), 0)
            .map_err(map_error(common::EP_ID))?;
        let mut by_if: HashMap<MapData, u32, [u8; 144]> = self.open(common::EP_IF)?;
        by_if
            .insert(entry.ifindex, bytes(&interface), 0)
            .map_err(map_error(common::EP_IF))?;
        self.note(common::EP_ID, Act::Set, (&entry.endpoint, &link));
        self.note(common::EP_IF, Act::Set, (&entry.ifindex, &interface));
        Ok(())
    }

    /// Makes an endpoint unknown: what its programs still see is dropped. An interface that is another
    /// endpoint's by now stays that one's.
    ///
    /// # Errors
    /// If the maps can't be opened; entries that are gone are fine.
    pub fn remove_endpoint(&mut self, endpoint: u32, ifindex: u32) -> Result<(), DatapathError> {
        let mut by_if: HashMap<MapData, u32, [u8; 144]> = self.open(common::EP_IF)?;
        let is_own = |entry: [u8; 144]| {
            EndpointIf::read_from_bytes(&entry).is_ok_and(|entry| entry.endpoint == endpoint)
        };
        if by_if.get(&ifindex, 0).is_ok_and(is_own) {
            let _ = by_if.remove(&ifindex);
            self.note(common::EP_IF, Act::Delete, (&ifindex, NO_VALUE));
        }
        let mut by_id: HashMap<MapData, u32, [u8; 16]> = self.open(common::EP_ID)?;
        let _ = by_id.remove(&endpoint);
        self.note(common::EP_ID, Act::Delete, (&endpoint, NO_VALUE));
        self.forget_flows(|key| key.endpoint == endpoint)
    }
}
