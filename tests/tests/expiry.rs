//! What was learned ends with its time, and nothing else does (law 3).

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "a workload's own sockets; the promise is a time"
)]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use namegate_tests::{Answers, Asking, Daemon, Node, Running, TcpEcho, Workload, patience, policy};
use serde_json::Value;

const ZONE: &str = "web 2 IN A 198.18.0.1\n";

/// What `alice` may reach: every name that she may ask.
const NAMES: &str = "[{matchPattern: '*.example.com'}]";

/// TTLs as they are said.
const EXACT: &[&str] = &["--dns-ttl-floor", "0s", "--dns-ttl-grace", "0s"];

/// How long a test waits for what will come.
const PATIENCE: Duration = Duration::from_secs(30);

fn daemon<'a>(node: &'a Node, alice: &Workload) -> Daemon<'a> {
    let mut daemon = Daemon::prepare(node).unwrap();
    daemon.endpoint(alice).unwrap();
    daemon
        .policy("alice.yaml", &policy("alice", NAMES))
        .unwrap();
    daemon.start(EXACT).unwrap();
    daemon
}

/// How many answers were held for the datapath up to so long, and how many there were.
fn held_up_to(daemon: &Daemon<'_>, up_to_us: u64) -> (u64, u64) {
    let status = daemon.status().unwrap();
    let buckets = status["learning"]["hold"].as_array().unwrap().clone();
    let count = |one: &Value| one["answers"].as_u64().unwrap();
    let is_quick = |one: &&Value| one["up_to_us"].as_u64().is_some_and(|us| us <= up_to_us);
    let quick = buckets.iter().filter(is_quick).map(count).sum();
    (quick, buckets.iter().map(count).sum())
}

fn open_addresses(daemon: &Daemon<'_>) -> u64 {
    let status = daemon.status().unwrap();
    status["endpoints"][0]["open_addresses"].as_u64().unwrap()
}

fn wait_until_closed(daemon: &Daemon<'_>) {
    let began = Instant::now();
    while open_addresses(daemon) > 0 {
        assert!(began.elapsed() < PATIENCE, "{:#}", daemon.status().unwrap());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A connection, if it is accepted within a moment.
fn connect(from: &Workload, to: &str) -> Option<TcpStream> {
    let to: SocketAddr = to.parse().unwrap();
    let connect = || TcpStream::connect_timeout(&to, Duration::from_millis(700) * patience()).ok();
    from.ns.run(connect).unwrap()
}

fn exchange(stream: &mut TcpStream) {
    let mut back = [0; 5];
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
}

/// `fqdn cache list -o json` with more flags.
fn listed(daemon: &Daemon<'_>, flags: &[&str]) -> Value {
    let socket = daemon.path("namegate.sock").display().to_string();
    let mut args = vec!["fqdn", "cache", "list", "-o", "json", "--socket", &socket];
    args.extend(flags);
    let output = daemon.namegate(&args).unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn an_address_closes_with_its_ttl_and_an_established_connection_lives() {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let _knot = Running::knot(&world.ns, ZONE).unwrap();
    let _echo = TcpEcho::serve(&world.ns, 80).unwrap();
    let daemon = daemon(&node, &alice);
    let ask = || {
        let answer = alice.dig(world.v4.into(), &["+short", "web.example.com"]);
        assert_eq!(answer.unwrap(), "198.18.0.1\n");
    };
    ask();
    let mut stream = connect(&alice, "198.18.0.1:80").unwrap();
    exchange(&mut stream);

    wait_until_closed(&daemon);
    let denied = daemon.counter("policy-denied").unwrap();
    assert!(
        connect(&alice, "198.18.0.1:80").is_none(),
        "a new connection to what has expired"
    );
    assert!(daemon.counter("policy-denied").unwrap() > denied);
    exchange(&mut stream);
    let status = daemon.status().unwrap();
    assert_eq!(status["endpoints"][0]["learned_addresses"], 0, "{status:#}");
    assert_eq!(status["endpoints"][0]["names"], 0, "{status:#}");
    assert_eq!(status["learning"]["expired"], 1, "{status:#}");

    ask();
    assert!(
        connect(&alice, "198.18.0.1:80").is_some(),
        "and it opens again with the next answer"
    );
    exchange(&mut stream);
}

#[test]
fn a_thousand_idle_connections_outlive_ten_ttls() {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let _knot = Running::knot(&world.ns, "web 1 IN A 198.18.0.1\n").unwrap();
    let _echo = TcpEcho::serve(&world.ns, 80).unwrap();
    let daemon = daemon(&node, &alice);
    let mut streams: Vec<TcpStream> = Vec::new();
    for _ in 0..10 {
        let answer = alice.dig(world.v4.into(), &["+short", "web.example.com"]);
        assert_eq!(answer.unwrap(), "198.18.0.1\n");
        // Where the machine stalls for longer than the TTL, the address has rightly closed.
        streams.extend((0..100).map_while(|_| connect(&alice, "198.18.0.1:80")));
        wait_until_closed(&daemon);
    }
    assert!(streams.len() >= 500, "{}", streams.len());
    for stream in &mut streams {
        exchange(stream);
    }
}

/// The denial of a new flow to an address, as it is told.
fn denial_of(daemon: &Daemon<'_>, address: &str) -> Value {
    let socket = daemon.path("namegate.sock").display().to_string();
    let args = [
        "observe",
        "--socket",
        &socket,
        "--last",
        "1000",
        "-o",
        "json",
        "--type",
        "policy-verdict",
        "--verdict",
        "DROPPED",
        "--to-ip",
        address,
    ];
    let began = Instant::now();
    loop {
        let output = daemon.namegate(&args).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        if let Some(line) = text.lines().last() {
            let mut line: Value = serde_json::from_str(line).unwrap();
            return line["flow"].take();
        }
        assert!(began.elapsed() < PATIENCE, "no denial of {address} is told");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_denial_says_that_its_name_has_ended_or_that_nobody_asked_for_one() {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let zone = format!("{ZONE}other 2 IN A 198.18.0.2\n");
    let _knot = Running::knot(&world.ns, &zone).unwrap();
    let _echo = TcpEcho::serve(&world.ns, 80).unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    daemon.endpoint(&alice).unwrap();
    let web = policy("alice", "[{matchName: web.example.com}]");
    daemon.policy("alice.yaml", &web).unwrap();
    daemon.start(EXACT).unwrap();
    for name in ["web.example.com", "other.example.com"] {
        alice.dig(world.v4.into(), &["+short", name]).unwrap();
    }
    assert!(connect(&alice, "198.18.0.1:80").is_some());
    let began = Instant::now();
    while daemon.status().unwrap()["endpoints"][0]["names"] != 0 {
        assert!(began.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(50));
    }

    assert!(connect(&alice, "198.18.0.1:80").is_none());
    let told = denial_of(&daemon, "198.18.0.1");
    assert_eq!(
        told["destination_names"],
        serde_json::json!(["web.example.com"])
    );
    let log = told["policy_log"][0].as_str().unwrap();
    assert!(
        log.starts_with("name-expired: web.example.com ended ") && log.ends_with(" s ago"),
        "{log}"
    );
    let expired = || daemon.status().unwrap()["learning"]["name_expired"].as_u64();
    assert!(expired() >= Some(1));
    let before = expired();

    assert!(connect(&alice, "198.18.0.9:80").is_none());
    let told = denial_of(&daemon, "198.18.0.9");
    assert_eq!(told["policy_log"], serde_json::json!(["never-resolved"]));
    assert_eq!(told["destination_names"], Value::Null);
    // A name that never opened anything is told; its end is not why.
    assert!(connect(&alice, "198.18.0.2:80").is_none());
    let told = denial_of(&daemon, "198.18.0.2");
    assert_eq!(
        told["destination_names"],
        serde_json::json!(["other.example.com"])
    );
    assert_eq!(told["policy_log"], Value::Null);
    // Nor is it of an address that no name could open.
    assert!(connect(&alice, "10.0.0.1:80").is_none());
    assert_eq!(denial_of(&daemon, "10.0.0.1")["policy_log"], Value::Null);
    assert_eq!(expired(), before);
}

#[test]
fn an_answer_in_time_keeps_an_address_open() {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let _knot = Running::knot(&world.ns, ZONE).unwrap();
    let _echo = TcpEcho::serve(&world.ns, 80).unwrap();
    let daemon = daemon(&node, &alice);
    // Where the machine stalls for longer than the TTL, the address rightly closed: again then.
    let was_in_time = || {
        wait_until_closed(&daemon);
        let before = daemon.status().unwrap();
        let began = Instant::now();
        let mut asked = began;
        while began.elapsed() < Duration::from_secs(5) {
            let answer = alice.dig(world.v4.into(), &["+short", "web.example.com"]);
            assert_eq!(answer.unwrap(), "198.18.0.1\n");
            let is_open = connect(&alice, "198.18.0.1:80").is_some();
            if asked.elapsed() > Duration::from_millis(1_800) {
                return false;
            }
            assert!(is_open, "{:#}", daemon.status().unwrap());
            asked = Instant::now();
            std::thread::sleep(Duration::from_millis(600));
        }
        let after = daemon.status().unwrap();
        let more = |name: &str| {
            let count = |status: &Value| status["learning"][name].as_u64().unwrap();
            count(&after) - count(&before)
        };
        assert_eq!((more("installed"), more("expired")), (1, 0), "{after:#}");
        assert!(more("refreshed") >= 2, "{after:#}");
        true
    };
    assert!((0..5).any(|_| was_in_time()), "the machine is too slow");
    wait_until_closed(&daemon);
}

#[test]
fn what_was_learned_is_listed_with_its_end() {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let _names = Answers::names(&world.ns, 600).unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    daemon.endpoint(&alice).unwrap();
    let selected = policy("alice", "[{matchName: n1.example.com}]");
    daemon.policy("alice.yaml", &selected).unwrap();
    daemon.start(&[]).unwrap();
    assert_eq!(listed(&daemon, &[]), serde_json::json!([]));
    for name in ["n2.example.com", "n1.example.com"] {
        alice.dig(world.v4.into(), &[name]).unwrap();
    }
    let names = listed(&daemon, &["--endpoint", "default/alice"]);
    assert_eq!(names, listed(&daemon, &[]), "there is no other endpoint");
    let address = |index: usize| {
        assert_eq!(names[index]["endpoint"], "default/alice", "{names:#}");
        let name = format!("n{}.example.com.", index + 1);
        assert_eq!(names[index]["name"], name.as_str(), "{names:#}");
        let address = &names[index]["addresses"][0];
        let left = address["expires_secs"].as_u64().unwrap();
        assert!(
            (560..=630).contains(&left),
            "TTL 600 and 30 s of grace: {names:#}"
        );
        address
    };
    assert_eq!(address(0)["address"], "198.18.0.1");
    assert!(address(0)["identity"].as_u64().unwrap() >= 16_777_216);
    assert_eq!(address(1)["address"], "198.18.0.2");
    assert!(address(1)["identity"].is_null(), "no rule selects it");
    // Who taught it, and what opens it.
    let server = format!("{}:53", world.v4);
    assert_eq!(names[0]["taught_by"], server.as_str(), "{names:#}");
    let rules = names[0]["rules"].as_array().unwrap();
    assert_eq!(rules.len(), 1, "{names:#}");
    let (policy, place) = (&rules[0]["policy"], rules[0]["place"].as_str().unwrap());
    assert_eq!(policy, "CiliumNetworkPolicy default/alice", "{names:#}");
    assert!(place.contains("alice.yaml:"), "{place}");
    assert_eq!(names[1]["rules"], serde_json::json!([]), "{names:#}");

    check_tables(&daemon, &server);
}

/// The same as tables, and what the other lists say of it.
fn check_tables(daemon: &Daemon<'_>, server: &str) {
    let socket = daemon.path("namegate.sock").display().to_string();
    let list = ["fqdn", "cache", "list", "--socket", &socket];
    let output = daemon.namegate(&list).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("n1.example.com.") && text.contains("16777"),
        "{text}"
    );
    let line = text
        .lines()
        .find(|line| line.contains(" n1.example"))
        .unwrap();
    assert!(
        line.contains(server) && line.contains("alice.yaml:"),
        "{line}"
    );
    let said = |words: &[&str]| {
        let words = [words, &["--no-headers", "--socket", &socket]].concat();
        let output = daemon.namegate(&words).unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let rows = said(&["fqdn", "cache", "list"]);
    assert!(
        text.ends_with(&rows) && !rows.contains("ENDPOINT"),
        "{rows}"
    );
    let names = said(&["fqdn", "names"]);
    let one = names
        .lines()
        .find(|line| line.starts_with("n1.example.com."));
    let words: Vec<&str> = one.unwrap().split_whitespace().collect();
    assert_eq!(words, ["n1.example.com.", "1", "198.18.0.1"], "{names}");
    let selectors = said(&["fqdn", "selectors"]);
    let of_one = selectors.lines().find(|line| line.contains(" 198.18.0.1 "));
    let words: Vec<&str> = of_one.unwrap().split_whitespace().take(4).collect();
    let wanted = ["default/alice", "n1.example.com", "1", "198.18.0.1"];
    assert_eq!(words, wanted, "{selectors}");
    assert!(
        !selectors.contains("198.18.0.2"),
        "no rule selects it: {selectors}"
    );
    assert!(said(&["endpoint", "list"]).contains("default/alice"));
    let nobody = [&list[..], &["--endpoint", "default/bob"]].concat();
    let output = daemon.namegate(&nobody).unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("no endpoint default/bob"), "{said}");
}

#[test]
fn what_is_cleaned_closes_and_an_established_connection_lives() {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let zone = "web 600 IN A 198.18.0.1\nother 600 IN A 198.18.0.2\n";
    let _knot = Running::knot(&world.ns, zone).unwrap();
    let _echo = TcpEcho::serve(&world.ns, 80).unwrap();
    let daemon = daemon(&node, &alice);
    let ask = |name: &str| alice.dig(world.v4.into(), &["+short", name]).unwrap();
    ask("web.example.com");
    ask("other.example.com");
    let mut stream = connect(&alice, "198.18.0.1:80").unwrap();
    exchange(&mut stream);

    let socket = daemon.path("namegate.sock").display().to_string();
    let clean = |which: &[&str]| {
        let args = ["fqdn", "cache", "clean", "--socket", &socket];
        let output = daemon.namegate(&[&args[..], which].concat()).unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    assert_eq!(clean(&[]).0, Some(2), "not all by mistake");
    assert_eq!(clean(&["--endpoint", "default/bob"]).0, Some(1));
    let (code, said) = clean(&["--match-pattern", "w*.example.com"]);
    assert_eq!((code, said.as_str()), (Some(0), "1 names forgotten\n"));
    assert!(connect(&alice, "198.18.0.1:80").is_none());
    assert!(connect(&alice, "198.18.0.2:80").is_some(), "another name's");
    exchange(&mut stream);
    ask("web.example.com");
    assert!(connect(&alice, "198.18.0.1:80").is_some());
    assert_eq!(clean(&["--all"]).1, "2 names forgotten\n");
    assert_eq!(open_addresses(&daemon), 0);
    assert_eq!(daemon.status().unwrap()["learning"]["forgotten"], 3);
}

/// Ten thousand addresses end within a second; whoever asks meanwhile doesn't notice.
#[test]
fn ten_thousand_addresses_expire_and_queries_go_on() {
    const COUNT: u32 = 10_000;
    const THREADS: u32 = 8;
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let end = Instant::now() + Duration::from_secs(25);
    let _names = Answers::names_until(&world.ns, end).unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    daemon.endpoint(&alice).unwrap();
    daemon
        .policy("alice.yaml", &policy("alice", NAMES))
        .unwrap();
    // A busy machine may take the processor from whoever takes addresses away, and from the answer that
    // waits for that one: no SERVFAIL for it here.
    let patient = [EXACT, &["--dns-install-wait", "4s"]].concat();
    daemon.start(&patient).unwrap();
    let dns = IpAddr::from(world.v4);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let alice = &alice;
            scope.spawn(move || {
                let mut asking = Asking::new(alice, dns, PATIENCE).unwrap();
                for index in thread * (COUNT / THREADS)..(thread + 1) * (COUNT / THREADS) {
                    ask(&mut asking, index);
                }
            });
        }
    });
    assert!(Instant::now() < end, "learned too slowly to tell anything");
    assert_eq!(open_addresses(&daemon), u64::from(COUNT));

    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stream = scope.spawn(|| {
            let mut asking = Asking::new(&alice, dns, PATIENCE).unwrap();
            let (mut asked, mut longest) = (0, Duration::ZERO);
            while !is_over.load(Ordering::Relaxed) {
                let began = Instant::now();
                ask(&mut asking, COUNT);
                longest = longest.max(began.elapsed());
                asked += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            (asked, longest)
        });
        // The one more name may be open again and again.
        while open_addresses(&daemon) > 1 {
            assert!(Instant::now() < end + PATIENCE);
            std::thread::sleep(Duration::from_millis(20));
        }
        let late = Instant::now().saturating_duration_since(end);
        is_over.store(true, Ordering::Relaxed);
        let (asked, longest) = stream.join().unwrap();
        println!("{asked} answers, the slowest after {longest:?}; closed {late:?} after the end");
        assert!(asked > 100, "{asked} answers");
        assert!(longest < Duration::from_secs(2) * patience(), "{longest:?}");
    });
    let (quick, all) = held_up_to(&daemon, 10_000);
    println!("{quick} of {all} answers were held for 10 ms at most");
    assert!(quick * 10 >= all * 9, "{quick} of {all}");
    wait_until_closed(&daemon);
    let status = daemon.status().unwrap();
    assert!(
        status["learning"]["expired"].as_u64().unwrap() >= u64::from(COUNT),
        "{status:#}"
    );
    assert_eq!(status["endpoints"][0]["names"], 0, "{status:#}");
}

/// Asks for the A record of `nINDEX.example.com`, which there is.
fn ask(asking: &mut Asking, index: u32) {
    let (_, answer) = asking.ask(&format!("n{index}")).unwrap();
    assert_eq!(answer[3] & 15, 0, "n{index}: {answer:?}");
}

/// One that nobody is connected to is not asked for, and none that only a pattern names.
#[test]
fn a_name_in_use_is_asked_for_again_before_it_ends() {
    asked_again(53, false);
}

#[test]
fn a_name_in_use_is_asked_for_again_at_the_port_at_which_it_was_asked() {
    asked_again(5353, false);
}

/// By whom it was given is kept with the name.
#[test]
fn a_name_in_use_is_asked_for_again_by_the_next_daemon() {
    asked_again(53, true);
}

fn asked_again(port: u16, is_next: bool) {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let names = Answers::names_at(&world.ns, port, 1).unwrap();
    let _echo = TcpEcho::serve(&world.ns, 443).unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    daemon.endpoint(&alice).unwrap();
    let opened =
        "[{matchName: n1.example.com}, {matchName: n2.example.com}, {matchPattern: 'n3.*.com'}]";
    let policy = policy("alice", opened).replace("port: '53'", &format!("port: '{port}'"));
    daemon.policy("alice.yaml", &policy).unwrap();
    let options = [
        "--dns-refresh",
        "--dns-ttl-floor",
        "25s",
        "--dns-ttl-grace",
        "0s",
    ];
    daemon.start(&options).unwrap();
    let ends = Instant::now() + Duration::from_secs(25);
    for name in ["n1", "n2", "n3"] {
        let name = format!("{name}.example.com");
        let words = ["-p", &port.to_string(), "+short", &name];
        let told = alice.dig(world.v4.into(), &words).unwrap();
        assert!(told.starts_with("198.18.0."), "{told}");
    }
    let connect = |to: &str| {
        let to = to.parse().unwrap();
        let connected = || TcpStream::connect_timeout(&to, Duration::from_secs(2));
        alice.ns.run(connected).unwrap().unwrap()
    };
    let _open = (connect("198.18.0.1:443"), connect("198.18.0.3:443"));
    let asked = || names.asked.load(Ordering::Relaxed);
    assert_eq!(asked(), 3);
    // What a daemon answered, it alone counts.
    let mut first = 3;
    if is_next {
        std::thread::sleep(Duration::from_millis(1_600) * patience());
        daemon.end_with("KILL").unwrap();
        daemon.start(&options).unwrap();
        first = 0;
    }
    let before = asked();
    let again = || daemon.status().unwrap()["learning"]["asked_again"].as_u64();
    // Once with each look: at the one name of three that is both named and in use.
    let until = Instant::now() + PATIENCE;
    let is_asked_again = || {
        let again = again().unwrap();
        let status = daemon.status().unwrap();
        let answered = status["dns"]["dns_exchanges_total"]["answered"].as_u64();
        again >= 1 && asked() == before + again && answered == Some(first + again)
    };
    while !is_asked_again() {
        assert!(Instant::now() < until, "{:#}", daemon.status().unwrap());
        std::thread::sleep(Duration::from_millis(100));
    }
    // Beyond the end that the first answer gave.
    std::thread::sleep(ends.saturating_duration_since(Instant::now()) + Duration::from_secs(2));
    drop(connect("198.18.0.1:443"));
}
