//! Permits without a policy, for the tests of the rooms that consume permits.

use std::net::SocketAddr;

use crate::{DnsPermit, EndpointId, L4Protocol, Question, RuleId};

impl DnsPermit {
    /// A permit that no policy gave, of rule 1 and revision 1.
    #[must_use]
    pub const fn forged(
        endpoint: EndpointId,
        server: SocketAddr,
        protocol: L4Protocol,
        question: Question,
    ) -> Self {
        Self {
            endpoint,
            server,
            protocol,
            question,
            rule: RuleId::from_number(1),
            revision: 1,
        }
    }
}
