//! What a client asks, as our own types have it.

use flow::{
    Direction, DropReason, EventType, FieldMask, Filter, FilterError, FlowFilter, HttpHeader,
    Interface, IpVersion, PeerFilter, Query, TcpFlags, Time, Verdict, Workload,
};
use tonic::Status;

use crate::limits::FILTERS_MAX;
use crate::proto::flow as pb;
use crate::proto::observer::GetFlowsRequest;

/// What the stock command asks for where nobody says a mask: less than its own printers show.
const STOCK_MASK: [&str; 20] = [
    "time",
    "verdict",
    "ethernet",
    "IP",
    "l4",
    "source.identity",
    "source.namespace",
    "source.pod_name",
    "destination.identity",
    "destination.namespace",
    "destination.pod_name",
    "Type",
    "node_name",
    "l7",
    "event_type",
    "source_service",
    "destination_service",
    "is_reply",
    "Summary",
    "ip_trace_id",
];

/// What its printers show beyond that.
const PRINTED_TOO: [&str; 12] = [
    "source_names",
    "destination_names",
    "policy_match_type",
    "traffic_direction",
    "auth_type",
    "sock_xlate_point",
    "debug_capture_point",
    "egress_allowed_by",
    "ingress_allowed_by",
    "egress_denied_by",
    "ingress_denied_by",
    "drop_reason_desc",
];

fn wrong(error: impl ToString) -> Status {
    Status::invalid_argument(error.to_string())
}

/// A filter that can't be used. Of CEL's expressions nobody says that they are wrong: they are not read.
fn refused(error: FilterError) -> Status {
    let is_cel =
        matches!(&error, FilterError::BadField { field, .. } if *field == "cel_expression");
    match is_cel {
        true => Status::unimplemented(error.to_string()),
        false => wrong(error),
    }
}

/// The query of a request.
pub(crate) fn query(request: &GetFlowsRequest) -> Result<Query, Status> {
    if request.whitelist.len() + request.blacklist.len() > FILTERS_MAX {
        return Err(wrong(format!("more than {FILTERS_MAX} filters")));
    }
    let filters = |filters: &[pb::FlowFilter]| filters.iter().map(filter).collect::<Result<_, _>>();
    let allow: Vec<FlowFilter> = filters(&request.whitelist)?;
    let deny: Vec<FlowFilter> = filters(&request.blacklist)?;
    Ok(Query {
        number: request.number,
        first: request.first,
        follow: request.follow,
        since: request.since.as_ref().map(time),
        until: request.until.as_ref().map(time),
        filter: Filter::new(&allow, &deny).map_err(refused)?,
    })
}

/// What is wanted of each flow.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// Which fields.
    pub(crate) mask: FieldMask,
    /// Whether policies are told without their labels, which no printer shows.
    pub(crate) bare_policies: bool,
}

/// The mask of a request. The one that the stock command always sends gets what it prints besides, unless
/// every mask is to be `exact`.
pub(crate) fn wanted(request: &GetFlowsRequest, exact: bool) -> Result<Wanted, Status> {
    let paths = request.field_mask.iter().flat_map(|mask| &mask.paths);
    let paths = || paths.clone().map(String::as_str);
    let asked = FieldMask::new(paths()).map_err(wrong)?;
    let is_stock = FieldMask::new(STOCK_MASK).is_ok_and(|stock| stock == asked) && !exact;
    let printed = PRINTED_TOO.into_iter().filter(|_| is_stock);
    Ok(Wanted {
        mask: FieldMask::new(paths().chain(printed)).map_err(wrong)?,
        bare_policies: is_stock,
    })
}

/// A point in time as the protocol has it.
pub(crate) fn time(time: &prost_types::Timestamp) -> Time {
    let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    Time::from_unix_nanos(nanos)
}

pub(crate) fn filter(filter: &pb::FlowFilter) -> Result<FlowFilter, Status> {
    Ok(FlowFilter {
        source: PeerFilter {
            ip: filter.source_ip.clone(),
            pod: filter.source_pod.clone(),
            fqdn: filter.source_fqdn.clone(),
            label: filter.source_label.clone(),
            service: filter.source_service.clone(),
            workload: filter.source_workload.iter().map(workload).collect(),
            port: filter.source_port.clone(),
            identity: filter.source_identity.clone(),
            cluster_name: filter.source_cluster_name.clone(),
        },
        destination: PeerFilter {
            ip: filter.destination_ip.clone(),
            pod: filter.destination_pod.clone(),
            fqdn: filter.destination_fqdn.clone(),
            label: filter.destination_label.clone(),
            service: filter.destination_service.clone(),
            workload: filter.destination_workload.iter().map(workload).collect(),
            port: filter.destination_port.clone(),
            identity: filter.destination_identity.clone(),
            cluster_name: filter.destination_cluster_name.clone(),
        },
        source_ip_xlated: filter.source_ip_xlated.clone(),
        verdict: enums("verdict", &filter.verdict, Verdict::from_number)?,
        drop_reason_desc: enums("drop_reason_desc", &filter.drop_reason_desc, |number| {
            u8::try_from(number).ok().map(DropReason::from_number)
        })?,
        interface: filter.interface.iter().map(interface).collect(),
        event_type: filter.event_type.iter().map(event_type).collect(),
        http_status_code: filter.http_status_code.clone(),
        protocol: filter.protocol.clone(),
        reply: filter.reply.clone(),
        dns_query: filter.dns_query.clone(),
        http_method: filter.http_method.clone(),
        http_path: filter.http_path.clone(),
        http_url: filter.http_url.clone(),
        http_header: filter.http_header.iter().map(header).collect(),
        tcp_flags: filter.tcp_flags.iter().map(tcp_flags).collect(),
        node_name: filter.node_name.clone(),
        node_labels: filter.node_labels.clone(),
        ip_version: enums("ip_version", &filter.ip_version, IpVersion::from_number)?,
        trace_id: filter.trace_id.clone(),
        ip_trace_id: filter.ip_trace_id.clone(),
        traffic_direction: enums(
            "traffic_direction",
            &filter.traffic_direction,
            Direction::from_number,
        )?,
        uuid: filter.uuid.clone(),
        encrypted: filter.encrypted.clone(),
        cel_expression: match &filter.experimental {
            Some(experimental) => experimental.cel_expression.clone(),
            None => Vec::new(),
        },
    })
}

/// A number that we don't know is refused: a client that is newer than we are would be told of flows that it didn't
/// ask for, or of none.
fn enums<T>(
    field: &str,
    numbers: &[i32],
    from_number: impl Fn(usize) -> Option<T>,
) -> Result<Vec<T>, Status> {
    let read = |number: &i32| {
        let known = usize::try_from(*number).ok().and_then(&from_number);
        known.ok_or_else(|| {
            wrong(format!(
                "invalid {field} filter {number}: nothing has this number here"
            ))
        })
    };
    numbers.iter().map(read).collect()
}

fn workload(workload: &pb::Workload) -> Workload {
    Workload {
        name: workload.name.as_str().into(),
        kind: workload.kind.as_str().into(),
    }
}

fn interface(interface: &pb::NetworkInterface) -> Interface {
    Interface {
        index: interface.index,
        name: interface.name.as_str().into(),
    }
}

fn header(header: &pb::HttpHeader) -> HttpHeader {
    HttpHeader {
        key: header.key.as_str().into(),
        value: header.value.as_str().into(),
    }
}

fn event_type(asked: &pb::EventTypeFilter) -> EventType {
    let number = |number: i32| u32::try_from(number).unwrap_or(u32::MAX);
    EventType {
        number: number(asked.r#type),
        sub_number: asked.match_sub_type.then(|| number(asked.sub_type)),
    }
}

fn tcp_flags(asked: &pb::TcpFlags) -> TcpFlags {
    let flags = [
        (asked.fin, TcpFlags::FIN),
        (asked.syn, TcpFlags::SYN),
        (asked.rst, TcpFlags::RST),
        (asked.psh, TcpFlags::PSH),
        (asked.ack, TcpFlags::ACK),
        (asked.urg, TcpFlags::URG),
        (asked.ece, TcpFlags::ECE),
        (asked.cwr, TcpFlags::CWR),
        (asked.ns, TcpFlags::NS),
    ];
    let set = flags.into_iter().filter(|(is_set, _)| *is_set);
    set.fold(TcpFlags::default(), |all, (_, flag)| all.and(flag))
}
