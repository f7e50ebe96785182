//! The policies of a command: those of files, and what `--allow` stands for.

use std::net::IpAddr;

use anyhow::Result;
use ipnet::IpNet;
use policy::{PolicySet, Problem, Source};
use serde_json::{Value, json};
use transport::SANDBOX_GATEWAY;

use super::{Options, Way};
use crate::exit::{EXEC_FAILED, Exit};
use crate::files::TextFile;
use crate::judge::read::{all_files, told};
use crate::presets::DnsServers;
use crate::run::ENFORCED;

/// The name that rules and problems have in place of a file's.
pub(super) const ALLOW: &str = "--allow";
/// By which policies know the server of names: as the cluster's is known, so that a pod's policy fits.
pub(super) const RESOLVER: (&str, (&str, &str)) = ("kube-system", ("k8s-app", "kube-dns"));

/// Policies that can be enforced.
pub(super) struct Rules {
    pub(super) set: PolicySet,
    /// The text of all of them.
    sources: Vec<Source>,
}

impl Rules {
    /// Reads all there is.
    ///
    /// # Errors
    /// If a file can't be read, or a policy has an error: each problem with its place.
    pub(super) fn read(options: &Options, way: Way) -> Result<Self> {
        let files = all_files(&options.policies).map_err(|error| Exit::with(EXEC_FAILED, error))?;
        let mut sources: Vec<Source> = files.into_iter().map(TextFile::into_source).collect();
        sources.extend(of_allowed(&options.allow, way));
        sources.extend(of_ports(&options.host_ports, way));
        sources.extend(options.audit.then(|| of_audit(way)));
        if way == Way::Cgroup {
            let named: Vec<String> = sources.iter().map(|source| source.text.clone()).collect();
            sources.push(of_host(&named));
        }
        let loader = DnsServers::KubeDns.loader();
        let mut loader =
            loader.map_err(|problems| Exit::with(EXEC_FAILED, told(problems.iter())))?;
        let mut loaded = loader.load(&sources);
        loaded.problems.extend(loaded.set.lacking(ENFORCED));
        let mut errors = loaded.problems.iter().filter(|problem| problem.is_error());
        if errors.clone().next().is_some() {
            return Err(Exit::with(EXEC_FAILED, told(&mut errors)));
        }
        for problem in loaded.problems.iter().filter(|problem| !problem.is_error()) {
            warn(problem);
        }
        Ok(Self {
            set: loaded.set,
            sources,
        })
    }

    /// Whether a rule names exactly this address, not only a prefix that it is in.
    pub(super) fn name_address(&self, address: IpAddr) -> bool {
        let mut texts = self.sources.iter().map(|source| source.text.as_str());
        texts.any(|text| names_address(text, address))
    }
}

fn names_address(text: &str, address: IpAddr) -> bool {
    text.contains(&IpNet::from(address).to_string())
}

fn warn(problem: &Problem) {
    tracing::warn!("{problem}");
}

/// What `--allow` says as a policy.
fn of_allowed(allowed: &[String], way: Way) -> Option<Source> {
    if allowed.is_empty() {
        return None;
    }
    let prefix = |one: &String| match (one.parse::<IpNet>(), one.parse::<IpAddr>()) {
        (Ok(prefix), _) => Some(prefix),
        (Err(_), Ok(address)) => Some(IpNet::from(address)),
        (Err(_), Err(_)) => None,
    };
    let prefixes: Vec<String> = allowed
        .iter()
        .filter_map(|one| prefix(one).map(|prefix| prefix.to_string()))
        .collect();
    let names = allowed.iter().filter(|one| prefix(one).is_none());
    let names: Vec<_> = names
        .map(|name| match name.contains('*') {
            true => json!({ "matchPattern": name }),
            false => json!({ "matchName": name }),
        })
        .collect();
    let mut egress = Vec::new();
    if !names.is_empty() {
        egress.extend(asked(&names, way));
        egress.push(json!({ "toFQDNs": names }));
    }
    if !prefixes.is_empty() {
        egress.push(json!({ "toCIDR": prefixes }));
    }
    Some(source((ALLOW, "allow"), (&egress, &[])))
}

/// What `--allow-host-port` says as a policy.
fn of_ports(ports: &[u16], way: Way) -> Option<Source> {
    if ports.is_empty() {
        return None;
    }
    let ports: Vec<_> = ports
        .iter()
        .map(|port| json!({ "port": port.to_string(), "protocol": "TCP" }))
        .collect();
    let to_ports = json!([{ "ports": ports }]);
    let machine = IpNet::from(IpAddr::from(SANDBOX_GATEWAY));
    let rule = match way {
        Way::Cgroup => json!({ "toEntities": ["host"], "toPorts": to_ports }),
        Way::Tc | Way::Splice => json!({ "toCIDR": [machine], "toPorts": to_ports }),
    };
    Some(source(("--allow-host-port", "host-ports"), (&[rule], &[])))
}

/// By which questions come to be judged in an audit where no rule lets one through.
fn of_audit(way: Way) -> Source {
    let nobody = [json!({ "matchName": "audit.namegate.invalid" })];
    source(("--audit", "audit"), (&asked(&nobody, way), &[]))
}

/// What holds in the machine's own network: what no rule allows is closed for what the command sends, whatever
/// else is said, and so are metadata services, but for one whose own address a rule names.
fn of_host(named: &[String]) -> Source {
    let services = policy::METADATA.into_iter();
    let closed = services.filter(|one| !named.iter().any(|text| names_address(text, *one)));
    let closed: Vec<String> = closed.map(|one| IpNet::from(one).to_string()).collect();
    let denied = match closed.is_empty() {
        true => vec![],
        false => vec![json!({ "toCIDR": closed })],
    };
    source(("--net=host", "host"), (&[json!({})], &denied))
}

/// That these names may be asked for. In the machine's own network the server may be the machine.
fn asked(names: &[Value], way: Way) -> Vec<Value> {
    let (namespace, (key, value)) = RESOLVER;
    let ports = json!([{
        "ports": [{ "port": "53", "protocol": "ANY" }],
        "rules": { "dns": names },
    }]);
    let labels = json!({ "k8s:io.kubernetes.pod.namespace": namespace, key: value });
    let server = json!({ "toEndpoints": [{ "matchLabels": labels }], "toPorts": ports });
    match way {
        Way::Cgroup => vec![server, json!({ "toEntities": ["host"], "toPorts": ports })],
        Way::Tc | Way::Splice => vec![server],
    }
}

fn source((path, name): (&str, &str), (egress, denied): (&[Value], &[Value])) -> Source {
    let spec = match denied.is_empty() {
        true => json!({ "endpointSelector": {}, "egress": egress }),
        false => json!({ "endpointSelector": {}, "egress": egress, "egressDeny": denied }),
    };
    let policy = json!({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumClusterwideNetworkPolicy",
        "metadata": { "name": name },
        "spec": spec,
    });
    Source {
        path: path.to_owned(),
        text: format!("{policy:#}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_is_a_policy_that_is_in_force() {
        let allowed = ["github.com", "*.github.com", "192.0.2.7", "2001:db8::/32"];
        for way in [Way::Tc, Way::Cgroup] {
            let source = of_allowed(&allowed.map(str::to_owned), way).unwrap();
            let loaded = policy::load(&[source]);
            assert!(loaded.problems.is_empty(), "{:#?}", loaded.problems);
            assert!(loaded.set.lacking(ENFORCED).is_empty());
            assert!(of_allowed(&[], way).is_none());
        }
    }

    #[test]
    fn in_the_machines_network_metadata_is_closed_unless_a_rule_names_it() {
        let allowed = ["0.0.0.0/0", "169.254.169.254"].map(str::to_owned);
        let all = of_allowed(&allowed[..1], Way::Cgroup).unwrap();
        let own = of_allowed(&allowed, Way::Cgroup).unwrap();
        let closed = of_host(&[all.text]);
        assert!(
            closed.text.contains("169.254.169.254/32"),
            "{}",
            closed.text
        );
        let open = of_host(&[own.text]);
        assert!(!open.text.contains("169.254.169.254/32"), "{}", open.text);
        assert!(open.text.contains("100.100.100.200/32"), "{}", open.text);
        for one in [closed, open] {
            let loaded = policy::load(&[one]);
            assert!(!loaded.has_errors(), "{:#?}", loaded.problems);
        }
    }

    #[test]
    fn a_name_that_is_none_is_refused_with_its_place() {
        let source = of_allowed(&["exa mple.com".to_owned()], Way::Tc).unwrap();
        let loaded = policy::load(&[source]);
        assert!(loaded.has_errors());
        let problem = loaded.problems.first().unwrap().to_string();
        assert!(problem.contains("--allow"), "{problem}");
    }
}
