//! The options of the HTTP proxy, and its bounds in time and number, each with the real daemon.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may die; how long clients wait"
)]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use httpproxy::limits::{CONNECT_WAIT_MAX, HEAD_WAIT, HELLO_WAIT_MAX};
use namegate_tests::{Web, asked, observed, patience, read_head};

fn ask(stream: &mut TcpStream, target: &str) -> String {
    let _ = write!(stream, "GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n");
    read_head(stream)
}

/// Answers each request with its first line, and counts connections.
fn recorder(web: &Web, port: u16) -> Arc<AtomicUsize> {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    web.serve(port, move |stream| {
        count.fetch_add(1, Ordering::Relaxed);
        loop {
            let head = read_head(stream);
            let Some(line) = head.lines().next() else {
                return;
            };
            let answer = format!("HTTP/1.1 200 OK\r\nX-Line: {line}\r\nContent-Length: 0\r\n\r\n");
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    })
    .unwrap();
    connections
}

#[test]
fn a_lazy_connection_is_made_for_a_request_that_may_go() {
    let web = Web::new().unwrap();
    let rules = format!(
        "{}, {}",
        asked(9_000, "{path: /a}"),
        asked(9_001, "{path: /a}")
    );
    let daemon = web.egress_with(&rules, &["--http-connect=lazy"]).unwrap();
    let connections = recorder(&web, 9_000);
    let mut stream = web.connect(9_000).unwrap();
    assert!(ask(&mut stream, "/b").starts_with("HTTP/1.1 403"));
    let mut body = [0; 15];
    stream.read_exact(&mut body).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(connections.load(Ordering::Relaxed), 0, "not even a SYN");
    assert!(ask(&mut stream, "/a").contains("X-Line: GET /a HTTP/1.1"));
    assert!(ask(&mut stream, "/a").contains("X-Line: GET /a HTTP/1.1"));
    assert_eq!(connections.load(Ordering::Relaxed), 1);
    // Nobody is there.
    let mut stream = web.connect(9_001).unwrap();
    let heard = ask(&mut stream, "/a");
    assert!(heard.starts_with("HTTP/1.1 503"), "{heard}");
    assert!(heard.contains("\r\nconnection: close\r\n"), "{heard}");
    let status = daemon.status().unwrap();
    assert_eq!(status["http"]["http_connections_total"]["unreachable"], 1);
    let told = observed(&daemon, &["--protocol", "http", "-o", "json"]).unwrap();
    assert_eq!(told.matches("\"code\":503").count(), 1, "{told}");
}

#[test]
fn paths_upgrades_and_the_body_of_a_denial_are_as_the_options_say() {
    let web = Web::new().unwrap();
    let rules = asked(9_000, "{path: '/a/\\.\\./b'}");
    let options = [
        "--http-normalize-path=false",
        "--http-upgrades=foo",
        "--http-403-msg=Ask the platform team.",
    ];
    let _daemon = web.egress_with(&rules, &options).unwrap();
    recorder(&web, 9_000);
    let mut stream = web.connect(9_000).unwrap();
    let heard = ask(&mut stream, "/a/../b");
    assert!(heard.contains("X-Line: GET /a/../b HTTP/1.1"), "{heard}");
    assert!(ask(&mut stream, "/b").starts_with("HTTP/1.1 403"));
    let mut body = [0; 24];
    stream.read_exact(&mut body).unwrap();
    assert_eq!(&body, b"Ask the platform team.\r\n");
    let upgrades = |token: &str| {
        let (sent, heard) = std::sync::mpsc::channel();
        let port = if token == "foo" { 9_002 } else { 9_003 };
        web.serve(port, move |stream| sent.send(read_head(stream)).unwrap())
            .unwrap();
        (port, heard)
    };
    let ports = format!("{}, {}", asked(9_002, "{}"), asked(9_003, "{}"));
    drop(_daemon);
    let _daemon = web.egress_with(&ports, &options).unwrap();
    for (token, passes) in [("foo", true), ("websocket", false)] {
        let (port, heard) = upgrades(token);
        let mut stream = web.connect(port).unwrap();
        write!(
            stream,
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {token}\r\n\r\n"
        )
        .unwrap();
        let head = heard.recv_timeout(Duration::from_secs(5)).unwrap();
        assert_eq!(head.contains("Upgrade"), passes, "{token}: {head}");
    }
}

/// With Alt-Svc servers lead clients to QUIC, which is refused where requests are judged.
#[test]
fn alt_svc_passes_unless_the_option_says_so() {
    const FIELD: &str = "Alt-Svc: h3=\":443\"; ma=60";
    let web = Web::new().unwrap();
    web.serve(9_000, |stream| {
        while read_head(stream).starts_with("GET") {
            let answer = format!(
                "HTTP/1.1 103 Early Hints\r\n{FIELD}\r\nX-A: 1\r\n\r\n\
                 HTTP/1.1 200 OK\r\nX-B: 2\r\n{FIELD}\r\nContent-Length: 0\r\n\r\n"
            );
            let _ = stream.write_all(answer.as_bytes());
        }
    })
    .unwrap();
    for (option, passes) in [("pass", true), ("strip", false)] {
        let option = format!("--http-alt-svc={option}");
        let rules = asked(9_000, "{path: /a}");
        let _daemon = web.egress_with(&rules, &[&option]).unwrap();
        let mut stream = web.connect(9_000).unwrap();
        for _ in 0..2 {
            let heads = [ask(&mut stream, "/a"), read_head(&mut stream)];
            for (head, field) in heads.iter().zip(["X-A: 1", "X-B: 2"]) {
                assert!(head.contains(field), "{head}");
                assert_eq!(head.contains(FIELD), passes, "{option}: {head}");
            }
        }
    }
}

#[test]
fn what_takes_too_long_ends_when_the_options_say() {
    let web = Web::new().unwrap();
    let rules = [9_000, 9_001, 9_002]
        .map(|port| asked(port, "{}"))
        .join(", ");
    let options = [
        "--http-request-timeout=600ms",
        "--http-stream-idle-timeout=700ms",
        "--proxy-idle-timeout=800ms",
    ];
    let _daemon = web.egress_with(&rules, &options).unwrap();
    web.serve(9_000, |stream| {
        read_head(stream);
        std::thread::sleep(Duration::from_secs(20));
    })
    .unwrap();
    web.serve(9_001, |stream| {
        read_head(stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
        std::thread::sleep(Duration::from_secs(20));
    })
    .unwrap();
    recorder(&web, 9_002);
    let timed = |port: u16, least: u64| {
        let mut stream = web.connect(port).unwrap();
        let begin = Instant::now();
        let head = ask(&mut stream, "/");
        let end = stream.read_to_end(&mut Vec::new());
        let took = begin.elapsed();
        let least = Duration::from_millis(least);
        assert!(
            took >= least && took < least + Duration::from_secs(3),
            "{port}: {took:?}"
        );
        (head, end.map_err(|error| error.kind()))
    };
    assert!(timed(9_000, 600).0.starts_with("HTTP/1.1 504"));
    let (head, end) = timed(9_001, 700);
    assert!(head.starts_with("HTTP/1.1 200"));
    assert_eq!(end, Err(ErrorKind::ConnectionReset), "visibly cut");
    let (head, end) = timed(9_002, 800);
    assert!(
        head.starts_with("HTTP/1.1 200") && end == Ok(0),
        "{head} {end:?}"
    );
}

#[test]
fn an_endpoint_has_as_many_connections_as_the_option_says() {
    let web = Web::new().unwrap();
    let options = ["--proxy-max-connections-per-endpoint=3"];
    let daemon = web.egress_with(&asked(80, "{}"), &options).unwrap();
    let mut three: Vec<TcpStream> = (0..3).map(|_| web.connect(80).unwrap()).collect();
    for stream in &mut three {
        assert!(ask(stream, "/").starts_with("HTTP/1.1 200"));
    }
    // The reset may be there before the call that connects has returned.
    match web.connect(80) {
        Ok(mut fourth) => assert_eq!(ask(&mut fourth, "/"), "", "reset"),
        Err(error) => {
            let kind = error
                .downcast_ref::<std::io::Error>()
                .map(std::io::Error::kind);
            assert_eq!(kind, Some(ErrorKind::ConnectionReset), "{error}");
        }
    }
    let status = daemon.status().unwrap();
    assert_eq!(
        status["http"]["http_refused_total"]["too-many-connections"],
        1
    );
    let told = observed(&daemon, &["--verdict", "DROPPED", "-o", "json"]).unwrap();
    assert!(told.contains("\"too-many-connections\""), "{told}");
    three.pop();
    std::thread::sleep(Duration::from_millis(200));
    assert!(ask(&mut web.connect(80).unwrap(), "/").starts_with("HTTP/1.1 200"));
}

#[test]
fn a_server_that_does_not_accept_is_given_up() {
    let web = Web::new().unwrap();
    let daemon = web.egress(&asked(9_000, "{}")).unwrap();
    web.world
        .check("nft", &["add table inet t; add chain inet t c { type filter hook input priority 0; }; add rule inet t c tcp dport 9000 drop"])
        .unwrap();
    // The proxy calls the server as soon as it has accepted.
    let begin = Instant::now();
    let mut stream = web.connect(9_000).unwrap();
    assert_eq!(ask(&mut stream, "/"), "", "reset");
    let took = begin.elapsed();
    let late = CONNECT_WAIT_MAX + Duration::from_secs(2);
    assert!(took >= CONNECT_WAIT_MAX && took < late, "{took:?}");
    let status = daemon.status().unwrap();
    assert_eq!(status["http"]["http_connections_total"]["unreachable"], 1);
}

/// A server that becomes a tunnel at once, and gives back what it gets.
fn echo(web: &Web, port: u16) {
    web.serve(port, |stream| {
        read_head(stream);
        let head =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let mut octets = head.as_bytes().to_vec();
        while stream.write_all(&octets).is_ok() {
            octets.resize(64, 0);
            match stream.read(&mut octets) {
                Ok(count @ 1..) => octets.truncate(count),
                _ => return,
            }
        }
    })
    .unwrap();
}

fn tunnel(web: &Web, port: u16) -> TcpStream {
    let mut stream = web.connect(port).unwrap();
    write!(
        stream,
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    .unwrap();
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 101"));
    stream
}

fn is_open(stream: &mut TcpStream) -> bool {
    let mut heard = [0; 4];
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut heard).is_ok()
}

#[test]
fn at_its_end_the_daemon_serves_on_until_tunnels_are_over_or_it_is_told_again() {
    let web = Web::new().unwrap();
    let rules = format!("{}, {}", asked(80, "{path: /a}"), asked(9_000, "{}"));
    echo(&web, 9_000);
    let log = tempfile::NamedTempFile::new().unwrap();
    let path = log.path().display().to_string();
    let mut daemon = web.egress_with(&rules, &["--flow-log", &path]).unwrap();
    let mut held = tunnel(&web, 9_000);
    let mut kept = web.connect(80).unwrap();
    let mut idle = web.connect(80).unwrap();
    for stream in [&mut kept, &mut idle] {
        let head = ask(stream, "/a");
        assert!(
            head.starts_with("HTTP/1.1 200") && !head.to_lowercase().contains("connection: close")
        );
        let _ = stream.read(&mut [0; 4096]).unwrap();
    }
    // The head of a request is under way.
    write!(kept, "GET /a HTTP/1.1\r\nHost: ").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    daemon.signal("TERM").unwrap();
    assert_eq!(
        idle.read(&mut [0; 8]).unwrap(),
        0,
        "between two requests it ends"
    );
    write!(kept, "a.test\r\n\r\n").unwrap();
    let head = read_head(&mut kept).to_lowercase();
    assert!(
        head.starts_with("http/1.1 200") && head.contains("connection: close"),
        "{head}"
    );
    std::thread::sleep(Duration::from_millis(2_500));
    assert!(is_open(&mut held), "longer than without tunnels");
    let mut new = web.connect(80).unwrap();
    assert!(
        ask(&mut new, "/a").starts_with("HTTP/1.1 200"),
        "nobody else would serve it"
    );
    assert!(ask(&mut web.connect(80).unwrap(), "/b").starts_with("HTTP/1.1 403"));
    let begin = Instant::now();
    assert_eq!(daemon.end_with("TERM").unwrap(), Some(0));
    assert!(
        begin.elapsed() < Duration::from_millis(2_500),
        "{:?}",
        begin.elapsed()
    );
    assert!(!is_open(&mut held));
    let told = std::fs::read_to_string(&path).unwrap();
    let ends: Vec<&str> = told
        .lines()
        .filter(|line| line.contains("daemon-stopped"))
        .collect();
    assert_eq!(ends.len(), 1, "{told}");
    assert!(ends[0].contains("4 octets up, 4 down"), "{}", ends[0]);
}

#[test]
fn the_drain_has_an_end() {
    let web = Web::new().unwrap();
    echo(&web, 9_000);
    let options = ["--drain-timeout=1s"];
    let mut daemon = web.egress_with(&asked(9_000, "{}"), &options).unwrap();
    let mut held = tunnel(&web, 9_000);
    let begin = Instant::now();
    assert_eq!(daemon.end_with("TERM").unwrap(), Some(0));
    let took = begin.elapsed();
    assert!(
        took >= Duration::from_secs(1) && took < Duration::from_secs(4),
        "{took:?}"
    );
    assert!(!is_open(&mut held));
    daemon.start(&options).unwrap();
    let begin = Instant::now();
    let mut held = tunnel(&web, 9_000);
    assert!(is_open(&mut held));
    drop(held);
    assert_eq!(daemon.end_with("TERM").unwrap(), Some(0));
    assert!(
        begin.elapsed() < Duration::from_secs(1),
        "nothing to wait for"
    );
}

#[test]
fn who_takes_everything_away_does_not_wait_for_tunnels() {
    let web = Web::new().unwrap();
    echo(&web, 9_000);
    let options = ["--detach-on-exit"];
    let mut daemon = web.egress_with(&asked(9_000, "{}"), &options).unwrap();
    let mut held = tunnel(&web, 9_000);
    let begin = Instant::now();
    assert_eq!(daemon.end_with("TERM").unwrap(), Some(0));
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(2) * patience(), "{took:?}");
    assert!(!is_open(&mut held));
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A client that has said the beginning of a head, or of a hello.
fn slow_one(web: &Web, is_head: bool) -> TcpStream {
    let (port, first): (u16, &[u8]) = match is_head {
        true => (80, b"GET / HTTP/1.1\r\nX: "),
        false => (443, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"),
    };
    let mut stream = web.connect(port).unwrap();
    stream.write_all(first).unwrap();
    stream.set_nonblocking(true).unwrap();
    stream
}

/// Whether it was ended, by a 408 or without a word.
fn is_ended(stream: &mut TcpStream) -> bool {
    let mut heard = [0; 512];
    match stream.read(&mut heard) {
        Ok(0) => true,
        Ok(count) => {
            assert!(heard[..count].starts_with(b"HTTP/1.1 408"));
            true
        }
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// A thousand clients that say an octet a second end when they must, and take little; one that is well
/// is served meanwhile.
#[test]
fn slow_heads_and_hellos_end_in_time_and_harm_nobody() {
    const COUNT: usize = 1_000;
    let web = Web::new().unwrap();
    let names = "{toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: [a.test]}]}";
    let daemon = web
        .egress(&format!("{}, {names}", asked(80, "{}")))
        .unwrap();
    let _ = ask(&mut web.connect(80).unwrap(), "/");
    let before = resident_kib(daemon.pid());
    let begin = Instant::now();
    let mut slow: Vec<(TcpStream, Option<Duration>)> = (0..COUNT + 50)
        .map(|number| (slow_one(&web, number < COUNT), None))
        .collect();
    let opened = begin.elapsed();
    let mut is_measured = false;
    let mut served = Vec::new();
    while slow.iter().any(|(_, end)| end.is_none()) && begin.elapsed() < Duration::from_secs(60) {
        for (number, (stream, end)) in slow.iter_mut().enumerate() {
            if end.is_some() {
                continue;
            }
            let is_over = is_ended(stream);
            if is_over
                || stream
                    .write_all(if number < COUNT { b"x" } else { b"\0" })
                    .is_err()
            {
                *end = Some(begin.elapsed());
            }
        }
        let asks = Instant::now();
        assert!(ask(&mut web.connect(80).unwrap(), "/").starts_with("HTTP/1.1 200"));
        served.push(asks.elapsed());
        if !is_measured {
            is_measured = true;
            let grown = resident_kib(daemon.pid()).saturating_sub(before);
            let each = grown / (COUNT as u64 + 50);
            eprintln!("{each} KiB for each slow connection, opened in {opened:?}");
            assert!(each <= 16, "{grown} KiB for {COUNT}");
        }
        std::thread::sleep(Duration::from_secs(1).saturating_sub(asks.elapsed()));
    }
    let late = |most: Duration| most + opened + Duration::from_secs(4);
    for (number, (_, end)) in slow.iter().enumerate() {
        let most = if number < COUNT {
            HEAD_WAIT
        } else {
            HELLO_WAIT_MAX
        };
        let end = end.unwrap_or(Duration::MAX);
        assert!(
            end + Duration::from_millis(500) >= most && end < late(most),
            "{number}: {end:?}"
        );
    }
    served.sort();
    assert!(
        served[served.len() / 2] < Duration::from_millis(50),
        "{served:?}"
    );
    let status = daemon.status().unwrap();
    assert_eq!(status["http"]["http_requests_total"]["malformed"], COUNT);
    assert_eq!(
        status["http"]["http_refused_total"]["nothing-said-in-time"],
        50
    );
}

/// Clients that rest between two requests are many.
#[test]
fn an_idle_connection_takes_little() {
    const COUNT: u64 = 1_000;
    let web = Web::new().unwrap();
    let daemon = web.egress(&asked(80, "{}")).unwrap();
    let _ = ask(&mut web.connect(80).unwrap(), "/");
    let before = resident_kib(daemon.pid());
    let idle: Vec<TcpStream> = (0..COUNT)
        .map(|_| {
            let mut stream = web.connect(80).unwrap();
            assert!(ask(&mut stream, "/").starts_with("HTTP/1.1 200"));
            stream
        })
        .collect();
    let each = (resident_kib(daemon.pid()) - before) / COUNT;
    eprintln!("{each} KiB for each idle connection");
    assert!(each <= 16, "{each} KiB");
    drop(idle);
}
