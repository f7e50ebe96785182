//! What a workload may do: CiliumNetworkPolicy files, snapshots, verdicts, permits, identities.
//!
//! Pure: no sockets, no files, no clock. It knows names, labels and addresses, never packets.
#![forbid(unsafe_code)]

mod dns;
mod file;
mod id;
mod l4;
mod label;
mod label_set;
pub mod limits;
mod problem;
mod rule;
mod selector;

pub use dns::{Denial, DenialReason, DenyAnswer, DnsPermit, Question};
pub use file::{Loaded, Source, load};
pub use id::{Direction, EndpointId, Identity, L4Protocol, RuleId};
pub use label::{Label, Labels};
pub use label_set::{Family, LabelSet};
pub use problem::{Code, Problem, Severity};
pub use rule::{Policy, PolicyKind, PolicySet, RuleOrigin};
pub use selector::Selector;
