//! The names that may be asked of some servers.

use fqdn::{Name, PatternSet};

use crate::RuleId;
use crate::rule::FqdnSelector;

/// What all rules for a server, a port and a protocol say together.
#[derive(Debug, Default)]
pub(super) struct DnsNames {
    names: PatternSet<RuleId>,
    /// A rule for the same port without names: every name may be asked.
    opened_by: Option<RuleId>,
}

impl DnsNames {
    /// Adds a rule; one without names opens all.
    pub(super) fn add(&mut self, rule: RuleId, patterns: Option<&[FqdnSelector]>) {
        match patterns {
            Some(patterns) => {
                for pattern in patterns {
                    self.names.insert(&pattern.pattern, rule);
                }
            }
            None => {
                self.opened_by.get_or_insert(rule);
            }
        }
    }

    /// The rule by which a name may be asked.
    pub(super) fn allowing_rule(&self, name: &Name) -> Option<RuleId> {
        self.names.first_match(name.as_wire()).or(self.opened_by)
    }

    pub(super) fn is_ancestor_of_some(&self, name: &Name) -> bool {
        self.names.is_ancestor_of_some(name)
    }
}
