//! The sockets of flows of QUIC, and who hears what servers answer.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bpf_redirect_common::Mark;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use transport::{Datagram, GateUdp, Inbox, Outbox};

use crate::io::access::Redirected;

/// A socket, and by what the reactor knows it.
pub(super) struct Socket {
    pub(super) udp: GateUdp,
    pub(super) watch: UdpSocket,
}

impl Socket {
    pub(super) fn watched(udp: GateUdp) -> io::Result<Self> {
        let same = udp.as_fd().try_clone_to_owned()?;
        let watch = UdpSocket::from_std(same.into())?;
        Ok(Self { udp, watch })
    }

    /// Reads what is there; gives how many datagrams.
    ///
    /// # Errors
    /// If the socket is broken.
    pub(super) fn read(&self, inbox: &mut Inbox) -> io::Result<usize> {
        let read = || match inbox.read(&self.udp)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        };
        match self.watch.try_io(Interest::READABLE, read) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            read => read,
        }
    }
}

/// Room for what comes from servers, for whichever flow reads.
pub(super) struct Back {
    pub(super) inbox: Inbox,
    pub(super) outbox: Outbox,
}

/// What came from a server.
#[derive(Default)]
pub(super) struct Answers {
    pub(super) octets: AtomicU64,
    pub(super) datagrams: AtomicU64,
}

/// Who hears what the server of one flow says.
pub(super) struct Hearing {
    pub(super) near: Arc<Socket>,
    pub(super) far: Arc<Socket>,
    pub(super) redirected: Redirected,
    pub(super) mark: Mark,
    pub(super) heard: Arc<Answers>,
}

impl Hearing {
    pub(super) async fn run(self, back: Arc<Mutex<Back>>) {
        while self.far.watch.readable().await.is_ok() {
            let mut back = back.lock().unwrap_or_else(PoisonError::into_inner);
            // An error is what the network told of a datagram: the next one may come all the same.
            let _ = self.pass(&mut back);
        }
    }

    /// Hands on what is there.
    fn pass(&self, Back { inbox, outbox }: &mut Back) -> io::Result<()> {
        let count = self.far.read(inbox)?;
        for answer in (0..count).filter_map(|index| inbox.get(index)) {
            if answer.peer != self.redirected.server {
                continue; // nobody else was asked
            }
            let datagram = Datagram {
                peer: self.redirected.client,
                local: self.redirected.server.ip(),
                mark: Some(self.mark),
                bytes: answer.bytes,
            };
            if outbox.push(&datagram) {
                let octets = answer.bytes.len() as u64;
                self.heard.octets.fetch_add(octets, Ordering::Relaxed);
                self.heard.datagrams.fetch_add(1, Ordering::Relaxed);
            }
        }
        outbox.flush(&self.near.udp, |_, _| ());
        Ok(())
    }
}
