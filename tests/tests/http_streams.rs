//! What takes its time: streams, tunnels, silence, the end of a name and of the daemon.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may die; servers and clients of its own, and how long they wait"
)]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use httpproxy::limits::DETECT_WAIT_MAX;
use namegate_tests::{
    BIG_OCTETS, Running, TcpSink, Web, Workload, about_alice, observed, patience,
};

/// Whoever it is, on a port, by these HTTP rules.
fn asked(port: u16, rules: &str) -> String {
    format!(
        "{{toPorts: [{{ports: [{{port: '{port}', protocol: TCP}}], rules: {{http: [{rules}]}}}}]}}"
    )
}

/// Serves connections on threads that end with the test's process.
fn serve(at: &Workload, port: u16, serve: impl Fn(&mut TcpStream) + Clone + Send + 'static) {
    let listener = at.ns.run(|| TcpListener::bind(("::", port))).unwrap();
    let listener = listener.unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            stream.set_nodelay(true).unwrap();
            let serve = serve.clone();
            std::thread::spawn(move || serve(&mut stream));
        }
    });
}

/// Reads to the end of a head.
fn head(stream: &mut TcpStream) -> String {
    let (mut head, mut octet) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut octet).unwrap_or(0) == 1 {
        head.extend(octet);
    }
    String::from_utf8(head).unwrap()
}

fn connect(web: &Web, port: u16) -> TcpStream {
    let to = SocketAddr::new(web.world.v4.into(), port);
    let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(2) * patience()).unwrap();
    let stream = web.alice.ns.run(connect).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30) * patience()))
        .unwrap();
    stream
}

fn pieces(web: &Web, port: u16) -> Receiver<Instant> {
    let (sent, times) = channel();
    serve(&web.world, port, move |stream| {
        head(stream);
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        .unwrap();
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(100));
            sent.send(Instant::now()).unwrap();
            write!(stream, "3\r\none\r\n").unwrap();
        }
        write!(stream, "0\r\n\r\n").unwrap();
    });
    times
}

#[test]
fn each_piece_of_a_stream_arrives_when_it_is_sent() {
    let web = Web::new().unwrap();
    let _daemon = web.egress(&asked(9_000, "{}")).unwrap();
    let times = pieces(&web, 9_000);
    let mut stream = connect(&web, 9_000);
    write!(stream, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").unwrap();
    assert!(head(&mut stream).starts_with("HTTP/1.1 200"));
    let mut piece = [0; 8];
    let mut delays: Vec<Duration> = (0..10)
        .map(|_| {
            stream.read_exact(&mut piece).unwrap();
            let heard = Instant::now();
            assert_eq!(&piece, b"3\r\none\r\n");
            heard - times.recv().unwrap()
        })
        .collect();
    delays.sort();
    // The machine may be busy with something else for a while; what is held back comes at the end.
    assert!(delays[4] < Duration::from_millis(50), "{delays:?}");
    assert!(delays[9] < Duration::from_millis(500), "{delays:?}");
}

#[test]
fn an_upgrade_that_is_allowed_is_a_tunnel_until_policy_ends_it() {
    let web = Web::new().unwrap();
    let rule = asked(9_000, "{method: GET, path: /ws}");
    let daemon = web.egress(&rule).unwrap();
    serve(&web.world, 9_000, |stream| {
        // Of a request that was denied nothing comes.
        if !head(stream).contains("Upgrade: websocket\r\n") {
            return;
        }
        write!(
            stream,
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        .unwrap();
        let mut octets = [0; 64];
        while let Ok(count @ 1..) = stream.read(&mut octets) {
            stream.write_all(&octets[..count]).unwrap();
        }
    });
    let ask = |stream: &mut TcpStream, path: &str| {
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        .unwrap();
        head(stream)
    };
    let mut stream = connect(&web, 9_000);
    assert!(ask(&mut stream, "/other").starts_with("HTTP/1.1 403"));
    let mut stream = connect(&web, 9_000);
    assert!(ask(&mut stream, "/ws").starts_with("HTTP/1.1 101"));
    let mut echo = |said: &[u8]| {
        stream.write_all(said)?;
        let mut heard = vec![0; said.len()];
        stream.read_exact(&mut heard)?;
        assert_eq!(heard, said);
        Ok::<_, std::io::Error>(())
    };
    echo(b"GET /not-a-request HTTP/1.1\r\n\r\n").unwrap();
    echo(b"\x81\x00\x00\xff").unwrap();
    let change = |rules: &str| {
        let policy = about_alice(&asked(9_000, rules));
        daemon.change_policy("alice.yaml", &policy).unwrap();
        std::thread::sleep(Duration::from_secs(1));
    };
    change("{path: '/w.*', method: GET, host: a.test}");
    echo(b"allowed by another rule").unwrap();
    change("{path: /else}");
    let error = echo(b"more").unwrap_err();
    assert!(
        matches!(
            error.kind(),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
        ),
        "{error}"
    );
}

#[test]
fn a_client_that_ends_its_side_gets_its_response() {
    let web = Web::new().unwrap();
    let _daemon = web.egress(&asked(80, "{}")).unwrap();
    let mut stream = connect(&web, 80);
    write!(stream, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).unwrap();
    assert!(
        heard.starts_with("HTTP/1.1 200") && heard.ends_with(" /\n"),
        "{heard}"
    );
}

#[test]
fn who_says_nothing_for_too_long_is_ended_and_told() {
    let web = Web::new().unwrap();
    let daemon = web.egress(&asked(80, "{}")).unwrap();
    let begin = Instant::now();
    let mut stream = connect(&web, 80);
    let heard = stream.read(&mut [0; 8]).map_err(|error| error.kind());
    assert_eq!(heard, Ok(0), "closed, not reset");
    let waited = begin.elapsed();
    assert!(
        waited >= DETECT_WAIT_MAX && waited < DETECT_WAIT_MAX + Duration::from_secs(3),
        "{waited:?}"
    );
    let told = observed(&daemon, &["--verdict", "DROPPED", "-o", "json"]).unwrap();
    assert!(told.contains("\"nothing-said-in-time\""), "{told}");
}

/// Requests to an address that a name opened; and a connection that was allowed outlives the name, as
/// the kernel's flows do.
#[test]
fn requests_to_a_learned_address_are_judged_by_the_rule_that_names_it() {
    let web = Web::new().unwrap();
    let _knot = Running::knot(&web.world.ns, "web 60 IN A 198.18.0.1\n").unwrap();
    let dns = "{toCIDR: [203.0.113.2/32], toPorts: [{ports: [{port: '53', protocol: ANY}], rules: {dns: [{matchPattern: '*.example.com'}]}}]}";
    let named = "{toFQDNs: [{matchName: web.example.com}], toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{path: /public}]}}]}";
    let daemon = web.egress(&format!("{dns}, {named}")).unwrap();
    let ask = |path: &str| {
        let url = format!("http://198.18.0.1{path}");
        let args = [
            "-sS",
            "-m",
            "2",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            &url,
        ];
        let output = web.alice.output("curl", &args).unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(ask("/public"), "000", "not asked for yet");
    let server = IpAddr::from(web.world.v4);
    let answer = web
        .alice
        .dig(server, &["+short", "web.example.com"])
        .unwrap();
    assert_eq!(answer, "198.18.0.1\n");
    assert_eq!(
        (ask("/public"), ask("/secret")),
        ("200".into(), "403".into())
    );
    let told = observed(&daemon, &["--protocol", "http"]).unwrap();
    assert!(told.contains("web.example.com:80"), "{told}");
}

#[test]
fn at_its_end_the_daemon_lets_a_response_come_to_its_end() {
    let web = Web::new().unwrap();
    let mut daemon = web.egress(&asked(9_000, "{}")).unwrap();
    let _times = pieces(&web, 9_000);
    let mut stream = connect(&web, 9_000);
    write!(stream, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").unwrap();
    assert!(head(&mut stream).starts_with("HTTP/1.1 200"));
    let end = std::thread::scope(|scope| {
        let reads = scope.spawn(move || {
            let mut heard = String::new();
            stream.read_to_string(&mut heard).map(|_| heard)
        });
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(daemon.end_with("TERM").unwrap(), Some(0));
        reads.join().unwrap()
    });
    let heard = end.unwrap();
    assert_eq!(heard.matches("one").count(), 10, "{heard}");
    assert!(heard.ends_with("0\r\n\r\n"), "{heard}");
}

/// Both ways: what is on its way when the other side goes must not be tried again for ever.
#[test]
fn who_goes_in_the_middle_of_a_long_body_leaves_nothing_open() {
    const LONG: usize = 64 << 20;
    let web = Web::new().unwrap();
    let _daemon = web.egress(&asked(9_000, "{}")).unwrap();
    let (sent, ends) = channel();
    serve(&web.world, 9_000, move |stream| {
        if head(stream).starts_with("GET") {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {LONG}\r\n\r\n").unwrap();
            sent.send(stream.write_all(&vec![7; LONG])).unwrap();
        } else {
            // With the rest of the body unread the end is a reset.
            stream.read_exact(&mut vec![0; 1 << 20]).unwrap();
        }
    });
    for _ in 0..8 {
        let mut stream = connect(&web, 9_000);
        write!(stream, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").unwrap();
        stream.read_exact(&mut vec![0; 1 << 20]).unwrap();
    }
    for _ in 0..8 {
        let end = ends.recv_timeout(Duration::from_secs(5) * patience());
        end.expect("the server is told that its client is gone")
            .unwrap_err();
    }
    for _ in 0..8 {
        let mut stream = connect(&web, 9_000);
        stream
            .set_write_timeout(Some(Duration::from_secs(5) * patience()))
            .unwrap();
        write!(
            stream,
            "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {LONG}\r\n\r\n"
        )
        .unwrap();
        let end = stream.write_all(&vec![7; LONG]).unwrap_err();
        assert_ne!(
            end.kind(),
            ErrorKind::WouldBlock,
            "the client is told that the server is gone"
        );
    }
}

/// A server that speaks first, where nothing is judged any more: the gate is as if it were not there.
#[test]
fn without_rules_for_requests_any_protocol_passes_what_is_still_redirected() {
    let web = Web::new().unwrap();
    let audited = "{toPorts: [{ports: [{port: '2222', protocol: TCP}], rules: {http: [{path: /x}]}}]}, {toEntities: [world]}";
    let _daemon = web.egress(audited).unwrap();
    let _sink = TcpSink::serve(&web.world.ns, 2_222).unwrap();
    let mut stream = connect(&web, 2_222);
    let mut heard = [0; 6];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello\n");
}

#[test]
fn a_server_that_answers_until_it_ends_serves_as_if_nobody_stood_between() {
    let web = Web::new().unwrap();
    let _daemon = web.egress(&asked(8_000, "{path: '/.*'}")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("up");
    let made = std::fs::File::create(&file).unwrap();
    made.set_len(BIG_OCTETS).unwrap();
    let served = dir.path().display().to_string();
    let mut python = web
        .world
        .ns
        .run(|| {
            std::process::Command::new("python3")
                .args(["-m", "http.server", "8000", "--directory", &served])
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
        })
        .unwrap()
        .unwrap();
    let target = format!("http://{}:8000/up", web.world.v4);
    let args = [
        "-sS",
        "-m",
        "60",
        "--retry",
        "20",
        "--retry-delay",
        "1",
        "--retry-all-errors",
        "-o",
        "/dev/null",
        "-w",
        "%{size_download}",
        &*target,
    ];
    let text = web.alice.check("curl", &args);
    python.kill().unwrap();
    python.wait().unwrap();
    assert_eq!(text.unwrap(), BIG_OCTETS.to_string());
}
