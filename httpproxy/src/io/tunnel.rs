//! Octets both ways, as they come.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use crate::limits::{TUNNEL_IDLE_MAX, TUNNEL_OCTETS_MAX};

/// How many octets went which way.
#[derive(Debug, Default)]
pub(super) struct Moved {
    pub(super) up: AtomicU64,
    pub(super) down: AtomicU64,
}

impl Moved {
    fn sum(&self) -> u64 {
        self.up.load(Ordering::Relaxed) + self.down.load(Ordering::Relaxed)
    }
}

/// Moves octets until both sides have ended, `first` before all others to the server and `answered` to
/// the client. Each end of one direction is handed on by itself.
///
/// # Errors
/// If one side is reset, or nothing moves for too long: then the other is to be reset too.
pub(super) async fn run(
    (client, server): (&mut TcpStream, &mut TcpStream),
    (first, answered): (&[u8], &[u8]),
    moved: &Moved,
) -> io::Result<()> {
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let both = async {
        tokio::try_join!(
            pump((from_client, to_server), first, &moved.up),
            pump((from_server, to_client), answered, &moved.down),
        )
    };
    tokio::select! {
        ended = both => ended.map(drop),
        () = idle(moved) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn pump(
    (from, mut to): (ReadHalf<'_>, WriteHalf<'_>),
    first: &[u8],
    moved: &AtomicU64,
) -> io::Result<()> {
    to.write_all(first).await?;
    moved.fetch_add(first.len() as u64, Ordering::Relaxed);
    loop {
        from.readable().await?;
        // Only while there is something to move: an idle tunnel holds no room for octets.
        let mut octets = Vec::with_capacity(TUNNEL_OCTETS_MAX);
        loop {
            octets.clear();
            match from.try_read_buf(&mut octets) {
                Ok(0) => return to.shutdown().await,
                Ok(count) => {
                    to.write_all(&octets).await?;
                    moved.fetch_add(count as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
}

/// Ends once nothing has moved for [`TUNNEL_IDLE_MAX`].
async fn idle(moved: &Moved) {
    let mut before = moved.sum();
    loop {
        tokio::time::sleep(TUNNEL_IDLE_MAX).await;
        let now = moved.sum();
        if now == before {
            return;
        }
        before = now;
    }
}
