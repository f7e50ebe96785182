//! QUIC where TCP needs a name: the datagrams are refused, so that clients turn to TCP at once.

#![expect(clippy::unwrap_used, reason = "a test may die")]
#![expect(clippy::disallowed_methods, reason = "a workload's own sockets")]

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use namegate_tests::{Answers, Daemon, Running, Web, Workload, about_alice, observed, patience};

/// TLS by name on 443, and nothing said of UDP.
const NAMED: &str = "{toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: [ok.test]}]}";
/// The same, and datagrams to 443 by another rule.
const BOTH: &str = "{toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: [ok.test]}]}, \
     {toPorts: [{ports: [{port: '443', protocol: UDP}]}]}";

fn guarded<'a>(web: &'a Web, rules: &str, args: &[&str]) -> Daemon<'a> {
    let mut daemon = Daemon::prepare(&web.node).unwrap();
    daemon.endpoint(&web.alice).unwrap();
    daemon.policy("alice.yaml", &about_alice(rules)).unwrap();
    daemon.start(args).unwrap();
    daemon
}

fn client(to: SocketAddr) -> UdpSocket {
    let own = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(own).unwrap();
    socket.connect(to).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    socket
}

/// What a client hears of a datagram that is as large as QUIC's first one.
fn hear(socket: &UdpSocket) -> Result<usize, ErrorKind> {
    let sent = socket.send(&[0xc3; 1_200]);
    let heard = sent.and_then(|_| socket.recv(&mut [0; 2_000]));
    heard.map_err(|error| error.kind())
}

/// The same, and after how long.
fn ask(from: &Workload, to: SocketAddr) -> (Result<usize, ErrorKind>, Duration) {
    let socket = from.ns.run(|| client(to)).unwrap();
    let start = Instant::now();
    (hear(&socket), start.elapsed())
}

fn servers(web: &Web) -> [SocketAddr; 4] {
    let (world, bob) = (&web.world, &web.bob);
    let addresses: [IpAddr; 4] = [
        world.v4.into(),
        world.v6.into(),
        bob.v4.into(),
        bob.v6.into(),
    ];
    addresses.map(|address| SocketAddr::new(address, 443))
}

#[test]
fn a_client_is_told_at_once_in_both_families_and_the_server_hears_nothing() {
    let web = Web::new().unwrap();
    let daemon = guarded(&web, BOTH, &[]);
    let (capture, file) = Running::capture(&web.world.ns, "udp port 443").unwrap();
    for server in servers(&web) {
        let (heard, time) = ask(&web.alice, server);
        assert_eq!(heard, Err(ErrorKind::ConnectionRefused), "{server}");
        assert!(
            time < Duration::from_millis(200) * patience(),
            "{server}: {time:?}"
        );
    }
    // As QUIC's libraries send: several datagrams in one call.
    let several = "import socket\n\
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
        s.setsockopt(17, 103, 1200)\n\
        s.settimeout(2)\n\
        s.connect(('203.0.113.2', 443))\n\
        s.send(b'x' * 6000)\n\
        try: s.recv(1)\n\
        except ConnectionRefusedError: print('refused')\n";
    let said = web.alice.check("python3", &["-c", several]).unwrap();
    assert_eq!(said, "refused\n");

    let to = format!("ok.test:443:{}", web.world.v4);
    let args = ["-sSk", "-m", "5", "--resolve", &to, "https://ok.test/"];
    let over_tcp = web.alice.output("curl", &args).unwrap();
    assert!(over_tcp.status.success(), "{over_tcp:?}");

    std::thread::sleep(Duration::from_millis(200));
    let read = ["-n", "-r", &file.display().to_string()];
    let seen = web.world.check("tcpdump", &read).unwrap();
    drop(capture);
    assert_eq!(seen, "", "the server hears nothing");
    assert!(daemon.counter("name-hidden").unwrap() >= 5);
    assert_eq!(
        daemon.counter("refused").unwrap(),
        daemon.counter("name-hidden").unwrap()
    );
    let told = observed(&daemon, &["--verdict", "DROPPED", "-o", "json"]).unwrap();
    for word in [
        "PROXY_REDIRECTION_NOT_SUPPORTED_FOR_PROTOCOL",
        "\"UDP\"",
        "\"destination_port\":443",
        "egress_denied_by",
    ] {
        assert!(told.contains(word), "{word}: {told}");
    }
}

#[test]
fn what_no_rule_is_about_is_dropped_as_ever_and_a_denial_with_a_name_is_answered() {
    let web = Web::new().unwrap();
    let _daemon = guarded(&web, NAMED, &[]);
    for server in servers(&web) {
        let (heard, _) = ask(&web.alice, server);
        assert_eq!(heard, Err(ErrorKind::ConnectionRefused), "{server}");
    }
    let other = SocketAddr::new(web.world.v4.into(), 8_443);
    assert_eq!(ask(&web.alice, other).0, Err(ErrorKind::WouldBlock));
}

#[test]
fn datagrams_pass_where_they_may_and_where_no_name_is_needed() {
    let web = Web::new().unwrap();
    let _echo = Answers::echo(&web.world.ns, 443).unwrap();
    let server = SocketAddr::new(web.world.v4.into(), 443);
    let mut daemon = guarded(&web, BOTH, &["--quic", "allow"]);
    assert_eq!(ask(&web.alice, server).0, Ok(1_200));
    daemon.end_with("TERM").unwrap();
    daemon.start(&[]).unwrap();
    assert_eq!(ask(&web.alice, server).0, Err(ErrorKind::ConnectionRefused));

    let open = format!("{BOTH}, {{toEntities: [all]}}");
    daemon
        .change_policy("alice.yaml", &about_alice(&open))
        .unwrap();
    let socket = web.alice.ns.run(|| client(server)).unwrap();
    assert_eq!(hear(&socket), Ok(1_200), "TCP needs no name there");
    daemon
        .change_policy("alice.yaml", &about_alice(BOTH))
        .unwrap();
    let heard = hear(&socket);
    assert_eq!(
        heard,
        Err(ErrorKind::ConnectionRefused),
        "a flow that lived ends"
    );
}
