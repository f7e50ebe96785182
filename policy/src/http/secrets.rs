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
    secret: &'a Place,
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
    pub fn secret(&self) -> (&'a str, &'a str) {
        let (namespace, name) = self.secret;
        (namespace, name)
    }

    /// A problem of this place: its secret can't be had. Another value beside it stands for it then.
    #[must_use]
    pub fn problem(&self, why: &str) -> Problem {
        let (namespace, name) = self.secret();
        let what = match self.rule.value {
            Some(_) => "`value` stands for it",
            None => "its rule never matches",
        };
        let message = format!(
            "policy {:?} compares header {} with secret {namespace}/{name}: {why}; {what}",
            self.policy.name, self.rule.name
        );
        Problem {
            field: "headerMatches".to_owned(),
            ..Problem::of_item(self.policy, self.item, Code::HeaderSecret, message)
        }
    }
}

impl PolicySet {
    /// All places that compare a header with a secret.
    #[must_use]
    pub fn header_secret_uses(&self) -> Vec<HeaderSecretUse<'_>> {
        let mut uses = Vec::new();
        for (policy, item, l7) in self.l7_parts() {
            let rules = match &l7.rules {
                L7Rules::Http(rules) => rules.iter(),
                L7Rules::Dns(_) | L7Rules::None => continue,
            };
            let headers = rules.flat_map(|rule| &rule.headers);
            uses.extend(headers.filter_map(|rule| {
                let secret = rule.secret.as_ref()?;
                Some(HeaderSecretUse {
                    secret,
                    rule,
                    policy,
                    item,
                })
            }));
        }
        uses
    }
}
