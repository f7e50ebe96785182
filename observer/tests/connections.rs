//! How many may come in at once, and how long they may say nothing.

#![expect(clippy::unwrap_used, reason = "a test may die")]
#![expect(
    clippy::disallowed_methods,
    reason = "a client's own sockets, and the server's clock"
)]

mod common;

use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use observer::Server;
use observer::limits::CONNECTIONS_MAX;

use common::node;

/// A client that says nothing, and whether it was let in.
fn connect(socket: &Path) -> (UnixStream, bool) {
    let mut client = UnixStream::connect(socket).unwrap();
    client
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    // A server of HTTP/2 waits for its client's first word, or closes.
    let is_open = match client.read(&mut [0; 64]) {
        Ok(octets) => octets > 0,
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
    };
    (client, is_open)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_is_closed_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("hubble.sock");
    let node = node();
    let server = Server::unix(node.clone(), &socket).unwrap();
    tokio::spawn(server.run(std::future::pending()));
    let mut clients: Vec<_> = (0..CONNECTIONS_MAX - 1)
        .map(|_| UnixStream::connect(&socket).unwrap())
        .collect();
    let (last, is_open) = connect(&socket);
    assert!(is_open);
    assert_eq!(node.flows.turned_away(), 0);
    let (_, is_open) = connect(&socket);
    assert!(!is_open);
    assert_eq!(node.flows.turned_away(), 1);
    drop(last);
    clients.clear();
    let has_room = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        connect(&socket).1
    });
    assert!(has_room, "whoever goes makes room");
}

#[tokio::test]
async fn what_is_no_socket_stays_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("precious");
    std::fs::write(&path, "data").unwrap();
    let error = Server::unix(node(), &path).unwrap_err().to_string();
    assert!(
        error.contains("precious") && error.contains("no socket"),
        "{error}"
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
    // A socket that nobody listens at is replaced.
    let path = folder.path().join("old.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let server = Server::unix(node(), &path).unwrap();
    assert!(std::fs::metadata(&path).unwrap().file_type().is_socket());
    drop(server);
}
