//! What is legal but likely wrong, and what can't hold together: between items and policies.

use super::*;
use crate::limits::NAME_WARNINGS_MAX;

/// Two policies of the same subject in two files.
fn pair(one: &str, two: &str) -> Loaded {
    let two = cnp(two).replace("{name: p}", "{name: q}");
    load(&[source("p.yaml", &cnp(one)), source("q.yaml", &two)])
}

fn codes(loaded: &Loaded) -> Vec<Code> {
    loaded.problems.iter().map(|problem| problem.code).collect()
}

/// A text warns of this alone, or of nothing.
#[track_caller]
fn check(spec: &str, expected: Option<Code>) {
    let loaded = loads(&cnp(spec));
    assert_eq!(
        codes(&loaded),
        Vec::from_iter(expected),
        "{spec}: {:#?}",
        loaded.problems
    );
    for problem in &loaded.problems {
        assert!(
            problem.line > 0 && problem.column > 0 && problem.help.is_some(),
            "{problem}"
        );
    }
}

#[test]
fn a_long_list_is_warned_of_in_a_few_lines() {
    let warnings = |count: usize| {
        let names = (0..count).map(|i| format!("{{matchPattern: '*.n{i}.example.com'}}"));
        let list = names.collect::<Vec<_>>().join(", ");
        let text = cnp(&format!(
            "egress: [{{toEntities: [host], toPorts: [{{ports: [{{port: \"53\"}}], rules: {{dns: [{list}]}}}}]}}]"
        ));
        loads(&text).problems
    };
    assert_eq!(warnings(NAME_WARNINGS_MAX).len(), NAME_WARNINGS_MAX);
    let told = warnings(NAME_WARNINGS_MAX + 1);
    assert_eq!(told.len(), NAME_WARNINGS_MAX + 1);
    assert!(!told.last().unwrap().message.contains("more of this list"));
    let told = warnings(NAME_WARNINGS_MAX + 5);
    assert_eq!(told.len(), NAME_WARNINGS_MAX + 1);
    let last = &told.last().unwrap().message;
    assert!(
        last.ends_with("; and 4 more of this list are like that"),
        "{last}"
    );
}

#[test]
fn names_that_match_other_than_meant() {
    let dns = |list: &str| {
        format!(
            "egress: [{{toEntities: [host], toPorts: [{{ports: [{{port: \"53\"}}], rules: {{dns: [{list}]}}}}]}}]"
        )
    };
    for (list, expected) in [
        ("{matchPattern: '*.example.com'}", Some(Code::MissesApex)),
        ("{matchPattern: '**.example.com'}", Some(Code::MissesApex)),
        (
            "{matchPattern: '*.example.com'}, {matchName: example.com}",
            None,
        ),
        (
            "{matchPattern: '*.example.com'}, {matchPattern: '*example.com'}",
            None,
        ),
        (
            "{matchPattern: '*.Example.com.'}, {matchName: EXAMPLE.com}",
            None,
        ),
        ("{matchPattern: 'a*.example.com'}", None),
        (
            "{matchPattern: '*.svc.cluster.local'}, {matchPattern: '*.*.svc.cluster.local'}",
            None,
        ),
        ("{matchPattern: '*'}", None),
        ("{matchPattern: '*.com'}", Some(Code::PublicSuffix)),
        ("{matchPattern: '**.io'}", Some(Code::PublicSuffix)),
        ("{matchPattern: '*.CO.uk'}", Some(Code::PublicSuffix)),
        ("{matchName: 10.0.0.1}", Some(Code::MatchesNoName)),
        ("{matchPattern: '*.0.1'}", Some(Code::MatchesNoName)),
        ("{matchName: a1}", None),
    ] {
        check(&dns(list), expected);
    }
    let unfed = loads(&cnp("egress: [{toFQDNs: [{matchPattern: '*.b.com'}]}]"));
    assert_eq!(codes(&unfed), [Code::NeverFed, Code::MissesApex]);
    // Another policy may stand in for the DNS rule: it is said once for a rule, and not beside DNS rules.
    let servers = cnp(
        "egress: [{toEntities: [host], toPorts: [{ports: [{port: \"53\"}], rules: {dns: [{matchPattern: '*'}]}}]}]",
    );
    let told = |spec: &str| {
        let loader = Loader::new().with_lookup(source("--servers", &servers));
        loader.unwrap().load(&[source("p.yaml", &cnp(spec))])
    };
    let implied = told("egress: [{toFQDNs: [{matchName: b.com}, {matchName: c.com}]}]");
    assert_eq!(codes(&implied), [Code::ImpliedDns]);
    let message = &implied.problems.first().unwrap().message;
    assert!(message.contains("the servers of --servers"), "{message}");
    let beside = dns("{matchName: a.com}")
        .replace("egress: [", "egress: [{toFQDNs: [{matchName: b.com}]}, ");
    assert_eq!(codes(&told(&beside)), [Code::NeverFed]);
    // A name that may be asked for no address is not fed either.
    for (types, expected) in [
        ("TXT", &[Code::NeverFed][..]),
        ("TXT, AAAA", &[]),
        ("HTTPS", &[]),
    ] {
        let rules = dns(&format!("{{matchName: a.b.com, types: [{types}]}}"));
        let fed = rules.replace("egress: [", "egress: [{toFQDNs: [{matchName: a.b.com}]}, ");
        assert_eq!(codes(&loads(&cnp(&fed))), expected, "{types}");
    }
}

#[test]
fn requests_that_match_other_than_meant() {
    let http = |port: &str, rule: &str| {
        format!(
            "ingress: [{{toPorts: [{{ports: [{{port: \"{port}\", protocol: TCP}}], rules: {{http: [{rule}]}}}}]}}]"
        )
    };
    for (rule, expected) in [
        ("{path: /public}", Some(Code::MissesQuery)),
        ("{path: /public$}", Some(Code::MissesQuery)),
        ("{path: '/public(\\?.*)?'}", None),
        ("{path: '/public.*'}", None),
        ("{path: '/v1(/.*)?$'}", None),
        ("{path: '^/a/.+'}", None),
        ("{path: '.*'}", None),
        ("{path: 'public.*'}", Some(Code::PathWithoutSlash)),
        ("{path: '^(a|b).*'}", Some(Code::PathWithoutSlash)),
        ("{host: example.com}", Some(Code::UnescapedDot)),
        ("{host: 'example\\.com'}", None),
        ("{host: '.*'}", None),
        ("{host: '[.]a.+'}", None),
        ("{}", None),
    ] {
        check(&http("80", rule), expected);
    }
    check(&http("443", "{}"), Some(Code::HttpOnTlsPort));
    let tls = http("443", "{}").replace("rules:", "terminatingTLS: {secret: {name: s}}, rules:");
    check(&tls, Some(Code::PlainUpstream));
    let both = tls.replace("rules:", "originatingTLS: {secret: {name: s}}, rules:");
    check(&both, None);
}

#[test]
fn parts_that_do_nothing() {
    let port = "toPorts: [{ports: [{port: \"80\"}]}]";
    for (spec, expected) in [
        ("ingress: [{}]", None),
        (
            "ingress: [{}, {fromEntities: [host]}]",
            Some(Code::EmptyBeside),
        ),
        (
            "egress: [{}], egressDeny: [{toEntities: [world]}]",
            Some(Code::EmptyBeside),
        ),
        ("ingress: [{}], egress: [{toEntities: [host]}]", None),
        ("ingress: [{icmps: [{}]}]", Some(Code::SelectsNothing)),
        ("ingressDeny: [{toPorts: [{}]}]", Some(Code::SelectsNothing)),
        (
            "egress: [{toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.0.0.0/8]}]}]",
            Some(Code::SelectsNothing),
        ),
        (
            "ingress: [{}], enableDefaultDeny: {egress: true}",
            Some(Code::NoEffect),
        ),
        ("ingress: [{}], enableDefaultDeny: {egress: false}", None),
        (
            "ingress: [{toPorts: [{ports: [{port: \"0\", endPort: 5}]}]}]",
            Some(Code::NoEffect),
        ),
    ] {
        check(spec, expected);
    }
    let key = "io.kubernetes.pod.namespace";
    for (selector, expected) in [
        (
            format!("matchLabels: {{{key}: other}}"),
            Some(Code::SelectsNothing),
        ),
        (format!("matchLabels: {{{key}: default}}"), None),
        (
            format!("matchLabels: {{\"k8s:{key}\": other}}"),
            Some(Code::NamespaceReplaced),
        ),
        (
            format!("matchExpressions: [{{key: {key}, operator: NotIn, values: [default]}}]"),
            Some(Code::SelectsNothing),
        ),
        (
            format!("matchExpressions: [{{key: {key}, operator: Exists}}]"),
            None,
        ),
    ] {
        let text =
            cnp(&format!("egress: [{{{port}}}]")).replace("matchLabels: {app: a}", &selector);
        assert_eq!(codes(&loads(&text)), Vec::from_iter(expected), "{selector}");
    }
}

#[test]
fn an_allow_that_a_deny_takes_back() {
    let port = |port: &str| format!("toPorts: [{{ports: [{{port: \"{port}\", protocol: TCP}}]}}]");
    let (p80, p443) = (port("80"), port("443"));
    let all = "toEntities: [all]";
    let b = "toEndpoints: [{matchLabels: {app: b}}]";
    for (allow, deny, expected) in [
        (b.to_owned(), all.to_owned(), true),
        (format!("{b}, {p80}"), b.to_owned(), true),
        (format!("{b}, {p80}"), format!("{b}, {p80}"), true),
        (format!("{b}, {p80}"), p80.clone(), true),
        (
            format!("{b}, {p80}"),
            "toPorts: [{ports: [{port: \"1\", endPort: 100}]}]".into(),
            true,
        ),
        (format!("{b}, {p80}"), format!("{b}, {p443}"), false),
        (b.to_owned(), format!("{b}, {p80}"), false),
        (
            b.to_owned(),
            "toEndpoints: [{matchLabels: {app: c}}]".into(),
            false,
        ),
        (all.to_owned(), b.to_owned(), false),
        ("toEndpoints: []".into(), all.to_owned(), false),
    ] {
        let loaded = pair(
            &format!("egress: [{{{allow}}}]"),
            &format!("egressDeny: [{{{deny}}}]"),
        );
        let expected = Vec::from_iter(expected.then_some(Code::ShadowedByDeny));
        assert_eq!(codes(&loaded), expected, "{allow} under {deny}");
        for problem in &loaded.problems {
            assert!(problem.message.contains("\"q\" (q.yaml:4)"), "{problem}");
            assert_eq!(
                (problem.file.as_str(), problem.field.as_str()),
                ("p.yaml", "spec.egress[0]")
            );
        }
    }
    let other = pair("egress: [{}]", "ingressDeny: [{fromEntities: [all]}]");
    assert!(other.problems.is_empty(), "of another direction");
}

#[test]
fn l7_rules_that_another_rule_opens() {
    let entry = |port: &str, rest: &str| {
        format!("egress: [{{toEntities: [host], toPorts: [{{ports: [{{{port}}}]{rest}}}]}}]")
    };
    let tcp = "port: \"80\", protocol: TCP";
    let http = entry(tcp, ", rules: {http: [{method: GET}]}");
    let dns = entry("port: \"53\"", ", rules: {dns: [{matchName: a.b}]}");
    for (judged, open, expected) in [
        (&http, entry(tcp, ""), true),
        (&http, entry("port: \"0\"", ""), true),
        (&http, "egress: [{toEntities: [host]}]".into(), true),
        (&http, "egress: [{toEntities: [all]}]".into(), true),
        (&http, entry("port: \"81\"", ""), false),
        (&http, "egress: [{toEntities: [world]}]".into(), false),
        (&http, entry(tcp, ", rules: {http: [{method: PUT}]}"), false),
        (&dns, entry("port: \"53\", protocol: UDP", ""), true),
        (&dns, entry("port: \"0\"", ""), false),
        (&dns, "egress: [{toEntities: [host]}]".into(), false),
    ] {
        let loaded = pair(judged, &open);
        let expected = Vec::from_iter(expected.then_some(Code::OpenedByOther));
        assert_eq!(codes(&loaded), expected, "{judged} by {open}");
    }
    let all = entry(tcp, ", rules: {http: [{}]}");
    assert!(
        pair(&all, &entry(tcp, "")).problems.is_empty(),
        "they refuse nothing anyway"
    );
}

#[test]
fn what_one_connection_cannot_obey_is_a_conflict() {
    let entry = |peer: &str, port: &str, rest: &str| {
        format!("egress: [{{{peer}toPorts: [{{ports: [{{{port}}}], {rest}}}]}}]")
    };
    let host = "toEntities: [host, world], ";
    let tcp = "port: \"53\", protocol: TCP";
    let http = entry(host, tcp, "rules: {http: [{}]}");
    let dns = |peer: &str, port: &str| entry(peer, port, "rules: {dns: [{matchPattern: '*'}]}");
    let tls = |name: &str| {
        entry(
            host,
            tcp,
            &format!("terminatingTLS: {{secret: {{name: {name}}}}}"),
        )
    };
    let out = |name: &str| {
        entry(
            host,
            tcp,
            &format!("originatingTLS: {{secret: {{name: {name}}}}}"),
        )
    };
    let sni = entry(host, tcp, "serverNames: [a.b]");
    let overlap = entry(
        host,
        "port: \"50\", endPort: 60, protocol: TCP",
        "rules: {http: [{}]}",
    );
    for (one, two, why) in [
        (&http, dns(host, tcp), "`dns` rules"),
        (
            &http,
            dns("toEntities: [host], ", "port: \"53\""),
            "`dns` rules",
        ),
        (&overlap, dns(host, "port: \"53\""), "`dns` rules"),
        (&tls("a"), tls("b"), "different secrets (`terminatingTLS`)"),
        (&out("a"), out("b"), "different secrets (`originatingTLS`)"),
        (&http, sni.clone(), "needs `terminatingTLS`"),
        (&http, dns("toEntities: [remote-node], ", tcp), ""),
        (&http, dns(host, "port: \"53\", protocol: UDP"), ""),
        (&http, dns("", tcp), ""),
        (&http, tls("a"), ""),
        (&tls("a"), sni.clone(), ""),
        (&tls("a"), tls("a"), ""),
        (&tls("a"), out("b"), ""),
    ] {
        let loaded = pair(one, &two);
        let conflicts: Vec<&Problem> = loaded.problems.iter().filter(|p| p.is_error()).collect();
        if why.is_empty() {
            assert!(conflicts.is_empty(), "{one} with {two}: {conflicts:#?}");
            continue;
        }
        let [conflict] = conflicts.as_slice() else {
            panic!("one conflict of {one} with {two}: {conflicts:#?}");
        };
        let got = (
            conflict.code,
            conflict.file.as_str(),
            conflict.field.as_str(),
        );
        assert_eq!(got, (Code::Conflict, "q.yaml", "spec.egress[0].toPorts"));
        assert!(conflict.message.contains(why), "{conflict}");
        assert!(
            conflict.message.contains("\"p\" (p.yaml:4)"),
            "names both: {conflict}"
        );
    }
}

#[test]
fn conflicts_are_found_within_a_rule_and_not_across_subjects() {
    let l7 =
        |rules: &str| format!("{{ports: [{{port: \"53\", protocol: TCP}}], rules: {{{rules}}}}}");
    let (http, dns) = (l7("http: [{}]"), l7("dns: [{matchName: a.b}]"));
    let within = format!("egress: [{{toPorts: [{http}, {dns}]}}]");
    refused_conflict(&cnp(&within), "another entry of the same rule");
    let alone = |entry: &str| cnp(&format!("egress: [{{toPorts: [{entry}]}}]"));
    let elsewhere = alone(&dns)
        .replace("app: a", "app: z")
        .replace("{name: p}", "{name: q}");
    let loaded = load(&[
        source("p.yaml", &alone(&http)),
        source("q.yaml", &elsewhere),
    ]);
    assert!(!loaded.has_errors(), "of another subject");
}

#[track_caller]
fn refused_conflict(text: &str, reason: &str) {
    let loaded = load_one(text);
    let is_it =
        |problem: &Problem| problem.code == Code::Conflict && problem.message.contains(reason);
    assert!(loaded.problems.iter().any(is_it), "{:#?}", loaded.problems);
}
