//! ClientHellos octet by octet, through the real daemon: which of them name a server (T01 to T30), and what
//! goes on of them. One whose name may be a front for a hidden one (`encrypted_client_hello`) is judged by
//! what it shows, or refused.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]

use std::io::{Error, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use namegate_tests::{Daemon, Running, Web, about_alice, observed};

const PORT: u16 = 9_443;

/// A list of octets with its length in two octets before it.
fn long(octets: &[u8]) -> Vec<u8> {
    let length = u16::try_from(octets.len()).unwrap().to_be_bytes();
    [&length[..], octets].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &long(content)].concat()
}

/// A name in a list, of a type; 0 is a host's.
fn entry(kind: u8, name: &[u8]) -> Vec<u8> {
    [&[kind][..], &long(name)].concat()
}

/// The extension that names one host.
fn sni(name: &[u8]) -> Vec<u8> {
    extension(0, &long(&entry(0, name)))
}

/// An outer one: suite, configuration, key and payload (RFC 9849 §5), as GREASE has them too.
fn ech() -> Vec<u8> {
    let content = [&[0, 0, 1, 0, 1, 7][..], &long(&[9; 32]), &long(&[5; 144])].concat();
    extension(0xfe0d, &content)
}

/// The message (RFC 8446 §4.1.2), with these extensions.
fn message(extensions: Option<&[u8]>) -> Vec<u8> {
    let extensions = extensions.map(long).unwrap_or_default();
    let suites = [0, 0, 2, 0x13, 1, 1, 0]; // no session, one suite, no compression
    let body = [&[3, 3][..], &[3; 32], &suites, &extensions].concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1][..], length.get(1..).unwrap(), &body].concat()
}

/// The same in records of a size.
fn records(message: &[u8], size: usize, version: u8) -> Vec<u8> {
    let record = |piece: &[u8]| [&[0x16, 3, version][..], &long(piece)].concat();
    message.chunks(size).flat_map(record).collect()
}

/// In as few records as may be.
fn hello(extensions: &[u8]) -> Vec<u8> {
    records(&message(Some(extensions)), 16_384, 1)
}

/// One in SSLv2's form.
fn old() -> Vec<u8> {
    let body = [&[1, 3, 1, 0, 3, 0, 0, 0, 16][..], &[0, 0, 0x2f], &[7; 16]].concat();
    [&[0x80, u8::try_from(body.len()).unwrap()][..], &body].concat()
}

/// What is said, and whether it goes on.
type Row = (&'static str, Vec<u8>, bool);

fn rows() -> Vec<Row> {
    let ok = || sni(b"ok.test");
    let name = |name: &[u8]| hello(&sni(name));
    let with = |more: &[u8]| hello(&[&ok()[..], more].concat());
    let padded = |octets| with(&extension(21, &vec![0; octets]));
    let list = |entries: &[u8]| hello(&extension(0, &long(entries)));
    let two = [entry(0, b"ok.test"), entry(0, b"ok.test")].concat();
    let typed = [entry(1, b"ok.test"), entry(0, b"ok.test")].concat();
    let lies = [&[0, 200][..], &entry(0, b"ok.test")].concat();
    let plain = message(Some(&ok()));
    let many = |octets: usize| vec![b'a'; octets];
    vec![
        ("T01", name(b"ok.test"), true),
        ("T02", name(b"OK.TEST"), true),
        ("T03", name(b"ok.test."), true),
        ("T04", hello(&extension(10, b"\0\x02\0\x1d")), false),
        ("T05", name(b"10.0.0.1"), false),
        ("T06", name(b""), false),
        ("T07", list(&two), false),
        ("T08", with(&ok()), false),
        ("T09", list(&typed), false),
        ("T11", records(&plain, 50, 1), true),
        ("T12", records(&plain, 1, 1), true),
        ("T13", with(&extension(51, &[7; 1_216])), true),
        ("T14", with(&extension(0x0a0a, b"\0")), true),
        ("T15", with(&ech()), true),
        ("T16", padded(15 << 10), true),
        ("T17", padded(20 << 10), true),
        ("T18", name("ök.test".as_bytes()), false),
        ("T19", name(b"ok.te\0st"), false),
        ("T20", name(b"_a.test"), true),
        ("T21", name(b"*.test"), false),
        ("T22", hello(&extension(0, &lies)), false),
        ("T23", records(&message(None), 16_384, 1), false),
        ("T24", records(&plain, 16_384, 0), true),
        ("T25", old(), false),
        (
            "T26",
            [&[21, 3, 1, 0, 2, 1, 0][..], &name(b"ok.test")].concat(),
            false,
        ),
        ("T28", name(&many(255)), false),
        ("T29", name(&many(321)), false),
        (
            "T30",
            [&[22, 3, 1, 0, 0][..], &name(b"ok.test")].concat(),
            false,
        ),
        ("another", name(b"evil.test"), false),
    ]
}

/// What each connection said to a server that listens to its end, and then says that it has heard.
type Heard = Arc<Mutex<Vec<Vec<u8>>>>;

fn record(web: &Web) -> Heard {
    let heard = Heard::default();
    let to = Arc::clone(&heard);
    web.serve(PORT, move |stream| {
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        if !said.is_empty() {
            to.lock().unwrap().push(said);
        }
        let _ = stream.write_all(b"heard");
    })
    .unwrap();
    heard
}

/// Says these pieces, one after the other, and no more; and what is answered.
fn say<'p>(web: &Web, pieces: impl Iterator<Item = &'p [u8]>) -> Result<Vec<u8>, Error> {
    let mut stream = web.connect(PORT).map_err(Error::other)?;
    for (number, piece) in pieces.enumerate() {
        if number > 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
        stream.write_all(piece)?; // it may be refused meanwhile
    }
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map(|_| answer)
}

fn is_reset(answer: &Result<Vec<u8>, Error>) -> bool {
    let kinds = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    let is_it = |error: &Error| kinds.contains(&error.kind());
    answer.as_ref().is_err_and(is_it)
}

fn named() -> String {
    format!(
        "{{toPorts: [{{ports: [{{port: '{PORT}', protocol: TCP}}], serverNames: [ok.test, _a.test]}}]}}"
    )
}

fn refused(daemon: &Daemon<'_>, word: &str) -> u64 {
    let status = daemon.status().unwrap();
    let count = &status["http"]["http_refused_total"][word];
    count.as_u64().unwrap_or(0)
}

#[test]
fn every_hello_goes_on_as_it_came_or_nothing_of_it_does() {
    let web = Web::new().unwrap();
    let heard = record(&web);
    let daemon = web.egress(&named()).unwrap();
    let check = |name: &str, said: &[u8], size: usize, passes: bool| {
        heard.lock().unwrap().clear();
        let answer = say(&web, said.chunks(size));
        let heard = heard.lock().unwrap().clone();
        if passes {
            assert_eq!(answer.unwrap(), b"heard", "{name} by {size}");
            assert!(heard == [said], "{name} by {size}: not as it came");
        } else {
            assert!(is_reset(&answer), "{name} by {size}: {answer:?}");
            assert!(
                heard.is_empty(),
                "{name} by {size}: something of it went on"
            );
        }
    };
    let rows = rows();
    for (name, said, passes) in &rows {
        for pieces in [1, 2, 4] {
            check(name, said, said.len().div_ceil(pieces), *passes);
        }
    }
    check("T10", &hello(&sni(b"ok.test")), 1, true);
    check("T10, another", &hello(&sni(b"evil.test")), 1, false);
    let all = rows.iter().filter(|(.., passes)| !passes).count() as u64 * 3 + 1;
    let words = [
        "sni-not-allowed",
        "malformed-client-hello",
        "neither-http-nor-tls",
    ];
    let told: u64 = words.iter().map(|word| refused(&daemon, word)).sum();
    assert_eq!(told, all, "each refusal is counted once");
}

#[test]
fn the_name_in_clear_is_judged_unless_the_option_refuses_what_may_hide_another() {
    let web = Web::new().unwrap();
    let heard = record(&web);
    for refuses in [false, true] {
        let mode = if refuses { "refuse" } else { "allow-outer" };
        let option = format!("--tls-ech={mode}");
        let daemon = web.egress_with(&named(), &[&option]).unwrap();
        for (has_ech, more) in [(false, Vec::new()), (true, ech())] {
            heard.lock().unwrap().clear();
            let said = hello(&[sni(b"ok.test"), more].concat());
            let answer = say(&web, said.chunks(said.len()));
            let heard = heard.lock().unwrap().clone();
            if refuses && has_ech {
                assert!(is_reset(&answer), "{answer:?}");
                assert!(heard.is_empty(), "something of it went on");
            } else {
                assert_eq!(answer.unwrap(), b"heard", "{mode} {has_ech}");
                assert!(heard == [said], "{mode}: not as it came");
            }
        }
        assert_eq!(
            refused(&daemon, "server-name-may-be-hidden"),
            u64::from(refuses)
        );
        let flows = observed(&daemon, &["--verdict", "FORWARDED", "-o", "json"]).unwrap();
        let ends = |word: &str| flows.lines().filter(|flow| flow.contains(word)).count();
        assert_eq!(ends("\"server name ok.test\""), if refuses { 1 } else { 2 });
        assert_eq!(ends("\"encrypted-client-hello\""), usize::from(!refuses));
        let flows = observed(&daemon, &["--verdict", "DROPPED", "-o", "json"]).unwrap();
        let word = "\"server-name-may-be-hidden: ok.test\"";
        assert_eq!(flows.contains(word), refuses, "{flows}");
    }
}

/// What is bound to names and may hide one is refused as another name would be, or told where it only is.
#[test]
fn what_may_hide_a_name_is_refused_or_told_where_names_are_bound() {
    const ZONE: &str = "ok 60 IN A 203.0.113.2\n";
    const DNS: &str = "{toCIDR: [203.0.113.2/32], toPorts: [{ports: [{port: '53'}], \
                       rules: {dns: [{matchPattern: '*.example.com'}]}}]}";
    let web = Web::new().unwrap();
    let _knot = Running::knot(&web.world.ns, ZONE).unwrap();
    let heard = record(&web);
    for how in ["enforce", "audit"] {
        let mut daemon = Daemon::prepare(&web.node).unwrap();
        daemon.endpoint(&web.alice).unwrap();
        let named = "{toFQDNs: [{matchName: ok.example.com}]}";
        let policy = about_alice(&format!("{DNS}, {named}"));
        daemon.policy("alice.yaml", &policy).unwrap();
        daemon
            .start(&["--name-binding", how, "--tls-ech", "refuse"])
            .unwrap();
        let asked = ["+short", "ok.example.com", "A"];
        let told = web.alice.dig(web.world.v4.into(), &asked).unwrap();
        assert_eq!(told, "203.0.113.2\n");
        for (name, more) in [
            ("ok.example.com", Vec::new()),
            ("ok.example.com", ech()),
            ("evil.test", ech()),
        ] {
            heard.lock().unwrap().clear();
            let said = hello(&[&sni(name.as_bytes())[..], &more].concat());
            let answer = say(&web, said.chunks(said.len()));
            let heard = heard.lock().unwrap().clone();
            if how == "enforce" && !more.is_empty() {
                assert!(is_reset(&answer), "{name}: {answer:?}");
                assert!(heard.is_empty(), "{name}: something of it went on");
            } else {
                assert_eq!(answer.unwrap(), b"heard", "{how} {name}");
                assert!(heard == [said], "{how} {name}: not as it came");
            }
        }
        let word = "server-name-may-be-hidden";
        let (verdict, count) = match how {
            "enforce" => ("DROPPED", 2),
            _ => ("AUDIT", 0),
        };
        assert_eq!(refused(&daemon, word), count, "{how}");
        let told = observed(&daemon, &["--verdict", verdict, "-o", "json"]).unwrap();
        let flows = told.lines().filter(|flow| flow.contains(word)).count();
        assert_eq!(flows, 2, "{how}: {told}");
    }
}

/// After a HelloRetryRequest a client says a second one, which is for the same server, or is not sent.
#[test]
fn a_second_hello_is_for_the_same_server() {
    let web = Web::new().unwrap();
    let heard = record(&web);
    let daemon = web.egress(&named()).unwrap();
    let first = [hello(&sni(b"ok.test")), vec![20, 3, 3, 0, 1, 1]].concat();
    for (name, passes) in [(&b"ok.test"[..], true), (b"evil.test", false)] {
        let second = hello(&sni(name));
        let said = [&first[..], &second].concat();
        let cuts = [
            said.len(),
            first.len(),
            first.len() + 1,
            first.len() + 9,
            40,
        ];
        for cut in cuts {
            heard.lock().unwrap().clear();
            let (one, two) = said.split_at(cut);
            let pieces = [one, two].into_iter().filter(|piece| !piece.is_empty());
            let answer = say(&web, pieces);
            if passes {
                assert_eq!(answer.unwrap(), b"heard", "cut at {cut}");
                assert!(heard.lock().unwrap()[..] == [&said[..]], "cut at {cut}");
                continue;
            }
            assert!(is_reset(&answer), "cut at {cut}: {answer:?}");
            // What the server had of it, once it knows that there is no more.
            for _ in 0..100 {
                if !heard.lock().unwrap().is_empty() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let heard = heard.lock().unwrap();
            let is_first = heard.iter().all(|heard| first.starts_with(heard));
            assert!(is_first, "cut at {cut}: of the second: {heard:?}");
        }
    }
    let told = observed(&daemon, &["--verdict", "DROPPED", "-o", "json"]).unwrap();
    let word = "\"other-name-in-second-hello\"";
    assert_eq!(told.matches(word).count(), 5, "{told}");
}
