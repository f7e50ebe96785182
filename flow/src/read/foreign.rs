//! The fields that only other agents set.

use super::fields::Fields;
use super::{ReadError, read_ip, read_l4};
use crate::foreign::{
    CAPTURE_POINTS, Foreign, Names, OtherL4, Service, TUNNELS, Tunnel, XLATE_POINTS, number_of,
};

/// None if none of them is set.
pub(super) fn read(object: &Fields<'_>) -> Result<Option<Foreign>, ReadError> {
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
    };
    Ok(Some(foreign).filter(|foreign| *foreign != Foreign::default()))
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
