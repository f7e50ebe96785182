//! What is said of files that can't be used, while the last good set stays in force.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]

use std::time::Duration;

use namegate_tests::{Answers, Daemon, Node, Workload};

const POLICY: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: alice}
spec:
  endpointSelector: {matchLabels: {app: alice}}
  egress:
  - toCIDR: [203.0.113.2/32]
    toPorts:
    - ports: [{port: '53', protocol: ANY}]
      rules: {dns: [{matchPattern: '*.example.com'}]}
";

struct Stage<'a> {
    alice: Workload,
    world: Workload,
    _names: Answers,
    daemon: Daemon<'a>,
}

impl<'a> Stage<'a> {
    fn new(node: &'a Node) -> Self {
        let alice = node.workload("alice", 2).unwrap();
        let world = node.elsewhere().unwrap();
        let names = Answers::names(&world.ns, 60).unwrap();
        let mut daemon = Daemon::prepare(node).unwrap();
        daemon.endpoint(&alice).unwrap();
        daemon.policy("alice.yaml", POLICY).unwrap();
        daemon.start(&[]).unwrap();
        Self {
            alice,
            world,
            _names: names,
            daemon,
        }
    }

    /// The exit code and the text of `status`.
    fn status(&self) -> (Option<i32>, String) {
        let socket = self.daemon.path("namegate.sock").display().to_string();
        let output = self.daemon.namegate(&["status", "--socket", &socket]);
        let output = output.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), text)
    }

    /// Waits until `status` ends so.
    fn wait_for(&self, code: i32) -> String {
        for _ in 0..200 {
            let (ended, text) = self.status();
            if ended == Some(code) {
                return text;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{:?}", self.status())
    }

    /// What is in force is what was: one name may be asked for, another one not.
    fn is_as_it_was(&self) {
        let ask = |name: &str| {
            let answer = self.alice.dig(self.world.v4.into(), &["+short", name]);
            answer.unwrap()
        };
        assert_eq!(ask("n1.example.com"), "198.18.0.1\n");
        assert_eq!(ask("n1.evil.test"), "");
        let status = self.daemon.status().unwrap();
        let endpoints = status["endpoints"].as_array().unwrap();
        assert_eq!(endpoints.len(), 1, "{status:#}");
        assert_eq!(endpoints[0]["state"], "ready", "{status:#}");
        assert_eq!(status["policy"]["policies"], 1, "{status:#}");
    }
}

/// Whether one line has all of these.
#[track_caller]
fn has_line(text: &str, words: &[&str]) {
    let has_all = |line: &str| words.iter().all(|word| line.contains(word));
    assert!(text.lines().any(has_all), "{words:?} in {text}");
}

#[test]
fn a_policy_file_is_told_by_file_line_column_field_and_reason() {
    let node = Node::new().unwrap();
    let mut stage = Stage::new(&node);
    stage.is_as_it_was();
    assert_eq!(stage.status().0, Some(0));
    for (good, bad, words) in [
        (
            "port: '53'",
            "port: '70000'",
            [
                ":10:22: ",
                "spec.egress[0].toPorts[0].ports[0].port",
                "\"70000\" is no port",
            ],
        ),
        (
            "toCIDR: [203.0.113.2/32]",
            "toCIDR: [203.0.113.2/33]",
            [":8:14: ", "spec.egress[0].toCIDR[0]", "203.0.113.2/33"],
        ),
    ] {
        let text = POLICY.replace(good, bad);
        stage.daemon.policy("alice.yaml", &text).unwrap();
        let shown = stage.wait_for(1);
        let file = stage.daemon.path("policies").join("alice.yaml");
        let place = format!("{}{}", file.display(), words[0]);
        has_line(&shown, &[&place, words[1], words[2]]);
        let said = stage.daemon.said();
        has_line(&said, &[&place, "error", words[1], words[2]]);
        has_line(&said, &["the last good policies stay in force"]);
        stage.is_as_it_was();
        stage.daemon.policy("alice.yaml", POLICY).unwrap();
        stage.wait_for(0);
    }
}

#[test]
fn an_endpoint_file_is_told_by_file_line_column_and_reason() {
    let node = Node::new().unwrap();
    let mut stage = Stage::new(&node);
    for (text, place, words) in [
        (
            "name: bob\nnetsn: /run/netns/bob\n",
            ":2:1: ",
            ["unknown field", "`netsn`"],
        ),
        (
            "# nowhere\nname: bob\nlabels: {app: bob}\n",
            ":2:1: ",
            [
                "endpoint default/bob",
                "exactly one of netns, interface, cgroup and unit",
            ],
        ),
        (
            "name: alice\nremote: true\naddresses: [10.0.0.9]\n",
            ":1:1: ",
            ["endpoint default/alice", "already"],
        ),
    ] {
        stage.daemon.endpoint_file("bob.yaml", text).unwrap();
        let shown = stage.wait_for(1);
        let file = stage.daemon.path("endpoints").join("bob.yaml");
        let place = format!("{}{place}", file.display());
        has_line(&shown, &[&place, words[0], words[1]]);
        let said = stage.daemon.said();
        has_line(
            &said,
            &["endpoints stay as they are", &place, words[0], words[1]],
        );
        stage.is_as_it_was();
        std::fs::remove_file(&file).unwrap();
        stage.wait_for(0);
    }
}
