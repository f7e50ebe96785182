//! What passes through: interim responses, trailers, bodies as they come; and what is told of it.

use std::time::Duration;

use super::stage::Stage;
use super::wire::*;
use crate::core::step::{AltSvc, Settings};
use crate::limits::HTTP2_STREAM_WINDOW_OCTETS;
use crate::testing::RULES;

/// The next frames of the client's that belong to a stream.
pub(super) async fn of_stream(client: &mut Wire) -> Came {
    loop {
        let came = client.next().await.expect("more frames");
        if came.stream != 0 {
            return came;
        }
    }
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one exchange, step by step")]
async fn interim_responses_and_trailers_pass_in_both_directions() {
    let mut stage = Stage::new(RULES).await;
    stage.greet().await;
    let mut server = stage.server(&[]).await;
    let said = [
        headers(
            1,
            END_HEADERS,
            &[post("/public/upload"), vec![("te", "trailers")]].concat(),
        ),
        frame(DATA, 0, 1, b"ab"),
        headers(
            1,
            END,
            &[
                ("x-sum", "1"),
                ("content-length", "9"),
                ("host", "evil.test"),
            ],
        ),
    ]
    .concat();
    stage.client.say(&said).await;
    let head = server.await_kind(HEADERS).await.unwrap();
    assert_eq!(head.field("te"), Some("trailers"));
    let data = server.await_kind(DATA).await.unwrap();
    assert_eq!((&*data.payload, data.ends()), (&b"ab"[..], false));
    let trailers = server.await_kind(HEADERS).await.unwrap();
    let sum = ("x-sum".to_owned(), "1".to_owned());
    assert_eq!(
        (trailers.fields, trailers.flags & END_STREAM),
        (vec![sum], END_STREAM)
    );
    for said in [
        headers(1, END_HEADERS, &[(":status", "103"), ("link", "</a>")]),
        headers(1, END_HEADERS, &[(":status", "103"), ("link", "</b>")]),
        headers(1, END_HEADERS, &[(":status", "200"), ("x-a", "1")]),
        frame(DATA, 0, 1, b"body"),
        headers(
            1,
            END,
            &[
                ("grpc-status", "0"),
                ("transfer-encoding-x", "1"),
                ("content-length", "7"),
            ],
        ),
    ] {
        server.say(&said).await;
    }
    let mut heard = Vec::new();
    loop {
        let came = of_stream(&mut stage.client).await;
        let (ends, text) = (
            came.ends(),
            String::from_utf8_lossy(&came.payload).into_owned(),
        );
        heard.push(match came.kind {
            HEADERS => format!("{:?}", came.fields),
            _ => text,
        });
        if ends {
            break;
        }
    }
    assert_eq!(
        heard,
        [
            r#"[(":status", "103"), ("link", "</a>")]"#,
            r#"[(":status", "103"), ("link", "</b>")]"#,
            r#"[(":status", "200"), ("x-a", "1")]"#,
            "body",
            r#"[("grpc-status", "0"), ("transfer-encoding-x", "1")]"#,
        ]
    );
    let told = stage.told().await;
    assert_eq!(
        told,
        ["POST http://shop.test/public/upload allowed", "200 Server"]
    );
}

/// RFC 7838: by Alt-Svc a server leads to QUIC.
#[tokio::test]
async fn alt_svc_passes_unless_it_is_to_be_left_out() {
    for (alt_svc, passes) in [(AltSvc::Passed, true), (AltSvc::Dropped, false)] {
        let settings = Settings {
            alt_svc,
            ..Settings::default()
        };
        let mut stage = Stage::with(RULES, settings).await;
        stage.greet().await;
        let mut server = stage.server(&[]).await;
        stage.client.say(&headers(1, END, &get("/public/a"))).await;
        server.await_kind(HEADERS).await.unwrap();
        let field = ("alt-svc", "h3=\":443\"");
        let said = [
            headers(1, END_HEADERS, &[(":status", "103"), field, ("x-a", "1")]),
            headers(1, END, &[(":status", "200"), field, ("x-a", "2")]),
        ];
        server.say(&said.concat()).await;
        for value in ["1", "2"] {
            let head = stage.client.await_kind(HEADERS).await.unwrap();
            assert_eq!(head.field("alt-svc").is_some(), passes, "{head:?}");
            assert_eq!(head.field("x-a"), Some(value));
        }
    }
}

#[tokio::test]
async fn nothing_is_added_or_renamed_and_cookies_are_joined() {
    let mut stage = Stage::new(RULES).await;
    stage.greet().await;
    let mut server = stage.server(&[]).await;
    let mut fields = get("/public/a?x=1");
    fields.extend([
        ("x-b", "1"),
        ("cookie", "a=1"),
        ("x-a", "2"),
        ("cookie", "b=2"),
        ("x-b", "3"),
    ]);
    stage.client.say(&headers(1, END, &fields)).await;
    let head = server.await_kind(HEADERS).await.unwrap();
    let all: Vec<String> = head
        .fields
        .iter()
        .map(|(n, v)| format!("{n}: {v}"))
        .collect();
    let mut sorted = all.clone();
    sorted.sort();
    assert_eq!(
        sorted,
        [
            ":authority: shop.test",
            ":method: GET",
            ":path: /public/a?x=1",
            ":scheme: http",
            "cookie: a=1; b=2",
            "x-a: 2",
            "x-b: 1",
            "x-b: 3",
        ],
        "{all:?}"
    );
    server
        .say(&headers(1, END, &[(":status", "204"), ("x-r", "1")]))
        .await;
    let head = of_stream(&mut stage.client).await;
    let expected = [(":status", "204"), ("x-r", "1")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    assert_eq!((head.fields.as_slice(), head.ends()), (&expected[..], true));
}

#[tokio::test]
async fn both_directions_flow_at_once_and_each_piece_at_once() {
    let mut stage = Stage::new(RULES).await;
    stage.greet().await;
    let mut server = stage.server(&[]).await;
    stage
        .client
        .say(&headers(1, END_HEADERS, &post("/public/upload")))
        .await;
    server.await_kind(HEADERS).await.unwrap();
    server
        .say(&headers(1, END_HEADERS, &[(":status", "200")]))
        .await;
    stage.client.await_kind(HEADERS).await.unwrap();
    for round in 0..20u8 {
        let begin = tokio::time::Instant::now();
        stage.client.say(&frame(DATA, 0, 1, &[round; 5])).await;
        let up = server.await_kind(DATA).await.unwrap();
        server.say(&frame(DATA, 0, 1, &up.payload)).await;
        let down = stage.client.await_kind(DATA).await.unwrap();
        assert_eq!(down.payload, [round; 5]);
        assert!(
            begin.elapsed() < Duration::from_millis(500),
            "{:?}",
            begin.elapsed()
        );
    }
    // The server ends first; the client may go on.
    server.say(&frame(DATA, END_STREAM, 1, b"")).await;
    assert!(stage.client.await_kind(DATA).await.unwrap().ends());
    stage.client.say(&frame(DATA, END_STREAM, 1, b"last")).await;
    let last = server.await_kind(DATA).await.unwrap();
    assert_eq!(last.payload, b"last");
}

/// A client that doesn't read stops its server after one window; one that reads gets all.
#[tokio::test]
async fn no_more_is_held_of_a_body_than_a_window() {
    let mut stage = Stage::new(RULES).await;
    // The client's window is 65535 octets, and it opens none.
    stage.greet().await;
    let mut server = stage.server(&[]).await;
    stage.client.say(&headers(1, END, &get("/public/a"))).await;
    server.await_kind(HEADERS).await.unwrap();
    server
        .say(&headers(1, END_HEADERS, &[(":status", "200")]))
        .await;
    // What may be sent: its own window, and what is opened beyond.
    let (mut window, mut sent) = (HTTP2_STREAM_WINDOW_OCTETS as usize, 0);
    loop {
        while window > 0 {
            let count = window.min(16_000);
            server.say(&frame(DATA, 0, 1, &vec![b'x'; count])).await;
            (window, sent) = (window - count, sent + count);
        }
        let more = tokio::time::timeout(Duration::from_millis(300), server.next()).await;
        match more {
            Ok(Some(came)) if came.kind == WINDOW && came.stream == 1 => {
                window += came.code() as usize
            }
            Ok(Some(_)) => {}
            Ok(None) => panic!("the connection ended"),
            Err(_) => break,
        }
    }
    let most = HTTP2_STREAM_WINDOW_OCTETS as usize + 65_535;
    assert!(sent <= most + 16_000, "{sent}");
    let open = u32::try_from(sent).unwrap().to_be_bytes();
    stage
        .client
        .say(&[frame(WINDOW, 0, 0, &open), frame(WINDOW, 0, 1, &open)].concat())
        .await;
    server.say(&frame(DATA, END_STREAM, 1, b"")).await;
    let mut got = 0;
    loop {
        let came = stage.client.await_kind(DATA).await.expect("all of it");
        got += came.payload.len();
        if came.ends() {
            break;
        }
    }
    assert_eq!(got, sent);
}

/// X30 with a server that takes nothing for a while: a window of one-octet frames is held.
#[tokio::test]
async fn a_window_of_the_smallest_frames_waits_for_a_slow_server() {
    let mut stage = Stage::new(RULES).await;
    stage.greet().await;
    let mut server = stage.server.take().unwrap();
    server.preface().await;
    // Its windows are closed for bodies.
    server
        .say(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]))
        .await;
    stage
        .client
        .say(&headers(1, END_HEADERS, &post("/public/upload")))
        .await;
    server.await_kind(HEADERS).await.unwrap();
    let count = 60_000;
    let one = frame(DATA, 0, 1, b"x");
    let said = one.repeat(count);
    let (mut client, mut got) = (stage.client, 0);
    let telling = tokio::spawn(async move {
        client.say(&said).await;
        client.say(&frame(DATA, END_STREAM, 1, b"")).await;
        client
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let open = u32::try_from(count).unwrap().to_be_bytes();
    server.say(&frame(WINDOW, 0, 1, &open)).await;
    loop {
        let came = server.await_kind(DATA).await.expect("all of it");
        got += came.payload.len();
        if came.ends() {
            break;
        }
    }
    assert_eq!(got, count);
    drop(telling.await.unwrap());
}

#[tokio::test]
async fn the_next_stream_is_judged_by_the_new_policy() {
    let mut stage = Stage::new(RULES).await;
    stage.record();
    stage.greet().await;
    let ask = async |stage: &mut Stage, number, path: &str| {
        stage.client.say(&headers(number, END, &get(path))).await;
        let head = stage.client.await_kind(HEADERS).await.unwrap();
        head.field(":status").unwrap().to_owned()
    };
    assert_eq!(ask(&mut stage, 1, "/public/a").await, "200");
    assert_eq!(ask(&mut stage, 3, "/other").await, "403");
    stage.change_rules("[{path: /other}]");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(ask(&mut stage, 5, "/public/a").await, "403");
    assert_eq!(ask(&mut stage, 7, "/other").await, "200");
}

#[tokio::test]
async fn each_request_is_told_once_and_no_secret_is() {
    let mut stage = Stage::new(RULES).await;
    stage.record();
    stage.greet().await;
    let secret = [
        get("/public/a?q=1"),
        vec![("authorization", "s3cret"), ("x-a", "1")],
    ]
    .concat();
    let wrong = [get("/public/a"), vec![("host", "evil.test")]].concat();
    for (number, fields) in [(1, &secret), (3, &get("/secret")), (5, &wrong)] {
        stage.client.say(&headers(number, END, fields)).await;
        stage.client.await_kind(HEADERS).await.unwrap();
    }
    let told = stage.told().await;
    assert_eq!(
        told,
        [
            "GET http://shop.test/public/a?q=1 allowed",
            "200 Server",
            "GET http://shop.test/secret Denied(NotAllowed)",
            "403 Proxy(Denied)",
            " GET /public/a Malformed(OtherHost)",
            "400 Proxy(Malformed)",
        ]
    );
    let all = format!("{:?}", stage.proxy.host.told.lock().unwrap());
    assert!(all.contains("Http2") && all.contains(crate::REDACTED) && !all.contains("s3cret"));
    assert_eq!(stage.counted("http_requests_total", "forwarded"), 1);
    assert_eq!(stage.counted("http_requests_total", "denied"), 1);
    assert_eq!(stage.counted("http_requests_total", "malformed"), 1);
}

/// Its own code never sees such a request; that somebody tries is told all the same, and once.
#[tokio::test]
async fn a_request_that_only_the_engine_has_seen_is_told() {
    let mut stage = Stage::new(RULES).await;
    stage.greet().await;
    // This one it sees, and tells as a request.
    let mut lengths = get("/public/a");
    lengths.extend([("content-length", "0"), ("content-length", "0")]);
    for (stream, fields) in [(1, get("/public/a b")), (3, lengths)] {
        let bytes = headers(stream, END, &fields);
        stage.client.say(&bytes).await;
        assert_eq!(stage.client.await_kind(RST).await.unwrap().code(), 1);
    }
    // With the next that happens on the connection.
    stage.client.say(&headers(5, END, &get("/denied"))).await;
    stage.client.await_kind(HEADERS).await.unwrap();
    let told = stage.told().await;
    assert_eq!(told.len(), 3, "{told:?}");
    let refused = std::mem::take(&mut *stage.proxy.host.refused.lock().unwrap());
    assert_eq!(refused, [crate::Refusal::Http2Request]);
    let word = crate::Refusal::Http2Request.word();
    assert_eq!(stage.counted("http_refused_total", word), 1);
}
