//! The schema for editors against files that Cilium takes or refuses.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use jsonschema::Validator;
use policy::SCHEMA;
use serde_json::Value;

fn validator() -> Validator {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    jsonschema::draft202012::meta::validate(&schema).unwrap();
    jsonschema::draft202012::new(&schema).unwrap()
}

/// The first fault of a text; none if all documents are valid.
fn fault(validator: &Validator, text: &str) -> Option<String> {
    let documents: Vec<Value> = serde_yaml::from_multiple(text).unwrap();
    let mut faults = documents.iter().filter_map(|document| {
        let error = validator.iter_errors(document).next()?;
        Some(format!("{}: {error}", error.instance_path()))
    });
    faults.next()
}

/// What the table of the corpus says of each file.
fn corpus() -> Vec<(String, String, String)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/");
    let table = std::fs::read_to_string(format!("{folder}README.md")).unwrap();
    let rows = table.lines().filter_map(|line| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (name, word) = (cells.next()?, cells.nth(2)?);
        let text = std::fs::read_to_string(format!("{folder}{name}")).ok()?;
        Some((name.to_owned(), word.to_owned(), text))
    });
    rows.collect()
}

#[test]
fn the_corpus_is_taken_or_refused_as_its_table_says() {
    let validator = validator();
    let corpus = corpus();
    assert_eq!(corpus.len(), 124);
    for (name, word, text) in corpus {
        let fault = fault(&validator, &text);
        // An option of Cilium's decides this one, and not the text.
        let by_option = word.contains("enable-node-selector-labels");
        assert_eq!(
            fault.is_none(),
            word == "valid" || by_option,
            "{name}: {word}: {fault:?}"
        );
    }
}

/// A policy of a namespace with this inside of its rule.
fn cnp(rule: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p}}\nspec: {{{rule}}}\n"
    )
}

fn egress(item: &str) -> String {
    cnp(&format!("endpointSelector: {{}}, egress: [{{{item}}}]"))
}

fn port(port: &str) -> String {
    egress(&format!("toPorts: [{{ports: [{{{port}}}]}}]"))
}

fn icmp(field: &str) -> String {
    egress(&format!("icmps: [{{fields: [{{{field}}}]}}]"))
}

fn knp(spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p}}\nspec: {{{spec}}}\n"
    )
}

#[test]
fn what_is_right_is_taken() {
    let validator = validator();
    let forty = vec!["{port: \"1\"}"; 40].join(", ");
    for text in [
        egress(""),
        egress("toFQDNs: [{matchName: a.b.}, {matchPattern: \"**.c\"}]"),
        egress("toEntities: [world-ipv4, kube-apiserver]"),
        egress("toCIDR: [10.0.0.0/8, \"::/0\", \"2001:db8::/32\"]"),
        egress(&format!("toPorts: [{{ports: [{forty}]}}]")),
        egress("toRequires: []"),
        port("port: \"65535\", endPort: 65535, protocol: SCTP"),
        port("port: \"0\""),
        port("port: http-alt"),
        icmp("type: 8"),
        icmp("family: IPv6, type: PacketTooBig"),
        cnp(
            "endpointSelector: {matchLabels: {\"k8s:a.b/c\": d}}, ingressDeny: [{fromEntities: [all]}]",
        ),
        knp(
            "podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: 80}]}]",
        ),
        "apiVersion: v1\nkind: List\nitems: []\n".to_owned(),
    ] {
        assert_eq!(fault(&validator, &text), None, "{text}");
    }
}

#[test]
fn what_is_wrong_is_refused() {
    let validator = validator();
    let many = vec!["{port: \"1\"}"; 41].join(", ");
    let long = "a.".repeat(128);
    for text in [
        cnp("endpointSelector: {}"),
        cnp("endpointSelector: {}, egress: []"),
        cnp("egress: [{}]"),
        cnp("nodeSelector: {}, egress: [{}]"),
        egress("toFQDN: []"),
        egress("toFQDNs: [{matchName: a, matchPattern: b}]"),
        egress("toFQDNs: [{}]"),
        egress("toFQDNs: [{matchName: \"*.a\"}]"),
        egress("toFQDNs: [{matchName: a..b}]"),
        egress(&format!("toFQDNs: [{{matchName: {long}}}]")),
        egress("toEntities: [World]"),
        egress("toCIDR: [10.0.0.1]"),
        egress("toCIDR: [10.0.0.0/33]"),
        egress("toCIDR: [10.0.0.256/32]"),
        egress("toCIDR: [\"::/129\"]"),
        egress("toCIDRSet: [{cidr: 10.0.0.0/8, cidrGroupRef: a}]"),
        egress("toRequires: [{}]"),
        egress("toEndpoints: [{matchLabels: {a: 1}}]"),
        egress("toEndpoints: [{matchLabels: {\"a:b:c\": d}}]"),
        egress("toEndpoints: [{matchExpressions: [{key: a, operator: in, values: [b]}]}]"),
        egress("toEndpoints: [{matchExpressions: [{key: a, operator: In}]}]"),
        egress("toEndpoints: [{matchExpressions: [{key: a, operator: Exists, values: [b]}]}]"),
        egress(&format!("toPorts: [{{ports: [{many}]}}]")),
        egress("toPorts: [{rules: {kafka: []}}]"),
        egress("toPorts: [], icmps: []"),
        port("port: 53"),
        port("port: \"65536\""),
        port("port: \"010\""),
        port("port: a--b"),
        port("port: abcdefghijklmnop"),
        port("port: \"1\", protocol: ICMP"),
        icmp("type: 256"),
        icmp("type: PacketTooBig"),
        cnp("endpointSelector: {}, ingress: [{toPorts: [{rules: {dns: []}}]}]"),
        cnp("endpointSelector: {}, egressDeny: [{toFQDNs: []}]"),
        cnp(
            "endpointSelector: {}, log: {value: \"a2345678901234567890123456789012x\"}, egress: [{}]",
        ),
        cnp(
            "endpointSelector: {}, egress: [{toPorts: [{rules: {http: [{headerMatches: [{name: a, mismatch: MEND}]}]}}]}]",
        ),
        knp("podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]"),
        "apiVersion: v1\nkind: List\nitems: [{kind: Pod}]\n".to_owned(),
        "apiVersion: cilium.io/v2\nkind: CiliumEnvoyConfig\n".to_owned(),
    ] {
        assert!(fault(&validator, &text).is_some(), "{text}");
    }
}

#[test]
fn every_field_is_described_in_one_sentence() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let mut open = vec![(String::new(), &schema)];
    let mut count = 0;
    while let Some((path, at)) = open.pop() {
        let is_object = at.get("additionalProperties") == Some(&Value::Bool(false));
        let fields = at.get("properties").and_then(Value::as_object);
        for (name, field) in fields.filter(|_| is_object).into_iter().flatten() {
            // `kind` and `apiVersion` are, where they are told apart.
            if field.is_object() && field.get("const").is_none() {
                let text = description(&schema, field);
                assert!(
                    text.ends_with('.') && !text.contains(". "),
                    "{path}/{name}: {text:?}"
                );
                count += 1;
            }
        }
        let inner = at.as_object().into_iter().flatten();
        let inner = inner.map(|(key, value)| (format!("{path}/{key}"), value));
        open.extend(inner.filter(|(_, value)| value.is_object()));
        let listed = at.as_object().into_iter().flatten();
        let listed = listed.filter_map(|(key, value)| Some((key, value.as_array()?)));
        open.extend(listed.flat_map(|(key, list)| {
            let path = format!("{path}/{key}");
            list.iter().map(move |value| (path.clone(), value))
        }));
    }
    assert!(count > 100, "{count}");
}

/// What a field says of itself, or what it refers to does.
fn description<'a>(schema: &'a Value, field: &'a Value) -> &'a str {
    let reference = field.get("$ref").and_then(Value::as_str);
    let referred = reference.and_then(|path| schema.pointer(path.trim_start_matches('#')));
    let mut both = [Some(field), referred].into_iter().flatten();
    both.find_map(|one| one.get("description")?.as_str())
        .unwrap_or_default()
}
