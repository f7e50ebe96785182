//! Bounds, by hitting them.

use std::time::Duration;

use super::behaviour::of_stream;
use super::stage::Stage;
use super::wire::*;
use crate::core::step::Settings;
use crate::limits::{
    FIELD_NAME_OCTETS_MAX, FIELD_VALUE_OCTETS_MAX, FIELDS_MAX, HTTP2_CONTINUATIONS_MAX,
    HTTP2_FRAME_OCTETS_MAX, HTTP2_HEADER_LIST_OCTETS_MAX, INTERIM_RESPONSES_MAX,
    START_LINE_OCTETS_MAX, TRAILER_OCTETS_MAX, TRAILERS_MAX,
};
use crate::testing::RULES;

/// Says a head in as many frames as it needs, and what it is answered.
async fn ask(fields: &[(&str, &str)]) -> String {
    let mut stage = Stage::new(RULES).await;
    stage.record();
    stage.greet().await;
    let block = block(fields);
    let mut pieces = block.chunks(HTTP2_FRAME_OCTETS_MAX as usize).peekable();
    let mut kind = (HEADERS, END_STREAM);
    while let Some(piece) = pieces.next() {
        let last = if pieces.peek().is_none() {
            END_HEADERS
        } else {
            0
        };
        stage
            .client
            .say(&frame(kind.0, kind.1 | last, 1, piece))
            .await;
        kind = (CONTINUATION, 0);
    }
    loop {
        let Some(came) = stage.client.next().await else {
            return "over".to_owned();
        };
        match came.kind {
            HEADERS => return came.field(":status").unwrap().to_owned(),
            RST => return format!("RST({})", came.code()),
            GOAWAY => return format!("GOAWAY({})", came.code()),
            _ => {}
        }
    }
}

#[tokio::test]
async fn heads_have_their_bounds() {
    let long_value = "v".repeat(FIELD_VALUE_OCTETS_MAX);
    let long_name = "n".repeat(FIELD_NAME_OCTETS_MAX);
    let path = |length: usize| format!("/public/{}", "p".repeat(length - 8));
    let (fits, too_long) = (path(START_LINE_OCTETS_MAX), path(START_LINE_OCTETS_MAX + 1));
    let with = |more: &[(&'static str, &str)]| -> Vec<(String, String)> {
        let own = |(n, v): &(&str, &str)| ((*n).to_owned(), (*v).to_owned());
        get("/public/a").iter().chain(more).map(own).collect()
    };
    let mut many = with(&[]);
    many.extend((0..FIELDS_MAX).map(|n| (format!("x-{n}"), "v".to_owned())));
    let mut one_more = many.clone();
    one_more.push(("x-more".to_owned(), "v".to_owned()));
    let half = "v".repeat(HTTP2_HEADER_LIST_OCTETS_MAX as usize / 2);
    let mut named = with(&[]);
    named.push((format!("{long_name}n"), "v".to_owned()));
    let mut fits_named = with(&[]);
    fits_named.push((long_name, "v".to_owned()));
    for (name, fields, expected) in [
        ("fields", many, "200"),
        ("one field more", one_more, "431"),
        ("value", with(&[("x", &long_value)]), "200"),
        (
            "longer value",
            with(&[("x", &format!("{long_value}v"))]),
            "431",
        ),
        ("name", fits_named, "200"),
        ("longer name", named, "431"),
        ("list", with(&[("x", &half), ("y", &half)]), "431"),
    ] {
        let fields: Vec<_> = fields.iter().map(|(n, v)| (&**n, &**v)).collect();
        assert_eq!(ask(&fields).await, expected, "{name}");
    }
    assert_eq!(ask(&get(&fits)).await, "200", "path");
    assert_eq!(ask(&get(&too_long)).await, "414", "longer path");
}

#[tokio::test]
async fn a_block_may_have_its_frames_and_one_frame_its_octets() {
    let run = async |continuations: u32| {
        let mut stage = Stage::new(RULES).await;
        stage.record();
        stage.greet().await;
        let block = block(&get("/public/a"));
        let mut said = frame(HEADERS, END_STREAM, 1, &block);
        for number in 1..=continuations {
            let last = if number == continuations {
                END_HEADERS
            } else {
                0
            };
            said.extend(frame(CONTINUATION, last, 1, &[]));
        }
        stage.client.say(&said).await;
        loop {
            let came = stage.client.next().await.unwrap();
            match came.kind {
                HEADERS => return came.field(":status").unwrap().to_owned(),
                GOAWAY => return format!("GOAWAY({})", came.code()),
                _ => {}
            }
        }
    };
    assert_eq!(run(HTTP2_CONTINUATIONS_MAX - 2).await, "200");
    assert_eq!(run(HTTP2_CONTINUATIONS_MAX + 1).await, "GOAWAY(11)");
    let mut stage = Stage::new(RULES).await;
    stage.greet().await;
    let large = vec![b'x'; HTTP2_FRAME_OCTETS_MAX as usize + 1];
    let said = [
        headers(1, END_HEADERS, &post("/public/upload")),
        frame(DATA, 0, 1, &large),
    ];
    stage.client.say(&said.concat()).await;
    assert_eq!(stage.client.await_kind(GOAWAY).await.unwrap().code(), 6);
}

#[tokio::test]
async fn trailers_have_their_bounds() {
    let long = "v".repeat(TRAILER_OCTETS_MAX);
    let many: Vec<String> = (0..=TRAILERS_MAX).map(|n| format!("x-{n}")).collect();
    let many: Vec<_> = many.iter().map(|name| (&**name, "v")).collect();
    for (trailers, fits) in [
        (&many[..TRAILERS_MAX], true),
        (&many[..], false),
        (&[("x", &*long)], false),
    ] {
        let mut stage = Stage::new(RULES).await;
        stage.record();
        stage.greet().await;
        let said = [
            headers(1, END_HEADERS, &post("/public/upload")),
            frame(DATA, 0, 1, b"a"),
            headers(1, END, trailers),
        ];
        stage.client.say(&said.concat()).await;
        let came = of_stream(&mut stage.client).await;
        match fits {
            true => assert_eq!(came.field(":status"), Some("200")),
            false => assert_eq!((came.kind, came.code()), (RST, 1)),
        }
    }
}

#[tokio::test]
async fn interim_responses_have_their_bound() {
    let mut stage = Stage::new(RULES).await;
    stage.greet().await;
    let mut server = stage.server(&[]).await;
    stage.client.say(&headers(1, END, &get("/public/a"))).await;
    server.await_kind(HEADERS).await.unwrap();
    for _ in 0..=INTERIM_RESPONSES_MAX {
        server
            .say(&headers(1, END_HEADERS, &[(":status", "103")]))
            .await;
    }
    let mut interim = 0;
    loop {
        let came = of_stream(&mut stage.client).await;
        match came.field(":status") {
            Some("103") => interim += 1,
            status => {
                assert_eq!(status, Some("502"));
                break;
            }
        }
    }
    assert_eq!(interim, INTERIM_RESPONSES_MAX);
}

#[tokio::test]
async fn a_server_has_so_long_for_the_head_of_its_response() {
    const WAIT: Duration = Duration::from_millis(300);
    let settings = Settings {
        response_wait: Some(WAIT),
        ..Settings::default()
    };
    let mut stage = Stage::with(RULES, settings).await;
    stage.greet().await;
    let mut server = stage.server(&[]).await;
    // One that answers in time may take longer for its body.
    stage.client.say(&headers(1, END, &get("/public/a"))).await;
    server.await_kind(HEADERS).await.unwrap();
    let head = headers(1, END_HEADERS, &[(":status", "200")]);
    server.say(&head).await;
    stage.client.say(&headers(3, END, &get("/public/b"))).await;
    server.await_kind(HEADERS).await.unwrap();
    let head = stage.client.await_kind(HEADERS).await.unwrap();
    assert_eq!((head.stream, head.field(":status")), (1, Some("200")));
    let head = stage.client.await_kind(HEADERS).await.unwrap();
    assert_eq!((head.stream, head.field(":status")), (3, Some("504")));
    let reset = server.await_kind(RST).await.unwrap();
    assert_eq!((reset.stream, reset.code()), (3, 8), "CANCEL");
    server.say(&frame(DATA, END_STREAM, 1, b"late")).await;
    loop {
        let came = stage.client.next().await.unwrap();
        if came.stream == 1 {
            assert_eq!(came.payload, b"late");
            break;
        }
    }
    let told = stage.told().await;
    assert!(
        told.contains(&"504 Proxy(ServerSlow)".to_owned()),
        "{told:?}"
    );
}
