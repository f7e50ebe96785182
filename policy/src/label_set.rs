//! The labels of an address outside: what a learned address or a prefix of policy stands for.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::Identity;
use crate::label::{Label, Labels};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The identity of an address of which nothing else is known.
    #[must_use]
    pub const fn world(self) -> Identity {
        match self {
            Self::V4 => Identity::WORLD_IPV4,
            Self::V6 => Identity::WORLD_IPV6,
        }
    }

    /// The name of the world label.
    pub(crate) const fn world_label(self) -> &'static str {
        match self {
            Self::V4 => "world-ipv4",
            Self::V6 => "world-ipv6",
        }
    }
}

/// The whole label set of an address outside the cluster: the world label of its family, a label
/// for each prefix of policy that holds it, one for each FQDN selector that matches its names.
///
/// Equal sets share one identity. Selectors are compared as written, prefixes as prefixes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelSet {
    family: Family,
    prefixes: Vec<IpNet>,
    selectors: Vec<Arc<str>>,
}

impl LabelSet {
    /// The world label of a family and nothing else.
    #[must_use]
    pub const fn world(family: Family) -> Self {
        Self {
            family,
            prefixes: Vec::new(),
            selectors: Vec::new(),
        }
    }

    /// A set from its parts, in any order, doubles allowed. A prefix of length 0 is the world label.
    #[must_use]
    pub fn new(family: Family, mut prefixes: Vec<IpNet>, mut selectors: Vec<Arc<str>>) -> Self {
        prefixes.retain(|prefix| prefix.prefix_len() > 0);
        prefixes.sort_unstable();
        prefixes.dedup();
        selectors.sort_unstable();
        selectors.dedup();
        Self {
            family,
            prefixes,
            selectors,
        }
    }

    /// The family.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    /// The prefixes, sorted.
    #[must_use]
    pub fn prefixes(&self) -> &[IpNet] {
        &self.prefixes
    }

    /// The FQDN selectors as written, sorted.
    #[must_use]
    pub fn selectors(&self) -> &[Arc<str>] {
        &self.selectors
    }

    /// Whether the set is the world label and nothing else: identity 9 or 10, never counted.
    #[must_use]
    pub fn is_world(&self) -> bool {
        self.prefixes.is_empty() && self.selectors.is_empty()
    }

    /// Whether an FQDN selector, as written, is in the set.
    #[must_use]
    pub fn has_selector(&self, text: &str) -> bool {
        self.selectors
            .binary_search_by(|selector| (**selector).cmp(text))
            .is_ok()
    }

    /// Whether an address with these labels is selected by a prefix of policy.
    #[must_use]
    pub fn is_inside(&self, prefix: &IpNet) -> bool {
        if prefix.prefix_len() == 0 {
            return Family::of(prefix.addr()) == self.family;
        }
        self.prefixes.iter().any(|own| prefix.contains(own))
    }

    /// The same as labels, for flows and for label selectors.
    #[must_use]
    pub fn to_labels(&self) -> Labels {
        let prefixes = self.prefixes.iter().map(|prefix| {
            // A label key holds no colon: Cilium writes `-`, with a 0 at an end that would be one.
            let text = prefix.to_string().replace(':', "-");
            let text = text.replace("-/", "-0/");
            let zero = if text.starts_with('-') { "0" } else { "" };
            Label::new("cidr", &format!("{zero}{text}"), "")
        });
        let selectors = self.selectors.iter();
        let selectors = selectors.map(|text| Label::new("fqdn", text, ""));
        let world = Label::reserved(self.family.world_label());
        prefixes.chain(selectors).chain([world]).collect()
    }
}

impl fmt::Debug for LabelSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.to_labels().iter().map(ToString::to_string))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_become_label_keys_without_colons() {
        let prefixes = ["::1/128", "2001:db8::/32", "10.0.0.0/8", "0.0.0.0/0"];
        let prefixes = prefixes.map(|text| text.parse().unwrap()).to_vec();
        let set = LabelSet::new(Family::V6, prefixes, vec!["*.x.io".into(), "*.x.io".into()]);
        let labels: Vec<String> = set.to_labels().iter().map(ToString::to_string).collect();
        assert_eq!(
            labels,
            [
                "cidr:0--1/128",
                "cidr:10.0.0.0/8",
                "cidr:2001-db8--0/32",
                "fqdn:*.x.io",
                "reserved:world-ipv6"
            ]
        );
    }
}
