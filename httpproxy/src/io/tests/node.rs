//! A node of one policy, that keeps what it is told.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use policy::{Direction, EndpointId, LabelSet, Snapshot};
use tokio::net::TcpStream;

use crate::rows::PORT;
use crate::testing::Policies;
use crate::{Host, News, Party, Redirected, Refusal, Scope, Told, TunnelEnded};

pub(crate) struct Node {
    snapshot: Mutex<Arc<Snapshot>>,
    policies: Mutex<Policies>,
    pub(crate) told: Arc<Mutex<Vec<Told>>>,
    pub(crate) refused: Mutex<Vec<Refusal>>,
    pub(crate) tunnels: Mutex<Vec<TunnelEnded>>,
}

impl Node {
    /// With these rules for requests, and a connection of its endpoint.
    pub(crate) fn new(rules: &str) -> (Self, Redirected) {
        let mut policies = Policies::new();
        let (snapshot, endpoint) = policies.snapshot(rules, PORT);
        let node = Self {
            snapshot: Mutex::new(snapshot),
            policies: Mutex::new(policies),
            told: Arc::default(),
            refused: Mutex::default(),
            tunnels: Mutex::default(),
        };
        (node, redirected(endpoint))
    }

    /// The same with a snapshot that was made before; its rules never change.
    pub(crate) fn of((snapshot, endpoint): (Arc<Snapshot>, EndpointId)) -> (Self, Redirected) {
        let node = Self {
            snapshot: Mutex::new(snapshot),
            policies: Mutex::new(Policies::new()),
            told: Arc::default(),
            refused: Mutex::default(),
            tunnels: Mutex::default(),
        };
        (node, redirected(endpoint))
    }

    /// Policy knows the endpoint no longer.
    pub(crate) fn forget_endpoint(&self) {
        let snapshot = self.policies.lock().unwrap().without_endpoints();
        *self.snapshot.lock().unwrap() = snapshot;
    }

    pub(crate) fn change_rules(&self, rules: &str) {
        let (snapshot, _) = self.policies.lock().unwrap().snapshot(rules, PORT);
        *self.snapshot.lock().unwrap() = snapshot;
    }
}

fn redirected(endpoint: EndpointId) -> Redirected {
    Redirected {
        endpoint,
        direction: Direction::Egress,
        protocol: policy::L4Protocol::Tcp,
        client: "10.0.0.2:40000".parse().unwrap(),
        server: format!("192.0.2.7:{PORT}").parse().unwrap(),
    }
}

impl Host for Node {
    /// The runtime's clock, which a test may stop.
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn scope(&self, redirected: &Redirected, _: &mut Option<LabelSet>) -> Scope {
        let snapshot = Arc::clone(&self.snapshot.lock().unwrap());
        Scope {
            parties: vec![Party::Known(snapshot.identity_of(redirected.server.ip()))],
            snapshot,
            port: PORT,
            secrets: Arc::default(),
        }
    }

    fn admits(&self, _: &Redirected) -> bool {
        true
    }

    fn divert(&self, _: &Redirected, client: TcpStream) -> Option<TcpStream> {
        Some(client)
    }

    fn is_endpoint(&self, _: IpAddr) -> bool {
        false
    }

    fn names(&self, _: &Redirected) -> Vec<String> {
        Vec::new()
    }

    fn tell(&self, news: News) {
        match news {
            News::Http(_, told) => self.told.lock().unwrap().push(told),
            News::Refused(refused) => self.refused.lock().unwrap().push(refused.refusal),
            News::Tunnel(tunnel) => self.tunnels.lock().unwrap().push(tunnel.end),
            News::Named(_) => {}
        }
    }
}
