//! The filters of `hubble observe`, by its flags.
//!
//! One list of flags allows and one denies. In each, a flow passes if it passes the left or the right
//! [`Terms`]; they differ only where a flag means either peer: left asks the source, right the
//! destination.

mod error;
mod flags;
mod pattern;
mod terms;

pub use self::error::FilterError;
use self::flags::Flags;
use crate::flow::Flow;

/// Which flows to show. The empty filter shows all.
#[derive(Clone, Default, Debug)]
pub struct Filter {
    allow: Flags,
    deny: Flags,
}

impl Filter {
    /// Adds a flag, with or without its dashes: `filter.allow("--pod", "shop/cart")`. Values of the
    /// same flag are alternatives, different flags must all hold. A flag without a value takes "".
    ///
    /// # Errors
    ///
    /// A flag that is not known, a value that it can't have, or a flag that goes not with an earlier
    /// one. The filter is then as it was.
    pub fn allow(&mut self, flag: &str, value: &str) -> Result<(), FilterError> {
        self.allow.add(flag, value)
    }

    /// Adds a flag that came after `--not`: flows for which all such flags hold are not shown.
    ///
    /// # Errors
    ///
    /// As for [`Filter::allow`].
    pub fn deny(&mut self, flag: &str, value: &str) -> Result<(), FilterError> {
        self.deny.add(flag, value)
    }

    /// Whether a flag of this name is one of a filter's.
    #[must_use]
    pub fn knows(flag: &str) -> bool {
        flags::known(flag).is_some()
    }

    /// Whether the flow is to be shown.
    #[must_use]
    pub fn matches(&self, flow: &Flow) -> bool {
        (self.allow.is_empty() || self.allow.matches(flow)) && !self.deny.matches(flow)
    }
}
