//! Links, addresses, routes and rules of the calling thread's namespace, by netlink.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};

use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoVeth, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::nsid::{NsidAttribute, NsidMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMetric, RouteScope, RouteType};
use rtnetlink::packet_route::rule::RuleAction;
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcMessage, TcOption};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::runtime::{Builder, Runtime};

use crate::NetNs;

/// A netlink request that failed, and what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The netlink socket could not be made.
    #[error("netlink: {0}")]
    Socket(#[from] io::Error),
    /// The kernel refused.
    #[error("{what}: {source}")]
    Refused {
        /// What was asked, in `ip`'s words.
        what: String,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// There is no such link.
    #[error("no link named {0}")]
    Missing(String),
}

impl LinkError {
    /// The kernel's error number, if it answered with one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused {
                source: rtnetlink::Error::NetlinkError(message),
                ..
            } => message.code.map(|code| code.get().abs()),
            Self::Refused { .. } | Self::Missing(_) => None,
            Self::Socket(error) => error.raw_os_error(),
        }
    }
}

/// What is known of a link.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Link {
    /// Its index in this namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address, if it has one.
    pub mac: Option<[u8; 6]>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The index of its peer (veth) or lower device.
    pub peer: Option<u32>,
    /// The id, in this namespace, of the namespace that the peer is in; `None`: the same one.
    pub peer_netns_id: Option<i32>,
    /// `veth`, `bridge`, `tun` …; empty for physical and loopback devices.
    pub kind: String,
    /// Loopback device.
    pub loopback: bool,
    /// Administratively up.
    pub up: bool,
}

/// A veth pair to be made.
#[derive(Clone, Debug)]
pub struct Veth<'a> {
    /// The end in this namespace.
    pub name: &'a str,
    /// The other end.
    pub peer: &'a str,
    /// Where the other end goes.
    pub peer_ns: &'a NetNs,
    /// The other end's MAC; `None`: the kernel's choice.
    pub peer_mac: Option<[u8; 6]>,
    /// The other end's number there; `None`: the kernel's choice.
    pub peer_index: Option<u32>,
    /// MTU of both ends in bytes.
    pub mtu: u32,
    /// Neighbour resolution on both ends.
    pub arp: bool,
}

/// A route to be made.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The destination's prefix.
    pub to: (IpAddr, u8),
    /// The next hop, if it isn't on the link.
    pub via: Option<IpAddr>,
    /// The link.
    pub link: u32,
    /// The table; 254 is main.
    pub table: u32,
    /// Deliver locally.
    pub local: bool,
    /// A path MTU that the kernel must not change.
    pub mtu: Option<u32>,
}

/// A filter of a link's clsact qdisc.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    /// On what comes in by the link; else on what goes out.
    pub ingress: bool,
    /// The lower ones run first.
    pub preference: u16,
    /// `bpf`, `flower` ….
    pub kind: String,
    /// The program's name, of a BPF filter.
    pub program: Option<String>,
    /// The kernel's number for that program.
    pub program_id: Option<u32>,
}

/// A netlink socket in the namespace of the thread that made it.
pub struct Netlink {
    runtime: Runtime,
    handle: rtnetlink::Handle,
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// If the socket can't be made.
    pub fn open() -> Result<Self, LinkError> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let (connection, handle, _) = {
            let _inside = runtime.enter();
            rtnetlink::new_connection()?
        };
        runtime.spawn(connection);
        Ok(Self { runtime, handle })
    }

    /// Makes a veth pair, both ends down.
    ///
    /// # Errors
    /// If a name is taken, or the kernel refuses.
    pub fn add_veth(&self, veth: &Veth<'_>) -> Result<(), LinkError> {
        let mut peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(veth.peer.to_owned())
            .mtu(veth.mtu)
            .arp(veth.arp)
            .setns_by_fd(veth.peer_ns.as_fd().as_raw_fd());
        if let Some(mac) = veth.peer_mac {
            peer = peer.address(mac.to_vec());
        }
        if let Some(index) = veth.peer_index {
            peer = peer.index(index);
        }
        let link = LinkVeth::new(veth.name, veth.peer)
            .mtu(veth.mtu)
            .arp(veth.arp)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())))
            .build();
        self.ask(
            format!("link add {} type veth", veth.name),
            self.handle.link().add(link).execute(),
        )
    }

    /// Makes a bridge, down.
    ///
    /// # Errors
    /// If the name is taken, or the kernel refuses.
    pub fn add_bridge(&self, name: &str) -> Result<(), LinkError> {
        let link = LinkBridge::new(name).build();
        self.ask(
            format!("link add {name} type bridge"),
            self.handle.link().add(link).execute(),
        )
    }

    /// Changes a link: name it, then say what becomes of it.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn set(&self, what: String, message: LinkMessage) -> Result<(), LinkError> {
        self.ask(what, self.handle.link().set(message).execute())
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn up(&self, index: u32) -> Result<(), LinkError> {
        self.set(
            format!("link set {index} up"),
            LinkUnspec::new_with_index(index).up().build(),
        )
    }

    /// Gives a link an Ethernet address.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_mac(&self, index: u32, mac: [u8; 6]) -> Result<(), LinkError> {
        let message = LinkUnspec::new_with_index(index)
            .address(mac.to_vec())
            .build();
        self.set(format!("link set {index} address"), message)
    }

    /// Puts a link into a bridge.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_master(&self, index: u32, bridge: u32) -> Result<(), LinkError> {
        let message = LinkUnspec::new_with_index(index).controller(bridge).build();
        self.set(format!("link set {index} master {bridge}"), message)
    }

    /// Sets a link's alias, the text that `ip link` shows beside its name.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_alias(&self, index: u32, alias: &str) -> Result<(), LinkError> {
        let message = LinkUnspec::new_with_index(index).alias(alias).build();
        self.set(format!("link set {index} alias {alias}"), message)
    }

    /// Keeps the kernel from giving the link IPv6 addresses of its own.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn no_ipv6_addresses(&self, index: u32) -> Result<(), LinkError> {
        let mode = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let message = LinkUnspec::new_with_index(index)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![mode]))
            .build();
        self.set(format!("link set {index} addrgenmode none"), message)
    }

    /// Removes a link.
    ///
    /// # Errors
    /// If there is none, or the kernel refuses.
    pub fn delete(&self, index: u32) -> Result<(), LinkError> {
        self.ask(
            format!("link del {index}"),
            self.handle.link().del(index).execute(),
        )
    }

    /// All links.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn links(&self) -> Result<Vec<Link>, LinkError> {
        let messages: Vec<LinkMessage> = self.ask(
            "link show".to_owned(),
            self.handle.link().get().execute().try_collect(),
        )?;
        Ok(messages.iter().map(read_link).collect())
    }

    /// The link with this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn link(&self, name: &str) -> Result<Link, LinkError> {
        self.links()?
            .into_iter()
            .find(|link| link.name == name)
            .ok_or_else(|| LinkError::Missing(name.to_owned()))
    }

    /// Gives a link an address; an IPv6 one is usable at once (`nodad`).
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn add_address(&self, index: u32, address: IpAddr, prefix: u8) -> Result<(), LinkError> {
        use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
        let mut request = self.handle.address().add(index, address, prefix);
        if address.is_ipv6() {
            request
                .message_mut()
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        self.ask(
            format!("addr add {address}/{prefix} dev {index}"),
            request.execute(),
        )
    }

    /// All addresses, with the index of their link.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn addresses(&self) -> Result<Vec<(u32, IpAddr)>, LinkError> {
        use rtnetlink::packet_route::address::AddressAttribute;
        let messages: Vec<_> = self.ask(
            "addr show".to_owned(),
            self.handle.address().get().execute().try_collect(),
        )?;
        Ok(messages
            .iter()
            .filter_map(|message| {
                // On a point-to-point link `Address` is the peer; `Local` is ours.
                let (mut local, mut address) = (None, None);
                for attribute in &message.attributes {
                    if let AddressAttribute::Local(ip) = attribute {
                        local = Some(*ip);
                    } else if let AddressAttribute::Address(ip) = attribute {
                        address = Some(*ip);
                    }
                }
                Some((message.header.index, local.or(address)?))
            })
            .collect())
    }

    /// The filters of a link's clsact qdisc, in the order in which they run; none where there is no
    /// such qdisc.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn filters(&self, index: u32) -> Result<Vec<Filter>, LinkError> {
        let of = || self.handle.traffic_filter(index.cast_signed());
        let mut filters = Vec::new();
        for (ingress, request) in [(true, of().get().ingress()), (false, of().get().egress())] {
            let side = if ingress { "ingress" } else { "egress" };
            let what = format!("filter show dev {index} {side}");
            let messages: Vec<TcMessage> = self.ask(what, request.execute().try_collect())?;
            // A filter's head has no handle of its own.
            let real = messages
                .iter()
                .filter(|one| u32::from(one.header.handle) != 0);
            filters.extend(real.map(|message| read_filter(message, ingress)));
        }
        Ok(filters)
    }

    /// Adds a route.
    ///
    /// # Errors
    /// If it exists, or the kernel refuses.
    pub fn add_route(&self, route: &Route) -> Result<(), LinkError> {
        let (to, prefix) = route.to;
        let mut message = match (to, route.via) {
            (IpAddr::V4(to), via) => {
                let mut builder =
                    RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, prefix);
                if let Some(IpAddr::V4(via)) = via {
                    builder = builder.gateway(via);
                } else {
                    builder = builder.scope(RouteScope::Link);
                }
                builder
                    .output_interface(route.link)
                    .table_id(route.table)
                    .build()
            }
            (IpAddr::V6(to), via) => {
                let mut builder =
                    RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to, prefix);
                if let Some(IpAddr::V6(via)) = via {
                    builder = builder.gateway(via);
                }
                builder
                    .output_interface(route.link)
                    .table_id(route.table)
                    .build()
            }
        };
        if route.local {
            message.header.kind = RouteType::Local;
            message.header.scope = RouteScope::Host;
        }
        if let Some(mtu) = route.mtu {
            // RTAX_LOCK is a bit set of the metrics that must not change; RTAX_MTU is number 2.
            let metrics = vec![RouteMetric::Lock(1 << 2), RouteMetric::Mtu(mtu)];
            message.attributes.push(RouteAttribute::Metrics(metrics));
        }
        self.ask(
            format!(
                "route add {to}/{prefix} dev {} table {}",
                route.link, route.table
            ),
            self.handle.route().add(message).replace().execute(),
        )
    }

    /// Adds a rule: what comes in by this link is looked up in this table.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn add_rule(&self, link: &str, table: u32, priority: u32) -> Result<(), LinkError> {
        let rule = || {
            self.handle
                .rule()
                .add()
                .input_interface(link)
                .table_id(table)
                .priority(priority)
                .action(RuleAction::ToTable)
        };
        self.ask(
            format!("rule add iif {link} lookup {table}"),
            rule().v4().execute(),
        )?;
        self.ask(
            format!("-6 rule add iif {link} lookup {table}"),
            rule().v6().execute(),
        )
    }

    /// The number by which this namespace knows another one (`IFLA_LINK_NETNSID` of links whose peer
    /// is there); `None` if it has none.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn netns_id(&self, ns: &NetNs) -> Result<Option<i32>, LinkError> {
        let mut message = NsidMessage::default();
        message.attributes = vec![NsidAttribute::Fd(ns.as_fd().as_raw_fd().cast_unsigned())];
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(message));
        request.header.flags = NLM_F_REQUEST;
        let mut handle = self.handle.clone();
        self.ask("netns list-id".to_owned(), async move {
            let mut answers = handle.request(request)?;
            while let Some(answer) = answers.next().await {
                if let NetlinkPayload::Error(error) = answer.payload {
                    return Err(rtnetlink::Error::NetlinkError(error));
                }
                if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(message)) =
                    answer.payload
                {
                    return Ok(message.attributes.iter().find_map(|attribute| {
                        if let NsidAttribute::Id(id) = attribute {
                            Some(*id).filter(|id| *id >= 0)
                        } else {
                            None
                        }
                    }));
                }
            }
            Ok(None)
        })
    }

    fn ask<T>(
        &self,
        what: String,
        request: impl Future<Output = Result<T, rtnetlink::Error>>,
    ) -> Result<T, LinkError> {
        self.runtime
            .block_on(request)
            .map_err(|source| LinkError::Refused { what, source })
    }
}

fn read_filter(message: &TcMessage, ingress: bool) -> Filter {
    let mut filter = Filter {
        ingress,
        // The kernel packs it with the protocol.
        preference: u16::try_from(message.header.info >> 16).unwrap_or(u16::MAX),
        kind: String::new(),
        program: None,
        program_id: None,
    };
    for attribute in &message.attributes {
        if let TcAttribute::Kind(kind) = attribute {
            filter.kind.clone_from(kind);
        } else if let TcAttribute::Options(options) = attribute {
            for option in options {
                if let TcOption::Bpf(TcFilterBpfOption::ProgName(name)) = option {
                    filter.program = Some(name.clone());
                } else if let TcOption::Bpf(TcFilterBpfOption::ProgId(id)) = option {
                    filter.program_id = Some(*id);
                }
            }
        }
    }
    filter
}

fn read_link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        loopback: message.header.flags.contains(LinkFlags::Loopback),
        up: message.header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            link.name.clone_from(name);
        } else if let LinkAttribute::Mtu(mtu) = attribute {
            link.mtu = *mtu;
        } else if let LinkAttribute::Address(mac) = attribute {
            link.mac = mac.as_slice().try_into().ok();
        } else if let LinkAttribute::Link(peer) = attribute {
            link.peer = Some(*peer);
        } else if let LinkAttribute::LinkNetNsId(id) = attribute {
            link.peer_netns_id = Some(*id);
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            for info in infos {
                if let LinkInfo::Kind(kind) = info {
                    link.kind = kind.to_string();
                }
            }
        }
    }
    link
}
