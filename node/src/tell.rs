//! From records and kernel events to flows: the one place that knows labels, names and rules of what
//! happened. One exchange record in, one or two flows out.

mod http;
mod services;
mod why;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use bpf_redirect::Hook;
use bpf_redirect_common::{
    Address, Drop, EGRESS, Event as KernelEvent, EventKind, TracePoint as KernelPoint,
    TraceReason as KernelReason, Verdict as KernelVerdict,
};
use dnsproxy::{Answer, GateReason, Outcome, Told};
use flow::{
    Direction, Dns, DropReason, Emitter, Endpoint, Ethernet, Event, FileInfo, Flow, Ip, L4,
    MacAddr, RecordType, Redaction, TcpFlags, TracePoint, TraceReason, Uuid, Verdict,
};
use policy::{EndpointId, Identity, L4Protocol, RuleId};

use crate::clock;
use crate::directory::{Directory, label_texts, peer};
use crate::guard::SharedLearner;
use why::{Closed, text};

/// Makes flows.
pub(crate) struct Teller {
    learner: SharedLearner,
    directory: ArcSwap<Directory>,
    node_name: Arc<str>,
    emitter: Emitter,
    /// The programs at a link that drop: what comes in to the workload, and what it sends.
    programs: [Arc<str>; 2],
    /// What is not told of HTTP.
    redaction: Redaction,
}

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;
const SERVFAIL: u32 = 2;
/// Hubble's reason of a packet for a proxy that has no socket for it.
const SOCKET_LOOKUP_FAILED: u8 = 178;

impl Teller {
    /// A teller for a node of this name.
    pub(crate) fn new(learner: SharedLearner, node_name: Arc<str>, redaction: Redaction) -> Self {
        Self {
            learner,
            directory: ArcSwap::default(),
            node_name,
            emitter: Emitter {
                name: "Namegate".into(),
                version: env!("CARGO_PKG_VERSION").into(),
            },
            programs: [Hook::ToEndpoint, Hook::FromEndpoint].map(|hook| hook.program().into()),
            redaction,
        }
    }

    /// Takes another directory.
    pub(crate) fn set_directory(&self, directory: Directory) {
        self.directory.store(Arc::new(directory));
    }

    /// The directory in use.
    pub(crate) fn directory(&self) -> Arc<Directory> {
        self.directory.load_full()
    }

    /// The flows of one exchange: its request, and its response if the client got one.
    pub(crate) fn exchange(&self, told: &Told) -> (Flow, Option<Flow>) {
        self.count_exchange(told);
        let qtype = RecordType::Number(told.question.qtype);
        let query: Arc<str> = told.question.name.to_string().into();
        // Without a permit nothing left the node, whatever the client was told.
        let verdict = match told.allowed_by {
            Some(allowed_by) if allowed_by.audited => Verdict::Audit,
            Some(_) => Verdict::Forwarded,
            None => Verdict::Dropped,
        };
        let peers = self.peers(
            told.origin.endpoint,
            (told.origin.client, told.origin.server),
            told.origin.protocol,
        );
        let request = Flow {
            time: Some(clock::time_of_day(told.asked_at)),
            is_reply: Some(false),
            policy_log: self.log_of(told),
            ..self.dns_flow(
                told,
                &peers,
                (Dns::request(Arc::clone(&query), qtype.clone()), verdict),
            )
        };
        let response = self.response(told, &peers, (query, qtype));
        (request, response)
    }

    /// What the deciding rule asks to be logged, and why an exchange did not go its usual way.
    fn log_of(&self, told: &Told) -> Vec<Arc<str>> {
        let directory = self.directory.load();
        let rule = told.allowed_by.map(|by| by.rule);
        let log = rule.and_then(|rule| directory.log(rule)).cloned();
        let remark = told.remark.map(|remark| remark.word().into());
        let beside = remark.into_iter().chain(reason_of(&told.outcome));
        log.into_iter().chain(beside).collect()
    }

    fn response(
        &self,
        told: &Told,
        peers: &Peers,
        (query, qtype): (Arc<str>, RecordType),
    ) -> Option<Flow> {
        let latency = told.latency?;
        let (dns, verdict) = match &told.outcome {
            Outcome::Answered(answer) => (answered((query, qtype), answer), Verdict::Forwarded),
            Outcome::Timeout { answered: true } | Outcome::ServFail(_) => {
                (Dns::response(query, qtype, SERVFAIL), Verdict::Error)
            }
            Outcome::Malformed(_)
            | Outcome::Denied { .. }
            | Outcome::Local(_)
            | Outcome::Timeout { answered: false }
            | Outcome::Superseded
            | Outcome::ClientGone
            | Outcome::EndpointGone
            | Outcome::Abandoned => return None,
        };
        let dns = Dns {
            latency_ns: u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX),
            ..dns
        };
        let flow = self.dns_flow(told, peers, (dns, verdict));
        let log = self.log_of(told).into_iter();
        Some(Flow {
            time: Some(clock::time_of_day(told.asked_at + latency)),
            policy_log: log.chain(self.why_unlearned(told)).collect(),
            ..answering(flow)
        })
    }

    fn dns_flow(&self, told: &Told, peers: &Peers, (dns, verdict): (Dns, Verdict)) -> Flow {
        let (client, server) = (told.origin.client, told.origin.server);
        let protocol = match told.origin.protocol {
            L4Protocol::Tcp => TCP,
            L4Protocol::Udp | L4Protocol::Sctp => UDP,
        };
        let allowed_by = told
            .allowed_by
            .map(|by| self.directory.load().policies(by.rule));
        self.with_services(Flow {
            ip: Some(Ip::new(client.ip(), server.ip())),
            l4: l4(protocol, (client.port(), server.port()), None),
            traffic_direction: Direction::Egress,
            egress_allowed_by: allowed_by.unwrap_or_default(),
            ..self.between(peers, Flow::new(Event::Dns(dns), verdict))
        })
    }

    /// The flow of one event of the kernel; `None` for one of a kind that isn't known.
    pub(crate) fn kernel(&self, event: &KernelEvent) -> Option<Flow> {
        let kind = EventKind::from_number(event.kind)?;
        let rule = RuleId::from_number(event.rule);
        let denied = kind != EventKind::Trace && event.reason != 0;
        let (what, verdict) = what_of(event, kind);
        let is_verdict = matches!(what, Event::PolicyVerdict { .. });
        let is_egress = event.direction == EGRESS;
        let (source, destination) = (IpAddr::from(event.source), IpAddr::from(event.destination));
        let (own, other) = if is_egress {
            (source, destination)
        } else {
            (destination, source)
        };
        let mut peers = self.kernel_peers(event, (own, other), is_egress);
        let closed = match denied {
            true => self.why_closed(event),
            false => Closed::default(),
        };
        if peers.destination_names.is_empty() {
            peers.destination_names.clone_from(&closed.names);
        }
        let directory = self.directory.load();
        let (policies, log) = if is_verdict {
            (directory.policies(rule), directory.log(rule).cloned())
        } else {
            (Vec::new(), None)
        };
        let mut flow = self.between(&peers, Flow::new(what, verdict));
        flow.time = Some(clock::time_of_boot_ns(event.at));
        let ambiguous = is_verdict && denied && is_egress && self.is_ambiguous(event);
        let ambiguous = ambiguous.then(|| AMBIGUOUS_SERVICE.into());
        let closed = closed.remark.filter(|_| is_verdict);
        self.count_closed(closed.as_ref());
        let remarks = ambiguous.into_iter().chain(closed);
        flow.policy_log = log.into_iter().chain(remarks).collect();
        flow.is_reply = match kind {
            EventKind::Verdict => (!denied).then_some(false),
            EventKind::Drop => None,
            EventKind::Trace => is_reply(event),
        };
        flow.traffic_direction = direction_of(kind, is_egress, flow.is_reply);
        flow.proxy_port = proxy_port(event);
        if kind == EventKind::Trace {
            flow.interface = directory.interface(event.endpoint).cloned();
        }
        flow.ethernet = ethernet(event);
        if kind == EventKind::Drop && flow.ethernet.is_some() {
            flow.file = Some(self.program(is_egress));
        }
        if event.family != 0 {
            flow.ip = Some(Ip::new(source, destination));
            let ports = [event.source_port, event.destination_port].map(u16::from_be);
            let flags = TcpFlags::from_bits(u16::from(event.tcp_flags));
            flow.l4 = l4(event.protocol, ports.into(), Some(flags));
        }
        // By what would have denied it, were it not only audited.
        let denied = denied || event.verdict == KernelVerdict::AuditDeny as u8;
        match (is_egress, denied) {
            (true, false) => flow.egress_allowed_by = policies,
            (true, true) => flow.egress_denied_by = policies,
            (false, false) => flow.ingress_allowed_by = policies,
            (false, true) => flow.ingress_denied_by = policies,
        }
        Some(self.with_services(flow))
    }

    /// Which program at a workload's link dropped a packet. A line is not known: what the kernel would have to
    /// tell for it is no less than the reason.
    fn program(&self, is_egress: bool) -> FileInfo {
        let [into, out_of] = &self.programs;
        let name = if is_egress { out_of } else { into };
        FileInfo {
            name: Arc::clone(name),
            line: 0,
        }
    }

    /// Whether it was a service's address whose backends differ in what policy says.
    fn is_ambiguous(&self, event: &KernelEvent) -> bool {
        let port = u16::from_be(event.destination_port);
        let server = SocketAddr::new(event.destination.into(), port);
        let (Some(endpoint), Some(protocol)) = (
            EndpointId::new(event.endpoint),
            L4Protocol::from_number(event.protocol),
        ) else {
            return false;
        };
        let snapshot = self.learner.snapshot();
        snapshot.is_ambiguous(endpoint, server, protocol)
    }

    /// Who talks to whom, for an exchange of the proxy.
    fn peers(
        &self,
        endpoint: EndpointId,
        (client, server): (SocketAddr, SocketAddr),
        protocol: L4Protocol,
    ) -> Peers {
        let own = self.local(endpoint.get(), client.ip());
        let snapshot = self.learner.snapshot();
        let service = snapshot.frontend(server, protocol);
        let (other, names) =
            self.peer_of(Some(endpoint), server.ip(), service.map(|one| one.identity));
        Peers {
            source: own,
            destination: other,
            source_names: Vec::new(),
            destination_names: names,
        }
    }

    fn kernel_peers(
        &self,
        event: &KernelEvent,
        (own, other): (IpAddr, IpAddr),
        is_egress: bool,
    ) -> Peers {
        let endpoint = EndpointId::new(event.endpoint);
        let own = self.local(event.endpoint, own);
        let identity = (event.identity != 0).then(|| Identity::from_number(event.identity));
        let (other, names) = self.peer_of(endpoint, other, identity);
        if is_egress {
            Peers {
                source: own,
                destination: other,
                source_names: Vec::new(),
                destination_names: names,
            }
        } else {
            Peers {
                source: other,
                destination: own,
                source_names: names,
                destination_names: Vec::new(),
            }
        }
    }

    fn local(&self, id: u32, ip: IpAddr) -> Endpoint {
        let directory = self.directory.load();
        directory
            .local(id)
            .or_else(|| directory.at(ip))
            .map(|endpoint| (**endpoint).clone())
            .unwrap_or_default()
    }

    /// The other side, and the names that the endpoint itself asked for its address; where these have ended,
    /// those by which a connection was opened that lives on.
    fn peer_of(
        &self,
        endpoint: Option<EndpointId>,
        ip: IpAddr,
        judged: Option<Identity>,
    ) -> (Endpoint, Vec<Arc<str>>) {
        let snapshot = self.learner.snapshot();
        let known = endpoint.and_then(|endpoint| {
            self.learner.with_knowledge(endpoint, |knowledge| {
                let cache = &knowledge.cache;
                let identity = knowledge.ledger.identity_of(Address::from(ip));
                let mut names: Vec<Arc<str>> = cache.names_of(ip).map(text).collect();
                if names.is_empty() && judged.is_none_or(|identity| snapshot.is_by_name(identity)) {
                    names.extend(cache.ended(ip).into_iter().map(|(name, _)| text(name)));
                }
                (identity, names)
            })
        });
        let (learned, names) = known.unwrap_or_default();
        let directory = self.directory.load();
        if let Some(endpoint) = directory.at(ip) {
            return ((**endpoint).clone(), names);
        }
        let identity = judged
            .or_else(|| learned.map(Identity::from_number))
            .unwrap_or_else(|| snapshot.identity_of(ip));
        let labels = directory.texts_of(identity, || match snapshot.labels_of(identity) {
            Some(labels) => Some(label_texts(labels)),
            None => self.learner.with_identities(|identities| {
                let set = identities.labels_of(identity)?;
                Some(label_texts(&set.to_labels()))
            }),
        });
        (peer(identity, labels), names)
    }

    fn between(&self, peers: &Peers, flow: Flow) -> Flow {
        Flow {
            uuid: Some(Uuid::from_random(rand::random())),
            emitter: Some(self.emitter.clone()),
            node_name: Arc::clone(&self.node_name),
            source: peers.source.clone(),
            destination: peers.destination.clone(),
            source_names: peers.source_names.clone(),
            destination_names: peers.destination_names.clone(),
            ..flow
        }
    }
}

/// Both sides of a flow.
struct Peers {
    source: Endpoint,
    destination: Endpoint,
    source_names: Vec<Arc<str>>,
    destination_names: Vec<Arc<str>>,
}

/// What an event tells of, and how that went.
fn what_of(event: &KernelEvent, kind: EventKind) -> (Event, Verdict) {
    let reason = drop_reason(event.reason);
    match kind {
        EventKind::Trace => (traced(event), Verdict::Forwarded),
        EventKind::Drop => (Event::Drop { reason }, Verdict::Dropped),
        EventKind::Verdict => {
            let what = Event::PolicyVerdict {
                match_type: u32::from(event.matched),
                drop_reason: (event.reason != 0).then_some(reason),
            };
            let verdict = match KernelVerdict::from_number(event.verdict) {
                KernelVerdict::Allow => Verdict::Forwarded,
                KernelVerdict::AuditUnmatched | KernelVerdict::AuditDeny => Verdict::Audit,
                KernelVerdict::Redirect => Verdict::Redirected,
                KernelVerdict::Unmatched
                | KernelVerdict::Refuse
                | KernelVerdict::FailAuthentication
                | KernelVerdict::Deny => Verdict::Dropped,
            };
            (what, verdict)
        }
    }
}

/// Hubble's reason for one of ours that it has no number for. Our own counters keep them apart.
fn drop_reason(number: u8) -> DropReason {
    DropReason::from_number(match Drop::from_number(number) {
        // A flow that can't be remembered, whichever bound is hit.
        Some(Drop::CtShareFull) => Drop::CtInsertFailed as u8,
        // No socket of a proxy takes it.
        Some(Drop::NotRedirected) => SOCKET_LOOKUP_FAILED,
        _ => number,
    })
}

fn traced(event: &KernelEvent) -> Event {
    Event::Trace {
        point: TracePoint::from_number(event.matched),
        reason: TraceReason::from_number(event.reason.into()).unwrap_or_default(),
    }
}

/// The frame's two ends; none where there was no frame.
fn ethernet(event: &KernelEvent) -> Option<Ethernet> {
    let ends = (event.source_mac, event.destination_mac);
    (ends != ([0; 6], [0; 6])).then_some(Ethernet {
        source: MacAddr(ends.0),
        destination: MacAddr(ends.1),
    })
}

/// Whether a traced packet answers; `None` where nobody has asked.
fn is_reply(event: &KernelEvent) -> Option<bool> {
    match KernelReason::from_number(event.reason) {
        KernelReason::Unknown => None,
        KernelReason::Reply => Some(true),
        KernelReason::New | KernelReason::Established | KernelReason::Related => Some(false),
    }
}

/// Whose policy was asked, or would have been: of a trace it is who began that counts.
fn direction_of(kind: EventKind, is_egress: bool, is_reply: Option<bool>) -> Direction {
    match is_reply {
        None if kind == EventKind::Trace => Direction::Unknown,
        is_reply if is_egress != (is_reply == Some(true)) => Direction::Egress,
        _ => Direction::Ingress,
    }
}

/// The proxy's port of a packet that was traced on its way there; 0 of all others. It listens for DNS on
/// the port that the workload asks.
fn proxy_port(event: &KernelEvent) -> u16 {
    let is_trace = event.kind == EventKind::Trace as u8;
    match event.destination_port {
        port if is_trace && event.matched == KernelPoint::ToProxy as u8 => u16::from_be(port),
        _ => 0,
    }
}

fn answered((query, qtype): (Arc<str>, RecordType), answer: &Answer) -> Dns {
    let response = Dns::response(query, qtype, u32::from(answer.rcode.get()));
    let ips = answer.addresses.iter().filter(|learned| !learned.is_hint);
    Dns {
        ips: ips.map(|learned| learned.ip).collect(),
        ttl: answer.ttl_secs.unwrap_or(response.ttl),
        cnames: answer
            .aliases
            .iter()
            .map(|alias| alias.to_string().into())
            .collect(),
        rrtypes: answer
            .record_types
            .iter()
            .map(|kind| RecordType::Number(*kind))
            .collect(),
        ..response
    }
}

/// Why an exchange did not go its usual way: never in the query, but beside it.
fn reason_of(outcome: &Outcome) -> Vec<Arc<str>> {
    let word = match outcome {
        Outcome::Malformed(reason) => GateReason::word(*reason),
        Outcome::ServFail(fault) => fault.word(),
        Outcome::Timeout { .. } => "timeout",
        Outcome::Superseded => "superseded",
        Outcome::ClientGone => "client-gone",
        Outcome::EndpointGone => "endpoint-gone",
        Outcome::Abandoned => "abandoned",
        Outcome::Denied { .. } | Outcome::Local(_) | Outcome::Answered(_) => return Vec::new(),
    };
    vec![word.into()]
}

fn l4(
    protocol: u8,
    (source_port, destination_port): (u16, u16),
    flags: Option<TcpFlags>,
) -> Option<L4> {
    let [kind, code] = source_port.to_be_bytes();
    match protocol {
        TCP => Some(L4::Tcp {
            source_port,
            destination_port,
            flags,
        }),
        UDP => Some(L4::Udp {
            source_port,
            destination_port,
        }),
        SCTP => Some(L4::Sctp {
            source_port,
            destination_port,
        }),
        ICMP => Some(L4::Icmpv4 { kind, code }),
        ICMPV6 => Some(L4::Icmpv6 { kind, code }),
        _ => None,
    }
}

/// The flow of an answer, made of the request's: the server is the source of its answer.
fn answering(request: Flow) -> Flow {
    Flow {
        foreign: request.foreign.map(services::turned_round),
        is_reply: Some(true),
        ip: request.ip.map(|ip| Ip::new(ip.destination, ip.source)),
        l4: request.l4.map(turned),
        source: request.destination,
        destination: request.source,
        source_names: request.destination_names,
        destination_names: request.source_names,
        ..request
    }
}

/// The same layer, seen from the other side.
fn turned(l4: L4) -> L4 {
    match l4 {
        L4::Tcp {
            source_port,
            destination_port,
            flags,
        } => L4::Tcp {
            source_port: destination_port,
            destination_port: source_port,
            flags,
        },
        L4::Udp {
            source_port,
            destination_port,
        } => L4::Udp {
            source_port: destination_port,
            destination_port: source_port,
        },
        L4::Sctp {
            source_port,
            destination_port,
        } => L4::Sctp {
            source_port: destination_port,
            destination_port: source_port,
        },
        same @ (L4::Icmpv4 { .. } | L4::Icmpv6 { .. }) => same,
    }
}

/// The reason of a denial that only the virtual address has.
pub(crate) const AMBIGUOUS_SERVICE: &str = "ambiguous service";
