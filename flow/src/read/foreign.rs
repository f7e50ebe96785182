//! The fields that only other agents set, and what a mask left.

use super::fields::Fields;
use super::{ReadError, read_drop_reason, read_event_type, read_ip, read_l4};
use crate::filter::IpVersion;
use crate::flow::Event;
use crate::foreign::{
    AUTH_TYPES, CAPTURE_POINTS, Foreign, Nameless, Names, OtherL4, PartIp, Service, TUNNELS,
    Tunnel, XLATE_POINTS, number_of,
};
use crate::message::MessageKind;
use crate::packet::MacAddr;
use crate::verdict::{Direction, Verdict};

/// None if none of them is set.
pub(super) fn read(object: &Fields<'_>, event: &Event) -> Result<Option<Foreign>, ReadError> {
    let event_type = read_event_type(object)?;
    let ip_trace = object.object("ip_trace_id")?;
    let foreign = Foreign {
        node_labels: object.texts("node_labels")?,
        source_service: service(object, "source_service")?,
        destination_service: service(object, "destination_service")?,
        ip_trace_id: ip_trace.as_ref().map_or(Ok(0), |it| it.long("trace_id"))?,
        ip_option_type: ip_trace
            .as_ref()
            .map_or(Ok(0), |it| it.number("ip_option_type"))?,
        tunnel: object.object("tunnel")?.map(|it| tunnel(&it)).transpose()?,
        debug_capture_point: point(object, "debug_capture_point", CAPTURE_POINTS)?,
        sock_xlate_point: point(object, "sock_xlate_point", XLATE_POINTS)?,
        socket_cookie: object.long("socket_cookie")?,
        cgroup_id: object.long("cgroup_id")?,
        other_l4: object
            .object("l4")?
            .map(|it| other_l4(&it))
            .transpose()?
            .flatten(),
        aggregate: object
            .object("aggregate")?
            .map(|it| aggregate(&it))
            .transpose()?,
        auth_type: point(object, "auth_type", AUTH_TYPES)?,
        event_type: (event_type != event.numbers()).then_some(event_type),
        drop_reason: match event {
            Event::PolicyVerdict { .. } | Event::Drop { .. } => None,
            Event::Dns(_)
            | Event::Http(_)
            | Event::OtherL7 { .. }
            | Event::Trace { .. }
            | Event::Other { .. } => read_drop_reason(object)?,
        },
        part_ip: object
            .object("IP")?
            .map(|it| part_ip(&it))
            .transpose()?
            .flatten(),
        part_ethernet: object
            .object("ethernet")?
            .map(|it| part_ethernet(&it))
            .transpose()?
            .flatten(),
        nameless: Nameless {
            verdict: object.nameless("verdict", Verdict::from_number)?,
            direction: object.nameless("traffic_direction", Direction::from_number)?,
            message: object
                .object("l7")?
                .map_or(Ok(0), |l7| l7.nameless("type", MessageKind::from_number))?,
        },
    };
    Ok(Some(foreign).filter(|foreign| *foreign != Foreign::default()))
}

/// None if it is whole.
fn part_ip(object: &Fields<'_>) -> Result<Option<PartIp>, ReadError> {
    if read_ip(object)?.is_some() {
        return Ok(None);
    }
    let versions = (IpVersion::from_name, IpVersion::from_number);
    Ok(Some(PartIp {
        source: object.parsed("source")?,
        source_xlated: object.parsed("source_xlated")?,
        destination: object.parsed("destination")?,
        version: object.enumerated("ipVersion", versions)?,
        encrypted: object.flag("encrypted")?.unwrap_or(false),
    }))
}

/// None if it is whole.
fn part_ethernet(object: &Fields<'_>) -> Result<Option<[Option<MacAddr>; 2]>, ReadError> {
    let ends = [object.parsed("source")?, object.parsed("destination")?];
    Ok(Some(ends).filter(|ends| ends.contains(&None)))
}

fn service(object: &Fields<'_>, key: &'static str) -> Result<Option<Service>, ReadError> {
    let Some(service) = object.object(key)? else {
        return Ok(None);
    };
    Ok(Some(Service {
        name: service.text("name")?.into(),
        namespace: service.text("namespace")?.into(),
    }))
}

fn other_l4(l4: &Fields<'_>) -> Result<Option<OtherL4>, ReadError> {
    if let Some(vrrp) = l4.object("VRRP")? {
        return Ok(Some(OtherL4::Vrrp {
            kind: vrrp.number("type")?,
            vrid: vrrp.number("vrid")?,
            priority: vrrp.number("priority")?,
        }));
    }
    let Some(igmp) = l4.object("IGMP")? else {
        return Ok(None);
    };
    Ok(Some(OtherL4::Igmp {
        kind: igmp.number("type")?,
        group: igmp.text("group_address")?.into(),
    }))
}

fn tunnel(object: &Fields<'_>) -> Result<Tunnel, ReadError> {
    Ok(Tunnel {
        protocol: point(object, "protocol", TUNNELS)?,
        ip: object
            .object("IP")?
            .map(|it| read_ip(&it))
            .transpose()?
            .flatten(),
        l4: object
            .object("l4")?
            .map(|it| read_l4(&it))
            .transpose()?
            .flatten(),
        vni: object.number("vni")?,
    })
}

fn aggregate(object: &Fields<'_>) -> Result<[u32; 3], ReadError> {
    Ok([
        object.number("ingress_flow_count")?,
        object.number("egress_flow_count")?,
        object.number("unknown_direction_flow_count")?,
    ])
}

/// A number, or its name.
fn point(object: &Fields<'_>, key: &'static str, names: Names) -> Result<u32, ReadError> {
    let from_number = |number: usize| u32::try_from(number).ok();
    object.enumerated(key, (|name: &str| number_of(names, name), from_number))
}
