//! Name binding: what only `toFQDNs` allow must be called by a name that they allow, where it speaks TLS
//! or HTTP; other protocols are left alone.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use namegate_tests::{Daemon, Running, Web, Workload, about_alice, observed};
use serde_json::Value;

/// Two names at one address, as it is with large providers, and one that is nowhere near.
const ZONE: &str = "ok 60 IN A 198.18.0.7\nok 60 IN AAAA 2001:db8:1::7\n\
                    two 60 IN A 198.18.0.7\nlone 60 IN A 198.18.0.9\n";
const OK: &str = "198.18.0.7";
const OK6: &str = "2001:db8:1::7";
/// Nobody has asked for the name that is there.
const LONE: &str = "198.18.0.9";

const DNS: &str = "{toCIDR: [203.0.113.2/32, '2001:db8::2/128'], toPorts: [{ports: [{port: '53'}], \
                   rules: {dns: [{matchPattern: '*.example.com'}]}}]}";
const NAMED: &str = "{toFQDNs: [{matchName: ok.example.com}]}";
const TWO: &str = "{toFQDNs: [{matchName: two.example.com}]}";
const BY_CIDR: &str = "{toCIDR: [198.18.0.0/16]}";

/// Curl's word for a handshake that the peer cut.
const CUT: Option<i32> = Some(35);
/// Curl's word for a time that is over.
const SILENT: Option<i32> = Some(28);

/// Alice, who has asked for ok.example.com, and the servers.
struct Scene {
    web: Web,
    _knot: Running,
}

impl Scene {
    fn new() -> Self {
        let web = Web::new().unwrap();
        let knot = Running::knot(&web.world.ns, ZONE).unwrap();
        Self { web, _knot: knot }
    }

    fn policy(rules: &[&str]) -> String {
        about_alice(&[&[DNS], rules].concat().join(", "))
    }

    /// A daemon with these rules of alice's, once she knows where ok.example.com is.
    fn daemon(&self, how: &str, rules: &[&str]) -> Daemon<'_> {
        self.daemon_with(&["--name-binding", how], &Self::policy(rules))
    }

    fn daemon_with(&self, args: &[&str], policy: &str) -> Daemon<'_> {
        let mut daemon = Daemon::prepare(&self.web.node).unwrap();
        daemon.endpoint(&self.web.alice).unwrap();
        daemon.policy("alice.yaml", policy).unwrap();
        daemon.start(args).unwrap();
        for (kind, address) in [("A", OK), ("AAAA", OK6)] {
            let dns = IpAddr::V4(self.web.world.v4);
            let args = ["+short", "ok.example.com", kind];
            let told = self.web.alice.dig(dns, &args).unwrap();
            assert_eq!(told, format!("{address}\n"));
        }
        daemon
    }

    /// What curl says of `https://HOST/` at an address.
    fn https(&self, host: &str, at: &str) -> Output {
        let at = if at.contains(':') {
            format!("[{at}]")
        } else {
            at.to_owned()
        };
        let to = format!("{host}:443:{at}");
        let url = format!("https://{host}/");
        let args = ["-sSk", "-m", "5", "--resolve", &to, &url];
        self.web.alice.output("curl", &args).unwrap()
    }

    /// Statuses of requests with these hosts at an address, over one connection where it is kept.
    fn http(&self, hosts: &[&str]) -> Vec<String> {
        let mut args = vec!["-sS", "-m", "10"];
        let headers: Vec<String> = hosts.iter().map(|host| format!("Host: {host}")).collect();
        let url = format!("http://{OK}/");
        for (number, header) in headers.iter().enumerate() {
            if number > 0 {
                args.push("--next");
            }
            args.extend(["-o", "/dev/null", "-w", "%{http_code} %{num_connects}\n"]);
            args.extend(["-H", header, &url]);
        }
        let output = self.web.alice.output("curl", &args).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn connect(&self, port: u16) -> TcpStream {
        let to: SocketAddr = format!("{OK}:{port}").parse().unwrap();
        let connect = || {
            let stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            std::io::Result::Ok(stream)
        };
        self.web.alice.ns.run(connect).unwrap().unwrap()
    }
}

fn served(output: &Output) -> bool {
    output.status.success() && output.stdout.ends_with(b" /\n")
}

/// The flows that are told with this verdict, as JSON.
fn told(daemon: &Daemon<'_>, verdict: &str) -> Vec<Value> {
    let text = observed(daemon, &["--verdict", verdict, "-o", "json"]).unwrap();
    let flows = text.lines().map(|line| serde_json::from_str(line).unwrap());
    flows.map(|line: Value| line["flow"].clone()).collect()
}

/// The flows among them with this remark.
fn with_remark<'f>(flows: &'f [Value], remark: &str) -> Vec<&'f Value> {
    let has = |flow: &&Value| {
        let log = flow["policy_log"].as_array();
        log.is_some_and(|log| log.iter().any(|one| one == remark))
    };
    flows.iter().filter(has).collect()
}

fn counted(daemon: &Daemon<'_>, group: &str, word: &str) -> u64 {
    let status = daemon.status().unwrap();
    status["http"][group][word].as_u64().unwrap_or(0)
}

/// A server that greets each client, keeps all that it gets and gives it back.
struct Greeter {
    got: Arc<Mutex<Vec<u8>>>,
}

impl Greeter {
    fn serve(at: &Workload, port: u16, greeting: &'static [u8]) -> Self {
        #[expect(clippy::disallowed_methods, reason = "a server outside of the gate")]
        let listener = at.ns.run(|| TcpListener::bind(("::", port)));
        let listener = listener.unwrap().unwrap();
        let got = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&got);
        // It ends with the process of the test.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || Self::answer(stream, greeting, &kept));
            }
        });
        Self { got }
    }

    fn answer(mut stream: TcpStream, greeting: &[u8], kept: &Mutex<Vec<u8>>) {
        let mut buffer = [0; 4096];
        if stream.write_all(greeting).is_err() {
            return;
        }
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            kept.lock().unwrap().extend(&buffer[..count]);
            if stream.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    }

    fn got(&self) -> Vec<u8> {
        std::thread::sleep(Duration::from_millis(200));
        self.got.lock().unwrap().clone()
    }
}

fn hear(stream: &mut TcpStream, expected: &[u8]) {
    let mut heard = vec![0; expected.len()];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(heard, expected);
}

#[test]
fn tls_must_be_to_a_name_that_the_rules_allow() {
    let scene = Scene::new();
    let daemon = scene.daemon("enforce", &[NAMED, TWO]);
    // Segments with content. `tcp[…]` is never true of IPv6, where the header is 40 octets long.
    let filter = "tcp dst port 443 and (tcp[13] & 8 != 0 or ip6[53] & 8 != 0)";
    let (capture, file) = Running::capture(&scene.web.world.ns, filter).unwrap();
    for at in [OK, OK6] {
        assert_eq!(scene.https("evil.test", at).status.code(), CUT, "{at}");
    }
    let bare = scene.https(OK, OK);
    assert_eq!(bare.status.code(), CUT, "no name: {bare:?}");
    std::thread::sleep(Duration::from_millis(200));
    let read = ["-n", "-r", &file.display().to_string()];
    let seen = scene.web.world.check("tcpdump", &read).unwrap();
    drop(capture);
    assert_eq!(seen, "", "of what is refused nothing is sent on");
    for at in [OK, OK6] {
        for name in ["ok.example.com", "OK.Example.com"] {
            let output = scene.https(name, at);
            assert!(served(&output), "{at} {name}: {output:?}");
        }
    }
    // As no curl says it.
    drop(Held::open(&scene.web, "OK.EXAMPLE.COM."));
    let output = scene.https("two.example.com", OK);
    assert!(served(&output), "never looked up here: {output:?}");
    let output = scene.https("ok.example.com", LONE);
    assert_eq!(output.status.code(), SILENT, "not learned: {output:?}");

    let dropped = told(&daemon, "DROPPED");
    let evil = with_remark(&dropped, "sni-not-allowed: evil.test");
    assert_eq!(evil.len(), 2, "{dropped:#?}");
    for flow in evil {
        assert_eq!(
            flow["destination_names"],
            serde_json::json!(["ok.example.com"])
        );
        assert_eq!(flow["drop_reason_desc"], "POLICY_DENIED");
        assert!(flow["is_reply"].is_null(), "{flow}");
        assert_eq!(flow["l4"]["TCP"]["destination_port"], 443);
        let log = flow["policy_log"].as_array().unwrap();
        assert!(
            log.contains(&Value::from("name-binding: enforce")),
            "{flow}"
        );
    }
    assert_eq!(
        with_remark(&dropped, "sni-not-allowed").len(),
        1,
        "{dropped:#?}"
    );
    let forwarded = told(&daemon, "FORWARDED");
    let two = with_remark(&forwarded, "sni-not-learned: two.example.com");
    assert_eq!(two.len(), 1, "{forwarded:#?}");
    assert_eq!(two[0]["egress_allowed_by"][0]["name"], "alice");
    assert_eq!(two[0]["is_reply"], false);
    assert_eq!(counted(&daemon, "http_refused_total", "sni-not-allowed"), 3);
    assert_eq!(counted(&daemon, "http_name_binding_total", "allowed"), 6);
    assert_eq!(
        counted(&daemon, "http_name_binding_total", "not-allowed"),
        3
    );
}

#[test]
fn each_request_must_be_to_a_host_that_the_rules_allow() {
    let scene = Scene::new();
    let daemon = scene.daemon("enforce", &[NAMED, TWO]);
    let hosts = [
        "ok.example.com",
        "evil.test",
        "OK.example.com.:80",
        OK,
        "two.example.com",
    ];
    let statuses = scene.http(&hosts);
    assert_eq!(statuses, ["200 1", "403 0", "200 0", "403 0", "200 0"]);
    let forwarded = told(&daemon, "FORWARDED");
    let two = with_remark(&forwarded, "host-not-learned: two.example.com");
    assert_eq!(two.len(), 2, "request and response: {forwarded:#?}");
    assert!(with_remark(&forwarded, "host-not-learned: ok.example.com").is_empty());
    let server = Greeter::serve(&scene.web.world, 9_000, b"");
    for said in [
        &b"GET /e1 HTTP/1.1\r\nHost: evil.test\r\n\r\n"[..],
        b"GET /e2 HTTP/1.0\r\n\r\n",
        b"\nGET /e3 HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        b" get /e4 http/1.1\nHost: evil.test\n\n",
        b"GET /e5\r\n\r\n",
        b"POST\t/e6\tHTTP/1.1\r\nHost: evil.test\r\n\r\n",
    ] {
        for cut in [said.len(), 1, said.len() / 2] {
            let mut stream = scene.connect(9_000);
            stream.write_all(&said[..cut]).unwrap();
            std::thread::sleep(Duration::from_millis(30));
            let _ = stream.write_all(&said[cut..]);
            let mut heard = [0; 12];
            match stream.read_exact(&mut heard) {
                Ok(()) => assert!(heard.starts_with(b"HTTP/1.1 4"), "{said:?} {heard:?}"),
                Err(error) => assert_ne!(error.kind(), ErrorKind::WouldBlock, "{said:?}"),
            }
        }
    }
    let got = server.got();
    assert!(got.is_empty(), "{:?}", String::from_utf8_lossy(&got));
    let dropped = told(&daemon, "DROPPED");
    assert!(
        !with_remark(&dropped, "host-not-allowed: evil.test").is_empty(),
        "{dropped:#?}"
    );
}

#[test]
fn each_stream_must_be_to_a_host_that_the_rules_allow() {
    let scene = Scene::new();
    let daemon = scene.daemon("enforce", &[NAMED]);
    for (host, expected) in [("ok.example.com", "200 2"), ("evil.test", "403 2")] {
        let to = format!("{host}:8082:{OK}");
        let url = format!("http://{host}:8082/public");
        let form = "%{http_code} %{http_version}";
        let args = ["-sS", "-m", "10", "-o", "/dev/null", "-w", form];
        let args = [
            &args[..],
            &["--http2-prior-knowledge", "--resolve", &to, &url],
        ]
        .concat();
        assert_eq!(
            scene.web.alice.check("curl", &args).unwrap(),
            expected,
            "{host}"
        );
    }
    let dropped = told(&daemon, "DROPPED");
    let remark = "host-not-allowed: evil.test:8082";
    assert_eq!(with_remark(&dropped, remark).len(), 1, "{dropped:#?}");
}

#[test]
fn audit_lets_all_of_it_pass_and_says_so() {
    let scene = Scene::new();
    let daemon = scene.daemon("audit", &[NAMED]);
    for host in ["ok.example.com", "evil.test", OK] {
        let output = scene.https(host, OK);
        assert!(served(&output), "{host}: {output:?}");
    }
    assert_eq!(
        scene.http(&["evil.test", "ok.example.com"]),
        ["200 1", "200 0"]
    );
    let output = scene.https("ok.example.com", LONE);
    assert_eq!(output.status.code(), SILENT, "not learned: {output:?}");
    let audited = told(&daemon, "AUDIT");
    for remark in ["sni-not-allowed: evil.test", "sni-not-allowed"] {
        let flows = with_remark(&audited, remark);
        assert_eq!(flows.len(), 1, "{remark} {audited:#?}");
        assert_eq!(flows[0]["destination_names"][0], "ok.example.com");
        assert_eq!(flows[0]["egress_denied_by"][0]["name"], "alice");
        assert_eq!(flows[0]["is_reply"], false);
        for unset in ["drop_reason_desc", "egress_allowed_by"] {
            assert!(flows[0][unset].is_null(), "{unset}: {}", flows[0]);
        }
        assert_eq!(
            with_remark(&audited, "name-binding: audit").len(),
            audited.len()
        );
    }
    let requests = with_remark(&audited, "host-not-allowed: evil.test");
    assert_eq!(requests.len(), 1, "{audited:#?}");
    assert_eq!(counted(&daemon, "http_refused_total", "sni-not-allowed"), 0);
    // What can't be judged passes too.
    let server = Greeter::serve(&scene.web.world, 9_001, b"220 hello\r\n");
    let mut stream = scene.connect(9_001);
    hear(&mut stream, b"220 hello\r\n");
    stream.write_all(b"\x16\x03\x01\x00\x00").unwrap();
    hear(&mut stream, b"\x16\x03\x01\x00\x00");
    assert_eq!(server.got(), b"\x16\x03\x01\x00\x00");
}

#[test]
fn who_speaks_neither_tls_nor_http_is_left_alone() {
    let scene = Scene::new();
    let daemon = scene.daemon("enforce", &[NAMED]);
    let banner = b"SSH-2.0-x\r\n";
    let server = Greeter::serve(&scene.web.world, 2_222, banner);
    #[expect(clippy::disallowed_methods, reason = "how long a client waits")]
    let begin = Instant::now();
    let mut stream = scene.connect(2_222);
    hear(&mut stream, banner);
    assert!(begin.elapsed() < Duration::from_millis(1_500), "it waited");
    let mut patient = scene.connect(2_222);
    hear(&mut patient, banner);
    stream.write_all(b"SSH-2.0-y\r\n").unwrap();
    hear(&mut stream, b"SSH-2.0-y\r\n");
    stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    hear(&mut stream, b"GET / HTTP/1.1\r\n");
    assert_eq!(counted(&daemon, "http_name_binding_total", "opaque"), 1);
    let forwarded = told(&daemon, "FORWARDED");
    assert_eq!(with_remark(&forwarded, "opaque").len(), 1, "{forwarded:#?}");

    // A binary protocol whose client begins.
    let echo = Greeter::serve(&scene.web.world, 5_432, b"");
    let mut binary = scene.connect(5_432);
    binary
        .write_all(b"\x00\x00\x00\x08\x04\xd2\x16\x2f")
        .unwrap();
    hear(&mut binary, b"\x00\x00\x00\x08\x04\xd2\x16\x2f");
    drop(binary);
    assert_eq!(echo.got().len(), 8);

    // That the server speaks first excuses nothing.
    let mut stream = scene.connect(2_222);
    hear(&mut stream, banner);
    let before = server.got().len();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: ok.example.com\r\n\r\n")
        .unwrap();
    let error = stream.read_exact(&mut [0]).unwrap_err();
    assert_ne!(error.kind(), ErrorKind::WouldBlock, "it is cut");
    let mut stream = scene.connect(2_222);
    hear(&mut stream, banner);
    stream.write_all(b"\x16\x03\x01\x00\x00").unwrap();
    assert_ne!(
        stream.read_exact(&mut [0]).unwrap_err().kind(),
        ErrorKind::WouldBlock,
        "a malformed ClientHello"
    );
    assert_eq!(server.got().len(), before, "nothing of it is sent on");

    // What may be HTTP/2's is for whoever speaks it with the client.
    let settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    let _server = Greeter::serve(&scene.web.world, 9_003, settings);
    let mut stream = scene.connect(9_003);
    stream
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let error = stream.read_exact(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    stream.write_all(b"\x00EHLO").unwrap();
    hear(&mut stream, settings);
    hear(&mut stream, b"\x00EHLO");

    // Nobody is hurried: longer than a client of other rules may be silent.
    std::thread::sleep(Duration::from_secs(16));
    patient.write_all(b"QUIT\r\n").unwrap();
    hear(&mut patient, b"QUIT\r\n");
}

#[test]
fn no_octet_goes_on_before_it_is_known_what_it_is() {
    let scene = Scene::new();
    let _daemon = scene.daemon("enforce", &[NAMED]);
    let server = Greeter::serve(&scene.web.world, 9_002, b"");
    let octets = client_hello(&scene.web.bob, "ok.example.com");
    for said in [
        &octets[..],
        b"EHLO some.where\r\n",
        b"GET /a HTTP/1.1\r\nHost: ok.example.com\r\n\r\n",
    ] {
        let before = server.got().len();
        let mut stream = scene.connect(9_002);
        let half = said.len() / 2;
        for octet in said[..half].chunks(1.max(half / 20)) {
            stream.write_all(octet).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(
            server.got().len(),
            before,
            "{:?}",
            String::from_utf8_lossy(said)
        );
        stream.write_all(&said[half..]).unwrap();
        let got = server.got();
        assert_eq!(&got[before..], said, "as it was said");
    }
}

/// The first record that openssl sends to a server that it calls so.
fn client_hello(at: &Workload, name: &str) -> Vec<u8> {
    let server = Greeter::serve(at, 9_443, b"");
    let args = [
        "s_client",
        "-connect",
        "127.0.0.1:9443",
        "-servername",
        name,
    ];
    at.output("openssl", &args).unwrap();
    let mut octets = server.got();
    assert!(octets.starts_with(b"\x16\x03"), "{octets:?}");
    let length = usize::from(u16::from_be_bytes([octets[3], octets[4]]));
    octets.truncate(5 + length);
    octets
}

#[test]
fn without_binding_and_where_another_rule_allows_it_the_kernel_lets_it_pass() {
    let scene = Scene::new();
    let strict = about_alice(&[DNS, NAMED].join(", ")).replace(
        "{name: alice}",
        "{name: alice, annotations: {namegate.io/name-binding: enforce}}",
    );
    let slack = strict.replace("enforce", "'off'");
    for (how, policy, is_redirected) in [
        ("off", Scene::policy(&[NAMED]), false),
        ("enforce", Scene::policy(&[NAMED]), true),
        ("enforce", Scene::policy(&[NAMED, BY_CIDR]), false),
        ("enforce", slack, false),
        ("off", strict, true),
    ] {
        let daemon = scene.daemon_with(&["--name-binding", how], &policy);
        let before = daemon.counter("redirected").unwrap();
        let output = scene.https("evil.test", OK);
        assert_eq!(
            served(&output),
            !is_redirected,
            "{how} {policy}: {output:?}"
        );
        let redirected = daemon.counter("redirected").unwrap() > before;
        assert_eq!(redirected, is_redirected, "{how} {policy}");
        let accepted = counted(&daemon, "http_connections_total", "accepted");
        assert_eq!(accepted, u64::from(is_redirected), "{how} {policy}");
        detach(&daemon);
    }
}

/// Takes everything away, so that the next daemon begins anew.
fn detach(daemon: &Daemon<'_>) {
    let socket = daemon.path("namegate.sock").display().to_string();
    let output = daemon.namegate(&["detach", "--socket", &socket]).unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_tunnel_whose_name_is_allowed_no_longer_is_cut_within_a_second() {
    let scene = Scene::new();
    let daemon = scene.daemon("enforce", &[NAMED, TWO]);
    let change = |rules: &[&str]| {
        let text = Scene::policy(rules);
        daemon.change_policy("alice.yaml", &text).unwrap();
    };
    let mut two = Held::open(&scene.web, "two.example.com");
    let mut ok = Held::open(&scene.web, "ok.example.com");
    change(&[NAMED]);
    assert!(
        two.ends_within(Duration::from_secs(1)),
        "its name is no longer one"
    );
    assert!(!ok.ends_within(Duration::from_secs(1)), "still allowed");
    let mut silent = scene.connect(8_080);
    change(&[TWO]);
    assert!(ok.ends_within(Duration::from_secs(1)));
    silent
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    let end = silent.read(&mut [0]);
    assert!(
        !matches!(&end, Err(error) if error.kind() == ErrorKind::WouldBlock),
        "who has said nothing is cut too: {end:?}"
    );
}

/// A TLS connection of alice's to ok.example.com's address that stays open.
struct Held {
    child: Child,
    _input: ChildStdin,
}

impl Held {
    fn open(web: &Web, name: &str) -> Self {
        let to = format!("{OK}:443");
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
