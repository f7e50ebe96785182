//! The tools for people who write policies: no daemon, no root, no network.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::process::{Command, Output};

use namegate_tests::Daemon;
use serde_json::Value;

const ENDPOINTS: &str = "
name: client
labels: {app: client}
netns: /run/netns/client
---
name: web
labels: {app: web}
netns: /run/netns/web
addresses: [10.2.0.5]
ports: {http: 8080/TCP}
---
name: dns
namespace: kube-system
labels: {k8s-app: kube-dns}
remote: true
addresses: [10.4.0.53]
";

const POLICY: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: client}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress:
  - toEndpoints: [{matchLabels: {k8s-app: kube-dns, 'k8s:io.kubernetes.pod.namespace': kube-system}}]
    toPorts:
    - ports: [{port: '53', protocol: ANY}]
      rules: {dns: [{matchPattern: '*.example.com'}]}
  - toFQDNs: [{matchName: api.example.com}]
    toPorts:
    - ports: [{port: '80', protocol: TCP}]
      rules: {http: [{method: GET, path: '/v1/.*'}]}
  - toEndpoints: [{matchLabels: {app: web}}]
    toPorts: [{ports: [{port: http, protocol: TCP}]}]
  egressDeny:
  - toCIDR: [192.0.2.9/32]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: default}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
    ports: [{port: 8080}]
";

/// A folder with the files above.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.write("p.yaml", POLICY);
        files.write("e.yaml", ENDPOINTS);
        files
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).unwrap();
    }

    fn namegate(&self, args: &[&str]) -> Output {
        Command::new(Daemon::binary().unwrap())
            .current_dir(self.0.path())
            .arg("policy")
            .args(args)
            .output()
            .unwrap()
    }

    fn verdict(&self, args: &[&str]) -> (i32, Value) {
        let mut all = vec!["verdict", "--policy", "p.yaml", "--endpoints", "e.yaml"];
        all.extend(["-o", "json", "--from", "default/client"]);
        all.extend(args);
        let output = self.namegate(&all);
        let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (output.status.code().unwrap(), json)
    }
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn verdicts_have_their_exit_codes_and_reasons() {
    let files = Files::new();
    let learned = "api.example.com=192.0.2.7";
    let api = ["--to", "api.example.com", "--learn", learned];
    let with = |more: &[&'static str]| [&api[..], more].concat();
    #[rustfmt::skip]
    let rows: &[(Vec<&str>, i32, &str, Value, &str)] = &[
        (vec!["--to", "kube-system/dns", "--dns", "www.example.com"], 0, "REDIRECTED", "ALLOWED".into(), "L3-L4"),
        (vec!["--to", "kube-system/dns", "--dns", "evil.io"], 1, "REDIRECTED", "DENIED".into(), "L3-L4"),
        (vec!["--to", "kube-system/dns", "--dns", "www.example.com", "--proto", "TCP"], 0, "REDIRECTED", "ALLOWED".into(), "L3-L4"),
        (vec!["--to", "kube-system/dns", "--port", "54"], 1, "DENIED", Value::Null, "none"),
        (vec!["--to", "default/web", "--port", "8080"], 0, "ALLOWED", Value::Null, "L3-L4"),
        (vec!["--to", "10.2.0.5", "--port", "8080"], 0, "ALLOWED", Value::Null, "L3-L4"),
        (vec!["--to", "default/web", "--port", "81"], 1, "DENIED", Value::Null, "none"),
        (with(&["--port", "80"]), 0, "REDIRECTED", Value::Null, "L3-L4"),
        (with(&["--http", "GET /v1/x host=api.example.com"]), 0, "REDIRECTED", "ALLOWED".into(), "L3-L4"),
        (with(&["--http", "POST /v1/x host=api.example.com"]), 1, "REDIRECTED", "DENIED".into(), "L3-L4"),
        (with(&["--port", "443"]), 1, "DENIED", Value::Null, "none"),
        (vec!["--to", "192.0.2.9", "--port", "80"], 1, "DENIED", Value::Null, "L3-Only"),
        (vec!["--to", "world", "--proto", "icmp"], 1, "DENIED", Value::Null, "none"),
        (vec!["--to", "default/client", "--port", "1"], 0, "ALLOWED", Value::Null, ""),
        (vec!["--to", "api.example.com", "--port", "80"], 3, "", Value::Null, ""),
        (vec!["--to", "nobody", "--port", "80"], 2, "", Value::Null, ""),
        (vec!["--to", "world"], 2, "", Value::Null, ""),
        (vec!["--to", "world", "--port", "80", "--http", "GET"], 2, "", Value::Null, ""),
    ];
    for (args, code, verdict, l7, matched) in rows {
        let (got, json) = files.verdict(args);
        assert_eq!(got, *code, "{args:?}: {json}");
        if !verdict.is_empty() {
            assert_eq!(json["verdict"], *verdict, "{args:?}");
            assert_eq!(json["l7_verdict"], *l7, "{args:?}");
        }
        if !matched.is_empty() {
            assert_eq!(json["match"], *matched, "{args:?}");
        }
    }
    let (_, json) = files.verdict(&["--to", "192.0.2.9", "--port", "80"]);
    assert_eq!(
        (&json["drop_reason"], &json["direction"]),
        (&181.into(), &"EGRESS".into())
    );
    let rule = &json["rules"][0];
    assert_eq!(
        (&rule["kind"], &rule["name"]),
        (&"CiliumNetworkPolicy".into(), &"client".into())
    );
    assert_eq!(
        (&rule["file"], &rule["line"]),
        (&"p.yaml".into(), &19.into())
    );
    let (_, json) = files.verdict(&["--to", "default/web", "--port", "8080"]);
    assert_eq!(json["ingress"]["rules"][0]["kind"], "NetworkPolicy");
    let (_, json) = files.verdict(&["--to", "default/web", "--port", "81"]);
    assert_eq!(
        (&json["drop_reason"], &json["direction"]),
        (&133.into(), &"EGRESS".into())
    );
}

#[test]
fn a_denial_is_told_with_the_rules_that_deny() {
    let files = Files::new();
    let args =
        "verdict --policy p.yaml --endpoints e.yaml --from default/client --to 192.0.2.9 --port 80";
    let text = said(&files.namegate(&args.split(' ').collect::<Vec<_>>()));
    for part in [
        "DENIED  default/client -> 192.0.2.9, 80/TCP\n",
        "egress of default/client: DENIED, match L3-Only, Policy denied by denylist (181)\n",
        "by CiliumNetworkPolicy default/client p.yaml:19\n",
    ] {
        assert!(text.contains(part), "{part} isn't in {text}");
    }
}

#[test]
fn a_virtual_address_is_judged_as_its_backends_and_where_they_differ_that_is_said() {
    let files = Files::new();
    let services = "
---
name: other
labels: {app: other}
remote: true
addresses: [10.2.0.6]
---
services:
- {name: web, vip: 10.96.0.20, backends: [10.2.0.5], ports: [{port: 80, target: 8080}]}
- {name: both, vip: 10.96.0.30, backends: [10.2.0.5, 10.2.0.6], ports: [{port: 80, target: 8080}]}
- {name: other, vip: 10.96.0.40, backends: [10.2.0.6], ports: [{port: 80, target: 8080}]}
";
    files.write("e.yaml", &format!("{ENDPOINTS}{services}"));
    let note = "ambiguous service";
    for (to, code, is_ambiguous) in [
        (["10.96.0.20", "80"], 0, false),
        (["10.96.0.20", "8080"], 1, false),
        (["10.96.0.30", "80"], 1, true),
        (["10.96.0.40", "80"], 1, false),
    ] {
        let [address, port] = to;
        let judged = files.verdict(&["--to", address, "--port", port]);
        assert_eq!(judged.0, code, "{to:?}: {}", judged.1);
        for tool in ["verdict", "explain"] {
            let args = format!(
                "{tool} --policy p.yaml --endpoints e.yaml --from default/client --to {address} --port {port}"
            );
            let text = said(&files.namegate(&args.split(' ').collect::<Vec<_>>()));
            assert_eq!(text.contains(note), is_ambiguous, "{text}");
        }
    }
}

#[test]
fn through_a_service_that_it_alone_is_behind_a_workload_reaches_itself() {
    let files = Files::new();
    let services = "
---
name: alone
labels: {app: client}
netns: /run/netns/alone
addresses: [10.2.0.7]
---
services:
- {name: alone, vip: 10.96.0.20, backends: [10.2.0.7], ports: [{port: 80, target: 8080}]}
- {name: both, vip: 10.96.0.30, backends: [10.2.0.7, 10.2.0.5], ports: [{port: 80, target: 8081}]}
";
    files.write("e.yaml", &format!("{ENDPOINTS}{services}"));
    for (from, to, is_allowed) in [
        ("default/alone", "10.96.0.20", true),
        ("default/client", "10.96.0.20", false),
        ("default/alone", "10.96.0.30", false),
    ] {
        let args =
            format!("verdict --policy p.yaml --endpoints e.yaml --from {from} --to {to} --port 80");
        let output = files.namegate(&args.split(' ').collect::<Vec<_>>());
        let text = said(&output);
        assert_eq!(output.status.success(), is_allowed, "{from} {to}: {text}");
        assert_eq!(text.contains("it reaches itself"), is_allowed, "{text}");
    }
}

#[test]
fn cases_pass_fail_and_are_told_by_line() {
    let files = Files::new();
    let run = |cases: &str| {
        let text = format!("policy: p.yaml\nendpoints: [e.yaml]\ncases:\n{cases}");
        files.write("cases.yaml", &text);
        let output = files.namegate(&["test", "cases.yaml"]);
        (output.status.code(), said(&output))
    };
    let good = "\
- {from: default/client, to: kube-system/dns, dns: a.example.com, expect: allowed}
- {from: default/client, to: kube-system/dns, port: 53, expect: redirected}
- {from: default/client, to: world, port: 80, expect: denied}
- {from: default/client, to: api.example.com, port: 80, expect: undecided}
- {from: default/client, to: default/web, port: 8080, expect: {verdict: allowed, match: L3-L4, rule: client}}
- {from: default/client, to: 192.0.2.9, port: 80, expect: {dropReason: 181}}
- from: default/client
  to: api.example.com
  learn: [api.example.com=192.0.2.7]
  http: POST /v1/x
  expect: {verdict: redirected, l7: denied}
";
    let (code, text) = run(good);
    assert_eq!((code, &*text), (Some(0), "7 passed, 0 failed\n"));
    let bad = "- {name: web, from: default/client, to: default/web, port: 81, expect: allowed}\n";
    let (code, text) = run(&format!("{good}{bad}"));
    assert_eq!(code, Some(1));
    assert!(
        text.starts_with("FAIL cases.yaml:15: web: expected allowed, got DENIED EGRESS none 133 "),
        "{text}"
    );
    assert!(text.ends_with("7 passed, 1 failed\n"), "{text}");
    for wrong in [
        "- {from: default/client, to: default/web, port: 81, expect: perhaps}\n",
        "- {from: default/client, to: default/web, expect: allowed}\n",
        "- {from: default/nobody, to: default/web, port: 1, expect: allowed}\n",
        "- {from: default/client, to: default/web, port: 81, expects: allowed}\n",
    ] {
        let (code, text) = run(wrong);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains("cases.yaml"), "{text}");
    }
}

#[test]
fn validate_formats_and_the_schema_work_from_files() {
    let files = Files::new();
    assert_eq!(
        files.namegate(&["validate", "p.yaml"]).status.code(),
        Some(0)
    );
    let output = files.namegate(&["validate", "--for-run", "p.yaml"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let of_nodes = "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: nodes}\n\
        spec: {nodeSelector: {}, ingress: [{fromEntities: [cluster]}]}\n";
    files.write("later.yaml", of_nodes);
    let output = files.namegate(&["validate", "--for-run", "later.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("which are not enforced yet"),
        "{}",
        said(&output)
    );
    files.write("bad.yaml", &POLICY.replace("toFQDNs", "toFqdns"));
    let output = files.namegate(&["validate", "bad.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    let text = said(&output);
    assert!(
        text.contains("bad.yaml:12:5: error: spec.egress[1].toFqdns"),
        "{text}"
    );
    assert!(
        text.contains("    ^^^^^^^") || text.contains("   ^^^^^^^"),
        "{text}"
    );
    assert!(text.contains("did you mean `toFQDNs`?"), "{text}");
    assert_eq!(
        files.namegate(&["validate", "missing.yaml"]).status.code(),
        Some(2)
    );

    assert_eq!(
        files.namegate(&["fmt", "--write", "p.yaml"]).status.code(),
        Some(0)
    );
    assert_eq!(
        files.namegate(&["fmt", "--check", "p.yaml"]).status.code(),
        Some(0)
    );
    assert_eq!(
        files.namegate(&["validate", "p.yaml"]).status.code(),
        Some(0)
    );
    let schema: Value = serde_json::from_str(&said(&files.namegate(&["schema"]))).unwrap();
    assert!(schema["$schema"].as_str().unwrap().contains("2020-12"));
}
