//! TLS that is ended here and begun anew: the client sees the gate's certificate, the server is verified,
//! and each request is judged.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::fs;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use httpproxy::limits::TLS_WAIT_MAX;
use namegate_tests::ended::{
    BEGUN, ENDED, PUBLIC, Trust, ask, curl, refused, secrets, statuses, to,
};
use namegate_tests::{Authority, Daemon, Running, TcpEcho, Web, about_alice, observed};

#[test]
fn requests_in_tls_are_judged_and_the_server_sees_its_client() {
    let trust = Trust::new().unwrap();
    let web = trust.web(&["ok.test"]).unwrap();
    let policy = about_alice(&to(443, &[ENDED, BEGUN, PUBLIC]));
    let daemon = trust
        .daemon(&web, &["ok.test"], &[("alice.yaml", policy)])
        .unwrap();
    let gate = trust.file("gate");
    for server in [
        IpAddr::from(web.world.v4),
        web.world.v6.into(),
        web.bob.v4.into(),
    ] {
        let paths = ["/public", "/secret", "/public?x=1"];
        let (code, text, complaint) = ask(&web.alice, &gate, ("ok.test", server), &paths).unwrap();
        assert_eq!(code, 0, "{complaint}");
        assert_eq!(statuses(&text), ["200 1.1", "403 1.1", "200 1.1"], "{text}");
        assert!(text.contains("Access denied"), "{text}");
        assert!(text.contains("ok.test /public?x=1"), "{text}");
        let is_bob = server == IpAddr::from(web.bob.v4);
        assert!(!is_bob || text.starts_with("10.0.0.2 "), "{text}");
    }
    let (code, ..) = ask(
        &web.alice,
        &trust.file("servers"),
        ("ok.test", web.world.v4.into()),
        &["/public"],
    )
    .unwrap();
    assert_eq!(
        code, 60,
        "the gate's certificate is not one of the servers' authority"
    );
    let told = observed(&daemon, &["--protocol", "http", "-o", "json"]).unwrap();
    assert!(
        told.contains("\"url\":\"https://ok.test/public\""),
        "{told}"
    );
    assert!(
        told.contains("\"url\":\"https://ok.test/secret\""),
        "{told}"
    );
    // A session is resumed with the gate, and its requests are judged all the same.
    let address = format!("{}:443", web.world.v4);
    let again = ["-tls1_2", "-reconnect", "-servername", "ok.test"];
    let all = [&["s_client", "-connect", &address], &again[..]].concat();
    let output = web.alice.output("openssl", &all).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("Reused, TLSv1.2"), "{said}");
    // An absolute target has the scheme of what is inside.
    let url = "GET https://ok.test/public HTTP/1.1\r\nHost: ok.test\r\n\r\n";
    let mut held = Held::open(&web, &gate, "ok.test");
    assert!(held.say(url).starts_with("HTTP/1.1 200"));
    let plain = "GET http://ok.test/public HTTP/1.1\r\nHost: ok.test\r\n\r\n";
    assert!(
        held.say(plain).starts_with("HTTP/1.1 400"),
        "another scheme"
    );
}

#[test]
fn a_server_whose_certificate_is_another_one_gets_no_request() {
    let trust = Trust::new().unwrap();
    let web = trust.web(&["ok.test"]).unwrap();
    let policy = about_alice(&to(443, &[ENDED, BEGUN, PUBLIC]));
    let daemon = trust
        .daemon(&web, &["ok.test", "other.test"], &[("alice.yaml", policy)])
        .unwrap();
    let (gate, server) = (trust.file("gate"), IpAddr::from(web.world.v4));
    // Another name than the server's.
    let (code, text, _) = ask(&web.alice, &gate, ("other.test", server), &["/public"]).unwrap();
    assert_eq!((code, statuses(&text)), (0, vec!["502 1.1"]), "{text}");
    let (_, text, _) = ask(&web.alice, &gate, ("other.test", server), &["/secret"]).unwrap();
    assert_eq!(statuses(&text), ["403 1.1"], "{text}");
    assert_eq!(refused(&daemon, "server-certificate-refused").unwrap(), 2);
    // Another authority than the server's.
    let others = Authority::new("others").unwrap();
    let revision = daemon.status().unwrap()["policy"]["revision"]
        .as_u64()
        .unwrap();
    daemon.secret("web/roots", "ca.crt", others.pem()).unwrap();
    daemon.wait_beyond(revision).unwrap();
    let (code, text, _) = ask(&web.alice, &gate, ("ok.test", server), &["/public"]).unwrap();
    assert_eq!((code, statuses(&text)), (0, vec!["502 1.1"]), "{text}");
    let told = observed(&daemon, &["--verdict", "DROPPED", "-o", "json"]).unwrap();
    for word in [
        "server-certificate-refused: other.test (invalid peer certificate: certificate not valid for name",
        "server-certificate-refused: ok.test (invalid peer certificate: UnknownIssuer)",
    ] {
        assert!(told.contains(word), "{word}: {told}");
    }
    let heard = observed(&daemon, &["--http-status", "502", "-o", "json"]).unwrap();
    assert_eq!(heard.matches("\"code\":502").count(), 2, "{heard}");
}

#[test]
fn a_name_without_a_certificate_is_told_so_in_tls() {
    let trust = Trust::new().unwrap();
    let web = trust.web(&["ok.test"]).unwrap();
    let policy = about_alice(&to(443, &[ENDED, BEGUN, PUBLIC]));
    let daemon = trust
        .daemon(&web, &["ok.test"], &[("alice.yaml", policy)])
        .unwrap();
    let server = IpAddr::from(web.world.v4);
    let (code, _, complaint) = ask(
        &web.alice,
        &trust.file("gate"),
        ("evil.test", server),
        &["/public"],
    )
    .unwrap();
    assert_eq!(code, 35, "{complaint}");
    let address = format!("{server}:443");
    let say = |args: &[&str]| {
        let all = [&["s_client", "-connect", &address], args].concat();
        let output = web.alice.output("openssl", &all).unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let complaint = say(&["-servername", "evil.test"]);
    assert!(complaint.contains("unrecognized name"), "{complaint}");
    let complaint = say(&["-noservername"]);
    assert!(
        complaint.contains("unrecognized name"),
        "nothing was learned: {complaint}"
    );
    let complaint = say(&["-servername", "ok.test", "-alpn", "spdy/9"]);
    assert!(complaint.contains("no application protocol"), "{complaint}");
    assert_eq!(
        refused(&daemon, "no-certificate-for-server-name").unwrap(),
        3
    );
    assert_eq!(refused(&daemon, "no-protocol-in-common").unwrap(), 1);
    // Versions that nobody should speak any more, and no TLS at all.
    say(&[
        "-servername",
        "ok.test",
        "-tls1_1",
        "-cipher",
        "ALL:@SECLEVEL=0",
    ]);
    assert_eq!(refused(&daemon, "client-tls-failed").unwrap(), 1);
    let heard = web.say(443, (b"GET /public HTTP/1.1\r\nHost: ok.test\r\n\r\n", b""));
    assert!(heard.is_err(), "{heard:?}");
}

#[test]
fn another_host_than_the_one_that_tls_names_is_misdirected() {
    let trust = Trust::new().unwrap();
    let web = trust.web(&["ok.test", "also.test", "evil.test"]).unwrap();
    let names = "serverNames: [ok.test, also.test]";
    let policy = about_alice(&to(443, &[ENDED, BEGUN, PUBLIC, names]));
    let daemon = trust
        .daemon(
            &web,
            &["ok.test", "also.test", "evil.test"],
            &[("alice.yaml", policy)],
        )
        .unwrap();
    let gate = trust.file("gate");
    let mut held = Held::open(&web, &gate, "ok.test");
    let mut ask = |host: &str| {
        let said = format!("GET /public HTTP/1.1\r\nHost: {host}\r\n\r\n");
        held.say(&said)[9..12].to_owned()
    };
    for (host, status) in [
        ("ok.test", "200"),
        ("OK.test:443", "200"),
        ("also.test", "200"), // of the same rule
        ("evil.test", "421"),
        ("10.0.0.1", "421"),
        ("ok.test", "200"),
    ] {
        assert_eq!(ask(host), status, "{host}");
    }
    let told = observed(&daemon, &["--verdict", "DROPPED", "-o", "json"]).unwrap();
    assert!(told.contains("other-name-than-tls"), "{told}");
    let server = IpAddr::from(web.world.v4);
    let (code, ..) = ask_evil(&web, &gate, server);
    assert_eq!(code, 35, "a name that the rule has not");
    assert_eq!(refused(&daemon, "sni-not-allowed").unwrap(), 1);
}

fn ask_evil(web: &Web, gate: &str, server: IpAddr) -> (i32, String, String) {
    ask(&web.alice, gate, ("evil.test", server), &["/public"]).unwrap()
}

/// Two names on one address (issue 9996 of Cilium): one is ended, the other passes as it came.
#[test]
fn rules_on_one_port_have_each_their_own_way() {
    let trust = Trust::new().unwrap();
    let web = trust.web(&["a.example.com", "b.example.com"]).unwrap();
    let zone = "a 60 IN A 198.18.0.1\nb 60 IN A 198.18.0.1\n";
    let _knot = Running::knot(&web.world.ns, zone).unwrap();
    let dns = "{toCIDR: [203.0.113.2/32], toPorts: [{ports: [{port: '53', protocol: ANY}], rules: {dns: [{matchPattern: '*.example.com'}]}}]}";
    let named = |name: &str, rest: &str| {
        format!(
            "{{toFQDNs: [{{matchName: {name}.example.com}}], {}",
            &to(443, &[rest])[1..]
        )
    };
    let ended = named("a", &[ENDED, BEGUN, PUBLIC].join(", "));
    let passing = named("b", "serverNames: [b.example.com]");
    let policy = about_alice(&format!("{dns}, {ended}, {passing}"));
    let daemon = trust
        .daemon(&web, &["*.example.com"], &[("alice.yaml", policy)])
        .unwrap();
    let server: IpAddr = "198.18.0.1".parse().unwrap();
    for name in ["a.example.com", "b.example.com"] {
        let asked = web
            .alice
            .dig(web.world.v4.into(), &["+short", name])
            .unwrap();
        assert_eq!(asked, "198.18.0.1\n");
    }
    let (gate, servers) = (trust.file("gate"), trust.file("servers"));
    let paths = ["/public", "/secret"];
    let (code, text, complaint) =
        ask(&web.alice, &gate, ("a.example.com", server), &paths).unwrap();
    assert_eq!(code, 0, "{complaint}");
    assert_eq!(statuses(&text), ["200 1.1", "403 1.1"], "{text}");
    let (code, text, complaint) =
        ask(&web.alice, &servers, ("b.example.com", server), &paths).unwrap();
    assert_eq!(code, 0, "{complaint}");
    assert_eq!(
        statuses(&text),
        ["200 1.1"; 2],
        "nothing looks into it: {text}"
    );
    let (code, ..) = ask(&web.alice, &gate, ("c.example.com", server), &paths).unwrap();
    assert_eq!(code, 35, "neither");
    // Without a name in TLS: the one that was learned and has a rule.
    let url = format!("https://{server}/public");
    let (code, text, complaint) =
        curl(&web.alice, &["-k", "-H", "Host: a.example.com", &url]).unwrap();
    assert_eq!((code, statuses(&text)), (0, vec!["200 1.1"]), "{complaint}");
    let (_, text, _) = curl(&web.alice, &["-k", "-H", "Host: b.example.com", &url]).unwrap();
    assert_eq!(statuses(&text), ["421 1.1"], "{text}");
    let told = observed(&daemon, &["--verdict", "DROPPED", "-o", "json"]).unwrap();
    assert!(told.contains("c.example.com"), "{told}");
}

#[test]
fn a_renewed_certificate_is_shown_to_new_clients_and_breaks_no_connection() {
    let trust = Trust::new().unwrap();
    let web = trust.web(&["ok.test"]).unwrap();
    let policy = about_alice(&to(443, &[ENDED, BEGUN, PUBLIC]));
    let daemon = trust
        .daemon(&web, &["ok.test"], &[("alice.yaml", policy)])
        .unwrap();
    let gate = trust.file("gate");
    let asked = "GET /public HTTP/1.1\r\nHost: ok.test\r\n\r\n";
    let mut held = Held::open(&web, &gate, "ok.test");
    let before = held.certificate.clone();
    assert!(held.say(asked).starts_with("HTTP/1.1 200"));
    let revision = |daemon: &Daemon<'_>| {
        daemon.status().unwrap()["policy"]["revision"]
            .as_u64()
            .unwrap()
    };
    let at = revision(&daemon);
    let renewed = trust.own(&daemon, &["ok.test"]).unwrap();
    daemon.wait_beyond(at).unwrap();
    assert!(held.say(asked).starts_with("HTTP/1.1 200"), "it goes on");
    let mut new = Held::open(&web, &gate, "ok.test");
    assert!(new.say(asked).starts_with("HTTP/1.1 200"));
    // A line of its signature.
    let body = |pem: &str| pem.lines().rev().nth(2).unwrap().to_owned();
    assert!(new.certificate.contains(&body(&renewed)) && !before.contains(&body(&renewed)));
    assert!(held.say(asked).starts_with("HTTP/1.1 200"), "still");
    // What can't be used changes nothing, and is told.
    let key = daemon.path("secrets/web/own/tls.key");
    let at = revision(&daemon);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    daemon.secret("web/own", "touched", "").unwrap();
    daemon.wait_beyond(at).unwrap();
    let status = daemon.status().unwrap().to_string();
    assert!(
        status.contains("0644") && status.contains("tls.key"),
        "{status}"
    );
    let last = Held::open(&web, &gate, "ok.test");
    assert!(last.certificate.contains(&body(&renewed)));
    // The next request is judged by the policy that is in force then.
    let denied = about_alice(&to(443, &[ENDED, BEGUN, "rules: {http: [{path: /other}]}"]));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    daemon.change_policy("alice.yaml", &denied).unwrap();
    assert!(held.say(asked).starts_with("HTTP/1.1 403"));
}

#[test]
fn a_policy_whose_secret_cannot_be_used_is_refused() {
    let trust = Trust::new().unwrap();
    let web = trust.web(&["ok.test"]).unwrap();
    let policy = about_alice(&to(443, &[ENDED, BEGUN, PUBLIC]));
    let mut daemon = trust
        .prepare(&web, &["ok.test"], &[("alice.yaml", policy)])
        .unwrap();
    let key = daemon.path("secrets/web/own/tls.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let secrets = secrets(&daemon);
    daemon.spawn(&["--tls-secrets", &secrets]).unwrap();
    assert_eq!(daemon.wait().unwrap(), Some(78));
    let said = daemon.said();
    for word in [
        "alice.yaml:",
        "terminatingTLS",
        "\"alice\"",
        "web/own/tls.key",
        "0640",
        "chmod 0600",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    daemon.spawn(&[]).unwrap();
    assert_eq!(daemon.wait().unwrap(), Some(78));
    assert!(daemon.said().contains("--tls-secrets"));
}

#[test]
fn a_server_that_wants_a_certificate_of_its_client_gets_no_request() {
    let trust = Trust::new().unwrap();
    let web = trust.web(&["ok.test"]).unwrap();
    let issued = trust.servers.issue(&["ok.test"]).unwrap();
    let (certificate, key) = (trust.file("certificate"), trust.file("key"));
    fs::write(&certificate, &issued.certificate).unwrap();
    fs::write(&key, &issued.key).unwrap();
    let serve = || {
        Command::new("openssl")
            .args(["s_server", "-accept", "9443", "-www", "-verify", "1"])
            .args(["-cert", &certificate, "-key", &key])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
    };
    let _server = Killed(web.world.ns.run(serve).unwrap().unwrap());
    std::thread::sleep(Duration::from_millis(500));
    let policy = about_alice(&to(9443, &[ENDED, BEGUN, "rules: {http: [{}]}"]));
    let daemon = trust
        .daemon(&web, &["ok.test"], &[("alice.yaml", policy)])
        .unwrap();
    let resolve = format!("ok.test:9443:{}", web.world.v4);
    let args = [
        "--cacert",
        &trust.file("gate"),
        "--resolve",
        &resolve,
        "https://ok.test:9443/",
    ];
    let (code, text, complaint) = curl(&web.alice, &args).unwrap();
    assert_eq!((code, statuses(&text)), (0, vec!["502 1.1"]), "{complaint}");
    assert_eq!(
        refused(&daemon, "server-asks-for-client-certificate").unwrap(),
        1
    );
}

#[test]
fn a_server_that_speaks_no_tls_or_nothing_is_answered_for() {
    let trust = Trust::new().unwrap();
    let web = trust.web(&["ok.test"]).unwrap();
    let _echo = TcpEcho::serve(&web.world.ns, 7_443).unwrap();
    #[expect(clippy::disallowed_methods, reason = "a server outside of the gate")]
    let bind = || std::net::TcpListener::bind(("0.0.0.0", 8_444));
    let _silent = web.world.ns.run(bind).unwrap().unwrap();
    let rules = [7_443, 8_444].map(|port| to(port, &[ENDED, BEGUN, "rules: {http: [{}]}"]));
    let policy = about_alice(&rules.join(", "));
    let daemon = trust
        .daemon(&web, &["ok.test"], &[("alice.yaml", policy)])
        .unwrap();
    let ask = |port: u16| {
        let resolve = format!("ok.test:{port}:{}", web.world.v4);
        let url = format!("https://ok.test:{port}/");
        let gate = trust.file("gate");
        curl(
            &web.alice,
            &["-m", "30", "--cacert", &gate, "--resolve", &resolve, &url],
        )
        .unwrap()
    };
    let (code, text, complaint) = ask(7_443);
    assert_eq!((code, statuses(&text)), (0, vec!["502 1.1"]), "{complaint}");
    #[expect(clippy::disallowed_methods, reason = "how long a client waits")]
    let begin = std::time::Instant::now();
    let (code, text, complaint) = ask(8_444);
    assert_eq!((code, statuses(&text)), (0, vec!["502 1.1"]), "{complaint}");
    assert!(begin.elapsed() >= TLS_WAIT_MAX, "{:?}", begin.elapsed());
    assert_eq!(refused(&daemon, "server-tls-failed").unwrap(), 2);
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An answer of many octets, to a client that takes its time, and one to the server.
#[test]
fn bodies_pass_whole_in_both_directions() {
    let trust = Trust::new().unwrap();
    let web = trust.web(&["ok.test"]).unwrap();
    let all = "rules: {http: [{}]}";
    let rules = [to(443, &[ENDED, BEGUN, all]), to(8_001, &[ENDED, all])];
    let policy = about_alice(&rules.join(", "));
    let _daemon = trust
        .daemon(&web, &["ok.test"], &[("alice.yaml", policy)])
        .unwrap();
    let resolve = format!("ok.test:443:{}", web.world.v4);
    let gate = trust.file("gate");
    let args = [
        "-sS",
        "-m",
        "60",
        "--limit-rate",
        "40M",
        "-o",
        "/dev/null",
        "-w",
        "%{size_download}",
    ];
    let all = [
        &args[..],
        &[
            "--cacert",
            &gate,
            "--resolve",
            &resolve,
            "https://ok.test/big",
        ],
    ]
    .concat();
    let size = web.alice.check("curl", &all).unwrap();
    assert_eq!(size, namegate_tests::BIG_OCTETS.to_string());
    let upload = trust.file("upload");
    fs::File::create(&upload).unwrap().set_len(OCTETS).unwrap();
    #[expect(clippy::disallowed_methods, reason = "a server outside of the gate")]
    let bind = || std::net::TcpListener::bind(("0.0.0.0", 8_001));
    let listener = web.world.ns.run(bind).unwrap().unwrap();
    let taken = std::thread::spawn(move || take(&listener));
    let (to, data) = (
        format!("ok.test:8001:{}", web.world.v4),
        format!("@{upload}"),
    );
    let args = ["-sS", "-m", "60", "--resolve", &to, "--data-binary", &data];
    let args = [&args[..], &["--cacert", &gate, "https://ok.test:8001/up"]].concat();
    assert_eq!(web.alice.check("curl", &args).unwrap(), "taken");
    assert_eq!(taken.join().unwrap(), OCTETS);
}

const OCTETS: u64 = 24 << 20;

/// Takes one request with so much content, and answers then.
fn take(listener: &std::net::TcpListener) -> u64 {
    let (mut stream, _) = listener.accept().unwrap();
    let (mut text, mut octet) = (Vec::new(), [0]);
    while !text.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut octet).unwrap(), 1);
        text.extend(octet);
    }
    let mut content = (&mut stream).take(OCTETS);
    let count = std::io::copy(&mut content, &mut std::io::sink()).unwrap();
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ntaken";
    stream.write_all(answer).unwrap();
    count
}

/// A TLS connection of alice's to the world that stays open.
struct Held {
    child: Child,
    /// What was said of the server's certificate.
    certificate: String,
}

impl Held {
    fn open(web: &Web, ca: &str, name: &str) -> Self {
        let address = format!("{}:443", web.world.v4);
        let spawn = || {
            Command::new("openssl")
                .args(["s_client", "-connect", &address, "-servername", name])
                .args(["-CAfile", ca, "-verify_return_error", "-ign_eof"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
        };
        let child = web.alice.ns.run(spawn).unwrap().unwrap();
        let mut held = Self {
            child,
            certificate: String::new(),
        };
        held.certificate = held.read_to("Verify return code: 0 (ok)");
        held
    }

    /// What comes up to and with this.
    fn read_to(&mut self, end: &str) -> String {
        let output = self.child.stdout.as_mut().unwrap();
        let (mut text, mut octet) = (Vec::new(), [0]);
        while !text.ends_with(end.as_bytes()) {
            let count = output.read(&mut octet).unwrap();
            assert_eq!(count, 1, "{}", String::from_utf8_lossy(&text));
            text.extend(octet);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The response to what is said, which has a line or a short text as its body.
    fn say(&mut self, request: &str) -> String {
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(request.as_bytes()).unwrap();
        input.flush().unwrap();
        self.read_to("HTTP/1.1 ");
        let head = self.read_to("\r\n\r\n");
        let length = head.to_ascii_lowercase();
        let length = length.split("content-length: ").nth(1).unwrap();
        let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
        let mut body = vec![0; length];
        let output = self.child.stdout.as_mut().unwrap();
        output.read_exact(&mut body).unwrap();
        format!("HTTP/1.1 {head}{}", String::from_utf8_lossy(&body))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
