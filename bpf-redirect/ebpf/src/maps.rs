//! The maps. Names, sizes, keys and values: `bpf-redirect/common`.

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, bpf_map_type},
    btf_maps::{Array, HashMap, HashOfMaps, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SockMap},
    helpers::generated::bpf_get_local_storage,
    macros::btf_map,
};
use bpf_redirect_common as common;
use bpf_redirect_common::{
    Address, AskerKey, AskerValue, CG_ASKERS_MAX, CG_SOCKETS_MAX, CT_MAX, CgroupEndpoint, Config,
    CtKey, CtValue, DNS_PORTS_WORDS, ENDPOINTS_MAX, EVENT_RING_BYTES, EndpointAddress, EndpointIf, EndpointLink,
    EventBudget, FRAGMENTS_MAX, FirstFragment, FragmentKey, LEARNED_MAX, Listeners, NEIGHBOURS_MAX,
    NEXT_HOPS_MAX, NextHop, POLICY_SLOTS,
    PREFIXES_MAX, PolicyKey, PolicyValue, SERVICES_MAX, ServiceKey, ServiceValue, SocketServer,
    UPSTREAM_FRAGMENTS_MAX, UPSTREAM_TCP_MAX, UPSTREAM_UDP_MAX, UpstreamKey,
};

const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

/// An array of one, not the value itself: Linux 6.1 takes an inner map only if it and its template have
/// no timer in the same way, and a structure that is described has none otherwise than what is not.
pub type PolicyMap = HashMap<PolicyKey, [PolicyValue; 1], POLICY_SLOTS, NO_PREALLOC>;

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
pub static FRAGMENT: LruHashMap<FragmentKey, FirstFragment, FRAGMENTS_MAX> = LruHashMap::new();
#[btf_map]
pub static NEIGHBOUR: LruHashMap<EndpointAddress, u32, NEIGHBOURS_MAX> = LruHashMap::new();
#[btf_map]
pub static CT: HashMap<CtKey, CtValue, CT_MAX, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static CT_USE: HashMap<u32, u64, ENDPOINTS_MAX, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static LEARNED: HashMap<EndpointAddress, u32, LEARNED_MAX, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static IPCACHE: LpmTrie<Address, u32, PREFIXES_MAX> = LpmTrie::new();
#[btf_map]
pub static SERVICES: HashMap<ServiceKey, ServiceValue, SERVICES_MAX, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static DNS_PORTS: Array<u64, DNS_PORTS_WORDS> = Array::new();
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

#[btf_map]
pub static CG_ENDPOINT: AttachedCgroup<CgroupEndpoint> = AttachedCgroup::new();
#[btf_map]
pub static CG_ID: HashMap<u64, CgroupEndpoint, ENDPOINTS_MAX> = HashMap::new();
#[btf_map]
pub static CG_LISTEN: Array<Listeners, 1> = Array::new();
#[btf_map]
pub static CG_SOCKET: LruHashMap<u64, SocketServer, CG_SOCKETS_MAX> = LruHashMap::new();
#[btf_map]
pub static CG_ASKER: LruHashMap<AskerKey, AskerValue, CG_ASKERS_MAX> = LruHashMap::new();

/// Storage of the cgroup that a program is attached to, one for all its programs (`BPF_MAP_TYPE_CGROUP_STORAGE`
/// with a `u64` key, Linux 5.9). The one of aya-ebpf has one for each kind of program, each of which would
/// begin as nobody's.
#[repr(C)]
pub struct AttachedCgroup<V> {
    r#type: *const [i32; bpf_map_type::BPF_MAP_TYPE_CGROUP_STORAGE_DEPRECATED as usize],
    key: *const u64,
    value: *const V,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; 0],
}

// SAFETY: the fields are read by the loader alone, as types.
unsafe impl<V> Sync for AttachedCgroup<V> {}

impl<V> AttachedCgroup<V> {
    const fn new() -> Self {
        use core::ptr::null;
        Self { r#type: null(), key: null(), value: null(), max_entries: null(), map_flags: null() }
    }

    /// The value: the kernel makes it with the first attachment, all zero.
    #[inline(always)]
    pub fn get_ptr(&self) -> *const V {
        // SAFETY: a helper that can't fail; the kernel looks which cgroup the running program is attached to.
        unsafe { bpf_get_local_storage(core::ptr::from_ref(self).cast_mut().cast(), 0) }.cast()
    }
}

/// A key as a map is asked by it: Linux 6.1 takes none from what a function was given by pointer.
#[inline(always)]
pub fn on_stack<K: Copy>(key: &K) -> K {
    // SAFETY: a reference may be read. Volatile, so that the compiler keeps the copy.
    unsafe { core::ptr::read_volatile(key) }
}
