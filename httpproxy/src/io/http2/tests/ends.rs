//! How streams and connections end: resets in both directions, servers that go, drain, silence.

use std::time::Duration;

use super::behaviour::of_stream;
use super::stage::Stage;
use super::wire::*;
use crate::core::step::Settings;
use crate::io::connection::End;
use crate::testing::RULES;

/// A request on its way: to its head, or with the head of its response.
async fn begun(stage: &mut Stage, has_head: bool) -> Wire {
    stage.greet().await;
    let mut server = stage.server(&[]).await;
    stage
        .client
        .say(&headers(1, END_HEADERS, &post("/public/upload")))
        .await;
    server.await_kind(HEADERS).await.unwrap();
    if has_head {
        server
            .say(&headers(1, END_HEADERS, &[(":status", "200")]))
            .await;
        server.say(&frame(DATA, 0, 1, b"a")).await;
        stage.client.await_kind(DATA).await.unwrap();
    }
    server
}

#[tokio::test]
async fn a_clients_reset_is_the_servers_before_and_after_the_head() {
    for has_head in [false, true] {
        let mut stage = Stage::new(RULES).await;
        let mut server = begun(&mut stage, has_head).await;
        stage.client.say(&frame(DATA, 0, 1, b"abc")).await;
        server.await_kind(DATA).await.unwrap();
        stage.client.say(&reset(1, 8)).await;
        assert_eq!(
            server.await_kind(RST).await.unwrap().code(),
            8,
            "{has_head}"
        );
        let told = stage.told().await;
        let end = format!("ClientGone 3 {}", u8::from(has_head));
        assert_eq!(told.last(), Some(&end), "{told:?}");
        assert_eq!(
            told.len(),
            2 + usize::from(has_head),
            "one of each: {told:?}"
        );
    }
}

#[tokio::test]
async fn a_servers_reset_is_the_clients_before_and_after_the_head() {
    for (has_head, code, heard) in [(false, 7, 7), (false, 8, 8), (true, 8, 8), (true, 0, 2)] {
        let mut stage = Stage::new(RULES).await;
        let mut server = begun(&mut stage, has_head).await;
        server.say(&reset(1, code)).await;
        assert_eq!(
            stage.client.await_kind(RST).await.unwrap().code(),
            heard,
            "{has_head} {code}"
        );
        let told = stage.told().await;
        assert!(told.last().unwrap().starts_with("ServerGone"), "{told:?}");
        assert_eq!(told.len(), 2 + usize::from(has_head), "{told:?}");
    }
}

/// RFC 9113 §8.1: all of a response, and that no more of the request is wanted.
#[tokio::test]
async fn an_early_response_is_whole_and_ends_the_request() {
    for pieces in 1..=2 {
        let mut stage = Stage::new(RULES).await;
        stage.greet().await;
        let mut server = stage.server(&[]).await;
        stage
            .client
            .say(&headers(1, END_HEADERS, &post("/public/upload")))
            .await;
        server.await_kind(HEADERS).await.unwrap();
        let said = [
            headers(1, END_HEADERS, &[(":status", "413")]),
            frame(DATA, END_STREAM, 1, b"too much"),
            reset(1, 0),
        ];
        for piece in said.chunks(said.len().div_ceil(pieces)) {
            server.say(&piece.concat()).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let head = of_stream(&mut stage.client).await;
        assert_eq!(head.field(":status"), Some("413"));
        let mut body: Vec<u8> = Vec::new();
        loop {
            let came = of_stream(&mut stage.client).await;
            assert_eq!(came.kind, DATA, "{came:?}");
            body.extend(&came.payload);
            if came.ends() {
                break;
            }
        }
        assert_eq!(body, b"too much");
        assert_eq!(stage.client.await_kind(RST).await.unwrap().code(), 0);
        let told = stage.told().await;
        assert_eq!(told.last().unwrap(), "413 Server");
    }
}

#[tokio::test]
async fn a_server_that_goes_is_a_502_before_the_head_and_a_reset_in_the_body() {
    for has_head in [false, true] {
        let mut stage = Stage::new(RULES).await;
        let server = begun(&mut stage, has_head).await;
        drop(server);
        let (mut answer, mut is_leaving) = (None, false);
        while answer.is_none() || !is_leaving {
            let came = stage
                .client
                .next()
                .await
                .expect("an answer, and that no more is had");
            match came.kind {
                HEADERS => answer = came.field(":status").map(ToOwned::to_owned),
                RST => answer = Some(came.code().to_string()),
                GOAWAY => is_leaving = true,
                _ => {}
            }
        }
        let (heard, told) = match has_head {
            false => ("502", "502 Proxy(ServerGone)"),
            true => ("2", "ServerGone 0 1"),
        };
        assert_eq!(answer.as_deref(), Some(heard));
        assert_eq!(stage.told().await.last().unwrap(), told);
    }
}

#[tokio::test]
async fn a_response_that_is_none_is_a_502() {
    for fields in [
        &[(":status", "abc")][..],
        &[("x", "y")],
        &[(":status", "200"), ("connection", "x")],
    ] {
        let mut stage = Stage::new(RULES).await;
        let mut server = begun(&mut stage, false).await;
        server.say(&headers(1, END, fields)).await;
        let came = of_stream(&mut stage.client).await;
        assert_eq!(came.field(":status"), Some("502"), "{fields:?}: {came:?}");
    }
}

/// What the server has not looked at may be asked again, elsewhere.
#[tokio::test]
async fn a_server_that_takes_no_more_sends_its_client_away() {
    let mut stage = Stage::new(RULES).await;
    let mut server = begun(&mut stage, false).await;
    let goaway = [1u32.to_be_bytes(), 0u32.to_be_bytes()].concat();
    stage.client.say(&headers(3, END, &get("/public/a"))).await;
    server.await_kind(HEADERS).await.unwrap();
    server.say(&frame(GOAWAY, 0, 0, &goaway)).await;
    let mut refused = None;
    let mut is_leaving = false;
    while refused.is_none() || !is_leaving {
        let came = stage.client.next().await.unwrap();
        match came.kind {
            RST => refused = Some((came.stream, came.code())),
            GOAWAY => is_leaving = came.code() == 0,
            _ => {}
        }
    }
    assert_eq!(refused, Some((3, 7)));
    // What it had taken is answered.
    server.say(&headers(1, END, &[(":status", "200")])).await;
    let head = stage.client.await_kind(HEADERS).await.unwrap();
    assert_eq!((head.stream, head.field(":status")), (1, Some("200")));
}

#[tokio::test]
async fn a_drain_lets_streams_end_and_takes_no_more() {
    let mut stage = Stage::new(RULES).await;
    let mut server = begun(&mut stage, true).await;
    stage.stop.cancel();
    let first = stage.client.await_kind(GOAWAY).await.unwrap();
    assert_eq!(first.code(), 0);
    // The engine asks by a ping whether the client has seen it.
    let ping = stage.client.await_kind(PING).await.unwrap();
    stage.client.say(&frame(PING, ACK, 0, &ping.payload)).await;
    assert_eq!(stage.client.await_kind(GOAWAY).await.unwrap().code(), 0);
    server.say(&frame(DATA, END_STREAM, 1, b"z")).await;
    assert!(stage.client.await_kind(DATA).await.unwrap().ends());
    stage.client.say(&frame(DATA, END_STREAM, 1, b"")).await;
    let end = tokio::time::timeout(Duration::from_secs(3), &mut stage.served).await;
    assert_eq!(end.unwrap().unwrap(), End::Closed);
}

#[tokio::test]
async fn an_idle_connection_is_ended_in_order_and_a_silent_client_is_reset() {
    let settings = Settings {
        keepalive_idle: Duration::from_millis(200),
        ..Settings::default()
    };
    let mut stage = Stage::with(RULES, settings).await;
    stage.greet().await;
    assert_eq!(stage.client.await_kind(GOAWAY).await.unwrap().code(), 0);
    let settings = Settings {
        ping: (Duration::from_millis(200), Duration::from_millis(300)),
        ..Settings::default()
    };
    let mut stage = Stage::with(RULES, settings).await;
    let _server = begun(&mut stage, true).await;
    for _ in 0..2 {
        let ping = stage.client.await_kind(PING).await.unwrap();
        stage.client.say(&frame(PING, ACK, 0, &ping.payload)).await;
    }
    stage.client.await_kind(PING).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(3), &mut stage.served).await;
    assert_eq!(
        end.unwrap().unwrap(),
        End::Reset,
        "it was asked and said nothing"
    );
}

#[tokio::test]
async fn a_client_that_answers_no_ping_does_not_stay_when_it_is_told_to_go() {
    let settings = Settings {
        keepalive_idle: Duration::from_millis(200),
        ping: (Duration::from_secs(60), Duration::from_millis(300)),
        ..Settings::default()
    };
    let mut stage = Stage::with(RULES, settings).await;
    stage.greet().await;
    assert_eq!(stage.client.await_kind(GOAWAY).await.unwrap().code(), 0);
    let end = tokio::time::timeout(Duration::from_secs(3), &mut stage.served).await;
    assert_eq!(end.unwrap().unwrap(), End::Reset);
}

#[tokio::test]
async fn a_body_that_rests_too_long_is_reset_on_both_sides() {
    let settings = Settings {
        stream_idle: Duration::from_millis(150),
        ..Settings::default()
    };
    let mut stage = Stage::with(RULES, settings).await;
    let mut server = begun(&mut stage, true).await;
    assert_eq!(stage.client.await_kind(RST).await.unwrap().code(), 8);
    assert_eq!(server.await_kind(RST).await.unwrap().code(), 8);
    assert_eq!(stage.told().await.last().unwrap(), "Idle 0 1");
}

#[tokio::test]
async fn a_client_that_vanishes_is_told_and_its_server_is_let_go() {
    let mut stage = Stage::new(RULES).await;
    let mut server = begun(&mut stage, true).await;
    let (client, _) = {
        let Stage { client, server, .. } = &mut stage;
        (std::mem::replace(client, dead().await), server)
    };
    drop(client);
    while server.next().await.is_some() {}
    let told = stage.told().await;
    assert!(told.last().unwrap().starts_with("ClientGone"), "{told:?}");
    assert_eq!(told.len(), 3, "{told:?}");
}

async fn dead() -> Wire {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    Wire::new(tokio::net::TcpStream::connect(address).await.unwrap())
}

/// A server whose certificate is another one's: what may go is answered for it, what may not is denied.
#[tokio::test]
async fn a_server_that_is_not_trusted_gets_no_request() {
    let mut stage = Stage::untrusted(RULES).await;
    let seen = stage.record();
    stage.greet().await;
    for (stream, path, status) in [(1, "/public/a", "502"), (3, "/secret", "403")] {
        stage.client.say(&headers(stream, END, &get(path))).await;
        let head = stage.client.await_kind(HEADERS).await.unwrap();
        assert_eq!(head.field(":status"), Some(status), "{path}");
    }
    assert_eq!(seen.seen(), [], "nothing reaches it");
    let told = stage.told().await;
    assert!(
        told.contains(&"502 Proxy(Untrusted)".to_owned()),
        "{told:?}"
    );
}

/// A server that speaks no HTTP/2.
#[tokio::test]
async fn a_server_without_http2_is_a_502() {
    let mut stage = Stage::new(RULES).await;
    stage.greet().await;
    let mut server = stage.server.take().unwrap();
    stage.client.say(&headers(1, END, &get("/public/a"))).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    server
        .say(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        .await;
    let head = stage.client.await_kind(HEADERS).await.unwrap();
    assert_eq!(head.field(":status"), Some("502"));
}
