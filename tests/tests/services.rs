//! Virtual addresses: judged as what stands behind them, by the backends' port.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use namegate_tests::{Daemon, Stage, TcpSink, patience};
use serde_json::Value;

/// As kube-proxy does it: what is sent to the virtual address goes on to a backend.
fn translate(stage: &Stage) {
    stage
        .node
        .nft(
            "table ip services {
               chain pre {
                 type nat hook prerouting priority -100;
                 ip daddr 10.96.0.10 udp dport 53 dnat to 203.0.113.2:53
                 ip daddr 10.96.0.10 tcp dport 53 dnat to 203.0.113.2:53
                 ip daddr 10.96.0.20 tcp dport 80 dnat to 198.18.0.1:8080
                 ip daddr 10.96.0.30 tcp dport 80 dnat to 198.18.0.2:8080
               }
             }",
        )
        .unwrap();
}

const ENDPOINTS: &str = "name: dns\nnamespace: kube-system\nremote: true\nlabels: {k8s-app: kube-dns}\naddresses: [203.0.113.2]
---\nname: web\nremote: true\nlabels: {app: web}\naddresses: [198.18.0.1]
---\nname: other\nremote: true\nlabels: {app: other}\naddresses: [198.18.0.2]
---
services:
- {name: kube-dns, namespace: kube-system, vip: 10.96.0.10, backends: [203.0.113.2], ports: [{port: 53, protocol: UDP}, {port: 53}]}
- {name: web, vip: 10.96.0.20, backends: [198.18.0.1], ports: [{port: 80, target: 8080}]}
- {name: both, vip: 10.96.0.30, backends: [198.18.0.1, 198.18.0.2], ports: [{port: 80, target: 8080}]}
- {name: none, vip: 10.96.0.40, backends: [], ports: [{port: 80}]}
";

fn about_alice(rest: &str) -> String {
    let dns = "{toEndpoints: [{matchLabels: {'k8s:io.kubernetes.pod.namespace': kube-system, k8s-app: kube-dns}}], \
               toPorts: [{ports: [{port: '53'}], rules: {dns: [{matchName: web.example.com}]}}]}";
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: alice}}\n\
         spec: {{endpointSelector: {{matchLabels: {{app: alice}}}}, egress: [{dns}, {rest}]}}\n"
    )
}

fn to(app: &str, port: u16) -> String {
    format!(
        "{{toEndpoints: [{{matchLabels: {{app: {app}}}}}], toPorts: [{{ports: [{{port: '{port}', protocol: TCP}}]}}]}}"
    )
}

fn reaches(stage: &Stage, to: &str) -> bool {
    let to: SocketAddr = to.parse().unwrap();
    let connect =
        || TcpStream::connect_timeout(&to, Duration::from_millis(700) * patience()).is_ok();
    stage.alice.ns.run(connect).unwrap()
}

fn change(daemon: &Daemon<'_>, rest: &str) {
    daemon
        .change_policy("alice.yaml", &about_alice(rest))
        .unwrap();
}

/// Services behind which are one of them, both, and the other one.
fn alone_and_twin(own: Ipv4Addr, other: Ipv4Addr) -> String {
    format!(
        "name: twin\nremote: true\nlabels: {{app: alone}}\naddresses: [{other}]\n---
name: web\nremote: true\nlabels: {{app: web}}\naddresses: [198.18.0.1]\n---\nservices:
- {{name: own, vip: 10.96.0.20, backends: [{own}], ports: [{{port: 80, target: 8080}}]}}
- {{name: two, vip: 10.96.0.30, backends: [{own}, {other}], ports: [{{port: 80, target: 8080}}]}}
- {{name: twin, vip: 10.96.0.40, backends: [{other}], ports: [{{port: 80, target: 8080}}]}}
"
    )
}

/// To itself there is no policy; whoever else is behind the address, or has the same labels, needs a rule. The
/// node makes such a connection its own, as kube-proxy does, or nothing would answer.
#[test]
fn a_workload_reaches_itself_through_a_service_that_it_alone_is_behind() {
    let stage = Stage::new().unwrap();
    let [alone, twin] = [("alone", 4), ("twin", 5)].map(|(name, n)| {
        // On a link of its own, where the node routes back what it got there.
        stage.node.routed(name, n).unwrap()
    });
    let (own, other) = (alone.v4, twin.v4);
    let rules = [20, 30, 40].map(|vip| {
        let to = if vip == 40 { other } else { own };
        format!(
            "chain p{vip} {{ type nat hook prerouting priority -100; ip daddr 10.96.0.{vip} tcp dport 80 dnat to {to}:8080; }}"
        )
    });
    let post = format!(
        "chain post {{ type nat hook postrouting priority 100; ip saddr {own} ip daddr {own} masquerade; }}"
    );
    let table = format!("table ip services {{\n{}\n{post}\n}}", rules.join("\n"));
    stage.node.nft(&table).unwrap();
    let _sinks = [&alone, &twin, &stage.world].map(|who| TcpSink::serve(&who.ns, 8_080).unwrap());
    let services = alone_and_twin(own, other);
    let ingress = "], ingress: [{fromEndpoints: [{matchLabels: {app: nobody}}]}";
    let reaches = |to: &str| {
        let to: SocketAddr = to.parse().unwrap();
        let wait = Duration::from_millis(700) * patience();
        let connect = || TcpStream::connect_timeout(&to, wait).is_ok();
        alone.ns.run(connect).unwrap()
    };
    let policy = |app: &str| {
        let about_alice = about_alice(&format!("{}{ingress}", to(app, 8_080)));
        about_alice.replace("alice", "alone")
    };
    let mut daemon = stage.daemon("").unwrap();
    daemon.endpoint_file("services.yaml", &services).unwrap();
    daemon.endpoint(&alone).unwrap();
    daemon.policy("alone.yaml", &policy("web")).unwrap();
    for vip in [20, 30, 40] {
        assert!(reaches(&format!("10.96.0.{vip}:80")), "unguarded");
    }
    daemon.start(&[]).unwrap();
    assert!(reaches("10.96.0.20:80"), "itself");
    assert!(!reaches("10.96.0.20:81"), "no port of the service");
    assert!(!reaches("10.96.0.30:80"), "it may be the other one");
    assert!(!reaches("10.96.0.40:80"), "it has the same labels");
    assert!(!reaches(&format!("{other}:8080")), "the other one");
    // Judged again under other rules, what it has open lives on; a flow that stood on a rule does not.
    let open = ["10.96.0.20:80", "198.18.0.1:8080"].map(|to| {
        let to: SocketAddr = to.parse().unwrap();
        let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap();
        alone.ns.run(connect).unwrap()
    });
    let flows_to = |peer: &str| {
        let output = daemon.namegate(&["map", "get", "ct", "-o", "json"]);
        let flows: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
        let flows = flows.as_array().unwrap();
        flows.iter().filter(|flow| flow["peer"] == peer).count()
    };
    assert!(flows_to("198.18.0.1") > 0 && flows_to("10.96.0.20") > 0);
    daemon
        .change_policy("alone.yaml", &policy("other"))
        .unwrap();
    for _ in 0..200 {
        if flows_to("198.18.0.1") == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(flows_to("198.18.0.1"), 0);
    assert!(flows_to("10.96.0.20") > 0);
    drop(open);
}

/// The first verdict event that denies what goes to an address.
fn denial_of(daemon: &Daemon<'_>, vip: &str) -> Value {
    let socket = daemon.path("namegate.sock").display().to_string();
    let args = [
        "observe", "--socket", &socket, "--last", "10000", "-o", "json",
    ];
    for _ in 0..100 {
        let output = daemon.namegate(&[&args[..], &["--type", "policy-verdict"]].concat());
        let lines = String::from_utf8(output.unwrap().stdout).unwrap();
        let flows = lines.lines().map(|line| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            line["flow"].take()
        });
        let denials = flows.filter(|flow| flow["IP"]["destination"] == vip);
        if let Some(flow) = denials
            .into_iter()
            .find(|flow| flow["verdict"] == "DROPPED")
        {
            return flow;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("no denial of {vip} is told")
}

#[test]
fn a_virtual_address_is_judged_as_its_backends() {
    let stage = Stage::new().unwrap();
    translate(&stage);
    let _sink = TcpSink::serve(&stage.world.ns, 8_080).unwrap();
    let mut daemon = stage.daemon("").unwrap();
    daemon.endpoint_file("services.yaml", ENDPOINTS).unwrap();
    daemon
        .policy("alice.yaml", &about_alice(&to("web", 8_080)))
        .unwrap();
    daemon.start(&[]).unwrap();
    let vip: IpAddr = "10.96.0.10".parse().unwrap();
    let ask = |args: &[&str]| stage.alice.dig(vip, args).unwrap();
    assert_eq!(ask(&["+short", "web.example.com"]), "198.18.0.1\n");
    assert_eq!(ask(&["+short", "+tcp", "web.example.com"]), "198.18.0.1\n");
    assert_eq!(ask(&["+short", "other.example.com"]), "", "denied by name");

    assert!(
        reaches(&stage, "10.96.0.20:80"),
        "the backend's labels and port"
    );
    assert!(!reaches(&stage, "10.96.0.30:80"), "one of two backends");
    assert!(!reaches(&stage, "10.96.0.40:80"), "nobody stands behind it");
    assert!(!reaches(&stage, "10.96.0.20:81"), "no port of the service");
    // Hubble's reason, and ours beside it where only some of the backends are the matter.
    for (vip, name, reason) in [("10.96.0.30", "both", true), ("10.96.0.40", "none", false)] {
        let mut denial = denial_of(&daemon, vip);
        let service = serde_json::json!({"name": name, "namespace": "default"});
        assert_eq!(denial["destination_service"], service);
        let log = denial["policy_log"].take();
        let wanted = reason.then(|| serde_json::json!(["ambiguous service"]));
        assert_eq!(log, wanted.unwrap_or_default(), "{vip}");
    }
    let socket = daemon.path("namegate.sock").display().to_string();
    let observe = ["observe", "--socket", &socket, "--all", "--protocol", "dns"];
    let shown = |flag: &str| {
        let args = [&observe[..], &[flag, "kube-system/kube-dns"]].concat();
        String::from_utf8(daemon.namegate(&args).unwrap().stdout).unwrap()
    };
    let asked = shown("--to-service");
    let answers = shown("--from-service");
    for (lines, arrow) in [(&asked, "->"), (&answers, "<-")] {
        let place = format!(" {arrow} kube-system/kube-dns:53 ");
        assert!(lines.lines().count() >= 2, "{lines}");
        assert!(lines.lines().all(|line| line.contains(&place)), "{lines}");
    }
    change(&daemon, &to("web", 80));
    assert!(
        !reaches(&stage, "10.96.0.20:80"),
        "rules mean the target port"
    );
    change(
        &daemon,
        &format!("{}, {}", to("web", 8_080), to("other", 8_080)),
    );
    assert!(reaches(&stage, "10.96.0.30:80"), "both of them");
    change(
        &daemon,
        "{toServices: [{k8sService: {serviceName: both, namespace: default}}]}",
    );
    assert!(reaches(&stage, "10.96.0.30:80") && reaches(&stage, "10.96.0.20:80"));
    change(
        &daemon,
        "{toServices: [{k8sService: {serviceName: web, namespace: default}}]}",
    );
    assert!(!reaches(&stage, "10.96.0.30:80") && reaches(&stage, "10.96.0.20:80"));
}
