//! The policies of a command: those of files, and what `--allow` stands for.

use std::net::IpAddr;

use anyhow::Result;
use ipnet::IpNet;
use policy::{PolicySet, Problem, Source};
use serde_json::{Value, json};

use super::Options;
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
    pub(super) fn read(options: &Options) -> Result<Self> {
        let files = all_files(&options.policies).map_err(|error| Exit::with(EXEC_FAILED, error))?;
        let mut sources: Vec<Source> = files.into_iter().map(TextFile::into_source).collect();
        sources.extend(of_allowed(&options.allow));
        sources.extend(options.audit.then(of_audit));
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
        let prefix = IpNet::from(address).to_string();
        let mut texts = self.sources.iter().map(|source| &source.text);
        texts.any(|text| text.contains(&prefix))
    }
}

fn warn(problem: &Problem) {
    tracing::warn!("{problem}");
}

/// What `--allow` says as a policy.
fn of_allowed(allowed: &[String]) -> Option<Source> {
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
        egress.push(asked(&names));
        egress.push(json!({ "toFQDNs": names }));
    }
    if !prefixes.is_empty() {
        egress.push(json!({ "toCIDR": prefixes }));
    }
    Some(source(ALLOW, "allow", &egress))
}

/// By which questions come to be judged in an audit where no rule lets one through.
fn of_audit() -> Source {
    let nobody = [json!({ "matchName": "audit.namegate.invalid" })];
    source("--audit", "audit", &[asked(&nobody)])
}

/// That these names may be asked for.
fn asked(names: &[Value]) -> Value {
    let (namespace, (key, value)) = RESOLVER;
    json!({
        "toEndpoints": [{ "matchLabels": {
            "k8s:io.kubernetes.pod.namespace": namespace, key: value,
        }}],
        "toPorts": [{
            "ports": [{ "port": "53", "protocol": "ANY" }],
            "rules": { "dns": names },
        }],
    })
}

fn source(path: &str, name: &str, egress: &[Value]) -> Source {
    let policy = json!({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumClusterwideNetworkPolicy",
        "metadata": { "name": name },
        "spec": { "endpointSelector": {}, "egress": egress },
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
        let source = of_allowed(&allowed.map(str::to_owned)).unwrap();
        let loaded = policy::load(&[source]);
        assert!(loaded.problems.is_empty(), "{:#?}", loaded.problems);
        assert!(loaded.set.lacking(ENFORCED).is_empty());
        assert!(of_allowed(&[]).is_none());
    }

    #[test]
    fn a_name_that_is_none_is_refused_with_its_place() {
        let source = of_allowed(&["exa mple.com".to_owned()]).unwrap();
        let loaded = policy::load(&[source]);
        assert!(loaded.has_errors());
        let problem = loaded.problems.first().unwrap().to_string();
        assert!(problem.contains("--allow"), "{problem}");
    }
}
