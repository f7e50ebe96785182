//! Files that mean harm, and files with anything anywhere: an answer in bounded time, never a panic.

use super::*;
use crate::limits::{FILE_DEPTH_MAX, FILE_NODES_MAX, SNIPPET_BYTES_MAX};

/// Objects with, together, every field of the language.
const FULL: [&str; 3] = [
    r#"apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: full
  namespace: default
  labels: {a: b}
  annotations: {namegate.io/audit: "true"}
spec:
  description: d
  endpointSelector:
    matchLabels: {app: a}
    matchExpressions:
    - {key: k, operator: In, values: [v]}
  labels: [{key: a, value: b, source: c}, "k8s:d=e"]
  log: {value: l}
  enableDefaultDeny: {ingress: true, egress: false}
  ingress:
  - fromEndpoints: [{matchLabels: {app: b}}]
    fromRequires: []
    authentication: {mode: disabled}
    toPorts:
    - ports: [{port: "80", endPort: 90, protocol: TCP}]
      rules:
        http:
        - method: GET
          path: /a.*
          host: a\.b
          headers: ["X-A: b"]
          headerMatches: [{name: x, value: w, mismatch: ADD, secret: {namespace: a, name: b}}]
  - fromCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]
    icmps: [{fields: [{family: IPv4, type: 8}, {type: EchoReply}]}]
  - fromCIDR: [10.0.0.0/8]
  - fromEntities: [host]
  - fromNodes: []
  - fromGroups: []
"#,
    r#"apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: more}
spec:
  endpointSelector: {}
  ingressDeny:
  - fromEntities: [world]
    toPorts: [{ports: [{port: "22", protocol: TCP}]}]
  egress:
  - toEndpoints: [{matchLabels: {k8s-app: dns}}]
    toPorts:
    - ports: [{port: "53", protocol: ANY}]
      rules: {dns: [{matchName: a.b}, {matchPattern: "*.a.b"}]}
  - toFQDNs: [{matchName: a.b}, {matchPattern: "*.a.b"}]
    toPorts:
    - ports: [{port: "443", protocol: TCP}]
      serverNames: [a.b]
      terminatingTLS: {secret: {namespace: a, name: b}, trustedCA: c, certificate: d, privateKey: e}
      originatingTLS: {secret: {name: b}}
  - toServices:
    - {k8sService: {serviceName: a, namespace: b}}
    - {k8sServiceSelector: {selector: {matchLabels: {a: b}}, namespace: c}}
  - toNodes: []
  - toGroups: []
  egressDeny:
  - toCIDRSet: [{cidrGroupSelector: {matchLabels: {g: h}}}, {cidrGroupRef: g}]
specs:
- endpointSelector: {}
  ingress: [{}]
---
apiVersion: cilium.io/v2
kind: CiliumCIDRGroup
metadata: {name: g, labels: {g: h}}
spec: {externalCIDRs: [10.0.0.0/8]}
"#,
    r#"apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: k}
spec:
  podSelector: {matchExpressions: [{key: a, operator: Exists}]}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - {podSelector: {matchLabels: {a: b}}, namespaceSelector: {matchLabels: {a: b}}}
    - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}
    ports: [{port: 80, endPort: 90, protocol: TCP}, {port: http}]
  egress:
  - to: [{podSelector: {}}]
"#,
];

/// The parts of a text that a value may stand for: each token of a flow collection or a line.
fn values(text: &str) -> Vec<(usize, usize)> {
    let mut spans = Vec::new();
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        for (at, _) in line.match_indices(": ").chain(line.match_indices("- ")) {
            spans.push((offset + at + 2, offset + line.trim_end().len()));
        }
        for (open, close) in [('{', '}'), ('[', ']')] {
            for (from, _) in line.match_indices(open) {
                let mut depth = 0_i32;
                let end = line[from..].char_indices().find(|(_, ch)| {
                    depth += i32::from(*ch == open) - i32::from(*ch == close);
                    depth == 0
                });
                if let Some((end, _)) = end {
                    spans.push((offset + from, offset + from + end + 1));
                }
            }
        }
        let is_word = |ch: char| ch.is_ascii_alphanumeric() || "./\"*:-\\".contains(ch);
        let mut from = None;
        for (at, ch) in line.char_indices() {
            match (is_word(ch), from) {
                (true, None) => from = Some(at),
                (false, Some(start)) => {
                    if !line[at..].starts_with(':') {
                        spans.push((offset + start, offset + at));
                    }
                    from = None;
                }
                (true, Some(_)) | (false, None) => {}
            }
        }
        offset += line.len();
    }
    spans.sort_unstable();
    spans.dedup();
    spans
}

#[test]
fn every_value_of_every_type_loads_or_is_refused_with_a_place() {
    let others = [
        "null", "yes", "-7", "word", "\"\"", "[]", "[x]", "{}", "{x: w}", "*.a.b",
    ];
    let mut refused = 0;
    for full in FULL {
        loads(full);
        for (from, to) in values(full) {
            for other in others {
                let text = format!("{}{other}{}", &full[..from], &full[to..]);
                let loaded = load_one(&text);
                refused += usize::from(loaded.has_errors());
                for problem in &loaded.problems {
                    assert!(problem.line > 0 && problem.column > 0, "{problem}\n{text}");
                }
            }
        }
    }
    assert!(refused > 2000, "{refused} were refused");
}

#[test]
fn sizes_beyond_the_limits_are_refused_by_name() {
    let ten_mib = cnp("egress: [{}]") + &"# x\n".repeat(10 << 18);
    let problem = load_one(&ten_mib).problems.remove(0);
    assert_eq!(problem.code, Code::Limit);
    assert!(
        problem.message.contains(&FILE_BYTES_MAX.to_string()),
        "{problem}"
    );
    let rules = vec!["{toEntities: [world]}"; 100_000].join(",");
    let bomb: String = (1..9).fold("a0: &a0 [x]\n".to_owned(), |text, level| {
        let below = vec![format!("*a{}", level - 1); 10].join(",");
        format!("{text}a{level}: &a{level} [{below}]\n")
    });
    let deep = format!("a: {}", "[".repeat(10_000));
    let maps = format!("a: {}", "{a: ".repeat(FILE_DEPTH_MAX + 1));
    for text in [cnp(&format!("egress: [{rules}]")), bomb, deep, maps] {
        let problem = load_one(&text).problems.remove(0);
        assert_eq!(problem.code, Code::Limit, "{problem}");
        let help = problem.help.unwrap_or_default();
        assert!(help.contains(&FILE_NODES_MAX.to_string()), "{help}");
        assert!(help.contains(&FILE_DEPTH_MAX.to_string()), "{help}");
    }
}

/// As many rules as a file may have, each with L7 and each about the same: checks between rules
/// must not take a time that grows with their square.
#[test]
fn the_largest_files_are_read_in_time() {
    let rule =
        "{toPorts: [{ports: [{port: \"80\", protocol: TCP}], rules: {http: [{method: GET}]}}]}";
    let loaded = load_one(&cnp(&format!("egress: [{}]", vec![rule; 5500].join(","))));
    assert!(!loaded.has_errors());
    assert_eq!(loaded.set.policies[0].rules[0].items.len(), 5500);
    let peers: Vec<String> = (0..15_000)
        .map(|n| format!("10.{}.{}.0/24", n / 256, n % 256))
        .collect();
    let wide = format!(
        "{{toCIDR: [{}], toPorts: [{}]}}",
        peers.join(","),
        vec!["{ports: [{port: \"80\", protocol: TCP}], rules: {http: [{}]}}"; 1500].join(",")
    );
    let narrow = "{toCIDR: [10.0.0.0/24, 10.0.1.0/24], toPorts: [{ports: [{port: \"80\", protocol: TCP}], originatingTLS: {secret: {name: s}}}]}";
    let loaded = load_one(&cnp(&format!("egress: [{wide}, {narrow}]")));
    assert!(!loaded.has_errors());
    let rules = vec!["{toEntities: [world]}"; 20_000].join(",");
    assert!(!load_one(&cnp(&format!("egress: [{rules}]"))).has_errors());
}

/// One line with as many faults as there are nodes: no problem may carry all of it.
#[test]
fn a_long_line_is_not_shown() {
    let text = cnp(&format!("egress: [{}]", vec!["{x: z}"; 20_000].join(",")));
    let loaded = load_one(&text);
    assert_eq!(loaded.problems.len(), 20_000);
    let shown: usize = loaded
        .problems
        .iter()
        .map(|problem| problem.snippet.len())
        .sum();
    assert!(text.len() > SNIPPET_BYTES_MAX);
    assert_eq!(shown, 0);
}

/// An alias is as large as what it stands for.
#[test]
fn a_large_text_used_often_is_refused() {
    let text = format!(
        "a: &a {}\nb: [{}]\n",
        "x".repeat(1 << 20),
        vec!["*a"; 90_000].join(",")
    );
    let problem = load_one(&text).problems.remove(0);
    assert_eq!(problem.code, Code::Limit, "{}", problem.message);
}

#[test]
fn booleans_of_yaml_1_1_are_told_apart() {
    let label = |word: &str| {
        cnp(&format!(
            "egress: [{{toEndpoints: [{{matchLabels: {{app: {word}}}}}]}}]"
        ))
    };
    for word in ["yes", "no", "on", "off", "true", "Y", "n"] {
        let field = "spec.egress[0].toEndpoints[0].matchLabels.app";
        refused(&label(word), Code::WrongType, field, "quote it");
        loads(&label(&format!("\"{word}\"")));
    }
    for (word, closes) in [("yes", true), ("off", false), ("no", false), ("on", true)] {
        let set = loads(&cnp(&format!(
            "egress: [{{}}], enableDefaultDeny: {{egress: {word}}}"
        )))
        .set;
        assert_eq!(
            set.policies[0].rules[0].items[0].default_deny, closes,
            "{word}"
        );
    }
}

#[test]
fn a_key_that_stands_twice_is_refused_everywhere() {
    for (index, from, to) in [
        (0, "metadata:\n", "metadata:\n  name: other\n"),
        (0, "spec:\n  d", "spec:\n  description: x\n  d"),
        (0, "{app: a}", "{app: a, app: b}"),
        (0, "endPort: 90", "endPort: 90, endPort: 91"),
        (
            1,
            "secret: {namespace: a, ",
            "secret: {namespace: a, namespace: c, ",
        ),
        (
            2,
            "podSelector: {matchE",
            "podSelector: {matchExpressions: [], matchE",
        ),
    ] {
        let text = FULL[index].replacen(from, to, 1);
        assert_ne!(text, FULL[index]);
        let loaded = load_one(&text);
        let twice = |problem: &Problem| problem.code == Code::Duplicate;
        assert!(
            loaded.problems.iter().any(twice),
            "{to}: {:#?}",
            loaded.problems
        );
    }
}

#[test]
fn hostile_expressions_are_refused_with_a_reason() {
    let at = "spec.ingress[0].toPorts[0].rules.http[0]";
    let rule = |field: &str, text: &str| {
        let quoted = text.replace('\'', "''");
        cnp(&format!(
            "ingress: [{{toPorts: [{{ports: [{{port: \"80\", protocol: TCP}}], rules: {{http: [{{{field}: '{quoted}'}}]}}}}]}}]"
        ))
    };
    let nested = format!("{}a{}", "(".repeat(5000), ")".repeat(5000));
    for field in ["method", "path", "host"] {
        for text in [
            "(a{1000}){1000}",
            "((a{100}){100}){100}",
            "(",
            "[a",
            "a(?=b)",
            "(a)\\1",
            "*",
            &nested,
        ] {
            let path = format!("{at}.{field}");
            refused(
                &rule(field, text),
                Code::InvalidValue,
                &path,
                "no regular expression",
            );
        }
    }
    loads(&rule("path", "/(a|b){1,10}[^/]*(?i:X).*"));
}
