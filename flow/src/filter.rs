//! Which flows are wanted: Hubble's flow filters, and the flags of `hubble observe` that become them.

mod error;
mod flags;
mod flow_filter;
mod json;
mod labels;
mod pattern;
mod terms;

pub use self::error::FilterError;
pub use self::flags::{FILTER_FLAGS, FilterFlag, FilterFlags};
pub use self::flow_filter::{EventType, FlowFilter, IpVersion, PeerFilter};
use self::terms::Terms;
use crate::flow::Flow;

/// Which flows to show. The empty filter shows all.
///
/// A flow is shown if it passes one of the allowing filters, or there are none, and passes none of the
/// denying ones.
#[derive(Clone, Default, Debug)]
pub struct Filter {
    allow: Vec<Terms>,
    deny: Vec<Terms>,
}

impl Filter {
    /// Reads the filters' patterns.
    ///
    /// # Errors
    ///
    /// A value that its field can't have, or fields that don't go together.
    pub fn new(allow: &[FlowFilter], deny: &[FlowFilter]) -> Result<Self, FilterError> {
        Ok(Self {
            allow: allow.iter().map(Terms::of).collect::<Result<_, _>>()?,
            deny: deny.iter().map(Terms::of).collect::<Result<_, _>>()?,
        })
    }

    /// Whether the flow is to be shown.
    #[must_use]
    pub fn matches(&self, flow: &Flow) -> bool {
        let passes = |terms: &Terms| terms.matches(flow);
        (self.allow.is_empty() || self.allow.iter().any(passes)) && !self.deny.iter().any(passes)
    }
}
