//! Paths, targets, hosts and the syntax of the head.

use super::play::{PORT, Play, Row, ok};

/// A GET of a target with a Host.
fn get(target: &[u8]) -> Vec<u8> {
    [b"GET ", target, b" HTTP/1.1\r\nHost: shop.test\r\n\r\n"].concat()
}

fn check(id: &str, sent: &[u8], (expected, target): (&str, Option<&str>)) {
    let targets: Vec<&str> = target.into_iter().collect();
    Row {
        id,
        sent,
        expected,
        targets: &targets,
    }
    .check(ok);
}

#[test]
fn a_path_is_judged_in_every_reading_and_forwarded_as_judged() {
    let long = [b"/public/", &vec![b'a'; 65_536][..]].concat();
    #[rustfmt::skip]
    let rows: &[(&str, &[u8], &str, Option<&str>)] = &[
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
    for (id, target, expected, forwarded) in rows {
        check(id, &get(target), (expected, *forwarded));
    }
}

#[test]
fn a_target_and_a_host_must_say_the_same() {
    let own_port = format!("GET /h HTTP/1.1\r\nHost: shop.test:{PORT}\r\n\r\n");
    let tunnel = format!("CONNECT shop.test:{PORT} HTTP/1.1\r\nHost: shop.test:{PORT}\r\n\r\n");
    let forwarded_host = "GET /h HTTP/1.1\r\nHost: shop.test\r\nX-Forwarded-Host: evil.test\r\nX-Original-URL: /admin\r\n\r\n";
    let h = Some("/h");
    #[rustfmt::skip]
    let rows: &[(&str, &str, &str, Option<&str>)] = &[
        ("H01", "GET http://shop.test/h HTTP/1.1\r\nHost: shop.test\r\n\r\n", "200 k", h),
        ("H01b", "GET HTTP://SHOP.test:80/h HTTP/1.1\r\nHost: shop.test\r\n\r\n", "200 k", h),
        ("H02", "GET http://shop.test/h HTTP/1.1\r\nHost: evil.test\r\n\r\n", "400 c", None),
        ("H03", "GET http://evil.test/h HTTP/1.1\r\nHost: shop.test\r\n\r\n", "400 c", None),
        ("H03b", "GET http://evil@shop.test/h HTTP/1.1\r\nHost: shop.test\r\n\r\n", "400 c", None),
        ("H04", "GET http://shop.test HTTP/1.1\r\nHost: shop.test\r\n\r\n", "403 k", None),
        ("H05", "GET https://shop.test/h HTTP/1.1\r\nHost: shop.test\r\n\r\n", "400 c", None),
        ("H06", "GET /h HTTP/1.1\r\nHost: SHOP.test\r\n\r\n", "200 k", h),
        ("H07", "GET /h HTTP/1.1\r\nHost: shop.test:80\r\n\r\n", "403 k", None),
        ("H07b", &own_port, "200 k", h),
        ("H08", "GET /h HTTP/1.1\r\nHost: shop.test.\r\n\r\n", "403 k", None),
        ("H09", "GET /h HTTP/1.1\r\nHost: shop.test\r\nHost: evil.test\r\n\r\n", "400 c", None),
        ("H10", "GET /public/a HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "400 c", None),
        ("H11", "GET /public/a HTTP/1.1\r\nA: b\r\n\r\n", "400 c", None),
        ("H12", "GET /public/a HTTP/1.1\r\nHost:\r\n\r\n", "400 c", None),
        ("H13", "GET /h HTTP/1.1\r\nHost: evil.test@shop.test\r\n\r\n", "400 c", None),
        ("H14", "GET /public/a HTTP/1.1\r\nHost: a b\r\n\r\n", "400 c", None),
        ("H15", forwarded_host, "200 k", h),
        ("H16", "OPTIONS * HTTP/1.1\r\nHost: shop.test\r\n\r\n", "403 k", None),
        ("H17", "CONNECT shop.test:443 HTTP/1.1\r\nHost: shop.test:443\r\n\r\n", "403 c", None),
        ("H17b", &tunnel, "403 c", None),
        ("H17c", "CONNECT /public/a HTTP/1.1\r\nHost: shop.test\r\n\r\n", "400 c", None),
        ("H18", "GET /public/a HTTP/1.0\r\n\r\n", "200 c", Some("/public/a")),
    ];
    for (id, sent, expected, forwarded) in rows {
        check(id, sent.as_bytes(), (expected, *forwarded));
    }
    let mut play = Play::new(ok);
    play.send(forwarded_host.as_bytes());
    assert_eq!(play.seen[0].head, forwarded_host, "H15 untouched");
    let mut play = Play::new(ok);
    play.send(b"GET http://shop.test/h HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    assert_eq!(
        play.seen[0].head,
        "GET /h HTTP/1.1\r\nHost: shop.test\r\n\r\n"
    );
}

#[test]
fn a_head_has_one_syntax() {
    let with = |lines: &[u8]| {
        let line = b"GET /public/a HTTP/1.1\r\nHost: shop.test\r\n";
        [&line[..], lines, b"\r\n"].concat()
    };
    let token = |lines: &str| {
        format!("GET /tok HTTP/1.1\r\nHost: shop.test\r\n{lines}\r\n\r\n").into_bytes()
    };
    let a = Some("/public/a");
    let line = |text: &str| format!("{text}\r\nHost: shop.test\r\n\r\n").into_bytes();
    let huge = format!("A: {}\r\n", "v".repeat(100 << 10));
    #[rustfmt::skip]
    let rows: &[(&str, Vec<u8>, &str, Option<&str>)] = &[
        ("S01", line("get /public/a HTTP/1.1"), "403 k", None),
        ("S02", line("GET  /public/a HTTP/1.1"), "400 c", None),
        ("S03", line("GET /public/a HTTP/1.2"), "505 c", None),
        ("S04", line("GET /public/a http/1.1"), "400 c", None),
        ("S05", line("GET /public/a HTTP/2.0"), "505 c", None),
        ("S06", b"GET /public/a\r\n".to_vec(), "400 c", None),
        ("S07", b"GET /public/a HTTP/1.1\nHost: shop.test\n\n".to_vec(), "400 c", None),
        ("S07b", b"GET /public/a HTTP/1.1\r\nHost: shop.test\r\n\n".to_vec(), "400 c", None),
        ("S08", with(b"X: a\rY: b\r\n"), "400 c", None),
        ("S09", with(b"X: a\0b\r\n"), "400 c", None),
        ("S10", with(b"X: a\r\n b\r\n"), "400 c", None),
        ("S11", with(b"X : a\r\n"), "400 c", None),
        ("S12", with(b"Xa\r\n"), "400 c", None),
        ("S13", with(b": a\r\n"), "400 c", None),
        ("S14", [b"\r\n", &with(b"")[..]].concat(), "200 k", a),
        ("S15", b"GET /public/a HTTP/1.1\r\n Host: shop.test\r\n\r\n".to_vec(), "400 c", None),
        ("S16", with(b"X: \xe9\xff\r\n"), "200 k", a),
        ("S17", with(&b"X: a\r\n".repeat(200)), "431 c", None),
        ("S18", with(huge.as_bytes()), "431 c", None),
        ("S19", token("X-Token: t0k\r\nX-Token: bad"), "403 k", None),
        ("S20", token("X-Token: t0k   "), "200 k", Some("/tok")),
        ("S21", token("X-Token: t0k\r\nConnection: X-Token"), "403 k", None),
        ("S21b", token("Connection: keep-alive, x-token\r\nX-Token: t0k"), "403 k", None),
        ("S22", token("X_Token: t0k"), "403 k", None),
    ];
    for (id, sent, expected, forwarded) in rows {
        check(id, sent, (expected, *forwarded));
    }
    let mut play = Play::new(ok);
    play.send(&with(b"X: \xe9\xff\r\n"));
    assert_eq!(play.reached, with(b"X: \xe9\xff\r\n"), "S16 byte-exact");
}
