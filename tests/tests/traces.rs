//! What is told of packets that pass: `--monitor-aggregation`, seen by `namegate observe --type trace`.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use namegate_tests::{Daemon, Node, TcpEcho, Workload, patience};
use serde_json::Value;

const POLICY: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: client}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress: [{toEndpoints: [{matchLabels: {app: server}}]}]
";

const PORT: u16 = 8_080;

/// Packets that the client sends beyond what its connection needs.
const MESSAGES: usize = 20;

struct Stage {
    node: Node,
    client: Workload,
    server: Workload,
}

impl Stage {
    fn new() -> Self {
        let node = Node::new().unwrap();
        Self {
            client: node.workload("client", 2).unwrap(),
            server: node.workload("server", 3).unwrap(),
            node,
        }
    }

    /// The traces of one connection by each family, under a level.
    fn traces(&self, args: &[&str], filter: &str) -> Vec<Value> {
        let mut daemon = Daemon::prepare(&self.node).unwrap();
        daemon.endpoint(&self.server).unwrap();
        let client = format!(
            "name: client\nlabels: {{app: client}}\nworkload: {{kind: Deployment, name: shop}}\nnetns: {}\n",
            self.client.ns_path().display()
        );
        daemon.endpoint_file("client.yaml", &client).unwrap();
        daemon.policy("policy.yaml", POLICY).unwrap();
        daemon.start(args).unwrap();
        let _echo = TcpEcho::serve(&self.server.ns, PORT).unwrap();
        for server in [IpAddr::from(self.server.v4), self.server.v6.into()] {
            let talk = || {
                let to = SocketAddr::new(server, PORT);
                let mut stream =
                    TcpStream::connect_timeout(&to, Duration::from_secs(2) * patience()).unwrap();
                stream.set_nodelay(true).unwrap();
                for _ in 0..MESSAGES {
                    stream.write_all(b"x").unwrap();
                    stream.read_exact(&mut [0]).unwrap();
                }
            };
            self.client.ns.run(talk).unwrap();
        }
        // The last packets, and what is told of them, take their time.
        std::thread::sleep(Duration::from_millis(500));
        let socket = daemon.path("namegate.sock").display().to_string();
        let args = ["--type", filter, "--last", "10000", "-o", "json"];
        let args = [&["observe", "--socket", &socket], &args[..]].concat();
        let output = daemon.namegate(&args).unwrap();
        assert!(output.status.success(), "{output:?}");
        let lines = String::from_utf8(output.stdout).unwrap();
        let flows = lines.lines().map(|line| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            line["flow"].take()
        });
        flows.collect()
    }
}

/// Point, reason and flags of those that one endpoint's programs told.
fn words(traces: &[Value], by: &str, version: &str) -> Vec<String> {
    let told = traces.iter().filter(|flow| {
        let is_from = flow["trace_observation_point"] != "TO_ENDPOINT";
        let own = if is_from { "source" } else { "destination" };
        flow[own]["pod_name"] == by && flow["IP"]["ipVersion"] == version
    });
    let word = |flow: &Value| {
        let text = |name: &str| flow[name].as_str().unwrap_or("-").to_owned();
        let point = text("trace_observation_point");
        format!("{point} {} {}", text("trace_reason"), text("Summary"))
    };
    told.map(word).collect()
}

#[test]
fn a_connection_is_traced_as_it_begins_and_ends() {
    let stage = Stage::new();
    let traces = stage.traces(&[], "trace");
    let mac = |workload: &Workload| {
        let link = workload
            .check("ip", &["-o", "link", "show", "eth0"])
            .unwrap();
        let mut words = link.split_whitespace();
        words.find(|word| *word == "link/ether").unwrap();
        words.next().unwrap().to_owned()
    };
    let macs = [&stage.client, &stage.server].map(mac);
    for flow in &traces {
        // Both are at one bridge.
        let ends = ["source", "destination"].map(|end| flow["ethernet"][end].as_str().unwrap());
        let mut expected = [macs[0].as_str(), &macs[1]];
        if flow["source"]["pod_name"] == "server" {
            expected.reverse();
        }
        assert_eq!(ends, expected, "{flow}");
        assert_eq!(flow["event_type"]["type"], 4, "{flow}");
        assert_eq!(
            (&flow["verdict"], &flow["Type"]),
            (&"FORWARDED".into(), &"L3_L4".into())
        );
        // Of which endpoint's link: its host side.
        let interface = &flow["interface"];
        let name = interface["name"].as_str().unwrap_or_default();
        let links = stage
            .node
            .check("ip", &["-o", "link", "show", name])
            .unwrap();
        let index = interface["index"].to_string();
        assert!(
            links.starts_with(&format!("{index}: {name}@")),
            "{flow} {links}"
        );
        // Who began is at the client's side.
        let is_reply = flow["is_reply"].as_bool().unwrap();
        assert_eq!(is_reply, flow["trace_reason"] == "REPLY", "{flow}");
        let of_client = flow["source"]["pod_name"] == "client";
        assert_eq!(of_client, !is_reply, "{flow}");
        // What each belongs to.
        let mut owners = [("shop", "Deployment"), ("server", "Pod")];
        if is_reply {
            owners.reverse();
        }
        for (end, (name, kind)) in ["source", "destination"].iter().zip(owners) {
            let expected = serde_json::json!([{"name": name, "kind": kind}]);
            assert_eq!(flow[end]["workloads"], expected, "{flow}");
        }
    }
    for version in ["IPv4", "IPv6"] {
        let told = words(&traces, "client", version);
        assert_eq!(
            told[..2],
            [
                "TO_STACK NEW TCP Flags: SYN",
                "TO_ENDPOINT REPLY TCP Flags: SYN, ACK"
            ],
            "{told:#?}"
        );
        let ends = told.iter().filter(|word| word.contains("FIN")).count();
        assert_eq!(ends, 2, "{told:#?}");
        // One more in five seconds, on a slow machine.
        assert!((4..=6).contains(&told.len()), "{told:#?}");
        let told = words(&traces, "server", version);
        assert_eq!(told[0], "TO_ENDPOINT NEW TCP Flags: SYN", "{told:#?}");
    }
    let daemon_is_quiet = Stage::new().traces(&["--monitor-aggregation", "off"], "trace");
    assert_eq!(daemon_is_quiet, Vec::<Value>::new());
}

#[test]
fn every_packet_is_traced_where_that_is_asked_for() {
    let low = Stage::new().traces(&["--monitor-aggregation", "low"], "trace");
    for version in ["IPv4", "IPv6"] {
        let told = words(&low, "client", version);
        assert!(told.len() > 2 * MESSAGES, "{told:#?}");
        assert!(!told.iter().any(|word| word.starts_with("FROM_ENDPOINT")));
    }
    let none = Stage::new().traces(&["--monitor-aggregation", "none"], "trace:from-endpoint");
    let told = words(&none, "client", "IPv4");
    assert!(told.len() > MESSAGES, "{told:#?}");
    for flow in &none {
        assert_eq!(flow["event_type"]["sub_type"], 5);
        assert_eq!(flow["traffic_direction"], Value::Null, "nobody has asked");
        assert_eq!(flow["is_reply"], Value::Null);
    }
}
