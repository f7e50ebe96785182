//! What a workload may do: CiliumNetworkPolicy files, snapshots, verdicts, permits, identities.
//!
//! Pure: no sockets, no files, no clock. It knows names, labels and addresses, never packets.
#![forbid(unsafe_code)]

mod dns;
#[cfg(feature = "forge")]
mod forge;
mod id;

pub use dns::{Denial, DenialReason, DenyAnswer, DnsPermit, Question};
pub use id::{Direction, EndpointId, Identity, L4Protocol, RuleId};
