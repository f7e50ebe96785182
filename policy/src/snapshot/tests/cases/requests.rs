//! The cases that end in a request: the HTTP rules of the policies, pooled as section 7 of the
//! reference says, a rule without L7 being one that matches all.

use super::*;
use crate::http::{HttpRule, HttpRules, HttpVerdict, Path, Request};
use crate::l4::{L7, L7Rules};

/// Whether a request passes, and how many changes and notes come with it.
#[expect(
    clippy::unwrap_in_result,
    reason = "the policies and requests are the test's own text"
)]
fn ask(policies: &[&str], line: &str, headers: &[(&str, &[u8])]) -> Option<(usize, usize)> {
    let loaded = loaded(policies);
    assert!(!loaded.has_errors(), "{:#?}", loaded.problems);
    let mut pool: Vec<HttpRule> = Vec::new();
    for (_, _, item) in loaded.set.items() {
        match item.port_list() {
            [] => pool.push(HttpRule::default()),
            ports => ports.iter().for_each(|port| match port.l7.as_deref() {
                Some(L7 {
                    rules: L7Rules::Http(rules),
                    ..
                }) if item.default_deny => pool.extend_from_slice(rules),
                Some(_) | None => pool.push(HttpRule::default()),
            }),
        }
    }
    let rules = HttpRules::compile(&pool).unwrap();
    let (method, target) = line.split_once(' ').unwrap();
    let path = Path::parse(target.as_bytes()).unwrap();
    let request = Request {
        method,
        path: Some(&path),
        host: Some("shop.test"),
        port: 80,
        headers,
    };
    match rules.judge(&request) {
        HttpVerdict::Allowed { effects, notes, .. } => Some((effects.len(), notes.len())),
        HttpVerdict::Denied => None,
    }
}

#[test]
fn requests_are_judged_by_the_pool() {
    let http = |rules: &str| {
        format!(
            "egress: [{{toPorts: [{{ports: [{{port: '80', protocol: TCP}}], rules: {{http: [{rules}]}}}}]}}]"
        )
    };
    let public = http("{method: GET, path: '/public'}");
    let passes = |policies: &[&str], line| ask(policies, line, &[]).is_some();
    assert!(passes(&[&public], "GET /public"), "case 77");
    for line in [
        "GET /public?x=1",
        "GET /public/",
        "GET /Public",
        "POST /public",
    ] {
        assert!(!passes(&[&public], line), "case 78: {line}");
    }
    let second = http("{path: '/v2/.*'}");
    assert!(passes(&[&public, &second], "POST /v2/a"), "case 79");
    assert!(passes(&[&public, PORT80], "PUT /any"), "case 80");
    assert!(passes(&[&public, TO_B], "DELETE /x"), "case 81");
    let header = http("{headers: ['X-My-Header: true']}");
    let with = |value: &[u8]| ask(&[&header], "GET /", &[("X-My-Header", value)]).is_some();
    assert!(with(b"true") && !with(b"TRUE"), "case 83");
    assert!(!passes(&[&header], "GET /"), "case 83");
    let replace = http("{headerMatches: [{name: X, value: '1', mismatch: REPLACE}]}");
    let found = ask(&[&replace], "GET /", &[("X", b"2")]);
    assert!(found.is_some_and(|(effects, _)| effects == 1), "case 84");
    let log = http("{headerMatches: [{name: X, value: '1', mismatch: LOG}]}");
    let found = ask(&[&log], "GET /", &[]);
    assert!(
        found.is_some_and(|(effects, notes)| effects == 0 && notes == 1),
        "case 85"
    );
    let soft = format!(
        "enableDefaultDeny: {{egress: false}}, {}",
        http("{path: /a}")
    );
    assert!(passes(&[&soft], "GET /b"), "case 86");
}
