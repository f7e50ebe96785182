//! Messages that HTTP/2 has no place for (RFC 9113 §8), as rows of the table: a stream error, and nothing
//! of them goes on.

use super::table::{OK, Row, one, row, set, with, without};
use super::wire::*;

const RESET: &[&str] = &["RST(1)"];

/// A POST with a body: some fields more, and what it is.
fn posted(stream: u32, more: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let head = headers(stream, END_HEADERS, &with(post("/public/upload"), more));
    [head, frame(DATA, END_STREAM, stream, body)].concat()
}

/// One with trailers.
fn trailed(stream: u32, flags: u8, trailers: &[(&str, &str)]) -> Vec<u8> {
    let head = headers(stream, END_HEADERS, &post("/public/upload"));
    let body = frame(DATA, 0, stream, b"ab");
    [head, body, headers(stream, flags, trailers)].concat()
}

fn late(field: &'static str) -> Vec<(&'static str, &'static str)> {
    let mut fields = get(OK);
    let at = fields.iter().position(|(name, _)| *name == field).unwrap();
    let late = fields.remove(at);
    with(fields, &[("x", "y"), late])
}

const fn reset(id: &'static str, said: fn(u32) -> Vec<u8>) -> Row {
    row(id, said, RESET, &[])
}

/// The same, where its head may have gone on before.
const fn cut(id: &'static str, said: fn(u32) -> Vec<u8>) -> Row {
    row(id, said, RESET, &["/public/upload cut"])
}

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    // Pseudo-headers: known ones, each once, first, all of them.
    reset("late path", |s| one(s, &late(":path"))),
    reset("late authority", |s| one(s, &late(":authority"))),
    reset("two paths", |s| one(s, &with(vec![(":path", "/secret")], &get(OK)))),
    reset("two methods", |s| one(s, &with(vec![(":method", "GET")], &get(OK)))),
    reset("two authorities", |s| one(s, &with(vec![(":authority", "shop.test")], &get(OK)))),
    reset("two schemes", |s| one(s, &with(vec![(":scheme", "http")], &get(OK)))),
    reset("unknown pseudo", |s| one(s, &with(vec![(":host", "shop.test")], &get(OK)))),
    reset("a response's", |s| one(s, &with(vec![(":status", "200")], &get(OK)))),
    reset("no method", |s| one(s, &without(get(OK), ":method"))),
    reset("no scheme", |s| one(s, &without(get(OK), ":scheme"))),
    reset("no path", |s| one(s, &without(get(OK), ":path"))),
    reset("empty path", |s| one(s, &set(get(OK), (":path", "")))),
    reset("empty method", |s| one(s, &set(get(OK), (":method", "")))),
    reset("empty authority", |s| one(s, &set(get(OK), (":authority", "")))),
    row("asterisk", |s| one(s, &set(get("*"), (":method", "OPTIONS"))), &["403"], &[]),
    row("asterisk by GET", |s| one(s, &get("*")), &["400"], &[]),
    reset("CONNECT with a path", |s| one(s, &set(get(OK), (":method", "CONNECT")))),
    reset("protocol without CONNECT", |s| one(s, &with(get(OK), &[(":protocol", "websocket")]))),
    // Names and values.
    reset("empty name", |s| one(s, &with(get(OK), &[("", "a")]))),
    reset("colon in a name", |s| one(s, &with(get(OK), &[("x:y", "a")]))),
    reset("CR in a value", |s| one(s, &with(get(OK), &[("x", "a\rb")]))),
    reset("space before a value", |s| one(s, &with(get("/tok"), &[("x-token", " t0k")]))),
    reset("space after a value", |s| one(s, &with(get("/tok"), &[("x-token", "t0k ")]))),
    reset("TAB before a value", |s| one(s, &with(get(OK), &[("x", "\ta")]))),
    reset("TAB after a value", |s| one(s, &with(get(OK), &[("x", "a\t")]))),
    row("space in a value", |s| one(s, &with(get(OK), &[("x", "a \t b"), ("y", "")])), &["200"], &[OK]),
    // Fields of one connection.
    reset("keep-alive", |s| one(s, &with(get(OK), &[("keep-alive", "5")]))),
    reset("proxy-connection", |s| one(s, &with(get(OK), &[("proxy-connection", "close")]))),
    reset("upgrade", |s| one(s, &with(get(OK), &[("upgrade", "websocket")]))),
    reset("te, and more", |s| one(s, &with(get(OK), &[("te", "trailers, gzip")]))),
    // Lengths.
    cut("CL 1, DATA 2", |s| posted(s, &[("content-length", "1")], b"ab")),
    row("CL 2, DATA 2", |s| posted(s, &[("content-length", "2")], b"ab"), &["200"], &["/public/upload"]),
    reset("CL 2, no DATA", |s| one(s, &with(post("/public/upload"), &[("content-length", "2")]))),
    reset("CL +2", |s| posted(s, &[("content-length", "+2")], b"ab")),
    reset("CL 2, 2", |s| posted(s, &[("content-length", "2, 2")], b"ab")),
    reset("CL 0x2", |s| posted(s, &[("content-length", "0x2")], b"ab")),
    reset("CL too large", |s| posted(s, &[("content-length", "99999999999999999999")], b"ab")),
    // Trailers.
    row("trailers", |s| trailed(s, END, &[("x-t", "1")]), &["200"], &["/public/upload"]),
    cut("trailers that end nothing", |s| trailed(s, END_HEADERS, &[("x-t", "1")])),
    cut("connection in trailers", |s| trailed(s, END, &[("connection", "x")])),
    cut("upper case in trailers", |s| trailed(s, END, &[("X-T", "1")])),
    cut("space around a trailer", |s| trailed(s, END, &[("x-t", "1 ")])),
];
