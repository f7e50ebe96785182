//! The maps. Names, sizes, keys and values: `bpf-redirect/common`.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, HashOfMaps, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SockMap},
    macros::btf_map,
};
use bpf_redirect_common as common;
use bpf_redirect_common::{
    Address, CT_MAX, Config, CtKey, CtValue, ENDPOINTS_MAX, EVENT_RING_BYTES, EndpointAddress,
    EndpointIf, EndpointLink, EventBudget, FragmentKey, LEARNED_MAX, NEXT_HOPS_MAX, NextHop,
    POLICY_SLOTS, PREFIXES_MAX, PolicyKey, PolicyValue, SERVICES_MAX, ServiceKey, ServiceValue,
    UPSTREAM_FRAGMENTS_MAX, UPSTREAM_TCP_MAX, UPSTREAM_UDP_MAX, UpstreamKey,
};

const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

pub type PolicyMap = HashMap<PolicyKey, PolicyValue, POLICY_SLOTS, NO_PREALLOC>;

#[btf_map]
pub static CONFIG: Array<Config, 1> = Array::new();
#[btf_map]
pub static EP_IF: HashMap<u32, EndpointIf, ENDPOINTS_MAX> = HashMap::new();
#[btf_map]
pub static EP_ID: HashMap<u32, EndpointLink, ENDPOINTS_MAX> = HashMap::new();
#[btf_map]
pub static NEXT_HOP: LruHashMap<EndpointAddress, NextHop, NEXT_HOPS_MAX> = LruHashMap::new();
#[btf_map]
pub static UP_UDP: LruHashMap<UpstreamKey, u32, UPSTREAM_UDP_MAX> = LruHashMap::new();
#[btf_map]
pub static UP_TCP: LruHashMap<UpstreamKey, u32, UPSTREAM_TCP_MAX> = LruHashMap::new();
#[btf_map]
pub static UP_FRAGMENT: LruHashMap<FragmentKey, u64, UPSTREAM_FRAGMENTS_MAX> = LruHashMap::new();
#[btf_map]
pub static CT: HashMap<CtKey, CtValue, CT_MAX, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static LEARNED: HashMap<EndpointAddress, u32, LEARNED_MAX, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static IPCACHE: LpmTrie<Address, u32, PREFIXES_MAX> = LpmTrie::new();
#[btf_map]
pub static SERVICES: HashMap<ServiceKey, ServiceValue, SERVICES_MAX, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static POLICY: HashOfMaps<u32, PolicyMap, ENDPOINTS_MAX> = HashOfMaps::new();
#[btf_map]
pub static EVENTS: RingBuf<(), EVENT_RING_BYTES> = RingBuf::new();
#[btf_map]
pub static EVENT_BUDGET: LruHashMap<u32, EventBudget, ENDPOINTS_MAX> = LruHashMap::new();
#[btf_map]
pub static LISTENER: SockMap<1> = SockMap::new();
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { common::COUNTERS }> = PerCpuArray::new();
