//! The services that a flow's addresses are.

use std::net::SocketAddr;

use flow::{Flow, Foreign, L4};
use policy::L4Protocol;

use super::Teller;

impl Teller {
    /// With the services whose virtual addresses its ends are.
    pub(super) fn with_services(&self, flow: Flow) -> Flow {
        let (Some(ip), Some(l4)) = (flow.ip, flow.l4) else {
            return flow;
        };
        let protocol = match l4 {
            L4::Tcp { .. } => L4Protocol::Tcp,
            L4::Udp { .. } => L4Protocol::Udp,
            L4::Sctp { .. } => L4Protocol::Sctp,
            L4::Icmpv4 { .. } | L4::Icmpv6 { .. } => return flow,
        };
        let (source_port, destination_port) = l4.ports().unwrap_or_default();
        let directory = self.directory.load();
        let service = |ip, port| {
            directory
                .service(SocketAddr::new(ip, port), protocol)
                .cloned()
        };
        let source_service = service(ip.source, source_port);
        let destination_service = service(ip.destination, destination_port);
        if source_service.is_none() && destination_service.is_none() {
            return flow;
        }
        let foreign = Foreign {
            source_service,
            destination_service,
            ..Foreign::default()
        };
        Flow {
            foreign: Some(Box::new(foreign)),
            ..flow
        }
    }
}

/// The services of an answer, of what its request has.
pub(super) fn turned_round(request: Box<Foreign>) -> Box<Foreign> {
    let Foreign {
        source_service,
        destination_service,
        ..
    } = *request;
    Box::new(Foreign {
        source_service: destination_service,
        destination_service: source_service,
        ..Foreign::default()
    })
}
