//! What the server does, and what the client sees of it: the rows, and what no row can say.

use std::time::Duration;

use super::play::{Play, ok};
use crate::core::exchange::Way;
use crate::core::record::{Fault, Told};
use crate::rows::{Row, behaviour};

const GET: &[u8] = b"GET /public/a HTTP/1.1\r\nHost: shop.test\r\n\r\n";
const NEXT: &str = "GET /public/b HTTP/1.1\r\nHost: shop.test\r\n\r\n";

#[test]
fn a_response_passes_as_the_server_wrote_it_or_is_none() {
    behaviour::rows().iter().for_each(Row::check);
}

#[test]
fn an_older_client_is_answered_as_it_asked() {
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
    let answer = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno";
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

#[test]
fn who_says_that_this_is_its_last_request_is_closed_at_once_unless_it_goes_on() {
    const LAST: &str = "GET /public/a HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n";
    // With octets unread a close is a reset, which may take the response from it.
    for (more, end) in [("", 'c'), ("GET /public/b", 's')] {
        let mut play = Play::new(ok);
        play.send([LAST, more].concat().as_bytes());
        let seen = (play.statuses(), play.end_of_client());
        assert_eq!(seen, ("200".to_owned(), end), "{more}");
    }
}
