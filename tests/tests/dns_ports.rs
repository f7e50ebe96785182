//! Names are asked at any port that a rule names, as at port 53, until no rule names it any more.

#![expect(clippy::unwrap_used, reason = "a test may die")]
#![expect(clippy::disallowed_methods, reason = "a workload's own sockets")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream};

use anyhow::Result;
use namegate_tests::{Cgroup, Daemon, Node, Running, WWW, Workload, seen_by};

/// What a server's namespace sees of queries that came from outside.
const QUERIES: &str = "dst port 5353 and not src host 127.0.0.1";

/// `client` may ask `dns` at these ports for www.example.com, and reach it.
fn names_at(ports: &str) -> String {
    format!(
        "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: names}}
spec:
  endpointSelector: {{matchLabels: {{app: client}}}}
  egress:
  - toEndpoints:
    - matchLabels: {{app: dns}}
    toPorts:
    - ports: [{ports}]
      rules: {{dns: [{{matchName: www.example.com}}]}}
  - toFQDNs: [{{matchName: www.example.com}}]
"
    )
}

const BOTH: &str = "{port: '53', protocol: ANY}, {port: '5353', protocol: ANY}";
const USUAL: &str = "{port: '53', protocol: ANY}";

/// What the client is answered at a port, UDP first.
fn asked(client: &Workload, (server, port): (IpAddr, &str), words: &[&str]) -> Result<[String; 2]> {
    let ask = |way| {
        let words = [&["-p", port, way, "+tries=1", "+time=2"], words].concat();
        client.dig(server, &words)
    };
    Ok([ask("+notcp")?, ask("+tcp")?])
}

fn learned(daemon: &Daemon<'_>) -> String {
    let socket = daemon.path("namegate.sock").display().to_string();
    let listed = daemon
        .namegate(&["fqdn", "cache", "list", "--socket", &socket])
        .unwrap();
    String::from_utf8(listed.stdout).unwrap()
}

fn known_ports(daemon: &Daemon<'_>) -> String {
    let listed = daemon.namegate(&["map", "get", "dns_ports"]).unwrap();
    String::from_utf8(listed.stdout).unwrap()
}

/// Names are asked at port 5353, by both protocols and families, as at 53.
fn check_asked(client: &Workload, dns: &Workload) {
    let servers = [IpAddr::V4(dns.v4), IpAddr::V6(dns.v6)];
    let seen = seen_by(dns, QUERIES, || {
        for server in servers {
            for (kind, address) in [("A", "198.18.0.1\n"), ("AAAA", "2001:db8:1::1\n")] {
                let words = ["+short", "www.example.com", kind];
                assert_eq!(asked(client, (server, "5353"), &words)?, [address; 2]);
            }
            for denied in asked(client, (server, "5353"), &["a.evil.test", "A"])? {
                assert!(denied.contains("status: NXDOMAIN"), "{denied}");
                assert!(denied.contains("EDE: 17 (Filtered)"), "{denied}");
                // From the port that was asked.
                assert!(denied.contains("#5353("), "{denied}");
            }
        }
        Ok(())
    })
    .unwrap();
    assert!(
        seen.contains("IP 10.0.0.2.") && seen.contains("IP6 fd00::2."),
        "{seen}"
    );
    assert!(!seen.contains("evil"), "{seen}");
}

#[test]
fn names_are_asked_at_a_port_that_a_rule_names_and_no_longer() {
    let node = Node::new().unwrap();
    let client = node.workload("client", 2).unwrap();
    let dns = node.workload("dns", 3).unwrap();
    let _knot = Running::knot(&dns.ns, WWW).unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    daemon.endpoint(&client).unwrap();
    daemon.endpoint(&dns).unwrap();
    daemon.policy("names.yaml", &names_at(BOTH)).unwrap();
    daemon.start(&[]).unwrap();
    assert!(
        known_ports(&daemon).contains("5353"),
        "{}",
        known_ports(&daemon)
    );

    let servers = [IpAddr::V4(dns.v4), IpAddr::V6(dns.v6)];
    check_asked(&client, &dns);
    let cache = learned(&daemon);
    assert!(
        cache.contains("198.18.0.1") && cache.contains("2001:db8:1::1"),
        "{cache}"
    );

    // The policy no longer names the port: nobody listens there, and the rest is as it was.
    daemon
        .change_policy("names.yaml", &names_at(USUAL))
        .unwrap();
    assert!(
        !known_ports(&daemon).contains("5353"),
        "{}",
        known_ports(&daemon)
    );
    let seen = seen_by(&dns, QUERIES, || {
        for server in servers {
            for answer in asked(&client, (server, "5353"), &["www.example.com", "A"])? {
                assert!(!answer.contains("198.18.0.1"), "{answer}");
            }
        }
        Ok(())
    })
    .unwrap();
    assert!(!seen.contains("www"), "{seen}");
    for server in servers {
        let words = ["+short", "www.example.com", "A"];
        assert_eq!(
            asked(&client, (server, "53"), &words).unwrap(),
            ["198.18.0.1\n"; 2]
        );
    }
    // And names it again.
    daemon.change_policy("names.yaml", &names_at(BOTH)).unwrap();
    for server in servers {
        let words = ["+short", "www.example.com", "A"];
        assert_eq!(
            asked(&client, (server, "5353"), &words).unwrap(),
            ["198.18.0.1\n"; 2]
        );
    }
    assert_eq!(daemon.end_with("TERM").unwrap(), Some(0));
}

/// `other` may get `/ok` of `web` at the same port.
const HTTP: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: requests}
spec:
  endpointSelector: {matchLabels: {app: other}}
  egress:
  - toEndpoints:
    - matchLabels: {app: web}
    toPorts:
    - ports: [{port: '5353', protocol: TCP}]
      rules: {http: [{method: GET, path: /ok}]}
";

/// Answers every request with "ok"; one for each connection.
fn serve(listener: &TcpListener) {
    let answer = |mut stream: TcpStream| {
        let _ = stream.read(&mut [0; 4_096])?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
    };
    for stream in listener.incoming().map_while(Result::ok) {
        let _ = answer(stream);
    }
}

#[test]
fn a_port_is_of_dns_for_one_workload_and_of_http_for_another_after_a_restart_too() {
    let node = Node::new().unwrap();
    let client = node.workload("client", 2).unwrap();
    let dns = node.workload("dns", 3).unwrap();
    let other = node.workload("other", 4).unwrap();
    let web = node.workload("web", 5).unwrap();
    let _knot = Running::knot(&dns.ns, WWW).unwrap();
    let listener = web.ns.run(|| TcpListener::bind((web.v4, 5_353)).unwrap());
    std::thread::spawn(move || serve(&listener.unwrap()));
    let mut daemon = Daemon::prepare(&node).unwrap();
    for workload in [&client, &dns, &other, &web] {
        daemon.endpoint(workload).unwrap();
    }
    daemon.policy("names.yaml", &names_at(BOTH)).unwrap();
    daemon.policy("requests.yaml", HTTP).unwrap();
    daemon.start(&[]).unwrap();
    let check = || {
        let words = ["+short", "www.example.com", "A"];
        let server = IpAddr::V4(dns.v4);
        assert_eq!(
            asked(&client, (server, "5353"), &words).unwrap(),
            ["198.18.0.1\n"; 2]
        );
        for (path, code) in [("ok", "200"), ("no", "403")] {
            let url = format!("http://{}:5353/{path}", web.v4);
            let words = [
                "-s",
                "-m",
                "5",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                &url,
            ];
            assert_eq!(other.check("curl", &words).unwrap(), code, "{path}");
        }
        // DNS is not spoken to a server of requests, nor the other way round.
        let refused = asked(&other, (IpAddr::V4(web.v4), "5353"), &words).unwrap();
        assert!(
            refused.iter().all(|answer| !answer.contains("198.18.0.1")),
            "{refused:?}"
        );
        let url = format!("http://{}:5353/ok", dns.v4);
        assert!(client.check("curl", &["-s", "-m", "2", &url]).is_err());
    };
    check();
    daemon.end_with("KILL").unwrap();
    daemon.start(&[]).unwrap();
    assert!(
        known_ports(&daemon).contains("5353"),
        "{}",
        known_ports(&daemon)
    );
    check();
}

#[test]
fn a_cgroup_asks_there_too() {
    let node = Node::new().unwrap();
    let dns = node.workload("dns", 3).unwrap();
    let _knot = Running::knot(&dns.ns, WWW).unwrap();
    let cgroup = Cgroup::new("client").unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    daemon.endpoint(&dns).unwrap();
    daemon
        .endpoint_file("client.yaml", &cgroup.endpoint())
        .unwrap();
    daemon.policy("names.yaml", &names_at(BOTH)).unwrap();
    daemon.start(&[]).unwrap();
    let server = format!("@{}", dns.v4);
    let seen = seen_by(&dns, QUERIES, || {
        for way in ["+notcp", "+tcp"] {
            let ask = |name: &str, form| {
                let words = [
                    "-p", "5353", way, "+tries=1", "+time=2", form, &server, name,
                ];
                cgroup.said(&node, "dig", &words)
            };
            assert_eq!(ask("www.example.com", "+short")?, "198.18.0.1");
            let denied = ask("a.evil.test", "+nocmd")?;
            assert!(denied.contains("status: NXDOMAIN"), "{denied}");
        }
        Ok(())
    })
    .unwrap();
    assert!(seen.contains("www") && !seen.contains("evil"), "{seen}");
    let cache = learned(&daemon);
    assert!(cache.contains("198.18.0.1"), "{cache}");
}
