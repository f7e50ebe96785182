//! What a client of Hubble's Observer gets, over a real socket.

#![expect(clippy::unwrap_used, reason = "a test may die")]
#![expect(clippy::disallowed_methods, reason = "the server's clock")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flow::{AgentEvent, DropReason, Event, Flow, Line, PolicyRef, Printer, Time, Verdict};
use observer::limits::{FILTERS_MAX, STREAMS_MAX};
use observer::proto::flow as pb;
use observer::proto::observer::get_flows_response::ResponseTypes;
use observer::proto::observer::observer_client::ObserverClient;
use observer::proto::observer::{
    GetAgentEventsRequest, GetDebugEventsRequest, GetFlowsRequest, GetFlowsResponse,
    GetNamespacesRequest, GetNodesRequest, ServerStatusRequest,
};
use observer::proto::peer::NotifyRequest;
use observer::proto::peer::peer_client::PeerClient;
use observer::{AgentRing, Node, NodeAddresses, Server, SharedRing};
use tokio::sync::oneshot;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status, Streaming};

/// The time of day there, in nanoseconds since 1970.
const TOLD: i128 = 1_700_000_000_000_000_005;

/// A server on a socket of its own.
struct Stage {
    node: Node,
    socket: PathBuf,
    _stop: oneshot::Sender<()>,
    _folder: tempfile::TempDir,
}

impl Stage {
    fn new(flows_max: usize) -> Self {
        Self::serving(flows_max, false)
    }

    fn serving(flows_max: usize, exact_masks: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("hubble.sock");
        let node = Node {
            name: "prod/node-1".into(),
            version: "0.3.0".into(),
            flows: Arc::new(SharedRing::new(flows_max, Instant::now())),
            agent: Arc::new(AgentRing::default()),
            exact_masks,
            now: Instant::now,
            time_of_day: || Time::from_unix_nanos(TOLD),
            addresses: NodeAddresses::default,
        };
        let server = Server::unix(node.clone(), &socket).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(server.run(async move {
            let _ = stopped.await;
        }));
        Self {
            node,
            socket,
            _stop: stop,
            _folder: folder,
        }
    }

    /// With all golden flows.
    fn with_cases() -> Self {
        let stage = Self::new(4095);
        stage.node.flows.push(cases(), Instant::now());
        stage
    }

    async fn channel(&self) -> Channel {
        let socket = self.socket.clone();
        let connect = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move {
                let stream = tokio::net::UnixStream::connect(socket).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        endpoint.connect_with_connector(connect).await.unwrap()
    }

    async fn client(&self) -> ObserverClient<Channel> {
        ObserverClient::new(self.channel().await)
    }

    async fn ask(&self, request: GetFlowsRequest) -> Result<Vec<GetFlowsResponse>, Status> {
        let answer = self.client().await.get_flows(request).await?;
        all(answer.into_inner()).await
    }

    /// The numbers of the golden flows that a request gives.
    async fn numbers(&self, request: GetFlowsRequest) -> Vec<u32> {
        let answers = self.ask(request).await.unwrap();
        answers.iter().filter_map(flow_of).map(number_of).collect()
    }
}

async fn all<T>(mut stream: Streaming<T>) -> Result<Vec<T>, Status> {
    let mut items = Vec::new();
    while let Some(item) = stream.message().await? {
        items.push(item);
    }
    Ok(items)
}

fn cases() -> Vec<Flow> {
    let lines = include_str!("../../flow/tests/data/cases.txt").lines();
    let parsed = lines.map(|line| Line::parse(line.split_once('\t').unwrap().1).unwrap());
    let flows = parsed.filter_map(|line| match line {
        Line::Flow(flow) => Some(*flow),
        Line::LostEvents { .. } => None,
    });
    flows.collect()
}

fn flow_of(answer: &GetFlowsResponse) -> Option<&pb::Flow> {
    match answer.response_types.as_ref()? {
        ResponseTypes::Flow(flow) => Some(flow),
        ResponseTypes::LostEvents(_) | ResponseTypes::NodeStatus(_) => None,
    }
}

/// The number of a golden flow: the end of its id.
fn number_of(flow: &pb::Flow) -> u32 {
    flow.uuid[30..].parse().unwrap()
}

fn time(text: &str) -> Option<prost_types::Timestamp> {
    let nanos = Time::from_rfc3339(text)?.unix_nanos();
    Some(prost_types::Timestamp {
        seconds: i64::try_from(nanos.div_euclid(1_000_000_000)).ok()?,
        nanos: i32::try_from(nanos.rem_euclid(1_000_000_000)).ok()?,
    })
}

#[tokio::test]
async fn where_a_stream_begins_and_ends_is_by_hubbles_rules() {
    let stage = Stage::with_cases();
    let dropped = pb::FlowFilter {
        verdict: vec![pb::Verdict::Dropped as i32],
        ..pb::FlowFilter::default()
    };
    let none = GetFlowsRequest::default;
    for (request, expected) in [
        (
            GetFlowsRequest {
                number: 3,
                ..none()
            },
            vec![68, 69, 72],
        ),
        (
            GetFlowsRequest {
                number: 3,
                first: true,
                ..none()
            },
            vec![1, 2, 3],
        ),
        (
            GetFlowsRequest {
                since: time("2026-03-05T09:07:30Z"),
                until: time("2026-03-05T09:07:33Z"),
                ..none()
            },
            vec![30, 31, 32],
        ),
        (
            GetFlowsRequest {
                since: time("2026-03-05T09:08:05Z"),
                number: 2,
                ..none()
            },
            vec![65, 66],
        ),
        (
            GetFlowsRequest {
                number: 2,
                whitelist: vec![dropped.clone()],
                ..none()
            },
            vec![48, 49],
        ),
        (
            GetFlowsRequest {
                number: 4,
                blacklist: vec![dropped],
                until: time("2026-03-05T09:07:50Z"),
                first: true,
                ..none()
            },
            vec![1, 2, 3, 4],
        ),
    ] {
        assert_eq!(
            stage.numbers(request.clone()).await,
            expected,
            "{request:?}"
        );
    }
    let everything = GetFlowsRequest {
        number: u64::MAX,
        ..none()
    };
    assert_eq!(stage.numbers(everything).await.len(), 70);
}

#[tokio::test]
async fn every_filter_of_the_table_gives_what_hubble_gives() {
    let stage = Stage::with_cases();
    for row in include_str!("../../flow/tests/data/filters.tsv")
        .lines()
        .skip(1)
    {
        let [line, allow, deny, shown] = row.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{row}")
        };
        let is_other = ["--cel", "--first", "--last", "--since", "--until"];
        if is_other.iter().any(|it| line.contains(it)) {
            continue;
        }
        let request = GetFlowsRequest {
            whitelist: filters(allow),
            blacklist: filters(deny),
            ..GetFlowsRequest::default()
        };
        let expected = shown.split(',').filter_map(|it| it.parse().ok());
        let expected: Vec<u32> = expected.filter(|it| ![70, 71].contains(it)).collect();
        assert_eq!(stage.numbers(request).await, expected, "{line}");
    }
}

/// Flow filters of the table, by way of our own reader.
fn filters(text: &str) -> Vec<pb::FlowFilter> {
    let values = serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>();
    let read = |value: Result<serde_json::Value, _>| {
        let filter = flow::FlowFilter::from_json(&value.unwrap().to_string()).unwrap();
        message_of(filter)
    };
    values.map(read).collect()
}

#[expect(clippy::too_many_lines, reason = "one for each field")]
fn message_of(filter: flow::FlowFilter) -> pb::FlowFilter {
    let workload = |it: flow::Workload| pb::Workload {
        name: it.name.to_string(),
        kind: it.kind.to_string(),
    };
    let (source, destination) = (filter.source, filter.destination);
    pb::FlowFilter {
        source_ip: source.ip,
        source_ip_xlated: filter.source_ip_xlated,
        source_pod: source.pod,
        source_fqdn: source.fqdn,
        source_label: source.label,
        source_service: source.service,
        source_workload: source.workload.into_iter().map(workload).collect(),
        source_cluster_name: source.cluster_name,
        destination_ip: destination.ip,
        destination_pod: destination.pod,
        destination_fqdn: destination.fqdn,
        destination_label: destination.label,
        destination_service: destination.service,
        destination_workload: destination.workload.into_iter().map(workload).collect(),
        destination_cluster_name: destination.cluster_name,
        traffic_direction: filter
            .traffic_direction
            .iter()
            .map(|it| pb::TrafficDirection::from_str_name(it.name()).unwrap() as i32)
            .collect(),
        verdict: filter
            .verdict
            .iter()
            .map(|it| pb::Verdict::from_str_name(it.name()).unwrap() as i32)
            .collect(),
        drop_reason_desc: filter
            .drop_reason_desc
            .iter()
            .map(|it| i32::from(it.number()))
            .collect(),
        interface: filter
            .interface
            .iter()
            .map(|it| pb::NetworkInterface {
                index: it.index,
                name: it.name.to_string(),
            })
            .collect(),
        event_type: filter
            .event_type
            .iter()
            .map(|it| pb::EventTypeFilter {
                r#type: i32::try_from(it.number).unwrap(),
                match_sub_type: it.sub_number.is_some(),
                sub_type: i32::try_from(it.sub_number.unwrap_or(0)).unwrap(),
            })
            .collect(),
        http_status_code: filter.http_status_code,
        protocol: filter.protocol,
        source_port: source.port,
        destination_port: destination.port,
        reply: filter.reply,
        dns_query: filter.dns_query,
        source_identity: source.identity,
        destination_identity: destination.identity,
        http_method: filter.http_method,
        http_path: filter.http_path,
        http_url: filter.http_url,
        http_header: filter
            .http_header
            .iter()
            .map(|it| pb::HttpHeader {
                key: it.key.to_string(),
                value: it.value.to_string(),
            })
            .collect(),
        tcp_flags: filter.tcp_flags.iter().map(tcp_flags).collect(),
        node_name: filter.node_name,
        node_labels: filter.node_labels,
        ip_version: filter
            .ip_version
            .iter()
            .map(|it| pb::IpVersion::from_str_name(it.name()).unwrap() as i32)
            .collect(),
        trace_id: filter.trace_id,
        ip_trace_id: filter.ip_trace_id,
        uuid: filter.uuid,
        encrypted: filter.encrypted,
        experimental: None,
    }
}

fn tcp_flags(flags: &flow::TcpFlags) -> pb::TcpFlags {
    use flow::TcpFlags as Flags;
    pb::TcpFlags {
        fin: flags.contains(Flags::FIN),
        syn: flags.contains(Flags::SYN),
        rst: flags.contains(Flags::RST),
        psh: flags.contains(Flags::PSH),
        ack: flags.contains(Flags::ACK),
        urg: flags.contains(Flags::URG),
        ece: flags.contains(Flags::ECE),
        cwr: flags.contains(Flags::CWR),
        ns: flags.contains(Flags::NS),
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_by_its_name() {
    let stage = Stage::with_cases();
    let none = GetFlowsRequest::default;
    let filter = |filter| GetFlowsRequest {
        whitelist: vec![filter],
        ..none()
    };
    let mask = |path: &str| GetFlowsRequest {
        field_mask: Some(prost_types::FieldMask {
            paths: vec![path.to_owned()],
        }),
        ..none()
    };
    let filters = vec![pb::FlowFilter::default(); FILTERS_MAX + 1];
    for (request, named) in [
        (
            GetFlowsRequest {
                first: true,
                follow: true,
                ..none()
            },
            "first cannot be specified with follow",
        ),
        (
            filter(pb::FlowFilter {
                source_ip: vec!["x".to_owned()],
                ..pb::FlowFilter::default()
            }),
            "source_ip",
        ),
        (
            filter(pb::FlowFilter {
                http_path: vec!["(".to_owned()],
                ..pb::FlowFilter::default()
            }),
            "http_path",
        ),
        (mask("nope"), "nope"),
        (
            GetFlowsRequest {
                whitelist: filters,
                ..none()
            },
            "256",
        ),
    ] {
        let status = stage.ask(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains(named), "{status:?}");
    }
    let expression = filter(pb::FlowFilter {
        experimental: Some(pb::flow_filter::Experimental {
            cel_expression: vec!["true".to_owned()],
        }),
        ..pb::FlowFilter::default()
    });
    let status = stage.ask(expression).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    assert!(status.message().contains("CEL"), "{status:?}");
    let debug = GetDebugEventsRequest::default();
    let status = stage
        .client()
        .await
        .get_debug_events(debug)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_mask_is_obeyed_to_the_letter_but_for_the_one_of_the_stock_command() {
    let stage = Stage::with_cases();
    let ask = |paths: &str| GetFlowsRequest {
        number: 1,
        first: true,
        field_mask: Some(prost_types::FieldMask {
            paths: paths.split(',').map(str::to_owned).collect(),
        }),
        ..GetFlowsRequest::default()
    };
    let answers = stage
        .ask(ask("source.pod_name,l7.dns.query"))
        .await
        .unwrap();
    let flow = flow_of(&answers[0]).unwrap();
    let expected = pb::Flow {
        source: Some(pb::Endpoint {
            pod_name: "cart-6f7c9d5b8-x2x4p".to_owned(),
            ..pb::Endpoint::default()
        }),
        l7: Some(pb::Layer7 {
            record: Some(pb::layer7::Record::Dns(pb::Dns {
                query: "api.example.com.".to_owned(),
                ..pb::Dns::default()
            })),
            ..pb::Layer7::default()
        }),
        ..pb::Flow::default()
    };
    assert_eq!(*flow, expected);
    assert_eq!(answers[0].node_name, "prod/node-1");
    assert_eq!(answers[0].time, time("2026-03-05T09:07:01.037Z"));

    let stock = "time,verdict,ethernet,IP,l4,source.identity,source.namespace,source.pod_name,\
        destination.identity,destination.namespace,destination.pod_name,Type,node_name,l7,\
        event_type,source_service,destination_service,is_reply,Summary,ip_trace_id";
    let answers = stage.ask(ask(stock)).await.unwrap();
    let flow = flow_of(&answers[0]).unwrap();
    assert_eq!(flow.traffic_direction, pb::TrafficDirection::Egress as i32);
    assert!(flow.uuid.is_empty() && flow.source.as_ref().unwrap().labels.is_empty());
    // Of policies what is printed, and no labels.
    let policy = PolicyRef {
        name: "no-smtp".into(),
        kind: "CiliumNetworkPolicy".into(),
        labels: ["k8s:io.cilium.k8s.policy.name=no-smtp".into()].into(),
        ..PolicyRef::default()
    };
    let flow = Flow {
        egress_denied_by: vec![policy],
        ..denied()
    };
    stage.node.flows.push([flow], Instant::now());
    for (mask, has_labels) in [(stock, false), ("egress_denied_by", true)] {
        let last = GetFlowsRequest {
            first: false,
            ..ask(mask)
        };
        let answers = stage.ask(last).await.unwrap();
        let policies = &flow_of(&answers[0]).unwrap().egress_denied_by;
        assert!(!policies[0].name.is_empty() && !policies[0].kind.is_empty());
        assert_eq!(!policies[0].labels.is_empty(), has_labels, "{policies:?}");
    }
    let fewer = stock.strip_suffix(",ip_trace_id").unwrap();
    let answers = stage.ask(ask(fewer)).await.unwrap();
    assert_eq!(flow_of(&answers[0]).unwrap().traffic_direction, 0);

    let exact = Stage::serving(4095, true);
    exact.node.flows.push(cases(), Instant::now());
    let answers = exact.ask(ask(stock)).await.unwrap();
    let flow = flow_of(&answers[0]).unwrap();
    assert_eq!((flow.traffic_direction, flow.verdict), (0, 1));
}

/// What a client gets is what the JSON of the same flow says: compared by the stock command's own lines,
/// which read nearly all fields.
#[tokio::test]
async fn a_message_says_what_the_flow_says() {
    let stage = Stage::with_cases();
    let answers = stage.ask(GetFlowsRequest::default()).await.unwrap();
    for (answer, flow) in answers.iter().zip(cases()) {
        let message = flow_of(answer).unwrap();
        let mut line = String::new();
        Printer::default().write(&flow, &mut line);
        assert_eq!(message.summary, flow.summary(), "{line}");
        let verdict = pb::Verdict::try_from(message.verdict).unwrap();
        assert_eq!(verdict.as_str_name(), flow.verdict.name(), "{line}");
        let direction = pb::TrafficDirection::try_from(message.traffic_direction).unwrap();
        assert_eq!(
            direction.as_str_name(),
            flow.traffic_direction.name(),
            "{line}"
        );
        let json = json_of(&flow);
        let text = |key: &str| json.get(key).and_then(|it| it.as_str()).unwrap_or("");
        let reason = pb::TraceReason::try_from(message.trace_reason).unwrap();
        let told = Some(text("trace_reason")).filter(|it| !it.is_empty());
        assert_eq!(
            reason.as_str_name(),
            told.unwrap_or("TRACE_REASON_UNKNOWN"),
            "{line}"
        );
        let point = pb::TraceObservationPoint::try_from(message.trace_observation_point).unwrap();
        let told = Some(text("trace_observation_point")).filter(|it| !it.is_empty());
        assert_eq!(
            point.as_str_name(),
            told.unwrap_or("UNKNOWN_POINT"),
            "{line}"
        );
        let auth = pb::AuthType::try_from(message.auth_type).unwrap();
        let told = Some(text("auth_type")).filter(|it| !it.is_empty());
        assert_eq!(auth.as_str_name(), told.unwrap_or("DISABLED"), "{line}");
        let kind = pb::FlowType::try_from(message.r#type).unwrap();
        let told = Some(text("Type")).filter(|it| !it.is_empty());
        assert_eq!(kind.as_str_name(), told.unwrap_or("UNKNOWN_TYPE"), "{line}");
        let names: Vec<_> = flow
            .destination_names
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(message.destination_names, names, "{line}");
        assert_eq!(message.is_reply, flow.is_reply, "{line}");
        assert_eq!(message.proxy_port, u32::from(flow.proxy_port), "{line}");
        let ip = message.ip.as_ref().map(|ip| ip.source.clone());
        assert_eq!(ip, flow.ip.map(|ip| ip.source.to_string()), "{line}");
    }
}

fn json_of(flow: &Flow) -> serde_json::Value {
    let mut text = String::new();
    flow.write_json(&mut text);
    serde_json::from_str(&text).unwrap()
}

fn denied() -> Flow {
    let reason = DropReason::POLICY_DENIED;
    let time = Some(Time::from_unix_nanos(1));
    Flow {
        time,
        ..Flow::new(Event::Drop { reason }, Verdict::Dropped)
    }
}

#[tokio::test]
async fn a_follower_gets_what_comes_and_one_that_is_overtaken_is_told_how_much_it_lost() {
    let stage = Stage::new(64);
    let mut client = stage.client().await;
    let follow = GetFlowsRequest {
        follow: true,
        ..GetFlowsRequest::default()
    };
    let mut fast = client.get_flows(follow.clone()).await.unwrap().into_inner();
    let mut stopped = stage
        .client()
        .await
        .get_flows(follow)
        .await
        .unwrap()
        .into_inner();
    let mut seen = 0_u64;
    let rounds = 4_000;
    for _ in 0..rounds {
        stage
            .node
            .flows
            .push((0..32).map(|_| denied()), Instant::now());
        for _ in 0..32 {
            let answer = fast.message().await.unwrap().unwrap();
            assert!(flow_of(&answer).is_some(), "{answer:?}");
            seen += 1;
        }
    }
    assert_eq!(seen, rounds * 32);
    // The other one has read nothing; what did not fit on its way is lost, to the flow.
    let (mut got, mut lost) = (0, 0);
    while got + lost < seen {
        let answer = tokio::time::timeout(Duration::from_secs(10), stopped.message()).await;
        let answer = answer.unwrap().unwrap().unwrap();
        let told_at = answer.time.as_ref().map(|at| (at.seconds, at.nanos));
        match answer.response_types.unwrap() {
            ResponseTypes::Flow(_) => got += 1,
            ResponseTypes::LostEvents(event) => {
                assert_eq!(event.source, pb::LostEventSource::HubbleRingBuffer as i32);
                lost += event.num_events_lost;
                let told = (1_700_000_000, 5);
                assert_eq!(told_at, Some(told));
                let found = [event.first, event.last].map(|at| at.map(|at| (at.seconds, at.nanos)));
                assert_eq!(found, [Some(told); 2]);
            }
            ResponseTypes::NodeStatus(_) => unreachable!("there is no relay"),
        }
    }
    assert!(lost > 1_000, "{got} {lost}");
    assert_eq!(got + lost, seen);
}

#[tokio::test]
async fn streams_are_bounded_and_their_places_come_back() {
    let stage = Stage::new(64);
    let follow = || GetFlowsRequest {
        follow: true,
        ..GetFlowsRequest::default()
    };
    let mut client = stage.client().await;
    let mut open = Vec::new();
    for _ in 0..STREAMS_MAX {
        open.push(client.get_flows(follow()).await.unwrap());
    }
    let status = client.get_flows(follow()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("64"), "{status:?}");
    assert_eq!(stage.node.flows.turned_away(), 1);
    open.clear();
    let mut is_free = false;
    for _ in 0..100 {
        is_free |= client.get_flows(follow()).await.is_ok();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(is_free, "whoever goes makes room");
}

#[tokio::test]
async fn the_node_its_namespaces_its_status_and_its_health_are_told() {
    let stage = Stage::with_cases();
    let mut client = stage.client().await;
    let status = client.server_status(ServerStatusRequest {}).await.unwrap();
    let version = status.metadata().get("hubble-server-version").unwrap();
    assert_eq!(version, "0.3.0");
    let status = status.into_inner();
    let counts = (status.num_flows, status.max_flows, status.seen_flows);
    assert_eq!(counts, (70, 4095, 70));
    assert!(
        status.uptime_ns > 0 && status.flows_rate > 0.0,
        "{status:?}"
    );

    let nodes = client
        .get_nodes(GetNodesRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(nodes.nodes[0].name, "prod/node-1");
    assert_eq!(nodes.nodes[0].num_flows, 70);

    let namespaces = client
        .get_namespaces(GetNamespacesRequest {})
        .await
        .unwrap();
    let namespaces = namespaces.into_inner().namespaces;
    let names: Vec<_> = namespaces.iter().map(|it| it.namespace.as_str()).collect();
    assert_eq!(names, ["kube-system", "shop"]);

    let mut peers = PeerClient::new(stage.channel().await);
    let mut peers = peers.notify(NotifyRequest {}).await.unwrap().into_inner();
    let peer = peers.message().await.unwrap().unwrap();
    assert_eq!((peer.name.as_str(), peer.r#type), ("prod/node-1", 1));

    let mut health = tonic_health::pb::health_client::HealthClient::new(stage.channel().await);
    for (service, is_known) in [
        ("hubble.server.Observer", true),
        ("", true),
        ("nope", false),
    ] {
        let service = service.to_owned();
        let check = health.check(tonic_health::pb::HealthCheckRequest { service });
        assert_eq!(check.await.is_ok(), is_known);
    }
}

#[tokio::test]
async fn agent_events_are_told_and_followed() {
    let stage = Stage::new(8);
    let tell = |nanos, revision| {
        let event = AgentEvent::PolicyUpdated {
            labels: Vec::new(),
            revision,
            rule_count: 2,
        };
        stage.node.agent.push(Time::from_unix_nanos(nanos), event);
    };
    stage
        .node
        .agent
        .push(Time::from_unix_nanos(1), AgentEvent::Started);
    tell(2, 1);
    let mut client = stage.client().await;
    let last = GetAgentEventsRequest {
        number: 1,
        ..GetAgentEventsRequest::default()
    };
    let answers = client.get_agent_events(last).await.unwrap().into_inner();
    let answers = all(answers).await.unwrap();
    let kind = |event: &Option<pb::AgentEvent>| event.as_ref().unwrap().r#type;
    let kinds: Vec<_> = answers.iter().map(|it| kind(&it.agent_event)).collect();
    assert_eq!(kinds, [pb::AgentEventType::PolicyUpdated as i32]);

    let follow = GetAgentEventsRequest {
        follow: true,
        number: 20,
        ..GetAgentEventsRequest::default()
    };
    let mut events = client.get_agent_events(follow).await.unwrap().into_inner();
    for expected in [
        pb::AgentEventType::AgentStarted,
        pb::AgentEventType::PolicyUpdated,
    ] {
        let event = events.message().await.unwrap().unwrap();
        assert_eq!(kind(&event.agent_event), expected as i32);
    }
    tell(3, 2);
    let event = events.message().await.unwrap().unwrap();
    assert_eq!(event.time.unwrap().nanos, 3);
}
