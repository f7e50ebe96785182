//! The policies of a command: those of files, and what `--allow` stands for.

use std::net::IpAddr;

use anyhow::Result;
use fqdn::{Everything, Pattern};
use ipnet::IpNet;
use policy::{Labels, Loaded, PolicySet, Problem, Source};
use serde_json::{Value, json};
use transport::SANDBOX_GATEWAY;

use super::{Options, Way, network};
use crate::exit::{EXEC_FAILED, Exit};
use crate::files::TextFile;
use crate::judge::read::{all_files, told};
use crate::presets::DnsServers;
use crate::run::ENFORCED;

/// The name that rules and problems have in place of a file's.
pub(super) const ALLOW: &str = "--allow";
/// The same of the rules that close metadata services in the machine's own network.
const METADATA: &str = "--net=host: metadata services";
/// By which policies know the server of names: as the cluster's is known, so that a pod's policy fits.
pub(super) const RESOLVER: (&str, (&str, &str)) = ("kube-system", ("k8s-app", "kube-dns"));

/// Policies that can be enforced.
pub(super) struct Rules {
    pub(super) set: PolicySet,
    /// Those of the command.
    labels: Labels,
}

impl Rules {
    /// Reads all there is.
    ///
    /// # Errors
    /// If a file can't be read, or a policy has an error: each problem with its place.
    pub(super) fn read(options: &Options, way: Way) -> Result<Self> {
        let files = all_files(&options.policies).map_err(|error| Exit::with(EXEC_FAILED, error))?;
        let mut sources: Vec<Source> = files.into_iter().map(TextFile::into_source).collect();
        for one in &options.allow {
            check(one)
                .map_err(|said| Exit::with(EXEC_FAILED, format!("--allow {one:?}: {said}")))?;
        }
        sources.extend(of_allowed(&options.allow, way));
        sources.extend(of_ports(&options.host_ports, way));
        sources.push(of_questions(way));
        sources.extend((way == Way::Cgroup).then(of_host));
        let labels = network::command(options).full_labels();
        let mut loaded = load(&sources)?;
        if way == Way::Cgroup {
            sources.extend(of_metadata(&loaded.set, &labels));
            loaded = load(&sources)?;
            if options.audit {
                loaded.set.audit_all_but(METADATA);
            }
        }
        loaded.problems.iter().for_each(warn);
        Ok(Self {
            set: loaded.set,
            labels,
        })
    }

    /// Whether a rule lets the command reach exactly this address, not only a prefix that it is in.
    pub(super) fn name_address(&self, address: IpAddr) -> bool {
        self.set.names_address(&self.labels, address)
    }
}

/// Loads policies; the problems that are left are warnings.
fn load(sources: &[Source]) -> Result<Loaded> {
    let loader = DnsServers::KubeDns.loader();
    let mut loader = loader.map_err(|problems| Exit::with(EXEC_FAILED, told(problems.iter())))?;
    let mut loaded = loader.load(sources);
    loaded.problems.extend(loaded.set.lacking(ENFORCED));
    let mut errors = loaded.problems.iter().filter(|problem| problem.is_error());
    if errors.clone().next().is_some() {
        return Err(Exit::with(EXEC_FAILED, told(&mut errors)));
    }
    Ok(loaded)
}

fn warn(problem: &Problem) {
    tracing::warn!("{problem}");
}

/// Whether it can be allowed: what is copied from elsewhere may be more than a name.
fn check(allowed: &str) -> Result<(), String> {
    let read = match allowed.contains('*') {
        true => Pattern::parse(allowed, Everything::PlainNames),
        false => Pattern::exact(allowed),
    };
    let Err(error) = read
        .map(drop)
        .or_else(|error| prefix(allowed).map(drop).ok_or(error))
    else {
        return Ok(());
    };
    let rest = allowed.split_once("://").map_or(allowed, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    let has_more = allowed.contains(':') && host != allowed;
    match has_more && (host.parse::<IpAddr>().is_ok() || Pattern::exact(host).is_ok()) {
        true => Err(format!(
            "it is more than a name; write `--allow {host}`, ports and paths are said by rules of --policy"
        )),
        false => Err(format!("no name, pattern, address or prefix: {error}")),
    }
}

/// An address is a prefix too.
fn prefix(text: &str) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse::<IpNet>().ok().or_else(address)
}

/// What `--allow` says as a policy.
fn of_allowed(allowed: &[String], way: Way) -> Option<Source> {
    if allowed.is_empty() {
        return None;
    }
    let prefixes: Vec<String> = allowed
        .iter()
        .filter_map(|one| Some(prefix(one)?.to_string()))
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
    Some(source((ALLOW, "allow"), json!({ "egress": egress })))
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
    let spec = json!({ "egress": [rule] });
    Some(source(("--allow-host-port", "host-ports"), spec))
}

/// By which questions come to be judged, and told by their names, where no other rule lets one through: its own
/// name nobody has.
fn of_questions(way: Way) -> Source {
    let nobody = [json!({ "matchName": "exec.namegate.invalid" })];
    let spec = json!({ "egress": asked(&nobody, way) });
    source(("namegate exec", "questions"), spec)
}

/// What holds in the machine's own network: what no rule allows is closed for what the command sends.
fn of_host() -> Source {
    source(("--net=host", "host"), json!({ "egress": [{}] }))
}

/// Metadata services are closed there whatever else is said, in an audit too, but for one whose own address a
/// rule names. It closes nothing else.
fn of_metadata(set: &PolicySet, labels: &Labels) -> Option<Source> {
    let services = policy::METADATA.into_iter();
    let closed = services.filter(|one| !set.names_address(labels, *one));
    let closed: Vec<IpNet> = closed.map(IpNet::from).collect();
    let spec = json!({
        "enableDefaultDeny": { "egress": false, "ingress": false },
        "egressDeny": [{ "toCIDR": closed }],
    });
    (!closed.is_empty()).then(|| source((METADATA, "metadata"), spec))
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

/// A policy for everybody. `spec` without whom it is about.
fn source((path, name): (&str, &str), mut spec: Value) -> Source {
    if let Value::Object(spec) = &mut spec {
        spec.insert("endpointSelector".to_owned(), json!({}));
    }
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

    /// What closes metadata services where these policies hold too.
    fn closing(texts: &[String]) -> String {
        let sources = texts.iter().enumerate().map(|(number, text)| Source {
            path: format!("{number}.yaml"),
            text: text.clone(),
        });
        let loaded = load(&sources.collect::<Vec<_>>()).unwrap();
        let labels = [("app", "curl"), ("io.kubernetes.pod.namespace", "default")];
        let labels = labels.map(|(key, value)| policy::Label::from_key(key, value));
        let labels: Labels = labels.into_iter().collect();
        let closing = of_metadata(&loaded.set, &labels).unwrap();
        assert!(!policy::load(std::slice::from_ref(&closing)).has_errors());
        closing.text
    }

    #[test]
    fn in_the_machines_network_metadata_is_closed_unless_a_rule_lets_the_command_reach_it() {
        let allowed = ["0.0.0.0/0", "169.254.169.254"].map(str::to_owned);
        let all = of_allowed(&allowed[..1], Way::Cgroup).unwrap().text;
        let own = of_allowed(&allowed, Way::Cgroup).unwrap().text;
        assert!(!closing(&[own]).contains("169.254.169.254/32"));
        let of = |app: &str, rest: &str| {
            format!(
                "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: one}}\n\
                 spec:\n  endpointSelector: {{matchLabels: {{app: {app}}}}}\n{rest}\n"
            )
        };
        let text = "169.254.169.254/32";
        let set = |what: &str| format!("  egress: [{{toCIDRSet: [{what}]}}]");
        for (rule, is_closed) in [
            (
                of("curl", &format!("  egress: [{{toCIDR: [{text}]}}]")),
                false,
            ),
            (of("curl", &set(&format!("{{cidr: {text}}}"))), false),
            (
                of(
                    "curl",
                    &set(&format!("{{cidr: 169.254.0.0/16, except: [{text}]}}")),
                ),
                true,
            ),
            (
                of("curl", &set(&format!("{{cidr: {text}, except: [{text}]}}"))),
                true,
            ),
            (
                of("curl", &format!("  egressDeny: [{{toCIDR: [{text}]}}]")),
                true,
            ),
            (
                of("curl", &format!("  ingress: [{{fromCIDR: [{text}]}}]")),
                true,
            ),
            (of("curl", &format!("  egress: [{{}}] # not {text}")), true),
            (
                of("wget", &format!("  egress: [{{toCIDR: [{text}]}}]")),
                true,
            ),
        ] {
            let closed = closing(&[all.clone(), rule.clone()]);
            assert_eq!(closed.contains(text), is_closed, "{rule}");
            assert!(closed.contains("100.100.100.200/32"), "{closed}");
        }
    }

    #[test]
    fn what_can_not_be_allowed_is_told_with_what_could() {
        for good in [
            "a.b",
            "A.b.",
            "*",
            "*.a.b",
            "192.0.2.7",
            "2001:db8::/32",
            "::1",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, part) in [
            ("https://github.com/a/b", "write `--allow github.com`"),
            ("github.com:443", "write `--allow github.com`"),
            ("192.0.2.7:443", "write `--allow 192.0.2.7`"),
            ("192.0.2.0/33", "no name, pattern, address or prefix: "),
            ("exa mple.com", "' ' (character 4)"),
            ("b\u{fc}cher.de", "xn--"),
            ("", "it is empty"),
        ] {
            let said = check(bad).unwrap_err();
            assert!(said.contains(part), "{bad}: {said}");
            assert!(!said.contains('\n'), "{said}");
        }
    }
}
