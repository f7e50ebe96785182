//! Connections of one way in, as many as it has seats.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::{Stream, StreamExt as _, future};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::Connected;

use crate::limits::CONNECTIONS_MAX;

/// A connection with its seat, which is free again when it ends.
pub(crate) struct Seated<T> {
    io: T,
    _seat: OwnedSemaphorePermit,
}

/// The connections that find a seat; one more than [`CONNECTIONS_MAX`] is closed at once, and told.
pub(crate) fn seated<T>(
    incoming: impl Stream<Item = io::Result<T>>,
    turned_away: impl Fn(),
) -> impl Stream<Item = io::Result<Seated<T>>> {
    let seats = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    incoming.filter_map(move |come| {
        let seat = Arc::clone(&seats).try_acquire_owned();
        let taken = match (come, seat) {
            (Ok(io), Ok(_seat)) => Some(Ok(Seated { io, _seat })),
            (Ok(_), Err(_)) => {
                turned_away();
                None
            }
            (Err(error), _) => Some(Err(error)),
        };
        future::ready(taken)
    })
}

impl<T: Connected> Connected for Seated<T> {
    type ConnectInfo = T::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Seated<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Seated<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, octets)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
