//! Which addresses no answer opens beside those that policy never lets one open, by the node's options:
//! against names of the outside that point at what is inside (DNS rebinding).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bpf_redirect::Table;
use dnsproxy::Lesson;
use fqdn::Name;
use ipnet::{IpNet, Ipv6Net};
use policy::{AddressClass, EndpointId, L4Protocol, Snapshot, embedded_v4};

use super::Learner;
use crate::presets::address_or_prefix;

/// The options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scruples {
    /// Whether private addresses stay closed: names of the inside have them too.
    pub(crate) refuses_private: bool,
    /// Whether an answer with an address that may not be learned becomes SERVFAIL; else it passes, and the
    /// address stays closed.
    pub(crate) withholds: bool,
    /// Prefixes of the cluster's pods and services: their identities come from labels.
    pub(crate) cluster: Vec<IpNet>,
    /// Prefixes by which translators of this network make IPv4 addresses into IPv6 (RFC 6052), beside the
    /// well-known ones.
    pub(crate) nat64: Vec<Ipv6Net>,
    /// The only servers that teach; absent: those that a DNS rule names closely.
    pub(crate) trusted_servers: Option<Vec<IpNet>>,
    /// Whether an address is also that of the names that the chain to it went through.
    pub(crate) learns_aliases: bool,
}

/// Words of classes that options and rules make.
const PRIVATE: &str = "private";
const DENIED: &str = "denied";
/// Who gave an answer that opens nothing.
const UNTRUSTED_SERVER: &str = "untrusted-server";
/// An answer's addresses that are told one by one; of the rest, how many there are.
const UNLEARNED_TOLD_MAX: usize = 8;

/// Prefix lengths of RFC 6052 §2.2.
const NAT64_LENGTHS: [u8; 6] = [32, 40, 48, 56, 64, 96];
/// Octet 8 of such an address is 0, and part of nothing.
const RESERVED_OCTET: usize = 8;

impl Scruples {
    /// Whether an endpoint learns from a server's answers.
    pub(super) fn trust(
        &self,
        snapshot: &Snapshot,
        (endpoint, server, protocol): (EndpointId, SocketAddr, L4Protocol),
    ) -> bool {
        let Some(trusted) = &self.trusted_servers else {
            return snapshot.may_teach(endpoint, server, protocol);
        };
        let address = server.ip().to_canonical();
        trusted.iter().any(|prefix| prefix.contains(&address))
            && snapshot.judges_dns(endpoint, server, protocol)
    }

    /// The names of a lesson's chain that open addresses too, each with its place in it: those that a rule
    /// names. They open what the chain leads to through them, and nothing before.
    pub(super) fn aliases<'a>(
        &self,
        snapshot: &Snapshot,
        lesson: &'a Lesson,
    ) -> Vec<(usize, &'a Name)> {
        let is_named = |(_, alias): &(usize, &Name)| {
            let names = std::iter::once(*alias);
            let address = Ipv4Addr::UNSPECIFIED.into();
            let labels = snapshot.learned_labels(lesson.endpoint, names, address);
            !labels.selectors().is_empty()
        };
        if !self.learns_aliases {
            return Vec::new();
        }
        let aliases = lesson.aliases.iter().enumerate();
        aliases.filter(is_named).collect()
    }

    /// Whether an answer may open an address to an endpoint.
    pub(super) fn allow(&self, snapshot: &Snapshot, opened: (EndpointId, IpAddr)) -> bool {
        self.refusal(snapshot, opened).is_none()
    }

    /// The class of addresses for which none is opened to an endpoint, in a word; `None` if one may be.
    pub(super) fn refusal(
        &self,
        snapshot: &Snapshot,
        (endpoint, address): (EndpointId, IpAddr),
    ) -> Option<&'static str> {
        if let Err(class) = snapshot.may_learn(address) {
            return Some(class.word());
        }
        if self.cluster.iter().any(|prefix| prefix.contains(&address)) {
            return Some(AddressClass::InCluster.word());
        }
        if self.refuses_private && is_private(address) {
            return Some(PRIVATE);
        }
        let IpAddr::V6(v6) = address else {
            return None;
        };
        // What a translator or a tunnel makes into IPv4 is judged as that too, also by rules that deny: the
        // kernel sees the IPv6 address alone.
        let known = embedded_v4(v6).into_iter().flatten();
        let mut embedded = known.chain(self.translated(v6)).map(IpAddr::V4);
        embedded.find_map(|v4| {
            let denied = || snapshot.denies_address(endpoint, v4).then_some(DENIED);
            self.refusal(snapshot, (endpoint, v4)).or_else(denied)
        })
    }

    /// The IPv4 address that a translator of this network makes of one.
    fn translated(&self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        let prefix = self.nat64.iter().find(|prefix| prefix.contains(&address))?;
        let start = usize::from(prefix.prefix_len() / 8);
        let octets = address.octets();
        let places = (start..octets.len()).filter(|place| *place != RESERVED_OCTET);
        let mut embedded = places.filter_map(|place| octets.get(place).copied());
        let mut next = || embedded.next();
        Some([next()?, next()?, next()?, next()?].into())
    }
}

impl<T: Table> Learner<T> {
    /// Why an answer opens nothing, or not all that it names, to an endpoint for which names open addresses:
    /// its server may not teach, or there are addresses of classes that no name opens.
    pub(crate) fn why_unlearned(
        &self,
        asked: (EndpointId, SocketAddr, L4Protocol),
        addresses: impl Iterator<Item = IpAddr>,
    ) -> Option<String> {
        let (snapshot, terms) = (self.snapshot.load(), self.terms.load());
        let mut addresses = addresses.peekable();
        if addresses.peek().is_none() || !snapshot.opens_by_name(asked.0) {
            return None;
        }
        if !terms.scruples.trust(&snapshot, asked) {
            return Some(UNTRUSTED_SERVER.to_owned());
        }
        let refused = |ip| Some((ip, terms.scruples.refusal(&snapshot, (asked.0, ip))?));
        let mut refused = addresses.filter_map(refused);
        let told = refused.by_ref().take(UNLEARNED_TOLD_MAX);
        let told: Vec<String> = told.map(|(ip, class)| format!("{ip} {class}")).collect();
        let more = match refused.count() {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        (!told.is_empty()).then(|| format!("unlearned: {}{more}", told.join(", ")))
    }
}

/// A prefix of a cluster, or an address.
///
/// # Errors
/// If it is no such thing, or all addresses that there are.
pub(crate) fn parse_cluster(text: &str) -> Result<IpNet, String> {
    let prefix = address_or_prefix(text)
        .ok_or_else(|| format!("{text:?} is neither a prefix nor an address (as 10.128.0.0/14)"))?;
    if prefix.prefix_len() == 0 {
        return Err(format!("{text}: no cluster has all addresses"));
    }
    Ok(prefix.trunc())
}

/// A translator's prefix, of a length that the RFC has.
///
/// # Errors
/// If it is no such thing.
pub(crate) fn parse_nat64(text: &str) -> Result<Ipv6Net, String> {
    let prefix: Ipv6Net = text
        .parse()
        .map_err(|_| format!("{text} is no prefix of IPv6"))?;
    if !NAT64_LENGTHS.contains(&prefix.prefix_len()) {
        return Err(format!(
            "{text}: a translator's prefix is of 32, 40, 48, 56, 64 or 96 bits (RFC 6052)"
        ));
    }
    Ok(prefix.trunc())
}

/// Addresses of networks of one's own: RFC 1918, 6598 and 4193.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            v4.is_private() || (first == 100 && second & 0xc0 == 64)
        }
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_is_what_no_router_of_the_internet_knows() {
        let rows = [
            ("10.0.0.1", true),
            ("172.15.255.255", false),
            ("172.16.0.1", true),
            ("172.31.255.255", true),
            ("172.32.0.0", false),
            ("192.168.1.1", true),
            ("100.63.255.255", false),
            ("100.64.0.1", true),
            ("100.127.255.255", true),
            ("100.128.0.0", false),
            ("198.18.0.1", false),
            ("fc00::1", true),
            ("fd12::1", true),
            ("2001:db8::1", false),
        ];
        for (address, expected) in rows {
            assert_eq!(is_private(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn a_translators_address_is_read_as_the_rfc_writes_it() {
        // RFC 6052 §2.4.
        let rows = [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
        ];
        for (prefix, address) in rows {
            let scruples = Scruples {
                nat64: vec![parse_nat64(prefix).unwrap()],
                ..Scruples::default()
            };
            let found = scruples.translated(address.parse().unwrap());
            assert_eq!(found, Some([192, 0, 2, 33].into()), "{prefix}");
        }
        let other = "2001:db9::1".parse().unwrap();
        assert_eq!(Scruples::default().translated(other), None);
        for wrong in ["2001:db8::/33", "10.0.0.0/8", "x"] {
            assert!(parse_nat64(wrong).is_err(), "{wrong}");
        }
    }
}
