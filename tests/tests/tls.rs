//! TLS by name: a connection that names a server that policy allows goes on as it came, any other is
//! reset, and nothing of it reaches the server.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::process::Output;

use namegate_tests::{Daemon, Node, Running, Workload};

struct Scene {
    node: Node,
    alice: Workload,
    world: Workload,
    _nginx: Running,
}

impl Scene {
    fn new() -> Self {
        let node = Node::new().unwrap();
        let alice = node.workload("alice", 2).unwrap();
        let world = node.elsewhere().unwrap();
        Self {
            _nginx: Running::nginx(&world.ns).unwrap(),
            node,
            alice,
            world,
        }
    }

    fn daemon(&self, rules: &str) -> Daemon<'_> {
        let mut daemon = Daemon::prepare(&self.node).unwrap();
        daemon.endpoint(&self.alice).unwrap();
        daemon.policy("alice.yaml", &about_alice(rules)).unwrap();
        daemon.start(&[]).unwrap();
        daemon
    }

    /// What curl says of `https://NAME/`, connected to the world's address of a family.
    fn curl(&self, family: &str, name: &str) -> Output {
        let server = match family {
            "-4" => self.world.v4.to_string(),
            _ => format!("[{}]", self.world.v6),
        };
        let to = format!("{name}:443:{server}");
        let url = format!("https://{name}/");
        let args = [family, "-sSk", "-m", "5", "--resolve", &to, &url];
        self.alice.output("curl", &args).unwrap()
    }
}

fn about_alice(egress: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: alice}}\n\
         spec: {{endpointSelector: {{matchLabels: {{app: alice}}}}, egress: [{egress}]}}\n"
    )
}

const NAMED: &str = "{toEntities: [world], toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: [ok.test, '*.ok.test']}]}";

#[test]
fn an_allowed_name_goes_on_in_both_families_and_another_is_reset() {
    let scene = Scene::new();
    let daemon = scene.daemon(NAMED);
    for family in ["-4", "-6"] {
        for name in ["ok.test", "OK.test", "a.ok.test"] {
            let output = scene.curl(family, name);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(
                output.status.success(),
                "{family} {name}: {output:?} {:#}",
                daemon.status().unwrap()["http"]
            );
            assert!(text.contains(" / ") || text.ends_with("/\n"), "{text}");
        }
        for name in ["evil.test", "ok.test.evil.test", "a.b.ok.test"] {
            let output = scene.curl(family, name);
            assert_eq!(
                output.status.code(),
                Some(35),
                "{family} {name}: {output:?}"
            );
        }
    }
    let status = daemon.status().unwrap();
    assert_eq!(
        status["http"]["http_refused_total"]["sni-not-allowed"], 6,
        "{status:#}"
    );
}
