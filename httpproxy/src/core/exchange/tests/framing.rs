//! Where one request ends and the next one begins.

use std::time::Duration;

use super::play::{Play, Reaction, Seen, ok};
use crate::rows::{Row, framing};

/// A POST with some lines and a body.
fn post(lines: &str, body: &str) -> Vec<u8> {
    format!("POST /public/upload HTTP/1.1\r\nHost: shop.test\r\n{lines}\r\n{body}").into_bytes()
}

#[test]
fn a_message_ends_where_its_head_says_or_its_connection_does() {
    framing::rows().iter().for_each(Row::check);
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
    fn echo(seen: &Seen) -> Reaction {
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
