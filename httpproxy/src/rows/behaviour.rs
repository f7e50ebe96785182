//! What the server does, and what the client sees of it.

use super::{Got, OK, Reaction, Row, Script, Seen, Server, ok};

const GET: &str = "GET /public/a HTTP/1.1\r\nHost: shop.test\r\n\r\n";
const GET_10: &str = "GET /public/a HTTP/1.0\r\nHost: shop.test\r\n\r\n";
const NEXT: &str = "GET /public/b HTTP/1.1\r\nHost: shop.test\r\n\r\n";

/// Answers as a text says, and may close then; other requests plainly.
macro_rules! says {
    ($text:expr) => {
        says!($text, false)
    };
    ($text:expr, $closes:expr) => {
        |seen: &Seen| match seen.target.as_str() {
            "/public/a" | "/public/upload" => Reaction {
                bytes: $text.as_bytes().to_vec(),
                closes: $closes,
            },
            _ => ok(seen),
        }
    };
}

pub(crate) fn rows() -> Vec<Row> {
    [
        responses(),
        no_responses(),
        without_body(),
        older(),
        upgrades(),
        ends(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A row of requests that go on as they came, and a server's answer to the first.
fn row(
    id: &'static str,
    sent: &str,
    (script, expected, ends): (Script, &str, (char, char)),
    told: &[&str],
) -> Row {
    Row {
        server: Server {
            script,
            is_hasty: false,
        },
        got: Got::Text(expected.to_owned()),
        ends,
        told: told.iter().map(|word| (*word).to_owned()).collect(),
        ..Row::new(id, sent.into(), "200 k", sent.into())
    }
}

/// A response passes as the server wrote it.
fn responses() -> Vec<Row> {
    const MIXED: &str = "HTTP/1.1 200 Fine, thanks\r\nX-BbB:  1 \r\nx-aaa:2\r\nX-BbB: 3\r\nServer: s\r\nContent-Length: 2\r\n\r\nok";
    const EARLY: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    const BOTH: &str = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    const UNTIL_END: &str = "HTTP/1.1 200 OK\r\n\r\nok";
    const CUT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok";
    const CUT_CHUNK: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nok";
    const TRAILER: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n";
    const UNCHANGED: &str = "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n";
    const HOPS: &str = "HTTP/1.1 200 OK\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\nA: b\r\n\r\nok";
    const UNAVAILABLE: &str = "HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nno";
    const CLOSES: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    const OFFERS: &str =
        "HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nok";
    let kept = ('k', 'k');
    let ok = ["allowed", "200 server"];
    let cut = ["allowed", "200 server", "ended ServerGone"];
    type Line<'a, 'b> = (&'static str, Script, &'a str, (char, char), &'b [&'b str]);
    #[rustfmt::skip]
    let rows: Vec<Line<'_, '_>> = vec![
        ("B03", says!(EARLY), EARLY, kept, &ok),
        ("B04", says!(BOTH), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", ('c', 'c'), &ok),
        ("B05", says!(UNTIL_END, true), UNTIL_END, ('c', 'c'), &ok),
        ("B06", says!(CUT, true), CUT, ('R', 'R'), &cut),
        ("B06b", says!(CUT_CHUNK, true), CUT_CHUNK, ('R', 'R'), &cut),
        ("B07", says!(TRAILER), TRAILER, kept, &ok),
        ("B09", says!(UNCHANGED), UNCHANGED, kept, &["allowed", "304 server"]),
        ("B11", says!(MIXED), MIXED, kept, &ok),
        // Sent once, whatever is answered.
        ("B12", says!(UNAVAILABLE), UNAVAILABLE, kept, &["allowed", "503 server"]),
        ("hop", says!(HOPS), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nA: b\r\nConnection: keep-alive\r\n\r\nok", kept, &ok),
        ("close", says!(CLOSES, true), CLOSES, ('c', 'c'), &ok),
        ("offer", says!(OFFERS), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", kept, &ok),
    ];
    let row = |(id, script, expected, ends, told): (_, _, _, _, &[&str])| {
        row(id, GET, (script, expected, ends), told)
    };
    rows.into_iter().map(row).collect()
}

/// What is no response is a 502 and the end.
fn no_responses() -> Vec<Row> {
    const BAD_GATEWAY: &str = "HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/plain\r\ncontent-length: 13\r\n\
        date: Thu, 01 Jan 1970 00:00:00 GMT\r\nconnection: close\r\n\r\nBad Gateway\r\n";
    #[rustfmt::skip]
    let rows: Vec<(_, Script)> = vec![
        ("two lengths", says!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok")),
        ("gzip", says!("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")),
        ("no line", says!("\r\nHTTP/1.1 200 OK\r\n\r\n")),
        ("bare LF", says!("HTTP/1.1 200 OK\nContent-Length: 2\n\nok")),
        ("status", says!("HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok")),
        ("not HTTP", says!("SSH-2.0-OpenSSH_9.2\r\n")),
        ("folded", says!("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n")),
        ("101 unasked", says!("HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")),
        ("gone", says!("", true)),
        ("gone in the head", says!("HTTP/1.1 200 OK\r\nContent-", true)),
    ];
    let told = ["allowed", "502 proxy"];
    let row = |(id, script)| row(id, GET, (script, BAD_GATEWAY, ('c', 'R')), &told);
    rows.into_iter().map(row).collect()
}

/// A response without a body has none, and the next one is its own.
fn without_body() -> Vec<Row> {
    const HEAD_ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\n\r\n";
    const UNCHANGED: &str = "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n";
    let head = format!("HEAD /public/a HTTP/1.1\r\nHost: shop.test\r\n\r\n{NEXT}");
    let both = format!("{GET}{NEXT}");
    let rows: Vec<(_, _, Script, &str, &str)> = vec![
        ("B08", head, says!(HEAD_ANSWER), HEAD_ANSWER, "200 server"),
        (
            "204",
            both.clone(),
            says!(NO_CONTENT),
            NO_CONTENT,
            "204 server",
        ),
        ("B09b", both, says!(UNCHANGED), UNCHANGED, "304 server"),
    ];
    let row = |(id, sent, script, answer, word): (_, String, _, _, _)| {
        let told = ["allowed", word, "allowed", "200 server"];
        let expected = format!("{answer}{OK}");
        row(id, &sent, (script, &expected, ('k', 'k')), &told)
    };
    rows.into_iter().map(row).collect()
}

/// An older client gets what it understands.
fn older() -> Vec<Row> {
    const CHUNKED: &str =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    const EARLY: &str =
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    const KEPT: &str = "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok";
    let joined = "HTTP/1.1 200 OK\r\n\r\nok";
    let keeps = "GET /public/a HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n";
    let told = ["allowed", "200 server"];
    vec![
        row(
            "chunks",
            GET_10,
            (says!(CHUNKED), joined, ('c', 'c')),
            &told,
        ),
        row("103", GET_10, (says!(EARLY), OK, ('c', 'c')), &told),
        row("B14", keeps, (says!(KEPT), KEPT, ('k', 'k')), &told),
    ]
}

/// An upgrade that may not be is left out.
fn upgrades() -> Vec<Row> {
    let forwarded = "GET /public/a HTTP/1.1\r\nHost: shop.test\r\nA: b\r\n\r\n";
    let rows = [
        (
            "B02",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
        ),
        ("B02b", "Connection: upgrade\r\nUpgrade: websocket, h2c\r\n"),
        ("B02c", "Upgrade: websocket\r\n"),
    ];
    let row = |(id, lines)| {
        let sent = format!("GET /public/a HTTP/1.1\r\nHost: shop.test\r\n{lines}A: b\r\n\r\n");
        Row::new(id, sent.into_bytes(), "200 k", forwarded.into())
    };
    rows.into_iter().map(row).collect()
}

/// A connection ends when a side says so.
fn ends() -> Vec<Row> {
    const TOO_LARGE: &str = "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno";
    const TWO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let close = "GET /public/a HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n";
    let denied = "GET /no HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n";
    let upload =
        "POST /public/upload HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 999999\r\n\r\nab";
    let script: Script = says!(TOO_LARGE);
    let early = row(
        "B16",
        upload,
        (script, TOO_LARGE, ('c', 'R')),
        &["allowed", "413 server"],
    );
    // What a server sends unasked is never the answer to the next request.
    let two: Script = says!(TWO);
    let unasked = row(
        "unasked",
        GET,
        (two, OK, ('c', 'R')),
        &["allowed", "200 server", "unasked"],
    );
    vec![
        Row::new("B15", close.into(), "200 c", close.into()),
        Row::new("B15b", denied.into(), "403 c", Vec::new()),
        Row {
            server: Server {
                script,
                is_hasty: true,
            },
            ..early
        },
        unasked,
    ]
}
