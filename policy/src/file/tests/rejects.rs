//! What the reference lists as rejected: by table, code, field and reason.

use super::*;
use crate::NameBinding;
use Code::{Conflict, InvalidValue, Limit, Missing, UnknownField, WrongType};

/// A clusterwide policy whose `spec` is the given flow mapping's inside.
fn ccnp(spec: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {{name: p}}\nspec: {{{spec}}}\n"
    )
}

fn port(text: &str) -> String {
    cnp(&format!("egress: [{{toPorts: [{{ports: [{text}]}}]}}]"))
}

#[test]
fn rules_and_subjects() {
    let no_subject = |text: &str| text.replace("endpointSelector: {matchLabels: {app: a}}, ", "");
    let labels = |text: &str| cnp(&format!("ingress: [{{}}], labels: [{text}]"));
    #[rustfmt::skip]
    let rows: Vec<(String, Code, &str, &str)> = vec![
        (cnp("ingress: [], egress: [], ingressDeny: []"), Missing, "spec", "no direction"),
        (no_subject(&cnp("egress: [{}], nodeSelector: {}")), Conflict, "spec.nodeSelector", "CiliumClusterwideNetworkPolicy"),
        (ccnp("egress: [{}]"), Missing, "spec", "no `nodeSelector`"),
        (ccnp("egress: [{}], endpointSelector: {}, nodeSelector: {}"), Conflict, "spec", "both"),
        (cnp("egress: [{}]").replace("endpointSelector: {matchLabels: {app: a}}", "endpointSelector: "), Missing, "spec", "endpointSelector: {}"),
        (ccnp("egress: [{}], endpointSelector: {}").replace("{name: p}", "{name: p, namespace: x}"), Conflict, "metadata.namespace", "no namespace"),
        (cnp("ingress: [{}], log: {value: 123456789012345678901234567890123}").replace("value: 123456789012345678901234567890123", "value: \"123456789012345678901234567890123\""),
            InvalidValue, "spec.log.value", "at most 32"),
        (cnp("ingress: [{}], log: {value: \"a\\tb\"}"), InvalidValue, "spec.log.value", "printable"),
        (cnp("ingress: [{}], log: {level: a}"), UnknownField, "spec.log.level", "value"),
        (cnp("ingress: [{}], enableDefaultDeny: {ingress: \"false\"}"), WrongType, "spec.enableDefaultDeny.ingress", "without quotes"),
        (cnp("ingress: [{}], enableDefaultDeny: {ingress: 0}"), WrongType, "spec.enableDefaultDeny.ingress", "a boolean"),
        (cnp("ingress: [{}], enableDefaultDeny: {inress: true}"), UnknownField, "spec.enableDefaultDeny.inress", "`ingress`"),
        (labels("{value: a}"), Missing, "spec.labels[0]", "no `key`"),
        (labels("{key: a, valu: b}"), UnknownField, "spec.labels[0].valu", "`value`"),
        (labels("\"k8s:=x\""), InvalidValue, "spec.labels[0]", "no key"),
        (labels("3"), WrongType, "spec.labels[0]", "a label"),
        (cnp("ingress: [{}], description: 3"), WrongType, "spec.description", "quote it"),
        (cnp("ingress: [{}]").replace("spec:", "specs:"), WrongType, "specs", "a list"),
    ];
    for (text, code, field, reason) in rows {
        if field == "specs" {
            assert!(
                load_one(&text)
                    .problems
                    .iter()
                    .any(|p| p.code == code && p.field == field)
            );
            continue;
        }
        refused(&text, code, field, reason);
    }
    loads(&cnp(
        "ingress: [{}], log: {value: \"12345678901234567890123456789012\"}",
    ));
    loads(&labels("{key: a, value: b, source: c}, \"k8s:a=b\", a"));
    assert_eq!(crate::limits::LOG_VALUE_MAX, 32);
}

#[test]
fn annotations() {
    let with = |text: &str| {
        cnp("egress: [{}]").replace(
            "{name: p}",
            &format!("{{name: p, annotations: {{{text}}}}}"),
        )
    };
    let field = |key: &str| format!("metadata.annotations.{key}");
    let audit = field("namegate.io/audit");
    refused(
        &with("namegate.io/audit: \"yes\""),
        InvalidValue,
        &audit,
        "\"true\" and \"false\"",
    );
    refused(
        &with("namegate.io/audit: true"),
        WrongType,
        &audit,
        "quote it",
    );
    refused(
        &with("namegate.io/adit: \"true\""),
        UnknownField,
        &field("namegate.io/adit"),
        "unknown annotation",
    );
    for (text, expected) in [
        ("namegate.io/audit: \"true\", a.b/c: d", true),
        ("namegate.io/audit: \"false\"", false),
        ("x: 3", false),
    ] {
        let set = loads(&with(text)).set;
        assert_eq!(set.iter().next().unwrap().audit, expected, "{text}");
    }
    refused(
        &with("namegate.io/name-binding: strict"),
        InvalidValue,
        &field("namegate.io/name-binding"),
        "off, audit and enforce",
    );
    refused(
        &with("namegate.io/name-binding: true"),
        WrongType,
        &field("namegate.io/name-binding"),
        "quote it",
    );
    for (text, expected) in [
        (
            "namegate.io/name-binding: enforce",
            Some(NameBinding::Enforce),
        ),
        ("namegate.io/name-binding: \"off\"", Some(NameBinding::Off)),
        ("namegate.io/audit: \"true\"", None),
    ] {
        let set = loads(&with(text)).set;
        assert_eq!(set.iter().next().unwrap().name_binding, expected, "{text}");
    }
}

#[test]
fn peers() {
    let at = "spec.egress[0]";
    let egress = |text: &str| cnp(&format!("egress: [{{{text}}}]"));
    let ingress = |text: &str| cnp(&format!("ingress: [{{{text}}}]"));
    let kinds = [
        "toEndpoints: [{}]",
        "toFQDNs: [{matchName: a.b}]",
        "toCIDR: [10.0.0.0/8]",
        "toCIDRSet: [{cidr: 10.0.0.0/8}]",
        "toEntities: [all]",
        "toServices: [{k8sService: {serviceName: a}}]",
    ];
    for (index, one) in kinds.iter().enumerate() {
        for two in kinds.iter().skip(index + 1) {
            refused(&egress(&format!("{one}, {two}")), Conflict, at, "combining");
        }
        loads(&egress(one));
        loads(&egress(&format!(
            "{one}, toPorts: [{{ports: [{{port: \"80\"}}]}}]"
        )));
        loads(&egress(&format!(
            "{one}, icmps: [{{fields: [{{type: 8}}]}}]"
        )));
    }
    #[rustfmt::skip]
    let rows: Vec<(String, Code, String, &str)> = vec![
        (ingress("fromEndpoints: [{}], fromCIDR: [10.0.0.0/8]"), Conflict, "spec.ingress[0]".into(), "combining fromEndpoints and fromCIDR"),
        (ingress("fromEntities: [World]"), InvalidValue, "spec.ingress[0].fromEntities[0]".into(), "unsupported entity"),
        (ingress("fromCIDR: [\"::1\"]"), InvalidValue, "spec.ingress[0].fromCIDR[0]".into(), "::1/128"),
        (ingress("toEndpoints: [{}]"), UnknownField, "spec.ingress[0].toEndpoints".into(), "`fromEndpoints`"),
        (egress("fromEntities: [all]"), UnknownField, format!("{at}.fromEntities"), "`toEntities`"),
        (ingress("toFQDNs: [{matchName: a.b}]"), UnknownField, "spec.ingress[0].toFQDNs".into(), "unknown field"),
        (cnp("egressDeny: [{toFQDNs: [{matchName: a.b}]}]"), UnknownField, "spec.egressDeny[0].toFQDNs".into(), "names can only be allowed"),
        (cnp("egressDeny: [{authentication: {mode: disabled}}]"), UnknownField, "spec.egressDeny[0].authentication".into(), "deny rule"),
        (ingress("fromRequires: [{}]"), InvalidValue, "spec.ingress[0].fromRequires".into(), "only an empty list"),
        (egress("toRequires: [{}]"), InvalidValue, format!("{at}.toRequires"), "only an empty list"),
        (egress("toCIDRSet: [{cidr: 10.0.0.0/8, except: [11.0.0.0/8]}]"), InvalidValue, format!("{at}.toCIDRSet[0].except[0]"), "not inside"),
        (egress("toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.0.0.0/7]}]"), InvalidValue, format!("{at}.toCIDRSet[0].except[0]"), "not inside"),
        (egress("toCIDRSet: [{cidr: 10.0.0.0/8, except: [\"a::/64\"]}]"), InvalidValue, format!("{at}.toCIDRSet[0].except[0]"), "not inside"),
        (egress("toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.0.0.1]}]"), InvalidValue, format!("{at}.toCIDRSet[0].except[0]"), "10.0.0.1/32"),
        (egress("toCIDRSet: [{except: []}]"), Conflict, format!("{at}.toCIDRSet[0]"), "exactly one"),
        (egress("toCIDRSet: [{cidr: 10.0.0.0/8, cidrGroupRef: a}]"), Conflict, format!("{at}.toCIDRSet[0]"), "exactly one"),
        (egress("toCIDRSet: [10.0.0.0/8]"), WrongType, format!("{at}.toCIDRSet[0]"), "a mapping"),
        (egress("toServices: [{}]"), Missing, format!("{at}.toServices[0]"), "no `k8sService`"),
        (egress("toServices: [{k8sService: {namespace: a}}]"), Missing, format!("{at}.toServices[0].k8sService"), "no `serviceName`"),
        (egress("toServices: [{k8sServiceSelector: {namespace: a}}]"), Missing, format!("{at}.toServices[0].k8sServiceSelector"), "no `selector`"),
        (egress("authentication: {}"), Missing, format!("{at}.authentication"), "no `mode`"),
        (egress("authentication: {mode: optional}"), InvalidValue, format!("{at}.authentication.mode"), "no mode"),
        (egress("toEndpoints: [{matchLabels: {\"-a\": b}}]"), InvalidValue, format!("{at}.toEndpoints[0].matchLabels.-a"), "no label key"),
        (egress("toEndpoints: [{matchLabels: {\"k-8:a\": b}}]"), InvalidValue, format!("{at}.toEndpoints[0].matchLabels.k-8:a"), "letters and digits"),
        (egress("toEndpoints: [{matchExpressions: [{key: a, operator: In, values: []}]}]"), InvalidValue,
            format!("{at}.toEndpoints[0].matchExpressions[0].operator"), "needs `values`"),
        (egress("toEndpoints: [{matchExpressions: [{key: a, operator: NotIn}]}]"), InvalidValue,
            format!("{at}.toEndpoints[0].matchExpressions[0].operator"), "needs `values`"),
        (egress("toEndpoints: [{matchExpressions: [{operator: Exists}]}]"), Missing,
            format!("{at}.toEndpoints[0].matchExpressions[0]"), "no `key`"),
        (egress("toEndpoints: [{matchExpressions: [{key: a}]}]"), Missing,
            format!("{at}.toEndpoints[0].matchExpressions[0]"), "no `operator`"),
    ];
    for (text, code, field, reason) in rows {
        refused(&text, code, &field, reason);
    }
    for text in [
        "fromRequires: []",
        "authentication: {mode: disabled}",
        "authentication: {mode: test-always-fail}",
    ] {
        loads(&ingress(text));
    }
}

#[test]
fn ports() {
    let at = "spec.egress[0].toPorts[0].ports[0]";
    #[rustfmt::skip]
    let rows: Vec<(String, Code, String, &str)> = vec![
        (port("{port: \"80-90\"}"), InvalidValue, format!("{at}.port"), "endPort: 90"),
        (port("{port: \"\"}"), InvalidValue, format!("{at}.port"), "port must be specified"),
        (port("{protocol: TCP}"), Missing, at.into(), "port must be specified"),
        (port("{port: \"0x10\"}"), InvalidValue, format!("{at}.port"), "no port"),
        (port("{port: \"1_0\"}"), InvalidValue, format!("{at}.port"), "no port"),
        (port("{port: \"a--b\"}"), InvalidValue, format!("{at}.port"), "no port"),
        (port("{port: \"-a\"}"), InvalidValue, format!("{at}.port"), "no port"),
        (port("{port: \"90\", endPort: 80}"), InvalidValue, format!("{at}.endPort"), "port 80, endPort 90"),
        (port("{port: http, endPort: 80}"), InvalidValue, format!("{at}.endPort"), "named port"),
        (port("{port: \"80\", endPort: \"90\"}"), WrongType, format!("{at}.endPort"), "a number"),
        (port("{port: \"80\", endPort: 65536}"), InvalidValue, format!("{at}.endPort"), "65535"),
        (port("{port: \"80\", endPort: 1.5}"), InvalidValue, format!("{at}.endPort"), "whole number"),
        (port("{port: \"80\", protocol: ICMPv6}"), InvalidValue, format!("{at}.protocol"), "`icmps`"),
        (port("{port: \"80\", protocol: [TCP]}"), WrongType, format!("{at}.protocol"), "a string"),
        (cnp("egressDeny: [{toPorts: [{ports: [{port: \"80\"}], rules: {http: [{}]}}]}]"), UnknownField, "spec.egressDeny[0].toPorts[0].rules".into(), "only `ports`"),
        (cnp("ingressDeny: [{toPorts: [{ports: [{port: \"80\"}], serverNames: [a]}]}]"), UnknownField, "spec.ingressDeny[0].toPorts[0].serverNames".into(), "only `ports`"),
    ];
    for (text, code, field, reason) in rows {
        refused(&text, code, &field, reason);
    }
    let range = port(
        "{port: \"80\", endPort: 80, protocol: tcp}, {port: \"1\", endPort: 65535}, {port: HTTP-alt}",
    );
    loads(&range);
}

#[test]
fn icmp() {
    let icmps = |text: &str| cnp(&format!("ingress: [{{icmps: [{{fields: [{text}]}}]}}]"));
    let at = "spec.ingress[0].icmps[0].fields[0]";
    let many = |count: usize| icmps(&vec!["{type: 8}"; count].join(","));
    let max = crate::limits::ICMP_FIELDS_MAX;
    #[rustfmt::skip]
    let rows: Vec<(String, Code, String, &str)> = vec![
        (icmps("{type: PacketTooBig}"), InvalidValue, format!("{at}.type"), "family: IPv6"),
        (icmps("{type: Redirect, family: IPv6}"), InvalidValue, format!("{at}.type"), "family: IPv4"),
        (icmps("{type: echoRequest}"), InvalidValue, format!("{at}.type"), "`EchoRequest`"),
        (icmps("{type: 256}"), InvalidValue, format!("{at}.type"), "0 to 255"),
        (icmps("{type: -1}"), InvalidValue, format!("{at}.type"), "0 to 255"),
        (icmps("{type: true}"), WrongType, format!("{at}.type"), "a number or a name"),
        (icmps("{type: 8, family: ipv4}"), InvalidValue, format!("{at}.family"), "IPv4 and IPv6"),
        (icmps("{family: IPv4}"), Missing, at.into(), "no `type`"),
        (icmps("{type: 8, code: 0}"), UnknownField, format!("{at}.code"), "unknown field"),
        (many(max + 1), Limit, "spec.ingress[0].icmps[0].fields".into(), "at most 40"),
        (cnp("egress: [{icmps: [{fields: [{type: 8}]}], toPorts: [{ports: [{port: \"80\"}]}]}]"), Conflict, "spec.egress[0]".into(), "one rule for each"),
    ];
    for (text, code, field, reason) in rows {
        refused(&text, code, &field, reason);
    }
    loads(&many(max));
    loads(&icmps(
        "{type: \"8\"}, {type: ExtendedEchoReply, family: IPv6}",
    ));
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn requests_server_names_and_tls() {
    let entry = |port: &str, rest: &str| {
        cnp(&format!(
            "egress: [{{toPorts: [{{ports: [{{{port}}}], {rest}}}]}}]"
        ))
    };
    let (tcp, any) = ("port: \"80\", protocol: TCP", "port: \"80\"");
    let http = "rules: {http: [{path: /a}]}";
    let dns = "rules: {dns: [{matchName: a.b}]}";
    let tls = "terminatingTLS: {secret: {name: s}}";
    let rule = |text: &str| entry(tcp, &format!("rules: {{http: [{{{text}}}]}}"));
    let at = "spec.egress[0].toPorts[0]";
    let on = |kind: &str, text: &str| ccnp(&format!("{kind}, {text}"));
    let l7 = |direction: &str, rest: &str| {
        format!("{direction}: [{{toPorts: [{{ports: [{{{tcp}}}], {rest}}}]}}]")
    };
    #[rustfmt::skip]
    let rows: Vec<(String, Code, String, &str)> = vec![
        (entry(any, http), Conflict, format!("{at}.ports[0]"), "protocol: TCP"),
        (entry("port: \"80\", protocol: UDP", http), Conflict, format!("{at}.ports[0]"), "protocol: TCP"),
        (entry("port: \"0\", protocol: TCP", http), InvalidValue, format!("{at}.ports[0]"), "not \"0\""),
        (entry(any, "rules: {http: [{}], dns: [{matchName: a.b}]}"), Conflict, format!("{at}.rules"), "one entry"),
        (entry("port: \"53\", endPort: 54", dns), Conflict, format!("{at}.ports[0]"), "one by one"),
        (entry(any, "rules: {dns: [{matchName: a.b, types: []}]}"), InvalidValue, format!("{at}.rules.dns[0].types"), "is empty"),
        (entry(any, "rules: {dns: [{matchName: a.b, types: [A, aaaa]}]}"), InvalidValue, format!("{at}.rules.dns[0].types[1]"), "no type of DNS"),
        (entry(any, "rules: {dns: [{matchName: a.b, types: A}]}"), WrongType, format!("{at}.rules.dns[0].types"), "list"),
        (cnp("egress: [{toFQDNs: [{matchName: a.b, types: [A]}]}]"), UnknownField, "spec.egress[0].toFQDNs[0].types".into(), "matchPattern"),
        (cnp(&l7("ingress", dns)), Conflict, "spec.ingress[0].toPorts[0].rules.dns".into(), "for `egress`"),
        (on("nodeSelector: {}", &l7("ingress", http)), Conflict, "spec.ingress[0].toPorts[0].rules.http".into(), "ingress of nodes"),
        (on("nodeSelector: {}", &l7("egress", http)), Conflict, format!("{at}.rules.http"), "only `dns`"),
        (on("nodeSelector: {}", &l7("egress", "serverNames: [a.b]")), Conflict, format!("{at}.serverNames"), "only `dns`"),
        (entry(tcp, &format!("serverNames: [a.b], {http}")), Conflict, format!("{at}.rules.http"), "needs `terminatingTLS`"),
        (entry(tcp, "serverNames: []"), InvalidValue, format!("{at}.serverNames"), "at least one"),
        (entry(tcp, "serverNames: [\"\"]"), InvalidValue, format!("{at}.serverNames[0]"), "empty"),
        (entry(tcp, "serverNames: [\"***.a.b\"]"), InvalidValue, format!("{at}.serverNames[0]"), "two stars"),
        (entry(tcp, "serverNames: [a..b]"), InvalidValue, format!("{at}.serverNames[0]"), "a label is empty"),
        (entry(tcp, "serverNames: [a.b.]"), InvalidValue, format!("{at}.serverNames[0]"), "ends in a dot"),
        (entry(any, "serverNames: [a.b]"), Conflict, format!("{at}.ports[0]"), "protocol: TCP"),
        (entry(tcp, &format!("{dns}, {tls}")), Conflict, format!("{at}.rules.dns"), "terminatingTLS"),
        (entry(tcp, "terminatingTLS: {}"), Missing, format!("{at}.terminatingTLS"), "no `secret`"),
        (entry(tcp, "terminatingTLS: {secret: {namespace: a}}"), Missing, format!("{at}.terminatingTLS.secret"), "no `name`"),
        (entry(tcp, "originatingTLS: {secret: {name: a}, ca: x}"), UnknownField, format!("{at}.originatingTLS.ca"), "trustedCA"),
        (on("endpointSelector: {}", &l7("egress", tls)), Missing, format!("{at}.terminatingTLS.secret"), "clusterwide"),
        (entry(any, "rules: {kafka: [{}]}"), UnknownField, format!("{at}.rules.kafka"), "http, dns"),
        (entry(any, "rules: {l7proto: x}"), UnknownField, format!("{at}.rules.l7proto"), "http, dns"),
        (rule("headers: [\": x\"]"), InvalidValue, format!("{at}.rules.http[0].headers[0]"), "name of a header"),
        (rule("headers: [\"\"]"), InvalidValue, format!("{at}.rules.http[0].headers[0]"), "name of a header"),
        (rule("headers: [{a: b}]"), WrongType, format!("{at}.rules.http[0].headers[0]"), "a string"),
        (rule("headerMatches: [{value: x}]"), Missing, format!("{at}.rules.http[0].headerMatches[0]"), "no `name`"),
        (rule("headerMatches: [{name: x, mismatch: log}]"), InvalidValue, format!("{at}.rules.http[0].headerMatches[0].mismatch"), "LOG"),
        (rule("headerMatches: [{name: x, secret: {}}]"), Missing, format!("{at}.rules.http[0].headerMatches[0].secret"), "no `name`"),
        (rule("headerMatches: [{name: Host, value: x, mismatch: REPLACE}]"), InvalidValue, format!("{at}.rules.http[0].headerMatches[0].name"), "no header to act on"),
        (rule("headerMatches: [{name: content-length, value: \"1\"}]"), InvalidValue, format!("{at}.rules.http[0].headerMatches[0].name"), "no header to act on"),
        (rule("headerMatches: [{name: Transfer-Encoding, mismatch: DELETE}]"), InvalidValue, format!("{at}.rules.http[0].headerMatches[0].name"), "no header to act on"),
        (rule("headerMatches: [{name: connection, value: x, mismatch: ADD}]"), InvalidValue, format!("{at}.rules.http[0].headerMatches[0].name"), "no header to act on"),
        (rule("headerMatches: [{name: TE, value: x, mismatch: ADD}]"), InvalidValue, format!("{at}.rules.http[0].headerMatches[0].name"), "one hop alone"),
        (rule("headerMatches: [{name: upgrade, mismatch: DELETE}]"), InvalidValue, format!("{at}.rules.http[0].headerMatches[0].name"), "one hop alone"),
        (rule("headerMatches: [{name: Expect, value: x, mismatch: REPLACE}]"), InvalidValue, format!("{at}.rules.http[0].headerMatches[0].name"), "one hop alone"),
        (rule("headerMatches: [{name: ':path', value: x, mismatch: LOG}]"), InvalidValue, format!("{at}.rules.http[0].headerMatches[0].name"), "no header to act on"),
        (rule("method: 3"), WrongType, format!("{at}.rules.http[0].method"), "a string"),
        (rule("uri: /"), UnknownField, format!("{at}.rules.http[0].uri"), "path"),
    ];
    for (text, code, field, reason) in rows {
        refused(&text, code, &field, reason);
    }
    for text in [
        entry(any, "rules: {}"),
        entry(any, "rules: {http: [], dns: []}"),
        entry("port: \"80\", endPort: 90, protocol: TCP", http),
        entry(tcp, &format!("serverNames: [a.b], {http}, {tls}")),
        entry("port: \"5353\"", dns),
        entry(
            any,
            "rules: {dns: [{matchPattern: '*.b', types: [A, AAAA, TYPE65, TXT]}]}",
        ),
        entry("port: dns, protocol: UDP", dns),
        on("nodeSelector: {}", &l7("egress", dns)),
        on(
            "endpointSelector: {}",
            &l7(
                "egress",
                "terminatingTLS: {secret: {namespace: a, name: b}}",
            ),
        ),
        rule(
            "headerMatches: [{name: x, secret: {name: s}, mismatch: REPLACE}, {name: z, mismatch: \"\"}]",
        ),
    ] {
        loads(&text);
    }
}
