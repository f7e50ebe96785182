//! What of a query leaves the node, and what is answered here: scrubbed queries, record types, names that
//! lead to encrypted DNS, and patterns that are used as a tunnel.

#![expect(clippy::unwrap_used, reason = "a test may die")]
#![expect(clippy::disallowed_methods, reason = "a workload's own sockets")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use namegate_tests::{Daemon, Node, Running, WWW, Workload, patience, seen_by, wait_for};

/// `client` may ask `dns` for these names, as the inside of a list.
fn names(names: &str) -> String {
    format!(
        "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: names}}
spec:
  endpointSelector: {{matchLabels: {{app: client}}}}
  egress:
  - toEndpoints:
    - matchLabels: {{app: dns}}
    toPorts:
    - ports: [{{port: '53', protocol: ANY}}]
      rules: {{dns: [{names}]}}
"
    )
}

/// A workload that asks and one that answers.
struct Pair {
    node: Node,
    client: Workload,
    dns: Workload,
}

impl Pair {
    fn new() -> Self {
        let node = Node::new().unwrap();
        let client = node.workload("client", 2).unwrap();
        let dns = node.workload("dns", 3).unwrap();
        Self { node, client, dns }
    }

    fn daemon(&self, policy: &str, options: &[&str]) -> Daemon<'_> {
        let mut daemon = Daemon::prepare(&self.node).unwrap();
        daemon.endpoint(&self.client).unwrap();
        daemon.endpoint(&self.dns).unwrap();
        daemon.policy("names.yaml", policy).unwrap();
        daemon.start(options).unwrap();
        daemon
    }

    fn dig(&self, words: &[&str]) -> String {
        self.client.dig(IpAddr::V4(self.dns.v4), words).unwrap()
    }
}

fn socket(at: &Workload, port: u16) -> UdpSocket {
    let socket = at.ns.run(|| UdpSocket::bind((at.v4, port)).unwrap());
    let socket = socket.unwrap();
    let patience = Duration::from_secs(5 * u64::from(patience()));
    socket.set_read_timeout(Some(patience)).unwrap();
    socket
}

/// A query by hand: flags, the name as it is written, and the OPT's size, DO and options.
fn query(id: u16, flags: u16, name: &[u8], (size, edns, options): (u16, u16, &[u8])) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [id, flags, 1, 0, 0, 1] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend(name);
    bytes.extend([0, 1, 0, 1, 0, 0, 41]);
    bytes.extend(size.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(edns.to_be_bytes());
    bytes.extend(u16::try_from(options.len()).unwrap().to_be_bytes());
    bytes.extend(options);
    bytes
}

#[test]
fn of_a_scrubbed_query_only_name_type_and_flags_reach_the_server() {
    const RD: u16 = 0x0100;
    const AD_Z: u16 = 0x0060;
    const DO: u16 = 0x8000;
    let plain: &[u8] = b"\x03www\x07example\x03com\0";
    let mixed: &[u8] = b"\x03wWw\x07eXaMpLe\x03COM\0";
    // A cookie (RFC 7873), padding, and an option that nobody knows.
    let options: &[u8] = b"\0\x0a\0\x08SECRETS!\0\x0c\0\x04\0\0\0\0\xfd\xe9\0\x03abc";
    let pair = Pair::new();
    let server = socket(&pair.dns, 53);
    let client = socket(&pair.client, 0);
    let to: SocketAddr = (pair.dns.v4, 53).into();
    let ask = |bytes: &[u8]| {
        client.send_to(bytes, to).unwrap();
        let mut seen = [0; 1_500];
        let (count, from) = server.recv_from(&mut seen).unwrap();
        let seen = seen[..count].to_vec();
        // The answer repeats the question as the server got it.
        let mut answer = seen.clone();
        answer[2] |= 0x80;
        server.send_to(&answer, from).unwrap();
        let mut got = [0; 1_500];
        let count = client.recv(&mut got).unwrap();
        (seen, got[..count].to_vec())
    };
    let quiet = query(7, RD, plain, (1_232, DO, b""));
    let loud = query(0x4242, RD | AD_Z, mixed, (4_096, DO | 0x1234, options));

    let policy = names("{matchName: www.example.com}");
    let mut daemon = pair.daemon(&policy, &["--dns-scrub"]);
    let (first, _) = ask(&quiet);
    let (second, answer) = ask(&loud);
    assert_eq!(first[2..], second[2..]);
    assert_eq!(
        first[2..],
        quiet[2..],
        "the query that has nothing to scrub stays as it is"
    );
    // The client's own id and letters come back.
    assert_eq!(answer[..2], loud[..2]);
    assert_eq!(answer[12..12 + mixed.len()], *mixed);
    assert_eq!(daemon.end_with("TERM").unwrap(), Some(0));
    assert!(daemon.namegate(&["detach"]).unwrap().status.success());
    drop(daemon);

    // Without the option all of it leaves, but for the size.
    let _daemon = pair.daemon(&policy, &[]);
    let (seen, _) = ask(&loud);
    assert_eq!(seen[2..12 + mixed.len()], loud[2..12 + mixed.len()]);
    assert!(seen.ends_with(options));
}

#[test]
fn a_type_that_is_not_allowed_has_no_data_and_leaves_the_other_types() {
    let pair = Pair::new();
    let _knot = Running::knot(&pair.dns.ns, &format!("{WWW}www 60 IN TXT secret\n")).unwrap();
    let policy = names("{matchName: www.example.com, types: [A]}, {matchName: ns.example.com}");
    let _daemon = pair.daemon(&policy, &["--dns-no-aaaa"]);
    let seen = seen_by(&pair.dns, "dst port 53 and not src host 127.0.0.1", || {
        assert_eq!(
            pair.dig(&["+short", "www.example.com", "A"]),
            "198.18.0.1\n"
        );
        for (name, kind) in [("www", "TXT"), ("www", "AAAA"), ("ns", "AAAA")] {
            let answer = pair.dig(&[&format!("{name}.example.com"), kind]);
            assert!(answer.contains("status: NOERROR"), "{answer}");
            assert!(answer.contains("ANSWER: 0, AUTHORITY: 0"), "{answer}");
            assert!(answer.contains("EDE: 17 (Filtered)"), "{answer}");
        }
        assert_eq!(pair.dig(&["+short", "ns.example.com", "A"]), "192.0.2.53\n");
        // A name that may not be asked doesn't exist, for either kind of address.
        let denied = pair.dig(&["other.example.com", "AAAA"]);
        assert!(denied.contains("status: NXDOMAIN"), "{denied}");
        Ok(())
    })
    .unwrap();
    assert!(!seen.contains("TXT?") && !seen.contains("AAAA?"), "{seen}");
}

#[test]
fn names_of_encrypted_dns_are_answered_here_and_its_port_is_closed() {
    let pair = Pair::new();
    let _knot = Running::knot(&pair.dns.ns, WWW).unwrap();
    let open = names("{matchPattern: '*'}").replace("egress:", "egress:\n  - toEntities: [all]");
    for (how, blocks) in [("block", true), ("report", false)] {
        let mut daemon = pair.daemon(&open, &["--encrypted-dns", how]);
        let seen = seen_by(&pair.dns, "dst port 53 or dst port 853", || {
            let found = pair.dig(&["_dns.resolver.arpa", "SVCB"]);
            assert!(
                found.contains("status: NOERROR") && found.contains("ANSWER: 0"),
                "{found}"
            );
            for name in [
                "use-application-dns.net",
                "mask.icloud.com",
                "dns.google",
                "x.dns.google",
            ] {
                let answer = pair.dig(&[name, "A"]);
                assert_eq!(
                    answer.contains("EDE: 17 (Filtered)"),
                    blocks,
                    "{how} {name} {answer}"
                );
                assert_eq!(
                    answer.contains("status: NXDOMAIN"),
                    blocks,
                    "{how} {name} {answer}"
                );
            }
            for words in [["-p", "853", "+notcp"], ["-p", "853", "+tcp"]] {
                pair.dig(&[&words[..], &["www.example.com"]].concat());
            }
            Ok(())
        })
        .unwrap();
        // A resolver's address, at the port of DNS over HTTPS and at another one.
        let denied = || daemon.counter("policy-deny").unwrap();
        let before = denied();
        let send = |port: u16, count: usize| {
            let socket = socket(&pair.client, 0);
            for _ in 0..count {
                let to = SocketAddr::new("9.9.9.9".parse().unwrap(), port);
                pair.client
                    .ns
                    .run(|| socket.send_to(b"x", to))
                    .unwrap()
                    .unwrap();
            }
        };
        send(443, 3);
        send(444, 5);
        assert_eq!(denied() - before, if blocks { 3 } else { 0 }, "{how}");
        assert!(!seen.contains("resolver.arpa"), "{seen}");
        assert_eq!(seen.contains("dns.google"), !blocks, "{seen}");
        assert_eq!(seen.contains(".853:"), !blocks, "{seen}");
        let remarks = &daemon.status().unwrap()["dns"]["dns_remarks_total"];
        assert_eq!(remarks["canary"], 2, "{remarks}");
        assert_eq!(remarks["encrypted-resolver"], 2, "{remarks}");
        assert_eq!(remarks["resolver-discovery"], 1, "{remarks}");
        assert_eq!(daemon.end_with("TERM").unwrap(), Some(0));
        assert!(daemon.namegate(&["detach"]).unwrap().status.success());
    }
}

#[test]
fn another_list_of_resolvers_takes_the_place_of_ours() {
    let pair = Pair::new();
    let _knot = Running::knot(&pair.dns.ns, WWW).unwrap();
    let open = names("{matchPattern: '*'}").replace("egress:", "egress:\n  - toEntities: [all]");
    let file = std::env::temp_dir().join(format!("namegate-resolvers-{}", std::process::id()));
    std::fs::write(&file, "# ours\ndoh.example\n192.0.2.99\n").unwrap();
    let path = file.to_str().unwrap();
    let flags = [
        "--encrypted-dns",
        "block",
        "--encrypted-dns-resolvers",
        path,
    ];
    let daemon = pair.daemon(&open, &flags);
    let is_blocked = |name: &str| pair.dig(&[name, "A"]).contains("EDE: 17 (Filtered)");
    let blocked = |all: [&str; 3]| all.map(is_blocked);
    let all = ["a.doh.example", "dns.google", "other.example"];
    assert_eq!(blocked(all), [true, false, false]);
    let send = |to: &str| {
        let before = daemon.counter("policy-deny").unwrap();
        let socket = socket(&pair.client, 0);
        let to = SocketAddr::new(to.parse().unwrap(), 443);
        let sent = pair.client.ns.run(|| socket.send_to(b"x", to)).unwrap();
        sent.unwrap();
        daemon.counter("policy-deny").unwrap() - before
    };
    assert_eq!((send("192.0.2.99"), send("9.9.9.9")), (1, 0));

    // Read again it says something else; one that is wrong changes nothing, and is said.
    std::fs::write(&file, "other.example\n9.9.9.9\n").unwrap();
    daemon.signal("HUP").unwrap();
    wait_for("another list", || blocked(all) == [false, false, true]);
    wait_for("another address", || send("9.9.9.9") == 1);
    assert_eq!(send("192.0.2.99"), 0);
    std::fs::write(&file, "other.example\n10.0.0.0/33\n").unwrap();
    daemon.signal("HUP").unwrap();
    wait_for("a problem", || {
        daemon.status().unwrap()["config"]["problems"]
            .to_string()
            .contains(":2: ")
    });
    assert_eq!(blocked(all), [false, false, true]);
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn the_key_that_hides_names_of_tls_is_taken_out_or_its_record_is_not_there() {
    let pair = Pair::new();
    let service = "1 . alpn=h2 ech=AAAA ipv4hint=198.18.0.1";
    let zone = format!("{WWW}www 60 IN HTTPS {service}\nwww 60 IN SVCB {service}\n");
    let _knot = Running::knot(&pair.dns.ns, &zone).unwrap();
    let policy = names("{matchPattern: '*.example.com'}");
    for (how, ech, record) in [
        ("pass", true, true),
        ("no-ech", false, true),
        ("nodata", false, false),
    ] {
        let mut daemon = pair.daemon(&policy, &["--dns-https", how]);
        for (way, kind) in [
            ("+notcp", "HTTPS"),
            ("+tcp", "HTTPS"),
            ("+notcp", "SVCB"),
            ("+tcp", "SVCB"),
        ] {
            let answer = pair.dig(&[way, "www.example.com", kind]);
            assert!(answer.contains("status: NOERROR"), "{how} {answer}");
            assert_eq!(answer.contains("ech=AAAA"), ech, "{how} {answer}");
            assert_eq!(answer.contains("ipv4hint=198.18.0.1"), record, "{answer}");
            assert_eq!(answer.contains("EDE: 17 (Filtered)"), !record, "{answer}");
        }
        let counted = &daemon.status().unwrap()["dns"];
        let count = |family: &str, word: &str| counted[family][word].as_u64().unwrap_or(0);
        let removed = count("dns_quirks_total", "ech-removed");
        assert_eq!(removed, if record && !ech { 4 } else { 0 }, "{how}");
        let answered = count("dns_remarks_total", "no-https");
        assert_eq!(answered, if record { 0 } else { 4 }, "{how}");
        assert_eq!(daemon.end_with("TERM").unwrap(), Some(0));
        assert!(daemon.namegate(&["detach"]).unwrap().status.success());
    }
}

#[test]
fn many_names_under_a_pattern_are_told_and_closed_where_that_is_wanted() {
    let pair = Pair::new();
    let server = socket(&pair.dns, 53);
    let client = socket(&pair.client, 0);
    let policy = names("{matchPattern: '*.example.com'}");
    let mut daemon = Daemon::prepare(&pair.node).unwrap();
    daemon.endpoint(&pair.client).unwrap();
    daemon.endpoint(&pair.dns).unwrap();
    daemon.policy("names.yaml", &policy).unwrap();
    let log = daemon.path("flows.jsonl");
    let file = log.display().to_string();
    daemon
        .start(&["--dns-tunnels", "enforce", "--flow-log", &file])
        .unwrap();
    let ask = |name: &str| {
        let length = u8::try_from(name.len()).unwrap();
        let wire = [&[length], name.as_bytes(), b"\x07example\x03com\0"].concat();
        client
            .send_to(&query(9, 0x0100, &wire, (1_232, 0, b"")), (pair.dns.v4, 53))
            .unwrap();
    };
    let answered = || {
        let mut bytes = [0; 1_500];
        let (count, from) = server.recv_from(&mut bytes).unwrap();
        bytes[2] |= 0x80;
        server.send_to(&bytes[..count], from).unwrap();
        client.recv(&mut bytes).unwrap();
        bytes[3] & 0x0f
    };
    for n in 0..=300 {
        ask(&format!("n{n}"));
        assert_eq!(answered(), 0, "{n}");
    }
    // Known names go on, new ones end here.
    ask("n300");
    assert_eq!(answered(), 0);
    ask("more");
    let mut bytes = [0; 1_500];
    client.recv(&mut bytes).unwrap();
    assert_eq!(bytes[3] & 0x0f, 3);
    server.set_nonblocking(true).unwrap();
    assert!(
        server.recv_from(&mut bytes).is_err(),
        "a name left the node"
    );
    let status = daemon.status().unwrap();
    assert_eq!(
        status["dns"]["dns_quirks_total"]["tunnel-suspected"], 1,
        "{status}"
    );
    assert_eq!(daemon.end_with("TERM").unwrap(), Some(0));
    let flows = std::fs::read_to_string(log).unwrap();
    // The one that was too many, and the one that was denied.
    let told = flows
        .lines()
        .filter(|line| line.contains("dns-tunnel-suspected"));
    assert_eq!(
        told.count(),
        3,
        "a request, its response, and a denied request"
    );
}

#[test]
fn most_names_of_a_pattern_that_do_not_exist_are_told() {
    let pair = Pair::new();
    let _knot = Running::knot(&pair.dns.ns, WWW).unwrap();
    let daemon = pair.daemon(&names("{matchPattern: '*.example.com'}"), &[]);
    let suspected = || {
        let status = daemon.status().unwrap();
        let counted = &status["dns"]["dns_quirks_total"]["tunnel-suspected"];
        counted.as_u64().unwrap_or(0)
    };
    // That a name doesn't exist is noted a moment after its answer.
    let asked = (0..200).take_while(|n| {
        let answer = pair.dig(&[&format!("none{n}.example.com"), "A"]);
        assert!(answer.contains("status: NXDOMAIN"), "{answer}");
        suspected() == 0
    });
    let asked = asked.count();
    assert!((50..199).contains(&asked), "{asked}");
    assert_eq!(suspected(), 1);
}

/// Names of addresses carry up to 128 bits each: they are names like any other.
#[test]
fn names_of_addresses_are_denied_as_any_name_is() {
    let pair = Pair::new();
    let server = socket(&pair.dns, 53);
    let _daemon = pair.daemon(&names("{matchPattern: '*.example.com'}"), &[]);
    for address in ["198.18.0.1", "2001:db8::1"] {
        for way in ["+notcp", "+tcp"] {
            let answer = pair.dig(&[way, "-x", address]);
            assert!(answer.contains("status: NXDOMAIN"), "{answer}");
            assert!(answer.contains("ANSWER: 0, AUTHORITY: 0"), "{answer}");
        }
    }
    server.set_nonblocking(true).unwrap();
    assert!(server.recv_from(&mut [0; 512]).is_err(), "nothing left");
}

/// Names that neighbours are asked for, by multicast or broadcast, are no DNS and end at default deny.
#[test]
fn neighbours_are_not_asked_for_names() {
    let pair = Pair::new();
    let daemon = pair.daemon(&names("{matchPattern: '*'}"), &[]);
    let denied = || daemon.counter("policy-denied").unwrap();
    let asked = query(7, 0x0100, b"\x04host\x05local\0", (1_232, 0, b""));
    let filter = "udp port 5353 or udp port 5355 or udp port 137";
    let seen = seen_by(&pair.dns, filter, || {
        let broadcast = SocketAddr::from(([255, 255, 255, 255], 137));
        for (to, what) in [
            (SocketAddr::from(([224, 0, 0, 251], 5353)), "mDNS"),
            (SocketAddr::from(([224, 0, 0, 252], 5355)), "LLMNR"),
            (broadcast, "NBNS"),
            (SocketAddr::from((pair.dns.v4, 137)), "NBNS to one"),
            (SocketAddr::from((pair.dns.v4, 5353)), "mDNS to one"),
        ] {
            let before = denied();
            let socket = socket(&pair.client, 0);
            socket.set_broadcast(true).unwrap();
            let send = || socket.send_to(&asked, to).unwrap();
            pair.client.ns.run(send).unwrap();
            let began = std::time::Instant::now();
            while denied() == before {
                let waited = began.elapsed();
                assert!(waited < Duration::from_secs(20), "{what} wasn't denied");
            }
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, "", "none arrived");
}
