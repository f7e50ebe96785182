//! Names and sizes of the maps, and the constants that programs and user space agree on.

/// Raised with every change of a key, a value or a meaning; pins of another layout are not taken.
pub const LAYOUT_VERSION: u32 = 9;

/// Direction: into the endpoint.
pub const INGRESS: u8 = 0;
/// Direction: out of the endpoint.
pub const EGRESS: u8 = 1;

/// The port of DNS, host byte order: what a workload asks there is a question wherever policy redirects it.
pub const DNS_PORT: u16 = 53;

/// The further ports that DNS rules name: bit `port % 64` of word `port / 64`. A packet to one of them is
/// never a reply.
pub const DNS_PORTS: &str = "DNS_PORTS";
/// Words of [`DNS_PORTS`], one bit for each port there is.
pub const DNS_PORTS_WORDS: usize = 65_536 / 64;
/// How many further ports there may be: each has a socket in the gate and a thread. Beyond, the snapshot is
/// refused, and what was in force stays.
pub const DNS_PORTS_MAX: usize = 16;

/// Marks, the node's end of the side link, the layout: one [`crate::Config`].
pub const CONFIG: &str = "CONFIG";
/// Interface index to [`crate::EndpointIf`].
pub const EP_IF: &str = "EP_IF";
/// Endpoint to [`crate::EndpointLink`].
pub const EP_ID: &str = "EP_ID";
/// [`crate::EndpointAddress`] to [`crate::NextHop`].
pub const NEXT_HOP: &str = "NEXT_HOP";
/// Upstream flows over UDP: [`crate::UpstreamKey`] to a number of no meaning.
pub const UP_UDP: &str = "UP_UDP";
/// Upstream flows over TCP.
pub const UP_TCP: &str = "UP_TCP";
/// Fragmented answers of upstream flows: [`crate::FragmentKey`] to when the first fragment came, in
/// nanoseconds since boot.
pub const UP_FRAGMENT: &str = "UP_FRAGMENT";
/// First fragments that passed, either way: [`crate::FragmentKey`] to [`crate::FirstFragment`].
pub const FRAGMENT: &str = "FRAGMENT";
/// Who showed an endpoint by neighbour discovery that he is on its link: [`crate::EndpointAddress`] to a
/// number of no meaning.
pub const NEIGHBOUR: &str = "NEIGHBOUR";
/// [`crate::CtKey`] to [`crate::CtValue`].
pub const CT: &str = "CT";
/// Endpoint to how many flows of [`CT`] are its own: counted up by the programs, set right by each sweep.
pub const CT_USE: &str = "CT_USE";
/// [`crate::EndpointAddress`] to identity.
pub const LEARNED: &str = "LEARNED";
/// Prefix to identity; the longest wins.
pub const IPCACHE: &str = "IPCACHE";
/// [`crate::ServiceKey`] to [`crate::ServiceValue`].
pub const SERVICES: &str = "SERVICES";
/// Endpoint to its map of [`crate::PolicyKey`] to [`crate::PolicyValue`].
pub const POLICY: &str = "POLICY";
/// Ring buffer of [`crate::Event`].
pub const EVENTS: &str = "EVENTS";
/// Endpoint to [`crate::EventBudget`].
pub const EVENT_BUDGET: &str = "EVENT_BUDGET";
/// A cgroup's own storage: which endpoint's it is, see [`crate::CgroupEndpoint`]. An attached program
/// sees the one of the cgroup that it is attached to.
pub const CG_ENDPOINT: &str = "CG_ENDPOINT";
/// Number of a cgroup to [`crate::CgroupEndpoint`]: the same, to be listed.
pub const CG_ID: &str = "CG_ID";
/// Where the DNS proxy listens on the node: one [`crate::Listeners`].
pub const CG_LISTEN: &str = "CG_LISTEN";
/// Cookie of a socket of a cgroup to [`crate::SocketServer`], the DNS server that it means.
pub const CG_SOCKET: &str = "CG_SOCKET";
/// [`crate::AskerKey`] to [`crate::AskerValue`]: who sent a query to the DNS proxy on the node.
pub const CG_ASKER: &str = "CG_ASKER";
/// Place 0: a daemon's listener for all redirected TCP ports but [`DNS_PORT`]. The daemon's own: not pinned.
pub const LISTENER: &str = "LISTENER";
/// Per CPU: drops by reason and a few more, see [`crate::Counter`].
pub const COUNTERS_MAP: &str = "COUNTERS";

/// Endpoints of a node; one more is refused.
pub const ENDPOINTS_MAX: usize = 4_096;
/// Remembered next hops; the least recently used is forgotten, the last unicast one stands in.
pub const NEXT_HOPS_MAX: usize = 16_384;
/// Upstream flows over UDP; an evicted one loses its answer.
pub const UPSTREAM_UDP_MAX: usize = 65_536;
/// Upstream flows over TCP; an evicted one loses its connection.
pub const UPSTREAM_TCP_MAX: usize = 16_384;
/// Answers that come in fragments at one time; the least recently used one loses what is still to come.
pub const UPSTREAM_FRAGMENTS_MAX: usize = 4_096;
/// Packets that pass in fragments at one time; of the least recently used one the later fragments are judged
/// without ports.
pub const FRAGMENTS_MAX: usize = 8_192;
/// Addresses on the links of endpoints; of the least recently used one the endpoint asks its group again.
pub const NEIGHBOURS_MAX: usize = 16_384;
/// How long later fragments may follow the first one.
pub const FRAGMENTS_AGE_NS_MAX: u64 = 2_000_000_000;
/// Flows that were judged; beyond, a new flow is dropped.
pub const CT_MAX: usize = 131_072;
/// Flows of one endpoint, so that a flood of one leaves room for the others; beyond, a new flow of this
/// endpoint is dropped.
pub const CT_PER_ENDPOINT_MAX: usize = CT_MAX / 4;
/// Learned addresses of all endpoints; beyond, the answer becomes SERVFAIL.
pub const LEARNED_MAX: usize = 262_144;
/// Prefixes; a snapshot with more is refused.
pub const PREFIXES_MAX: usize = 65_536;
/// Virtual addresses and ports of services; beyond, the rest is judged by the virtual address alone.
pub const SERVICES_MAX: usize = 16_384;
/// Policy entries of one endpoint; beyond, SERVFAIL, or the snapshot is refused.
pub const POLICY_ENTRIES_MAX: usize = 16_384;
/// What an endpoint's policy map has room for at first: as much again as it needs, and no less than this. A
/// full one is replaced by a larger one.
pub const POLICY_SLOTS_MIN: usize = 256;
/// What an endpoint's policy map has room for at most: the entries, and the lengths of ports of each
/// direction.
pub const POLICY_SLOTS: usize = POLICY_ENTRIES_MAX + 2;
/// Sockets of cgroups that ask for names; of the least recently used one, what it sends to the proxy is
/// dropped, and it sees the proxy's address.
pub const CG_SOCKETS_MAX: usize = 65_536;
/// Queries of cgroups on their way to the proxy; the least recently used one is nobody's, and not answered.
pub const CG_ASKERS_MAX: usize = 65_536;
/// Bytes of the event ring; beyond, events are lost and counted.
pub const EVENT_RING_BYTES: usize = 1 << 20;
/// Events of one endpoint in a second; beyond, they are counted and not told.
pub const EVENTS_PER_SECOND_MAX: u64 = 2_000;
/// Traces of one endpoint in a second, of those events: the rest is kept for verdicts and drops. Beyond,
/// they are counted and not told.
pub const TRACES_PER_SECOND_MAX: u64 = 1_000;
/// How often a flow that lives is told of, in each direction.
pub const TRACE_SECS: u32 = 5;
/// IPv6 extension headers that are walked; a packet with more is dropped.
pub const EXTENSION_HEADERS_MAX: usize = 6;
