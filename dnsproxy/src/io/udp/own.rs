//! Queries of the daemon's own, in an endpoint's name: judged, forwarded, learned and told like any other.
//! Nobody waits for their answers.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use bpf_redirect_common::{Kind, Mark};
use fqdn::Name;
use policy::EndpointId;
use rand::RngExt;
use rustix::event::{EventfdFlags, eventfd};

use super::{BATCH, Outgoing, UdpWorker};
use crate::io::host::Host;
use crate::io::waiting::Kept;
use crate::limits::OWN_QUERIES_MAX;
use crate::question::HEADER_OCTETS;

/// Hands such queries to a worker of the gate: what it asks, it asks at the port that it listens on.
#[derive(Clone)]
pub struct Own {
    queue: Arc<Mutex<VecDeque<Kept>>>,
    wake: Arc<OwnedFd>,
}

/// What is asked, of whom and for whom.
#[derive(Clone, Copy, Debug)]
pub struct OwnQuery<'a> {
    /// In whose name.
    pub endpoint: EndpointId,
    /// From which of its addresses.
    pub client: IpAddr,
    /// The server; its port is the one that the worker listens on.
    pub server: IpAddr,
    /// For which name.
    pub name: &'a Name,
    /// A record type.
    pub qtype: u16,
}

/// The port from which the daemon asks: no program can have it.
pub(super) const OWN_PORT: u16 = 0;
const RECURSION_DESIRED: u8 = 1;
const CLASS_IN: u16 = 1;

impl Own {
    pub(super) fn new() -> std::io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            queue: Arc::default(),
            wake: Arc::new(wake),
        })
    }

    /// Has it asked; `false` if too many wait.
    #[must_use]
    pub fn ask(&self, query: &OwnQuery<'_>) -> bool {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() >= OWN_QUERIES_MAX {
            return false;
        }
        let id: [u8; 2] = rand::rng().random();
        let mut bytes = Vec::with_capacity(HEADER_OCTETS + query.name.as_wire().len() + 4);
        bytes.extend(id);
        bytes.extend([RECURSION_DESIRED, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        bytes.extend(query.name.as_wire());
        bytes.extend(query.qtype.to_be_bytes());
        bytes.extend(CLASS_IN.to_be_bytes());
        queue.push_back(Kept {
            peer: SocketAddr::new(query.client, OWN_PORT),
            local: query.server,
            mark: Mark::new(Kind::Client, query.endpoint.get()),
            since_ns: 0, // nobody waits for it
            bytes,
        });
        // A full counter means that it will wake.
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
        true
    }

    pub(super) fn waker(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    fn take(&self) -> Vec<Kept> {
        let mut counter = [0; 8];
        let _ = rustix::io::read(&*self.wake, &mut counter);
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.drain(..).collect()
    }
}

impl<H: Host> UdpWorker<H> {
    /// By which it is given queries of the daemon's own.
    #[must_use]
    pub fn own(&self) -> Own {
        self.own.clone()
    }

    pub(super) fn ask_own(&mut self, out: &mut Outgoing) {
        for batch in self.own.take().chunks(BATCH) {
            self.ask_all(batch, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_of_our_own_is_one_that_passes_the_gates_and_they_are_bounded() {
        let own = Own::new().unwrap();
        let name = Name::from_text("web.example.com").unwrap();
        let query = OwnQuery {
            endpoint: EndpointId::new(7).unwrap(),
            client: "10.0.0.2".parse().unwrap(),
            server: "10.0.0.53".parse().unwrap(),
            name: &name,
            qtype: 28,
        };
        for _ in 0..OWN_QUERIES_MAX {
            assert!(own.ask(&query));
        }
        assert!(!own.ask(&query));
        let taken = own.take();
        assert_eq!(taken.len(), OWN_QUERIES_MAX);
        let asked = taken[0].datagram();
        assert_eq!(asked.peer, "10.0.0.2:0".parse().unwrap());
        assert_eq!(asked.mark.unwrap().endpoint(), 7);
        let gated = crate::gate_query(asked.bytes, policy::L4Protocol::Udp);
        assert!(gated.is_ok());
        assert!(own.take().is_empty() && own.ask(&query));
    }
}
