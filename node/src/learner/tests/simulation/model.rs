//! What the laws call for, said as plainly as can be: lists that are searched, times in milliseconds.

use std::collections::{BTreeMap, BTreeSet};

use dnsproxy::{Ending, Key, Origin};
use policy::EndpointId;

use super::wire;

/// What is asked, and by which index.
pub(super) const NAMES: [&str; 9] = [
    "x.example",
    "y.example",
    "z.example",
    "a.many.example",
    "b.many.example",
    "evil.example",
    "a.x.example",
    "many.example",
    "example",
];
/// The server that may teach, the one that may not, and the one that no rule names.
pub(super) const SERVERS: [&str; 3] = ["10.4.0.53:53", "203.0.113.53:53", "9.9.9.9:53"];

/// A policy: what may be asked of the first server (of the second one everything), and which names
/// open which port; 0 is any.
pub(super) struct Policy {
    may_ask: &'static [usize],
    opens: &'static [(usize, u16)],
    pub(super) asks: &'static str,
    pub(super) fqdns: &'static str,
}

pub(super) const POLICIES: [Policy; 2] = [
    Policy {
        may_ask: &[0, 1, 2, 3, 4],
        opens: &[(0, 0), (1, 443), (3, 0), (4, 0)],
        asks: "{matchName: x.example}, {matchName: y.example}, {matchName: z.example}, {matchPattern: '*.many.example'}",
        fqdns: super::POLICY,
    },
    Policy {
        may_ask: &[0, 2, 3, 4],
        opens: &[(0, 8443), (2, 0), (3, 80)],
        asks: "{matchName: x.example}, {matchName: z.example}, {matchPattern: '*.many.example'}",
        fqdns: "{toFQDNs: [{matchName: x.example}], toPorts: [{ports: [{port: \"8443\", protocol: TCP}]}]}, {toFQDNs: [{matchName: z.example}]}, {toFQDNs: [{matchName: a.many.example}], toPorts: [{ports: [{port: \"80\", protocol: TCP}]}]}",
    },
];

impl Policy {
    /// The ports that a name opens, if any.
    pub(super) fn port_of(&self, name: usize) -> Option<u16> {
        let opens = self.opens.iter().find(|(of, _)| *of == name);
        opens.map(|(_, port)| *port)
    }

    pub(super) fn may_ask(&self, name: usize, server: usize) -> bool {
        match server {
            0 => self.may_ask.contains(&name),
            1 => true,
            _ => false,
        }
    }
}

/// A query that was sent on.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) key: Key,
    pub(super) origin: Origin,
    /// The client's bytes, and their name.
    pub(super) query: Vec<u8>,
    pub(super) name: usize,
    pub(super) deadline_ms: u64,
    /// Messages that pretended to be its answer.
    pub(super) rejected: u8,
    /// How many octets of answer the client takes.
    pub(super) takes: usize,
}

/// A message that comes to a socket of the proxy.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) key: Key,
    pub(super) server: std::net::SocketAddr,
    pub(super) local: std::net::IpAddr,
    pub(super) endpoint: EndpointId,
    pub(super) bytes: Vec<u8>,
    pub(super) says: wire::Says,
}

impl Message {
    /// Whether it says of itself that it is an answer to a plain query.
    pub(super) fn is_response(&self) -> bool {
        self.bytes[2] & 0xf8 == 0x80
    }
}

impl Open {
    /// Whether a message is the answer: from whom it was sent to, to whom it was sent for, in time, and
    /// to the very question.
    pub(super) fn is_answered_by(&self, message: &Message, now_ms: u64) -> bool {
        let is_for_us = message.server == self.origin.server
            && message.local == self.origin.client.ip()
            && message.endpoint == self.origin.endpoint;
        let asks_the_same = message.says == wire::Says::Header
            || wire::question(&message.bytes).eq_ignore_ascii_case(wire::question(&self.query));
        is_for_us && asks_the_same && now_ms < self.deadline_ms
    }

    /// Whether two queries are equal: their client, server, id and question.
    fn is_like(&self, other: &Self) -> bool {
        let what = |one: &Self| {
            let question = wire::question(&one.query).to_ascii_lowercase();
            (
                one.origin.client,
                one.origin.server,
                wire::id(&one.query),
                question,
            )
        };
        what(self) == what(other)
    }
}

/// What an endpoint knows.
#[derive(Default)]
pub(super) struct Known {
    /// By which policy its maps are.
    pub(super) policy: usize,
    pub(super) is_gone: bool,
    /// When an address ends under a name.
    pub(super) ends: BTreeMap<(u8, usize), u64>,
}

impl Known {
    pub(super) fn learn(&mut self, name: usize, answer: &[(u8, u32)], now_ms: u64) {
        for (last, ttl_secs) in answer {
            let life = u64::from(*ttl_secs).clamp(60, 24 * 3600) + 30;
            let end = self.ends.entry((*last, name)).or_default();
            *end = (*end).max(now_ms + 1000 * life);
        }
    }

    /// The ports that are open, by address.
    pub(super) fn open(&self) -> BTreeMap<u8, BTreeSet<u16>> {
        let mut open: BTreeMap<u8, BTreeSet<u16>> = BTreeMap::new();
        for (last, name) in self.ends.keys() {
            let port = POLICIES[self.policy].port_of(*name);
            open.entry(*last).or_default().extend(port);
        }
        open.retain(|_, ports| !ports.is_empty());
        open
    }
}

/// All of it.
#[derive(Default)]
pub(super) struct Model {
    /// The policy that judges queries.
    pub(super) policy: usize,
    /// In the order of asking.
    pub(super) open: Vec<Open>,
    /// How exchanges ended since the records were last looked at.
    pub(super) ended: Vec<Ending>,
    pub(super) known: [Known; 2],
}

/// How many equal queries may wait at once.
const EQUAL_MAX: usize = 4;

impl Model {
    pub(super) fn known(&mut self, endpoint: EndpointId) -> &mut Known {
        &mut self.known[endpoint.get() as usize - 1]
    }

    pub(super) fn at(&self, key: Key) -> Option<&Open> {
        self.open.iter().find(|open| open.key == key)
    }

    /// A query is sent on; of five equal ones the oldest ends.
    pub(super) fn send(&mut self, open: Open) {
        let equal = self.open.iter().filter(|other| other.is_like(&open));
        if equal.clone().count() == EQUAL_MAX {
            let oldest = equal.map(|other| other.key).next().unwrap();
            self.end(oldest, Ending::Superseded);
        }
        self.open.push(open);
    }

    pub(super) fn end(&mut self, key: Key, how: Ending) -> Open {
        let index = self.open.iter().position(|open| open.key == key).unwrap();
        self.ended.push(how);
        self.open.remove(index)
    }
}
