//! One endpoint that may ask one server for names of many patterns.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use fqdn::Name;
use policy::{
    Cast, Compiler, EndpointId, Identities, Label, Labels, LocalEndpoint, Options, Question,
    Snapshot, Source, Workload,
};

/// A snapshot, and what is needed to learn under it.
#[derive(Debug)]
pub struct Scene {
    /// The policy in force.
    pub snapshot: Snapshot,
    /// The identities that it acquired.
    pub identities: Identities,
}

impl Scene {
    /// A policy whose one DNS rule and whose one `toFQDNs` rule have `count` patterns.
    ///
    /// # Errors
    /// If the policy is refused.
    pub fn new(count: usize) -> Result<Self> {
        let text = policy_text(count);
        let path = "bench.yaml".to_owned();
        let loaded = policy::load(&[Source { path, text }]);
        ensure!(!loaded.has_errors(), "{:?}", loaded.problems);
        let mut identities = Identities::new();
        let snapshot = Compiler::new().build(
            1,
            (&loaded.set, &cast()?, Options::default()),
            &mut identities,
        );
        let snapshot = snapshot.map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
        Ok(Self {
            snapshot,
            identities,
        })
    }
}

/// The endpoint.
///
/// # Errors
/// Never: 7 is a number of an endpoint.
pub fn subject() -> Result<EndpointId> {
    EndpointId::new(7).context("no endpoint 7")
}

/// The DNS server that it may ask.
#[must_use]
pub fn server() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), 53)
}

/// The pattern with this number: `*.svc7.example.org`.
#[must_use]
pub fn pattern(index: usize) -> String {
    format!("*.svc{index}.example.org")
}

/// A name.
///
/// # Errors
/// If the text is none.
pub fn name(text: &str) -> Result<Name> {
    Name::from_text(text).map_err(|error| anyhow::anyhow!("{text}: {error:?}"))
}

/// `count` names, each of one of the first `patterns` patterns, in turn.
///
/// # Errors
/// Never, for counts that fit in a name.
pub fn names(count: usize, patterns: usize) -> Result<Vec<Name>> {
    (0..count)
        .map(|index| name(&format!("n{index}.svc{}.example.org", index % patterns)))
        .collect()
}

/// A question for an address of a name.
///
/// # Errors
/// If the text is no name.
pub fn question(text: &str) -> Result<Question> {
    Ok(Question {
        name: name(text)?,
        qtype: 1,
        qclass: 1,
    })
}

fn policy_text(count: usize) -> String {
    let list = |indent: &str| -> String {
        (0..count)
            .map(|index| format!("{indent}- matchPattern: \"{}\"\n", pattern(index)))
            .collect()
    };
    format!(
        "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: bench}}
spec:
  endpointSelector: {{matchLabels: {{app: a}}}}
  egress:
  - toCIDR: [10.96.0.10/32]
    toPorts:
    - ports: [{{port: \"53\", protocol: ANY}}]
      rules:
        dns:
{}  - toFQDNs:
{}",
        list("        "),
        list("    ")
    )
}

fn cast() -> Result<Cast> {
    let mut labels = Labels::default();
    labels.insert(Label::from_key("app", "a"));
    Ok(Cast {
        endpoints: vec![LocalEndpoint {
            id: subject()?,
            workload: Workload {
                namespace: "default".to_owned(),
                name: "a".to_owned(),
                labels,
                ports: policy::NamedPorts::new(),
                owner: None,
            },
            audit: false,
            is_redirectable: true,
            addresses: vec![IpAddr::V4(Ipv4Addr::new(10, 1, 0, 4))],
        }],
        ..Cast::default()
    })
}
