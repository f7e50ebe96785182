//! A cgroup as an endpoint: its processes are in the node's own network, ask for names through the gate,
//! and reach what its policy allows, by whatever kind of socket.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use bpf_redirect_common::{CG_ASKER, CG_ASKERS_MAX, CG_SOCKET, CG_SOCKETS_MAX};
use namegate_tests::{Cgroup, Daemon, Running, Stage, TcpEcho, about, patience, policy, seen_by};

/// One socket of each kind; see there.
const SOCKETS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/sockets.py");
/// The server elsewhere.
const SERVER: &str = "203.0.113.2";
const SERVER_V6: &str = "2001:db8::2";
/// `web.example.com`, and `other.example.com`.
const WEB: &str = "198.18.0.1";
const OTHER: &str = "198.18.0.2";
const NAMES: &str = "[{matchName: web.example.com}]";

/// Sockets of streams, refused by `connect`.
const STREAMS: [&str; 4] = ["tcp", "tcp_mapped", "fastopen", "uring_connect"];
/// Sockets whose packets are refused.
const PACKETS: [&str; 7] = [
    "udp",
    "udp_connected",
    "udp_mapped",
    "udp_mapped_connected",
    "raw_icmp",
    "raw_header",
    "uring_sendmsg",
];

/// A stage whose guarded workload is a cgroup.
struct Job<'a> {
    stage: &'a Stage,
    cgroup: Cgroup,
    daemon: Daemon<'a>,
}

impl<'a> Job<'a> {
    fn start(stage: &'a Stage, text: &str) -> Self {
        Self::start_with(stage, text, &[])
    }

    fn start_with(stage: &'a Stage, text: &str, args: &[&str]) -> Self {
        let cgroup = Cgroup::new("job").unwrap();
        let mut daemon = Daemon::prepare(&stage.node).unwrap();
        daemon
            .endpoint_file("job.yaml", &cgroup.endpoint())
            .unwrap();
        daemon.policy("job.yaml", text).unwrap();
        daemon.start(args).unwrap();
        Self {
            stage,
            cgroup,
            daemon,
        }
    }

    fn said(&self, program: &str, args: &[&str]) -> String {
        self.cgroup.said(&self.stage.node, program, args).unwrap()
    }

    /// What a kind of socket tells.
    fn socket(&self, kind: &str, args: &[&str]) -> String {
        self.said("python3", &[&[SOCKETS, kind][..], args].concat())
    }

    fn dig(&self, args: &[&str]) -> String {
        let time = format!("+time={}", 2 * patience());
        self.said("dig", &[&["+tries=1", time.as_str()][..], args].concat())
    }

    /// Learns the address of `web.example.com`; on a machine that is emulated not at the first try, as
    /// [`Stage::asks`].
    fn learn(&self) {
        let ask = |_| self.dig(&["+short", "@203.0.113.2", "web.example.com"]);
        let mut answers = (0..patience()).map(ask);
        let answer = answers.find(|answer| !answer.is_empty());
        assert_eq!(answer.as_deref(), Some(WEB));
    }

    /// That of every kind of socket nothing reaches an address.
    fn check_closed(&self, address: &str) {
        let seen = seen_by(&self.stage.world, &format!("dst host {address}"), || {
            for kind in STREAMS {
                assert_eq!(self.socket(kind, &[address, "80"]), "EACCES", "{kind}");
            }
            for kind in PACKETS {
                assert_eq!(self.socket(kind, &[address, "80"]), "EPERM", "{kind}");
            }
            Ok(())
        });
        assert_eq!(seen.unwrap(), "", "{address}");
    }

    /// That with every kind of socket an address is reached.
    fn check_open(&self, address: &str) {
        for kind in STREAMS.iter().chain(&PACKETS) {
            let seen = seen_by(&self.stage.world, &format!("dst host {address}"), || {
                assert_eq!(self.socket(kind, &[address, "80"]), "ok", "{kind}");
                Ok(())
            });
            assert_ne!(seen.unwrap(), "", "{kind} {address}");
        }
    }
}

/// Something in the cgroup that is talked to by lines.
struct Talk {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Talk {
    fn start(job: &Job<'_>, args: &[&str]) -> Self {
        let mut command = job.cgroup.command(&job.stage.node, "python3");
        let command = command.arg(SOCKETS).args(args);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn say(&mut self, word: &str) -> String {
        writeln!(self.input, "{word}").unwrap();
        self.line()
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A call that fails is answer enough: no ICMP is needed.
#[test]
fn a_datagram_where_tcp_needs_a_name_fails_in_the_call() {
    let stage = Stage::new().unwrap();
    let rules = "egress: [\
        {toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: [ok.test]}]}, \
        {toPorts: [{ports: [{port: '443', protocol: UDP}, {port: '444', protocol: UDP}]}]}]";
    let job = Job::start(&stage, &about("job", rules));
    for server in [SERVER, SERVER_V6] {
        for kind in ["udp", "udp_connected"] {
            assert_eq!(
                job.socket(kind, &[server, "443"]),
                "EPERM",
                "{kind} {server}"
            );
            assert_eq!(job.socket(kind, &[server, "444"]), "ok", "{kind} {server}");
        }
    }
    assert_eq!(job.daemon.counter("name-hidden").unwrap(), 4);
}

#[test]
fn names_are_asked_through_the_gate_and_denied_ones_never_leave() {
    let stage = Stage::new().unwrap();
    let job = Job::start(&stage, &policy("job", NAMES));
    for server in [SERVER, SERVER_V6] {
        let at = format!("@{server}");
        for way in ["+notcp", "+tcp"] {
            let answer = job.dig(&[way, &at, "web.example.com"]);
            assert!(
                answer.contains(&format!("SERVER: {server}#53")) && answer.contains(WEB),
                "{way} {at}: {answer}"
            );
            let seen = seen_by(&stage.world, "port 53 and not host 127.0.0.1", || {
                let denied = job.dig(&[way, &at, "a.evil.test"]);
                assert!(
                    denied.contains("status: NXDOMAIN") && denied.contains("EDE: 17 (Filtered)"),
                    "{way} {at}: {denied}"
                );
                Ok(())
            });
            assert_eq!(seen.unwrap(), "", "{way} {at}");
        }
    }
    let status = job.daemon.status().unwrap();
    let exchanges = &status["dns"]["dns_exchanges_total"];
    assert_eq!(exchanges["answered"], 4, "{status}");
    assert_eq!(exchanges["denied"], 4, "{status}");
    // To a server that no rule names nothing goes.
    assert!(
        job.dig(&["@203.0.113.1", "web.example.com"])
            .contains("no servers could be reached")
    );
}

#[test]
fn an_address_is_reached_only_once_it_was_learned_by_every_kind_of_socket() {
    let stage = Stage::new().unwrap();
    // So many sockets take longer than a minute on a machine that is emulated.
    let options = ["--dns-ttl-floor", "12h"];
    let mut job = Job::start_with(&stage, &policy("job", NAMES), &options);
    job.check_closed(WEB);
    assert!(job.daemon.counter("policy-denied").unwrap() >= 11);
    job.learn();
    job.check_open(WEB);
    job.check_closed(OTHER);

    // It holds without a daemon too; and nobody asks in its place.
    job.daemon.end_with("KILL").unwrap();
    job.check_closed(OTHER);
    job.check_open(WEB);
    let answer = job.dig(&["@203.0.113.2", "web.example.com"]);
    assert!(!answer.contains(WEB), "{answer}");
    for kind in ["raw_header", "udp_connected", "tcp"] {
        // The way to the server itself is a way round the proxy.
        let seen = seen_by(&stage.world, "dst port 53", || {
            assert_ne!(job.socket(kind, &[SERVER, "53"]), "", "{kind}");
            Ok(())
        });
        assert_eq!(seen.unwrap(), "", "{kind}");
    }
}

#[test]
fn it_holds_where_interfaces_have_filters_and_no_tcx() {
    let stage = Stage::new().unwrap();
    let mut job = Job::start_with(&stage, &policy("job", NAMES), &["--hooks", "clsact"]);
    assert_eq!(job.socket("tcp", &[WEB, "80"]), "EACCES");
    job.learn();
    assert_eq!(job.socket("tcp", &[WEB, "80"]), "ok");
    job.daemon.end_with("KILL").unwrap();
    assert_eq!(job.socket("tcp", &[WEB, "80"]), "ok");
    assert_eq!(job.socket("udp", &[OTHER, "80"]), "EPERM");
}

#[test]
fn a_socket_sees_the_server_that_it_asked() {
    let stage = Stage::new().unwrap();
    let hosts = "
  - toEntities: [host]
    toPorts:
    - ports: [{port: '53', protocol: ANY}]
      rules: {dns: [{matchPattern: '*.example.com'}]}
";
    let job = Job::start(&stage, &(policy("job", NAMES) + hosts));
    // The node's own stub resolver.
    let _stub = Running::knot(&stage.node.ns, "web 60 IN A 198.18.0.1\n").unwrap();
    let answered = |server: &str| format!("{server} 53 {WEB}\nok");
    for (kind, args, expected) in [
        ("dns", &[SERVER, "53"][..], answered(SERVER)),
        ("dns", &[SERVER_V6, "53"], answered(SERVER_V6)),
        ("dns_mapped", &[SERVER, "53"], answered("::ffff:cb00:7102")),
        ("dns", &["127.0.0.53", "53"], answered("127.0.0.53")),
        ("dns", &["::1", "53"], answered("::1")),
        // The node's own address by which it would send.
        ("dns_from", &[SERVER, "53", "203.0.113.1"], answered(SERVER)),
        (
            "dns_two",
            &[SERVER, "53", "127.0.0.53"],
            format!("{SERVER} 53 {WEB}\n127.0.0.53 53 {WEB}\nok"),
        ),
        (
            "dns_connected",
            &[SERVER, "53"],
            format!("{SERVER} 53\n{SERVER} 53\nok"),
        ),
        (
            "dns_connected",
            &[SERVER_V6, "53"],
            format!("{SERVER_V6} 53\n{SERVER_V6} 53\nok"),
        ),
        (
            "dns_connected_mapped",
            &[SERVER, "53"],
            "::ffff:cb00:7102 53\n::ffff:cb00:7102 53\nok".to_owned(),
        ),
        ("peer", &[SERVER, "53"], format!("{SERVER} 53\nok")),
        ("peer", &[SERVER_V6, "53"], format!("{SERVER_V6} 53\nok")),
        (
            "peer_mapped",
            &[SERVER, "53"],
            "::ffff:cb00:7102 53\nok".to_owned(),
        ),
    ] {
        assert_eq!(job.socket(kind, args), expected, "{kind} {args:?}");
    }
    // Another port of the node is not that rule's, and the proxy's own is nobody's to talk to.
    let rows = |map: &str| {
        let output = job.daemon.namegate(&["map", "get", map, "-o", "json"]);
        serde_json::from_slice::<serde_json::Value>(&output.unwrap().stdout).unwrap()
    };
    let port = rows("cg_listen")[0]["tcp4"].to_string();
    assert_eq!(job.socket("tcp", &["127.0.0.1", &port]), "EACCES");
    assert_eq!(job.socket("udp", &["127.0.0.1", "9"]), "EPERM");
    assert_eq!(rows("cg_endpoint"), rows("cg_id"));
    assert_eq!(rows("cg_id")[0]["endpoint"], 1);
    assert!(rows("cg_socket").as_array().unwrap().len() >= 13);
    assert!(rows("cg_asker").as_array().unwrap().len() >= 13);
}

#[test]
fn the_proxy_is_talked_to_by_a_servers_address_alone() {
    let stage = Stage::new().unwrap();
    let job = Job::start(&stage, &(policy("job", NAMES) + "  - toEntities: [host]\n"));
    let output = job
        .daemon
        .namegate(&["map", "get", "cg_listen", "-o", "json"]);
    let ports: serde_json::Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    let [udp, tcp] = ["udp4", "tcp4"].map(|name| ports[0][name].to_string());
    let _echo = TcpEcho::serve(&stage.node.ns, 7777).unwrap();
    let before = job.daemon.counter("not-redirected").unwrap();
    for (kind, address, port, expected) in [
        ("udp", "127.0.0.1", udp.as_str(), "EPERM"),
        ("udp_connected", "127.0.0.1", &udp, "EPERM"),
        ("raw_header", "127.0.0.1", &udp, "EPERM"),
        ("tcp", "127.0.0.1", &tcp, "ETIMEDOUT"),
        // A query that no hook has led to the proxy.
        ("raw_header", SERVER, "53", "EPERM"),
        // The rest of the node is the host's.
        ("tcp", "127.0.0.1", "7777", "ok"),
        ("tcp", "0.0.0.0", "7777", "ok"),
        ("tcp", "::", "7777", "ok"),
        ("tcp", "10.0.0.1", "7777", "ok"),
    ] {
        assert_eq!(
            job.socket(kind, &[address, port]),
            expected,
            "{kind} {address}:{port}"
        );
    }
    assert!(job.daemon.counter("not-redirected").unwrap() >= before + 5);
    // Neighbours are looked for on the link alone.
    assert_eq!(job.socket("raw_neighbour", &["ff02::1", "0"]), "ok");
    assert_eq!(
        job.socket("raw_neighbour", &["2001:db8:1::1", "0"]),
        "EPERM"
    );
    // Somebody outside of the cgroup is nobody's asker.
    let args = [
        "+tries=1",
        "+time=1",
        "-p",
        udp.as_str(),
        "@127.0.0.1",
        "web.example.com",
    ];
    let outside = stage.node.command("dig").args(args).output().unwrap();
    assert!(
        !String::from_utf8_lossy(&outside.stdout).contains(WEB),
        "{outside:?}"
    );
}

/// What comes in is answered without a rule; but what goes to a port of DNS may be a query.
#[test]
fn a_server_that_sends_first_opens_no_way_round_the_proxy() {
    const OWN: &str = "203.0.113.1";
    let stage = Stage::new().unwrap();
    let job = Job::start(&stage, &policy("job", NAMES));
    stage.node.nft("table inet hostile { chain input { type filter hook input priority 0; policy drop; udp dport 5353 accept; }\n}").unwrap();
    for (port, expected) in [("53", "EPERM"), ("55", "ok")] {
        let mut waiting = Talk::start(&job, &["hears", OWN, "5353"]);
        assert_eq!(waiting.line(), "bound");
        let sent = [SOCKETS, "raw_header", OWN, "5353", port];
        let said = stage.world.check("python3", &sent).unwrap();
        assert_eq!(said.trim(), "ok");
        assert_eq!(waiting.line(), format!("{SERVER} {port}"));
        let seen = seen_by(&stage.world, &format!("udp dst port {port}"), || {
            assert_eq!(job.socket("raw_header", &[SERVER, port]), expected);
            Ok(())
        });
        assert_eq!(seen.unwrap().is_empty(), expected != "ok", "{port}");
    }
}

/// Beyond these bounds the least recently used entry is forgotten, and the newest always works.
#[test]
fn more_sockets_and_queries_than_are_remembered_forget_the_oldest() {
    let stage = Stage::new().unwrap();
    let job = Job::start(&stage, &policy("job", NAMES));
    let (sockets, askers) = (2 * CG_SOCKETS_MAX, 2 * CG_ASKERS_MAX);
    let forgotten = job.socket("forget", &[SERVER, "53", &sockets.to_string()]);
    assert_eq!(forgotten, "EPERM", "nobody knows any more what it asked");
    job.learn();
    assert_eq!(
        job.socket("flood", &[SERVER, "53", &askers.to_string()]),
        "ok"
    );
    let output = job.daemon.namegate(&["map", "list", "-o", "json"]);
    let maps: serde_json::Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    for (name, most) in [(CG_SOCKET, CG_SOCKETS_MAX), (CG_ASKER, CG_ASKERS_MAX)] {
        let map = maps
            .as_array()
            .unwrap()
            .iter()
            .find(|map| map["name"] == name);
        let entries = map.unwrap()["entries"].as_u64().unwrap();
        let most = u64::try_from(most).unwrap();
        assert!(entries <= most && entries > most / 2, "{name}: {entries}");
    }
    job.learn();
}

#[test]
fn rules_of_prefixes_hold_and_a_child_is_part_of_it() {
    let stage = Stage::new().unwrap();
    let prefixes = "
  - toCIDRSet: [{cidr: 198.18.5.0/24, except: [198.18.5.128/25]}]
    toPorts: [{ports: [{port: '80', protocol: TCP}]}]
";
    let job = Job::start(&stage, &(policy("job", NAMES) + prefixes));
    let child = Cgroup::at("job", job.cgroup.path().join("child")).unwrap();
    for (address, port, expected) in [
        ("198.18.5.1", "80", "ok"),
        ("198.18.5.1", "81", "EACCES"),
        ("198.18.5.129", "80", "EACCES"),
        ("2001:db8:1::1", "80", "EACCES"),
        (WEB, "80", "EACCES"),
    ] {
        assert_eq!(job.socket("tcp", &[address, port]), expected, "{address}");
        let args = [SOCKETS, "tcp", address, port];
        let of_child = child.said(&stage.node, "python3", &args).unwrap();
        assert_eq!(of_child, expected, "{address} of the child");
    }
    // Whoever isn't in it is not concerned.
    let other = Cgroup::new("other").unwrap();
    let args = [SOCKETS, "tcp", WEB, "80"];
    assert_eq!(other.said(&stage.node, "python3", &args).unwrap(), "ok");

    // What was refused is told.
    let socket = job.daemon.path("namegate.sock").display().to_string();
    let flows = job
        .daemon
        .namegate(&[
            "observe", "--last", "100", "-o", "jsonpb", "--socket", &socket,
        ])
        .unwrap();
    let flows = String::from_utf8_lossy(&flows.stdout).into_owned();
    let told = flows.lines().any(|line| {
        line.contains("\"verdict\":\"DROPPED\"")
            && line.contains("198.18.5.129")
            && line.contains("\"pod_name\":\"job\"")
    });
    assert!(told, "{flows}");
    assert!(
        !flows.contains("\"ethernet\""),
        "there are no frames: {flows}"
    );
}

#[test]
fn who_may_reach_a_service_of_the_cgroup_is_judged_and_its_answers_pass() {
    let stage = Stage::new().unwrap();
    // Alice may come in, and nothing may be sent to her; bob the other way round.
    let rules = "
  - toEndpoints: [{matchLabels: {app: bob}}]
  ingress:
  - fromEndpoints: [{matchLabels: {app: alice}}]
    toPorts: [{ports: [{port: '8080', protocol: TCP}]}]
";
    let job = Job::start(&stage, &(policy("job", NAMES) + rules));
    job.daemon.endpoint(&stage.alice).unwrap();
    let bob = stage.node.workload("bob", 3).unwrap();
    let revision = job.daemon.status().unwrap()["policy"]["revision"].as_u64();
    job.daemon.endpoint(&bob).unwrap();
    job.daemon.wait_beyond(revision.unwrap()).unwrap();
    stage.node.nft("table inet hostile { chain input { type filter hook input priority 0; policy drop; tcp dport { 8080, 8081 } accept; }\n}").unwrap();
    let serve = |port: &str| {
        let mut command = job.cgroup.command(&stage.node, "socat");
        let listen = format!("TCP-LISTEN:{port},fork,reuseaddr");
        command.args([&listen, "EXEC:echo served"]).spawn().unwrap()
    };
    let mut servers = [serve("8080"), serve("8081")];
    std::thread::sleep(Duration::from_millis(400));
    let get = |who: &namegate_tests::Workload, port: &str| {
        let address = format!("TCP:10.0.0.1:{port},connect-timeout=1");
        let output = who.output("socat", &["-u", &address, "-"]).unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(get(&stage.alice, "8080"), "served\n");
    assert_eq!(get(&stage.alice, "8081"), "", "another port");
    assert_eq!(get(&bob, "8080"), "", "another workload");
    let to_alice = job.socket("tcp", &["10.0.0.2", "8080"]);
    assert_eq!(to_alice, "EACCES", "her answers alone pass");
    // The proxy's answers come in all the same.
    for way in ["+notcp", "+tcp"] {
        let answer = job.dig(&[way, "+short", "@203.0.113.2", "web.example.com"]);
        assert_eq!(answer, WEB, "{way}");
    }
    assert_eq!(job.socket("tcp", &[WEB, "80"]), "ok");
    for server in &mut servers {
        let _ = server.kill();
        let _ = server.wait();
    }
}

#[test]
fn restarts_open_nothing_and_break_nothing() {
    let stage = Stage::new().unwrap();
    let _echo = TcpEcho::serve(&stage.world.ns, 7777).unwrap();
    let mut job = Job::start(&stage, &policy("job", NAMES));
    job.learn();
    let mut held = Talk::start(&job, &["hold", WEB, "7777"]);
    assert_eq!(held.line(), "held");
    assert_eq!(held.say("one"), "one");
    // What was learned is kept once in a second.
    std::thread::sleep(Duration::from_millis(1_500));
    let mut trying = Talk::start(&job, &["try_often", OTHER, "80", "60000"]);
    let links = links(&stage);
    assert_eq!(links.len(), 10, "{links:?}");
    for round in 0..6 {
        let signal = if round % 2 == 0 { "KILL" } else { "TERM" };
        job.daemon.end_with(signal).unwrap();
        assert_eq!(held.say("without"), "without", "{round}");
        assert_eq!(job.socket("tcp", &[WEB, "80"]), "ok", "{round}");
        assert_eq!(job.socket("tcp", &[OTHER, "80"]), "EACCES", "{round}");
        job.daemon.start(&[]).unwrap();
        assert_eq!(held.say("with"), "with", "{round}");
        let endpoints = &job.daemon.status().unwrap()["endpoints"];
        assert_eq!(endpoints[0]["id"], 1, "{endpoints}");
        assert_eq!(endpoints[0]["open_addresses"], 1, "{endpoints}");
        job.learn();
    }
    assert_eq!(self::links(&stage), links, "the same pins, and no more");
    assert_eq!(trying.line(), "0", "connections to what is denied");
    drop((held, trying));

    // Whatever is there goes away with `detach`, with a daemon or without.
    job.daemon.end_with("KILL").unwrap();
    let detached = job.daemon.namegate(&["detach"]).unwrap();
    assert!(detached.status.success(), "{detached:?}");
    assert_eq!(self::links(&stage), Vec::<String>::new());
    assert_eq!(job.socket("tcp", &[OTHER, "80"]), "ok");
}

#[test]
fn what_it_asks_while_no_daemon_runs_waits_for_the_next_one() {
    let stage = Stage::new().unwrap();
    let mut job = Job::start(&stage, &policy("job", NAMES));
    job.learn();
    let Job { cgroup, daemon, .. } = &mut job;
    let (cgroup, node) = (&*cgroup, &stage.node);
    daemon.end_with("KILL").unwrap();
    let server = format!("@{SERVER}");
    // Of a datagram that waited for longer the next daemon thinks that nobody wants it any more.
    for (way, away_max) in [("+tcp", 60), ("+notcp", 4)] {
        let mut is_quick = false;
        for _ in 0..10 {
            #[expect(clippy::disallowed_methods, reason = "a test's patience")]
            let began = std::time::Instant::now();
            std::thread::scope(|scope| {
                let words = [
                    way,
                    "+tries=1",
                    "+time=20",
                    "+short",
                    &server,
                    "web.example.com",
                ];
                let asked = scope.spawn(move || cgroup.said(node, "dig", &words).unwrap());
                std::thread::sleep(Duration::from_millis(300));
                daemon.start(&[]).unwrap();
                is_quick = began.elapsed() < Duration::from_secs(away_max);
                if is_quick {
                    assert_eq!(asked.join().unwrap(), WEB, "{way}");
                }
                daemon.end_with("KILL").unwrap();
            });
            if is_quick {
                break;
            }
        }
        assert!(is_quick, "{way}");
    }
}

/// The pinned links of cgroups.
fn links(stage: &Stage) -> Vec<String> {
    let listed = stage
        .node
        .command("ls")
        .arg("/sys/fs/bpf/namegate/links")
        .output();
    let listed = listed.unwrap();
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let names = text.lines().filter(|name| name.starts_with("cgroup-"));
    names.map(str::to_owned).collect()
}

#[test]
fn a_program_that_somebody_takes_off_is_back_within_a_second_and_told() {
    let stage = Stage::new().unwrap();
    let job = Job::start(&stage, &policy("job", NAMES));
    let socket = job.daemon.path("namegate.sock").display().to_string();
    let get = || {
        let args = ["endpoint", "get", "1", "-o", "json", "--socket", &socket];
        let output = job.daemon.namegate(&args).unwrap();
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let before = get();
    let programs = before["programs"].as_array().unwrap();
    assert_eq!(programs.len(), 10, "{before}");
    let egress = programs.iter().find(|one| one["program"] == "ng_cg_egress");
    let link = egress.unwrap()["link"].to_string();
    let unlink = ["python3", SOCKETS, "unlink", &link, "0"];
    assert_eq!(stage.node.check(unlink[0], &unlink[1..]).unwrap(), "ok\n");
    for _ in 0..40 {
        if job.socket("udp", &[OTHER, "80"]) == "EPERM" {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    job.check_closed(OTHER);
    let status = job.daemon.status().unwrap();
    let told = status["datapath"]["interference"]["last"].as_str().unwrap();
    assert!(told.contains("ng_cg_egress"), "{told}");
    let after = get();
    assert_eq!(after["programs"].as_array().unwrap().len(), 10);
    assert_eq!(after["cgroup"], job.cgroup.path().display().to_string());
}

#[test]
fn a_cgroup_that_goes_and_comes_again_is_guarded_again() {
    let stage = Stage::new().unwrap();
    let job = Job::start(&stage, &policy("job", NAMES));
    job.learn();
    let state = || {
        let status = job.daemon.status().unwrap();
        let one = &status["endpoints"][0];
        (
            one["state"].to_string(),
            one["reason"].to_string(),
            one["open_addresses"].clone(),
        )
    };
    let wait = |wanted: &str| {
        for _ in 0..100 {
            if state().0 == wanted {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("not {wanted}: {:?}", state());
    };
    wait("\"ready\"");
    job.cgroup.remove().unwrap();
    wait("\"refused\"");
    assert!(state().1.contains("No such file"), "{:?}", state());
    assert_eq!(links(&stage), Vec::<String>::new());
    let _again = Cgroup::at("job", job.cgroup.path().to_owned()).unwrap();
    wait("\"ready\"");
    assert_eq!(
        state().2,
        0,
        "what the other one had learned is not its own"
    );
    job.check_closed(WEB);
    job.learn();
    assert_eq!(job.socket("tcp", &[WEB, "80"]), "ok");
}

#[test]
fn what_can_not_be_guarded_is_refused_by_name_and_a_resolver_that_goes_round_is_told() {
    let stage = Stage::new().unwrap();
    let nsswitch = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(nsswitch.path(), "hosts: files resolve dns\n").unwrap();
    let nsswitch = nsswitch.path().display().to_string();
    let mount = ["--bind", &nsswitch, "/etc/nsswitch.conf"];
    stage.node.check("mount", &mount).unwrap();
    let job = Job::start(&stage, &policy("job", NAMES));
    let socket = job.daemon.path("namegate.sock").display().to_string();
    let status = job.daemon.namegate(&["status", "--socket", &socket]);
    let status = String::from_utf8_lossy(&status.unwrap().stdout).into_owned();
    assert!(
        status.contains("default/job: systemd-resolved is asked"),
        "{status}"
    );
    let child = Cgroup::at("child", job.cgroup.path().join("child")).unwrap();
    let root = job.cgroup.path().parent().unwrap().display().to_string();
    for (file, name, path) in [
        ("kid.yaml", "kid", child.path().display().to_string()),
        ("root.yaml", "root", root),
        ("none.yaml", "none", "/tmp".to_owned()),
    ] {
        let text = format!("name: {name}\ncgroup: {path}\n");
        job.daemon.endpoint_file(file, &text).unwrap();
    }
    let refused = || {
        let status = job.daemon.status().unwrap();
        let all = status["endpoints"].as_array().unwrap();
        let refused = all.iter().filter(|one| one["state"] == "refused");
        refused
            .map(|one| (one["name"].to_string(), one["reason"].to_string()))
            .collect::<Vec<_>>()
    };
    for _ in 0..100 {
        if refused().len() == 3 {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let refused = refused();
    for (name, reason) in [
        ("kid", "has a cgroup around it"),
        ("root", "is the root of the cgroups"),
        ("none", "is no cgroup of version 2"),
    ] {
        let is_told = refused
            .iter()
            .any(|(of, why)| of.contains(name) && why.contains(reason));
        assert!(is_told, "{name}: {refused:?}");
    }
}
