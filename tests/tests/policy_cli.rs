//! `namegate policy verdict`, `match`, `test`, `explain` and `diff`: files in, words and exit codes out.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use namegate_tests::Daemon;
use serde_json::{Value, json};

const POLICIES: &str = r#"apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: a}}
  egress:
  - toEndpoints: [{matchLabels: {app: b}}]
    toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{method: GET, path: "/public"}]}}]
  - toEndpoints: [{matchLabels: {k8s-app: dns, "k8s:io.kubernetes.pod.namespace": kube-system}}]
    toPorts: [{ports: [{port: "53", protocol: UDP}], rules: {dns: [{matchPattern: "*.example.com"}, {matchName: api.x.io}]}}]
  - toFQDNs: [{matchName: api.x.io}]
    toPorts: [{ports: [{port: "443", protocol: TCP}], serverNames: [api.x.io]}]
  - toEntities: [host]
  - toServices: [{k8sService: {serviceName: db, namespace: default}}]
  egressDeny:
  - toEntities: [host]
    toPorts: [{ports: [{port: "22", protocol: TCP}]}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: b-in, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: b}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: a}}]
    toPorts: [{ports: [{port: http, protocol: TCP}]}]
"#;

const ENDPOINTS: &str = r#"name: a
labels: {app: a}
netns: /run/netns/nowhere
---
name: b
labels: {app: b}
netns: /run/netns/b
addresses: [10.0.0.3]
ports: {http: 80/TCP}
---
name: dns
namespace: kube-system
labels: {k8s-app: dns}
remote: true
addresses: [10.0.0.4]
---
name: node2
remote: true
addresses: [192.168.1.2]
labels: {"reserved:remote-node": ""}
---
services: [{name: db, vip: 10.96.0.7, backends: [10.9.9.9], ports: [{port: 5432}]}]
"#;

const CASES: &str = "policy: p.yaml
endpoints: e.yaml
cases:
- {from: default/a, to: default/b, http: GET /public, expect: allowed}
- {name: other path, from: default/a, to: default/b, http: GET /x, expect: {verdict: redirected, l7: denied, rule: web}}
- {from: default/a, to: world, port: 80, expect: {verdict: denied, dropReason: 133, match: none}}
- {from: default/a, to: api.x.io, port: 443, expect: undecided}
";

/// A folder with the files.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("p.yaml", POLICIES),
        ("e.yaml", ENDPOINTS),
        ("t.yaml", CASES),
    ] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn run(dir: &Path, words: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(Daemon::binary().unwrap());
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .current_dir(dir)
        .arg("policy")
        .args(words)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn ask(dir: &Path, command: &str, words: &[&str]) -> (i32, String, String) {
    let files = [command, "--policy", "p.yaml", "--endpoints", "e.yaml"];
    run(dir, &[&files, words].concat())
}

#[test]
fn verdicts_have_the_exit_codes_of_the_contract() {
    let dir = folder();
    #[rustfmt::skip]
    let rows: &[(&str, i32, &str)] = &[
        ("--from default/a --to default/b --port 80", 0, "REDIRECTED"),
        ("--from default/a --to 10.0.0.3 --port 80", 0, "REDIRECTED"),
        ("--from default/a --to default/b --port 81", 1, "DENIED"),
        ("--from default/a --to default/b --port 80 --proto udp", 1, "180"),
        ("--from default/a --to default/b --port 80 --proto udp --quic allow", 1, "133"),
        ("--from default/a --to kube-system/dns --dns www.example.com", 0, "ALLOWED by the proxy"),
        ("--from default/a --to kube-system/dns --dns example.com --qtype AAAA", 1, "DENIED by the proxy"),
        ("--from default/a --to host --port 22", 1, "181"),
        ("--from default/a --to host --port 23", 0, "ALLOWED"),
        ("--from host --to default/b --proto icmp", 0, "local host"),
        ("--from host --to default/b --proto icmp --no-allow-localhost", 1, "133"),
        ("--from default/a --to world --port 1 --enforcement-mode never", 0, "ALLOWED"),
        ("--from default/b --to world --port 1 --enforcement-mode always", 1, "DENIED"),
        ("--from default/a --to default/a --port 1", 0, "ALLOWED"),
        ("--from default/a --to 10.9.9.9 --port 5432", 0, "ALLOWED"),
        ("--from default/a --to default/node2 --port 1", 1, "DENIED"),
        ("--from default/a --to api.x.io --port 443", 3, "--learn api.x.io=ADDRESS"),
        ("--from default/a --to api.x.io --port 443 --learn api.x.io=198.51.100.7", 0, "REDIRECTED"),
        ("--from default/a --to api.x.io --port 443 --proto udp --learn api.x.io=198.51.100.7", 1, "180"),
        ("--from default/a --to api.x.io --port 443 --proto udp --quic sni --learn api.x.io=198.51.100.7", 0, "server name in QUIC"),
        ("--from default/a --to api.x.io --port 443 --proto udp --quic sni --sni api.y.io --learn api.x.io=198.51.100.7", 1, "DENIED by the proxy"),
        ("--from default/a --to default/b --port 80 --proto udp --quic sni", 1, "180"),
        ("--from default/a --to api.x.io --sni api.y.io --learn api.x.io=198.51.100.7", 1, "DENIED by the proxy"),
        // A name that leads to a workload is that workload.
        ("--from default/a --to api.x.io --port 443 --learn api.x.io=10.0.0.3", 1, "DENIED"),
        ("--from default/a --to other.io --port 443 --learn other.io=203.0.113.9", 1, "DENIED"),
        // It may be the backend of a service that is allowed.
        ("--from default/a --to other.io --port 443", 3, "--learn other.io"),
        ("--from default/b --to other.io --port 443", 0, "ALLOWED"),
        ("--from world --to host --port 1", 2, ""),
        ("--from default/zz --to host --port 1", 2, ""),
        ("--from default/a --to host", 2, ""),
        ("--to host --port 1", 2, ""),
    ];
    for (words, code, told) in rows {
        let words: Vec<&str> = words.split(' ').collect();
        let (got, out, error) = ask(dir.path(), "verdict", &words);
        assert_eq!(got, *code, "{words:?}: {out}{error}");
        assert!(out.contains(told), "{words:?}: {out}");
    }
}

#[test]
fn a_verdict_is_json_of_both_sides() {
    let dir = folder();
    let words = [
        "--from",
        "default/a",
        "--to",
        "default/b",
        "--http",
        "GET /x",
        "-o",
        "json",
    ];
    let (code, out, _) = ask(dir.path(), "verdict", &words);
    assert_eq!(code, 1);
    let rule = |name: &str, line: u32| {
        json!({"kind": "CiliumNetworkPolicy", "namespace": "default", "name": name,
            "file": "p.yaml", "line": line})
    };
    let mut egress = json!({"verdict": "REDIRECTED", "l7_verdict": "DENIED",
        "direction": "EGRESS", "match": "L3-L4", "drop_reason": null, "rules": [rule("web", 7)]});
    let ingress = json!({"verdict": "ALLOWED", "l7_verdict": null,
        "direction": "INGRESS", "match": "L3-L4", "drop_reason": null, "rules": [rule("b-in", 25)]});
    let both = egress.clone();
    let map = egress.as_object_mut().unwrap();
    map.insert("egress".to_owned(), both);
    map.insert("ingress".to_owned(), ingress);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), egress);
    let words = [
        "--from",
        "default/a",
        "--to",
        "world",
        "--port",
        "9",
        "-o",
        "json",
    ];
    let (code, out, _) = ask(dir.path(), "verdict", &words);
    let got: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, got["drop_reason"].as_u64()), (1, Some(133)));
    assert!(got["ingress"].is_null());
}

#[test]
fn patterns_are_tried_on_names() {
    let dir = folder();
    let (code, out, _) = run(dir.path(), &["match", "*.x.io", "a.x.io", "A.X.io."]);
    assert_eq!((code, out.as_str()), (0, "yes\ta.x.io\nyes\tA.X.io.\n"));
    let (code, out, _) = run(dir.path(), &["match", "*.x.io", "x.io", "-o", "json"]);
    let got: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, got), (1, json!([{"name": "x.io", "match": false}])));
    assert_eq!(run(dir.path(), &["match", "a b", "x.io"]).0, 2);
}

#[test]
fn cases_are_counted() {
    let dir = folder();
    let (code, out, error) = run(dir.path(), &["test", "t.yaml"]);
    assert_eq!((code, out.as_str()), (0, "4 passed, 0 failed\n"), "{error}");
    let wrong = CASES.replace(
        "GET /public, expect: allowed",
        "GET /public, expect: denied",
    );
    fs::write(dir.path().join("wrong.yaml"), wrong).unwrap();
    let (code, out, _) = run(dir.path(), &["test", "t.yaml", "wrong.yaml"]);
    assert_eq!(code, 1);
    assert!(
        out.contains("FAIL wrong.yaml:4: default/a -> default/b: expected denied"),
        "{out}"
    );
    assert!(
        out.contains("default/web p.yaml:7") && out.ends_with("7 passed, 1 failed\n"),
        "{out}"
    );
    for bad in [
        "cases: []",
        "policy: p.yaml\nendpoints: gone.yaml\ncases: []\n",
    ] {
        fs::write(dir.path().join("bad.yaml"), bad).unwrap();
        assert_eq!(run(dir.path(), &["test", "bad.yaml"]).0, 2, "{bad}");
    }
}

#[test]
fn sentences_tell_of_an_endpoint_and_of_a_verdict() {
    let dir = folder();
    let (code, out, _) = ask(dir.path(), "explain", &["--of", "default/a"]);
    assert_eq!(code, 0);
    for told in [
        "Egress is closed by CiliumNetworkPolicy default/web",
        "requests GET\n    /public only",
        "*.example.com",
        "It may never reach\n  - host, on 22/TCP",
        "Ingress is open",
    ] {
        assert!(out.contains(told), "{told}: {out}");
    }
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    let words = ["--from", "world", "--to", "default/b", "--port", "80"];
    let (code, out, _) = ask(dir.path(), "explain", &words);
    assert_eq!(code, 0);
    assert!(
        out.contains("closed by:\n  - CiliumNetworkPolicy default/b-in p.yaml:25"),
        "{out}"
    );
    assert!(out.contains("To have it allowed"), "{out}");
    assert_eq!(ask(dir.path(), "explain", &["--of", "default/zz"]).0, 2);
}

#[test]
fn an_endpoint_is_explained_as_json() {
    let dir = folder();
    let (code, out, _) = ask(dir.path(), "explain", &["--of", "default/a", "-o", "json"]);
    let got: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, 0);
    assert_eq!(
        (&got["namespace"], &got["name"], &got["labels"]),
        (&json!("default"), &json!("a"), &json!(["k8s:app=a"]))
    );
    let web = json!({"kind": "CiliumNetworkPolicy", "namespace": "default", "name": "web"});
    let egress = &got["egress"];
    assert_eq!(egress["enforcement"], "enforced");
    assert_eq!(egress["closed_by"], json!([web]));
    let rule = |index: usize| &egress["rules"][index];
    let l7 = |index: usize| &rule(index)["ports"][0]["l7"];
    let in_default = json!({"source": "k8s", "key": "io.kubernetes.pod.namespace",
        "operator": "In", "values": ["default"]});
    let app_b = json!({"source": null, "key": "app", "operator": "In", "values": ["b"]});
    #[rustfmt::skip]
    let rows = [
        (&rule(0)["peers"], json!([{"labels": [app_b, in_default]}])),
        (&l7(0)["http"], json!([{"method": "GET", "path": "/public", "host": null, "headers": []}])),
        (&l7(1)["dns"], json!(["*.example.com", "api.x.io"])),
        (&rule(2)["peers"], json!([{"fqdn": "api.x.io"}])),
        (&l7(2)["server_names"], json!(["api.x.io"])),
        (&rule(4)["peers"],
            json!([{"service": {"name": "db", "labels": null, "namespace": "default"}}])),
        (rule(5), json!({"effect": "deny", "closes": true, "audited": false, "name_binding": "off",
            "peers": [{"entity": "host"}],
            "ports": [{"protocols": ["TCP"], "port": 22, "end_port": 22, "port_name": null,
                "icmp_type": null, "l7": null}],
            "text": "host, on 22/TCP", "kind": "CiliumNetworkPolicy", "namespace": "default",
            "name": "web", "file": "p.yaml", "line": 16})),
    ];
    for (got, expected) in rows {
        assert_eq!(*got, expected);
    }
    assert_eq!(
        got["ingress"],
        json!({"enforcement": "open", "closed_by": [], "rules": []})
    );
    assert_eq!(got["warnings"][0]["line"], 8);
}

#[test]
fn a_verdict_is_explained_as_json() {
    let dir = folder();
    let words = ["--from", "world", "--to", "default/b", "--port", "80"];
    let with_json = [&words[..], &["-o", "json"]].concat();
    let (code, out, _) = ask(dir.path(), "explain", &with_json);
    let mut got: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &got["drop_reason"]), (0, &json!(133)));
    let ingress = &got["ingress"];
    assert_eq!(ingress["subject"], "default/b");
    assert_eq!(ingress["rules"][0]["line"], 25);
    let advice = ingress["to_allow"].as_str().unwrap();
    assert!(advice.contains("an ingress rule to let in"), "{advice}");
    // It has all that a verdict has.
    let (_, out, _) = ask(dir.path(), "verdict", &with_json);
    let verdict: Value = serde_json::from_str(&out).unwrap();
    for (key, value) in verdict["ingress"].as_object().unwrap() {
        assert_eq!(ingress[key], *value, "{key}");
    }
    got["ingress"] = verdict["ingress"].clone();
    for (key, value) in verdict.as_object().unwrap() {
        assert_eq!(got[key], *value, "{key}");
    }
    let words = "--from default/a --to api.x.io --port 443 -o json";
    let words: Vec<&str> = words.split(' ').collect();
    let (code, out, _) = ask(dir.path(), "explain", &words);
    let got: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &got["verdict"]), (3, &Value::Null));
    assert!(got["reason"].as_str().unwrap().contains("--learn api.x.io"));
}

#[test]
fn a_diff_shows_what_changes() {
    let dir = folder();
    let path = |name: &str| dir.path().join(name);
    fs::write(
        path("q.yaml"),
        POLICIES
            .replace("\"80\"", "\"8080\"")
            .replace("/public", "/p"),
    )
    .unwrap();
    fs::write(path("bad.yaml"), "kind: Nothing\n").unwrap();
    let with = ["--endpoints", "e.yaml"];
    let (code, out, error) = run(
        dir.path(),
        &[&["diff", "p.yaml", "p.yaml"][..], &with].concat(),
    );
    assert_eq!(code, 0, "{out}{error}");
    let (code, out, _) = run(
        dir.path(),
        &[&["diff", "p.yaml", "q.yaml"][..], &with].concat(),
    );
    assert_eq!(code, 1);
    assert!(
        out.contains("default/a egress to default/b\n  DENIED -> REDIRECTED: 8080/TCP\n"),
        "{out}"
    );
    let (code, out, _) = run(dir.path(), &["diff", "p.yaml", "q.yaml"]);
    assert_eq!(code, 1);
    assert!(
        out.contains("workloads with app=a in namespace default"),
        "{out}"
    );
    fs::write(path("r.yaml"), POLICIES.replace("/public", "/p")).unwrap();
    let (code, out, _) = run(dir.path(), &["diff", "p.yaml", "r.yaml", "-o", "json"]);
    assert_eq!(code, 1);
    assert!(out.contains("80/TCP GET /public"), "{out}");
    assert_eq!(run(dir.path(), &["diff", "p.yaml", "bad.yaml"]).0, 2);
}
