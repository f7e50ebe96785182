//! `namegate policy learn`: recorded flows in, policies out, without a daemon.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::io::Write;
use std::process::{Command, Output, Stdio};

use namegate_tests::Daemon;

/// A query, its answer, a connection to the answer, one that was denied.
const FLOWS: &str = r#"{"flow":{"time":"2026-03-05T09:00:01Z","verdict":"FORWARDED","IP":{"source":"10.0.0.2","destination":"10.0.0.4"},"l4":{"UDP":{"source_port":40211,"destination_port":53}},"source":CLIENT,"destination":DNS,"Type":"L7","l7":{"type":"REQUEST","dns":{"query":"example.com.","qtypes":["A"]}},"event_type":{"type":129},"traffic_direction":"EGRESS","is_reply":false},"node_name":"n","time":"2026-03-05T09:00:01Z"}
{"flow":{"time":"2026-03-05T09:00:02Z","verdict":"FORWARDED","IP":{"source":"10.0.0.4","destination":"10.0.0.2"},"l4":{"UDP":{"source_port":53,"destination_port":40211}},"source":DNS,"destination":CLIENT,"Type":"L7","l7":{"type":"RESPONSE","dns":{"query":"example.com.","ips":["198.51.100.44"],"ttl":30,"qtypes":["A"],"rrtypes":["A"]}},"reply":true,"event_type":{"type":129},"traffic_direction":"EGRESS","is_reply":true},"node_name":"n","time":"2026-03-05T09:00:02Z"}
{"flow":{"time":"2026-03-05T09:00:03Z","verdict":"FORWARDED","IP":{"source":"10.0.0.2","destination":"198.51.100.44"},"l4":{"TCP":{"source_port":33598,"destination_port":443,"flags":{"SYN":true}}},"source":CLIENT,"destination":{"identity":16777217,"labels":["fqdn:example.com","reserved:world-ipv4"]},"Type":"L3_L4","event_type":{"type":4,"sub_type":3},"traffic_direction":"EGRESS","is_reply":false,"trace_observation_point":"TO_STACK","destination_names":["example.com"]},"node_name":"n","time":"2026-03-05T09:00:03Z"}
{"flow":{"time":"2026-03-05T09:00:04Z","verdict":"DROPPED","drop_reason":133,"IP":{"source":"10.0.0.2","destination":"203.0.113.9"},"l4":{"TCP":{"source_port":33599,"destination_port":80,"flags":{"SYN":true}}},"source":CLIENT,"destination":{"identity":9,"labels":["reserved:world-ipv4"]},"Type":"L3_L4","event_type":{"type":5},"traffic_direction":"EGRESS"},"node_name":"n","time":"2026-03-05T09:00:04Z"}
"#;

const CLIENT: &str = r#"{"ID":3,"identity":258,"namespace":"default","labels":["k8s:app=internal-client","k8s:io.kubernetes.pod.namespace=default"],"pod_name":"internal-client"}"#;
const DNS: &str = r#"{"identity":256,"namespace":"kube-system","labels":["k8s:io.kubernetes.pod.namespace=kube-system","k8s:k8s-app=kube-dns"],"pod_name":"coredns"}"#;

const EXPECTED: &str = "\
# Learned from 2 flows, 2026-03-05T09:00:01Z to 2026-03-05T09:00:03Z.
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: learned-internal-client
  namespace: default
spec:
  endpointSelector:
    matchLabels:
      k8s:app: internal-client
  egress:
  - toEndpoints:
    # 1 flow, 2026-03-05T09:00:01Z, e.g. default/internal-client:40211 -> kube-system/coredns:53 (example.com.)
    - matchLabels:
        k8s:io.kubernetes.pod.namespace: kube-system
        k8s:k8s-app: kube-dns
    toPorts:
    - ports:
      - port: '53'
        protocol: UDP
      rules:
        dns:
        - matchName: example.com
  - toFQDNs:
    # 1 flow, 2026-03-05T09:00:03Z, e.g. default/internal-client:33598 -> 198.51.100.44:443 (example.com)
    - matchName: example.com
    toPorts:
    - ports:
      - port: '443'
        protocol: TCP
  # No flow to it was seen: ingress stays as other policies leave it.
";

fn flows() -> String {
    FLOWS
        .replace("CLIENT", CLIENT)
        .replace("DNS,", &format!("{DNS},"))
}

/// `namegate policy` with these words and this on standard input.
fn policy(words: &[&str], input: &str) -> Output {
    let mut child = Command::new(Daemon::binary().unwrap())
        .arg("policy")
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end without reading.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn what_flows_did_is_what_the_policy_allows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows.jsonl");
    std::fs::write(&path, flows()).unwrap();
    let output = policy(&["learn", "--from", path.to_str().unwrap()], "");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(text(&output.stdout), EXPECTED);
    let told = text(&output.stderr);
    assert!(told.contains("1 replies, 1 denied by policy"), "{told}");
    assert!(told.contains("1 policies from 2 flows"), "{told}");
    let valid = policy(&["validate", "-"], EXPECTED);
    assert_eq!(valid.status.code(), Some(0), "{valid:?}");
    assert_eq!(text(&valid.stdout), "1 valid, 0 errors, 0 warnings\n");
}

#[test]
fn flags_say_which_flows_count() {
    let learn = |words: &[&str]| {
        let output = policy(&[&["learn", "--from", "-"], words].concat(), &flows());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        text(&output.stdout).to_owned()
    };
    assert!(learn(&["--include-denied"]).contains("203.0.113.9/32"));
    assert_eq!(learn(&["--pod", "internal"]), EXPECTED);
    assert_eq!(learn(&["-n", "default", "--generalize-names"]), EXPECTED);
    assert_eq!(learn(&["--namespace", "other"]), "");
    assert_eq!(learn(&["--pod", "default/other"]), "");
}

#[test]
fn what_cannot_be_read_is_told_by_line_and_code() {
    let mixed = format!("no json\n{}{{}}\n", flows());
    let output = policy(&["learn", "--from", "-"], &mixed);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(text(&output.stdout), EXPECTED);
    let told = text(&output.stderr);
    assert!(
        told.contains("line 1: ") && told.contains("line 6: "),
        "{told}"
    );
    for (words, input, code) in [
        (&["learn", "--from", "-"][..], "no json\n", 1),
        (&["learn", "--from", "-"], "", 1),
        (&["learn", "--from", "/no/such/file"], "", 2),
        (&["learn"], "", 2),
        (&["learn", "--from", "-", "--live"], "", 2),
        (&["learn", "--from", "-", "-n", "a", "--pod", "b/c"], "", 2),
        (&["learn", "--live", "--socket", "/no/such/socket"], "", 1),
    ] {
        let output = policy(words, input);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
}
