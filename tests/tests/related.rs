//! ICMP errors about a workload's own flows: they pass where nothing else may come in, or go out.

#![expect(clippy::unwrap_used, reason = "a test may die")]
#![expect(clippy::disallowed_methods, reason = "a workload's own sockets")]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use namegate_tests::{Answers, Daemon, Node, Workload, patience};
use transport::NetNs;

const PORT: u16 = 8_080;

/// `client` may reach one port of the world, and nothing may come in.
const CLIENT: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: client}
spec:
  endpointSelector: {matchLabels: {app: client}}
  ingress: [{}]
  egress:
  - toCIDR: [203.0.113.2/32, '2001:db8::2/128', 192.0.2.2/32, '2001:db8:2::2/128']
    toPorts:
    - ports: [{port: '8080', protocol: ANY}]
";

/// One port of `server` may be reached, and nothing may go out.
const SERVER: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: server}
spec:
  endpointSelector: {matchLabels: {app: server}}
  egress: [{}]
  ingress:
  - toPorts:
    - ports: [{port: '8080', protocol: ANY}]
";

fn guarding<'a>(node: &'a Node, workload: &Workload, policy: &str) -> Daemon<'a> {
    let mut daemon = Daemon::prepare(node).unwrap();
    daemon.endpoint(workload).unwrap();
    daemon.policy("policy.yaml", policy).unwrap();
    daemon.start(&[]).unwrap();
    daemon
}

/// Takes one connection and says how much came by it.
fn sink(at: &NetNs, own: IpAddr) -> std::thread::JoinHandle<usize> {
    let listener = at.run(|| TcpListener::bind((own, PORT)).unwrap()).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let wait = Some(Duration::from_secs(5) * patience());
        stream.set_read_timeout(wait).unwrap();
        let (mut total, mut buffer) = (0, vec![0; 65_536]);
        while let Ok(len @ 1..) = stream.read(&mut buffer) {
            total += len;
        }
        total
    })
}

/// A server beyond a router elsewhere, 192.0.2.2 and 2001:db8:2::2, by a link that takes 1300 octets. The
/// server knows nothing of that: it says that it takes segments of 1460.
fn behind(node: &Node, router: &Workload) -> Workload {
    let far = node.workload("far", 9).unwrap();
    let path = far.ns_path().display().to_string();
    let inside = |at: &Workload, args: &str| {
        let args: Vec<&str> = args.split(' ').collect();
        at.check("ip", &args).unwrap()
    };
    let link = "link add narrow mtu 1300 type veth peer name narrow mtu 1500 netns";
    inside(router, &format!("{link} {path}"));
    for (at, n) in [(router, 1), (&far, 2)] {
        inside(at, &format!("address add 192.0.2.{n}/24 dev narrow"));
        inside(
            at,
            &format!("address add 2001:db8:2::{n}/64 dev narrow nodad"),
        );
        inside(at, "link set narrow up");
    }
    inside(&far, "route replace default via 192.0.2.1");
    inside(&far, "route replace default via 2001:db8:2::1");
    for key in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
        router.check("sysctl", &["-qw", key]).unwrap();
    }
    let route = ["route", "add", "2001:db8:2::/64", "via", "2001:db8::2"];
    node.check("ip", &route).unwrap();
    far
}

/// The router says by ICMP that a packet is too large; a sender that doesn't hear it sends it for ever.
/// Not the node's own word: the node may reach every workload.
#[test]
fn a_direct_upload_learns_the_paths_mtu_under_a_closed_ingress() {
    const OCTETS: usize = 300_000;
    let node = Node::new().unwrap();
    let client = node.workload("client", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let far = behind(&node, &world);
    let _daemon = guarding(&node, &client, CLIENT);
    for server in ["192.0.2.2", "2001:db8:2::2"] {
        let server: IpAddr = server.parse().unwrap();
        let sink = sink(&far.ns, server);
        let upload = || {
            let to = SocketAddr::new(server, PORT);
            let mut stream =
                TcpStream::connect_timeout(&to, Duration::from_secs(2) * patience()).unwrap();
            let wait = Some(Duration::from_secs(5) * patience());
            stream.set_write_timeout(wait).unwrap();
            stream.write_all(&vec![7; OCTETS])
        };
        let written = client.ns.run(upload).unwrap();
        assert_eq!(sink.join().unwrap(), OCTETS, "{server}: {written:?}");
        // Told, and not by a path that was wide enough.
        let args = ["route", "get", &server.to_string()];
        let route = client.check("ip", &args).unwrap();
        assert!(route.contains("mtu 1300"), "{route}");
    }
}

/// Sends a datagram to a port where nobody listens, and gives what the sender hears of it.
fn is_refused(from: &NetNs, to: IpAddr) -> bool {
    let ask = || {
        let any: IpAddr = match to {
            IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.connect((to, PORT)).unwrap();
        let wait = Some(Duration::from_secs(2) * patience());
        socket.set_read_timeout(wait).unwrap();
        socket.send(b"anybody?").unwrap();
        let error = socket.recv(&mut [0; 16]).unwrap_err();
        error.kind() == ErrorKind::ConnectionRefused
    };
    from.run(ask).unwrap()
}

#[test]
fn a_client_hears_that_nobody_listens_under_a_closed_ingress() {
    let node = Node::new().unwrap();
    let client = node.workload("client", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let _daemon = guarding(&node, &client, CLIENT);
    for server in [IpAddr::from(world.v4), world.v6.into()] {
        assert!(is_refused(&client.ns, server), "{server}");
    }
    // Of what it never sent it hears nothing.
    assert!(!pings(&world, &client));
}

#[test]
fn a_server_tells_that_nobody_listens_under_a_closed_egress() {
    let node = Node::new().unwrap();
    let server = node.workload("server", 2).unwrap();
    let peer = node.workload("peer", 3).unwrap();
    let _daemon = guarding(&node, &server, SERVER);
    for own in [IpAddr::from(server.v4), server.v6.into()] {
        assert!(is_refused(&peer.ns, own), "{own}");
    }
    assert!(!pings(&server, &peer));
}

fn pings(from: &Workload, to: &Workload) -> bool {
    let to = to.v4.to_string();
    let output = from.output("ping", &["-c1", "-W1", &to]).unwrap();
    output.status.success()
}

/// Sends a datagram that no link takes whole, and gives whether it came back as it was.
fn comes_back(from: &NetNs, to: SocketAddr) -> bool {
    const OCTETS: usize = 4_000;
    let ask = || {
        let any: IpAddr = match to {
            SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        let wait = Some(Duration::from_secs(1) * patience());
        socket.set_read_timeout(wait).unwrap();
        socket.send_to(&[7; OCTETS], to).unwrap();
        let mut buffer = vec![0; 65_536];
        socket.recv(&mut buffer).is_ok_and(|len| len == OCTETS)
    };
    from.run(ask).unwrap()
}

/// Only the first fragment has the port that a rule is about; in either direction, at either end.
#[test]
fn datagrams_in_fragments_pass_where_their_port_may_be_reached() {
    let node = Node::new().unwrap();
    let client = node.workload("client", 2).unwrap();
    let server = node.workload("server", 3).unwrap();
    let peer = node.workload("peer", 4).unwrap();
    let world = node.elsewhere().unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    for (workload, file, policy) in [
        (&client, "client.yaml", CLIENT),
        (&server, "server.yaml", SERVER),
    ] {
        daemon.endpoint(workload).unwrap();
        daemon.policy(file, policy).unwrap();
    }
    daemon.start(&[]).unwrap();
    let _echoes = [
        Answers::echo(&world.ns, PORT).unwrap(),
        Answers::echo(&world.ns, PORT + 1).unwrap(),
        Answers::echo(&server.ns, PORT).unwrap(),
        Answers::echo(&server.ns, PORT + 1).unwrap(),
    ];
    for (from, to) in [(&client, &world), (&peer, &server)] {
        for address in [IpAddr::from(to.v4), to.v6.into()] {
            let at = |port| SocketAddr::new(address, port);
            assert!(comes_back(&from.ns, at(PORT)), "{address}");
            assert!(!comes_back(&from.ns, at(PORT + 1)), "{address}");
        }
    }
    assert!(daemon.counter("fragment-not-found").unwrap() > 0);
}
