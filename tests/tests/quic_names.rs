//! QUIC judged by the server name in its first datagrams (`--quic sni`): a client and a server that speak it.

#![expect(clippy::unwrap_used, reason = "a test may die")]
#![expect(clippy::disallowed_methods, reason = "a workload's own sockets")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use namegate_tests::{
    Authority, Daemon, Issued, Running, Web, Workload, about, about_alice, observed, patience,
};
use quinn::rustls::RootCertStore;
use quinn::rustls::pki_types::pem::PemObject;
use quinn::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use quinn::{ClientConfig, Connection, Endpoint, EndpointConfig, ServerConfig, TokioRuntime};
use tokio::runtime::Runtime;

/// Two names over TCP, and so over QUIC.
const NAMED: &str =
    "{toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: [ok.test, also.test]}]}";
const ONE: &str = "{toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: [also.test]}]}";
const NAMES: [&str; 3] = ["ok.test", "also.test", "evil.test"];

/// A workload's endpoint of QUIC.
struct Peer {
    endpoint: Endpoint,
    /// Who has begun a connection with it.
    callers: Arc<Mutex<Vec<SocketAddr>>>,
}

fn endpoint(of: &Workload, at: SocketAddr, config: Option<ServerConfig>) -> Endpoint {
    let socket = of.ns.run(|| UdpSocket::bind(at)).unwrap().unwrap();
    let runtime = Arc::new(TokioRuntime);
    Endpoint::new(EndpointConfig::default(), config, socket, runtime).unwrap()
}

/// Says everything back.
fn server(of: &Workload, issued: &Issued) -> Peer {
    let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    let config = ServerConfig::with_single_cert(vec![certificate], key).unwrap();
    let peer = Peer {
        endpoint: endpoint(of, "[::]:443".parse().unwrap(), Some(config)),
        callers: Arc::default(),
    };
    let (endpoint, callers) = (peer.endpoint.clone(), Arc::clone(&peer.callers));
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            callers.lock().unwrap().push(incoming.remote_address());
            tokio::spawn(async move {
                let connection = incoming.await?;
                loop {
                    let (mut send, mut receive) = connection.accept_bi().await?;
                    let said = receive.read_to_end(1 << 20).await?;
                    send.write_all(&said).await?;
                    send.finish()?;
                }
                #[expect(unreachable_code, reason = "names the type of errors")]
                Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
            });
        }
    });
    peer
}

fn client(of: &Workload, ip: IpAddr, authority: &Authority) -> Endpoint {
    let any = if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let mut roots = RootCertStore::empty();
    let trusted = CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap();
    roots.add(trusted).unwrap();
    let mut endpoint = endpoint(of, any.parse().unwrap(), None);
    let config = ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
    endpoint.set_default_client_config(config);
    endpoint
}

async fn call(from: &Endpoint, to: SocketAddr, name: &str) -> Option<Connection> {
    let calling = from.connect(to, name).unwrap();
    let wait = Duration::from_millis(1_500) * patience();
    tokio::time::timeout(wait, calling).await.ok()?.ok()
}

/// What comes back of so many octets.
async fn say(over: &Connection, octets: usize) -> Option<usize> {
    let exchange = async {
        let (mut send, mut receive) = over.open_bi().await.ok()?;
        send.write_all(&vec![7; octets]).await.ok()?;
        send.finish().ok()?;
        Some(receive.read_to_end(1 << 20).await.ok()?.len())
    };
    let wait = Duration::from_secs(3) * patience();
    tokio::time::timeout(wait, exchange).await.ok()?
}

fn runtime() -> Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap()
}

fn guarded<'a>(web: &'a Web) -> Daemon<'a> {
    let mut daemon = Daemon::prepare(&web.node).unwrap();
    daemon.endpoint(&web.alice).unwrap();
    daemon.policy("alice.yaml", &about_alice(NAMED)).unwrap();
    daemon.start(&["--quic", "sni"]).unwrap();
    daemon
}

#[test]
fn a_name_that_is_allowed_passes_in_both_families_and_of_another_no_octet_arrives() {
    let web = Web::new().unwrap();
    let daemon = guarded(&web);
    let authority = Authority::new("quic").unwrap();
    let issued = authority.issue(&NAMES).unwrap();
    runtime().block_on(async {
        let there = server(&web.world, &issued);
        for ip in [IpAddr::from(web.world.v4), web.world.v6.into()] {
            let to = SocketAddr::new(ip, 443);
            let from = client(&web.alice, ip, &authority);
            for name in ["ok.test", "also.test"] {
                let connection = call(&from, to, name).await.expect(name);
                assert_eq!(say(&connection, 300_000).await, Some(300_000), "{name}");
                connection.close(0_u32.into(), b"");
            }
            let ok = call(&from, to, "ok.test").await.unwrap();
            let heard = there.callers.lock().unwrap().len();
            let (capture, file) = Running::capture(&web.world.ns, "udp port 443").unwrap();
            let fresh = client(&web.alice, ip, &authority);
            assert!(call(&fresh, to, "evil.test").await.is_none());
            // In a flow that is open, another connection must name what may be named too; those that do go on.
            assert!(call(&from, to, "evil.test").await.is_none());
            assert_eq!(say(&ok, 1).await, Some(1));
            let read = ["-n", "-r", &file.display().to_string()];
            let seen = web.world.check("tcpdump", &read).unwrap();
            drop(capture);
            // What begins a connection has that length, and little else.
            let lines = seen.lines().filter(|line| line.contains("length 1200"));
            assert_eq!(lines.count(), 0, "{seen}");
            assert_eq!(there.callers.lock().unwrap().len(), heard);
        }
    });
    let told = observed(&daemon, &["--verdict", "DROPPED", "-o", "json"]).unwrap();
    for word in ["sni-not-allowed: evil.test", "\"UDP\""] {
        assert!(told.contains(word), "{word}: {told}");
    }
}

#[test]
fn a_policy_change_cuts_what_it_no_longer_allows_and_nothing_else() {
    let web = Web::new().unwrap();
    let daemon = guarded(&web);
    let authority = Authority::new("quic").unwrap();
    let issued = authority.issue(&NAMES).unwrap();
    runtime().block_on(async {
        let _there = server(&web.world, &issued);
        let ip = IpAddr::from(web.world.v4);
        let to = SocketAddr::new(ip, 443);
        let from = [(); 2].map(|()| client(&web.alice, ip, &authority));
        let [first, second] = &from;
        let ok = call(first, to, "ok.test").await.unwrap();
        let also = call(second, to, "also.test").await.unwrap();
        daemon
            .change_policy("alice.yaml", &about_alice(ONE))
            .unwrap();
        assert_eq!(say(&also, 5_000).await, Some(5_000));
        assert_eq!(say(&ok, 5_000).await, None);
        let told = observed(&daemon, &["-o", "json"]).unwrap();
        assert_eq!(told.matches("policy-changed").count(), 1, "{told}");

        // TLS over TCP may have that name still.
        let deny = "egressDeny: [{toPorts: [{ports: [{port: '443', protocol: UDP}]}]}]";
        let rules = about("alice", &format!("egress: [{ONE}], {deny}"));
        daemon.change_policy("alice.yaml", &rules).unwrap();
        assert_eq!(say(&also, 5_000).await, None);
    });
    let told = observed(&daemon, &["-o", "json", "--last", "500"]).unwrap();
    assert_eq!(told.matches("policy-changed").count(), 2, "{told}");
}

#[test]
fn what_is_no_quic_that_can_be_read_goes_nowhere() {
    let web = Web::new().unwrap();
    let daemon = guarded(&web);
    let (capture, file) = Running::capture(&web.world.ns, "udp port 443").unwrap();
    let to = SocketAddr::new(web.world.v4.into(), 443);
    let short = [
        &[0x40; 1_200][..],
        &[0xc3; 1_200],
        &[0; 40],
        b"\x80\x1a\x2a\x3a\x4a",
    ];
    for datagram in short {
        let socket = web.alice.ns.run(|| UdpSocket::bind("0.0.0.0:0"));
        let socket = socket.unwrap().unwrap();
        for _ in 0..3 {
            socket.send_to(datagram, to).unwrap();
        }
    }
    let told = observed(&daemon, &["--verdict", "DROPPED", "-o", "json"]).unwrap();
    let read = ["-n", "-r", &file.display().to_string()];
    let seen = web.world.check("tcpdump", &read).unwrap();
    drop(capture);
    assert_eq!(seen, "");
    assert_eq!(told.matches("malformed-client-hello").count(), 4, "{told}");
}

#[test]
fn a_server_that_speaks_first_opens_no_way_round() {
    let web = Web::new().unwrap();
    let mut daemon = Daemon::prepare(&web.node).unwrap();
    daemon.endpoint(&web.alice).unwrap();
    let rules = about(
        "alice",
        &format!("ingress: [{{fromEntities: [all]}}], egress: [{NAMED}]"),
    );
    daemon.policy("alice.yaml", &rules).unwrap();
    daemon.start(&["--quic", "sni"]).unwrap();
    let socket = |of: &Workload, port: u16| {
        let at = SocketAddr::new(of.v4.into(), port);
        let socket = of.ns.run(|| UdpSocket::bind(at)).unwrap().unwrap();
        let wait = Duration::from_secs(1) * patience();
        socket.set_read_timeout(Some(wait)).unwrap();
        socket
    };
    let (alice, bob) = (socket(&web.alice, 5_000), socket(&web.bob, 443));
    bob.send_to(b"hello", alice.local_addr().unwrap()).unwrap();
    let (_, from) = alice.recv_from(&mut [0; 9]).unwrap();
    assert_eq!(from, bob.local_addr().unwrap());
    alice.send_to(b"what no name is said in", from).unwrap();
    bob.recv_from(&mut [0; 99]).unwrap_err();
    assert!(
        observed(&daemon, &["-o", "json"])
            .unwrap()
            .contains("malformed-client-hello")
    );
}
