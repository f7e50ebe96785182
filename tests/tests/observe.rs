//! What `namegate observe` shows of a node, in the words that people know.

#![expect(clippy::unwrap_used, reason = "a test may die")]
#![expect(clippy::disallowed_methods, reason = "a workload's own sockets")]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use namegate_tests::{Daemon, Node, Running, TcpSink, Workload, patience};
use serde_json::Value;

const ZONE: &str = "web 30 IN A 198.18.0.1\nother 30 IN A 198.18.0.2\n";

/// `internal-client` may ask for names below example.com and reach what `web` is; `productpage` is
/// closed.
const POLICY: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: internet}
spec:
  endpointSelector: {matchLabels: {app: internal-client}}
  egress:
  - toEndpoints:
    - matchLabels: {'k8s:io.kubernetes.pod.namespace': kube-system, k8s-app: kube-dns}
    toPorts:
    - ports: [{port: '53', protocol: ANY}]
      rules: {dns: [{matchPattern: '*.example.com'}]}
  - toFQDNs: [{matchName: web.example.com}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: closed}
spec:
  endpointSelector: {matchLabels: {app: productpage}}
  egress: [{}]
";

/// How long a test waits for what will come.
const PATIENCE: Duration = Duration::from_secs(20);

/// The cast of the story, as far as it is needed here.
struct Stage {
    node: Node,
    client: Workload,
    page: Workload,
    dns: Workload,
    _world: Workload,
    _servers: (Running, TcpSink),
}

impl Stage {
    fn new() -> Self {
        let node = Node::new().unwrap();
        let [client, page, dns] = [("client", 2), ("page", 3), ("dns", 4)]
            .map(|(name, number)| node.workload(name, number).unwrap());
        let world = node.elsewhere().unwrap();
        let servers = (
            Running::knot(&dns.ns, ZONE).unwrap(),
            TcpSink::serve(&world.ns, 80).unwrap(),
        );
        Self {
            node,
            client,
            page,
            dns,
            _world: world,
            _servers: servers,
        }
    }

    fn daemon(&self) -> Daemon<'_> {
        let mut daemon = Daemon::prepare(&self.node).unwrap();
        for (name, namespace, label, workload) in [
            (
                "internal-client",
                "default",
                "app: internal-client",
                &self.client,
            ),
            ("productpage-v1", "default", "app: productpage", &self.page),
            ("coredns", "kube-system", "k8s-app: kube-dns", &self.dns),
        ] {
            let netns = workload.ns_path();
            let text = format!(
                "name: {name}\nnamespace: {namespace}\nlabels: {{{label}}}\nnetns: {}\n",
                netns.display()
            );
            daemon
                .endpoint_file(&format!("{name}.yaml"), &text)
                .unwrap();
        }
        daemon.policy("story.yaml", POLICY).unwrap();
        daemon.start(&[]).unwrap();
        daemon
    }

    fn asks(&self, who: &Workload, name: &str) -> String {
        who.dig(self.dns.v4.into(), &["+short", name]).unwrap()
    }

    fn reaches(&self, to: &str) -> bool {
        let to: SocketAddr = to.parse().unwrap();
        let connect =
            || TcpStream::connect_timeout(&to, Duration::from_millis(700) * patience()).is_ok();
        self.client.ns.run(connect).unwrap()
    }

    /// What the story tells: answers, a denied name, a connection to each name, a closed pod.
    fn play(&self) {
        assert_eq!(self.asks(&self.client, "web.example.com"), "198.18.0.1\n");
        assert_eq!(self.asks(&self.client, "other.example.com"), "198.18.0.2\n");
        assert_eq!(self.asks(&self.client, "x.evil.test"), "");
        assert_eq!(self.asks(&self.client, "nothing.example.com"), "");
        assert!(self.reaches("198.18.0.1:80"));
        assert!(!self.reaches("198.18.0.2:80"));
        let page = self
            .page
            .ns
            .run(|| UdpSocket::bind((self.page.v4, 0)).unwrap());
        page.unwrap().send_to(b"?", (self.dns.v4, 53)).unwrap();
    }
}

/// `namegate observe` with these flags.
fn observe(daemon: &Daemon<'_>, flags: &[&str]) -> Output {
    let socket = daemon.path("namegate.sock").display().to_string();
    let args = [&["observe", "--socket", &socket], flags].concat();
    daemon.namegate(&args).unwrap()
}

fn lines(daemon: &Daemon<'_>, flags: &[&str]) -> Vec<String> {
    let output = observe(daemon, flags);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// The lines once this one is among them: events come a moment after what they tell.
fn lines_with(daemon: &Daemon<'_>, flags: &[&str], wanted: &str) -> Vec<String> {
    for _ in 0..100 {
        let lines = lines(daemon, flags);
        if lines.iter().any(|line| line.contains(wanted)) {
            return lines;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{wanted:?} isn't there: {:#?}", lines(daemon, flags))
}

/// A line without what is different each time: the time, ids, a client's port, a TTL.
fn shape(line: &str) -> String {
    let words = line
        .split(' ')
        .skip_while(|word| !word.ends_with(':'))
        .skip(1);
    let mut before = "";
    let words = words.map(|word| {
        let shaped = if word.starts_with("(ID:") {
            "(ID)".to_owned()
        } else if before == "TTL:" {
            "N".to_owned()
        } else {
            match word.rsplit_once(':') {
                Some((name, port)) if port.parse().is_ok_and(|port: u32| port >= 1_024) => {
                    format!("{name}:PORT")
                }
                _ => word.to_owned(),
            }
        };
        before = word;
        shaped
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn lines_have_the_form_that_people_know() {
    let stage = Stage::new();
    let daemon = stage.daemon();
    stage.play();
    let lines = lines_with(&daemon, &["--last", "1000"], "productpage-v1");
    let shapes: Vec<String> = lines.iter().map(|line| shape(line)).collect();
    let (client, page) = (
        "default/internal-client:PORT (ID)",
        "default/productpage-v1:PORT (ID)",
    );
    let dns = "kube-system/coredns:53 (ID)";
    for expected in [
        format!("{client} -> {dns} dns-request proxy FORWARDED (DNS Query web.example.com. A)"),
        format!(
            "{client} <- {dns} dns-response proxy FORWARDED (DNS Answer \"198.18.0.1\" TTL: N (Proxy web.example.com. A))"
        ),
        format!("{client} -> {dns} dns-request proxy DROPPED (DNS Query x.evil.test. A)"),
        format!(
            "{client} <- {dns} dns-response proxy FORWARDED (DNS Answer RCode: Non-Existent Domain TTL: N (Proxy nothing.example.com. A))"
        ),
        format!(
            "{client} -> web.example.com:80 (ID) policy-verdict:L3-Only EGRESS ALLOWED (TCP Flags: SYN)"
        ),
        format!(
            "{client} <> other.example.com:80 (world-ipv4) policy-verdict:none EGRESS DENIED (TCP Flags: SYN)"
        ),
        format!(
            "{client} <> other.example.com:80 (world-ipv4) Policy denied DROPPED (TCP Flags: SYN)"
        ),
        format!("{page} <> {dns} policy-verdict:none EGRESS DENIED (UDP)"),
        format!("{page} <> {dns} Policy denied DROPPED (UDP)"),
    ] {
        assert!(
            shapes.contains(&expected),
            "{expected}\nis not in\n{shapes:#?}"
        );
    }
    let denied = shapes.iter().filter(|line| line.contains("x.evil.test"));
    assert_eq!(
        denied.count(),
        1,
        "a denied query has no response: {shapes:#?}"
    );
    let learned: Vec<&String> = lines
        .iter()
        .filter(|line| line.contains("EGRESS ALLOWED"))
        .collect();
    assert!(
        learned
            .iter()
            .all(|line| line.contains("web.example.com:80 (ID:16777")),
        "{learned:?}"
    );
}

#[test]
fn flags_choose_among_the_flows() {
    let stage = Stage::new();
    let daemon = stage.daemon();
    stage.play();
    let all = lines_with(&daemon, &["--last", "1000"], "productpage-v1");
    let two = lines(&daemon, &["--last", "2"]);
    assert_eq!(two, all[all.len() - 2..]);

    let of = |flags: &[&str]| {
        let lines = lines(&daemon, &[flags, &["--last", "1000"]].concat());
        assert!(!lines.is_empty() && lines.len() < all.len(), "{flags:?}");
        lines
    };
    let has = |lines: &[String], words: &[&str]| {
        for line in lines {
            assert!(
                words.iter().any(|word| line.contains(word)),
                "{words:?}: {line}"
            );
        }
    };
    has(
        &of(&["--pod", "default/internal-client"]),
        &["default/internal-client"],
    );
    has(&of(&["--pod", "productpage"]), &["default/productpage-v1"]);
    has(
        &of(&["--protocol", "dns"]),
        &["dns-request", "dns-response"],
    );
    has(&of(&["--verdict", "DROPPED"]), &["DROPPED", "DENIED"]);
    has(
        &of(&["--verdict", "DROPPED", "--pod", "productpage"]),
        &["productpage-v1"],
    );
    assert_eq!(
        of(&["--type", "drop", "--type", "l7"]).len(),
        of(&["--type", "drop"]).len() + of(&["--type", "l7"]).len()
    );

    for line in lines(&daemon, &["--last", "1000", "-o", "json"]) {
        let line: Value = serde_json::from_str(&line).unwrap();
        let flow = &line["flow"];
        assert!(
            ["FORWARDED", "DROPPED"].contains(&flow["verdict"].as_str().unwrap()),
            "{line:#}"
        );
        assert!(
            flow["uuid"].is_string() && flow["Summary"].is_string(),
            "{line:#}"
        );
        assert_eq!(
            flow["source"]["namespace"].is_null(),
            flow["source"]["pod_name"].is_null()
        );
        assert_eq!(flow["node_name"], line["node_name"]);
    }
    let json = lines(&daemon, &["--last", "1000", "-o", "json"]);
    assert_eq!(json.len(), all.len());
}

/// A time says how far to go, so the default number says nothing.
#[test]
fn until_a_time_all_flows_are_shown_that_are_there() {
    let stage = Stage::new();
    let daemon = stage.daemon();
    for number in 0..12 {
        stage.asks(&stage.client, &format!("n{number}.example.com"));
    }
    let all = lines_with(&daemon, &["--last", "1000", "-o", "json"], "\"n11.");
    assert!(all.len() > 20, "{}", all.len());
    let later = lines(&daemon, &["--until", "2100-01-01T00:00:00Z", "-o", "json"]);
    assert_eq!(later, all);
    // The first that is later is the end: what the kernel and the proxy tell is in no strict order.
    let time = |line: &String| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["time"].as_str().unwrap().to_owned()
    };
    let until = time(&all[2]);
    let bare = |time: &str| time.trim_end_matches('Z').to_owned();
    let is_early = |line: &&String| bare(&time(line)) <= bare(&until);
    let early: Vec<String> = all.iter().take_while(is_early).cloned().collect();
    assert!(!early.is_empty() && early.len() < 20, "{early:?}");
    assert_eq!(lines(&daemon, &["--until", &until, "-o", "json"]), early);
    let two = ["--until", &until, "--last", "2", "-o", "json"];
    assert_eq!(lines(&daemon, &two), [""; 0], "the last two are later");
    assert_eq!(lines(&daemon, &["-o", "json"]), all[all.len() - 20..]);
}

#[test]
fn what_the_daemon_did_is_shown_and_followed() {
    let stage = Stage::new();
    let daemon = stage.daemon();
    let events = |flags: &[&str]| lines(&daemon, &[&["agent-events"], flags].concat());
    let all = events(&["--all"]);
    let has = |wanted: &str| all.iter().any(|line| line.contains(wanted));
    for wanted in [
        ": AGENT_STARTED (start time: ",
        ": POLICY_UPDATED (labels: [], revision: ",
        ", namespace: default, pod name: internal-client)",
        ": IPCACHE_UPSERTED (cidr: 0.0.0.0/0, identity: 9, encrypt key: 0)",
    ] {
        assert!(has(wanted), "{wanted}: {all:#?}");
    }
    assert_eq!(events(&["--last", "2"]), all[all.len() - 2..]);
    assert_eq!(events(&["--first", "1"]), all[..1]);
    assert_eq!(events(&[]), all[all.len().saturating_sub(20)..]);
    assert_eq!(events(&["--until", "2000-01-01"]), [""; 0]);
    let json = events(&["--first", "1", "-o", "json"]);
    let json: Value = serde_json::from_str(&json[0]).unwrap();
    assert_eq!(json["agent_event"]["type"], "AGENT_STARTED", "{json}");
    let table = events(&["--all", "-o", "table"]);
    assert_eq!(table.len(), all.len() + 1);
    let output = observe(&daemon, &["agent-events", "--pod", "x"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");

    let follower = Follower::start(&stage, &daemon, &["agent-events"]);
    std::thread::sleep(Duration::from_millis(500));
    // Rules are counted, of which a policy may have several.
    let rule = "{endpointSelector: {matchLabels: {app: productpage}}, egress: [{}]}";
    let policy = format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: three}}\nspecs: [{rule}, {rule}, {rule}]\n"
    );
    daemon.policy("story.yaml", &policy).unwrap();
    let mut told = std::iter::from_fn(|| follower.lines.recv_timeout(PATIENCE).ok());
    assert!(told.any(|line| line.contains("POLICY_UPDATED") && line.ends_with("count: 3)")));
}

#[test]
fn what_cannot_be_done_ends_with_one() {
    let stage = Stage::new();
    let daemon = stage.daemon();
    for (flags, named) in [
        (&["--verdict", "NOPE"][..], "\"--verdict\" flag"),
        (&["--protocol", "smoke"], "\"--protocol\" flag"),
        (&["--type", "nothing"], "\"--type\" flag"),
        (&["--last", "many"], "--last"),
        (&["-o", "yaml"], "--output"),
        (&["--no-such-flag"], "--no-such-flag"),
    ] {
        let output = observe(&daemon, flags);
        assert_eq!(output.status.code(), Some(1), "{flags:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{flags:?}: {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(named), "{flags:?}: {said}");
    }
    let nobody = daemon.path("nobody.sock").display().to_string();
    let output = daemon.namegate(&["observe", "--socket", &nobody]).unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("no daemon answers at") && said.contains("nobody.sock"),
        "{said}"
    );
}

/// A command that goes on, and the lines that it prints.
struct Follower {
    child: Child,
    lines: Receiver<String>,
}

impl Follower {
    fn start(stage: &Stage, daemon: &Daemon<'_>, flags: &[&str]) -> Self {
        let binary = Daemon::binary().unwrap().display().to_string();
        let mut command: Command = stage.node.command(&binary);
        command.args(["observe", "-f", "--socket"]);
        command.arg(daemon.path("namegate.sock")).args(flags);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_follower_sees_what_comes_and_a_lazy_one_holds_up_nobody() {
    let stage = Stage::new();
    let daemon = stage.daemon();
    stage.asks(&stage.client, "web.example.com");
    lines_with(&daemon, &[], "dns-response");
    let follower = Follower::start(
        &stage,
        &daemon,
        &["--last", "1", "--pod", "internal-client", "--type", "l7"],
    );
    let first = follower.lines.recv_timeout(PATIENCE).unwrap();
    assert!(
        first.contains("web.example.com"),
        "the last that was there: {first}"
    );
    stage.asks(&stage.client, "other.example.com");
    let second = follower.lines.recv_timeout(PATIENCE).unwrap();
    assert!(
        second.contains("DNS Query other.example.com. A"),
        "{second}"
    );

    let mut lazy = UnixStream::connect(daemon.path("namegate.sock")).unwrap();
    let all = r#"{"command":"observe","number":1000,"follow":true}"#;
    writeln!(lazy, "{all}").unwrap();
    // More than the socket's buffer and the ring hold together.
    let socket = stage
        .client
        .ns
        .run(|| UdpSocket::bind((stage.client.v4, 0)).unwrap());
    let socket = socket.unwrap();
    socket.connect((stage.dns.v4, 53)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(4) * patience()))
        .unwrap();
    let query = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x03web\x07example\x03com\0\0\x01\0\x01";
    for number in 0..8_000 {
        socket.send(query).unwrap();
        let answered = socket.recv(&mut [0; 512]);
        answered.unwrap_or_else(|error| panic!("query {number}: {error}"));
    }
    let status = daemon.status().unwrap();
    assert_eq!(status["flows"]["lost"], 0, "{status:#}");
    assert!(
        status["flows"]["seen"].as_u64().unwrap() > 16_000,
        "{status:#}"
    );
    // Longer than any other client is waited for; it reads on then, and is told how much it missed.
    std::thread::sleep(Duration::from_secs(11));
    lazy.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut lines = BufReader::new(lazy).lines().map(Result::unwrap);
    let lost = lines.find(|line| line.contains("lost_events")).unwrap();
    let lost: Value = serde_json::from_str(&lost).unwrap();
    let lost = &lost["lost_events"];
    assert_eq!(lost["source"], "HUBBLE_RING_BUFFER", "{lost:#}");
    let count = lost["num_events_lost"].as_str().unwrap();
    assert!(count.parse::<u64>().unwrap() > 1_000, "{lost:#}");
}

/// As with Hubble's command: what was there is shown, and what follows it isn't taken for the end of all flows.
#[test]
fn a_follower_is_told_that_the_daemon_has_ended() {
    let stage = Stage::new();
    let mut daemon = stage.daemon();
    let binary = Daemon::binary().unwrap().display().to_string();
    for what in ["flows", "agent-events"] {
        let mut command: Command = stage.node.command(&binary);
        command.args(["observe", what, "-f", "--last", "1", "--socket"]);
        command.arg(daemon.path("namegate.sock"));
        let output = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut follower = output.spawn().unwrap();
        stage.asks(&stage.client, "web.example.com");
        let mut shown = String::new();
        let mut told = BufReader::new(follower.stdout.take().unwrap());
        told.read_line(&mut shown).unwrap();
        assert_eq!(daemon.end_with("TERM").unwrap(), Some(0));
        let output = follower.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("the daemon has ended"), "{said}");
        assert!(!shown.is_empty());
        daemon.start(&[]).unwrap();
    }
}

#[test]
fn an_interrupt_ends_a_follower_well() {
    let stage = Stage::new();
    let daemon = stage.daemon();
    let binary = Daemon::binary().unwrap().display().to_string();
    let mut command: Command = stage.node.command(&binary);
    command.args(["observe", "-f", "--last", "100", "--socket"]);
    command.arg(daemon.path("namegate.sock"));
    let mut follower = command.stdout(Stdio::piped()).spawn().unwrap();
    stage.asks(&stage.client, "web.example.com");
    let mut shown = BufReader::new(follower.stdout.take().unwrap()).lines();
    let is_shown = shown.any(|line| line.unwrap().contains("web.example.com"));
    assert!(is_shown);
    let pid = follower.id().to_string();
    let kill = Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(kill.success());
    assert_eq!(follower.wait().unwrap().code(), Some(0));
}

#[test]
fn one_client_too_many_is_told_so() {
    let stage = Stage::new();
    let mut daemon = stage.daemon();
    let path = daemon.path("namegate.sock");
    let socket = path.display().to_string();
    let connect = |_| UnixStream::connect(&path).unwrap();
    let mut clients: Vec<UnixStream> = (0..64).map(connect).collect();
    for command in ["status", "observe"] {
        let output = daemon.namegate(&[command, "--socket", &socket]).unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("64 clients are there already"), "{said}");
    }
    assert!(daemon.said().contains("turned away"));
    clients.clear();
    let answers = |_| {
        std::thread::sleep(Duration::from_millis(50));
        daemon.status().is_ok_and(|status| status["pid"].is_u64())
    };
    assert!((0..100).any(answers), "and they make room when they go");
}

#[test]
fn a_policy_learned_from_the_flows_allows_what_was_done_and_no_more() {
    let stage = Stage::new();
    let daemon = stage.daemon();
    stage.play();
    lines_with(&daemon, &["--last", "1000"], "productpage-v1");
    let socket = daemon.path("namegate.sock").display().to_string();
    let args = ["policy", "learn", "--live", "--socket", &socket];
    let learned = daemon.namegate(&args).unwrap();
    assert!(learned.status.success(), "{learned:?}");
    let learned = String::from_utf8(learned.stdout).unwrap();
    for (words, count) in [
        ("kind: CiliumNetworkPolicy", 2), // the client's, and the DNS server's ingress
        ("- matchName: web.example.com", 2), // to ask for and to reach
        ("- matchName: other.example.com", 1),
        ("- port: '80'", 1),
        ("- matchName: nothing.example.com", 0),
        ("evil", 0),
    ] {
        assert_eq!(learned.matches(words).count(), count, "{words}: {learned}");
    }
    daemon.policy("story.yaml", &learned).unwrap();
    // The policy of before answers NXDOMAIN for it, the learned one denies it.
    until_dropped(&daemon, "nothing.example.com. A)", || {
        stage.asks(&stage.client, "nothing.example.com");
    });
    assert_eq!(stage.asks(&stage.client, "web.example.com"), "198.18.0.1\n");
    assert_eq!(
        stage.asks(&stage.client, "other.example.com"),
        "198.18.0.2\n"
    );
    assert!(stage.reaches("198.18.0.1:80"));
    assert!(!stage.reaches("198.18.0.1:81"));
    assert!(!stage.reaches("198.18.0.2:80"));
}

/// Does something again and again until it was dropped.
fn until_dropped(daemon: &Daemon<'_>, wanted: &str, act: impl Fn()) {
    for _ in 0..100 {
        act();
        let dropped = lines(daemon, &["--last", "1000", "--verdict", "DROPPED"]);
        if dropped.iter().any(|line| line.contains(wanted)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{wanted:?} is never dropped");
}
