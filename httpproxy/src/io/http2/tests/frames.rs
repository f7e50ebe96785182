//! Frames that are none, or stand where they may not (RFC 9113 §3 to §6, RFC 7541): what each is answered,
//! and that nothing that follows an error of the connection is taken for a request. Whole and in pieces.

use std::time::Duration;

use tokio::task::JoinSet;

use super::stage::{Stage, greeting};
use super::wire::*;
use crate::testing::RULES;

const PUSH: u8 = 5;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 0x20;
const PROTOCOL: u32 = 1;
const FLOW: u32 = 3;
const CLOSED: u32 = 5;
/// The engine calls most that has not its one size a protocol error.
const SIZE: &[u32] = &[6, PROTOCOL];
const COMPRESSION: u32 = 9;

/// What a client is answered.
#[derive(Clone, Copy)]
pub(super) enum Answer {
    /// GOAWAY with one of these, and the end.
    Ends(&'static [u32]),
    /// Stream 1 is reset with one of these; or all of it ends with one.
    Resets(&'static [u32]),
    /// Nothing that is an error.
    Passes,
}

use Answer::{Ends, Passes, Resets};

pub(super) type Row = (&'static str, Vec<u8>, Answer);

fn ask(stream: u32) -> Vec<u8> {
    headers(stream, END, &get("/public/a"))
}

/// A request whose body is to come.
fn begin(stream: u32) -> Vec<u8> {
    headers(stream, END_HEADERS, &post("/public/upload"))
}

/// A request's block, and more of it.
fn fields(more: &[u8]) -> Vec<u8> {
    frame(HEADERS, END, 1, &[&block(&get("/public/a")), more].concat())
}

fn setting(number: u8, value: u32) -> Vec<u8> {
    frame(
        SETTINGS,
        0,
        0,
        &[&[0, number][..], &value.to_be_bytes()].concat(),
    )
}

fn window(stream: u32, octets: u32) -> Vec<u8> {
    frame(WINDOW, 0, stream, &octets.to_be_bytes())
}

#[rustfmt::skip]
fn misplaced() -> Vec<Row> {
    let own = block(&get("/public/a"));
    let (first, last) = own.split_at(20);
    let (most, other) = (0x7fff_ffff, 0x77);
    vec![
        ("DATA of no stream", frame(DATA, 0, 0, b"a"), Ends(&[PROTOCOL])),
        ("HEADERS of no stream", headers(0, END, &get("/public/a")), Ends(&[PROTOCOL])),
        ("PRIORITY of no stream", frame(PRIORITY, 0, 0, &[0, 0, 0, 0, 9]), Ends(&[PROTOCOL])),
        ("RST_STREAM of no stream", reset(0, 8), Ends(&[PROTOCOL])),
        ("CONTINUATION of no stream", frame(CONTINUATION, END_HEADERS, 0, &own), Ends(&[PROTOCOL])),
        ("SETTINGS of a stream", frame(SETTINGS, 0, 1, &[]), Ends(&[PROTOCOL])),
        ("PING of a stream", frame(PING, 0, 1, &[7; 8]), Ends(&[PROTOCOL])),
        ("GOAWAY of a stream", frame(GOAWAY, 0, 1, &[0; 8]), Ends(&[PROTOCOL])),
        ("DATA before HEADERS", frame(DATA, END_STREAM, 1, b"a"), Ends(&[PROTOCOL, CLOSED])),
        ("RST_STREAM before HEADERS", reset(1, 8), Ends(&[PROTOCOL])),
        ("WINDOW_UPDATE before HEADERS", window(1, 9), Ends(&[PROTOCOL])),
        ("CONTINUATION before HEADERS", frame(CONTINUATION, END_HEADERS, 1, &own), Ends(&[PROTOCOL])),
        ("CONTINUATION after the block", [begin(1), frame(CONTINUATION, END_HEADERS, 1, &own)].concat(), Ends(&[PROTOCOL])),
        ("an even stream", ask(2), Ends(&[PROTOCOL])),
        ("a stream before others", [ask(5), ask(3)].concat(), Ends(&[PROTOCOL, CLOSED])),
        ("a push by a client", frame(PUSH, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &own].concat()), Ends(&[PROTOCOL])),
        ("DATA in a block", [frame(HEADERS, END_STREAM, 1, first), frame(DATA, 0, 1, b"a")].concat(), Ends(&[PROTOCOL])),
        ("HEADERS in a block", [frame(HEADERS, END_STREAM, 1, first), ask(3)].concat(), Ends(&[PROTOCOL])),
        ("PING in a block", [frame(HEADERS, END_STREAM, 1, first), frame(PING, 0, 0, &[7; 8])].concat(), Ends(&[PROTOCOL])),
        ("an unknown frame in a block", [frame(HEADERS, END_STREAM, 1, first), frame(other, 0, 1, b"a")].concat(), Ends(&[PROTOCOL])),
        ("another's CONTINUATION", [frame(HEADERS, END_STREAM, 1, first), frame(CONTINUATION, END_HEADERS, 3, last)].concat(), Ends(&[PROTOCOL])),
        ("HEADERS after the end", [ask(1), ask(1)].concat(), Resets(&[CLOSED, PROTOCOL])),
        ("DATA after the end", [ask(1), frame(DATA, 0, 1, b"a")].concat(), Resets(&[CLOSED, PROTOCOL])),
        ("DATA after a reset", [begin(1), reset(1, 8), frame(DATA, 0, 1, b"a")].concat(), Resets(&[CLOSED])),
        ("PRIORITY of what is to come", frame(PRIORITY, 0, 9, &[0, 0, 0, 0, 9]), Passes),
        ("an unknown frame", [frame(other, 0xff, 0, b"abc"), frame(other, 0, 1, b"")].concat(), Passes),
        ("unknown flags", frame(PING, 0xfe, 0, &[7; 8]), Passes),
        ("an answer to no PING", frame(PING, ACK, 0, &[7; 8]), Passes),
        ("an answer to no SETTINGS", frame(SETTINGS, ACK, 0, &[]), Passes),
        ("the reserved bit", frame(PING, 0, 0x8000_0000, &[7; 8]), Passes),
        ("the last stream", ask(most), Passes),
    ]
}

#[rustfmt::skip]
fn misshapen() -> Vec<Row> {
    let own = block(&get("/public/a"));
    let most = 0x7fff_ffff;
    let padded = |padding: u8, rest: &[u8]| [&[padding][..], rest].concat();
    let with_priority = [&[0, 0, 0, 0, 9][..], &own].concat();
    vec![
        ("a short PING", frame(PING, 0, 0, &[7; 7]), Ends(SIZE)),
        ("a long PING", frame(PING, 0, 0, &[7; 9]), Ends(SIZE)),
        ("a short RST_STREAM", [begin(1), frame(RST, 0, 1, &[0; 3])].concat(), Ends(SIZE)),
        ("a short WINDOW_UPDATE", frame(WINDOW, 0, 0, &[0; 3]), Ends(SIZE)),
        ("a short PRIORITY", frame(PRIORITY, 0, 1, &[0; 4]), Resets(SIZE)),
        ("a short GOAWAY", frame(GOAWAY, 0, 0, &[0; 7]), Ends(SIZE)),
        ("SETTINGS with a piece", frame(SETTINGS, 0, 0, &[0; 5]), Ends(SIZE)),
        ("an answer with SETTINGS", frame(SETTINGS, ACK, 0, &[0, 4, 0, 0, 0, 9]), Ends(SIZE)),
        ("push, twice as much", setting(2, 2), Ends(&[PROTOCOL])),
        ("a window that is too large", setting(4, 0x8000_0000), Ends(&[FLOW, PROTOCOL])),
        ("frames that are too small", setting(5, 16_383), Ends(&[PROTOCOL])),
        ("frames that are too large", setting(5, 0x0100_0000), Ends(&[PROTOCOL])),
        ("a setting that nobody knows", setting(0x77, 1), Passes),
        ("no more window", window(0, 0), Ends(&[PROTOCOL])),
        ("no more window for a stream", [begin(1), window(1, 0)].concat(), Resets(&[PROTOCOL])),
        ("a window over the brim", window(0, most), Ends(&[FLOW])),
        ("a stream's window over the brim", [begin(1), window(1, most)].concat(), Resets(&[FLOW])),
        ("a window by SETTINGS over the brim", [begin(1), window(1, most - 65_535), setting(4, 65_536)].concat(), Ends(&[FLOW])),
        ("DATA with too much padding", [begin(1), frame(DATA, END_STREAM | PADDED, 1, &padded(3, b"ab"))].concat(), Ends(&[PROTOCOL])),
        ("DATA without its padding", [begin(1), frame(DATA, END_STREAM | PADDED, 1, b"")].concat(), Ends(SIZE)),
        ("HEADERS with too much padding", frame(HEADERS, END | PADDED, 1, &padded(255, &own)), Ends(&[PROTOCOL, COMPRESSION])),
        ("HEADERS without their priority", frame(HEADERS, END | WITH_PRIORITY, 1, &own[..4]), Ends(&[PROTOCOL, COMPRESSION])),
        ("HEADERS with padding", frame(HEADERS, END | PADDED, 1, &[&padded(2, &own)[..], &[0; 2]].concat()), Passes),
        ("HEADERS with a priority", frame(HEADERS, END | WITH_PRIORITY, 1, &with_priority), Passes),
        ("no field with this number", fields(&[0x80]), Ends(&[COMPRESSION])),
        ("a field that nobody kept", fields(&[0xff, 0x7f]), Ends(&[COMPRESSION])),
        ("a number without end", fields(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), Ends(&[COMPRESSION])),
        ("a string without end", fields(&[0, 9, b'x']), Ends(&[COMPRESSION])),
        ("a table that is too large", frame(HEADERS, END, 1, &[&[0x3f, 0xe2, 0x1f][..], &own].concat()), Ends(&[COMPRESSION])),
        ("a table's size after fields", fields(&[0x20]), Ends(&[COMPRESSION])),
        ("padding of ones, too long", fields(&[0, 1, b'x', 0x82, 0x1f, 0xff]), Ends(&[COMPRESSION])),
        ("padding of noughts", fields(&[0, 1, b'x', 0x81, 0x18]), Ends(&[COMPRESSION])),
        ("the end of text in a text", fields(&[0, 1, b'x', 0x84, 0xff, 0xff, 0xff, 0xff]), Ends(&[COMPRESSION])),
    ]
}

pub(super) fn rows() -> Vec<Row> {
    [misplaced(), misshapen()].concat()
}

/// What a client hears until it is over, or it has its answer to a last question.
#[derive(Debug, Default)]
struct Heard {
    goaway: Option<u32>,
    reset: Option<u32>,
    is_answered: bool,
    is_over: bool,
}

async fn listen(stage: &mut Stage, last: &[u8]) -> Heard {
    let mut heard = Heard::default();
    loop {
        let Some(came) = stage.client.next().await else {
            heard.is_over = true;
            return heard;
        };
        match came.kind {
            GOAWAY => heard.goaway = Some(came.code()),
            RST if came.stream == 1 => heard.reset = Some(came.code()),
            PING if came.flags & ACK != 0 && came.payload == last => {
                heard.is_answered = true;
                return heard;
            }
            _ => {}
        }
    }
}

async fn check((name, said, answer): &Row, cut: usize) {
    let mut stage = Stage::new(RULES).await;
    let recorder = stage.record();
    // What is asked after an end.
    let asked = headers(0x7fff_fffd, END, &get("/public/after"));
    let last = b"the last";
    let after = if matches!(answer, Ends(_)) {
        &asked[..]
    } else {
        &[]
    };
    let said = [&greeting(), said, after].concat();
    let (first, rest) = said.split_at(said.len() * cut / 100);
    for piece in [first, rest, &frame(PING, 0, 0, last)] {
        stage.client.say(piece).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let heard = listen(&mut stage, last).await;
    let is_one = |code: Option<u32>, codes: &[u32]| code.is_some_and(|code| codes.contains(&code));
    let fits = match answer {
        Ends(codes) => is_one(heard.goaway, codes) && heard.is_over,
        Resets(codes) => is_one(heard.reset, codes) || is_one(heard.goaway, codes),
        Passes => heard.goaway.is_none() && heard.reset.is_none() && heard.is_answered,
    };
    assert!(fits, "{name} cut at {cut}: {heard:?}");
    let seen = recorder.seen();
    let has_followed = seen.iter().any(|seen| seen.path() == "/public/after");
    assert!(!has_followed, "{name} cut at {cut}: {seen:?}");
}

#[tokio::test]
async fn a_frame_that_is_none_is_answered_as_its_error_and_nothing_follows() {
    let rows = rows();
    assert!(rows.len() > 60, "{}", rows.len());
    for cut in [100, 25, 60, 90] {
        let checks = rows
            .iter()
            .cloned()
            .map(|row| async move { check(&row, cut).await });
        let mut checks: JoinSet<()> = checks.collect();
        while let Some(checked) = checks.join_next().await {
            checked.unwrap();
        }
    }
}
