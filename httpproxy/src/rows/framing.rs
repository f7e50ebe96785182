//! Where one request ends and the next one begins.

use super::{Forwarded, Row};

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
const NEXT: &str = "GET /public/next HTTP/1.1\r\nHost: shop.test\r\n\r\n";

pub(crate) fn rows() -> Vec<Row> {
    [lengths(), chunks(), several()]
        .into_iter()
        .flatten()
        .collect()
}

/// A POST with some lines and a body.
fn post(lines: &str, body: &str) -> Vec<u8> {
    format!("POST /public/upload HTTP/1.1\r\nHost: shop.test\r\n{lines}\r\n{body}").into_bytes()
}

/// How long the body is.
fn lengths() -> Vec<Row> {
    let chunks = "2\r\nab\r\n0\r\n\r\n";
    #[rustfmt::skip]
    let rows = vec![
        ("F01", post("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", chunks), "400 c"),
        ("F02", post("Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", chunks), "400 c"),
        ("F03", post("Content-Length: 2\r\nContent-Length: 3\r\n", "abc"), "400 c"),
        ("F04", post("Content-Length: 2\r\nContent-Length: 2\r\n", "ab"), "400 c"),
        ("F05", post("Content-Length: 2, 2\r\n", "ab"), "400 c"),
        ("F06", post("Content-Length: +2\r\n", "ab"), "400 c"),
        ("F07", post("Content-Length: 0x2\r\n", "ab"), "400 c"),
        ("F08", post("Content-Length: 99999999999999999999\r\n", "ab"), "400 c"),
        ("F09", post("Content-Length: 1 2\r\n", "ab"), "400 c"),
        ("F10", post("Transfer-Encoding: xchunked\r\n", chunks), "501 c"),
        ("F11", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", chunks), "400 c"),
        ("F12", post("Transfer-Encoding: gzip, chunked\r\n", chunks), "501 c"),
        ("F13", post("Transfer-Encoding: chunked, chunked\r\n", chunks), "400 c"),
        ("F14", post("Transfer-Encoding: Chunked\r\n", chunks), "200 k"),
        ("F15", post("Transfer-Encoding: \x0bchunked\r\n", chunks), "400 c"),
        ("F16", post("Transfer-Encoding : chunked\r\nContent-Length: 2\r\n", chunks), "400 c"),
        ("F17", post("X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", chunks), "400 c"),
        ("F18", b"POST /public/upload HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(), "400 c"),
    ];
    let row = |(id, sent, expected): (&'static str, Vec<u8>, &'static str)| {
        let forwarded = match expected {
            "200 k" => sent.clone(),
            _ => Vec::new(),
        };
        Row::new(id, sent, expected, forwarded)
    };
    rows.into_iter().map(row).collect()
}

/// Chunks are written anew. What follows a body that can't be read is never taken for a request.
fn chunks() -> Vec<Row> {
    let clean = "2\r\nab\r\n0\r\n\r\n";
    let with_trailer = "2\r\nab\r\n0\r\nX-T: 1\r\n\r\n";
    #[rustfmt::skip]
    let rows = [
        ("F19", "2;a=b\r\nab\r\n0\r\n\r\n", Some(clean)),
        ("F20", "2;a\nb\r\nab\r\n0\r\n\r\n", None),
        ("F21", "2\nab\r\n0\r\n\r\n", None),
        ("F22", "0x2\r\nab\r\n0\r\n\r\n", None),
        ("F23", "2 \r\nab\r\n0\r\n\r\n", Some(clean)),
        ("F24", "00000000000000002\r\nab\r\n0\r\n\r\n", Some(clean)),
        ("F25", "10000000000000002\r\nab\r\n0\r\n\r\n", None),
        ("F26", "2\r\nabXX0\r\n\r\n", None),
        ("F27", "2\r\nab\r\n0\r\nX-T: 1\r\nContent-Length: 9\r\n\r\n", Some(with_trailer)),
    ];
    let row = |(id, body, written): (_, &str, Option<&str>)| {
        let sent = [&post(CHUNKED, body), NEXT.as_bytes()].concat();
        match written {
            Some(written) => {
                let forwarded = [&post(CHUNKED, written), NEXT.as_bytes()].concat();
                Row::new(id, sent, "200,200 k", forwarded)
            }
            None => Row {
                ends: ('c', 'R'),
                forwarded: Forwarded::BeginningOf(post(CHUNKED, "2\r\nab\r\n")),
                told: ["allowed", "400 proxy"].map(str::to_owned).to_vec(),
                ..Row::new(id, sent, "400 c", Vec::new())
            },
        }
    };
    rows.into_iter().map(row).collect()
}

/// Each request of a connection gets its own answer.
fn several() -> Vec<Row> {
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    let inner = get("/public/z");
    let length = inner.len();
    let with_length = format!(
        "GET /public/a HTTP/1.1\r\nHost: shop.test\r\nContent-Length: {length}\r\n\r\n{inner}"
    );
    let denied =
        format!("POST /no HTTP/1.1\r\nHost: shop.test\r\nContent-Length: {length}\r\n\r\n{inner}");
    let in_chunks = format!(
        "POST /no HTTP/1.1\r\nHost: shop.test\r\n{CHUNKED}\r\n{length:x}\r\n{inner}\r\n0\r\n\r\n"
    );
    let z = get("/public/z");
    let body = "GET /public/a HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 2\r\n\r\nab";
    let next = get("/public/b");
    let waits = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        )
    };
    let (yes, no) = (get("/public/a"), get("/no"));
    let other = "POST /public/upload HTTP/1.1\r\nHost: shop.test\r\nExpect: 200-ok\r\nContent-Length: 2\r\n\r\nab";
    #[rustfmt::skip]
    let rows = vec![
        ("F28", format!("{body}{next}"), "200,200 k", format!("{body}{next}")),
        ("F29", with_length.clone(), "200 k", with_length),
        ("F30", format!("{denied}{z}"), "403,200 k", z.clone()),
        ("F30b", format!("{in_chunks}{z}"), "403,200 k", z),
        ("F31", "POST /no HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 9\r\n\r\n".into(), "403 c", String::new()),
        ("F31b", "POST /no HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 999999\r\n\r\nabc".into(), "403 c", String::new()),
        ("F32", waits("/no"), "403 c", String::new()),
        ("F34", other.into(), "200 k", other.into()),
        ("F35", format!("{yes}{no}{yes}"), "200,403,200 k", yes.repeat(2)),
        ("F36", format!("{no}{no}{yes}"), "403,403,200 k", yes),
    ];
    let row = |(id, sent, expected, forwarded): (&'static str, String, &'static str, String)| {
        Row::new(id, sent.into_bytes(), expected, forwarded.into_bytes())
    };
    let f33 = Row {
        then: b"ab",
        ..row((
            "F33",
            waits("/public/upload"),
            "(100)200 k",
            waits("/public/upload") + "ab",
        ))
    };
    rows.into_iter().map(row).chain([f33]).collect()
}
