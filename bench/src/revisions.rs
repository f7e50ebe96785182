//! Policy that changes: files of many patterns or rules, loaded and compiled again and again as the
//! daemon does it.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result, ensure};
use policy::{
    Cast, Compiler, EndpointId, Identities, Label, Labels, Loaded, Loader, LocalEndpoint,
    NamedPorts, Options, PolicySet, Snapshot, Source, Workload,
};

use crate::pattern;

/// Patterns of one file: each stands there twice, and a file has at most 100,000 YAML nodes.
pub const FILE_PATTERNS: usize = 10_000;

/// Rules of one file.
const FILE_RULES: usize = 2_000;

/// Rules about `app: a`; more would not fit into one endpoint's map, and are about somebody else.
const OWN_RULES: usize = 10_000;

/// What patterns look like.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// `*.svc7.example.org`.
    Suffix,
    /// `host7.example.org`.
    Exact,
    /// `api-*.svc7.example.org`: a star inside a label, each below a domain of its own.
    Inside,
    /// `api7-*.example.org`: the same, all below one domain.
    InsideOneDomain,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Suffix,
        Self::Exact,
        Self::Inside,
        Self::InsideOneDomain,
    ];

    /// How benchmarks call it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Suffix => "suffix",
            Self::Exact => "exact",
            Self::Inside => "inside",
            Self::InsideOneDomain => "inside-one-domain",
        }
    }

    /// The pattern with a number.
    #[must_use]
    pub fn pattern(self, index: usize) -> String {
        match self {
            Self::Suffix => pattern(index),
            Self::Exact => format!("host{index}.example.org"),
            Self::Inside => format!("api-*.svc{index}.example.org"),
            Self::InsideOneDomain => format!("api{index}-*.example.org"),
        }
    }

    /// A name for which only that pattern stands.
    #[must_use]
    pub fn name(self, index: usize) -> String {
        self.pattern(index).replace('*', "x1")
    }
}

/// Files with that many patterns, each in a `toFQDNs` and in a list of a DNS rule. They select who has
/// `app: a` or `app: b`; one more file is for `b` alone.
#[must_use]
pub fn pattern_files(shape: Shape, count: usize) -> Vec<Source> {
    let starts = (0..count).step_by(FILE_PATTERNS);
    let files = starts.map(|start| {
        let end = count.min(start + FILE_PATTERNS);
        let texts: Vec<String> = (start..end).map(|index| shape.pattern(index)).collect();
        pattern_file(start, &texts)
    });
    let mut files: Vec<Source> = files.collect();
    files.push(rule_file("b", "{app: b}", "  - toCIDR: [10.3.0.0/16]\n"));
    files
}

/// One of them, with these patterns.
#[must_use]
pub fn pattern_file(number: usize, texts: &[String]) -> Source {
    let list = |indent: &str| -> String {
        let lines = texts
            .iter()
            .map(|text| format!("{indent}- matchPattern: \"{text}\"\n"));
        lines.collect()
    };
    let path = format!("patterns{number}.yaml");
    let text = format!(
        "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: patterns{number}}}
spec:
  endpointSelector: {{matchExpressions: [{{key: app, operator: In, values: [a, b]}}]}}
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
    );
    Source { path, text }
}

/// One rule with these patterns in its `toFQDNs`, and nothing else.
#[must_use]
pub fn one_rule_file(texts: &[String]) -> Source {
    let lines = texts
        .iter()
        .map(|text| format!("    - matchPattern: \"{text}\"\n"));
    let rule = format!("  - toFQDNs:\n{}", lines.collect::<String>());
    rule_file("one-rule", "{app: a}", &rule)
}

/// Files with that many small rules, for names and for prefixes in turn.
#[must_use]
pub fn rule_files(count: usize) -> Vec<Source> {
    let starts = (0..count).step_by(FILE_RULES);
    let files = starts.map(|start| {
        let rules = (start..count.min(start + FILE_RULES)).map(rule);
        let subject = match start < OWN_RULES {
            true => "{app: a}",
            false => "{app: c}",
        };
        rule_file(
            &format!("rules{start}"),
            subject,
            &rules.collect::<String>(),
        )
    });
    let mut files: Vec<Source> = files.collect();
    let dns = "  - toCIDR: [10.96.0.10/32]
    toPorts:
    - ports: [{port: \"53\", protocol: ANY}]
      rules: {dns: [{matchPattern: \"*\"}]}
";
    files.push(rule_file("dns", "{app: a}", dns));
    files.push(rule_file("b", "{app: b}", "  - toCIDR: [10.3.0.0/16]\n"));
    files
}

fn rule(index: usize) -> String {
    let peer = match index % 2 {
        0 => format!("toFQDNs: [{{matchName: host{index}.example.org}}]"),
        _ => {
            let number = u32::try_from(index).unwrap_or(u32::MAX);
            let first = Ipv4Addr::from((10 << 24 | 128 << 16) + number.saturating_mul(16));
            format!("toCIDR: [{first}/28]")
        }
    };
    format!("  - {peer}\n    toPorts: [{{ports: [{{port: \"443\", protocol: TCP}}]}}]\n")
}

fn rule_file(name: &str, selected: &str, rules: &str) -> Source {
    Source {
        path: format!("{name}.yaml"),
        text: format!(
            "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: {name}}}
spec:
  endpointSelector: {{matchLabels: {selected}}}
  egress:
{rules}"
        ),
    }
}

/// Endpoints 7, 8, … with these values of `app`.
///
/// # Errors
/// Never, for less than 200.
pub fn cast(apps: &[&str]) -> Result<Cast> {
    let endpoint = |(number, app): (u8, &&str)| {
        let mut labels = Labels::default();
        labels.insert(Label::from_key("app", app));
        Ok(LocalEndpoint {
            id: EndpointId::new(u32::from(number)).context("no such endpoint")?,
            workload: Workload {
                namespace: "default".to_owned(),
                name: format!("w{number}"),
                labels,
                ports: NamedPorts::new(),
                owner: None,
            },
            audit: false,
            is_redirectable: true,
            addresses: vec![IpAddr::V4(Ipv4Addr::new(10, 1, 0, number))],
        })
    };
    Ok(Cast {
        endpoints: (7..).zip(apps).map(endpoint).collect::<Result<_>>()?,
        ..Cast::default()
    })
}

/// Reads files without errors.
///
/// # Errors
/// If there is one.
pub fn load(loader: &mut Loader, sources: &[Source]) -> Result<Loaded> {
    let loaded = loader.load(sources);
    let error = loaded.problems.iter().find(|problem| problem.is_error());
    ensure!(error.is_none(), "{error:?}");
    Ok(loaded)
}

/// What a daemon keeps from one revision to the next.
#[derive(Debug, Default)]
pub struct Revisions {
    loader: Loader,
    compiler: Compiler,
    identities: Identities,
    snapshot: Option<Snapshot>,
}

impl Revisions {
    /// Nothing is loaded yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            identities: Identities::new(),
            ..Self::default()
        }
    }

    /// Loads files and compiles them for everybody; the last snapshot is given up.
    ///
    /// # Errors
    /// If the files are refused.
    pub fn change(&mut self, sources: &[Source], cast: &Cast) -> Result<&Snapshot> {
        let loaded = load(&mut self.loader, sources)?;
        self.build(&loaded.set, cast)
    }

    /// Compiles a set for everybody; the last snapshot is given up.
    ///
    /// # Errors
    /// If the set is refused.
    pub fn build(&mut self, set: &PolicySet, cast: &Cast) -> Result<&Snapshot> {
        let inputs = (set, cast, Options::default());
        let snapshot = self.compiler.build(1, inputs, &mut self.identities);
        let snapshot = snapshot.map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
        if let Some(old) = self.snapshot.take() {
            old.release(&mut self.identities);
        }
        Ok(self.snapshot.insert(snapshot))
    }
}
