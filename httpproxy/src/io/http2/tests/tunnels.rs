//! CONNECT, with a protocol and without.

use std::time::Duration;

use super::behaviour::of_stream;
use super::stage::{PORT, Stage};
use super::wire::*;

/// SETTINGS_ENABLE_CONNECT_PROTOCOL.
const OFFER: &[u8] = &[0, 8, 0, 0, 0, 1];
const CHAT: &str = "[{method: GET, path: /chat}]";

fn connect<'a>(protocol: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut fields = get(path);
    fields[0].1 = "CONNECT";
    fields.insert(1, (":protocol", protocol));
    fields
}

/// Begins with a server that offers extended CONNECT, and waits until the client has the offer.
async fn offered(rules: &str) -> (Stage, Wire) {
    let mut stage = Stage::new(rules).await;
    stage.greet().await;
    let server = stage.server(OFFER).await;
    loop {
        let settings = stage.client.await_kind(SETTINGS).await.expect("an offer");
        if settings.flags & ACK == 0 {
            stage.client.say(&frame(SETTINGS, ACK, 0, &[])).await;
        }
        if settings.payload.chunks(6).any(|one| one == OFFER) {
            return (stage, server);
        }
    }
}

#[tokio::test]
async fn a_websocket_is_a_tunnel_where_its_get_is_allowed() {
    for rules in [CHAT, "[{method: CONNECT, path: /chat}]", "[{}]"] {
        let (mut stage, mut server) = offered(rules).await;
        stage
            .client
            .say(&headers(1, END_HEADERS, &connect("websocket", "/chat")))
            .await;
        stage.client.say(&frame(DATA, 0, 1, b"early")).await;
        let head = server.await_kind(HEADERS).await.unwrap();
        assert_eq!(head.field(":method"), Some("CONNECT"));
        assert_eq!(head.field(":protocol"), Some("websocket"));
        assert_eq!(head.field(":path"), Some("/chat"));
        // Nothing goes into a tunnel before there is one.
        let early = tokio::time::timeout(Duration::from_millis(150), server.await_kind(DATA)).await;
        assert!(early.is_err(), "{early:?}");
        server
            .say(&headers(1, END_HEADERS, &[(":status", "200")]))
            .await;
        stage.client.await_kind(HEADERS).await.unwrap();
        assert_eq!(server.await_kind(DATA).await.unwrap().payload, b"early");
        server.say(&frame(DATA, END_STREAM, 1, b"down")).await;
        assert_eq!(
            stage.client.await_kind(DATA).await.unwrap().payload,
            b"down"
        );
        stage.client.say(&frame(DATA, END_STREAM, 1, b"up")).await;
        let up = server.await_kind(DATA).await.unwrap();
        assert_eq!(
            (&*up.payload, up.ends()),
            (&b"up"[..], true),
            "each end by itself"
        );
        let told = stage.told().await;
        let expected = [
            "CONNECT http://shop.test/chat allowed",
            "200 Server",
            "TunnelClosed 7 4",
        ];
        assert_eq!(told, expected);
        assert_eq!(stage.counted("http_connections_total", "tunnel"), 1);
    }
}

#[tokio::test]
async fn other_paths_protocols_and_statuses_open_no_tunnel() {
    for (protocol, path) in [("websocket", "/other"), ("connect-udp", "/chat")] {
        let (mut stage, _server) = offered(CHAT).await;
        stage
            .client
            .say(&headers(1, END_HEADERS, &connect(protocol, path)))
            .await;
        let head = stage.client.await_kind(HEADERS).await.unwrap();
        assert_eq!(head.field(":status"), Some("403"), "{protocol} {path}");
    }
    let (mut stage, mut server) = offered(CHAT).await;
    stage
        .client
        .say(&headers(1, END_HEADERS, &connect("websocket", "/chat")))
        .await;
    stage.client.say(&frame(DATA, 0, 1, b"smuggled")).await;
    server.await_kind(HEADERS).await.unwrap();
    server
        .say(&headers(1, END_HEADERS, &[(":status", "400")]))
        .await;
    server.say(&frame(DATA, END_STREAM, 1, b"no")).await;
    let head = stage.client.await_kind(HEADERS).await.unwrap();
    assert_eq!(head.field(":status"), Some("400"));
    while let Ok(Some(came)) = tokio::time::timeout(Duration::from_millis(200), server.next()).await
    {
        assert_ne!(came.kind, DATA, "{came:?}");
    }
}

#[tokio::test]
async fn extended_connect_is_offered_only_if_the_server_does() {
    let mut stage = Stage::new(CHAT).await;
    stage.greet().await;
    let _server = stage.server(&[]).await;
    while let Ok(Some(came)) =
        tokio::time::timeout(Duration::from_millis(300), stage.client.next()).await
    {
        if came.kind == SETTINGS {
            assert!(
                came.payload.chunks(6).all(|one| one[..2] != OFFER[..2]),
                "{came:?}"
            );
        }
    }
    stage
        .client
        .say(&headers(1, END_HEADERS, &connect("websocket", "/chat")))
        .await;
    let came = of_stream(&mut stage.client).await;
    assert!(
        came.kind == RST || came.field(":status").is_some_and(|status| status != "200"),
        "{came:?}"
    );
}

#[tokio::test]
async fn a_policy_that_no_longer_allows_a_tunnel_cuts_it() {
    let (mut stage, mut server) = offered(CHAT).await;
    stage
        .client
        .say(&headers(1, END_HEADERS, &connect("websocket", "/chat")))
        .await;
    server.await_kind(HEADERS).await.unwrap();
    server
        .say(&headers(1, END_HEADERS, &[(":status", "200")]))
        .await;
    stage.client.await_kind(HEADERS).await.unwrap();
    stage.change_rules("[{path: '/cha.*'}]");
    let kept = tokio::time::timeout(Duration::from_millis(300), stage.client.await_kind(RST)).await;
    assert!(kept.is_err(), "another rule allows it");
    stage.change_rules("[{path: /other}]");
    let cut = tokio::time::timeout(Duration::from_secs(1), stage.client.await_kind(RST)).await;
    assert_eq!(cut.unwrap().unwrap().code(), 8);
    assert_eq!(server.await_kind(RST).await.unwrap().code(), 8);
    assert_eq!(stage.told().await.last().unwrap(), "Revoked 0 0");
    assert_eq!(stage.counted("http_connections_total", "cut"), 1);
}

#[tokio::test]
async fn connect_needs_a_rule_that_says_so_and_leads_only_where_the_connection_does() {
    let there = format!("shop.test:{PORT}");
    for (rules, authority, status) in [
        ("[{}]", &*there, "403"),
        ("[{method: CONNECT}]", &there, "403"),
        ("[{method: CONNECT, host: 'shop[.]test'}]", &there, "200"),
        (
            "[{method: CONNECT, host: 'shop[.]test'}]",
            "shop.test:9",
            "403",
        ),
        ("[{method: CONNECT}]", "shop.test", "400"),
    ] {
        let mut stage = Stage::new(rules).await;
        stage.greet().await;
        let mut server = stage.server(&[]).await;
        let fields = [(":method", "CONNECT"), (":authority", authority)];
        stage.client.say(&headers(1, END_HEADERS, &fields)).await;
        if status == "200" {
            let head = server.await_kind(HEADERS).await.unwrap();
            assert_eq!(head.field(":authority"), Some(authority));
            assert_eq!(head.field(":path"), None);
            server
                .say(&headers(1, END_HEADERS, &[(":status", "200")]))
                .await;
        }
        let head = stage.client.await_kind(HEADERS).await.unwrap();
        assert_eq!(head.field(":status"), Some(status), "{rules} {authority}");
    }
}
