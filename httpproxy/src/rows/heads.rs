//! Paths, targets, hosts and the syntax of the head.

use super::{PORT, Row};

pub(crate) fn rows() -> Vec<Row> {
    [paths(), targets(), syntax()]
        .into_iter()
        .flatten()
        .collect()
}

/// A GET of a target with a Host.
fn get(target: &[u8]) -> Vec<u8> {
    [b"GET ", target, b" HTTP/1.1\r\nHost: shop.test\r\n\r\n"].concat()
}

fn paths() -> Vec<Row> {
    let long = [b"/public/", &vec![b'a'; 65_536][..]].concat();
    #[rustfmt::skip]
    let rows: Vec<(&'static str, &[u8], &'static str, Option<&str>)> = vec![
        ("P01", b"/public/a", "200 k", Some("/public/a")),
        ("P02", b"/public", "403 k", None),
        ("P03", b"/public/a?x=/../secret", "200 k", Some("/public/a?x=/../secret")),
        ("P04", b"/q?a=1", "200 k", Some("/q?a=1")),
        ("P05", b"/q?a=1&b=2", "403 k", None),
        ("P06", b"/public/../secret", "403 k", None),
        ("P07", b"/public/%2e%2e/secret", "403 k", None),
        ("P08", b"/public/..%2fsecret", "403 k", None),
        ("P09", b"/public/a%2Fb", "200 k", Some("/public/a%2Fb")),
        ("P10", b"/public/..%5csecret", "403 k", None),
        ("P11", b"/public\\..\\secret", "403 k", None),
        ("P12", b"//public//a", "200 k", Some("/public/a")),
        ("P13", b"/secret//public/a", "403 k", None),
        ("P14", b"/%70ublic/a", "200 k", Some("/public/a")),
        ("P15", b"/public/%41%7e%2d", "200 k", Some("/public/A~-")),
        ("P16", b"/public/%252e%252e/secret", "200 k", Some("/public/%252e%252e/secret")),
        ("P17", b"/public/..;/secret", "403 k", None),
        ("P18", b"/public;x=1/../secret", "403 k", None),
        ("P19", b"/public/a#/../secret", "400 c", None),
        ("P20", b"/public/a%23b", "200 k", Some("/public/a%23b")),
        ("P21", b"/public/%00", "400 c", None),
        ("P22", b"/public/%zz", "400 c", None),
        ("P23", b"/public/\xc3\xa9", "400 c", None),
        ("P24", b"/public/a\tb", "400 c", None),
        ("P25", b"/public/a b", "400 c", None),
        ("P26", b"/PUBLIC/a", "403 k", None),
        ("P27", b"/../../public/a", "400 c", None),
        ("P28", b"/public/./b/../c/", "200 k", Some("/public/c/")),
        ("P29", b"public/a", "400 c", None),
        ("P30", b"/public/<\">{}|^`", "200 k", Some("/public/%3C%22%3E%7B%7D%7C%5E%60")),
        ("P31", b"/public/a?b#c", "400 c", None),
        ("P32", &long, "414 c", None),
        // Section 5's rows that the policy of the tables can tell apart.
        ("5a", b"/public/a/b/..", "200 k", Some("/public/a/")),
        ("5b", b"/public/p;v=1/a", "200 k", Some("/public/p;v=1/a")),
        ("5c", b"/public/a?b=\"<", "200 k", Some("/public/a?b=\"<")),
        ("5d", b"/public/a?x=%zz", "200 k", Some("/public/a?x=%zz")),
        ("5e", b"/public/a?", "200 k", Some("/public/a?")),
        ("5f", b"/public/a%", "400 c", None),
        ("5g", b"*", "400 c", None),
    ];
    let row = |(id, target, expected, forwarded): (_, &[u8], _, Option<&str>)| {
        let forwarded = forwarded.map_or_else(Vec::new, |target| get(target.as_bytes()));
        Row::new(id, get(target), expected, forwarded)
    };
    rows.into_iter().map(row).collect()
}

fn targets() -> Vec<Row> {
    let own_port = format!("GET /h HTTP/1.1\r\nHost: shop.test:{PORT}\r\n\r\n");
    let tunnel = format!("CONNECT shop.test:{PORT} HTTP/1.1\r\nHost: shop.test:{PORT}\r\n\r\n");
    let as_sent = "as sent";
    let h = "GET /h HTTP/1.1\r\nHost: shop.test\r\n\r\n";
    #[rustfmt::skip]
    let rows: Vec<(&'static str, &str, &'static str, &str)> = vec![
        ("H01", "GET http://shop.test/h HTTP/1.1\r\nHost: shop.test\r\n\r\n", "200 k", h),
        ("H01b", "GET HTTP://SHOP.test:80/h HTTP/1.1\r\nHost: shop.test\r\n\r\n", "200 k", h),
        ("H02", "GET http://shop.test/h HTTP/1.1\r\nHost: evil.test\r\n\r\n", "400 c", ""),
        ("H03", "GET http://evil.test/h HTTP/1.1\r\nHost: shop.test\r\n\r\n", "400 c", ""),
        ("H03b", "GET http://evil@shop.test/h HTTP/1.1\r\nHost: shop.test\r\n\r\n", "400 c", ""),
        ("H04", "GET http://shop.test HTTP/1.1\r\nHost: shop.test\r\n\r\n", "403 k", ""),
        ("H05", "GET https://shop.test/h HTTP/1.1\r\nHost: shop.test\r\n\r\n", "400 c", ""),
        ("H06", "GET /h HTTP/1.1\r\nHost: SHOP.test\r\n\r\n", "200 k", as_sent),
        ("H07", "GET /h HTTP/1.1\r\nHost: shop.test:80\r\n\r\n", "403 k", ""),
        ("H07b", &own_port, "200 k", as_sent),
        ("H08", "GET /h HTTP/1.1\r\nHost: shop.test.\r\n\r\n", "403 k", ""),
        ("H09", "GET /h HTTP/1.1\r\nHost: shop.test\r\nHost: evil.test\r\n\r\n", "400 c", ""),
        ("H10", "GET /public/a HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "400 c", ""),
        ("H11", "GET /public/a HTTP/1.1\r\nA: b\r\n\r\n", "400 c", ""),
        ("H12", "GET /public/a HTTP/1.1\r\nHost:\r\n\r\n", "400 c", ""),
        ("H13", "GET /h HTTP/1.1\r\nHost: evil.test@shop.test\r\n\r\n", "400 c", ""),
        ("H14", "GET /public/a HTTP/1.1\r\nHost: a b\r\n\r\n", "400 c", ""),
        ("H15", "GET /h HTTP/1.1\r\nHost: shop.test\r\nX-Forwarded-Host: evil.test\r\nX-Original-URL: /admin\r\n\r\n", "200 k", as_sent),
        ("H16", "OPTIONS * HTTP/1.1\r\nHost: shop.test\r\n\r\n", "403 k", ""),
        ("H17", "CONNECT shop.test:443 HTTP/1.1\r\nHost: shop.test:443\r\n\r\n", "403 c", ""),
        ("H17b", &tunnel, "403 c", ""),
        ("H17c", "CONNECT /public/a HTTP/1.1\r\nHost: shop.test\r\n\r\n", "400 c", ""),
        ("H18", "GET /public/a HTTP/1.0\r\n\r\n", "200 c", as_sent),
    ];
    let row = |(id, sent, expected, forwarded): (_, &str, _, &str)| {
        let forwarded = if forwarded == as_sent {
            sent
        } else {
            forwarded
        };
        Row::new(
            id,
            sent.as_bytes().to_vec(),
            expected,
            forwarded.as_bytes().to_vec(),
        )
    };
    rows.into_iter().map(row).collect()
}

fn syntax() -> Vec<Row> {
    let with = |lines: &[u8]| {
        let line = b"GET /public/a HTTP/1.1\r\nHost: shop.test\r\n";
        [&line[..], lines, b"\r\n"].concat()
    };
    let token = |lines: &str| {
        format!("GET /tok HTTP/1.1\r\nHost: shop.test\r\n{lines}\r\n\r\n").into_bytes()
    };
    let line = |text: &str| format!("{text}\r\nHost: shop.test\r\n\r\n").into_bytes();
    let huge = format!("A: {}\r\n", "v".repeat(100 << 10));
    #[rustfmt::skip]
    let rows = vec![
        ("S01", line("get /public/a HTTP/1.1"), "403 k"),
        ("S02", line("GET  /public/a HTTP/1.1"), "400 c"),
        ("S03", line("GET /public/a HTTP/1.2"), "505 c"),
        ("S04", line("GET /public/a http/1.1"), "400 c"),
        ("S05", line("GET /public/a HTTP/2.0"), "505 c"),
        ("S06", b"GET /public/a\r\n".to_vec(), "400 c"),
        ("S07", b"GET /public/a HTTP/1.1\nHost: shop.test\n\n".to_vec(), "400 c"),
        ("S07b", b"GET /public/a HTTP/1.1\r\nHost: shop.test\r\n\n".to_vec(), "400 c"),
        ("S08", with(b"X: a\rY: b\r\n"), "400 c"),
        ("S09", with(b"X: a\0b\r\n"), "400 c"),
        ("S10", with(b"X: a\r\n b\r\n"), "400 c"),
        ("S11", with(b"X : a\r\n"), "400 c"),
        ("S12", with(b"Xa\r\n"), "400 c"),
        ("S13", with(b": a\r\n"), "400 c"),
        ("S14", [b"\r\n", &with(b"")[..]].concat(), "200 k"),
        ("S15", b"GET /public/a HTTP/1.1\r\n Host: shop.test\r\n\r\n".to_vec(), "400 c"),
        ("S16", with(b"X: \xe9\xff\r\n"), "200 k"),
        ("S17", with(&b"X: a\r\n".repeat(200)), "431 c"),
        ("S18", with(huge.as_bytes()), "431 c"),
        ("S19", token("X-Token: t0k\r\nX-Token: bad"), "403 k"),
        ("S20", token("X-Token: t0k   "), "200 k"),
        ("S21", token("X-Token: t0k\r\nConnection: X-Token"), "403 k"),
        ("S21b", token("Connection: keep-alive, x-token\r\nX-Token: t0k"), "403 k"),
        ("S22", token("X_Token: t0k"), "403 k"),
    ];
    let row = |(id, sent, expected): (&'static str, Vec<u8>, &'static str)| {
        let forwarded = match expected {
            // All but an empty line before it.
            "200 k" => sent.strip_prefix(b"\r\n").unwrap_or(&sent).to_vec(),
            _ => Vec::new(),
        };
        Row::new(id, sent, expected, forwarded)
    };
    rows.into_iter().map(row).collect()
}
