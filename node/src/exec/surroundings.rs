//! What a command finds around it, and what of it has to be another inside: servers of names, and whoever
//! resolves names or reaches the network for others.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Result;
use bpf_redirect_common::DNS_PORT;
use dnsproxy::StandIns;
use httpproxy::Closed;
use rustix::process::{Resource, getrlimit};
use transport::{Netlink, SANDBOX_GATEWAY};

use super::Way;
use super::rules::Rules;

const RESOLV_CONF: &str = "/etc/resolv.conf";
const NSSWITCH_CONF: &str = "/etc/nsswitch.conf";
/// Servers of names that libc asks (`MAXNS` of resolv.h); those that follow it leaves out.
const SERVERS_MAX: usize = 3;
/// Inside, servers that can't be asked by their own address are asked by these, beginning here.
const STAND_INS_FROM: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 53);

/// What was found.
#[derive(Debug)]
pub(super) struct Surroundings {
    pub(super) resolver: Resolver,
    /// The name service switch without those who ask others; `None`: as it is.
    pub(super) nsswitch: Option<String>,
    /// Whether there is a way anywhere by IPv6.
    pub(super) has_ipv6: bool,
    /// How many descriptors a process may have that was called as we were.
    pub(super) descriptors: Option<u64>,
    /// What the proxy doesn't call.
    pub(super) closed: Closed,
}

/// The servers of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resolver {
    /// Inside, the text of resolv.conf.
    pub(super) text: String,
    /// The servers in it.
    pub(super) servers: Vec<IpAddr>,
    /// Which of them stand for others.
    pub(super) stand_ins: StandIns,
}

impl Surroundings {
    /// Looks at the machine, from the namespace that namegate was called in.
    ///
    /// # Errors
    /// If a file can't be read.
    pub(super) fn look(rules: &Rules, (host_ports, way): (&[u16], Way)) -> Result<Self> {
        let resolv_conf = read(RESOLV_CONF)?.unwrap_or_default();
        let nsswitch = read(NSSWITCH_CONF)?;
        let routes = fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap_or_default();
        let own = Netlink::open()?.addresses()?;
        let own: Vec<IpAddr> = own.into_iter().map(|(_, address)| address).collect();
        Ok(Self {
            resolver: match way {
                Way::Cgroup => Resolver::as_they_are(&resolv_conf),
                Way::Tc | Way::Splice => Resolver::of(&resolv_conf, &own),
            },
            nsswitch: nsswitch.map(|text| without_go_betweens(&text)),
            has_ipv6: leads_anywhere(&routes),
            descriptors: getrlimit(Resource::Nofile).current,
            closed: Closed {
                but: opened(rules),
                stand_ins: host_ports.iter().map(|port| of_loopback(*port)).collect(),
            },
        })
    }
}

/// Where something is to be mounted: behind links.
pub(super) fn resolv_conf() -> io::Result<PathBuf> {
    Path::new(RESOLV_CONF).canonicalize()
}

/// The same.
pub(super) fn nsswitch_conf() -> io::Result<PathBuf> {
    Path::new(NSSWITCH_CONF).canonicalize()
}

fn read(path: &str) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(anyhow::Error::new(error).context(path.to_owned())),
    }
}

/// By which address a port of the machine's loopback is meant, and where it is.
fn of_loopback(port: u16) -> (SocketAddr, SocketAddr) {
    let (meant, called) = (SANDBOX_GATEWAY.into(), Ipv4Addr::LOCALHOST.into());
    (SocketAddr::new(meant, port), SocketAddr::new(called, port))
}

/// Metadata services, where a rule names just their address.
fn opened(rules: &Rules) -> Vec<IpAddr> {
    let services = policy::METADATA.into_iter();
    services.filter(|one| rules.name_address(*one)).collect()
}

impl Resolver {
    /// As a resolv.conf says, on a machine with these addresses. A server that means something else inside, or
    /// that is the machine itself, is asked by another address; without any it is the local one, as for libc.
    fn of(resolv_conf: &str, own: &[IpAddr]) -> Self {
        let mut resolver = Self {
            text: String::new(),
            servers: Vec::new(),
            stand_ins: StandIns::new(),
        };
        let mut rest = String::new();
        for line in resolv_conf.lines() {
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("nameserver"), Some(server)) => {
                    if let Ok(server) = server.parse::<IpAddr>() {
                        resolver.add(server, own);
                    }
                }
                (Some(word), _) if !word.starts_with(['#', ';']) => {
                    rest.push_str(line);
                    rest.push('\n');
                }
                (Some(_) | None, _) => {}
            }
        }
        if resolver.servers.is_empty() {
            resolver.add(Ipv4Addr::LOCALHOST.into(), own);
        }
        let servers = resolver.servers.iter();
        let lines = servers.map(|server| format!("nameserver {server}\n"));
        resolver.text = lines.collect::<String>() + &rest;
        resolver
    }

    /// In the machine's own network each means what it means there.
    fn as_they_are(resolv_conf: &str) -> Self {
        let own = Self::of(resolv_conf, &[]);
        let stand_ins = &own.stand_ins;
        let meant = |server: &IpAddr| stand_ins.get(server).map_or(*server, SocketAddr::ip);
        Self {
            text: resolv_conf.to_owned(),
            servers: own.servers.iter().map(meant).collect(),
            stand_ins: StandIns::new(),
        }
    }

    fn add(&mut self, server: IpAddr, own: &[IpAddr]) {
        let server = server.to_canonical();
        let is_known = self.servers.contains(&server)
            || self.stand_ins.values().any(|asked| asked.ip() == server);
        if is_known || self.servers.len() == SERVERS_MAX {
            return;
        }
        if policy::class_of(server).is_none() && !own.contains(&server) {
            self.servers.push(server);
            return;
        }
        let step = u32::try_from(self.stand_ins.len()).unwrap_or_default();
        let shown = IpAddr::V4(Ipv4Addr::from_bits(STAND_INS_FROM.to_bits() + step));
        let server = match server {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V4(_) | IpAddr::V6(_) => server,
        };
        self.stand_ins
            .insert(shown, SocketAddr::new(server, DNS_PORT));
        self.servers.push(shown);
    }
}

/// A name service switch whose hosts come from files and DNS alone: other sources ask by way of another
/// process, or of the link.
fn without_go_betweens(nsswitch: &str) -> String {
    let mut text = String::new();
    for line in nsswitch.lines() {
        match line.trim_start().starts_with("hosts:") {
            true => text.push_str("hosts: files dns"),
            false => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

/// Whether one of the kernel's IPv6 routes leads anywhere: by a link that isn't loopback, to more than that
/// link itself.
fn leads_anywhere(routes: &str) -> bool {
    let leads = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [to, prefix, .., flags, link] = words.as_slice() else {
            return None;
        };
        const REJECT: u32 = 0x200;
        let flags = u32::from_str_radix(flags, 16).ok()?;
        let is_of_link = to.starts_with("fe80") || to.starts_with("ff");
        let is_host = *prefix == "80";
        Some(flags & REJECT == 0 && *link != "lo" && !is_of_link && !is_host)
    };
    routes.lines().any(|line| leads(line).unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_another_inside_has_a_stand_in_and_the_rest_stays() {
        let resolver = Resolver::of(
            "# by hand\nsearch corp.example\nnameserver 127.0.0.53\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\nnameserver ::1\nnameserver 192.0.2.54\noptions edns0 trust-ad\n",
            &["192.0.2.53".parse().unwrap()],
        );
        assert_eq!(
            resolver.text,
            "nameserver 169.254.1.53\nnameserver 169.254.1.54\nnameserver 169.254.1.55\nsearch corp.example\noptions edns0 trust-ad\n"
        );
        let stand_ins: Vec<String> = resolver
            .stand_ins
            .iter()
            .map(|(shown, asked)| format!("{shown} {asked}"))
            .collect();
        assert_eq!(
            stand_ins,
            [
                "169.254.1.53 127.0.0.53:53",
                "169.254.1.54 192.0.2.53:53",
                "169.254.1.55 [::1]:53"
            ]
        );
    }

    #[test]
    fn without_a_server_it_is_the_local_one() {
        let resolver = Resolver::of("search corp.example\n", &[]);
        assert_eq!(
            resolver.text,
            "nameserver 169.254.1.53\nsearch corp.example\n"
        );
        let asked: Vec<_> = resolver.stand_ins.values().copied().collect();
        assert_eq!(asked, [SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53)]);
    }

    #[test]
    fn in_the_machines_network_servers_are_asked_by_their_own_addresses() {
        let text = "search corp.example\nnameserver 127.0.0.53\nnameserver 0.0.0.0\nnameserver 192.0.2.53\n";
        let resolver = Resolver::as_they_are(text);
        let wanted = ["127.0.0.53", "127.0.0.1", "192.0.2.53"];
        assert_eq!(
            resolver.servers,
            wanted.map(|one| one.parse::<IpAddr>().unwrap())
        );
        assert_eq!(
            (resolver.text.as_str(), resolver.stand_ins.len()),
            (text, 0)
        );
        let local: IpAddr = Ipv4Addr::LOCALHOST.into();
        assert_eq!(Resolver::as_they_are("").servers, [local]);
    }

    #[test]
    fn hosts_are_asked_of_files_and_dns_alone() {
        let text = "passwd: files systemd\nhosts: mymachines resolve [!UNAVAIL=return] files myhostname dns\nnetworks: files\n";
        assert_eq!(
            without_go_betweens(text),
            "passwd: files systemd\nhosts: files dns\nnetworks: files\n"
        );
    }

    #[test]
    fn ipv6_leads_somewhere_by_a_route_of_more_than_a_link() {
        let line = |to: &str, prefix: &str, flags: &str, link: &str| {
            let zero = "0".repeat(32);
            format!("{to} {prefix} {zero} 00 {zero} 00000400 00000001 00000000 {flags} {link}\n")
        };
        let any = "0".repeat(32);
        let link_local = format!("fe80{}", "0".repeat(28));
        let local = format!("{}1", "0".repeat(31));
        let mut routes = line(&link_local, "40", "00000001", "eth0");
        routes.push_str(&line(&local, "80", "80200001", "lo"));
        routes.push_str(&line(&any, "00", "00200200", "lo"));
        assert!(!leads_anywhere(&routes));
        assert!(leads_anywhere(
            &(routes + &line(&any, "00", "00000003", "eth0"))
        ));
        assert!(!leads_anywhere("nonsense"));
    }
}
