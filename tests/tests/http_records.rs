//! One exchange, one record (law 4) over HTTP: requests that end in every way, each told by one request
//! and at most one response.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may die; a test's patience"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use namegate_tests::{Daemon, Web, about_alice, asked, patience, read_head};
use serde_json::Value;

/// How an exchange comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// With a whole response.
    Whole,
    /// No rule allows it.
    Denied,
    /// Its head can't be read.
    BadHead,
    /// Its body can't be read; its head went on.
    BadBody,
    /// The server has no final response yet, and the client goes.
    Gone,
    /// The client goes in the middle of its body.
    Halved,
    /// The client ends its side in the middle of its body.
    Ended,
    /// The server cuts the body of its response.
    Cut,
    /// The client goes in the middle of the response.
    Unread,
    /// The server goes without an answer.
    Silent,
    /// It becomes a tunnel, which both sides end.
    Tunnel,
    /// It becomes a tunnel, which the client resets.
    Torn,
}

/// A kind, and what must be told of each exchange: verdicts of requests and of responses, and the word of
/// what else was seen of it.
type Plan = (
    Kind,
    &'static str,
    Option<&'static str>,
    Option<&'static str>,
);
#[rustfmt::skip]
const PLAN: [Plan; 12] = [
    (Kind::Whole, "FORWARDED", Some("FORWARDED 200"), None),
    (Kind::Denied, "DROPPED", Some("FORWARDED 403"), None),
    (Kind::BadHead, "DROPPED", Some("FORWARDED 400"), None),
    (Kind::BadBody, "FORWARDED", Some("FORWARDED 400 malformed-request-body"), None),
    (Kind::Gone, "FORWARDED", Some("ERROR 0 client-gone"), None),
    (Kind::Halved, "FORWARDED", Some("ERROR 0 client-gone"), None),
    (Kind::Ended, "FORWARDED", Some("ERROR 0 client-gone"), None),
    (Kind::Cut, "FORWARDED", Some("FORWARDED 200"), Some("ERROR server-gone")),
    (Kind::Unread, "FORWARDED", Some("FORWARDED 200"), Some("ERROR client-gone")),
    (Kind::Silent, "FORWARDED", Some("ERROR 502"), None),
    (Kind::Tunnel, "FORWARDED", Some("FORWARDED 101"), Some("FORWARDED tunnel-closed")),
    (Kind::Torn, "FORWARDED", Some("FORWARDED 101"), Some("ERROR client-gone")),
];
/// Exchanges of each kind.
const COUNT: usize = 40;
const PORT: u16 = 9_000;
const RULES: &str = "{path: '/public/.*'}";
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn each_http_exchange_is_told_by_one_request_and_at_most_one_response() {
    let web = Web::new().unwrap();
    web.serve(PORT, answer).unwrap();
    let mut daemon = Daemon::prepare(&web.node).unwrap();
    daemon.endpoint(&web.alice).unwrap();
    let policy = about_alice(&asked(PORT, RULES));
    daemon.policy("alice.yaml", &policy).unwrap();
    let log = daemon.path("flows.jsonl");
    let log_option = format!("--flow-log={}", log.display());
    daemon.start(&[&log_option]).unwrap();
    std::thread::scope(|scope| {
        for (kind, ..) in PLAN {
            let web = &web;
            scope.spawn(move || {
                for number in 0..COUNT {
                    ask(web, kind, number);
                }
            });
        }
    });
    let planned =
        |told: &Told| told.responses.values().map(Vec::len).sum::<usize>() >= PLAN.len() * COUNT;
    let told = wait_for(&log, planned);
    for (kind, request, response, seen) in PLAN {
        for number in 0..COUNT {
            let path = path(kind, number);
            let of = |words: &BTreeMap<String, Vec<String>>| {
                words.get(&path).cloned().unwrap_or_default()
            };
            assert_eq!(of(&told.requests), [request], "{path}");
            assert_eq!(
                of(&told.responses),
                response.into_iter().collect::<Vec<_>>(),
                "{path}"
            );
            assert_eq!(
                of(&told.seen),
                seen.into_iter().collect::<Vec<_>>(),
                "{path}"
            );
        }
    }
    let records = told
        .requests
        .values()
        .chain(told.responses.values())
        .chain(told.seen.values());
    let records: usize = records.map(Vec::len).sum();
    assert_eq!(told.uuids.len(), records, "each has its own number");
    let all = PLAN.len() * COUNT;
    assert_eq!(told.requests.len(), all, "and of nothing else is told");
    let status = daemon.status().unwrap();
    let counted = |word: &str| {
        status["http"]["http_requests_total"][word]
            .as_u64()
            .unwrap()
    };
    let (denied, malformed) = (COUNT as u64, COUNT as u64);
    assert_eq!(
        (counted("denied"), counted("malformed")),
        (denied, malformed)
    );
    assert_eq!(counted("forwarded"), all as u64 - denied - malformed);
    assert_eq!(status["flows"]["lost"], 0);
}

fn path(kind: Kind, number: usize) -> String {
    let folder = if kind == Kind::Denied {
        "secret"
    } else {
        "public"
    };
    format!("/{folder}/{kind:?}-{number}")
}

/// One exchange, seen from its client.
fn ask(web: &Web, kind: Kind, number: usize) {
    let path = path(kind, number);
    let mut stream = web.connect(PORT).unwrap();
    let mut say = |text: &str| stream.write_all(text.as_bytes()).unwrap();
    let post = |lines: &str| format!("POST {path} HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n");
    match kind {
        Kind::BadHead => say(&format!(
            "GET {path} HTTP/1.1\r\nHost: a.test\r\nX: a\rb\r\n\r\n"
        )),
        Kind::BadBody => {
            say(&post("Transfer-Encoding: chunked\r\n"));
            say("1\r\na\r\n0x1\r\nb\r\n0\r\n\r\n");
        }
        Kind::Halved | Kind::Ended => {
            say(&post("Content-Length: 9\r\n"));
            say("half");
        }
        Kind::Tunnel | Kind::Torn => {
            let lines = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
            say(&format!(
                "GET {path} HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n"
            ));
        }
        Kind::Whole | Kind::Denied | Kind::Gone | Kind::Cut | Kind::Unread | Kind::Silent => {
            say(&format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        }
    }
    finish(&mut stream, kind);
}

fn finish(stream: &mut TcpStream, kind: Kind) {
    match kind {
        Kind::Whole | Kind::Denied => {
            assert!(read_head(stream).starts_with("HTTP/1.1 "), "{kind:?}");
        }
        Kind::BadHead | Kind::BadBody | Kind::Cut | Kind::Silent => {
            // A response that is cut ends in a reset.
            let _ = stream.read_to_end(&mut Vec::new());
        }
        Kind::Gone | Kind::Halved => {
            // By this it knows that the server has the request; it is no response.
            assert!(read_head(stream).starts_with("HTTP/1.1 103"));
            reset(stream);
        }
        Kind::Ended => {
            assert!(read_head(stream).starts_with("HTTP/1.1 103"));
            stream.shutdown(Shutdown::Write).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        }
        Kind::Unread => {
            assert!(read_head(stream).starts_with("HTTP/1.1 200"));
            reset(stream);
        }
        Kind::Tunnel => {
            assert!(read_head(stream).starts_with("HTTP/1.1 101"));
            stream.write_all(b"ping").unwrap();
            stream.read_exact(&mut [0; 4]).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        }
        Kind::Torn => {
            assert!(read_head(stream).starts_with("HTTP/1.1 101"));
            reset(stream);
        }
    }
}

fn reset(stream: &TcpStream) {
    transport::reset(stream.as_fd()).unwrap();
}

/// The server, which does what a path says.
fn answer(stream: &mut TcpStream) {
    let head = read_head(stream);
    let is = |kind: Kind| head.contains(&format!("/{kind:?}-"));
    let mut say = |text: &str| _ = stream.write_all(text.as_bytes());
    if is(Kind::Cut) {
        return say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut");
    }
    if is(Kind::Silent) {
        return;
    }
    let is_tunnel = is(Kind::Tunnel) || is(Kind::Torn);
    match is_tunnel {
        true => say("HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
        false if is(Kind::Unread) => say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnot"),
        false if is(Kind::Whole) => say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        false if is(Kind::Gone) || is(Kind::Halved) || is(Kind::Ended) => {
            say("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        }
        false => {}
    }
    // To the end of the connection; a tunnel gives back what it gets.
    let mut room = [0; 64];
    while let Ok(count @ 1..) = stream.read(&mut room) {
        if is_tunnel && stream.write_all(room.get(..count).unwrap()).is_err() {
            return;
        }
    }
}

/// The flows of HTTP in a log, by path.
#[derive(Default)]
struct Told {
    requests: BTreeMap<String, Vec<String>>,
    responses: BTreeMap<String, Vec<String>>,
    /// What was seen of a connection that a request had.
    seen: BTreeMap<String, Vec<String>>,
    uuids: BTreeSet<String>,
}

impl Told {
    fn read(lines: &str) -> Self {
        let mut told = Self::default();
        for line in lines.lines() {
            let Ok(line) = serde_json::from_str::<Value>(line) else {
                continue; // the last one is being written
            };
            told.take(&line["flow"]);
        }
        told
    }

    fn take(&mut self, flow: &Value) {
        let log: Vec<&str> = match flow["policy_log"].as_array() {
            Some(words) => words.iter().filter_map(Value::as_str).collect(),
            None => Vec::new(),
        };
        // Lines about the daemon itself hold no flow.
        let Some(verdict) = flow["verdict"].as_str() else {
            return;
        };
        let http = &flow["l7"]["http"];
        let url = match http["url"].as_str() {
            Some(url) => url,
            // An end that is no message names its request.
            None => match log.iter().find(|word| word.contains(" http://")) {
                Some(which) => which,
                None => return,
            },
        };
        let at = url
            .find("/public/")
            .or_else(|| url.find("/secret/"))
            .unwrap();
        let path = url.get(at..).unwrap();
        let path = path.split([' ', '#']).next().unwrap().to_owned();
        let first = log.first().copied().unwrap_or_default();
        let words = |parts: &[&str]| parts.join(" ").trim_end().to_owned();
        let (found, word) = match flow["l7"]["type"].as_str() {
            Some("REQUEST") => (&mut self.requests, verdict.to_owned()),
            Some("RESPONSE") => {
                let code = http["code"].as_u64().unwrap_or_default().to_string();
                // Of a head that can't be read both records say what is wrong with it.
                let first = if path.contains("BadHead") { "" } else { first };
                (&mut self.responses, words(&[verdict, &code, first]))
            }
            Some(other) => panic!("{other}: {flow}"),
            None => (&mut self.seen, words(&[verdict, first])),
        };
        found.entry(path).or_default().push(word);
        self.uuids.insert(flow["uuid"].as_str().unwrap().to_owned());
    }
}

/// Waits until as much was told as there should be, and a little longer for what should not.
fn wait_for(log: &std::path::Path, is_enough: impl Fn(&Told) -> bool) -> Told {
    let began = Instant::now();
    let read = || Told::read(&std::fs::read_to_string(log).unwrap_or_default());
    while !is_enough(&read()) && began.elapsed() < PATIENCE * patience() {
        std::thread::sleep(Duration::from_millis(200));
    }
    std::thread::sleep(Duration::from_secs(2));
    read()
}
