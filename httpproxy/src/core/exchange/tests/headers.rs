//! What of a request's fields is judged, changed and passed on.

use super::play::{Play, ok};
use crate::core::record::{Note, Told, Verdict};
use crate::core::step::Settings;

/// What the server sees of the lines of a request under some rules.
fn forwarded(rules: &str, lines: &str) -> Option<String> {
    let mut play = Play::with(ok, (rules, Settings::default()));
    let start = "GET /a HTTP/1.1\r\nHost: h\r\n";
    play.send(format!("{start}{lines}\r\n").as_bytes());
    let head = &play.seen.first()?.head;
    let lines = head
        .strip_prefix(start)
        .and_then(|lines| lines.strip_suffix("\r\n"));
    assert!(lines.is_some(), "the lines before stay: {head}");
    lines.map(str::to_owned)
}

#[test]
fn only_what_ends_at_this_hop_is_left_out() {
    #[rustfmt::skip]
    let rows: &[(&str, &str)] = &[
        ("X-BbB:  1 \r\nx-aaa:2\r\nX-BbB: 3\r\nA:\r\n", "X-BbB:  1 \r\nx-aaa:2\r\nX-BbB: 3\r\nA:\r\n"), // B11
        ("Connection: keep-alive\r\nA: b\r\n", "Connection: keep-alive\r\nA: b\r\n"),
        ("Connection: Close\r\nA: b\r\n", "Connection: Close\r\nA: b\r\n"),
        ("Connection: X-Hop\r\nX-Hop: 1\r\nA: b\r\n", "A: b\r\n"),
        ("X-Hop: 1\r\nConnection: close, x-hop\r\nx-hop: 2\r\n", "Connection: close\r\n"),
        ("Keep-Alive: 5\r\nProxy-Connection: keep-alive\r\nA: b\r\n", "A: b\r\n"),
        ("TE: trailers\r\nConnection: TE\r\n", "TE: trailers\r\nConnection: TE\r\n"),
        ("TE: trailers\r\n", "TE: trailers\r\n"),
        ("TE: gzip, trailers\r\nConnection: TE\r\nA: b\r\n", "A: b\r\nTE: trailers\r\nConnection: TE\r\n"),
        ("TE: gzip\r\nConnection: TE, close\r\nA: b\r\n", "A: b\r\nConnection: close\r\n"),
        ("Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n", "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"),
        ("Upgrade: h2c\r\nConnection: keep-alive, Upgrade\r\n", "Connection: keep-alive\r\n"),
        ("X-Forwarded-For: 1\r\nVia: x\r\nForwarded: y\r\n", "X-Forwarded-For: 1\r\nVia: x\r\nForwarded: y\r\n"),
        ("Proxy-Authorization: x\r\nTrailer: y\r\n", "Proxy-Authorization: x\r\nTrailer: y\r\n"),
        ("Transfer-Encoding: chunked\r\nConnection: transfer-encoding\r\n\r\n0\r\n", "Transfer-Encoding: chunked\r\n"),
    ];
    for (lines, expected) in rows {
        assert_eq!(
            forwarded("[{}]", lines).as_deref(),
            Some(*expected),
            "{lines}"
        );
    }
    for name in ["host", "Content-Length", "authorization", "Cookie"] {
        let mut play = Play::with(ok, ("[{}]", Settings::default()));
        play.send(format!("GET /a HTTP/1.1\r\nHost: h\r\nConnection: {name}\r\n\r\n").as_bytes());
        assert_eq!(
            (&*play.statuses(), play.reached.len()),
            ("400", 0),
            "{name}"
        );
    }
}

/// Section 8's table: an action, what is sent, and what the server sees.
#[test]
fn actions_on_headers_are_run_on_what_goes_upstream() {
    let rule = |action: &str| {
        format!("[{{headerMatches: [{{name: X-A, value: v, mismatch: {action}}}]}}]")
    };
    let presence = "[{headerMatches: [{name: X-A, mismatch: DELETE}]}]";
    #[rustfmt::skip]
    let rows: &[(String, &str, Option<&str>, usize)] = &[
        ("[{headerMatches: [{name: X-A, value: v}]}]".into(), "x-a: v\r\n", Some("x-a: v\r\n"), 0),
        ("[{headerMatches: [{name: X-A, value: v}]}]".into(), "x-a: w\r\n", None, 0),
        ("[{headerMatches: [{name: X-A, value: v}]}]".into(), "", None, 0),
        (rule("LOG"), "X-A: v\r\n", Some("X-A: v\r\n"), 0),
        (rule("LOG"), "X-A: w\r\n", Some("X-A: w\r\n"), 1),
        (rule("LOG"), "", Some(""), 1),
        (rule("ADD"), "X-A: v\r\n", Some("X-A: v\r\n"), 0),
        (rule("ADD"), "X-A: w\r\nB: c\r\n", Some("X-A: w\r\nB: c\r\nx-a: v\r\n"), 1),
        (rule("ADD"), "B: c\r\n", Some("B: c\r\nx-a: v\r\n"), 1),
        (rule("DELETE"), "X-A: v\r\n", Some("X-A: v\r\n"), 0),
        (rule("DELETE"), "X-A: w\r\nB: c\r\nx-a: u\r\n", Some("B: c\r\n"), 1),
        (rule("DELETE"), "B: c\r\n", Some("B: c\r\n"), 0),
        (rule("REPLACE"), "X-A: v\r\n", Some("X-A: v\r\n"), 0),
        (rule("REPLACE"), "X-A: w\r\nB: c\r\nx-A: u\r\n", Some("B: c\r\nx-a: v\r\n"), 2),
        (rule("REPLACE"), "B: c\r\n", Some("B: c\r\nx-a: v\r\n"), 1),
        (presence.into(), "X-A: w\r\n", Some("X-A: w\r\n"), 0),
    ];
    for (rules, lines, expected, notes) in rows {
        assert_eq!(
            forwarded(rules, lines).as_deref(),
            *expected,
            "{rules} {lines}"
        );
        let mut play = Play::with(ok, (rules, Settings::default()));
        play.send(format!("GET /a HTTP/1.1\r\nHost: h\r\n{lines}\r\n").as_bytes());
        let Some(Told::Request(record)) = play.told.first() else {
            panic!("{:?}", play.told)
        };
        let told = match &record.verdict {
            Verdict::Allowed { notes, .. } => notes.len(),
            Verdict::Denied(_) => 0,
            Verdict::Malformed(_) | Verdict::TooSlow => panic!("{record:?}"),
        };
        assert_eq!(told, *notes, "{rules} {lines}");
    }
    let mut play = Play::with(ok, (&rule("REPLACE"), Settings::default()));
    play.send(b"GET /a HTTP/1.1\r\nHost: h\r\nX-A: w\r\n\r\n");
    let Some(Told::Request(record)) = play.told.first() else {
        panic!("{:?}", play.told)
    };
    let Verdict::Allowed { notes, .. } = &record.verdict else {
        panic!("{record:?}")
    };
    let rejected = Note::Rejected("x-a".into(), "w".into());
    assert_eq!(*notes, [rejected, Note::Missing("x-a".into(), "v".into())]);
    let edited = ("x-a".to_owned(), "v".to_owned());
    assert_eq!(
        record.fields.last(),
        Some(&edited),
        "the edited set is told"
    );
}
