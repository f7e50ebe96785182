//! What a name opens in the kernel: for whom, when, and nothing else.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use namegate_tests::{Answers, Daemon, Node, Running, Stage, TcpSink, Workload, patience, policy};

const ZONE: &str = "web 60 IN A 198.18.0.1\nweb 60 IN AAAA 2001:db8:1::1\n\
                    other 60 IN A 198.18.0.2\n\
                    alias 60 IN CNAME web\n\
                    private 60 IN A 127.0.0.1\nprivate 60 IN A 169.254.169.254\nprivate 60 IN A 10.0.0.3\n";

const WEB: &str = "[{matchName: web.example.com}]";

/// Whether a workload's connection is accepted within a moment.
fn reaches(from: &Workload, to: SocketAddr) -> bool {
    let connect =
        || TcpStream::connect_timeout(&to, Duration::from_millis(700) * patience()).is_ok();
    from.ns.run(connect).unwrap()
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn an_address_opens_with_its_name_for_the_one_who_asked_alone() {
    let node = Node::new().unwrap();
    let (alice, bob) = (
        node.workload("alice", 2).unwrap(),
        node.workload("bob", 3).unwrap(),
    );
    let world = node.elsewhere().unwrap();
    let _knot = Running::knot(&world.ns, ZONE).unwrap();
    let _web = TcpSink::serve(&world.ns, 80).unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    daemon.endpoint(&alice).unwrap();
    daemon.endpoint(&bob).unwrap();
    daemon.policy("alice.yaml", &policy("alice", WEB)).unwrap();
    daemon.policy("bob.yaml", &policy("bob", WEB)).unwrap();
    daemon.start(&[]).unwrap();
    let dns = IpAddr::V4(world.v4);

    assert!(!reaches(&alice, addr("198.18.0.1:80")), "not asked for yet");
    assert_eq!(
        alice.dig(dns, &["+short", "web.example.com"]).unwrap(),
        "198.18.0.1\n"
    );
    assert!(reaches(&alice, addr("198.18.0.1:80")));
    assert!(
        !reaches(&bob, addr("198.18.0.1:80")),
        "bob has the same policy and never asked"
    );

    assert!(
        !reaches(&alice, addr("[2001:db8:1::1]:80")),
        "A opens no IPv6 address"
    );
    assert_eq!(
        alice
            .dig(dns, &["+short", "web.example.com", "AAAA"])
            .unwrap(),
        "2001:db8:1::1\n"
    );
    assert!(reaches(&alice, addr("[2001:db8:1::1]:80")));

    assert_eq!(
        alice.dig(dns, &["+short", "other.example.com"]).unwrap(),
        "198.18.0.2\n"
    );
    assert!(
        !reaches(&alice, addr("198.18.0.2:80")),
        "a name that may be asked, and no toFQDNs names it"
    );

    assert_eq!(
        bob.dig(dns, &["+short", "alias.example.com"]).unwrap(),
        "web.example.com.\n198.18.0.1\n"
    );
    assert!(
        !reaches(&bob, addr("198.18.0.1:80")),
        "the chain's target was not what bob asked"
    );
    assert!(daemon.counter("policy-denied").unwrap() > 0);
}

#[test]
fn what_a_chain_leads_to_opens_where_that_is_wanted() {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let _knot = Running::knot(&world.ns, &format!("{ZONE}far 60 IN CNAME other\n")).unwrap();
    let _web = TcpSink::serve(&world.ns, 80).unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    daemon.endpoint(&alice).unwrap();
    daemon.policy("alice.yaml", &policy("alice", WEB)).unwrap();
    daemon.start(&["--dns-cname-match"]).unwrap();
    let ask = |name| alice.dig(world.v4.into(), &["+short", name]).unwrap();
    assert_eq!(ask("far.example.com"), "other.example.com.\n198.18.0.2\n");
    assert!(!reaches(&alice, addr("198.18.0.2:80")), "no rule names it");
    assert_eq!(ask("alias.example.com"), "web.example.com.\n198.18.0.1\n");
    assert!(reaches(&alice, addr("198.18.0.1:80")));
}

/// An answer with an address of the question's own name beside an alias that a rule names: that one address
/// is not the alias's.
#[test]
fn an_alias_opens_only_what_stands_behind_it() {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let mixed = |query: &[u8]| {
        let mut out = query.get(..2).unwrap().to_vec();
        out.extend([0x84, 0, 0, 1, 0, 3, 0, 0, 0, 0]);
        out.extend(b"\x03far\x07example\x03com\0\0\x01\0\x01");
        out.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc6\x12\0\x02");
        // `far` is an alias of `web`, which stands from octet 57 on.
        out.extend(b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x06\x03web\xc0\x10");
        out.extend(b"\xc0\x3d\0\x01\0\x01\0\0\0\x3c\0\x04\xc6\x12\0\x01");
        vec![out]
    };
    let _server = Answers::serve(&world.ns, 53, mixed).unwrap();
    let _web = TcpSink::serve(&world.ns, 80).unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    daemon.endpoint(&alice).unwrap();
    daemon.policy("alice.yaml", &policy("alice", WEB)).unwrap();
    daemon.start(&["--dns-cname-match"]).unwrap();
    let told = alice.dig(world.v4.into(), &["+short", "far.example.com"]);
    assert!(told.unwrap().contains("198.18.0.2"));
    assert!(reaches(&alice, addr("198.18.0.1:80")), "web's");
    assert!(!reaches(&alice, addr("198.18.0.2:80")), "far's own");
}

/// A denial leaves nothing behind: the same segment passes when it comes again. And TTL 0 doesn't mean that a
/// program must hurry.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a workload's own socket, and a test's patience"
)]
fn a_syn_that_came_before_its_name_passes_when_it_comes_again() {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let _knot = Running::knot(&world.ns, "web 0 IN A 198.18.0.1\n").unwrap();
    let _web = TcpSink::serve(&world.ns, 80).unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    daemon.endpoint(&alice).unwrap();
    daemon.policy("alice.yaml", &policy("alice", WEB)).unwrap();
    daemon.start(&[]).unwrap();
    let (to, patient) = (addr("198.18.0.1:80"), Duration::from_secs(20));
    let connect = || {
        let connect = || TcpStream::connect_timeout(&to, patient);
        alice.ns.run(connect)
    };
    std::thread::scope(|scope| {
        let connection = scope.spawn(connect);
        let began = std::time::Instant::now();
        while daemon.counter("policy-denied").unwrap() == 0 {
            assert!(began.elapsed() < patient, "no SYN was denied");
            std::thread::sleep(Duration::from_millis(20));
        }
        let dns = IpAddr::V4(world.v4);
        let answer = alice.dig(dns, &["+short", "web.example.com"]).unwrap();
        assert_eq!(answer, "198.18.0.1\n");
        connection.join().unwrap().unwrap().unwrap();
    });
    std::thread::sleep(Duration::from_secs(3));
    assert!(reaches(&alice, addr("198.18.0.1:80")), "TTL 0, 3 s later");
}

#[test]
fn a_policy_change_rederives_what_was_learned_and_a_bad_file_changes_nothing() {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let _knot = Running::knot(&world.ns, ZONE).unwrap();
    let _web = TcpSink::serve(&world.ns, 80).unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    daemon.endpoint(&alice).unwrap();
    daemon.policy("alice.yaml", &policy("alice", WEB)).unwrap();
    daemon.start(&[]).unwrap();
    let dns = IpAddr::V4(world.v4);
    let revision = || {
        daemon.status().unwrap()["policy"]["revision"]
            .as_u64()
            .unwrap()
    };
    alice.dig(dns, &["web.example.com"]).unwrap();
    alice.dig(dns, &["other.example.com"]).unwrap();
    assert!(reaches(&alice, addr("198.18.0.1:80")) && !reaches(&alice, addr("198.18.0.2:80")));

    let now = revision();
    daemon
        .policy(
            "alice.yaml",
            &policy("alice", "[{matchName: other.example.com}]"),
        )
        .unwrap();
    daemon.wait_beyond(now).unwrap();
    assert!(
        reaches(&alice, addr("198.18.0.2:80")),
        "learned before, selected now"
    );
    assert!(!reaches(&alice, addr("198.18.0.1:80")), "selected no more");

    let now = revision();
    daemon
        .policy(
            "alice.yaml",
            &policy("alice", "[{matchNmae: web.example.com}]"),
        )
        .unwrap();
    daemon.wait_beyond(now).unwrap();
    let status = daemon.status().unwrap();
    let problems = status["policy"]["problems"].to_string();
    assert!(problems.contains("matchNmae"), "{problems}");
    assert!(problems.contains("\"line\":12"), "{problems}");
    assert!(
        reaches(&alice, addr("198.18.0.2:80")),
        "the last good set stays in force"
    );
    assert!(!reaches(&alice, addr("198.18.0.1:80")));

    let now = revision();
    daemon.policy("alice.yaml", "").unwrap();
    daemon.wait_beyond(now).unwrap();
    assert!(
        reaches(&alice, addr("198.18.0.9:80")),
        "without a policy an endpoint is open"
    );
}

#[test]
fn default_deny_closes_egress_and_lets_replies_pass() {
    let node = Node::new().unwrap();
    let (server, client) = (
        node.workload("server", 2).unwrap(),
        node.workload("client", 3).unwrap(),
    );
    let world = node.elsewhere().unwrap();
    let _sinks = [&server, &client, &world].map(|one| TcpSink::serve(&one.ns, 80).unwrap());
    let _echo = Answers::echo(&server.ns, 7).unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    daemon.endpoint(&server).unwrap();
    daemon.endpoint(&client).unwrap();
    let deny = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: closed}
spec:
  endpointSelector: {matchLabels: {app: server}}
  egress: [{}]
";
    daemon.policy("closed.yaml", deny).unwrap();
    daemon.start(&[]).unwrap();
    for to in [
        SocketAddr::new(client.v4.into(), 80),
        SocketAddr::new(client.v6.into(), 80),
        SocketAddr::new(world.v4.into(), 80),
    ] {
        assert!(!reaches(&server, to), "{to}");
    }
    for to in [
        SocketAddr::new(server.v4.into(), 80),
        SocketAddr::new(server.v6.into(), 80),
    ] {
        assert!(
            reaches(&client, to),
            "replies of an inbound connection need no rule: {to}"
        );
    }
    #[expect(clippy::disallowed_methods, reason = "a workload's own socket")]
    let echoed = client.ns.run(|| {
        let socket = UdpSocket::bind((client.v4, 0)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(1) * patience()))
            .unwrap();
        socket.send_to(b"hello", (server.v4, 7)).unwrap();
        let mut buffer = [0; 16];
        socket.recv_from(&mut buffer).map(|(len, _)| len)
    });
    assert_eq!(echoed.unwrap().unwrap(), 5, "and so do UDP replies");
    let ping = client.output("ping", &["-c1", "-W1", &server.v4.to_string()]);
    if let Ok(ping) = ping {
        assert!(
            ping.status.success(),
            "an echo reply belongs to its request: {ping:?}"
        );
    }
}

#[test]
fn addresses_that_no_name_may_open_stay_closed() {
    let node = Node::new().unwrap();
    let (alice, bob) = (
        node.workload("alice", 2).unwrap(),
        node.workload("bob", 3).unwrap(),
    );
    let world = node.elsewhere().unwrap();
    let _knot = Running::knot(&world.ns, ZONE).unwrap();
    let _sink = TcpSink::serve(&bob.ns, 80).unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    daemon.endpoint(&alice).unwrap();
    daemon.endpoint(&bob).unwrap();
    daemon
        .policy(
            "alice.yaml",
            &policy("alice", "[{matchPattern: '*.example.com'}]"),
        )
        .unwrap();
    let log = daemon.path("flows.jsonl");
    let file = log.display().to_string();
    daemon.start(&["--flow-log", &file]).unwrap();
    let answer = alice
        .dig(IpAddr::V4(world.v4), &["+short", "private.example.com"])
        .unwrap();
    assert!(
        answer.contains("10.0.0.3") && answer.contains("127.0.0.1"),
        "the answer itself is not changed: {answer}"
    );
    assert!(
        !reaches(&alice, addr("10.0.0.3:80")),
        "a pod's address is its own, whatever a name says"
    );
    let status = daemon.status().unwrap();
    assert_eq!(status["learning"]["unlearned"], 3, "{status:#}");
    assert_eq!(status["endpoints"][0]["open_addresses"], 0, "{status:#}");
    assert_eq!(daemon.end_with("TERM").unwrap(), Some(0));
    let flows = std::fs::read_to_string(log).unwrap();
    let told = flows.lines().find(|line| line.contains("unlearned: "));
    let told = told.unwrap_or_else(|| panic!("{flows}"));
    for address in ["10.0.0.3 in-cluster", "169.254.169.254 metadata"] {
        assert!(told.contains(address), "{told}");
    }
}

#[test]
fn no_name_opens_an_address_of_the_cluster() {
    let stage = Stage::new().unwrap();
    let mut daemon = stage.daemon(&policy("alice", WEB)).unwrap();
    let log = daemon.path("flows.jsonl");
    let file = log.display().to_string();
    let options = [
        "--cluster-cidr",
        "10.128.0.0/14,198.18.0.0/15",
        "--flow-log",
        &file,
    ];
    daemon.start(&options).unwrap();
    let world = IpAddr::V4(stage.world.v4);
    let answer = stage
        .alice
        .dig(world, &["+short", "web.example.com"])
        .unwrap();
    assert!(answer.contains("198.18.0.1"), "{answer}");
    let status = daemon.status().unwrap();
    assert_eq!(status["endpoints"][0]["open_addresses"], 0, "{status:#}");
    assert_eq!(daemon.end_with("TERM").unwrap(), Some(0));
    let flows = std::fs::read_to_string(log).unwrap();
    assert!(
        flows.contains("unlearned: 198.18.0.1 in-cluster"),
        "{flows}"
    );
}

/// Here the kernel has no time at all.
#[test]
fn an_answer_that_the_kernel_took_too_long_for_is_withheld_and_told() {
    let stage = Stage::new().unwrap();
    let mut daemon = stage.daemon(&policy("alice", WEB)).unwrap();
    daemon.start(&["--dns-install-wait", "0s"]).unwrap();
    let dns = IpAddr::V4(stage.world.v4);
    let answer = stage.alice.dig(dns, &["web.example.com"]).unwrap();
    assert!(answer.contains("status: SERVFAIL"), "{answer}");
    let faults = daemon.status().unwrap()["dns"]["dns_faults_total"].clone();
    assert_eq!(faults["install-timeout"], 1, "{faults}");
}

/// An emulated machine needs longer to install than an answer is held by default.
fn patient() -> &'static [&'static str] {
    match patience() {
        1 => &[],
        _ => &["--dns-install-wait", "4s"],
    }
}

/// Law 1: each of 10,000 fresh names and addresses is connected to as soon as its answer is there; the
/// kernel dropped nothing, and no workload had to send a SYN twice.
#[test]
fn no_first_syn_is_lost_after_ten_thousand_fresh_answers() {
    const COUNT: u32 = 10_000;
    const THREADS: u32 = 8;
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let names = Answers::names(&world.ns, 3_600).unwrap();
    let _sink = TcpSink::serve(&world.ns, 80).unwrap();
    let policy = policy("alice", "[{matchPattern: '*.example.com'}]");
    let mut daemon = Daemon::guarding(&node, &alice, &policy).unwrap();
    daemon.start(patient()).unwrap();
    let retransmitted = alice.kernel_count("Tcp", "RetransSegs").unwrap();
    let dropped = daemon.counter("policy-denied").unwrap();

    #[expect(clippy::disallowed_methods, reason = "a workload's own sockets")]
    let ask_and_connect = |first: u32| {
        alice.ns.run(|| {
            let socket = UdpSocket::bind((alice.v4, 0)).unwrap();
            socket.connect((world.v4, 53)).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(5) * patience()))
                .unwrap();
            let mut buffer = [0; 512];
            for index in first..first + COUNT / THREADS {
                socket.send(&query(index)).unwrap();
                let len = socket
                    .recv(&mut buffer)
                    .unwrap_or_else(|error| panic!("n{index}: {error}"));
                let address: [u8; 4] = buffer[len - 4..len].try_into().unwrap();
                assert_eq!(
                    u32::from_be_bytes(address),
                    u32::from_be_bytes([198, 18, 0, 0]) + index
                );
                let to = SocketAddr::new(IpAddr::from(address), 80);
                TcpStream::connect_timeout(&to, Duration::from_secs(5) * patience())
                    .unwrap_or_else(|error| panic!("{to}: {error}"));
            }
        })
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|number| scope.spawn(move || ask_and_connect(number * (COUNT / THREADS))))
            .collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap().unwrap());
    });

    let status = daemon.status().unwrap();
    assert_eq!(
        daemon.counter("policy-denied").unwrap(),
        dropped,
        "{status:#}"
    );
    assert_eq!(
        alice.kernel_count("Tcp", "RetransSegs").unwrap(),
        retransmitted,
        "a SYN was sent twice"
    );
    assert_eq!(status["learning"]["installed"], COUNT, "{status:#}");
    assert_eq!(
        names.asked.load(std::sync::atomic::Ordering::Relaxed),
        u64::from(COUNT)
    );
    // One selector, one label set: ten thousand addresses cost one identity. The others are those of
    // the two prefixes that the policy names.
    assert_eq!(status["learning"]["identities"], 3, "{status:#}");
    assert_eq!(status["endpoints"][0]["open_addresses"], COUNT);
}

/// A for `nI.example.com`.
fn query(index: u32) -> Vec<u8> {
    let label = format!("n{index}");
    let mut bytes = vec![
        (index >> 8) as u8,
        index as u8,
        1,
        0,
        0,
        1,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    bytes.push(label.len() as u8);
    bytes.extend(label.as_bytes());
    bytes.extend(b"\x07example\x03com\0\0\x01\0\x01");
    bytes
}

/// Law 2: what was denied never left, UDP and TCP; the capture is on the server's side.
#[test]
fn no_denied_query_reaches_the_server() {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let _knot = Running::knot(&world.ns, ZONE).unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    daemon.endpoint(&alice).unwrap();
    daemon.policy("alice.yaml", &policy("alice", WEB)).unwrap();
    daemon.start(&[]).unwrap();
    let (capture, file) = Running::capture(&world.ns, "port 53 and not host 127.0.0.1").unwrap();
    for server in [IpAddr::V4(world.v4), IpAddr::V6(world.v6)] {
        for tcp in ["+notcp", "+tcp"] {
            for name in [
                "x.evil.test",
                "example.com",
                "a.b.example.com",
                "web.example.com.evil.test",
                "secret\\.web.example.com.x",
            ] {
                let answer = alice.dig(server, &[tcp, name]).unwrap();
                assert!(
                    answer.contains("status: N"),
                    "{server} {tcp} {name}: {answer}"
                );
            }
            let answer = alice
                .dig(server, &[tcp, "version.bind", "CH", "TXT"])
                .unwrap();
            assert!(answer.contains("status: REFUSED"), "{answer}");
        }
        // Not one packet of a connection for nothing but denied queries.
        let text = world
            .check("tcpdump", &["-n", "-r", &file.display().to_string()])
            .unwrap();
        assert_eq!(text, "", "the server saw something");
    }
    // The capture is not blind: an allowed query is in it.
    alice
        .dig(IpAddr::V4(world.v4), &["web.example.com"])
        .unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let text = world
        .check("tcpdump", &["-n", "-r", &file.display().to_string()])
        .unwrap();
    drop(capture);
    assert!(text.contains("A? web.example.com."), "{text}");
    assert!(!text.contains("evil"), "{text}");
}

/// A server that policy names only as part of the world answers, and teaches nothing.
#[test]
fn an_untrusted_server_teaches_nothing() {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let _knot = Running::knot(&world.ns, ZONE).unwrap();
    let _web = TcpSink::serve(&world.ns, 80).unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    daemon.endpoint(&alice).unwrap();
    let anywhere = policy("alice", WEB).replace(
        "toCIDR: [203.0.113.2/32, '2001:db8::2/128']",
        "toEntities: [world]",
    );
    daemon.policy("alice.yaml", &anywhere).unwrap();
    daemon.start(&[]).unwrap();
    assert_eq!(
        alice
            .dig(IpAddr::V4(world.v4), &["+short", "web.example.com"])
            .unwrap(),
        "198.18.0.1\n"
    );
    assert!(!reaches(&alice, addr("198.18.0.1:80")));
    assert_eq!(daemon.status().unwrap()["learning"]["untrusted_server"], 1);
}
