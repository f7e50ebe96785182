//! Octets that pass from one socket to the other without being seen: through a pipe of a common store.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::Interest;
use tokio::net::TcpStream;
use transport::Pipe;

use crate::limits::PIPES_MAX;

/// Pipes that nobody uses are kept up to so many; to make one costs more than to keep it.
const SPARE_MAX: usize = 16;

/// The pipes of all connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Pipes(Arc<Mutex<Store>>);

#[derive(Debug, Default)]
struct Store {
    spare: Vec<Pipe>,
    in_use: usize,
}

/// One direction of a connection, while it has a pipe.
#[derive(Debug)]
pub(super) struct Lane {
    /// There until the end.
    pipe: Option<Pipe>,
    pipes: Pipes,
}

/// What became of a try to move something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moving {
    /// So many octets were written.
    Wrote(u64),
    /// Something was read, and nothing can be written now.
    Held,
    /// Nothing is there, or nothing can be written.
    Nothing,
    /// The sender has ended.
    Ended,
    /// The sender is gone.
    NoSender,
    /// The receiver is gone.
    NoReceiver,
}

impl Pipes {
    /// A pipe, if there is one to be had.
    pub(super) fn lane(&self) -> Option<Lane> {
        let mut store = self.store();
        if store.in_use >= PIPES_MAX {
            return None;
        }
        let pipe = store.spare.pop().map_or_else(Pipe::new, Ok).ok()?;
        store.in_use += 1;
        Some(Lane {
            pipe: Some(pipe),
            pipes: self.clone(),
        })
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    /// How many octets it holds.
    pub(super) fn held(&self) -> u64 {
        self.pipe.as_ref().map_or(0, |pipe| pipe.held() as u64)
    }

    /// Reads, if nothing is held, up to `most` octets, and writes.
    pub(super) fn turn(&mut self, from: &TcpStream, to: &TcpStream, most: u64) -> Moving {
        let Some(pipe) = &mut self.pipe else {
            return Moving::Nothing;
        };
        let was_empty = pipe.held() == 0;
        if was_empty {
            match from.try_io(Interest::READABLE, || pipe.fill(from.as_fd(), most)) {
                Ok(0) => return Moving::Ended,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Moving::Nothing,
                Err(_) => return Moving::NoSender,
            }
        }
        match to.try_io(Interest::WRITABLE, || pipe.empty(to.as_fd())) {
            Ok(count) => Moving::Wrote(count as u64),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Moving::NoReceiver,
            Err(_) if was_empty => Moving::Held,
            Err(_) => Moving::Nothing,
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let mut store = self.pipes.store();
        store.in_use = store.in_use.saturating_sub(1);
        // One with something in it must not come into other hands.
        let pipe = self.pipe.take().filter(|pipe| pipe.held() == 0);
        if let Some(pipe) = pipe.filter(|_| store.spare.len() < SPARE_MAX) {
            store.spare.push(pipe);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::testing::pair;

    #[tokio::test]
    async fn pipes_are_bounded_and_one_that_holds_something_is_never_used_again() {
        let pipes = Pipes::default();
        let mut lanes: Vec<Lane> = (0..PIPES_MAX).map(|_| pipes.lane().unwrap()).collect();
        assert!(pipes.lane().is_none(), "the next one copies");
        let (mut client, from) = pair().await;
        let (to, _server) = pair().await;
        client.write_all(b"secret").await.unwrap();
        from.readable().await.unwrap();
        let lane = lanes.first_mut().unwrap();
        lane.pipe.as_mut().unwrap().fill(from.as_fd(), 3).unwrap();
        assert_eq!(lane.held(), 3);
        lanes.clear();
        assert_eq!(pipes.store().spare.len(), SPARE_MAX);
        assert!(pipes.store().spare.iter().all(|pipe| pipe.held() == 0));
        let mut lane = pipes.lane().unwrap();
        to.writable().await.unwrap();
        assert_eq!(lane.turn(&from, &to, 2), Moving::Wrote(2), "the rest of it");
        assert_eq!(pipes.store().in_use, 1);
    }

    #[tokio::test]
    async fn a_slow_receiver_holds_no_more_than_a_pipe() {
        let (mut client, from) = pair().await;
        let (to, mut server) = pair().await;
        let mut lane = Pipes::default().lane().unwrap();
        let sent = tokio::spawn(async move {
            client.write_all(&vec![1; 8 << 20]).await.unwrap();
        });
        let (mut got, mut room) = (0, vec![0; 100 << 10]);
        let mut wrote = 0;
        while got < 8 << 20 {
            from.readable().await.unwrap();
            while let Moving::Wrote(count) = lane.turn(&from, &to, u64::MAX) {
                wrote += count;
            }
            assert!(lane.held() <= transport::PIPE_OCTETS_MAX as u64);
            if wrote > got {
                got += server.read(&mut room).await.unwrap() as u64;
            } else {
                tokio::task::yield_now().await;
            }
        }
        sent.await.unwrap();
        from.readable().await.unwrap();
        assert_eq!(lane.turn(&from, &to, u64::MAX), Moving::Ended);
        assert_eq!((wrote, lane.held()), (8 << 20, 0));
    }
}
