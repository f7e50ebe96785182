//! The table of HTTP/2 (X01 to X32): raw frames of a client, and what the server got of them. Each row
//! also cut at three places, and after three requests that are allowed.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;

use super::stage::{Recorder, Seen, Stage, greeting};
use super::wire::*;
use super::{frames, messages};
use crate::testing::{RULES, check_corpus};

/// What a client is told.
#[derive(Debug, Default)]
struct Heard {
    /// By stream: the status, what it is reset with.
    answers: BTreeMap<u32, String>,
    heads: BTreeMap<u32, Came>,
    goaway: Option<u32>,
    is_over: bool,
}

/// Says pieces, and listens until so many streams are answered, or it is over.
async fn talk(stage: &mut Stage, pieces: &[&[u8]], streams: usize) -> Heard {
    let mut heard = Heard::default();
    let Wire { stream, .. } = &mut stage.client;
    let _ = stream; // writing must not wait for reading
    for piece in pieces {
        stage.client.say(piece).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut done = 0;
    while done < streams || streams == 0 {
        let Some(came) = stage.client.next().await else {
            heard.is_over = true;
            return heard;
        };
        let (number, ends, code) = (came.stream, came.ends(), came.kind);
        match code {
            HEADERS => {
                let status = came.field(":status").unwrap().to_owned();
                heard.answers.insert(number, status);
                heard.heads.insert(number, came);
                done += usize::from(ends);
            }
            DATA => done += usize::from(ends),
            RST => {
                let told = heard.answers.entry(number).or_default();
                done += usize::from(told.is_empty());
                let space = if told.is_empty() { "" } else { " " };
                *told += &format!("{space}RST({})", came.code());
            }
            GOAWAY => heard.goaway = Some(came.code()),
            SETTINGS if came.flags & ACK == 0 => {
                stage.client.say(&frame(SETTINGS, ACK, 0, &[])).await;
            }
            _ => {}
        }
    }
    // What is said of a stream after its answer.
    while let Ok(Some(came)) =
        tokio::time::timeout(Duration::from_millis(60), stage.client.next()).await
    {
        if came.kind == RST {
            let told = heard.answers.entry(came.stream).or_default();
            *told += &format!(" RST({})", came.code());
        }
    }
    heard
}

/// One row: what the client says after its greeting, from a stream on; what it hears, by stream; what the
/// server sees.
pub(super) struct Row {
    id: &'static str,
    said: fn(u32) -> Vec<u8>,
    heard: &'static [&'static str],
    seen: &'static [&'static str],
}

pub(super) const fn row(
    id: &'static str,
    said: fn(u32) -> Vec<u8>,
    heard: &'static [&'static str],
    seen: &'static [&'static str],
) -> Row {
    Row {
        id,
        said,
        heard,
        seen,
    }
}

pub(super) fn with<'a>(
    mut fields: Vec<(&'a str, &'a str)>,
    more: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    fields.extend(more);
    fields
}

pub(super) fn without<'a>(
    mut fields: Vec<(&'a str, &'a str)>,
    name: &str,
) -> Vec<(&'a str, &'a str)> {
    fields.retain(|(n, _)| *n != name);
    fields
}

pub(super) fn set<'a>(
    mut fields: Vec<(&'a str, &'a str)>,
    (name, value): (&str, &'a str),
) -> Vec<(&'a str, &'a str)> {
    let place = fields.iter_mut().find(|(n, _)| *n == name).unwrap();
    place.1 = value;
    fields
}

pub(super) fn one(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    headers(stream, END, fields)
}

pub(super) const OK: &str = "/public/a";

/// Rows whose streams are answered one by one; `RST(1)` also stands for a connection that ends with it.
const ROWS: &[Row] = &[
    row("X01", |s| one(s, &get(OK)), &["200"], &[OK]),
    row(
        "X02",
        |s| [one(s, &get("/secret")), one(s + 2, &get(OK))].concat(),
        &["403", "200"],
        &[OK],
    ),
    row(
        "X03",
        |s| one(s, &with(get(OK), &[("host", "evil.test")])),
        &["400"],
        &[],
    ),
    row(
        "X03 equal",
        |s| one(s, &with(get("/h"), &[("host", "SHOP.test")])),
        &["200"],
        &["/h"],
    ),
    row(
        "X03 twice",
        |s| {
            one(
                s,
                &with(get(OK), &[("host", "shop.test"), ("host", "shop.test")]),
            )
        },
        &["400"],
        &[],
    ),
    row(
        "X04",
        |s| {
            one(
                s,
                &with(without(get("/h"), ":authority"), &[("host", "shop.test")]),
            )
        },
        &["200"],
        &["/h"],
    ),
    row(
        "X05",
        |s| one(s, &without(get(OK), ":authority")),
        &["400"],
        &[],
    ),
    row("X06", |s| one(s, &get("/public/../secret")), &["403"], &[]),
    row(
        "X06 readings",
        |s| one(s, &get("/public/..%2fsecret")),
        &["403"],
        &[],
    ),
    row(
        "X06 normal",
        |s| one(s, &get("/x/../public/%41")),
        &["200"],
        &["/public/A"],
    ),
    row("X07", |s| one(s, &get("/public/a#x")), &["400"], &[]),
    row("X08", |s| one(s, &get("public/a")), &["RST(1)"], &[]),
    row("X09", |s| one(s, &get("/public/a b")), &["RST(1)"], &[]),
    row(
        "X10",
        |s| one(s, &get("http://shop.test/public/a")),
        &["RST(1)"],
        &[],
    ),
    row(
        "X11",
        |s| one(s, &set(get(OK), (":method", "GET\r\nX: y"))),
        &["RST(1)"],
        &[],
    ),
    row(
        "X12",
        |s| one(s, &with(get(OK), &[("x", "a\nb")])),
        &["RST(1)"],
        &[],
    ),
    row(
        "X13",
        |s| one(s, &with(get(OK), &[("x", "a\0b")])),
        &["RST(1)"],
        &[],
    ),
    row(
        "X14",
        |s| one(s, &with(get(OK), &[("x y", "a")])),
        &["RST(1)"],
        &[],
    ),
    row(
        "X14 case",
        |s| one(s, &with(get(OK), &[("X-Y", "a")])),
        &["RST(1)"],
        &[],
    ),
    row(
        "X15",
        |s| one(s, &with(get(OK), &[("connection", "close")])),
        &["RST(1)"],
        &[],
    ),
    row(
        "X16",
        |s| one(s, &with(get(OK), &[("te", "gzip")])),
        &["RST(1)"],
        &[],
    ),
    row(
        "X16 trailers",
        |s| one(s, &with(get(OK), &[("te", "trailers")])),
        &["200"],
        &[OK],
    ),
    row(
        "X17",
        |s| one(s, &with(get(OK), &[("transfer-encoding", "chunked")])),
        &["RST(1)"],
        &[],
    ),
    row(
        "X18",
        |s| {
            let head = with(post("/public/upload"), &[("content-length", "5")]);
            [
                headers(s, END_HEADERS, &head),
                frame(DATA, END_STREAM, s, b"ab"),
            ]
            .concat()
        },
        &["RST(1)"],
        &["/public/upload cut"],
    ),
    row(
        "X19",
        |s| {
            let head = with(
                post("/public/upload"),
                &[("content-length", "2"), ("content-length", "2")],
            );
            [
                headers(s, END_HEADERS, &head),
                frame(DATA, END_STREAM, s, b"ab"),
            ]
            .concat()
        },
        &["RST(1)"],
        &[],
    ),
    row(
        "X20",
        |s| one(s, &set(get(OK), (":scheme", "https://x/?"))),
        &["RST(1)"],
        &[],
    ),
    row(
        "X20 other",
        |s| one(s, &set(get(OK), (":scheme", "ftp"))),
        &["400"],
        &[],
    ),
    row(
        "X21",
        |s| one(s, &set(get(OK), (":authority", "evil@shop.test"))),
        &["400"],
        &[],
    ),
    row(
        "X22",
        |s| {
            one(
                s,
                &with(get("/tok"), &[("x-token", "t0k"), ("x-token", "bad")]),
            )
        },
        &["403"],
        &[],
    ),
    row(
        "X22 once",
        |s| one(s, &with(get("/tok"), &[("x-token", "t0k")])),
        &["200"],
        &["/tok"],
    ),
    row(
        "X23",
        |s| {
            [
                headers(s, END_HEADERS, &post("/public/upload")),
                frame(DATA, 0, s, b"ab"),
                headers(s, END, &[(":path", "/secret")]),
            ]
            .concat()
        },
        &["RST(1)"],
        &["/public/upload cut"],
    ),
    row(
        "X24",
        |s| {
            let mut said = headers(s, END_HEADERS, &post("/secret"));
            for _ in 0..4 {
                said.extend(frame(DATA, 0, s, &[b'x'; 16_000]));
            }
            said.extend(one(s + 2, &get(OK)));
            said
        },
        &["403 RST(0)", "200"],
        &[OK],
    ),
    // Of what stands in paths and queries as it should not, the engine takes this much.
    row(
        "odd octets",
        |s| one(s, &get("/public/a\"{}?x={}|\\^`'%zz")),
        &["200"],
        &["/public/a%22%7B%7D?x={}|\\^`'%zz"],
    ),
    row(
        "odd query",
        |s| one(s, &get("/public/a?x=\"<>")),
        &["RST(1)"],
        &[],
    ),
    row("odd path", |s| one(s, &get("/public/<>")), &["RST(1)"], &[]),
    row("X30", drops, &["200"], &["/public/upload"]),
    row(
        "X32",
        |s| {
            one(
                s,
                &with(
                    post("/secret"),
                    &[("content-type", "application/grpc+proto")],
                ),
            )
        },
        &["200"],
        &[],
    ),
];

/// 60000 octets, each in its own frame.
fn drops(stream: u32) -> Vec<u8> {
    let mut said = headers(stream, END_HEADERS, &post("/public/upload"));
    for _ in 1..60_000 {
        said.extend(frame(DATA, 0, stream, b"x"));
    }
    said.extend(frame(DATA, END_STREAM, stream, b"x"));
    said
}

fn told(seen: &Seen) -> String {
    let cut = match (seen.reset, seen.is_whole) {
        (Some(_), _) => " cut",
        (None, false) => " open",
        (None, true) => "",
    };
    format!("{}{cut}", seen.path())
}

/// What came to the server, but for requests that are before each row.
fn seen_by(recorder: &Recorder) -> Vec<String> {
    let all = recorder.seen();
    let told = all.iter().map(told);
    told.filter(|seen| seen != "/public/before").collect()
}

/// How often it is looked for what a server is to see, before it is missing.
const LOOKS: usize = 500;

fn rows() -> impl Iterator<Item = &'static Row> {
    ROWS.iter().chain(messages::ROWS)
}

async fn check(row: &'static Row, (before, cuts): (u32, &'static [usize])) {
    let mut stage = Stage::new(RULES).await;
    let recorder: Recorder = stage.record();
    let (first, name) = (2 * before + 1, row.id);
    stage.greet().await;
    for number in 0..before {
        stage
            .client
            .say(&one(2 * number + 1, &get("/public/before")))
            .await;
    }
    let said = (row.said)(first);
    let mut pieces = Vec::new();
    let mut at = 0;
    for cut in cuts.iter().map(|part| said.len() * part / 100) {
        pieces.push(&said[at..cut]);
        at = cut;
    }
    pieces.push(&said[at..]);
    let streams = before as usize + row.heard.len();
    let heard = talk(&mut stage, &pieces, streams).await;
    for (index, expected) in row.heard.iter().enumerate() {
        let number = first + 2 * u32::try_from(index).unwrap();
        let answer = heard.answers.get(&number).map_or("", String::as_str);
        // What still comes for a stream that is over may be told so once more (RFC 9113 §5.1).
        let answer = answer.strip_suffix(" RST(5)").unwrap_or(answer);
        let has_ended = *expected == "RST(1)" && heard.goaway == Some(1);
        assert!(
            answer == *expected || has_ended,
            "{name} {cuts:?}: stream {number}: {heard:?}"
        );
    }
    // What is reset before it went is nowhere.
    let is_none = heard.goaway.is_some() || row.seen.iter().all(|seen| seen.ends_with(" cut"));
    let fits = |seen: &[String]| seen == row.seen || (is_none && seen.is_empty());
    // What comes too much comes soon; what is to come may be late on a busy machine.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let mut seen = seen_by(&recorder);
    for _ in 0..LOOKS {
        if fits(&seen) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        seen = seen_by(&recorder);
    }
    assert!(fits(&seen), "{name} {cuts:?}: {seen:?}");
    match name {
        "X30" => assert_eq!(recorder.seen().last().unwrap().body.len(), 60_000),
        "X32" => {
            let head = &heard.heads[&first];
            assert!(head.ends(), "trailers only");
            assert_eq!(head.field("grpc-status"), Some("7"));
            assert_eq!(head.field("grpc-message"), Some("Access denied%0D%0A"));
        }
        "X04" | "X03 equal" => {
            let seen = recorder.seen().pop().unwrap();
            let authority = seen.head.iter().find(|(name, _)| name == ":authority");
            assert_eq!(authority.unwrap().1, "shop.test", "as the client writes it");
            assert!(seen.head.iter().all(|(name, _)| name != "host"));
        }
        _ => {}
    }
}

#[tokio::test]
async fn every_row_is_answered_as_the_table_says_whole_and_in_pieces() {
    let ways = [
        (0, &[][..]),
        (0, &[10]),
        (0, &[50]),
        (0, &[95]),
        (0, &[30, 60]),
        (3, &[]),
    ];
    for way in ways {
        let mut checks: JoinSet<()> = rows().map(|row| check(row, way)).collect();
        while let Some(checked) = checks.join_next().await {
            checked.unwrap();
        }
    }
}

/// The rows are the corpus of the frames' fuzz door.
#[test]
fn the_corpus_has_every_row() {
    let small = |row: &&Row| row.id != "X30" && row.id != "X24";
    let said = |row: &Row| (row.id, [greeting(), (row.said)(1)].concat());
    let frames = frames::rows().into_iter();
    let frames = frames.map(|(id, said, _)| (id, [greeting(), said].concat()));
    let cases: Vec<_> = rows().filter(small).map(said).chain(frames).collect();
    check_corpus(
        "http2_frames",
        cases.iter().map(|(id, said)| (*id, said.as_slice())),
    );
}

/// X31: the preface in two segments is the shell's before there is a connection here; the engine's own
/// frames in any segments are this.
#[tokio::test]
async fn x31_a_connection_may_begin_octet_by_octet() {
    let mut stage = Stage::new(RULES).await;
    let recorder = stage.record();
    let said = [greeting(), one(1, &get(OK))].concat();
    for octet in said {
        stage.client.say(&[octet]).await;
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    let heard = talk(&mut stage, &[], 1).await;
    assert_eq!(heard.answers[&1], "200");
    assert_eq!(recorder.seen().len(), 1);
}

/// X25 to X29: who floods is told so, and goes; little of it was sent on.
#[tokio::test]
async fn floods_end_the_connection_and_are_counted() {
    const CALM: u32 = 11;
    let rapid = || {
        let pair = |n: u32| [one(2 * n + 1, &get(OK)), reset(2 * n + 1, 8)].concat();
        (0..1000).flat_map(pair).collect()
    };
    let continuation = || {
        let mut said = frame(HEADERS, END_STREAM, 1, &block(&get(OK)));
        said.extend(frame(CONTINUATION, 0, 1, &[]).repeat(5000));
        said
    };
    let empty = || {
        let mut said = headers(1, END_HEADERS, &post("/public/upload"));
        said.extend(frame(DATA, 0, 1, &[]).repeat(10_000));
        said
    };
    let floods: [(&str, Vec<u8>); 7] = [
        ("X25", rapid()),
        ("X26", continuation()),
        ("X28", empty()),
        (
            "X29",
            frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 9]).repeat(10_000),
        ),
        ("pings", frame(PING, 0, 0, &[7; 8]).repeat(10_000)),
        ("settings", frame(SETTINGS, 0, 0, &[]).repeat(10_000)),
        ("windows", frame(WINDOW, 0, 0, &[0, 0, 0, 1]).repeat(10_000)),
    ];
    for (name, flood) in floods {
        let mut stage = Stage::new(RULES).await;
        let recorder = stage.record();
        stage.greet().await;
        let heard = talk(&mut stage, &[&flood], 0).await;
        assert_eq!(heard.goaway, Some(CALM), "{name}: {heard:?}");
        assert!(heard.is_over);
        assert!(
            recorder.seen().len() < 100,
            "{name}: {}",
            recorder.seen().len()
        );
        assert_eq!(
            stage.counted("http2_goaways_total", "enhance-your-calm"),
            1,
            "{name}"
        );
        let end = (&mut stage.served).await.unwrap();
        let refused = super::super::End::Refused(crate::Refusal::Http2Abuse);
        assert_eq!(end, refused, "{name}");
    }
}

/// X27: a hundred run, the others are refused.
#[tokio::test]
async fn x27_a_client_has_a_hundred_streams() {
    let mut stage = Stage::new(RULES).await;
    let recorder = stage.record();
    stage.greet().await;
    let open = |n: u32| headers(2 * n + 1, END_HEADERS, &post("/public/upload"));
    let said: Vec<u8> = (0..300).flat_map(open).collect();
    let heard = talk(&mut stage, &[&said], 200).await;
    let refused = heard
        .answers
        .values()
        .filter(|answer| *answer == "RST(7)")
        .count();
    assert_eq!(refused, 300 - crate::limits::HTTP2_STREAMS_MAX as usize);
    assert_eq!(
        recorder.seen().len(),
        crate::limits::HTTP2_STREAMS_MAX as usize
    );
    assert_eq!(stage.counted("http2_resets_total", "refused-stream"), 200);
    // One that ends makes room for another.
    let more = [frame(DATA, END_STREAM, 1, b"x"), one(601, &get(OK))];
    let heard = talk(&mut stage, &[&more[0], &more[1]], 2).await;
    assert_eq!(heard.answers[&601], "200");
}
