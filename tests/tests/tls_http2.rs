//! HTTP/2 inside TLS that is ended at the gate, or begun there: what the server chooses is what the client
//! gets, and each stream is judged. And what is in TLS on one leg alone, by either version.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::net::{IpAddr, SocketAddr};

use namegate_tests::ended::{
    BEGUN, ENDED, PUBLIC, Trust, ask, ask_with, curl, refused, secrets, statuses, to,
};
use namegate_tests::{Running, Web, about, about_alice, observed};

const DNS: &str = "{toCIDR: [203.0.113.2/32], toPorts: [{ports: [{port: '53', protocol: ANY}], \
                   rules: {dns: [{matchPattern: '*.example.com'}]}}]}";
/// Where nginx speaks HTTP/2 in TLS, and where it does without.
const TLS_HTTP2: u16 = 8_443;
const PLAIN_HTTP2: u16 = 8_082;

/// What may be asked of a server that a name was learned for.
fn named(name: &str, port: u16, parts: &[&str]) -> String {
    let rest = to(port, parts);
    let rest = rest.strip_prefix('{').unwrap();
    format!("{{toFQDNs: [{{matchName: {name}}}], {rest}")
}

fn learn(web: &Web, name: &str) -> IpAddr {
    let told = web.alice.dig(web.world.v4.into(), &["+short", name]);
    told.unwrap().trim().parse().unwrap()
}

/// What h2load says of so many requests of alice's, 20 at a time, over connections on which it offers HTTP/2
/// alone.
fn load(
    (web, server): (&Web, IpAddr),
    (name, port, path): (&str, u16, &str),
    (count, over): (u32, u32),
) -> String {
    let at = format!("--connect-to={server}:{port}");
    let target = format!("https://{name}:{port}{path}");
    let (count, over) = (format!("-n{count}"), format!("-c{over}"));
    let args = [&*count, &over, "-m20", "-T5", "--npn-list=h2", &at, &target];
    web.alice.check("h2load", &args).unwrap()
}

#[test]
fn streams_in_tls_are_judged_one_by_one() {
    let trust = Trust::new().unwrap();
    let web = trust.web(&["ok.test"]).unwrap();
    let policy = about_alice(&to(TLS_HTTP2, &[ENDED, BEGUN, PUBLIC]));
    let daemon = trust
        .daemon(&web, &["ok.test"], &[("alice.yaml", policy)])
        .unwrap();
    let gate = trust.file("gate");
    let paths = ["/public", "/secret", "/public?x=1"];
    let servers: [IpAddr; 3] = [web.world.v4.into(), web.world.v6.into(), web.bob.v4.into()];
    for server in servers {
        let options = ["--cacert", &gate, "--http2"];
        let server = SocketAddr::new(server, TLS_HTTP2);
        let asked = ask_with(&web.alice, &options, ("ok.test", server), &paths);
        let (code, text, complaint) = asked.unwrap();
        assert_eq!(code, 0, "{complaint}");
        assert_eq!(statuses(&text), ["200 2", "403 2", "200 2"], "{text}");
        assert!(text.contains("Access denied"), "{text}");
        assert!(text.contains("ok.test /public?x=1"), "{text}");
    }
    // A client that has HTTP/1 alone gets that of the same server, and one that says nothing too.
    for option in ["--http1.1", "--no-alpn"] {
        let options = ["--cacert", &gate, option];
        let server = SocketAddr::new(web.world.v4.into(), TLS_HTTP2);
        let asked = ask_with(&web.alice, &options, ("ok.test", server), &paths);
        let (_, text, complaint) = asked.unwrap();
        assert_eq!(
            statuses(&text),
            ["200 1.1", "403 1.1", "200 1.1"],
            "{option}: {complaint}"
        );
    }
    let told = observed(&daemon, &["--protocol", "http", "--last", "100"]).unwrap();
    for line in [
        "http-request FORWARDED (HTTP/2 GET https://ok.test:8443/public?x=1)",
        "http-request DROPPED (HTTP/2 GET https://ok.test:8443/secret)",
        "http-request DROPPED (HTTP/1.1 GET https://ok.test:8443/secret)",
    ] {
        assert!(told.contains(line), "{line}\n{told}");
    }
    let answered = told.matches("http-response FORWARDED (HTTP/2 200 ").count();
    assert_eq!(answered, 6, "{told}");
    // Many at once, by another client; and another host in one of the streams.
    let world = IpAddr::from(web.world.v4);
    let text = load((&web, world), ("ok.test", TLS_HTTP2, "/public"), (300, 3));
    assert!(text.contains("status codes: 300 2xx"), "{text}");
    let server = SocketAddr::new(web.world.v4.into(), TLS_HTTP2);
    let options = ["--cacert", &gate, "-H", "Host: evil.test"];
    let (_, text, _) = ask_with(&web.alice, &options, ("ok.test", server), &["/public"]).unwrap();
    assert_eq!(statuses(&text), ["421 2"], "{text}");
}

/// A server that knows HTTP/1 alone is spoken to so, by everybody who can.
#[test]
fn the_server_has_the_choice() {
    let trust = Trust::new().unwrap();
    let web = trust.web(&["ok.test"]).unwrap();
    let policy = about_alice(&to(443, &[ENDED, BEGUN, PUBLIC]));
    let daemon = trust
        .daemon(&web, &["ok.test"], &[("alice.yaml", policy)])
        .unwrap();
    let (gate, server) = (trust.file("gate"), IpAddr::from(web.world.v4));
    let (code, text, complaint) =
        ask(&web.alice, &gate, ("ok.test", server), &["/public"]).unwrap();
    assert_eq!((code, statuses(&text)), (0, vec!["200 1.1"]), "{complaint}");
    // One that offers HTTP/2 alone is told why there is nothing for it, and gets no request through.
    let text = load((&web, server), ("ok.test", 443, "/public"), (1, 1));
    assert!(text.contains("0 succeeded, 1 failed"), "{text}");
    let failed = refused(&daemon, "server-tls-failed").unwrap();
    assert_eq!(
        failed, 1,
        "the server has said that it has no such protocol"
    );
}

#[test]
fn a_server_that_is_not_the_one_gets_no_stream() {
    let trust = Trust::new().unwrap();
    let web = trust.web(&["other.test"]).unwrap();
    let policy = about_alice(&to(TLS_HTTP2, &[ENDED, BEGUN, PUBLIC]));
    let daemon = trust
        .daemon(&web, &["ok.test"], &[("alice.yaml", policy)])
        .unwrap();
    let world = IpAddr::from(web.world.v4);
    let text = load((&web, world), ("ok.test", TLS_HTTP2, "/public"), (1, 1));
    assert!(
        text.contains("status codes: 0 2xx, 0 3xx, 0 4xx, 1 5xx"),
        "{text}"
    );
    assert_eq!(refused(&daemon, "server-certificate-refused").unwrap(), 1);
    let told = observed(&daemon, &["--http-status", "502", "-o", "json"]).unwrap();
    assert!(told.contains("HTTP/2"), "{told}");
}

/// One leg alone: TLS that ends before a plain server, which is taken to have HTTP/2 only if its client has
/// nothing else; or that is begun for a client that begins with HTTP/2.
#[test]
fn one_leg_may_be_plain() {
    let trust = Trust::new().unwrap();
    let web = trust.web(&["web.example.com"]).unwrap();
    let _knot = Running::knot(&web.world.ns, "web 60 IN A 198.18.0.1\n").unwrap();
    let begun = named("web.example.com", TLS_HTTP2, &[BEGUN, PUBLIC]);
    let other = named("web.example.com", 443, &[BEGUN, PUBLIC]);
    let rules = [
        DNS.to_owned(),
        begun,
        other,
        to(PLAIN_HTTP2, &[ENDED, PUBLIC]),
        to(80, &[ENDED, PUBLIC]),
    ];
    let policy = about_alice(&rules.join(", "));
    let daemon = trust
        .daemon(&web, &["web.example.com"], &[("alice.yaml", policy)])
        .unwrap();
    let world = IpAddr::from(web.world.v4);
    let load = |path| {
        load(
            (&web, world),
            ("web.example.com", PLAIN_HTTP2, path),
            (2, 1),
        )
    };
    let text = load("/public");
    assert!(text.contains("status codes: 2 2xx"), "{text}");
    let text = load("/secret");
    assert!(text.contains("status codes: 0 2xx, 0 3xx, 2 4xx"), "{text}");
    let server = SocketAddr::new(web.world.v4.into(), 80);
    let options = ["--cacert", &trust.file("gate")];
    let asked = ask_with(
        &web.alice,
        &options,
        ("web.example.com", server),
        &["/public"],
    );
    assert_eq!(
        statuses(&asked.unwrap().1),
        ["200 1.1"],
        "it could have HTTP/1"
    );

    let server = learn(&web, "web.example.com");
    let plain = |port: u16, path: &str, host: &str| {
        let (host, url) = (
            format!("Host: {host}"),
            format!("http://{server}:{port}{path}"),
        );
        let args = ["--http2-prior-knowledge", "-H", &host, &url];
        let (_, text, complaint) = curl(&web.alice, &args).unwrap();
        (statuses(&text).concat(), complaint)
    };
    for (port, path, host, status) in [
        (TLS_HTTP2, "/public", "web.example.com", "200 2"),
        (TLS_HTTP2, "/secret", "web.example.com", "403 2"),
        (TLS_HTTP2, "/public", "evil.test", "421 2"),
        (443, "/public", "web.example.com", "502 2"), // it has no HTTP/2
        (443, "/secret", "web.example.com", "403 2"),
    ] {
        let (said, complaint) = plain(port, path, host);
        assert_eq!(said, status, "{port} {path} {host}: {complaint}");
    }
    assert_eq!(refused(&daemon, "server-tls-failed").unwrap(), 2);
}

/// One leg alone: the client's TLS is ended before a plain server, also of what comes to a workload; or
/// begun for a client that speaks none.
#[test]
fn one_leg_may_be_plain_in_http1() {
    let trust = Trust::new().unwrap();
    let web = trust.web(&["web.example.com"]).unwrap();
    let _knot = Running::knot(&web.world.ns, "web 60 IN A 198.18.0.1\n").unwrap();
    let named = named("web.example.com", 443, &[BEGUN, PUBLIC]);
    let own = to(8_080, &[ENDED, PUBLIC]);
    let to_bob = "{toCIDR: [10.0.0.0/24], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}, {toEndpoints: [{}], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}";
    let policy = about_alice(&format!("{DNS}, {named}, {own}, {to_bob}"));
    let inbound = to(80, &[ENDED, PUBLIC]).replace("{toPorts", "{fromEntities: [all], toPorts");
    let inbound = about("bob", &format!("ingress: [{inbound}]"));
    let policies = [("alice.yaml", policy), ("bob.yaml", inbound)];
    let daemon = trust.daemon(&web, &["web.example.com"], &policies).unwrap();
    let gate = trust.file("gate");
    let ended = |port: u16, server: IpAddr| {
        let resolve = format!("web.example.com:{port}:{server}");
        let urls = ["/public", "/secret"];
        let urls = urls.map(|path| format!("https://web.example.com:{port}{path}"));
        let args = ["--cacert", &gate, "--resolve", &resolve, &urls[0], &urls[1]];
        curl(&web.alice, &args).unwrap()
    };
    for (port, server) in [(8_080, web.world.v4), (80, web.bob.v4)] {
        let (code, text, complaint) = ended(port, server.into());
        assert_eq!(code, 0, "{complaint}");
        assert_eq!(statuses(&text), ["200 1.1", "403 1.1"], "{text}");
    }
    // Begun for a client that speaks none: to whom the address was learned to belong.
    let server = learn(&web, "web.example.com");
    let ask = |path: &str, host: &str| {
        let url = format!("http://{server}:443{path}");
        let (_, text, _) = curl(&web.alice, &["-H", &format!("Host: {host}"), &url]).unwrap();
        statuses(&text).concat()
    };
    assert_eq!(ask("/public", "web.example.com"), "200 1.1");
    assert_eq!(ask("/secret", "web.example.com"), "403 1.1");
    assert_eq!(ask("/public", "evil.test"), "421 1.1");
    let told = observed(&daemon, &["--protocol", "http", "-o", "json"]).unwrap();
    assert!(
        told.contains("https://web.example.com:8080/public"),
        "{told}"
    );
    assert!(told.contains("http://web.example.com/public"), "{told}");
}

/// A name that is bound is one in TLS that is ended, too.
#[test]
fn names_are_bound_in_tls_that_is_ended() {
    let trust = Trust::new().unwrap();
    let web = trust
        .web(&["a.example.com", "b.example.com", "evil.test"])
        .unwrap();
    let zone = "a 60 IN A 198.18.0.1\nb 60 IN A 198.18.0.1\n";
    let _knot = Running::knot(&web.world.ns, zone).unwrap();
    let rules = [
        DNS.to_owned(),
        named("a.example.com", TLS_HTTP2, &[ENDED, BEGUN, PUBLIC]),
        "{toFQDNs: [{matchName: b.example.com}]}".to_owned(),
    ];
    let policy = about_alice(&rules.join(", "));
    let names = ["a.example.com", "b.example.com", "evil.test"];
    let mut daemon = trust
        .prepare(&web, &names, &[("alice.yaml", policy)])
        .unwrap();
    let secrets = secrets(&daemon);
    daemon
        .start(&["--tls-secrets", &secrets, "--name-binding", "enforce"])
        .unwrap();
    let server = SocketAddr::new(learn(&web, "a.example.com"), TLS_HTTP2);
    learn(&web, "b.example.com");
    let say = |ca: &str, name: &str| {
        let (options, paths) = (["--cacert", &*trust.file(ca)], ["/public", "/secret"]);
        let asked = ask_with(&web.alice, &options, (name, server), &paths);
        let (code, text, complaint) = asked.unwrap();
        let statuses = statuses(&text).into_iter().map(str::to_owned);
        (code, statuses.collect::<Vec<_>>(), complaint)
    };
    let (code, said, complaint) = say("gate", "a.example.com");
    assert_eq!((code, &*said.join(" ")), (0, "200 2 403 2"), "{complaint}");
    // What another name is allowed passes as it came, to its own server.
    let (code, said, complaint) = say("servers", "b.example.com");
    assert_eq!((code, &*said.join(" ")), (0, "200 2 200 2"), "{complaint}");
    let (code, said, _) = say("gate", "evil.test");
    assert_eq!((code, &*said.join(" ")), (35, "000 0 000 0"));
    let told = observed(&daemon, &["--verdict", "DROPPED", "-o", "json"]).unwrap();
    assert!(told.contains("evil.test"), "{told}");
}

/// Of what comes to a workload, which speaks without TLS.
#[test]
fn what_comes_to_a_workload_is_judged_by_stream() {
    let trust = Trust::new().unwrap();
    let web = trust.web(&["bob.test"]).unwrap();
    let inbound = to(PLAIN_HTTP2, &[ENDED, PUBLIC]);
    let inbound = inbound.replace("{toPorts", "{fromEntities: [all], toPorts");
    let policies = [
        ("alice.yaml", about_alice("{toEntities: [all]}")),
        ("bob.yaml", about("bob", &format!("ingress: [{inbound}]"))),
    ];
    let _daemon = trust.daemon(&web, &["bob.test"], &policies).unwrap();
    let bob = IpAddr::from(web.bob.v4);
    let text = load((&web, bob), ("bob.test", PLAIN_HTTP2, "/public"), (4, 1));
    assert!(text.contains("status codes: 4 2xx"), "{text}");
}
