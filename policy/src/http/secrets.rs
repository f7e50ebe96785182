//! Secrets that `headerMatches` name: where, and what they hold.

use std::collections::BTreeMap;
use std::fmt;

use super::HeaderRule;
use crate::l4::L7Rules;
use crate::problem::{Code, Problem};
use crate::rule::{Item, Policy, PolicySet};

/// Namespace and name.
type Place = (Box<str>, Box<str>);

/// The values of secrets, by namespace and name. It never shows them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HeaderSecrets(BTreeMap<Place, Box<[u8]>>);

/// A place in a policy that compares a header with a secret.
#[derive(Clone, Copy, Debug)]
pub struct HeaderSecretUse<'a> {
    rule: &'a HeaderRule,
    policy: &'a Policy,
    item: &'a Item,
}

impl HeaderSecrets {
    /// Adds the value of one.
    pub fn add(&mut self, (namespace, name): (&str, &str), value: &[u8]) {
        self.0.insert((namespace.into(), name.into()), value.into());
    }

    pub(crate) fn of(&self, namespace: &str, name: &str) -> Option<Box<[u8]>> {
        self.0.get(&(namespace.into(), name.into())).cloned()
    }
}

impl fmt::Debug for HeaderSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl<'a> HeaderSecretUse<'a> {
    /// The namespace and the name of the secret.
    #[must_use]
    pub fn secret(&self) -> Option<(&'a str, &'a str)> {
        let (namespace, name) = self.rule.secret.as_ref()?;
        Some((namespace, name))
    }

    /// A problem of this place: its secret can't be had. Another value beside it stands for it then.
    #[must_use]
    pub fn problem(&self, why: &str) -> Problem {
        let (namespace, name) = self.secret().unwrap_or_default();
        let what = match self.rule.value {
            Some(_) => "`value` stands for it",
            None => "its rule never matches",
        };
        Problem {
            file: self.policy.file.to_string(),
            line: self.item.line,
            column: self.item.column,
            end_column: 0,
            severity: Code::HeaderSecret.severity(),
            code: Code::HeaderSecret,
            field: "headerMatches".to_owned(),
            message: format!(
                "policy {:?} compares header {} with secret {namespace}/{name}: {why}; {what}",
                self.policy.name, self.rule.name
            ),
            help: None,
            snippet: String::new(),
        }
    }
}

impl PolicySet {
    /// All places that compare a header with a secret.
    #[must_use]
    pub fn header_secret_uses(&self) -> Vec<HeaderSecretUse<'_>> {
        let mut uses = Vec::new();
        for (policy, _, item) in self.items() {
            let parts = item
                .port_list()
                .iter()
                .filter_map(|port| port.l7.as_deref());
            for rules in parts.filter_map(|l7| match &l7.rules {
                L7Rules::Http(rules) => Some(rules),
                L7Rules::Dns(_) | L7Rules::None => None,
            }) {
                let headers = rules.iter().flat_map(|rule| &rule.headers);
                uses.extend(
                    headers
                        .filter(|rule| rule.secret.is_some())
                        .map(|rule| HeaderSecretUse { rule, policy, item }),
                );
            }
        }
        uses
    }
}
