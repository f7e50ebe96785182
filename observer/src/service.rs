//! Hubble's Observer service over the rings of a node.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flow::{AgentEvent, Query, Reader, Time};
use futures_util::Stream;
use futures_util::stream;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

use crate::agent::{AgentQuery, AgentReader, AgentRing};
use crate::limits::STREAMS_MAX;
use crate::proto::observer::observer_server::Observer;
use crate::proto::observer::{
    GetAgentEventsRequest, GetAgentEventsResponse, GetDebugEventsRequest, GetDebugEventsResponse,
    GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNamespacesResponse,
    GetNodesRequest, GetNodesResponse, Namespace, Node as NodeMessage, ServerStatusRequest,
    ServerStatusResponse, Tls,
};
use crate::proto::relay::NodeState;
use crate::question::Wanted;
use crate::ring::SharedRing;
use crate::{answer, question};

/// How often a stream looks up while nothing happens.
const WAIT: Duration = Duration::from_secs(1);

/// The node that is observed.
#[derive(Clone, Debug)]
pub struct Node {
    /// `cluster/node`, or `node`.
    pub name: Arc<str>,
    /// Our version, without `v`.
    pub version: Arc<str>,
    /// Its flows.
    pub flows: Arc<SharedRing>,
    /// What the agent did.
    pub agent: Arc<AgentRing>,
    /// Whether every mask is obeyed to the letter, also the one that the stock command always sends.
    pub exact_masks: bool,
    /// The clock.
    pub now: fn() -> Instant,
    /// The time of day.
    pub time_of_day: fn() -> Time,
    /// By which addresses others know the node: asked where what is listened at is all of them.
    pub addresses: fn() -> NodeAddresses,
}

/// The addresses of a node by which others know it, as far as it has such.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct NodeAddresses {
    /// Of IPv4.
    pub v4: Option<Ipv4Addr>,
    /// Of IPv6.
    pub v6: Option<Ipv6Addr>,
}

/// The service, for one way in.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) node: Node,
    pub(crate) place: Place,
    /// The name in its certificate, where there is one.
    pub(crate) server_name: Option<String>,
    pub(crate) streams: Arc<AtomicUsize>,
}

/// Where it listens.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// At a socket of this node alone, by its URL.
    Unix(String),
    /// At an address.
    Tcp {
        /// Which one, or all of them.
        address: SocketAddr,
        /// Whether all addresses of IPv6 are not those of IPv4 too.
        only_v6: bool,
    },
}

impl Place {
    /// Where others reach it: an address of the node, where it listens at all of them. The bare socket
    /// where the node has none.
    fn reached(&self, addresses: fn() -> NodeAddresses) -> String {
        let (address, only_v6) = match self {
            Self::Unix(url) => return url.clone(),
            Self::Tcp { address, only_v6 } => (*address, *only_v6),
        };
        if !address.ip().is_unspecified() {
            return address.to_string();
        }
        let NodeAddresses { v4, v6 } = addresses();
        let (v4, v6) = (v4.map(IpAddr::from), v6.map(IpAddr::from));
        let own = match address {
            SocketAddr::V4(_) => v4,
            SocketAddr::V6(_) if only_v6 => v6,
            SocketAddr::V6(_) => v4.or(v6),
        };
        let ip = own.unwrap_or_else(|| address.ip());
        SocketAddr::new(ip, address.port()).to_string()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(url) => f.write_str(url),
            Self::Tcp { address, .. } => address.fmt(f),
        }
    }
}

/// A stream's seat among [`STREAMS_MAX`]; free again when it ends.
struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    /// Where others reach it.
    pub(crate) fn address(&self) -> String {
        self.place.reached(self.node.addresses)
    }

    pub(crate) fn seat(&self) -> Result<impl Send + 'static, Status> {
        let seat = Seat(Arc::clone(&self.streams));
        if self.streams.fetch_add(1, Ordering::Relaxed) >= STREAMS_MAX {
            self.node.flows.turn_away();
            let text = format!("{STREAMS_MAX} streams are open already");
            return Err(Status::resource_exhausted(text));
        }
        Ok(seat)
    }

    /// An answer with what the stock command looks for in its head.
    fn answer<T>(&self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        if let Ok(version) = MetadataValue::try_from(&*self.node.version) {
            let head = response.metadata_mut();
            head.insert("hubble-server-version", version);
        }
        response
    }
}

/// A client's way through the flows.
struct Flows<P> {
    node: Node,
    reader: Reader,
    wanted: Wanted,
    ready: VecDeque<GetFlowsResponse>,
    is_done: bool,
    _seat: P,
}

impl<P> Flows<P> {
    async fn next(mut self) -> Option<(Result<GetFlowsResponse, Status>, Self)> {
        loop {
            if let Some(response) = self.ready.pop_front() {
                return Some((Ok(response), self));
            }
            if self.is_done {
                return None;
            }
            let cursor = self.reader.cursor();
            let batch = match self.reader.follows() {
                true => self.node.flows.next_from(cursor, WAIT).await,
                false => self.node.flows.read_from(cursor),
            };
            let is_end = batch.flows.is_empty();
            let time = (self.node.time_of_day)();
            let wanted = self.reader.take(batch, time);
            self.is_done = self.reader.is_over() || (is_end && !self.reader.follows());
            let lost = match self.is_done {
                true => self.reader.rest_lost(),
                false => self.reader.lost((self.node.now)()),
            };
            let name = &self.node.name;
            self.ready
                .extend(lost.iter().map(|lost| answer::lost((time, lost), name)));
            let asked = &self.wanted;
            self.ready
                .extend(wanted.iter().map(|flow| answer::flow(flow, asked)));
        }
    }
}

/// A client's way through the agent's events.
struct AgentEvents<P> {
    node: Node,
    reader: AgentReader,
    ready: VecDeque<(Time, Arc<AgentEvent>)>,
    _seat: P,
}

impl<P> AgentEvents<P> {
    async fn next(mut self) -> Option<(Result<GetAgentEventsResponse, Status>, Self)> {
        loop {
            if let Some((time, event)) = self.ready.pop_front() {
                let response = answer::agent_event((time, &event), &self.node.name);
                return Some((Ok(response), self));
            }
            if self.reader.is_over() {
                return None;
            }
            let agent = Arc::clone(&self.node.agent);
            let more = agent.more.notified();
            tokio::pin!(more);
            // From here on, no event is missed.
            more.as_mut().enable();
            self.ready.extend(self.reader.take(&agent));
            if self.ready.is_empty() && !self.reader.is_over() {
                more.await;
            }
        }
    }
}

#[tonic::async_trait]
impl Observer for Service {
    type GetFlowsStream = Answers<GetFlowsResponse>;
    type GetAgentEventsStream = Answers<GetAgentEventsResponse>;
    type GetDebugEventsStream = Answers<GetDebugEventsResponse>;

    async fn get_flows(
        &self,
        request: Request<GetFlowsRequest>,
    ) -> Result<Response<Self::GetFlowsStream>, Status> {
        let request = request.into_inner();
        let wanted = question::wanted(&request, self.node.exact_masks)?;
        let query: Query = question::query(&request)?;
        let reader = self
            .node
            .flows
            .reader(query)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let flows = Flows {
            node: self.node.clone(),
            reader,
            wanted,
            ready: VecDeque::new(),
            is_done: false,
            _seat: self.seat()?,
        };
        Ok(self.answer(Box::pin(stream::unfold(flows, Flows::next))))
    }

    async fn get_agent_events(
        &self,
        request: Request<GetAgentEventsRequest>,
    ) -> Result<Response<Self::GetAgentEventsStream>, Status> {
        let request = request.into_inner();
        let query = AgentQuery {
            number: request.number,
            first: request.first,
            follow: request.follow,
            since: request.since.as_ref().map(question::time),
            until: request.until.as_ref().map(question::time),
        };
        let reader = AgentReader::new(query);
        let events = AgentEvents {
            node: self.node.clone(),
            reader: reader.map_err(|error| Status::invalid_argument(error.to_string()))?,
            ready: VecDeque::new(),
            _seat: self.seat()?,
        };
        Ok(self.answer(Box::pin(stream::unfold(events, AgentEvents::next))))
    }

    async fn get_debug_events(
        &self,
        _request: Request<GetDebugEventsRequest>,
    ) -> Result<Response<Self::GetDebugEventsStream>, Status> {
        Err(Status::unimplemented("there are no debug events here"))
    }

    async fn get_nodes(
        &self,
        _request: Request<GetNodesRequest>,
    ) -> Result<Response<GetNodesResponse>, Status> {
        let figures = self.node.flows.figures((self.node.now)());
        let node = NodeMessage {
            name: self.node.name.to_string(),
            version: self.node.version.to_string(),
            address: self.address(),
            state: NodeState::NodeConnected as i32,
            tls: Some(Tls {
                enabled: self.server_name.is_some(),
                server_name: self.server_name.clone().unwrap_or_default(),
            }),
            uptime_ns: nanos(figures.uptime),
            num_flows: figures.flows,
            max_flows: figures.flows_max,
            seen_flows: figures.seen,
        };
        Ok(self.answer(GetNodesResponse { nodes: vec![node] }))
    }

    async fn get_namespaces(
        &self,
        _request: Request<GetNamespacesRequest>,
    ) -> Result<Response<GetNamespacesResponse>, Status> {
        let namespaces = self.node.flows.namespaces((self.node.now)());
        let namespace = |(cluster, namespace): (Arc<str>, Arc<str>)| Namespace {
            cluster: cluster.to_string(),
            namespace: namespace.to_string(),
        };
        let namespaces = namespaces.into_iter().map(namespace).collect();
        Ok(self.answer(GetNamespacesResponse { namespaces }))
    }

    async fn server_status(
        &self,
        _request: Request<ServerStatusRequest>,
    ) -> Result<Response<ServerStatusResponse>, Status> {
        let figures = self.node.flows.figures((self.node.now)());
        Ok(self.answer(ServerStatusResponse {
            num_flows: figures.flows,
            max_flows: figures.flows_max,
            seen_flows: figures.seen,
            uptime_ns: nanos(figures.uptime),
            num_connected_nodes: Some(1),
            num_unavailable_nodes: Some(0),
            unavailable_nodes: Vec::new(),
            version: self.node.version.to_string(),
            flows_rate: figures.rate,
        }))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
