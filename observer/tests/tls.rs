//! Over TCP, both sides show a certificate.

#![expect(clippy::unwrap_used, reason = "a test may die")]
#![expect(clippy::disallowed_methods, reason = "the server's clock")]

mod common;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use observer::limits::HANDSHAKE_MAX;
use observer::proto::observer::observer_client::ObserverClient;
use observer::proto::observer::{GetNodesRequest, ServerStatusRequest};
use observer::proto::peer::NotifyRequest;
use observer::proto::peer::peer_client::PeerClient;
use observer::{Node, NodeAddresses, ServeError, Server, Tls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::AsyncReadExt as _;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

const NAME: &str = "node-1.default.hubble-grpc.cilium.io";

/// An authority.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for a name, and its key.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }
}

fn node() -> Node {
    Node {
        addresses: || NodeAddresses {
            v4: Some([192, 0, 2, 7].into()),
            v6: Some("2001:db8::7".parse().unwrap()),
        },
        ..common::node()
    }
}

fn files(folder: &Path, authority: &Authority) -> Tls {
    let (certificate, key) = authority.issue(NAME);
    let write = |name: &str, text: &str| -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path
    };
    Tls {
        certificate: write("tls.crt", &certificate),
        key: write("tls.key", &key),
        client_ca: write("ca.crt", &authority.pem()),
        server_name: NAME.to_owned(),
    }
}

async fn connect(
    address: &str,
    authority: &Authority,
    identity: Option<(String, String)>,
) -> Result<Channel, tonic::transport::Error> {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(authority.pem()))
        .domain_name(NAME);
    if let Some((certificate, key)) = identity {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
    endpoint.tls_config(tls).unwrap().connect().await
}

#[tokio::test]
async fn only_clients_of_the_authority_come_in() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, other) = (Authority::new(), Authority::new());
    let anywhere: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let server = Server::tcp(node(), anywhere, &files(folder.path(), &authority)).unwrap();
    let address = server.address();
    tokio::spawn(server.run(std::future::pending()));

    let good = connect(&address, &authority, Some(authority.issue("client")));
    let mut client = ObserverClient::new(good.await.unwrap());
    let status = client.server_status(ServerStatusRequest {}).await.unwrap();
    assert_eq!(status.into_inner().version, "0.3.0");
    let nodes = client
        .get_nodes(GetNodesRequest {})
        .await
        .unwrap()
        .into_inner();
    let tls = nodes.nodes[0].tls.as_ref().unwrap();
    assert!(tls.enabled && tls.server_name == NAME, "{tls:?}");

    // TLS 1.3 tells a client only at the first answer that it isn't welcome.
    for identity in [None, Some(other.issue("client"))] {
        let refused = match connect(&address, &authority, identity).await {
            Ok(channel) => {
                let mut client = ObserverClient::new(channel);
                client.server_status(ServerStatusRequest {}).await.is_err()
            }
            Err(_) => true,
        };
        assert!(refused, "a stranger came in");
    }
}

/// A relay dials what it is told, so that is never the address that stands for all.
#[tokio::test]
async fn who_listens_at_all_addresses_tells_one_by_which_it_is_reached() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let nowhere = || Node {
        addresses: NodeAddresses::default,
        ..node()
    };
    let only_v6 = || Node {
        addresses: || NodeAddresses {
            v6: Some("2001:db8::7".parse().unwrap()),
            ..NodeAddresses::default()
        },
        ..node()
    };
    for (node, listens, dialled, expected) in [
        (node(), "127.0.0.1", "127.0.0.1", "127.0.0.1:"),
        (node(), "0.0.0.0", "127.0.0.1", "192.0.2.7:"),
        (node(), "[::]", "[::1]", "192.0.2.7:"),
        (only_v6(), "[::]", "[::1]", "[2001:db8::7]:"),
        (only_v6(), "0.0.0.0", "127.0.0.1", "0.0.0.0:"),
        (nowhere(), "[::]", "[::1]", "[::]:"),
    ] {
        let address: SocketAddr = format!("{listens}:0").parse().unwrap();
        let server = Server::tcp(node, address, &files(folder.path(), &authority)).unwrap();
        let bound: SocketAddr = server.address().parse().unwrap();
        let expected = format!("{expected}{}", bound.port());
        tokio::spawn(server.run(std::future::pending()));
        let dialled = format!("{dialled}:{}", bound.port());
        let identity = Some(authority.issue("client"));
        let channel = connect(&dialled, &authority, identity).await.unwrap();
        let mut observer = ObserverClient::new(channel.clone());
        let nodes = observer.get_nodes(GetNodesRequest {}).await.unwrap();
        let nodes = nodes.into_inner().nodes;
        assert_eq!(nodes[0].address, expected, "{listens}");
        let mut peers = PeerClient::new(channel);
        let mut peers = peers.notify(NotifyRequest {}).await.unwrap().into_inner();
        let peer = peers.message().await.unwrap().unwrap();
        assert_eq!(peer.address, expected, "{listens}");
        assert_eq!(peer.tls.unwrap().server_name, NAME);
    }
}

/// It has no seat for long.
#[tokio::test]
async fn who_shows_no_certificate_in_time_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let anywhere: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let tls = files(folder.path(), &Authority::new());
    let server = Server::tcp(node(), anywhere, &tls).unwrap();
    let bound: SocketAddr = server.address().parse().unwrap();
    tokio::spawn(server.run(std::future::pending()));
    let mut client = tokio::net::TcpStream::connect(bound).await.unwrap();
    let since = tokio::time::Instant::now();
    let ended = tokio::time::timeout(HANDSHAKE_MAX * 4, client.read(&mut [0; 8])).await;
    assert_eq!(ended.unwrap().unwrap_or(0), 0);
    assert!(since.elapsed() >= HANDSHAKE_MAX);
}

#[tokio::test]
async fn files_that_cannot_be_used_are_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let anywhere: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let good = files(folder.path(), &Authority::new());
    let missing = Tls {
        key: folder.path().join("nothing.key"),
        ..good.clone()
    };
    let error = Server::tcp(node(), anywhere, &missing).unwrap_err();
    assert!(error.to_string().contains("nothing.key"), "{error}");
    let no_key = Tls {
        key: good.certificate.clone(),
        ..good
    };
    let error = Server::tcp(node(), anywhere, &no_key).unwrap_err();
    assert!(matches!(error, ServeError::Certificates { .. }), "{error}");
}
