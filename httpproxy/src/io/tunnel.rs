//! Octets both ways, as they come.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::stream::Stream;
use crate::limits::{RECORD_OCTETS_MAX, TUNNEL_IDLE_MAX, TUNNEL_OCTETS_MAX};

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
    sides: (&mut Stream, &mut Stream),
    (first, answered): (&[u8], &[u8]),
    moved: &Moved,
) -> io::Result<()> {
    let both = async {
        if let (Some(client), Some(server)) = (sides.0.as_plain(), sides.1.as_plain()) {
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.split();
            return tokio::try_join!(
                pump((from_client, to_server), first, &moved.up),
                pump((from_server, to_client), answered, &moved.down),
            );
        }
        let (from_client, to_client) = tokio::io::split(sides.0);
        let (from_server, to_server) = tokio::io::split(sides.1);
        tokio::try_join!(
            pump_content((from_client, to_server), first, &moved.up),
            pump_content((from_server, to_client), answered, &moved.down),
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

/// The same where one side is TLS.
async fn pump_content(
    (mut from, mut to): (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
    first: &[u8],
    moved: &AtomicU64,
) -> io::Result<()> {
    to.write_all(first).await?;
    to.flush().await?;
    moved.fetch_add(first.len() as u64, Ordering::Relaxed);
    let mut octets = vec![0; RECORD_OCTETS_MAX];
    loop {
        let count = from.read(&mut octets).await?;
        let read = octets.get(..count).unwrap_or_default();
        if read.is_empty() {
            return to.shutdown().await;
        }
        to.write_all(read).await?;
        to.flush().await?;
        moved.fetch_add(count as u64, Ordering::Relaxed);
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
