//! The text of the policies.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::deed::{Icmp, Port};
use super::evidence::{Evidence, Workload};
use super::http::{Request, escaped};
use super::names::{Names, Written};
use super::peer::PeerKind;
use super::record::{IcmpFamily, Protocol};
use super::rules::{Allowed, Entry, Item, NameView, Rule, What, Who, rules};
use super::selector::{NAMESPACE_KEY, Selector};
use super::yaml::Yaml;

/// Letters of the name of a policy, without the number that keeps it unique.
const NAME_LETTERS: usize = 200;

/// ICMP types of one entry, as Cilium has it.
const ENTRY_ICMPS: usize = 40;

/// Which of the two lists of rules is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Egress,
    Ingress,
}

/// One document for each workload of which something can be written.
pub(super) fn documents(evidence: &Evidence, how: Names) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let mut documents = Vec::new();
    for (subject, workload) in evidence.workloads() {
        let view = NameView {
            how,
            is_empty: &|name| evidence.is_empty_name(subject, name),
        };
        let egress = rules(&workload.egress, view);
        let ingress = rules(&workload.ingress, view);
        if egress.is_empty() && ingress.is_empty() {
            continue;
        }
        let name = unique_name(&mut taken, subject, workload);
        let mut yaml = Yaml::default();
        write_head(&mut yaml, (subject, &name), workload);
        write_rules(&mut yaml, Way::Egress, (subject, &egress));
        write_rules(&mut yaml, Way::Ingress, (subject, &ingress));
        documents.push(yaml.into_text());
    }
    documents
}

fn unique_name(
    taken: &mut BTreeSet<(String, String)>,
    subject: &Selector,
    workload: &Workload,
) -> String {
    let lower = workload.name.to_ascii_lowercase();
    let letters = lower.chars().map(|letter| match letter {
        'a'..='z' | '0'..='9' => letter,
        _ => '-',
    });
    let word: String = letters.take(NAME_LETTERS).collect();
    let word = match word.trim_matches('-') {
        "" => "workload",
        word => word,
    };
    let mut name = format!("learned-{word}");
    let mut number = 1;
    while !taken.insert((subject.namespace.clone(), name.clone())) {
        number += 1;
        name = format!("learned-{word}-{number}");
    }
    name
}

fn write_head(yaml: &mut Yaml, (subject, name): (&Selector, &str), workload: &Workload) {
    yaml.comment(0, &format!("Learned from {}.", workload.seen.when()));
    yaml.line(0, "apiVersion: cilium.io/v2");
    yaml.line(0, "kind: CiliumNetworkPolicy");
    yaml.line(0, "metadata:");
    yaml.pair(2, "", ("name", name));
    yaml.pair(2, "", ("namespace", &subject.namespace));
    yaml.line(0, "spec:");
    if subject.is_of_replica {
        yaml.comment(
            2,
            "No label is left but those that differ between replicas: this selects one of them.",
        );
    }
    yaml.line(2, "endpointSelector:");
    yaml.line(4, "matchLabels:");
    for (key, value) in &subject.labels {
        yaml.pair(6, "", (key, value));
    }
}

fn write_rules(yaml: &mut Yaml, way: Way, (subject, rules): (&Selector, &[Rule<'_>])) {
    if rules.is_empty() {
        yaml.comment(2, way.words_for_none());
        return;
    }
    yaml.line(2, way.field());
    for rule in rules {
        yaml.line(2, &format!("- {}:", way.peer_field(rule.kind)));
        for item in &rule.items {
            write_item(yaml, item, subject);
        }
        match &rule.what {
            What::Ports(entries) => write_entries(yaml, entries),
            What::Icmps(kinds) => write_icmps(yaml, kinds),
        }
    }
}

impl Way {
    const fn field(self) -> &'static str {
        match self {
            Self::Egress => "egress:",
            Self::Ingress => "ingress:",
        }
    }

    const fn words_for_none(self) -> &'static str {
        match self {
            Self::Egress => "No flow of its own was seen: egress stays as other policies leave it.",
            Self::Ingress => "No flow to it was seen: ingress stays as other policies leave it.",
        }
    }

    const fn peer_field(self, kind: PeerKind) -> &'static str {
        match (self, kind) {
            (Self::Egress, PeerKind::Endpoints) => "toEndpoints",
            (Self::Egress, PeerKind::Entities) => "toEntities",
            (Self::Egress, PeerKind::Cidr) => "toCIDR",
            // No name is learned for a sender, so only egress comes here.
            (Self::Egress | Self::Ingress, PeerKind::Fqdns) => "toFQDNs",
            (Self::Ingress, PeerKind::Endpoints) => "fromEndpoints",
            (Self::Ingress, PeerKind::Entities) => "fromEntities",
            (Self::Ingress, PeerKind::Cidr) => "fromCIDR",
        }
    }
}

fn write_item(yaml: &mut Yaml, item: &Item<'_>, subject: &Selector) {
    yaml.comment(4, &item.seen.comment());
    for remark in &item.remarks {
        yaml.comment(4, remark);
    }
    match &item.who {
        Who::Endpoints(peer) => {
            yaml.line(4, "- matchLabels:");
            if peer.namespace != subject.namespace {
                yaml.pair(8, "", (NAMESPACE_KEY, &peer.namespace));
            }
            for (key, value) in &peer.labels {
                yaml.pair(8, "", (key, value));
            }
        }
        Who::Entity(entity) => yaml.item(4, entity),
        Who::Address(IpAddr::V4(address)) => yaml.item(4, &format!("{address}/32")),
        Who::Address(IpAddr::V6(address)) => yaml.item(4, &format!("{address}/128")),
        Who::Name(name) => write_name(yaml, 4, name),
    }
}

fn write_name(yaml: &mut Yaml, indent: usize, name: &Written) {
    let (field, text) = name.item();
    yaml.pair(indent, "- ", (field, &text));
}

fn write_entries(yaml: &mut Yaml, entries: &[Entry<'_>]) {
    yaml.line(4, "toPorts:");
    for entry in entries {
        yaml.line(4, "- ports:");
        for port in &entry.ports {
            write_port(yaml, *port);
        }
        match &entry.messages {
            Allowed::All => {}
            Allowed::Dns(names) => {
                yaml.line(6, "rules:");
                yaml.line(8, "dns:");
                for name in names {
                    write_name(yaml, 8, name);
                }
            }
            Allowed::Http(requests) => {
                yaml.line(6, "rules:");
                yaml.line(8, "http:");
                for request in *requests {
                    write_request(yaml, request);
                }
            }
        }
    }
}

fn write_port(yaml: &mut Yaml, port: Port) {
    let protocol = match port.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    };
    yaml.line(6, &format!("- port: '{}'", port.number));
    yaml.line(8, &format!("protocol: {protocol}"));
}

fn write_request(yaml: &mut Yaml, request: &Request) {
    yaml.pair(8, "- ", ("method", &escaped(&request.method)));
    if let Some(path) = &request.path {
        yaml.pair(10, "", ("path", &escaped(path)));
    }
}

fn write_icmps(yaml: &mut Yaml, kinds: &[Icmp]) {
    yaml.line(4, "icmps:");
    for part in kinds.chunks(ENTRY_ICMPS) {
        yaml.line(4, "- fields:");
        for icmp in part {
            let family = match icmp.family {
                IcmpFamily::V4 => "IPv4",
                IcmpFamily::V6 => "IPv6",
            };
            yaml.line(6, &format!("- family: {family}"));
            yaml.line(8, &format!("type: {}", icmp.kind));
        }
    }
}
