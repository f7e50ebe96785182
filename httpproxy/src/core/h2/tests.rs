use std::sync::Arc;

use policy::{Direction, HttpAccess, PeerRef};

use super::*;
use crate::core::step::{Now, Paths, Queries, Scheme};
use crate::testing::{RULES, snapshot};

const PORT: u16 = 8080;

struct Rules(HttpAccess);

impl Judge for Rules {
    fn judge<'a>(&'a self, request: &Request<'a>) -> Result<HttpPermit<'a>, Denied> {
        self.0.permit(request).ok_or(Denied::NotAllowed)
    }
}

fn rules(rules: &str) -> Rules {
    let (snapshot, endpoint) = snapshot(rules, PORT);
    let peer = PeerRef::Known(snapshot.identity_of("192.0.2.7".parse().unwrap()));
    Rules(Arc::clone(&snapshot).http_access(endpoint, Direction::Egress, peer, PORT))
}

#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn now() -> Now {
    Now {
        instant: Instant::now(),
        wall: SystemTime::UNIX_EPOCH,
    }
}

fn asked(request: http::Request<()>, (list, settings): (&str, &Settings)) -> Asked {
    let origin = Origin {
        scheme: Scheme::Https,
        original_destination: format!("192.0.2.7:{PORT}").parse().unwrap(),
    };
    let (parts, ()) = request.into_parts();
    let judge = rules(list);
    let flaws = Flaws::default();
    ask(&parts, (settings, &origin), (&judge, now().instant), flaws)
}

fn request(method: &str, uri: &str, fields: &[(&str, &str)]) -> http::Request<()> {
    let mut builder = http::Request::builder().method(method).uri(uri);
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap()
}

/// What goes upstream, or why nothing does.
fn sent(request: http::Request<()>, given: (&str, &Settings)) -> String {
    match asked(request, given) {
        Asked::Allowed(permitted, record) => {
            let request = permitted.into_request();
            let mut text = format!("{} {}", request.method(), request.uri());
            for (name, value) in request.headers() {
                text += &format!(" {name}={}", value.to_str().unwrap());
            }
            format!("{text} ({})", record.url)
        }
        Asked::Denied(_, denied) => format!("{denied:?}"),
        Asked::Malformed(_, bad) => format!("{} {bad:?}", bad.status()),
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn what_goes_upstream_is_what_was_judged() {
    let plain = Settings::default();
    let raw = Settings {
        paths: Paths::Raw,
        queries: Queries::LeftOut,
        ..Settings::default()
    };
    let acts = "[{path: '/a.*', headerMatches: [{name: X-Set, value: new, mismatch: REPLACE}, \
                {name: X-Gone, value: ok, mismatch: DELETE}, {name: X-New, value: one, mismatch: ADD}]}]";
    for (uri, fields, given, expected) in [
        (
            "http://shop.test/x/../public/%41?q=%zz",
            &[("x-a", "1")][..],
            (RULES, &plain),
            "GET http://shop.test/public/A?q=%zz x-a=1 (https://shop.test/public/A?q=%zz)",
        ),
        (
            "https://shop.test/public/%41?q=1",
            &[],
            (RULES, &raw),
            "GET https://shop.test/public/%41?q=1 (https://shop.test/public/%41)",
        ),
        (
            "/h",
            &[("host", "SHOP.test")],
            (RULES, &plain),
            "GET https://SHOP.test/h (https://SHOP.test/h)",
        ),
        (
            "http://shop.test/public/..%2fsecret",
            &[],
            (RULES, &plain),
            "NotAllowed",
        ),
        (
            "http://shop.test/../a",
            &[],
            (RULES, &plain),
            "400 Path(AboveRoot)",
        ),
        (
            "http://shop.test/public/%00",
            &[],
            (RULES, &plain),
            "400 Path(Nul)",
        ),
        (
            "http://u@shop.test/public/a",
            &[],
            (RULES, &plain),
            "400 Host",
        ),
        ("http://a,b/public/a", &[], (RULES, &plain), "400 Host"),
        ("/public/a", &[], (RULES, &plain), "400 NoHost"),
        ("/public/a", &[("host", "a b")], (RULES, &plain), "400 Host"),
        (
            "http://a/public/a",
            &[("host", "b")],
            (RULES, &plain),
            "400 OtherHost",
        ),
        (
            "http://a/public/a",
            &[("host", "a:80")],
            (RULES, &plain),
            "400 OtherHost",
        ),
        (
            "http://shop.test/a",
            &[
                ("x-set", "old"),
                ("x-gone", "bad"),
                ("http2-settings", "x"),
                ("x-keep", "1"),
            ],
            (acts, &plain),
            "GET http://shop.test/a x-keep=1 x-set=new x-new=one (https://shop.test/a)",
        ),
    ] {
        assert_eq!(
            sent(request("GET", uri, fields), given),
            expected,
            "{uri} {fields:?}"
        );
    }
    let star = http::Request::options("http://shop.test/")
        .body(())
        .unwrap();
    let (mut parts, ()) = star.into_parts();
    let mut uri = parts.uri.into_parts();
    uri.path_and_query = Some("*".parse().unwrap());
    parts.uri = Uri::from_parts(uri).unwrap();
    let star = http::Request::from_parts(parts, ());
    assert_eq!(sent(star, (RULES, &plain)), "NotAllowed");
}

#[test]
fn an_answer_of_ours_has_the_shape_that_its_client_understands() {
    let wall = SystemTime::UNIX_EPOCH;
    let shape_for = |method, kind| {
        let (parts, ()) = request(method, "/", &[("content-type", kind)]).into_parts();
        shape(&parts)
    };
    for (method, kind, expected) in [
        ("GET", "text/plain", Shape::Whole),
        ("HEAD", "text/plain", Shape::Head),
        ("POST", "application/grpc", Shape::Grpc),
        ("POST", "application/grpc+proto", Shape::Grpc),
        ("POST", "application/grpcx", Shape::Whole),
    ] {
        assert_eq!(shape_for(method, kind), expected, "{method} {kind}");
    }
    let (head, body) = answer((403, "Access denied\r\n"), Shape::Whole, wall);
    assert_eq!(head.status(), 403);
    assert_eq!(head.headers()["content-length"], "15");
    assert_eq!(head.headers()["date"], "Thu, 01 Jan 1970 00:00:00 GMT");
    assert!(!head.headers().contains_key("server"));
    assert_eq!(body.unwrap(), "Access denied\r\n");
    let (head, body) = answer((403, "Access denied\r\n"), Shape::Head, wall);
    assert_eq!((head.status().as_u16(), body), (403, None));
    for (status, code) in [(403, "7"), (502, "14")] {
        let (head, body) = answer((status, "Access denied\r\n"), Shape::Grpc, wall);
        assert_eq!((head.status().as_u16(), body), (200, None));
        assert_eq!(head.headers()["grpc-status"], code);
        assert_eq!(head.headers()["grpc-message"], "Access denied%0D%0A");
    }
}
