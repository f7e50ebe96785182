//! A client, the proxy and a raw server, each with sockets of its own.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::node::Node;
use crate::core::step::Settings;
use crate::io::connection::Connection;
use crate::io::server::Ends;
use crate::io::stream::Stream;
use crate::rows::Server;
use crate::testing::{pair, word};
use crate::{Proxy, Redirected, Refusal};

/// How long a test waits for what must come.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What is between a client and its server.
pub(super) struct Stage {
    pub(super) client: TcpStream,
    pub(super) server: Option<TcpStream>,
    pub(super) proxy: Arc<Proxy<Node>>,
    served: JoinHandle<()>,
}

/// What one side has got, as it comes.
pub(super) type Got = Arc<Mutex<Vec<u8>>>;

impl Stage {
    pub(super) async fn new((node, redirected): (Node, Redirected)) -> Self {
        let settings = Settings::default();
        Self::between((node, redirected), (pair().await, pair().await), settings)
    }

    /// With these sockets: the client's and that of its connection here, and the two of the server's.
    pub(super) fn between(
        (node, redirected): (Node, Redirected),
        ((client, near), (far, server)): ((TcpStream, TcpStream), (TcpStream, TcpStream)),
        settings: Settings,
    ) -> Self {
        let proxy = Arc::new(Proxy::new(node, 0, settings));
        let ends = Ends {
            stop: CancellationToken::new(),
            cut: CancellationToken::new(),
        };
        let place = proxy.places.take(redirected.endpoint).unwrap();
        let sides = (near, Some(Stream::plain(far)));
        let connection = Connection::new(&proxy, (redirected, place), sides, &ends);
        Self {
            client,
            server: Some(server),
            proxy,
            served: tokio::spawn(connection.run()),
        }
    }

    /// Lets the server answer and take note of all; says at its end how that came.
    pub(super) fn record(&mut self, server: Server) -> (Got, JoinHandle<char>) {
        let got = Got::default();
        let stream = self.server.take().unwrap();
        let recording = record(stream, server, Arc::clone(&got));
        (got, tokio::spawn(recording))
    }

    /// What was told of the connection, once it is over.
    pub(super) async fn told(self) -> Vec<String> {
        drop(self.client);
        drop(self.server);
        let served = tokio::time::timeout(PATIENCE, self.served).await;
        served.expect("the connection ends").unwrap();
        let host = &self.proxy.host;
        let mut told: Vec<String> = host.told.lock().unwrap().iter().map(word).collect();
        for refusal in &*host.refused.lock().unwrap() {
            // As the core has it.
            let is_unasked = matches!(refusal, Refusal::Unasked);
            let word = if is_unasked {
                "unasked"
            } else {
                refusal.word()
            };
            told.push(word.to_owned());
        }
        told
    }
}

async fn record(mut stream: TcpStream, server: Server, got: Got) -> char {
    let mut unread = Vec::new();
    let mut room = [0; 4096];
    let mut is_over = false;
    loop {
        let count = match read(&mut stream, &mut room).await {
            Ok(0) => return 'c',
            Ok(count) => count,
            Err(_) => return 'R',
        };
        got.lock().unwrap().extend(&room[..count]);
        unread.extend(&room[..count]);
        while let Some((seen, octets)) = server.read(&unread).filter(|_| !is_over) {
            unread.drain(..octets);
            let reaction = (server.script)(&seen);
            // A proxy that is gone shows at the next read.
            let _ = stream.write_all(&reaction.bytes).await;
            if reaction.closes {
                is_over = true;
                let _ = stream.shutdown().await;
            }
        }
    }
}

/// Reads once.
pub(super) async fn read(stream: &mut TcpStream, room: &mut [u8]) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        match stream.try_read(room) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

/// Reads until it is enough: then none; or how the connection ended before.
pub(super) async fn read_until(
    stream: &mut TcpStream,
    got: &mut Vec<u8>,
    is_enough: impl Fn(&[u8]) -> bool,
) -> Option<char> {
    let mut room = [0; 4096];
    let reading = async {
        while !is_enough(got) {
            match read(stream, &mut room).await {
                Ok(0) => return Some('c'),
                Ok(count) => got.extend(&room[..count]),
                Err(_) => return Some('R'),
            }
        }
        None
    };
    let timed = tokio::time::timeout(PATIENCE, reading).await;
    timed.unwrap_or(Some('?'))
}
