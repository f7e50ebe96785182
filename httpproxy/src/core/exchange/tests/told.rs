//! Answers of our own, and what is told.

use std::time::Duration;

use super::play::{Play, RULES, ok};
use crate::core::record::{By, End, REDACTED, Told, Verdict, Why};
use crate::core::step::{Denied, Queries, Settings};

const DENIED: &str = "HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain\r\ncontent-length: 15\r\n\
    date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\nAccess denied\r\n";

#[test]
fn a_denial_says_what_every_client_understands() {
    let answer = |sent: &str| {
        let mut play = Play::new(ok);
        play.send(sent.as_bytes());
        assert!(play.reached.is_empty());
        (play.got_text(), play.end_of_client())
    };
    assert_eq!(
        answer("GET /no HTTP/1.1\r\nHost: h\r\n\r\n"),
        (DENIED.to_owned(), 'k')
    );
    let head = DENIED.strip_suffix("Access denied\r\n").unwrap();
    assert_eq!(
        answer("HEAD /no HTTP/1.1\r\nHost: h\r\n\r\n"),
        (head.to_owned(), 'k')
    );
    for kind in [
        "application/grpc",
        "application/grpc+proto",
        "Application/gRPC-web",
    ] {
        let sent = format!(
            "POST /no HTTP/1.1\r\nHost: h\r\nContent-Type: {kind}\r\nContent-Length: 0\r\n\r\n"
        );
        let (text, end) = answer(&sent);
        assert!(
            text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\n"),
            "{text}"
        );
        let says = "\r\ngrpc-status: 7\r\ngrpc-message: Access denied%0D%0A\r\n";
        assert!(text.contains(says), "{text}");
        assert_eq!(end, 'k');
    }
    let other = "POST /no HTTP/1.1\r\nHost: h\r\nContent-Type: application/grpcish\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(answer(other).0, DENIED);
    let settings = Settings {
        denied_text: "no\r\n".into(),
        ..Settings::default()
    };
    let mut play = Play::with(ok, (RULES, settings));
    play.send(b"GET /no HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(play.got_text().ends_with("\r\n\r\nno\r\n"));
}

#[test]
fn each_request_is_told_once_and_its_response_once() {
    let mut play = Play::new(ok);
    let sent = "GET /public/a?x=1 HTTP/1.1\r\nHost: shop.test\r\nAuthorization: s3cret\r\nA: b\r\n\r\n\
        GET /no HTTP/1.1\r\nHost: shop.test\r\nCookie: s3cret\r\n\r\n\
        GET /public/\x01 HTTP/1.1\r\nHost: shop.test\r\nCookie: s3cret\r\n\r\n";
    play.send(sent.as_bytes()).pass(Duration::from_secs(3));
    assert_eq!(play.statuses(), "200,403,400");
    let [
        Told::Request(first),
        Told::Response(answer),
        Told::Request(second),
        Told::Response(denial),
        Told::Request(third),
        Told::Response(refusal),
    ] = &play.told[..]
    else {
        panic!("{:#?}", play.told)
    };
    assert_eq!(
        (&*first.method, &*first.url),
        ("GET", "http://shop.test/public/a?x=1")
    );
    assert!(matches!(first.verdict, Verdict::Allowed { .. }));
    let fields: Vec<(&str, &str)> = first.fields.iter().map(|(n, v)| (&**n, &**v)).collect();
    assert_eq!(
        fields,
        [
            ("Host", "shop.test"),
            ("Authorization", REDACTED),
            ("A", "b")
        ]
    );
    assert_eq!((answer.status, answer.by), (200, By::Server));
    assert_eq!(second.verdict, Verdict::Denied(Denied::NotAllowed));
    assert_eq!((denial.status, denial.by), (403, By::Proxy(Why::Denied)));
    assert_eq!(
        (&*third.url, &*third.method),
        (r"GET /public/\x01 HTTP/1.1", "")
    );
    assert_eq!(
        (refusal.status, refusal.by),
        (400, By::Proxy(Why::Malformed))
    );
    assert!(!format!("{:?}", play.told).contains("s3cret"));

    let settings = Settings {
        queries: Queries::LeftOut,
        ..Settings::default()
    };
    let mut play = Play::with(ok, (RULES, settings));
    play.send(b"GET /public/a?secret HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    assert!(!format!("{:?}", play.told).contains("secret"));
    assert!(play.reached.starts_with(b"GET /public/a?secret "));
}

/// Neither what fits nor what was tried: a rule says which header it is.
#[test]
fn what_a_rule_compares_with_a_secret_is_not_told() {
    const RULE: &str = "[{path: /public/.*, \
        headerMatches: [{name: X-Key, secret: {namespace: d, name: s}, value: s3cret}]}]";
    for (value, status) in [("s3cret", "200"), ("s3cre7", "403")] {
        let mut play = Play::with(ok, (RULE, Settings::default()));
        let sent = format!(
            "GET /public/a HTTP/1.1\r\nHost: shop.test\r\nx-key: {value}\r\nX-Other: told\r\n\r\n"
        );
        play.send(sent.as_bytes());
        assert_eq!(play.statuses(), status);
        let told = format!("{:?}", play.told);
        assert!(!told.contains(value) && told.contains(REDACTED), "{told}");
        assert!(told.contains(r#"("X-Other", "told")"#), "{told}");
    }
}

#[test]
fn latency_is_from_head_to_head_and_an_end_that_says_more_is_told() {
    let mut play = Play::new(|_| "".into());
    play.send(b"GET /public/a HTTP/1.1\r\nHost: h\r\n\r\n");
    play.pass(Duration::from_millis(30));
    play.say(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab");
    play.server_ends();
    let [Told::Request(_), Told::Response(answer), Told::Ended(end)] = &play.told[..] else {
        panic!("{:#?}", play.told)
    };
    assert_eq!(answer.latency, Duration::from_millis(30));
    assert_eq!((end.end, end.sent, end.received), (End::ServerGone, 0, 2));
    // The client goes away while it is answered.
    let mut play = Play::new(|_| "".into());
    play.send(b"GET /public/a HTTP/1.1\r\nHost: h\r\n\r\n");
    play.connection.client_reset();
    play.pass(Duration::ZERO);
    let [Told::Request(_), Told::Ended(end)] = &play.told[..] else {
        panic!("{:#?}", play.told)
    };
    assert_eq!(end.end, End::ClientGone);
    assert_eq!((play.end_of_client(), play.end_of_upstream()), ('R', 'R'));
    // It ends its side in the middle of its body: that is no request for the server.
    let mut play = Play::new(|_| "".into());
    play.send(b"POST /public/upload HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhalf");
    play.end();
    let [Told::Request(_), Told::Ended(end)] = &play.told[..] else {
        panic!("{:#?}", play.told)
    };
    assert_eq!(
        (end.end, end.sent, end.is_answered),
        (End::ClientGone, 4, false)
    );
    assert_eq!(play.end_of_upstream(), 'R');
}

#[test]
fn a_server_that_is_not_trusted_gets_nothing_and_the_client_502() {
    let untrusted = || {
        let mut play = Play::new(ok);
        play.connection.upstream_untrusted();
        play
    };
    let mut play = untrusted();
    play.send(b"GET /public/a HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    assert_eq!((play.statuses(), play.end_of_client()), ("502".into(), 's'));
    assert!(play.reached.is_empty() && play.seen.is_empty());
    let by = |told: &Told| match told {
        Told::Response(response) => Some((response.status, response.by)),
        Told::Request(_) | Told::Ended(_) | Told::Fault(_) => None,
    };
    let responses: Vec<_> = play.told.iter().filter_map(by).collect();
    assert_eq!(responses, [(502, By::Proxy(Why::Untrusted))]);
    // A denied one is told so first; with a body nothing of it goes on either.
    let mut play = untrusted();
    play.send(b"GET /no HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    play.send(b"POST /public/upload HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!(play.statuses(), "403,502");
    assert!(play.reached.is_empty());
}
