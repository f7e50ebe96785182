//! The cases that are refused when they are read; how they are refused is tested by the reader.

use super::*;
use crate::Severity;

#[test]
#[rustfmt::skip]
fn refused_policies() {
    let ports = |ports: &str| format!("egress: [{{toPorts: [{{ports: [{ports}]}}]}}]");
    let l7 = |rest: &str| format!("egress: [{{toPorts: [{{ports: [{{port: '80', protocol: TCP}}], {rest}}}]}}]");
    let many = |count| vec!["{port: '1'}"; count].join(", ");
    let peers = |list: &str| format!("egress: [{{{list}}}]");
    let selector = |inside: &str| format!("egress: [{{toEndpoints: [{{{inside}}}]}}]");
    let node = |rules: &str| format!("CCNP nodeSelector: {{}}, egress: [{{toPorts: [{{ports: [{{port: '53', protocol: TCP}}], rules: {{{rules}}}}}]}}]");
    let rows: &[(u32, String)] = &[
        (6, "egress: []".to_owned()),
        (8, "description: nothing".to_owned()),
        (31, peers("toEntities: [World]")),
        (34, peers("toCIDR: [10.0.0.1]")),
        (38, peers("toCIDRSet: [{cidr: 10.0.0.0/8, except: [11.0.0.0/8]}]")),
        (39, peers("toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.0.0.0/7]}]")),
        (40, peers("toCIDR: [10.0.0.0/8], toCIDRSet: [{cidr: 10.0.0.0/8}]")),
        (62, selector("matchExpressions: [{key: app, operator: in, values: [b]}]")),
        (63, selector("matchLabels: {'a:b:c': x}")),
        (65, peers("toEndpoints: [{}], toEntities: [world]")),
        (66, "ingress: [{fromRequires: [{matchLabels: {app: b}}]}]".to_owned()),
        (67, ports(&many(41))),
        (68, ports("{port: '80-90'}")),
        (68, ports("{port: '65536'}")),
        (68, ports("{port: ''}")),
        (68, ports("{port: abcdefghijklmnop}")),
        (70, ports("{port: '1', protocol: icmp}")),
        (72, "egress: [{icmps: [{fields: [{type: 8}]}], toPorts: [{ports: [{port: '80'}]}]}]".to_owned()),
        (73, "egress: [{icmps: [{fields: [{type: PacketTooBig}]}]}]".to_owned()),
        (74, "egress: [{toPorts: [{ports: [{port: '80'}], rules: {http: [{}]}}]}]".to_owned()),
        (93, l7("rules: {dns: [{matchName: a.b}], http: [{}]}")),
        (94, "ingress: [{toPorts: [{ports: [{port: '53'}], rules: {dns: [{matchName: a.b}]}}]}]".to_owned()),
        (95, "egress: [{toPorts: [{ports: [{port: '53', endPort: 54}], rules: {dns: [{matchName: a.b}]}}]}]".to_owned()),
        (100, peers("toFQDNs: [{matchName: a.b, matchPattern: '*.b'}]")),
        (100, peers("toFQDNs: [{matchName: a.b}], toCIDR: [10.0.0.0/8]")),
        (101, peers("toFQDNs: [{matchName: '*.x.io'}]")),
        (101, peers("toFQDNs: [{matchName: 'ex ample'}]")),
        (105, l7("serverNames: [x.io], rules: {http: [{}]}")),
        (117, "nodeSelector: {}, endpointSelector: {}, egress: [{}]".to_owned()),
        (118, node("http: [{}]").replace("CCNP ", "CCNP endpointSelector: {}, ")),
        (119, l7("rules: {kafka: [{}]}")),
        (120, format!("egress: [{{}}], log: {{value: {}}}", "x".repeat(33))),
    ];
    for (number, text) in rows {
        assert!(loaded(&[text]).has_errors(), "case {number}: {text}");
    }
    assert!(!loaded(&[&ports(&many(40))]).has_errors(), "case 67");
    let (http, dns) = (l7("rules: {http: [{}]}"), l7("rules: {dns: [{matchName: a.b}]}"));
    let conflict = loaded(&[&http, &dns]);
    let errors = conflict.problems.iter().filter(|one| one.severity == Severity::Error);
    assert!(errors.map(|one| one.code).eq([Code::Conflict]), "case 96");
    // Policies of nodes: no selector of endpoints beside it.
    let of_node = |spec: &str| {
        let text = format!("apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {{name: nodes}}\nspec: {{{}}}\n", spec.replace("CCNP ", ""));
        let path = "n.yaml".to_owned();
        load(&[Source { path, text }])
    };
    assert!(of_node(&node("http: [{}]")).has_errors(), "case 118");
    let node_dns = of_node(&node("dns: [{matchName: a.b}]"));
    assert!(!node_dns.has_errors(), "case 118: {:#?}", node_dns.problems);
    let text = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: nodes}\nspec: {nodeSelector: {}, egress: [{}]}\n".to_owned();
    let path = "n.yaml".to_owned();
    assert!(load(&[Source { path, text }]).has_errors(), "case 117");
}
