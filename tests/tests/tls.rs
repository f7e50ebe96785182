//! TLS by name: a connection that names a server that policy allows goes on as it came, any other is
//! reset, and nothing of it reaches the server.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]

use std::io::{ErrorKind, Read, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};

use namegate_tests::{
    Daemon, Running, TcpSink, Web, Workload, about, about_alice, asked, observed, patience,
    read_head,
};

/// What curl says of `https://NAME/`, with this address for the name.
fn curl(from: &Workload, name: &str, server: IpAddr) -> Output {
    let server = match server {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    };
    let to = format!("{name}:443:{server}");
    let url = format!("https://{name}/");
    let args = ["-sSk", "-m", "5", "--resolve", &to, &url];
    from.output("curl", &args).unwrap()
}

/// What nginx said, where it said anything.
fn served(output: &Output) -> Option<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}

/// Curl's word for a handshake that the peer cut.
const CUT: Option<i32> = Some(35);

/// Whoever it is, on a port, by these names.
fn named(port: u16, names: &str) -> String {
    format!("{{toPorts: [{{ports: [{{port: '{port}', protocol: TCP}}], serverNames: [{names}]}}]}}")
}

fn refused(daemon: &Daemon<'_>, word: &str) -> u64 {
    let status = daemon.status().unwrap();
    status["http"]["http_refused_total"][word]
        .as_u64()
        .unwrap_or(0)
}

#[test]
fn an_allowed_name_goes_on_in_both_families_and_another_is_reset() {
    let web = Web::new().unwrap();
    let daemon = web.egress(&named(443, "ok.test, '*.ok.test'")).unwrap();
    let (world, bob) = (&web.world, &web.bob);
    for server in [world.v4.into(), IpAddr::from(world.v6), bob.v4.into()] {
        for name in ["ok.test", "OK.test", "a.ok.test"] {
            let output = curl(&web.alice, name, server);
            let text = served(&output).unwrap_or_else(|| panic!("{server} {name}: {output:?}"));
            assert!(text.ends_with(" /\n"), "{text}");
        }
        for name in ["evil.test", "ok.test.evil.test", "a.b.ok.test"] {
            let output = curl(&web.alice, name, server);
            assert_eq!(output.status.code(), CUT, "{server} {name}: {output:?}");
        }
    }
    assert_eq!(refused(&daemon, "sni-not-allowed"), 9);
    let told = observed(&daemon, &["--verdict", "DROPPED", "-o", "json"]).unwrap();
    assert!(told.contains("\"sni-not-allowed: evil.test\""), "{told}");
    assert!(
        told.contains("\"drop_reason_desc\":\"POLICY_DENIED\""),
        "{told}"
    );
    assert!(told.contains("\"destination_port\":443"), "{told}");
}

/// Another rule for the same peers and port, without names, opens no other name: theirs are joined.
#[test]
fn a_rule_without_names_beside_one_with_names_opens_none() {
    let web = Web::new().unwrap();
    let plain = "{toPorts: [{ports: [{port: '443', protocol: TCP}]}]}";
    let rules = [&*named(443, "ok.test"), plain].join(", ");
    let daemon = web.egress(&rules).unwrap();
    let world = IpAddr::from(web.world.v4);
    let output = curl(&web.alice, "ok.test", world);
    assert!(served(&output).is_some(), "{output:?}");
    let output = curl(&web.alice, "evil.test", world);
    assert_eq!(output.status.code(), CUT, "{output:?}");
    assert_eq!(refused(&daemon, "sni-not-allowed"), 1);
    let error = web.say(443, (b"SSH-2.0-x\r\n", b"")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    // One for other peers does.
    let others = [
        &*rules,
        "{toEntities: [world], toPorts: [{ports: [{port: '443', protocol: TCP}]}]}",
    ];
    let opened = about_alice(&others.join(", "));
    daemon.change_policy("alice.yaml", &opened).unwrap();
    let output = curl(&web.alice, "evil.test", world);
    assert!(served(&output).is_some(), "{output:?}");
}

#[test]
fn each_side_sees_the_others_address_and_the_server_the_clients_port() {
    let web = Web::new().unwrap();
    let _daemon = web.egress(&named(443, "ok.test")).unwrap();
    for (server, client) in [
        (IpAddr::from(web.bob.v4), "10.0.0.2"),
        (IpAddr::from(web.bob.v6), "fd00::2"),
    ] {
        let output = curl(&web.alice, "ok.test", server);
        let text = served(&output).unwrap_or_else(|| panic!("{output:?}"));
        let words: Vec<&str> = text.split(' ').collect();
        assert_eq!(
            (words[0], words[2]),
            (client, &*server.to_string()),
            "{text}"
        );
    }
    // To a server that is no neighbour the proxy takes the client's own port.
    let (capture, file) = Running::capture(&web.world.ns, "tcp[13] = 2 and dst port 443").unwrap();
    let to = SocketAddr::new(web.world.v4.into(), 443);
    let connect = || {
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(2) * patience()).unwrap();
        stream.local_addr().unwrap().port()
    };
    let port = web.alice.ns.run(connect).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let read = ["-n", "-r", &file.display().to_string()];
    let text = web.world.check("tcpdump", &read).unwrap();
    drop(capture);
    assert!(text.contains(&format!(".{port} > ")), "{port}: {text}");
}

/// A server that hears nothing before its client has spoken gets the last segment of the handshake with it.
#[test]
fn the_handshake_with_a_server_ends_with_the_clients_first_word() {
    let web = Web::new().unwrap();
    let _daemon = web.egress(&asked(8099, "{path: /ok}")).unwrap();
    let listening = (web.world.v4, 8099);
    #[expect(clippy::disallowed_methods, reason = "a server outside of the gate")]
    let bind = || TcpListener::bind(listening).unwrap();
    let server = web.world.ns.run(bind).unwrap();
    let heard = || {
        let mut client = web.connect(8099).unwrap();
        client
            .write_all(b"GET /ok HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        let (mut stream, from) = server.accept().unwrap();
        read_head(&mut stream);
        let it = format!("sport = :8099 and dport = :{}", from.port());
        let text = web.world.check("ss", &["-tinH", &it]).unwrap();
        let (_, count) = text.split_once("segs_in:").unwrap();
        let (count, _) = count.split_once(' ').unwrap();
        count.parse::<u32>().unwrap()
    };
    // With the SYN. The kernel waits for 200 ms, for which the node may rest, though not each time.
    let fewest = (0..5).map(|_| heard()).min();
    assert_eq!(fewest, Some(2));
}

#[test]
fn what_is_not_tls_is_reset_and_nothing_of_it_reaches_the_server() {
    let web = Web::new().unwrap();
    let daemon = web.egress(&named(8_080, "ok.test")).unwrap();
    let (capture, file) = Running::capture(&web.world.ns, "tcp dst port 8080").unwrap();
    for octets in [
        &b"GET / HTTP/1.1\r\nHost: ok.test\r\n\r\n"[..],
        b"SSH-2.0-x\r\n",
        b"\x80\x2e\x01\x03\x01",
        b"\x16\x03\x01\x00\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let error = web.say(8_080, (octets, b"")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{octets:?}");
    }
    std::thread::sleep(Duration::from_millis(200));
    let read = ["-n", "-r", &file.display().to_string()];
    let text = web.world.check("tcpdump", &read).unwrap();
    drop(capture);
    let filled: Vec<&str> = text
        .lines()
        .filter(|line| !line.contains("length 0"))
        .collect();
    assert!(filled.is_empty(), "{filled:?}");
    assert!(text.lines().count() >= 5, "connections were opened: {text}");
    assert_eq!(refused(&daemon, "malformed-client-hello"), 1);
}

#[test]
fn a_server_that_speaks_first_ends_at_once() {
    let web = Web::new().unwrap();
    let daemon = web.egress(&named(2_222, "ok.test")).unwrap();
    let _sink = TcpSink::serve(&web.world.ns, 2_222).unwrap();
    #[expect(clippy::disallowed_methods, reason = "how long a client waits")]
    let begin = Instant::now();
    let error = web.say(2_222, (b"", b"")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(begin.elapsed() < Duration::from_secs(2), "it waited");
    assert_eq!(refused(&daemon, "server-speaks-first"), 1);
}

#[test]
fn a_server_that_refuses_is_a_reset_and_other_ports_are_untouched() {
    let web = Web::new().unwrap();
    let plain = "{toPorts: [{ports: [{port: '80', protocol: TCP}]}]}";
    let daemon = web
        .egress(&format!("{}, {plain}", named(4_443, "ok.test")))
        .unwrap();
    let error = web.say(4_443, (b"\x16", b"")).unwrap_err();
    assert!(
        matches!(
            error.kind(),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
        ),
        "{error}"
    );
    let before = daemon.counter("redirected").unwrap();
    let heard = web.say(80, (b"GET / HTTP/1.0\r\n\r\n", b"")).unwrap();
    assert!(heard.starts_with(b"HTTP/1.1 200"));
    assert_eq!(
        daemon.counter("redirected").unwrap(),
        before,
        "not by the gate"
    );
    assert_eq!(
        web.say(81, (b"x", b"")).unwrap_err().kind(),
        ErrorKind::TimedOut,
        "denied"
    );
}

#[test]
fn a_tunnel_that_policy_allows_no_longer_is_cut_within_a_second() {
    let web = Web::new().unwrap();
    let daemon = web.egress(&named(443, "ok.test")).unwrap();
    let change = |rules: &str| {
        daemon
            .change_policy("alice.yaml", &about_alice(rules))
            .unwrap()
    };
    let mut held = Held::open(&web, "ok.test");
    change(&named(443, "ok.test, other.test"));
    assert!(!held.ends_within(Duration::from_secs(1)), "still allowed");
    change(&named(443, "other.test"));
    assert!(
        held.ends_within(Duration::from_secs(1) * patience()),
        "another name"
    );
    let mut held = Held::open(&web, "other.test");
    change("{}");
    assert!(
        held.ends_within(Duration::from_secs(1) * patience()),
        "nothing at all"
    );
}

#[test]
fn the_end_of_a_tunnel_is_told_once_with_what_went_through_it() {
    let web = Web::new().unwrap();
    let daemon = web.egress(&named(443, "ok.test")).unwrap();
    let told = || {
        // Of other connections there are traces too.
        let json = observed(&daemon, &["-o", "json"]).unwrap();
        let ends = json.lines().filter(|line| line.contains("octets up"));
        ends.map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(served(&curl(&web.alice, "ok.test", web.world.v4.into())).is_some());
    let ends = told();
    assert_eq!(ends.len(), 1, "{ends:?}");
    let flow: serde_json::Value = serde_json::from_str(&ends[0]).unwrap();
    let flow = &flow["flow"];
    assert_eq!(flow["verdict"], "FORWARDED");
    assert_eq!(flow["trace_observation_point"], "FROM_PROXY");
    assert_eq!(flow["l4"]["TCP"]["destination_port"], 443);
    assert_eq!(flow["egress_allowed_by"][0]["name"], "alice");
    let log: Vec<&str> = flow["policy_log"]
        .as_array()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap())
        .collect();
    assert_eq!(
        (log[0], log[3]),
        ("tunnel-closed", "server name ok.test"),
        "{log:?}"
    );
    let counts: Vec<u64> = log[1]
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect();
    assert!(
        counts[0] > 500 && counts[1] > 500,
        "both handshakes: {log:?}"
    );
    let line = observed(&daemon, &["--type", "trace:from-proxy"]).unwrap();
    assert!(
        line.contains("-> 203.0.113.2:443 (world-ipv4) from-proxy FORWARDED (TCP"),
        "{line}"
    );
    let mut held = Held::open(&web, "ok.test");
    daemon
        .change_policy("alice.yaml", &about_alice(&named(443, "other.test")))
        .unwrap();
    assert!(held.ends_within(Duration::from_secs(1)));
    let ends = told();
    assert_eq!(ends.len(), 2, "{ends:?}");
    assert!(ends.concat().contains("\"policy-changed\""), "{ends:?}");
}

/// A TLS connection of alice's to the world that stays open.
struct Held {
    child: Child,
    _input: ChildStdin,
}

impl Held {
    fn open(web: &Web, name: &str) -> Self {
        let to = format!("{}:443", web.world.v4);
        let spawn = || {
            Command::new("openssl")
                .args(["s_client", "-connect", &to, "-servername", name])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
        };
        let mut child = web.alice.ns.run(spawn).unwrap().unwrap();
        let output = child.stdout.as_mut().unwrap();
        let (mut text, mut octet) = (Vec::new(), [0]);
        // It says so once the handshake is over.
        while !text.ends_with(b"Verify return code") {
            assert_eq!(output.read(&mut octet).unwrap(), 1, "{name}: no handshake");
            text.extend(octet);
        }
        let _input = child.stdin.take().unwrap();
        Self { child, _input }
    }

    fn ends_within(&mut self, time: Duration) -> bool {
        for _ in 0..time.as_millis() / 20 {
            if self.child.try_wait().unwrap().is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The mirror image: what others send to bob is judged by bob's ingress rules.
#[test]
fn inbound_names_are_judged_in_both_families_and_the_server_sees_its_client() {
    let web = Web::new().unwrap();
    let spec =
        "ingress: [{toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: [ok.test]}]}]";
    let daemon = web.daemon(&[("bob.yaml", about("bob", spec))]).unwrap();
    for (server, client) in [
        (IpAddr::from(web.bob.v4), "10.0.0.2"),
        (IpAddr::from(web.bob.v6), "fd00::2"),
    ] {
        for _ in 0..3 {
            let output = curl(&web.alice, "ok.test", server);
            let text = served(&output).unwrap_or_else(|| panic!("{output:?}"));
            assert!(text.starts_with(&format!("{client} ")), "{text}");
        }
        let output = curl(&web.alice, "evil.test", server);
        assert_eq!(output.status.code(), CUT, "{output:?}");
        let output = curl(&web.bob, "evil.test", server);
        assert!(
            served(&output).is_some(),
            "its own loopback is its own affair"
        );
    }
    assert_eq!(refused(&daemon, "sni-not-allowed"), 2);
    let told = observed(&daemon, &["--verdict", "DROPPED", "-o", "json"]).unwrap();
    assert!(told.contains("\"traffic_direction\":\"INGRESS\""), "{told}");
}

/// Alice's egress and bob's ingress rules: both proxies' connections meet in one gate.
#[test]
fn both_sides_of_a_connection_may_be_judged() {
    let web = Web::new().unwrap();
    let inbound = "ingress: [{toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: [ok.test, bob.test]}]}]";
    let daemon = web
        .daemon(&[
            (
                "alice.yaml",
                about_alice(&named(443, "ok.test, alice.test")),
            ),
            ("bob.yaml", about("bob", inbound)),
        ])
        .unwrap();
    for server in [IpAddr::from(web.bob.v4), web.bob.v6.into()] {
        for _ in 0..5 {
            let output = curl(&web.alice, "ok.test", server);
            assert!(served(&output).is_some(), "{server}: {output:?}");
        }
        for name in ["alice.test", "bob.test"] {
            let output = curl(&web.alice, name, server);
            assert_eq!(output.status.code(), CUT, "{server} {name}: {output:?}");
        }
    }
    assert_eq!(refused(&daemon, "sni-not-allowed"), 4);
}

/// Through a virtual address whose port is another than the backend's.
#[test]
fn inbound_through_a_virtual_address_the_backends_port_is_judged() {
    let web = Web::new().unwrap();
    web.node
        .nft(
            "table ip services {
               chain pre {
                 type nat hook prerouting priority -100;
                 ip daddr 10.96.0.20 tcp dport 9443 dnat to 10.0.0.3:443
               }
             }",
        )
        .unwrap();
    let spec =
        "ingress: [{toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: [ok.test]}]}]";
    let daemon = web.daemon(&[("bob.yaml", about("bob", spec))]).unwrap();
    let ask = |name: &str| {
        let to = format!("{name}:9443:10.96.0.20");
        let url = format!("https://{name}:9443/");
        let args = ["-sSk", "-m", "5", "--resolve", &to, &url];
        web.world.output("curl", &args).unwrap()
    };
    web.world
        .check(
            "ip",
            &["route", "replace", "10.96.0.0/16", "via", "203.0.113.1"],
        )
        .unwrap();
    let output = ask("ok.test");
    let text = served(&output).unwrap_or_else(|| panic!("{output:?}"));
    assert!(
        text.starts_with("203.0.113.2 "),
        "the client's own address: {text}"
    );
    let output = ask("evil.test");
    assert_eq!(output.status.code(), CUT, "{output:?}");
    assert_eq!(refused(&daemon, "sni-not-allowed"), 1);
}

#[test]
fn without_a_daemon_redirected_ports_are_closed_and_the_next_one_takes_over() {
    let web = Web::new().unwrap();
    let plain = "{toPorts: [{ports: [{port: '80', protocol: TCP}]}]}";
    let mut daemon = web
        .egress(&format!("{}, {plain}", named(443, "ok.test")))
        .unwrap();
    let server = IpAddr::from(web.world.v4);
    assert!(served(&curl(&web.alice, "ok.test", server)).is_some());
    let mut held = Held::open(&web, "ok.test");
    daemon.end_with("KILL").unwrap();
    assert!(
        served(&curl(&web.alice, "ok.test", server)).is_none(),
        "closed"
    );
    assert!(
        held.ends_within(Duration::from_secs(2) * patience()),
        "its proxy is gone"
    );
    let heard = web.say(80, (b"GET / HTTP/1.0\r\n\r\n", b"")).unwrap();
    assert!(
        heard.starts_with(b"HTTP/1.1 200"),
        "what isn't redirected goes on"
    );
    daemon.start(&[]).unwrap();
    assert!(served(&curl(&web.alice, "ok.test", server)).is_some());
    assert_eq!(curl(&web.alice, "evil.test", server).status.code(), CUT);
}

#[test]
fn an_answer_of_many_octets_comes_whole_through_a_narrow_way() {
    let web = Web::new().unwrap();
    let _daemon = web.egress(&named(443, "ok.test")).unwrap();
    web.node
        .check("ip", &["link", "set", "uplink", "mtu", "1300"])
        .unwrap();
    let to = format!("ok.test:443:{}", web.world.v4);
    let url = "https://ok.test/big";
    let args = [
        "-sSk",
        "-m",
        "30",
        "-o",
        "/dev/null",
        "-w",
        "%{size_download}",
        "--resolve",
        &to,
        url,
    ];
    let output = web.alice.check("curl", &args).unwrap();
    assert_eq!(output, namegate_tests::BIG_OCTETS.to_string());
}
