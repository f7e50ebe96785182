//! Requests by rule: which may be made, what a denied one is answered, and that nothing of it leaves.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use namegate_tests::{BIG_OCTETS, Daemon, Web, Workload, about, about_alice, observed, patience};

/// Whoever it is, on a port, by these HTTP rules.
fn asked(port: u16, rules: &str) -> String {
    format!(
        "{{toPorts: [{{ports: [{{port: '{port}', protocol: TCP}}], rules: {{http: [{rules}]}}}}]}}"
    )
}

const PUBLIC: &str = "{method: GET, path: '/public(/.*)?'}, {method: POST, path: /up}";

fn url(server: IpAddr, path: &str) -> String {
    match server {
        IpAddr::V4(v4) => format!("http://{v4}{path}"),
        IpAddr::V6(v6) => format!("http://[{v6}]{path}"),
    }
}

/// Status and body of each of these, by one curl and so by one connection where that is kept.
fn curl(from: &Workload, urls: &[String]) -> Vec<(String, String)> {
    let mut args = vec!["-sS", "-m", "10", "-w", "%{http_code} %{num_connects}\n"];
    args.extend(urls.iter().map(String::as_str));
    let output = from.output("curl", &args).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    lines
        .chunks(2)
        .map(|pair| (pair[1].to_owned(), pair[0].to_owned()))
        .collect()
}

#[test]
fn each_request_of_a_connection_is_judged_alone_in_both_families() {
    let web = Web::new().unwrap();
    let daemon = web.egress(&asked(80, PUBLIC)).unwrap();
    let (world, bob) = (&web.world, &web.bob);
    for server in [
        world.v4.into(),
        IpAddr::from(world.v6),
        bob.v4.into(),
        bob.v6.into(),
    ] {
        let asked = [
            "/public",
            "/secret",
            "/public/x?y=z",
            "/",
            "/public/../secret",
        ];
        let answers = curl(&web.alice, &asked.map(|path| url(server, path)));
        let statuses: Vec<&str> = answers.iter().map(|(status, _)| &**status).collect();
        assert_eq!(
            statuses,
            ["200 1", "403 0", "200 0", "403 0", "403 0"],
            "{server}: {answers:?}"
        );
        assert!(answers[2].1.ends_with(" /public/x?y=z"), "{answers:?}");
        assert_eq!(answers[1].1, "Access denied");
        if server == IpAddr::from(bob.v4) {
            assert!(answers[0].1.starts_with("10.0.0.2 "), "{answers:?}");
        }
    }
    let status = daemon.status().unwrap();
    assert_eq!(
        status["http"]["http_requests_total"]["forwarded"], 8,
        "{status:#}"
    );
    assert_eq!(status["http"]["http_requests_total"]["denied"], 12);
}

#[test]
fn requests_and_responses_are_told_as_hubble_tells_them() {
    let web = Web::new().unwrap();
    let daemon = web.egress(&asked(80, PUBLIC)).unwrap();
    let urls = ["/public/a?b=c", "/secret"].map(|path| url(web.world.v4.into(), path));
    let cookie = [
        "-sS",
        "-H",
        "cookie: s3cret",
        "-H",
        "x-one: 1",
        &*urls[0],
        &*urls[1],
    ];
    web.alice.check("curl", &cookie).unwrap();
    let told = observed(&daemon, &["--protocol", "http"]).unwrap();
    let server = web.world.v4;
    for line in [
        format!("http-request FORWARDED (HTTP/1.1 GET http://{server}/public/a?b=c)"),
        format!("http-request DROPPED (HTTP/1.1 GET http://{server}/secret)"),
        format!(" (GET http://{server}/public/a?b=c))"),
        format!(" (GET http://{server}/secret))"),
    ] {
        assert_eq!(told.matches(&line).count(), 1, "{line}\n{told}");
    }
    assert_eq!(
        told.matches("http-response FORWARDED (HTTP/1.1 200 ")
            .count(),
        1,
        "{told}"
    );
    assert_eq!(
        told.matches("http-response FORWARDED (HTTP/1.1 403 ")
            .count(),
        1,
        "{told}"
    );
    assert_eq!(told.lines().count(), 4, "{told}");
    let json = observed(&daemon, &["--protocol", "http", "-o", "json"]).unwrap();
    let request = json.lines().next().unwrap();
    for part in [
        "\"type\":\"REQUEST\"",
        "{\"key\":\"X-One\",\"value\":\"1\"}",
        "{\"key\":\"Cookie\",\"value\":\"HUBBLE_REDACTED\"}",
        "\"egress_allowed_by\":[{\"name\":\"alice\"",
        "\"traffic_direction\":\"EGRESS\"",
    ] {
        assert!(request.contains(part), "{part}\n{request}");
    }
    assert!(!json.contains("s3cret"));
    let response = json.lines().nth(1).unwrap();
    assert!(response.contains("\"latency_ns\":\"") && response.contains("\"code\":200"));
    assert!(
        response.contains("\"source_port\":80"),
        "the server is its source: {response}"
    );
}

/// What is only audited passes, and is told.
#[test]
fn an_audited_endpoint_makes_any_request_and_each_is_told_as_audited() {
    let web = Web::new().unwrap();
    let mut daemon = Daemon::prepare(&web.node).unwrap();
    daemon.endpoint(&web.alice).unwrap();
    daemon
        .policy("alice.yaml", &about_alice(&asked(80, PUBLIC)))
        .unwrap();
    daemon.start(&["--audit"]).unwrap();
    let urls = ["/public", "/secret"].map(|path| url(web.world.v4.into(), path));
    let answers = curl(&web.alice, &urls);
    assert_eq!(
        (&*answers[0].0, &*answers[1].0),
        ("200 1", "200 0"),
        "{answers:?}"
    );
    let told = observed(&daemon, &["--protocol", "http"]).unwrap();
    assert!(
        told.contains("http-request AUDIT (HTTP/1.1 GET http://203.0.113.2/secret)"),
        "{told}"
    );
    assert!(
        told.contains("http-request FORWARDED (HTTP/1.1 GET http://203.0.113.2/public)"),
        "{told}"
    );
}

/// A server that keeps all that it gets and answers each head with 200.
struct Recorder {
    got: Arc<Mutex<Vec<u8>>>,
}

impl Recorder {
    fn serve(at: &Workload, port: u16) -> Self {
        #[expect(clippy::disallowed_methods, reason = "a server outside of the gate")]
        let listener = at
            .ns
            .run(|| TcpListener::bind(("::", port)))
            .unwrap()
            .unwrap();
        let got = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&got);
        // It ends with the process of the test.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || Self::answer(stream, &kept));
            }
        });
        Self { got }
    }

    fn answer(mut stream: TcpStream, kept: &Mutex<Vec<u8>>) {
        let (mut buffer, mut head) = ([0; 4096], Vec::<u8>::new());
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            kept.lock().unwrap().extend(&buffer[..count]);
            head.extend(&buffer[..count]);
            while let Some(at) = head.windows(4).position(|four| four == b"\r\n\r\n") {
                head.drain(..at + 4);
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                if stream.write_all(answer).is_err() {
                    return;
                }
            }
        }
    }

    fn text(&self) -> String {
        std::thread::sleep(Duration::from_millis(200));
        String::from_utf8_lossy(&self.got.lock().unwrap()).into_owned()
    }
}

#[test]
fn nothing_of_a_denied_request_reaches_the_server_and_each_gets_its_answer() {
    let web = Web::new().unwrap();
    let _daemon = web.egress(&asked(9_000, PUBLIC)).unwrap();
    let recorder = Recorder::serve(&web.world, 9_000);
    let one = |path: &str, mark: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nX-Mark: {mark}\r\n\r\n")
    };
    let three = [
        one("/public/1", "a1"),
        one("/secret", "d2"),
        one("/public/3", "a3"),
    ]
    .concat();
    let posted = "POST /secret HTTP/1.1\r\nHost: a.test\r\nContent-Length: 11\r\n\r\nGET /d4 HTT";
    let smuggled = "POST /up HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nd5";
    for (said, statuses) in [
        (
            format!(
                "{three}{}",
                one("/public/4", "a4").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
            ),
            &[200, 403, 200, 200][..],
        ),
        (
            format!(
                "{posted}{}",
                one("/public/5", "a5").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
            ),
            &[403, 200],
        ),
        (smuggled.to_owned(), &[400]),
        ("GET /public HTTP/1.1\nHost: d6\n\n".to_owned(), &[400]),
        ("GET /secret HTTP/1.0\r\nX: d7\r\n\r\n".to_owned(), &[403]),
        (
            "CONNECT d8:80 HTTP/1.1\r\nHost: d8:80\r\nConnection: close\r\n\r\n".to_owned(),
            &[403],
        ),
        (
            "GET http://d9.test/public HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(),
            &[400],
        ),
    ] {
        for cut in [said.len(), 1, said.len() / 3, said.len() / 2] {
            let heard = web.say(9_000, (&said.as_bytes()[..cut], &said.as_bytes()[cut..]));
            let heard = heard.unwrap_or_else(|error| panic!("{said:?} cut at {cut}: {error}"));
            let heard = String::from_utf8(heard).unwrap();
            let got: Vec<u16> = heard
                .match_indices("HTTP/1.1 ")
                .map(|(at, _)| heard[at + 9..at + 12].parse().unwrap())
                .collect();
            assert_eq!(got, statuses, "{said:?} cut at {cut}: {heard}");
        }
    }
    let got = recorder.text();
    for mark in ["d2", "d4", "d5", "d6", "d7", "d8", "d9", "secret"] {
        assert!(!got.contains(mark), "{mark}: {got}");
    }
    for mark in ["a1", "a3", "a4", "a5"] {
        assert_eq!(got.matches(mark).count(), 4, "{mark}: {got}");
    }
    assert_eq!(
        got.matches("X-Mark: ").count(),
        16,
        "as it was written: {got}"
    );
}

#[test]
fn what_is_not_http_never_passes_a_port_with_http_rules() {
    let web = Web::new().unwrap();
    let daemon = web
        .egress(&format!("{}, {}", asked(443, "{}"), asked(80, "{}")))
        .unwrap();
    for octets in [&b"SSH-2.0-x\r\n"[..], b"\x00\x01\x02"] {
        if let Ok(heard) = web.say(80, (octets, b"")) {
            assert!(heard.starts_with(b"HTTP/1.1 400"), "{octets:?}: {heard:?}");
        }
    }
    let output = web
        .alice
        .output(
            "curl",
            &["-sSk", "-m", "5", &format!("https://{}/", web.world.v4)],
        )
        .unwrap();
    assert_eq!(output.status.code(), Some(35), "TLS: {output:?}");
    let told = observed(&daemon, &["--verdict", "DROPPED", "-o", "json"]).unwrap();
    assert!(told.contains("\"tls-on-a-port-with-http-rules\""), "{told}");
}

#[test]
fn inbound_requests_are_judged_and_each_side_sees_the_other() {
    let web = Web::new().unwrap();
    let spec = format!("ingress: [{}]", asked(80, PUBLIC));
    let daemon = web.daemon(&[("bob.yaml", about("bob", &spec))]).unwrap();
    for (server, client) in [
        (IpAddr::from(web.bob.v4), "10.0.0.2 "),
        (web.bob.v6.into(), "fd00::2 "),
    ] {
        let answers = curl(
            &web.alice,
            &["/public", "/secret", "/public/b"].map(|path| url(server, path)),
        );
        let statuses: Vec<&str> = answers.iter().map(|(status, _)| &**status).collect();
        assert_eq!(
            statuses,
            ["200 1", "403 0", "200 0"],
            "{server}: {answers:?}"
        );
        assert!(answers[0].1.starts_with(client), "{answers:?}");
    }
    web.world
        .check(
            "ip",
            &["route", "replace", "10.0.0.0/24", "via", "203.0.113.1"],
        )
        .unwrap();
    let from_world = curl(
        &web.world,
        &[
            url(web.bob.v4.into(), "/public"),
            url(web.bob.v4.into(), "/no"),
        ],
    );
    assert_eq!(from_world[1].0, "403 0", "{from_world:?}");
    assert!(
        from_world[0].1.starts_with("203.0.113.2 "),
        "{from_world:?}"
    );
    let told = observed(&daemon, &["--protocol", "http", "-o", "json"]).unwrap();
    assert_eq!(
        told.matches("\"traffic_direction\":\"INGRESS\"").count(),
        16,
        "{told}"
    );
    assert!(
        told.contains("\"ingress_allowed_by\":[{\"name\":\"bob\""),
        "{told}"
    );
}

/// A virtual address, port 80, whose backend serves another: ingress rules mean the backend's port, and so
/// do egress rules for the service.
#[test]
fn requests_through_a_virtual_address_are_judged_by_the_backends_port() {
    let web = Web::new().unwrap();
    web.node
        .nft(
            "table ip services {
               chain pre {
                 type nat hook prerouting priority -100;
                 ip daddr 10.96.0.20 tcp dport 80 dnat to 10.0.0.3:8080
               }
             }",
        )
        .unwrap();
    let inbound = format!("ingress: [{}]", asked(8_080, PUBLIC));
    let mut daemon = Daemon::prepare(&web.node).unwrap();
    daemon.endpoint(&web.alice).unwrap();
    daemon.endpoint(&web.bob).unwrap();
    daemon
        .endpoint_file("services.yaml", "services:\n- {name: web, vip: 10.96.0.20, backends: [10.0.0.3], ports: [{port: 80, target: 8080}]}\n")
        .unwrap();
    daemon.policy("bob.yaml", &about("bob", &inbound)).unwrap();
    daemon.start(&[]).unwrap();
    let ask = || {
        curl(
            &web.alice,
            &["/public/a", "/secret"].map(|path| format!("http://10.96.0.20{path}")),
        )
    };
    let answers = ask();
    assert_eq!(
        (&*answers[0].0, &*answers[1].0),
        ("200 1", "403 0"),
        "{answers:?}"
    );
    assert!(answers[0].1.starts_with("10.0.0.2 "), "{answers:?}");
    let to_bob = "{toEndpoints: [{matchLabels: {app: bob}}], toPorts: [{ports: [{port: '8080', protocol: TCP}], rules: {http: [{path: '/public/a'}, {path: '/secret'}]}}]}";
    daemon
        .change_policy("alice.yaml", &about_alice(to_bob))
        .unwrap();
    let answers = ask();
    assert_eq!(
        (&*answers[0].0, &*answers[1].0),
        ("200 1", "403 0"),
        "both sides: {answers:?}"
    );
    daemon
        .change_policy(
            "bob.yaml",
            &about("bob", "ingress: [{fromEntities: [all]}]"),
        )
        .unwrap();
    let answers = ask();
    assert_eq!(
        (&*answers[0].0, &*answers[1].0),
        ("200 1", "200 0"),
        "alice's alone: {answers:?}"
    );
    daemon
        .change_policy("alice.yaml", &about_alice(&to_bob.replace("8080", "80")))
        .unwrap();
    let output = web
        .alice
        .output("curl", &["-sS", "-m", "2", "http://10.96.0.20/public/a"])
        .unwrap();
    assert!(!output.status.success(), "rules mean the target port");
}

#[test]
fn the_next_request_is_judged_by_the_new_policy() {
    let web = Web::new().unwrap();
    let daemon = web.egress(&asked(80, PUBLIC)).unwrap();
    let to = SocketAddr::new(web.world.v4.into(), 80);
    let mut stream = web
        .alice
        .ns
        .run(|| TcpStream::connect_timeout(&to, Duration::from_secs(2) * patience()))
        .unwrap()
        .unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(5) * patience()))
        .unwrap();
    let mut ask = |path: &str| {
        write!(stream, "GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n")?;
        let mut heard = [0; 4096];
        let count = stream.read(&mut heard)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&heard[9..count.max(12)][..3]).into_owned())
    };
    assert_eq!(ask("/public").unwrap(), "200");
    assert_eq!(ask("/other").unwrap(), "403");
    daemon
        .change_policy("alice.yaml", &about_alice(&asked(80, "{path: /other}")))
        .unwrap();
    assert_eq!(ask("/public").unwrap(), "403");
    assert_eq!(ask("/other").unwrap(), "200");
    daemon
        .change_policy(
            "alice.yaml",
            &about_alice("{toPorts: [{ports: [{port: '80', protocol: TCP}]}]}"),
        )
        .unwrap();
    assert_eq!(
        ask("/anything").unwrap(),
        "200",
        "opened: the connection goes on by the gate"
    );
    daemon
        .change_policy("alice.yaml", &about_alice("{}"))
        .unwrap();
    let error = ask("/public").unwrap_or_else(|error| error.kind().to_string());
    assert_ne!(error, "200", "nothing is allowed");
}

#[test]
fn so_is_the_first_of_a_client_that_waited_for_the_change() {
    let web = Web::new().unwrap();
    let daemon = web.egress(&asked(80, PUBLIC)).unwrap();
    let mut waiting = [web.connect(80).unwrap(), web.connect(80).unwrap()];
    // One has said a part of its request.
    write!(waiting[1], "GET /pub").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    daemon
        .change_policy("alice.yaml", &about_alice(&asked(80, "{path: /other}")))
        .unwrap();
    for (stream, said) in waiting.iter_mut().zip(["GET /public", "lic"]) {
        write!(stream, "{said} HTTP/1.1\r\nHost: a.test\r\n\r\n").unwrap();
        let mut heard = [0; 12];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"HTTP/1.1 403", "{said}");
    }
}

/// A server that takes a body to its end and answers how many octets came.
struct Upload;

impl Upload {
    fn serve(at: &Workload, port: u16) -> Self {
        #[expect(clippy::disallowed_methods, reason = "a server outside of the gate")]
        let listener = at
            .ns
            .run(|| TcpListener::bind(("::", port)))
            .unwrap()
            .unwrap();
        // It ends with the process of the test.
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let _ = Self::take(&mut stream);
            }
        });
        Self
    }

    fn take(stream: &mut TcpStream) -> std::io::Result<()> {
        let mut buffer = vec![0; 1 << 16];
        let count = stream.read(&mut buffer)?;
        let head = String::from_utf8_lossy(&buffer[..count]).into_owned();
        let at = head.find("\r\n\r\n").unwrap() + 4;
        let is_chunked = head.contains("chunked");
        let (mut got, mut last) = ((count - at) as u64, [0; 5]);
        while got < BIG_OCTETS || (is_chunked && &last != b"0\r\n\r\n") {
            let count = stream.read(&mut buffer)?;
            got += count as u64;
            for octet in &buffer[count.saturating_sub(5)..count] {
                last.rotate_left(1);
                last[4] = *octet;
            }
        }
        let text = got.to_string();
        let length = text.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{text}"
        )
    }
}

#[test]
fn large_bodies_pass_in_both_directions() {
    let web = Web::new().unwrap();
    let _daemon = web
        .egress(&format!(
            "{}, {}, {}",
            asked(80, "{path: '/big'}"),
            asked(8_000, "{path: '/.*'}"),
            asked(8_001, "{method: PUT}")
        ))
        .unwrap();
    let target = url(web.world.v4.into(), "/big");
    let args = [
        "-sS",
        "-m",
        "60",
        "-o",
        "/dev/null",
        "-w",
        "%{size_download}",
        &*target,
    ];
    assert_eq!(
        web.alice.check("curl", &args).unwrap(),
        BIG_OCTETS.to_string()
    );
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("up");
    std::fs::File::create(&file)
        .unwrap()
        .set_len(BIG_OCTETS)
        .unwrap();
    let file = file.display().to_string();
    let _sink = Upload::serve(&web.world, 8_001);
    for framing in ["content-type: a/b", "transfer-encoding: chunked"] {
        let target = format!("http://[{}]:8001/", web.world.v6);
        let args = [
            "-sS",
            "-m",
            "60",
            "-w",
            " %{http_code}",
            "-H",
            framing,
            "-T",
            &file,
            &*target,
        ];
        let text = web.alice.check("curl", &args).unwrap();
        let got: u64 = text.strip_suffix(" 200").unwrap().parse().unwrap();
        assert!(got >= BIG_OCTETS, "{framing}: {text}");
    }
}
