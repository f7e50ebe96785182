//! Bounds in time and octets, each of them hit.

use std::sync::Arc;
use std::time::Duration;

use super::play::{Play, RULES, ok};
use crate::core::exchange::{Connection, Way};
use crate::core::record::{End, Fault, Told};
use crate::core::step::{Connect, Settings};
use crate::limits::{
    BODY_BUFFER_OCTETS_MAX, DRAIN_OCTETS_MAX, DRAIN_WAIT, HEAD_WAIT, INTERIM_RESPONSES_MAX,
    KEEPALIVE_IDLE, STREAM_IDLE, TUNNEL_BULK_AFTER_OCTETS, TUNNEL_IDLE,
};

const GET: &[u8] = b"GET /public/a HTTP/1.1\r\nHost: shop.test\r\n\r\n";
const MOMENT: Duration = Duration::from_millis(1);

#[test]
fn a_head_must_come_in_time_and_a_silent_connection_is_closed() {
    let mut play = Play::new(ok);
    play.send(GET).send(b"GET /pub");
    for _ in 0..9 {
        play.pass(HEAD_WAIT / 10).send(b"x");
    }
    assert_eq!(play.end_of_client(), 'k', "not late yet");
    play.pass(HEAD_WAIT / 10);
    assert_eq!(play.statuses(), "200,408");
    play.pass(DRAIN_WAIT);
    assert_eq!(play.end_of_client(), 'c');

    let mut play = Play::new(ok);
    play.send(GET).pass(KEEPALIVE_IDLE - MOMENT);
    assert_eq!(play.end_of_client(), 'k');
    play.pass(MOMENT);
    assert_eq!((&*play.statuses(), play.end_of_client()), ("200", 'c'));
}

#[test]
fn a_body_and_a_tunnel_may_not_rest_for_ever() {
    let mut play = Play::new(ok);
    play.send(b"POST /public/upload HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nab");
    play.pass(STREAM_IDLE - MOMENT)
        .send(b"c")
        .pass(STREAM_IDLE - MOMENT);
    assert_eq!(play.end_of_client(), 'k');
    play.pass(MOMENT);
    assert_eq!((play.end_of_client(), play.end_of_upstream()), ('R', 'R'));
    assert!(matches!(play.told.last(), Some(Told::Ended(end)) if end.end == End::Idle));
    // A server may think as long as it likes, unless told otherwise.
    let mut play = Play::new(|_| "".into());
    play.send(GET).pass(Duration::from_secs(9999));
    assert_eq!(play.end_of_client(), 'k');
    let settings = Settings {
        response_wait: Some(Duration::from_secs(5)),
        ..Settings::default()
    };
    let mut play = Play::with(|_| "".into(), (RULES, settings));
    play.send(GET).pass(Duration::from_secs(5));
    assert_eq!(play.statuses(), "504");
    let mut play = Play::new(|_| "".into());
    play.send(
        b"GET /public/a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    play.say(b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    play.pass(TUNNEL_IDLE - MOMENT);
    assert_eq!(play.end_of_client(), 'k');
    play.pass(MOMENT);
    assert_eq!((play.end_of_client(), play.end_of_upstream()), ('R', 'R'));
}

#[test]
fn an_unwanted_body_is_dropped_up_to_a_bound() {
    let most = usize::try_from(DRAIN_OCTETS_MAX).unwrap();
    let deny = |length: usize| {
        let mut play = Play::new(ok);
        play.send(
            format!("POST /no HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n").as_bytes(),
        );
        play
    };
    let mut play = deny(most);
    play.send(&vec![0; most]).send(GET);
    assert_eq!((&*play.statuses(), play.end_of_client()), ("403,200", 'k'));
    let play = deny(most + 1);
    assert!(play.got_text().contains("\r\nconnection: close\r\n"));
    assert_eq!(play.end_of_client(), 's', "lingers");
    // In chunks nobody knows how much will come.
    let mut play = Play::new(ok);
    play.send(b"POST /no HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n20000\r\n");
    play.send(&vec![0; most]);
    assert_eq!(play.end_of_client(), 'k');
    play.send(b"x");
    assert_ne!(play.end_of_client(), 'k');
    // Not in time.
    let mut play = deny(9);
    play.pass(DRAIN_WAIT - MOMENT);
    assert_eq!(play.end_of_client(), 'k');
    play.pass(MOMENT);
    assert_eq!(play.end_of_client(), 's');
    play.pass(DRAIN_WAIT);
    assert_eq!(play.end_of_client(), 'c');
    // What comes after the last words is dropped, up to the same bound.
    let mut play = deny(most + 1);
    play.send(&vec![0; most]);
    assert_eq!(play.end_of_client(), 's');
    play.send(b"x");
    assert_eq!(play.end_of_client(), 'c');
}

#[test]
fn interim_responses_are_bounded() {
    let early = b"HTTP/1.1 103 Early\r\n\r\n".repeat(INTERIM_RESPONSES_MAX as usize);
    let mut play = Play::new(|_| "".into());
    play.send(GET).say(&early);
    assert_eq!(play.got, early);
    play.say(b"HTTP/1.1 103 Early\r\n\r\n");
    assert!(play.statuses().ends_with("502"));
}

#[test]
fn a_slow_side_holds_no_more_than_its_buffer() {
    // A server that takes nothing.
    let mut connection = connection(Connect::Eager);
    connection.upstream_connected();
    let head = b"POST /public/upload HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999\r\n\r\n";
    let mut taken = 0;
    let judge = super::play::judge(RULES);
    let mut sent: Vec<u8> = [&head[..], &vec![1; 1 << 20]].concat();
    for _ in 0..10_000 {
        let room = connection.client_room();
        let count = room.len().min(sent.len());
        room[..count].copy_from_slice(&sent[..count]);
        sent.drain(..count);
        connection.client_read(count);
        connection.step(super::play::now(), judge);
        taken += count;
        if count == 0 {
            break;
        }
    }
    assert!(
        taken <= 2 * BODY_BUFFER_OCTETS_MAX + 2 * head.len(),
        "{taken}"
    );
    assert!(connection.to_upstream().len() >= BODY_BUFFER_OCTETS_MAX);
    assert!(connection.to_upstream().len() <= BODY_BUFFER_OCTETS_MAX + head.len());
    // It takes some: more is read.
    let written = connection.to_upstream().len();
    connection.upstream_wrote(written);
    connection.step(super::play::now(), judge);
    assert!(!connection.client_room().is_empty());
}

#[test]
fn a_tunnel_passes_without_being_seen_once_it_is_long() {
    let mut play = Play::new(|_| "".into());
    play.send(
        b"GET /public/a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    play.say(b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    let most = usize::try_from(TUNNEL_BULK_AFTER_OCTETS).unwrap();
    play.send(&vec![0; most - 1]);
    assert_eq!(play.connection.bulk(Way::Up), 0);
    play.send(b"x");
    assert_eq!(play.connection.bulk(Way::Up), u64::MAX);
    assert_eq!(play.connection.bulk(Way::Down), 0, "each way by itself");
    play.connection.bulk_moved(Way::Up, 5);
    play.end().server_ends();
    let Some(Told::Ended(end)) = play.told.last() else {
        panic!("{:?}", play.told)
    };
    assert_eq!(end.sent, TUNNEL_BULK_AFTER_OCTETS + 5);
}

#[test]
fn content_may_pass_without_being_seen() {
    let mut play = Play::new(|_| "".into());
    assert_eq!(play.connection.bulk(Way::Up), 0);
    play.send(b"POST /public/upload HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n0123456789");
    assert_eq!(play.connection.bulk(Way::Up), 990);
    assert!(
        play.connection.is_clear(Way::Up),
        "all before it is written"
    );
    assert_eq!(play.connection.bulk(Way::Down), 0);
    play.connection.bulk_moved(Way::Up, 990);
    assert_eq!(play.connection.bulk(Way::Up), 0);
    play.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n0");
    assert_eq!(play.connection.bulk(Way::Down), 254);
    play.connection.bulk_moved(Way::Down, 254);
    play.say(b"\r\n0\r\n\r\n");
    assert_eq!(
        (play.end_of_client(), play.connection.bulk(Way::Down)),
        ('k', 0)
    );
    play.send(GET)
        .say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert!(
        play.got
            .ends_with(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    );
}

#[test]
fn an_unreachable_server_is_a_reset_or_a_503() {
    let judge = super::play::judge(RULES);
    let fill = |connection: &mut Connection| {
        connection.client_room()[..GET.len()].copy_from_slice(GET);
        connection.client_read(GET.len());
        connection.step(super::play::now(), judge);
    };
    let mut eager = connection(Connect::Eager);
    assert!(!eager.wants().connect);
    eager.upstream_failed();
    fill(&mut eager);
    assert_eq!(eager.wants().client, crate::Leg::Reset);
    assert!(matches!(
        eager.next_told(),
        Some(Told::Fault(Fault::Unreachable))
    ));

    let mut lazy = connection(Connect::Lazy);
    assert!(!lazy.wants().connect);
    fill(&mut lazy);
    assert!(lazy.wants().connect, "there is a permit");
    assert!(
        lazy.to_upstream().is_empty(),
        "not before the connection stands"
    );
    lazy.upstream_connecting();
    assert!(!lazy.wants().connect);
    lazy.upstream_failed();
    lazy.step(super::play::now(), judge);
    assert!(lazy.to_client().starts_with(b"HTTP/1.1 503 "));

    let mut lazy = connection(Connect::Lazy);
    let denied = b"GET /no HTTP/1.1\r\nHost: h\r\n\r\n";
    lazy.client_room()[..denied.len()].copy_from_slice(denied);
    lazy.client_read(denied.len());
    lazy.step(super::play::now(), judge);
    assert!(!lazy.wants().connect, "a denied request connects nowhere");
}

#[test]
fn a_draining_connection_ends_with_its_response() {
    let mut play = Play::new(|_| "".into());
    play.send(GET);
    play.connection.drain();
    play.say(b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok");
    let expected = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    assert_eq!(play.got_text(), expected);
    play.pass(DRAIN_WAIT);
    assert_eq!(play.end_of_client(), 'c');
    let mut play = Play::new(ok);
    play.send(GET);
    play.connection.drain();
    play.pass(Duration::ZERO);
    assert_eq!(play.end_of_client(), 'c');
}

fn connection(connect: Connect) -> Connection {
    let settings = Settings {
        connect,
        ..Settings::default()
    };
    let now = super::play::now().instant;
    Connection::new(Arc::new(settings), super::play::origin(), now)
}

#[test]
fn what_is_under_way_at_the_end_of_the_daemon_is_told_and_reset() {
    let mut play = Play::new(|_| "".into());
    play.send(b"POST /public/upload HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nab");
    play.connection.abandon();
    play.pass(MOMENT);
    assert_eq!((play.end_of_client(), play.end_of_upstream()), ('R', 'R'));
    let stopped: Vec<_> = play
        .told
        .iter()
        .filter(|told| matches!(told, Told::Ended(end) if end.end == End::Stopped && end.sent == 2))
        .collect();
    assert_eq!(stopped.len(), 1, "{:?}", play.told);
}

#[test]
fn a_connection_that_rests_holds_little() {
    let mut play = Play::new(|_| "".into());
    play.send(GET);
    let body = "x".repeat(BODY_BUFFER_OCTETS_MAX);
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    play.say(answer.as_bytes());
    assert_eq!(play.statuses(), "200");
    let connection = &play.connection;
    let held = [
        &connection.client_in,
        &connection.to_client,
        &connection.upstream_in,
        &connection.to_upstream,
    ]
    .map(|buffer| buffer.capacity());
    assert!(held.iter().sum::<usize>() <= 4 << 10, "{held:?}");
}
