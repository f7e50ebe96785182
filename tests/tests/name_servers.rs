//! Real programs at both ends: name servers of four houses behind the gate, and a resolver and a load
//! generator in front of it.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use namegate_tests::{Daemon, Node, Running, TcpEcho, Workload, in_ns, patience, policy};

/// Longer than an answer over UDP may be.
fn big() -> String {
    let strings =
        (b'a'..b'k').map(|letter| format!("\"{}\"", char::from(letter).to_string().repeat(200)));
    strings.collect::<Vec<_>>().join(" ")
}

/// What each of them knows, as records.
fn records() -> Vec<String> {
    let big = big();
    [
        "ns 60 IN A 192.0.2.53",
        "www 60 IN A 198.18.0.1",
        "www 60 IN AAAA 2001:db8:1::1",
        "alias 60 IN CNAME www",
        &format!("big 60 IN TXT {big}"),
    ]
    .map(str::to_owned)
    .into()
}

fn knot(world: &Workload) -> Running {
    let zone = records().join("\n").replace("ns 60 IN A 192.0.2.53\n", "");
    Running::knot(&world.ns, &format!("{zone}\n")).unwrap()
}

fn nsd(world: &Workload) -> Running {
    // One file for both: a zone's comments are of `;`, so the zone stands in a file that the shell makes.
    let soa = "$ORIGIN example.com.\n@ 60 IN SOA ns hostmaster 1 60 60 60 60\n@ 60 IN NS ns\n";
    let zone = format!("{soa}{}\n", records().join("\n"));
    let script = format!(
        "cat > AT/nsd.conf <<'END'\nserver:\n ip-address: 0.0.0.0\n ip-address: ::0\n username: \"\"\n chroot: \"\"\n \
         zonesdir: \"AT\"\n pidfile: \"AT/pid\"\n database: \"\"\n xfrdfile: \"AT/xfrd\"\n zonelistfile: \"AT/list\"\n \
         xfrdir: \"AT\"\nremote-control:\n control-enable: no\nzone:\n name: example.com\n zonefile: zone\nEND\n\
         cat > AT/zone <<'END'\n{zone}END\nexec nsd -d -c AT/nsd.conf\n"
    );
    Running::name_server(&world.ns, &["sh", "AT/conf"], &script).unwrap()
}

fn unbound(world: &Workload) -> Running {
    let absolute = |record: String| {
        let (owner, rest) = record.split_once(' ').unwrap();
        let rest = rest.replace("CNAME www", "CNAME www.example.com.");
        format!(" local-data: '{owner}.example.com. {rest}'\n")
    };
    let data: String = records().into_iter().map(absolute).collect();
    let conf = format!(
        "server:\n interface: 0.0.0.0\n interface: ::0\n access-control: 0.0.0.0/0 allow\n access-control: ::/0 allow\n \
         username: ''\n chroot: ''\n pidfile: ''\n use-syslog: no\n do-daemonize: no\n module-config: 'iterator'\n \
         local-zone: example.com. static\n{data}remote-control:\n control-enable: no\n"
    );
    Running::name_server(&world.ns, &["unbound", "-d", "-c", "AT/conf"], &conf).unwrap()
}

fn dnsmasq(world: &Workload) -> Running {
    // A line of its file has a thousand octets at most.
    let long = big().replace('"', "");
    let long = long
        .split(' ')
        .map(|text| format!("txt-record=big.example.com,{text}\n"));
    let long: String = long.collect();
    let conf = format!(
        "no-resolv\nno-hosts\nuser=root\npid-file=AT/pid\nlocal=/example.com/\nlocal-ttl=60\n\
         host-record=ns.example.com,192.0.2.53\nhost-record=www.example.com,198.18.0.1,2001:db8:1::1\n\
         cname=alias.example.com,www.example.com\n{long}"
    );
    Running::name_server(&world.ns, &["dnsmasq", "-k", "-C", "AT/conf"], &conf).unwrap()
}

fn daemon<'a>(node: &'a Node, alice: &Workload) -> Daemon<'a> {
    let mut daemon = Daemon::prepare(node).unwrap();
    daemon.endpoint(alice).unwrap();
    let names = "[{matchPattern: '*.example.com'}]";
    daemon
        .policy("alice.yaml", &policy("alice", names))
        .unwrap();
    // No SERVFAIL because a machine is busy.
    daemon.start(&["--dns-install-wait", "4s"]).unwrap();
    daemon
}

fn reaches(from: &Workload, to: &str) -> bool {
    let to: SocketAddr = to.parse().unwrap();
    let connect =
        || TcpStream::connect_timeout(&to, Duration::from_millis(700) * patience()).is_ok();
    from.ns.run(connect).unwrap()
}

/// Asks it by both protocols, as dig and kdig do; what it says opens.
fn check(program: &str, serve: fn(&Workload) -> Running) {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let _running = serve(&world);
    let _echo = TcpEcho::serve(&world.ns, 80).unwrap();
    let daemon = daemon(&node, &alice);
    assert!(!reaches(&alice, "198.18.0.1:80"), "{program}");
    let server = format!("@{}", world.v4);
    for asking in ["dig", "kdig"] {
        let ask = |words: &[&str]| {
            let mut command = Command::new(asking);
            let output = in_ns(&alice.ns, command.arg(&server).args(words)).unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        for way in ["+notcp", "+tcp"] {
            let of = |name: &str, kind: &str| ask(&[way, "+short", name, kind]);
            assert_eq!(
                of("www.example.com", "A"),
                "198.18.0.1\n",
                "{program} {way}"
            );
            assert_eq!(
                of("www.example.com", "AAAA"),
                "2001:db8:1::1\n",
                "{program}"
            );
            let chain = ask(&[way, "alias.example.com", "A"]);
            assert!(chain.contains("CNAME"), "{program} {way} {chain}");
            let none = ask(&[way, "none.example.com", "A"]);
            assert!(none.contains("status: NXDOMAIN"), "{program} {none}");
            let denied = ask(&[way, "www.evil.test", "A"]);
            assert!(denied.contains("status: NXDOMAIN"), "{program} {denied}");
        }
        // Cut over UDP, and asked again over TCP.
        let long = ask(&["+short", "big.example.com", "TXT"]);
        assert!(long.contains(&"j".repeat(200)), "{program} {long}");
        let cut = ask(&["+ignore", "+notcp", "big.example.com", "TXT"]);
        assert!(cut.to_lowercase().contains(" tc"), "{program} {cut}");
    }
    assert!(reaches(&alice, "198.18.0.1:80"), "{program}");
    assert!(reaches(&alice, "[2001:db8:1::1]:80"), "{program}");
    let counted = &daemon.status().unwrap()["dns"];
    // What was never counted isn't there.
    for family in ["dns_faults_total", "dns_upstream_rejected_total"] {
        let all = counted[family].as_object();
        let mut all = all.into_iter().flatten();
        assert!(all.all(|(_, count)| count == 0), "{program} {counted:#}");
    }
}

#[test]
fn knot_answers_through_the_gate() {
    check("knot", knot);
}

#[test]
fn nsd_answers_through_the_gate() {
    check("nsd", nsd);
}

#[test]
fn unbound_answers_through_the_gate() {
    check("unbound", unbound);
}

#[test]
fn dnsmasq_answers_through_the_gate() {
    check("dnsmasq", dnsmasq);
}

/// A resolver with a cache in the workload: it asks once, by UDP or TCP, and takes a denial for an answer.
#[test]
fn unbound_asks_through_the_gate() {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let _knot = knot(&world);
    let daemon = daemon(&node, &alice);
    let ended = |word: &str| {
        let status = daemon.status().unwrap();
        status["dns"]["dns_exchanges_total"][word]
            .as_u64()
            .unwrap_or(0)
    };
    for way in ["no", "yes"] {
        let conf = format!(
            "server:\n interface: 127.0.0.1\n username: ''\n chroot: ''\n pidfile: ''\n use-syslog: no\n do-daemonize: no\n \
             module-config: 'iterator'\n tcp-upstream: {way}\nremote-control:\n control-enable: no\n\
             forward-zone:\n name: .\n forward-addr: {}\n",
            world.v4
        );
        let words = ["unbound", "-d", "-c", "AT/conf"];
        let _unbound = Running::name_server(&alice.ns, &words, &conf).unwrap();
        let own = IpAddr::from([127, 0, 0, 1]);
        let before = (ended("answered"), ended("denied"));
        for _ in 0..3 {
            let answer = alice.dig(own, &["+short", "www.example.com"]).unwrap();
            assert_eq!(answer, "198.18.0.1\n", "tcp: {way}");
            let denied = alice.dig(own, &["a.example.org"]).unwrap();
            assert!(denied.contains("status: NXDOMAIN"), "{denied}");
        }
        assert_eq!(ended("answered") - before.0, 1, "it has a cache");
        let denied = ended("denied") - before.1;
        assert!((1..=3).contains(&denied), "each lookup costs one: {denied}");
    }
}

/// Names by the thousand: each is answered, none is lost, and the addresses are open.
#[test]
fn dnsperf_asks_through_the_gate_and_loses_nothing() {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let _knot = Running::knot(&world.ns, "* 60 IN A 198.18.0.9\n").unwrap();
    let _echo = TcpEcho::serve(&world.ns, 80).unwrap();
    let daemon = daemon(&node, &alice);
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("names");
    let names: String = (0..2_000)
        .map(|at| format!("n{at}.example.com A\n"))
        .collect();
    let denied: String = (0..500).map(|at| format!("n{at}.evil.test A\n")).collect();
    fs::write(&data, names + &denied).unwrap();
    for (mode, count) in [("udp", 1), ("tcp", 2)] {
        let mut command = Command::new("dnsperf");
        command.args([
            "-s",
            &world.v4.to_string(),
            "-m",
            mode,
            "-n",
            "1",
            "-c",
            "4",
            "-q",
            "50",
        ]);
        command.arg("-d").arg(&data);
        let output = in_ns(&alice.ns, &mut command).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let figure = |line: &str| {
            let found = text.lines().find(|one| one.trim_start().starts_with(line));
            found.unwrap_or_else(|| panic!("{text}")).to_owned()
        };
        assert!(figure("Queries sent:").contains("2500"), "{text}");
        assert!(
            figure("Queries completed:").contains("2500 (100.00%)"),
            "{text}"
        );
        assert!(figure("Queries lost:").contains(" 0 (0.00%)"), "{text}");
        let codes = figure("Response codes:");
        assert!(
            codes.contains("NOERROR 2000") && codes.contains("NXDOMAIN 500"),
            "{codes}"
        );
        let counted = &daemon.status().unwrap()["dns"]["dns_exchanges_total"];
        assert_eq!(counted["answered"], 2_000 * count, "{counted}");
        assert_eq!(counted["denied"], 500 * count, "{counted}");
    }
    assert!(reaches(&alice, "198.18.0.9:80"));
}
