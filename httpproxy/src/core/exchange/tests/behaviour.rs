//! What the server does, and what the client sees of it.

use std::time::Duration;

use super::play::{Play, Reaction, Row, Script, Seen, ok};
use crate::core::exchange::Way;
use crate::core::record::{Fault, Told};

const GET: &[u8] = b"GET /public/a HTTP/1.1\r\nHost: shop.test\r\n\r\n";
const GET_10: &[u8] = b"GET /public/a HTTP/1.0\r\nHost: shop.test\r\n\r\n";
const NEXT: &str = "GET /public/b HTTP/1.1\r\nHost: shop.test\r\n\r\n";

/// Answers as a text says; the second request plainly.
macro_rules! says {
    ($text:expr) => {
        says!($text, false)
    };
    ($text:expr, $closes:expr) => {
        |seen: &Seen| match seen.target.as_str() {
            "/public/a" => Reaction {
                bytes: $text.as_bytes().to_vec(),
                closes: $closes,
            },
            _ => ok(seen),
        }
    };
}

/// What the client gets at any cut of the request, with the answer as the server sent it or with
/// another text, and how the connection ends.
fn check(id: &str, sent: &[u8], (script, expected, ends): (Script, &str, (char, char))) {
    for cut in 0..sent.len() {
        let mut play = Play::new(script);
        play.send(&sent[..cut]).send(&sent[cut..]);
        play.pass(Duration::from_secs(3));
        assert_eq!(play.got_text(), expected, "{id} cut at {cut}");
        let found = (play.end_of_client(), play.end_of_upstream());
        assert_eq!(found, ends, "{id} cut at {cut}");
    }
}

const BAD_GATEWAY: &str = "HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/plain\r\ncontent-length: 13\r\n\
    date: Thu, 01 Jan 1970 00:00:00 GMT\r\nconnection: close\r\n\r\nBad Gateway\r\n";

#[test]
fn a_response_passes_as_the_server_wrote_it() {
    const MIXED: &str = "HTTP/1.1 200 Fine, thanks\r\nX-BbB:  1 \r\nx-aaa:2\r\nX-BbB: 3\r\nServer: s\r\nContent-Length: 2\r\n\r\nok";
    const EARLY: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    const BOTH: &str = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    const UNTIL_END: &str = "HTTP/1.1 200 OK\r\n\r\nok";
    const CUT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok";
    const CUT_CHUNK: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nok";
    const TRAILER: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n";
    const UNCHANGED: &str = "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n";
    const HOPS: &str = "HTTP/1.1 200 OK\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\nA: b\r\n\r\nok";
    const UNAVAILABLE: &str = "HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nno";
    const CLOSES: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    const OFFERS: &str =
        "HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nok";
    let kept = ('k', 'k');
    #[rustfmt::skip]
    let rows: &[(&str, Script, &str, (char, char))] = &[
        ("B03", says!(EARLY), EARLY, kept),
        ("B04", says!(BOTH), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", ('c', 'c')),
        ("B05", says!(UNTIL_END, true), UNTIL_END, ('c', 'c')),
        ("B06", says!(CUT, true), CUT, ('R', 'R')),
        ("B06b", says!(CUT_CHUNK, true), CUT_CHUNK, ('R', 'R')),
        ("B07", says!(TRAILER), TRAILER, kept),
        ("B09", says!(UNCHANGED), UNCHANGED, kept),
        ("B11", says!(MIXED), MIXED, kept),
        ("B12", says!(UNAVAILABLE), UNAVAILABLE, kept),
        ("hop", says!(HOPS), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nA: b\r\nConnection: keep-alive\r\n\r\nok", kept),
        ("close", says!(CLOSES, true), CLOSES, ('c', 'c')),
        ("offer", says!(OFFERS), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", kept),
    ];
    for (id, script, expected, ends) in rows {
        check(id, GET, (*script, expected, *ends));
    }
    // Sent once, whatever is answered.
    let mut play = Play::new(says!(UNAVAILABLE));
    play.send(GET).pass(Duration::from_secs(3));
    assert_eq!(play.reached, GET, "B12");
}

#[test]
fn what_is_no_response_is_a_502_and_the_end() {
    let ends = ('c', 'R');
    #[rustfmt::skip]
    let rows: &[(&str, Script)] = &[
        ("two lengths", says!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok")),
        ("gzip", says!("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")),
        ("no line", says!("\r\nHTTP/1.1 200 OK\r\n\r\n")),
        ("bare LF", says!("HTTP/1.1 200 OK\nContent-Length: 2\n\nok")),
        ("status", says!("HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok")),
        ("not HTTP", says!("SSH-2.0-OpenSSH_9.2\r\n")),
        ("folded", says!("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n")),
        ("101 unasked", says!("HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")),
        ("gone", says!("", true)),
        ("gone in the head", says!("HTTP/1.1 200 OK\r\nContent-", true)),
    ];
    for (id, script) in rows {
        check(id, GET, (*script, BAD_GATEWAY, ends));
    }
}

#[test]
fn a_response_without_a_body_has_none_and_the_next_one_is_its_own() {
    const HEAD_ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    let head = format!("HEAD /public/a HTTP/1.1\r\nHost: shop.test\r\n\r\n{NEXT}");
    let plain = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let both = format!("{HEAD_ANSWER}{plain}");
    check(
        "B08",
        head.as_bytes(),
        (says!(HEAD_ANSWER), &both, ('k', 'k')),
    );
    const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\n\r\n";
    let both = format!("{NO_CONTENT}{plain}");
    let sent = [GET, NEXT.as_bytes()].concat();
    check("204", &sent, (says!(NO_CONTENT), &both, ('k', 'k')));
    const UNCHANGED: &str = "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n";
    let both = format!("{UNCHANGED}{plain}");
    check("B09", &sent, (says!(UNCHANGED), &both, ('k', 'k')));
}

#[test]
fn an_older_client_gets_what_it_understands() {
    const CHUNKED: &str =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    const EARLY: &str =
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    const KEPT: &str = "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok";
    check(
        "chunks",
        GET_10,
        (says!(CHUNKED), "HTTP/1.1 200 OK\r\n\r\nok", ('c', 'c')),
    );
    let plain = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    check("103", GET_10, (says!(EARLY), plain, ('c', 'c')));
    let keeps = b"GET /public/a HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n";
    check("B14", keeps, (says!(KEPT), KEPT, ('k', 'k')));
    let mut play = Play::new(says!(KEPT));
    play.send(keeps);
    assert_eq!(play.reached, keeps, "as it came");
    let denied = b"GET /no HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let mut play = Play::new(ok);
    play.send(denied);
    assert!(
        play.got_text().contains("\r\nconnection: keep-alive\r\n"),
        "{}",
        play.got_text()
    );
    assert_eq!(play.end_of_client(), 'k');
}

#[test]
fn a_connection_ends_when_a_side_says_so() {
    let close = b"GET /public/a HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n";
    let row = |id, sent, expected, targets| {
        Row {
            id,
            sent,
            expected,
            targets,
        }
        .check(ok)
    };
    row("B15", close, "200 c", &["/public/a"]);
    let denied = b"GET /no HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n";
    row("denied", denied, "403 c", &[]);
    // B13: the client has said all, and still gets the answer.
    let mut play = Play::new(|_| "".into());
    play.send(GET).end();
    assert_eq!(play.end_of_client(), 'k');
    play.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!((&*play.statuses(), play.end_of_client()), ("200", 'c'));
    // It ends in a body: the server must not take that for the whole.
    let mut play = Play::new(ok);
    play.send(b"POST /public/upload HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 9\r\n\r\nab")
        .end();
    assert_eq!((play.end_of_client(), play.end_of_upstream()), ('c', 'R'));
    // The server ends between two requests.
    let mut play = Play::new(ok);
    play.send(GET).server_ends();
    assert_eq!((play.end_of_client(), play.end_of_upstream()), ('c', 'c'));
    // Nothing at all.
    let mut play = Play::new(ok);
    play.end();
    assert_eq!(play.end_of_client(), 'c');
    assert!(matches!(play.told[..], [Told::Fault(Fault::Empty)]));
}

#[test]
fn an_early_answer_is_passed_and_the_rest_is_bounded() {
    let head = b"POST /public/upload HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 999999\r\n\r\n";
    let answer = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno";
    let mut play = Play::new(|_| "".into());
    play.send(head).send(b"ab").say(answer);
    assert_eq!(play.got, answer, "B16");
    play.pass(Duration::from_secs(3));
    assert_eq!((play.end_of_client(), play.end_of_upstream()), ('c', 'R'));
    // What is left comes in time: the connection lives.
    let mut play = Play::new(|_| "".into());
    let head = b"POST /public/upload HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 4\r\n\r\n";
    play.send(head).send(b"ab").say(answer).send(b"cd");
    assert_eq!(play.end_of_client(), 'k');
    // The server has closed its side with it.
    let mut play = Play::new(|_| "".into());
    play.send(head).send(b"ab").say(answer).server_ends();
    play.pass(Duration::from_secs(3));
    assert_eq!((&*play.statuses(), play.end_of_client()), ("413", 'c'));
}

#[test]
fn what_a_server_sends_unasked_is_never_an_answer() {
    const TWO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let sent = [GET, NEXT.as_bytes()].concat();
    for cut in 0..sent.len() {
        let mut play = Play::new(says!(TWO));
        play.send(&sent[..cut]).send(&sent[cut..]);
        assert_eq!(
            play.got_text(),
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "at {cut}"
        );
        assert_eq!(play.end_of_upstream(), 'R');
        assert!(
            play.told
                .iter()
                .any(|told| matches!(told, Told::Fault(Fault::Unasked)))
        );
    }
    let mut play = Play::new(ok);
    play.say(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        .send(GET);
    assert_eq!(
        (play.got_text(), play.end_of_client()),
        (String::new(), 'c')
    );
    let mut play = Play::new(ok);
    play.send(GET).say(b"x").send(NEXT.as_bytes());
    assert_eq!((&*play.statuses(), play.seen.len()), ("200", 1));
}

#[test]
fn a_tunnel_opens_only_by_the_servers_101() {
    let upgrade = "GET /public/a HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: x\r\n\r\n";
    const SWITCHES: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello";
    let sent = format!("{upgrade}GET /no early");
    for cut in 0..sent.len() {
        let mut play = Play::new(|_| "".into());
        play.send(&sent.as_bytes()[..cut])
            .send(&sent.as_bytes()[cut..]);
        assert_eq!(
            play.reached,
            upgrade.as_bytes(),
            "B01: held back until the 101"
        );
        play.say(SWITCHES.as_bytes());
        assert_eq!(play.got_text(), SWITCHES, "B01");
        assert_eq!(play.reached, sent.as_bytes());
        play.send(b"\0ping").say(b"\0pong");
        assert!(play.reached.ends_with(b"\0ping") && play.got.ends_with(b"\0pong"));
        assert_eq!(play.connection.bulk(Way::Up), 0);
        play.end();
        assert_eq!((play.end_of_client(), play.end_of_upstream()), ('k', 's'));
        play.say(b"bye").server_ends();
        assert!(play.got.ends_with(b"bye"));
        assert_eq!((play.end_of_client(), play.end_of_upstream()), ('c', 'c'));
        let Some(Told::Ended(end)) = play.told.last() else {
            panic!("{:?}", play.told)
        };
        assert_eq!((end.sent, end.received), (18, 13));
    }
    // Any other answer leaves it HTTP, and what follows is judged.
    let mut play = Play::new(ok);
    let sent = format!("{upgrade}GET /no HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    play.send(sent.as_bytes());
    assert_eq!(
        (&*play.statuses(), play.targets()),
        ("200,403", vec!["/public/a"])
    );
    // To something that isn't in the list.
    let mut play = Play::new(|_| "".into());
    play.send(upgrade.as_bytes())
        .say(b"HTTP/1.1 101 S\r\nUpgrade: evil\r\nConnection: Upgrade\r\n\r\n");
    assert_eq!(play.statuses(), "502");
    // Revoked while it lives.
    let mut play = Play::new(|_| "".into());
    play.send(upgrade.as_bytes()).say(SWITCHES.as_bytes());
    assert!(play.connection.tunnel().is_some());
    play.connection.revoke();
    assert_eq!((play.end_of_client(), play.end_of_upstream()), ('R', 'R'));
}

#[test]
fn an_upgrade_that_may_not_be_is_left_out() {
    for lines in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
        "Connection: upgrade\r\nUpgrade: websocket, h2c\r\n",
        "Upgrade: websocket\r\n",
    ] {
        let sent = format!("GET /public/a HTTP/1.1\r\nHost: shop.test\r\n{lines}A: b\r\n\r\n");
        let mut play = Play::new(ok);
        play.send(sent.as_bytes());
        let plain = "GET /public/a HTTP/1.1\r\nHost: shop.test\r\nA: b\r\n\r\n";
        assert_eq!(play.seen[0].head, plain, "B02");
        assert_eq!((&*play.statuses(), play.end_of_client()), ("200", 'k'));
    }
}

#[test]
fn connect_is_given_by_its_own_rule_and_to_the_destination_alone() {
    let rules = "[{method: CONNECT}, {method: GET, path: /public/.*}]";
    let ask = |target: &str, rules: &str| {
        let mut play = Play::with(|_| "".into(), (rules, crate::Settings::default()));
        let sent = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\nearly");
        play.send(sent.as_bytes());
        let head_only = play.reached == sent.as_bytes()[..sent.len() - 5];
        if head_only {
            play.say(b"HTTP/1.1 200 Established\r\n\r\n");
            assert_eq!(play.reached, sent.as_bytes());
            assert_eq!(play.got, b"HTTP/1.1 200 Established\r\n\r\n");
        } else {
            assert!(play.reached.is_empty());
        }
        head_only
    };
    assert!(ask("192.0.2.7:8080", rules));
    let named = "[{method: CONNECT, host: 'shop[.]test'}]";
    assert!(ask("shop.test:8080", named));
    assert!(!ask("evil.test:8080", named));
    for name in ["shop.test:8080", "2130706433:8080", "127.1:8080"] {
        assert!(!ask(name, rules), "{name}: no rule says its host");
    }
    assert!(!ask("192.0.2.8:8080", rules), "another address");
    assert!(!ask("shop.test:443", named), "another port");
    assert!(!ask("shop.test:8080", "[{}]"), "a rule without a method");
}
