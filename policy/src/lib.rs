//! What a workload may do: CiliumNetworkPolicy files, snapshots, verdicts, permits, identities.
//!
//! Pure: no sockets, no files, no clock. It knows names, labels and addresses, never packets.
//! [`load`] reads files into a [`PolicySet`]; [`Compiler::build`] compiles that for everybody in a
//! [`Cast`]; the snapshot answers all questions of the datapath and the proxies.
#![forbid(unsafe_code)]

mod address;
mod binding;
mod cast;
mod describe;
mod dns;
mod feature;
mod file;
pub mod fuzzing;
pub mod http;
mod id;
mod identity;
mod l4;
mod label;
mod label_set;
pub mod limits;
mod names;
mod prefix;
mod problem;
mod record_type;
#[cfg(any(test, feature = "reference"))]
pub mod reference;
mod rule;
mod schema;
mod selector;
mod snapshot;
mod sni;
mod tls;
mod verdict;
mod whole_names;

pub use address::{AddressClass, METADATA, class_of, embedded_v4};
pub use binding::{Bound, NameBinding, TlsDenied, TlsPermit};
pub use cast::{Cast, Frontend, LocalEndpoint, NamedPorts, Owner, Peer, Service, Workload};
pub use describe::{RuleParts, RuleText, Samples};
pub use dns::{Denial, DenialReason, DenyAnswer, DnsPermit, Question};
pub use feature::Feature;
pub use file::{Loaded, Loader, Source, format, load};
pub use id::{Direction, EndpointId, Identity, L4Protocol, RuleId};
pub use identity::{BadDump, Exhausted, Identities};
pub use label::{Label, Labels};
pub use label_set::{Family, LabelSet};
pub use problem::{Code, Problem, Severity};
pub use record_type::{record_type, record_type_word};
pub use rule::{Policy, PolicyKind, PolicySet, RuleOrigin};
pub use schema::SCHEMA;
pub use selector::Selector;
pub use snapshot::{
    Compiler, Enforcement, HttpAccess, HttpDecision, Mode, NameSelector, Options, PeerRef, Quic,
    ServiceFrontend, Snapshot, SniDecision, TlsRule,
};
pub use sni::{BadSniPattern, SniPattern};
pub use tls::{TlsContext, TlsLeg, TlsUse};
pub use verdict::{Decision, Entry, EntryVerdict, FlowKey, MatchType, PortPrefix, Proxy, decide};
pub use whole_names::{WholeName, WholeNames};
