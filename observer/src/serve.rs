//! The ways in: a unix socket, and TCP with certificates on both sides.

use std::fs;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::{ipv6_v6only, set_socket_keepalive, set_tcp_keepidle};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::service::Routes;
use tonic::transport::{Certificate, Identity, Server as TonicServer, ServerTlsConfig};
use tonic_health::ServingStatus;

use crate::limits::{HANDSHAKE_MAX, REQUEST_OCTETS_MAX};
use crate::proto::observer::observer_server::ObserverServer;
use crate::proto::peer::peer_server::PeerServer;
use crate::seats::seated;
use crate::service::{Node, Place, Service};

/// What the stock command asks the health service for; not the name of the protocol's package.
const HEALTH_NAME: &str = "hubble.server.Observer";

/// Who may use the unix socket: its owner and group.
const SOCKET_MODE: u32 = 0o660;

/// After how long a silent client's kernel is asked whether it is still there. Not the client itself: it may have been
/// stopped, and reads on later.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Files of certificates for TCP, all in PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tls {
    /// Our certificate, and those above it.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities whose clients may come in.
    pub client_ca: PathBuf,
    /// The name in our certificate, as a relay is told it.
    pub server_name: String,
}

/// Why it can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A socket can't be made.
    #[error("{place}: {error}")]
    Listen {
        /// Its path or address.
        place: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// A file of a certificate can't be read.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The certificates can't be used.
    #[error("certificates for {address}: {error}")]
    Certificates {
        /// For which address.
        address: SocketAddr,
        /// Why.
        #[source]
        error: tonic::transport::Error,
    },
}

/// A socket that is open, and what is served on it.
#[derive(Debug)]
pub struct Server {
    service: Service,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Unix(std::os::unix::net::UnixListener),
    Tcp(std::net::TcpListener, Box<ServerTlsConfig>),
}

impl Server {
    /// Opens a unix socket; one that nobody listens at any more is replaced.
    ///
    /// # Errors
    /// If it can't be made there.
    pub fn unix(node: Node, path: &Path) -> Result<Self, ServeError> {
        let place = path.display().to_string();
        let failed = |error| ServeError::Listen { place, error };
        Ok(Self {
            socket: Socket::Unix(listen(path).map_err(failed)?),
            service: Service {
                node,
                place: Place::Unix(format!("unix://{}", path.display())),
                server_name: None,
                streams: Arc::default(),
            },
        })
    }

    /// Opens a TCP socket for clients with a certificate.
    ///
    /// # Errors
    /// If it can't be made, or the files not be used.
    #[expect(
        clippy::disallowed_methods,
        reason = "a socket of the node's own, where clients look for it"
    )]
    pub fn tcp(node: Node, address: SocketAddr, tls: &Tls) -> Result<Self, ServeError> {
        let failed = |error: io::Error| ServeError::Listen {
            place: address.to_string(),
            error,
        };
        let config = ServerTlsConfig::new()
            .identity(Identity::from_pem(read(&tls.certificate)?, read(&tls.key)?))
            .client_ca_root(Certificate::from_pem(read(&tls.client_ca)?))
            .timeout(HANDSHAKE_MAX);
        // Looks into the files, which would else be found wrong only when it is served.
        TonicServer::builder()
            .tls_config(config.clone())
            .map_err(|error| ServeError::Certificates { address, error })?;
        let listener = std::net::TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        // What is accepted has this too.
        set_socket_keepalive(&listener, true).map_err(|error| failed(error.into()))?;
        set_tcp_keepidle(&listener, KEEP_ALIVE).map_err(|error| failed(error.into()))?;
        let bound = listener.local_addr().map_err(failed)?;
        let only_v6 = bound.is_ipv6() && ipv6_v6only(&listener).is_ok_and(|only| only);
        Ok(Self {
            socket: Socket::Tcp(listener, Box::new(config)),
            service: Service {
                node,
                place: Place::Tcp {
                    address: bound,
                    only_v6,
                },
                server_name: Some(tls.server_name.clone()),
                streams: Arc::default(),
            },
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> String {
        self.service.place.to_string()
    }

    /// Serves until `stop`; streams that are open then end.
    ///
    /// # Errors
    /// If the socket can't be used.
    pub async fn run(self, stop: impl Future<Output = ()>) -> io::Result<()> {
        let (reporter, health) = tonic_health::server::health_reporter();
        for name in ["", HEALTH_NAME] {
            reporter
                .set_service_status(name, ServingStatus::Serving)
                .await;
        }
        let flows = Arc::clone(&self.service.node.flows);
        let turned_away = move || flows.turn_away();
        let routes = Routes::new(health)
            .add_service(
                ObserverServer::new(self.service.clone())
                    .max_decoding_message_size(REQUEST_OCTETS_MAX),
            )
            .add_service(
                PeerServer::new(self.service).max_decoding_message_size(REQUEST_OCTETS_MAX),
            );
        let served = async {
            match self.socket {
                Socket::Unix(listener) => {
                    let listener = UnixListenerStream::new(UnixListener::from_std(listener)?);
                    let server = TonicServer::builder().add_routes(routes);
                    let clients = Box::pin(seated(listener, turned_away));
                    server.serve_with_incoming(clients).await
                }
                Socket::Tcp(listener, tls) => {
                    let listener = TcpListenerStream::new(TcpListener::from_std(listener)?);
                    let server = TonicServer::builder().tls_config(*tls);
                    let server = server.map_err(io::Error::other)?.add_routes(routes);
                    let clients = Box::pin(seated(listener, turned_away));
                    server.serve_with_incoming(clients).await
                }
            }
            .map_err(io::Error::other)
        };
        tokio::select! {
            served = served => served,
            () = stop => Ok(()),
        }
    }
}

fn listen(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
        Err(_) => clear_socket(path)?,
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Takes away the file of a socket at which nobody listens any more. Another file is somebody's, and stays.
///
/// # Errors
/// If there is another file, or the file can't be taken away.
pub fn clear_socket(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is a file that is no socket",
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ServeError> {
    fs::read(path).map_err(|error| ServeError::File {
        path: path.to_owned(),
        error,
    })
}
