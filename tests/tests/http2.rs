//! HTTP/2 by rule: real clients and servers, with prior knowledge.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use namegate_tests::{BIG_OCTETS, Web, about_alice, observed};

/// Whoever it is, on nginx's port for HTTP/2, by these HTTP rules.
fn asked(rules: &str) -> String {
    format!(
        "{{toPorts: [{{ports: [{{port: '8082', protocol: TCP}}], rules: {{http: [{rules}]}}}}]}}"
    )
}

const PUBLIC: &str = "{method: GET, path: '/public(/.*)?'}, {method: GET, path: /big}";

fn url(server: IpAddr, path: &str) -> String {
    match server {
        IpAddr::V4(v4) => format!("http://{v4}:8082{path}"),
        IpAddr::V6(v6) => format!("http://[{v6}]:8082{path}"),
    }
}

/// The statuses of these, on one connection, and all that was printed of them.
fn nghttp(web: &Web, urls: &[String]) -> (Vec<String>, String) {
    let mut args = vec!["--no-dep", "-v", "-t", "10"];
    args.extend(urls.iter().map(String::as_str));
    let text = web.alice.check("nghttp", &args).unwrap();
    let mut statuses: Vec<(u32, String)> = Vec::new();
    for line in text.lines() {
        // Colours stand between the words.
        let Some((before, status)) = line.split_once(":status") else {
            continue;
        };
        let stream = before.split("stream_id=").nth(1).unwrap();
        let stream = stream.split(')').next().unwrap().parse().unwrap();
        let digits: String = status.chars().filter(char::is_ascii_digit).collect();
        let digits = digits.get(digits.len() - 3..).unwrap();
        statuses.push((stream, digits.to_owned()));
    }
    statuses.sort();
    let statuses = statuses.into_iter().map(|(_, status)| status).collect();
    (statuses, text)
}

#[test]
fn each_stream_of_a_connection_is_judged_alone_in_both_families() {
    let web = Web::new().unwrap();
    let daemon = web.egress(&asked(PUBLIC)).unwrap();
    for server in [
        web.world.v4.into(),
        IpAddr::from(web.world.v6),
        web.bob.v4.into(),
    ] {
        let asked = ["/public", "/secret", "/public/x?y=z", "/public/../secret"];
        let (statuses, text) = nghttp(&web, &asked.map(|path| url(server, path)));
        assert_eq!(statuses, ["200", "403", "200", "403"], "{server}: {text}");
        assert!(text.contains(" /public/x?y=z"), "{text}");
        assert_eq!(text.matches("Access denied").count(), 2, "{text}");
        if server == IpAddr::from(web.bob.v4) {
            assert!(
                text.contains("10.0.0.2 "),
                "each side sees the other: {text}"
            );
        }
        for (path, expected) in [("/public", "200 2"), ("/secret", "403 2")] {
            let target = url(server, path);
            let format = "%{http_code} %{http_version}";
            let args = [
                "-sS",
                "-m",
                "10",
                "--http2-prior-knowledge",
                "-o",
                "/dev/null",
            ];
            let args = [&args[..], &["-w", format, &target]].concat();
            assert_eq!(web.alice.check("curl", &args).unwrap(), expected);
        }
    }
    let told = observed(&daemon, &["--protocol", "http", "--last", "100"]).unwrap();
    let server = web.world.v4;
    for line in [
        format!("http-request FORWARDED (HTTP/2 GET http://{server}:8082/public/x?y=z)"),
        format!("http-request DROPPED (HTTP/2 GET http://{server}:8082/secret)"),
        format!(" (GET http://{server}:8082/public/x?y=z))"),
    ] {
        assert!(told.contains(&line), "{line}\n{told}");
    }
    for (status, count) in [("200", 9), ("403", 9)] {
        let line = format!("http-response FORWARDED (HTTP/2 {status} ");
        assert_eq!(told.matches(&line).count(), count, "{told}");
    }
    let status = daemon.status().unwrap();
    assert_eq!(
        status["http"]["http_requests_total"]["forwarded"], 9,
        "{status:#}"
    );
    assert_eq!(status["http"]["http_requests_total"]["denied"], 9);
}

#[test]
fn many_streams_at_once_and_large_bodies_pass() {
    let web = Web::new().unwrap();
    let daemon = web.egress(&asked(PUBLIC)).unwrap();
    // nginx ends a connection in order after a thousand requests: h2load then begins another.
    let target = url(web.world.v4.into(), "/public");
    let args = ["-n", "900", "-c", "3", "-m", "50", &*target];
    let text = web.alice.check("h2load", &args).unwrap();
    assert!(
        text.contains("900 succeeded, 0 failed, 0 errored, 0 timeout"),
        "{text}"
    );
    assert!(text.contains("status codes: 900 2xx, 0 3xx"), "{text}");
    let target = url(web.world.v6.into(), "/big");
    let args = [
        "-sS",
        "-m",
        "60",
        "--http2-prior-knowledge",
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
    // Four at a time, on one connection, by another client.
    let target = url(web.world.v4.into(), "/big");
    let args = ["-n", "4", "-c", "1", "-m", "4", &*target];
    let text = web.alice.check("h2load", &args).unwrap();
    assert!(
        text.contains("4 succeeded, 0 failed, 0 errored, 0 timeout"),
        "{text}"
    );
    let status = daemon.status().unwrap();
    let abuse = &status["http"]["http_refused_total"]["http2-abuse"];
    assert!(abuse.is_null(), "{status:#}");
    assert_eq!(status["http"]["http_requests_total"]["forwarded"], 905);
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [0, length[0], length[1], kind, flags, 0, 0, 0, stream];
    [&head[..], payload].concat()
}

/// A head of literals: GET, http, `a.test`, and this path.
fn get(stream: u8, path: &str) -> Vec<u8> {
    get_with(stream, path, &[])
}

/// The same with more fields.
fn get_with(stream: u8, path: &str, more: &[u8]) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x01, 6];
    block.extend(b"a.test");
    block.extend([0x04, u8::try_from(path.len()).unwrap()]);
    block.extend(path.bytes());
    block.extend(more);
    frame(1, 5, stream, &block)
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

struct Raw(TcpStream);

impl Raw {
    fn connect(web: &Web) -> Self {
        let to = SocketAddr::new(web.world.v4.into(), 8_082);
        let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(2));
        let stream = web.alice.ns.run(connect).unwrap().unwrap();
        stream.set_nodelay(true).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        Self(stream)
    }

    /// The next frame: its kind, its stream and its payload.
    fn next(&mut self) -> Option<(u8, u8, Vec<u8>)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).ok()?;
        let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
        self.0.read_exact(&mut payload).ok()?;
        Some((head[3], head[8], payload))
    }

    /// What a stream is answered: the number of a status in HPACK's table, or its digits.
    fn status(&mut self, stream: u8) -> String {
        loop {
            match self.next().expect("an answer") {
                (1, number, block) if number == stream => {
                    return match block[..] {
                        [0x88, ..] => "200".to_owned(),
                        [0x8c, ..] => "400".to_owned(),
                        _ => "other".to_owned(),
                    };
                }
                (3, number, _) if number == stream => return "reset".to_owned(),
                (7, ..) => return "goaway".to_owned(),
                _ => {}
            }
        }
    }
}

/// Some rows of the table in http.md, by the real daemon: the preface in pieces, a fragment, a flood; and
/// a change of policy.
#[test]
fn raw_frames_are_answered_and_the_next_stream_is_judged_by_the_new_policy() {
    let web = Web::new().unwrap();
    let daemon = web.egress(&asked(PUBLIC)).unwrap();
    let mut raw = Raw::connect(&web);
    for piece in [
        &PREFACE[..3],
        &PREFACE[3..20],
        &PREFACE[20..],
        &frame(4, 0, 0, &[]),
    ] {
        raw.0.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    raw.0.write_all(&get(1, "/public")).unwrap();
    assert_eq!(raw.status(1), "200", "X31");
    raw.0.write_all(&get(3, "/public#x")).unwrap();
    assert_eq!(raw.status(3), "400", "X07");
    raw.0
        .write_all(&get_with(5, "/public", b"\0\x01x\x02 y"))
        .unwrap();
    assert_eq!(raw.status(5), "reset", "a space before a value");
    daemon
        .change_policy("alice.yaml", &about_alice(&asked("{path: /other}")))
        .unwrap();
    raw.0.write_all(&get(7, "/public")).unwrap();
    assert_eq!(raw.status(7), "other");
    raw.0.write_all(&get(9, "/other")).unwrap();
    assert_eq!(raw.status(9), "200");
    let pings = frame(6, 0, 0, &[0; 8]).repeat(5_000);
    let _ = raw.0.write_all(&pings); // it is ended within them
    while let Some((kind, _, payload)) = raw.next() {
        if kind == 7 {
            assert_eq!(payload[7], 11, "ENHANCE_YOUR_CALM");
        }
    }
    let told = observed(&daemon, &["--verdict", "DROPPED", "-o", "json"]).unwrap();
    assert!(told.contains("\"http2-abuse\""), "{told}");
    let status = daemon.status().unwrap();
    assert_eq!(
        status["http"]["http2_goaways_total"]["enhance-your-calm"], 1,
        "{status:#}"
    );
}

/// A server that knows HTTP/1 alone is no server for HTTP/2; and policy that opens the port lets all pass.
#[test]
fn a_server_without_http2_is_no_way_out_of_the_rules() {
    let web = Web::new().unwrap();
    let _daemon = web.egress(&asked(PUBLIC).replace("8082", "80")).unwrap();
    let target = format!("http://{}/public", web.world.v4);
    let args = [
        "-sS",
        "-m",
        "5",
        "--http2-prior-knowledge",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        &*target,
    ];
    let output = web.alice.output("curl", &args).unwrap();
    assert_eq!(output.stdout, b"502", "{output:?}");
    // Without prior knowledge curl asks for an upgrade, which is not had.
    let args = [
        "-sS",
        "-m",
        "5",
        "--http2",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %{http_version}",
        &*target,
    ];
    let output = web.alice.output("curl", &args).unwrap();
    assert_eq!(output.stdout, b"200 1.1", "{output:?}");
}
