//! Where one request ends and the next one begins.

use std::time::Duration;

use super::play::{Play, Row, Seen, ok};

/// A POST with some lines and a body.
fn post(lines: &str, body: &str) -> Vec<u8> {
    format!("POST /public/upload HTTP/1.1\r\nHost: shop.test\r\n{lines}\r\n{body}").into_bytes()
}

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
const UPLOAD: &[&str] = &["/public/upload"];

fn check(id: &str, sent: &[u8], (expected, targets): (&str, &[&str])) {
    Row {
        id,
        sent,
        expected,
        targets,
    }
    .check(ok);
}

#[test]
fn an_ambiguous_length_is_refused_and_nothing_of_it_goes_on() {
    let chunks = "2\r\nab\r\n0\r\n\r\n";
    #[rustfmt::skip]
    let rows: &[(&str, Vec<u8>, &str, &[&str])] = &[
        ("F01", post("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", chunks), "400 c", &[]),
        ("F02", post("Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", chunks), "400 c", &[]),
        ("F03", post("Content-Length: 2\r\nContent-Length: 3\r\n", "abc"), "400 c", &[]),
        ("F04", post("Content-Length: 2\r\nContent-Length: 2\r\n", "ab"), "400 c", &[]),
        ("F05", post("Content-Length: 2, 2\r\n", "ab"), "400 c", &[]),
        ("F06", post("Content-Length: +2\r\n", "ab"), "400 c", &[]),
        ("F07", post("Content-Length: 0x2\r\n", "ab"), "400 c", &[]),
        ("F08", post("Content-Length: 99999999999999999999\r\n", "ab"), "400 c", &[]),
        ("F09", post("Content-Length: 1 2\r\n", "ab"), "400 c", &[]),
        ("F10", post("Transfer-Encoding: xchunked\r\n", chunks), "501 c", &[]),
        ("F11", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", chunks), "400 c", &[]),
        ("F12", post("Transfer-Encoding: gzip, chunked\r\n", chunks), "501 c", &[]),
        ("F13", post("Transfer-Encoding: chunked, chunked\r\n", chunks), "400 c", &[]),
        ("F14", post("Transfer-Encoding: Chunked\r\n", chunks), "200 k", UPLOAD),
        ("F15", post("Transfer-Encoding: \x0bchunked\r\n", chunks), "400 c", &[]),
        ("F16", post("Transfer-Encoding : chunked\r\nContent-Length: 2\r\n", chunks), "400 c", &[]),
        ("F17", post("X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", chunks), "400 c", &[]),
        ("F18", b"POST /public/upload HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(), "400 c", &[]),
    ];
    for (id, sent, expected, targets) in rows {
        check(id, sent, (expected, targets));
    }
}

#[test]
fn a_chunked_request_is_written_anew_or_its_connection_ends() {
    #[rustfmt::skip]
    let rows: &[(&str, &str, &str, &[&str])] = &[
        ("F19", "2;a=b\r\nab\r\n0\r\n\r\n", "200 k", UPLOAD),
        ("F20", "2;a\nb\r\nab\r\n0\r\n\r\n", "400 c", &[]),
        ("F21", "2\nab\r\n0\r\n\r\n", "400 c", &[]),
        ("F22", "0x2\r\nab\r\n0\r\n\r\n", "400 c", &[]),
        ("F23", "2 \r\nab\r\n0\r\n\r\n", "200 k", UPLOAD),
        ("F24", "00000000000000002\r\nab\r\n0\r\n\r\n", "200 k", UPLOAD),
        ("F25", "10000000000000002\r\nab\r\n0\r\n\r\n", "400 c", &[]),
        ("F26", "2\r\nabXX0\r\n\r\n", "400 c", &[]),
        ("F27", "2\r\nab\r\n0\r\nX-T: 1\r\nContent-Length: 9\r\n\r\n", "200 k", UPLOAD),
    ];
    for (id, body, expected, targets) in rows {
        let sent = post(CHUNKED, body);
        if expected.starts_with('2') {
            check(id, &sent, (expected, targets));
        }
        for cut in 1..sent.len() {
            let mut play = Play::new(ok);
            play.send(&sent[..cut]).send(&sent[cut..]);
            // What follows a body that can't be read is never taken for a request.
            play.send(b"GET /public/next HTTP/1.1\r\nHost: shop.test\r\n\r\n");
            play.pass(Duration::from_secs(3));
            let name = format!("{id} cut at {cut}");
            if expected.starts_with('4') {
                assert_eq!(play.statuses(), "400", "{name}");
                assert_eq!(
                    (play.end_of_client(), play.end_of_upstream()),
                    ('c', 'R'),
                    "{name}"
                );
                assert!(play.seen.is_empty(), "{name}: {:?}", play.seen);
                continue;
            }
            let (clean, trailer) = (
                "2\r\nab\r\n0\r\n",
                if *id == "F27" { "X-T: 1\r\n" } else { "" },
            );
            let body = format!("{clean}{trailer}\r\n");
            assert_eq!(String::from_utf8_lossy(&play.seen[0].body), body, "{name}");
            assert_eq!(play.targets(), ["/public/upload", "/public/next"], "{name}");
        }
    }
}

#[test]
fn each_request_of_a_connection_gets_its_own_answer() {
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    let inner = get("/public/z");
    let length = inner.len();
    let with_length = format!(
        "GET /public/a HTTP/1.1\r\nHost: shop.test\r\nContent-Length: {length}\r\n\r\n{inner}"
    );
    let denied =
        format!("POST /no HTTP/1.1\r\nHost: shop.test\r\nContent-Length: {length}\r\n\r\n{inner}");
    let in_chunks = format!(
        "POST /no HTTP/1.1\r\nHost: shop.test\r\n{CHUNKED}\r\n{length:x}\r\n{inner}\r\n0\r\n\r\n"
    );
    let z = get("/public/z");
    let body = "GET /public/a HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 2\r\n\r\nab";
    let next = get("/public/b");
    let waits = |path: &str, body: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n{body}"
        )
    };
    let (yes, no) = (get("/public/a"), get("/no"));
    #[rustfmt::skip]
    let rows: &[(&str, String, &str, &[&str])] = &[
        ("F28", format!("{body}{next}"), "200,200 k", &["/public/a", "/public/b"]),
        ("F29", with_length, "200 k", &["/public/a"]),
        ("F30", format!("{denied}{z}"), "403,200 k", &["/public/z"]),
        ("F30b", format!("{in_chunks}{z}"), "403,200 k", &["/public/z"]),
        ("F31", "POST /no HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 9\r\n\r\n".into(), "403 c", &[]),
        ("F31b", "POST /no HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 999999\r\n\r\nabc".into(), "403 c", &[]),
        ("F32", waits("/no", ""), "403 c", &[]),
        ("F34", "POST /public/upload HTTP/1.1\r\nHost: shop.test\r\nExpect: 200-ok\r\nContent-Length: 2\r\n\r\nab".into(), "200 k", UPLOAD),
        ("F35", format!("{yes}{no}{yes}"), "200,403,200 k", &["/public/a", "/public/a"]),
        ("F36", format!("{no}{no}{yes}"), "403,403,200 k", &["/public/a"]),
    ];
    for (id, sent, expected, targets) in rows {
        check(id, sent.as_bytes(), (expected, targets));
    }
}

#[test]
fn a_100_comes_after_the_verdict_and_once() {
    let head = b"POST /public/upload HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    // A server that says nothing before it has the body: F33.
    let mut play = Play::new(ok);
    play.send(head);
    assert_eq!(
        play.got_text(),
        "",
        "not at once: the server may say it itself"
    );
    play.pass(crate::limits::CONTINUE_WAIT);
    assert_eq!(play.statuses(), "(100)");
    play.say(b"HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(play.statuses(), "(100)", "once");
    play.send(b"ab");
    assert_eq!((&*play.statuses(), play.end_of_client()), ("(100)200", 'k'));
    assert_eq!(play.seen[0].head.as_bytes(), head, "Expect is passed on");
    // A server that says it.
    let mut play = Play::new(ok);
    play.send(head).say(b"HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(play.statuses(), "(100)");
    play.pass(Duration::from_secs(1)).send(b"ab");
    assert_eq!((&*play.statuses(), play.end_of_client()), ("(100)200", 'k'));
    // A server that does not want it.
    let mut play = Play::new(ok);
    play.send(head)
        .say(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n");
    play.pass(Duration::from_secs(3));
    assert_eq!((&*play.statuses(), play.end_of_client()), ("417", 'c'));
}

#[test]
fn a_body_passes_byte_for_byte_at_any_cut() {
    fn echo(seen: &Seen) -> super::play::Reaction {
        let text = String::from_utf8_lossy(&seen.body).into_owned();
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        )
        .as_str()
        .into()
    }
    let body = "abcdefgh".repeat(8);
    let sent = post(&format!("Content-Length: {}\r\n", body.len()), &body);
    for cut in 1..sent.len() {
        let mut play = Play::new(echo);
        play.send(&sent[..cut]).send(&sent[cut..]);
        assert_eq!(play.reached, sent, "cut at {cut}");
        assert!(play.got_text().ends_with(&body), "cut at {cut}");
    }
}
