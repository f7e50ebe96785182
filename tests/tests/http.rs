//! Requests by rule: which may be made, what a denied one is answered, and that nothing of it leaves.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use namegate_tests::{BIG_OCTETS, Daemon, Node, Running, Workload};

/// Alice asks; nginx answers at bob's, on the same bridge, and elsewhere.
struct Scene {
    node: Node,
    alice: Workload,
    bob: Workload,
    world: Workload,
    _nginx: [Running; 2],
}

impl Scene {
    fn new() -> Self {
        let node = Node::new().unwrap();
        let [alice, bob] =
            [("alice", 2), ("bob", 3)].map(|(name, n)| node.workload(name, n).unwrap());
        let world = node.elsewhere().unwrap();
        Self {
            _nginx: [&bob, &world].map(|at| Running::nginx(&at.ns).unwrap()),
            node,
            alice,
            bob,
            world,
        }
    }

    /// A daemon that guards alice and bob, with these policies.
    fn daemon(&self, policies: &[(&str, String)]) -> Daemon<'_> {
        let mut daemon = Daemon::prepare(&self.node).unwrap();
        daemon.endpoint(&self.alice).unwrap();
        daemon.endpoint(&self.bob).unwrap();
        for (file, text) in policies {
            daemon.policy(file, text).unwrap();
        }
        daemon.start(&[]).unwrap();
        daemon
    }

    /// A daemon with these egress rules of alice's.
    fn egress(&self, rules: &str) -> Daemon<'_> {
        self.daemon(&[("alice.yaml", about_alice(rules))])
    }

    /// What alice hears when she sends this to a port of the world's.
    fn say(&self, port: u16, octets: &[u8]) -> std::io::Result<Vec<u8>> {
        let to = SocketAddr::new(self.world.v4.into(), port);
        let talk = || {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(octets)?;
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard)?;
            Ok(heard)
        };
        self.alice.ns.run(talk).unwrap()
    }
}

fn about(who: &str, spec: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {who}}}\n\
         spec: {{endpointSelector: {{matchLabels: {{app: {who}}}}}, {spec}}}\n"
    )
}

fn about_alice(egress: &str) -> String {
    about("alice", &format!("egress: [{egress}]"))
}

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

/// What `observe` shows with these flags.
fn observed(daemon: &Daemon<'_>, flags: &[&str]) -> String {
    // What was told last is a flow a moment later.
    std::thread::sleep(Duration::from_millis(300));
    let socket = daemon.path("namegate.sock").display().to_string();
    let args = [&["observe", "--socket", &socket], flags].concat();
    String::from_utf8(daemon.namegate(&args).unwrap().stdout).unwrap()
}

#[test]
fn each_request_of_a_connection_is_judged_alone_in_both_families() {
    let scene = Scene::new();
    let daemon = scene.egress(&asked(80, PUBLIC));
    let (world, bob) = (&scene.world, &scene.bob);
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
        let answers = curl(&scene.alice, &asked.map(|path| url(server, path)));
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
    let scene = Scene::new();
    let daemon = scene.egress(&asked(80, PUBLIC));
    let urls = ["/public/a?b=c", "/secret"].map(|path| url(scene.world.v4.into(), path));
    let cookie = [
        "-sS",
        "-H",
        "cookie: s3cret",
        "-H",
        "x-one: 1",
        &*urls[0],
        &*urls[1],
    ];
    scene.alice.check("curl", &cookie).unwrap();
    let told = observed(&daemon, &["--protocol", "http"]);
    let server = scene.world.v4;
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
    let json = observed(&daemon, &["--protocol", "http", "-o", "json"]);
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
    let scene = Scene::new();
    let _daemon = scene.egress(&asked(9_000, PUBLIC));
    let recorder = Recorder::serve(&scene.world, 9_000);
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
            let heard = say_cut(
                &scene,
                9_000,
                (&said.as_bytes()[..cut], &said.as_bytes()[cut..]),
            );
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

fn say_cut(scene: &Scene, port: u16, (one, two): (&[u8], &[u8])) -> std::io::Result<Vec<u8>> {
    let to = SocketAddr::new(scene.world.v4.into(), port);
    let talk = || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(one)?;
        std::thread::sleep(Duration::from_millis(20));
        // Answered already, and closed: what is heard counts.
        let _ = stream.write_all(two);
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard)?;
        Ok(heard)
    };
    scene.alice.ns.run(talk).unwrap()
}

#[test]
fn what_is_not_http_never_passes_a_port_with_http_rules() {
    let scene = Scene::new();
    let daemon = scene.egress(&format!("{}, {}", asked(443, "{}"), asked(80, "{}")));
    for octets in [
        &b"SSH-2.0-x\r\n"[..],
        b"\x00\x01\x02",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        if let Ok(heard) = scene.say(80, octets) {
            assert!(heard.starts_with(b"HTTP/1.1 400"), "{octets:?}: {heard:?}");
        }
    }
    let output = scene
        .alice
        .output(
            "curl",
            &["-sSk", "-m", "5", &format!("https://{}/", scene.world.v4)],
        )
        .unwrap();
    assert_eq!(output.status.code(), Some(35), "TLS: {output:?}");
    let told = observed(&daemon, &["--verdict", "DROPPED", "-o", "json"]);
    assert!(told.contains("\"tls-on-a-port-with-http-rules\""), "{told}");
    assert!(told.contains("\"http2-not-served\""), "{told}");
}

#[test]
fn inbound_requests_are_judged_and_each_side_sees_the_other() {
    let scene = Scene::new();
    let spec = format!("ingress: [{}]", asked(80, PUBLIC));
    let daemon = scene.daemon(&[("bob.yaml", about("bob", &spec))]);
    for (server, client) in [
        (IpAddr::from(scene.bob.v4), "10.0.0.2 "),
        (scene.bob.v6.into(), "fd00::2 "),
    ] {
        let answers = curl(
            &scene.alice,
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
    scene
        .world
        .check(
            "ip",
            &["route", "replace", "10.0.0.0/24", "via", "203.0.113.1"],
        )
        .unwrap();
    let from_world = curl(
        &scene.world,
        &[
            url(scene.bob.v4.into(), "/public"),
            url(scene.bob.v4.into(), "/no"),
        ],
    );
    assert_eq!(from_world[1].0, "403 0", "{from_world:?}");
    assert!(
        from_world[0].1.starts_with("203.0.113.2 "),
        "{from_world:?}"
    );
    let told = observed(&daemon, &["--protocol", "http", "-o", "json"]);
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
    let scene = Scene::new();
    scene
        .node
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
    let mut daemon = Daemon::prepare(&scene.node).unwrap();
    daemon.endpoint(&scene.alice).unwrap();
    daemon.endpoint(&scene.bob).unwrap();
    daemon
        .endpoint_file("services.yaml", "services:\n- {name: web, vip: 10.96.0.20, backends: [10.0.0.3], ports: [{port: 80, target: 8080}]}\n")
        .unwrap();
    daemon.policy("bob.yaml", &about("bob", &inbound)).unwrap();
    daemon.start(&[]).unwrap();
    let ask = || {
        curl(
            &scene.alice,
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
    let to_bob = format!(
        "{{toEndpoints: [{{matchLabels: {{app: bob}}}}], toPorts: [{{ports: [{{port: '8080', protocol: TCP}}], rules: {{http: [{{path: '/public/a'}}, {{path: '/secret'}}]}}}}]}}"
    );
    daemon
        .change_policy("alice.yaml", &about_alice(&to_bob))
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
    let output = scene
        .alice
        .output("curl", &["-sS", "-m", "2", "http://10.96.0.20/public/a"])
        .unwrap();
    assert!(!output.status.success(), "rules mean the target port");
}

#[test]
fn the_next_request_is_judged_by_the_new_policy() {
    let scene = Scene::new();
    let daemon = scene.egress(&asked(80, PUBLIC));
    let to = SocketAddr::new(scene.world.v4.into(), 80);
    let mut stream = scene
        .alice
        .ns
        .run(|| TcpStream::connect_timeout(&to, Duration::from_secs(2)))
        .unwrap()
        .unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
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
    let error = ask("/public").map_or_else(|error| error.kind().to_string(), |status| status);
    assert_ne!(error, "200", "nothing is allowed");
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
fn large_bodies_pass_in_both_directions_and_python_serves_until_the_end() {
    let scene = Scene::new();
    let _daemon = scene.egress(&format!(
        "{}, {}, {}",
        asked(80, "{path: '/big'}"),
        asked(8_000, "{path: '/.*'}"),
        asked(8_001, "{method: PUT}")
    ));
    let target = url(scene.world.v4.into(), "/big");
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
        scene.alice.check("curl", &args).unwrap(),
        BIG_OCTETS.to_string()
    );
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("up");
    std::fs::File::create(&file)
        .unwrap()
        .set_len(BIG_OCTETS)
        .unwrap();
    let file = file.display().to_string();
    let _sink = Upload::serve(&scene.world, 8_001);
    for framing in ["content-type: a/b", "transfer-encoding: chunked"] {
        let target = format!("http://[{}]:8001/", scene.world.v6);
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
        let text = scene.alice.check("curl", &args).unwrap();
        let got: u64 = text.strip_suffix(" 200").unwrap().parse().unwrap();
        assert!(got >= BIG_OCTETS, "{framing}: {text}");
    }
    let served = dir.path().display().to_string();
    let mut python = scene
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
    let target = format!("http://{}:8000/up", scene.world.v4);
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
    let text = scene.alice.check("curl", &args);
    python.kill().unwrap();
    python.wait().unwrap();
    assert_eq!(text.unwrap(), BIG_OCTETS.to_string());
}
