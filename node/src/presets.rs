//! Policies that options stand for.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use dnsproxy::Encrypted;
use ipnet::IpNet;
use policy::{Loader, Problem, Source};
use serde_json::{Value, json};

pub(crate) use resolvers::Resolvers;

mod resolvers;

/// The name that problems and rules have in place of a file's.
const ENCRYPTED_DNS_FILE: &str = "--encrypted-dns";

/// The DNS servers that a workload asks whose rules have `toFQDNs` and no DNS rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum DnsServers {
    /// The cluster's own.
    #[default]
    KubeDns,
    /// None: such a workload needs a DNS rule.
    None,
    /// Those at these addresses.
    At(Vec<IpNet>),
}

const KUBE_DNS: &str = "kube-dns";
const NONE: &str = "none";
/// The shortest prefixes by which servers are named closely enough to learn from.
const PREFIX_V4_MIN: u8 = 24;
const PREFIX_V6_MIN: u8 = 64;

impl FromStr for DnsServers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            KUBE_DNS => Ok(Self::KubeDns),
            NONE => Ok(Self::None),
            _ => Ok(Self::At(
                text.split(',')
                    .map(parse_server)
                    .collect::<Result<_, _>>()?,
            )),
        }
    }
}

/// One server, or a network of servers.
pub(crate) fn parse_server(text: &str) -> Result<IpNet, String> {
    let prefix = address_or_prefix(text).ok_or_else(|| {
        format!("{text:?} is neither an address nor a prefix (as 9.9.9.9 or 10.0.0.0/24)")
    })?;
    let min = match prefix {
        IpNet::V4(_) => PREFIX_V4_MIN,
        IpNet::V6(_) => PREFIX_V6_MIN,
    };
    if prefix.prefix_len() < min {
        return Err(format!(
            "{text}: a prefix of DNS servers is at least /{PREFIX_V4_MIN} (IPv6: /{PREFIX_V6_MIN})"
        ));
    }
    Ok(prefix)
}

/// A prefix; an address is one of its own length.
pub(crate) fn address_or_prefix(text: &str) -> Option<IpNet> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse()).ok()
}

impl fmt::Display for DnsServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KubeDns => f.write_str(KUBE_DNS),
            Self::None => f.write_str(NONE),
            Self::At(servers) => {
                let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
                f.write_str(&servers.join(","))
            }
        }
    }
}

impl DnsServers {
    /// A loader of policies where workloads with `toFQDNs` and no DNS rule ask these servers.
    ///
    /// # Errors
    /// Never for servers that were read from text.
    pub(crate) fn loader(&self) -> Result<Loader, Vec<Problem>> {
        match self.policy() {
            Some(source) => Loader::new().with_lookup(source),
            None => Ok(Loader::new()),
        }
    }

    /// What they say as a policy, which closes nothing.
    fn policy(&self) -> Option<Source> {
        let mut rule = match self {
            Self::None => return None,
            Self::KubeDns => json!({ "toEndpoints": [{ "matchLabels": {
                "k8s:io.kubernetes.pod.namespace": "kube-system", "k8s-app": "kube-dns",
            }}]}),
            Self::At(servers) => json!({ "toCIDR": servers }),
        };
        if let Value::Object(rule) = &mut rule {
            let ports = json!([{
                "ports": [{ "port": "53", "protocol": "ANY" }],
                "rules": { "dns": [{ "matchPattern": "*" }] },
            }]);
            rule.insert("toPorts".to_owned(), ports);
        }
        let policy = json!({
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumClusterwideNetworkPolicy",
            "metadata": { "name": "dns-servers" },
            "spec": {
                "endpointSelector": {},
                "enableDefaultDeny": { "egress": false, "ingress": false },
                "egress": [rule],
            },
        });
        Some(Source {
            path: format!("--dns-servers {self}"),
            text: policy.to_string(),
        })
    }
}

/// What `--encrypted-dns` says as a policy; what is only reported is audited. DNS over TLS (RFC 7858) and over
/// QUIC (RFC 9250) is spoken at port 853; over HTTPS (RFC 8484) at 443, where resolvers are told by their
/// addresses.
pub(crate) fn of(encrypted: Encrypted, resolvers: &[IpNet]) -> Option<Source> {
    let audit = match encrypted {
        Encrypted::Allow => return None,
        Encrypted::Report => "true",
        Encrypted::Block => "false",
    };
    let at = |port: &str| {
        let both = ["TCP", "UDP"].map(|protocol| json!({ "port": port, "protocol": protocol }));
        json!([{ "ports": both }])
    };
    let mut denied = vec![json!({ "toEntities": ["all"], "toPorts": at("853") })];
    if !resolvers.is_empty() {
        denied.push(json!({ "toCIDR": resolvers, "toPorts": at("443") }));
    }
    let policy = json!({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumClusterwideNetworkPolicy",
        "metadata": { "name": "encrypted-dns", "annotations": { "namegate.io/audit": audit } },
        "spec": {
            "endpointSelector": {},
            "enableDefaultDeny": { "egress": false, "ingress": false },
            "egressDeny": denied,
        },
    });
    Some(Source {
        path: ENCRYPTED_DNS_FILE.to_owned(),
        text: policy.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preset_is_a_policy_that_is_in_force() {
        let shipped = Resolvers::shipped().addresses;
        assert!(of(Encrypted::Allow, &shipped).is_none());
        for (how, addresses, audits) in [
            (Encrypted::Report, &shipped[..], true),
            (Encrypted::Block, &shipped[..], false),
            (Encrypted::Block, &[], false),
        ] {
            let source = of(how, addresses).unwrap();
            assert_eq!(
                source.text.contains(r#""namegate.io/audit":"true""#),
                audits
            );
            assert_eq!(source.text.contains("8.8.8.8/32"), !addresses.is_empty());
            let loaded = policy::load(&[source]);
            assert!(loaded.problems.is_empty(), "{:#?}", loaded.problems);
            assert_eq!(loaded.set.iter().count(), 1);
            assert!(loaded.set.lacking(crate::run::ENFORCED).is_empty());
        }
    }

    #[test]
    fn servers_are_read_and_become_a_policy_of_their_own() {
        for text in [
            "kube-dns",
            "none",
            "9.9.9.9/32",
            "10.0.0.0/24,2001:db8::/64",
        ] {
            let servers: DnsServers = text.parse().unwrap();
            assert_eq!(servers.to_string(), text);
            servers.loader().unwrap();
        }
        assert_eq!(DnsServers::default().to_string(), "kube-dns");
        assert_eq!("9.9.9.9".parse(), "9.9.9.9/32".parse::<DnsServers>());
        for (text, reason) in [
            ("", "neither an address nor a prefix"),
            ("9.9.9.9,", "neither an address nor a prefix"),
            ("dns.example", "neither an address nor a prefix"),
            ("10.0.0.0/23", "at least /24"),
            ("2001:db8::/63", "at least /24 (IPv6: /64)"),
        ] {
            let error = text.parse::<DnsServers>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
