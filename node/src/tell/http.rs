//! The flows of the HTTP proxy.

use std::sync::Arc;

use flow::{Direction, DropReason, Event, Flow, Ip, Verdict};
use httpproxy::{Redirected, Refused, Told};
use policy::L4Protocol;

use super::{Peers, TCP, Teller, l4};
use crate::clock;

/// Policy denied it.
const POLICY_DENIED: u8 = 133;

impl Teller {
    /// The flows of what the HTTP proxy tells.
    pub(crate) fn http(&self, told: &Told) -> Vec<Flow> {
        match told {
            Told::Refused(refused) => vec![self.refused(refused)],
        }
    }

    /// A connection that was refused as a whole: a drop without a message of a protocol.
    fn refused(&self, refused: &Refused) -> Flow {
        let redirected = &refused.redirected;
        let what = Event::Drop {
            reason: DropReason::from_number(POLICY_DENIED),
        };
        let peers = self.redirected_peers(redirected);
        let name = refused.server_name.as_ref().map(|name| format!(": {name}"));
        let log = format!("{}{}", refused.refusal.word(), name.unwrap_or_default());
        Flow {
            time: Some(clock::time_of_day(refused.at)),
            policy_log: vec![Arc::from(log)],
            ..self.of_connection(redirected, &peers, Flow::new(what, Verdict::Dropped))
        }
    }

    /// Who talks to whom over a redirected connection.
    fn redirected_peers(&self, redirected: &Redirected) -> Peers {
        let (client, server) = (redirected.client, redirected.server);
        let endpoint = redirected.endpoint;
        match redirected.direction {
            policy::Direction::Egress => self.peers(endpoint, (client, server), L4Protocol::Tcp),
            policy::Direction::Ingress => {
                let (other, names) = self.peer_of(Some(endpoint), client.ip(), None);
                Peers {
                    source: other,
                    destination: self.local(endpoint.get(), server.ip()),
                    source_names: names,
                    destination_names: Vec::new(),
                }
            }
        }
    }

    /// Fills in what is the same for all flows of a connection, from its client to its server.
    fn of_connection(&self, redirected: &Redirected, peers: &Peers, flow: Flow) -> Flow {
        let (client, server) = (redirected.client, redirected.server);
        Flow {
            ip: Some(Ip::new(client.ip(), server.ip())),
            l4: l4(TCP, (client.port(), server.port()), None),
            traffic_direction: match redirected.direction {
                policy::Direction::Egress => Direction::Egress,
                policy::Direction::Ingress => Direction::Ingress,
            },
            ..self.between(peers, flow)
        }
    }
}
