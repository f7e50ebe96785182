//! Label selectors: who a rule is about, and which workloads a peer stands for.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::label::{
    Label, Labels, NAMESPACE_KEY, NAMESPACE_LABELS_PREFIX, SOURCE_K8S, SOURCE_RESERVED,
};

/// The source of labels that stand for prefixes.
const SOURCE_CIDR: &str = "cidr";

/// A label selector with the namespace rules of its policy already in it; all parts must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    requirements: Vec<Requirement>,
    /// Whether the text itself pins a label to a value, what the namespace rules add left out.
    names_labels: bool,
}

/// One condition on one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Requirement {
    pub(crate) key: SelectorKey,
    pub(crate) condition: Condition,
}

/// A key in a selector.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SelectorKey {
    /// `None` is any source.
    pub(crate) source: Option<Box<str>>,
    pub(crate) key: Box<str>,
}

/// What must hold for the labels with the key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Condition {
    In(BTreeSet<Box<str>>),
    /// Holds also where the label is missing.
    NotIn(BTreeSet<Box<str>>),
    Exists,
    DoesNotExist,
}

/// Why a text is no selector key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyError {
    TwoColons,
    Source,
    Prefix,
    Name,
}

impl Selector {
    /// A selector from what stands in the file.
    pub(crate) fn new(requirements: Vec<Requirement>) -> Self {
        let names_labels = requirements
            .iter()
            .any(|requirement| matches!(requirement.condition, Condition::In(_)));
        Self {
            requirements,
            names_labels,
        }
    }

    pub(crate) fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether the labels satisfy every part.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.holds(labels))
    }

    /// Whether it can match an address outside: those have no labels of Kubernetes.
    pub(crate) fn may_match_outside(&self) -> bool {
        !self.requirements.iter().any(|requirement| {
            let is_needed = match requirement.condition {
                Condition::In(_) | Condition::Exists => true,
                Condition::NotIn(_) | Condition::DoesNotExist => false,
            };
            is_needed && requirement.key.source.as_deref() == Some(SOURCE_K8S)
        })
    }

    /// Whether its author names servers by a label's value, rather than "all".
    #[must_use]
    pub fn names_labels(&self) -> bool {
        self.names_labels
    }

    pub(crate) fn has_reserved_key(&self) -> bool {
        self.requirements
            .iter()
            .any(|requirement| requirement.key.source.as_deref() == Some(SOURCE_RESERVED))
    }

    pub(crate) fn has_key(&self, source: &str, key: &str) -> bool {
        self.requirements.iter().any(|requirement| {
            requirement.key.source.as_deref() == Some(source) && *requirement.key.key == *key
        })
    }

    fn has_namespace_key(&self) -> bool {
        self.requirements
            .iter()
            .any(|requirement| requirement.key.is_namespace())
    }

    /// Makes this the subject of a policy of `namespace`.
    pub(crate) fn confine_subject(&mut self, namespace: &str) {
        self.requirements.push(in_namespace(namespace));
    }

    /// Makes this a peer of a policy of `namespace`: its own namespace unless the text names one.
    pub(crate) fn confine_peer(&mut self, namespace: &str) {
        if !self.has_reserved_key() && !self.has_namespace_key() {
            self.requirements.push(in_namespace(namespace));
        }
    }

    /// Makes this a peer of a clusterwide policy: workloads of every namespace, not nodes or world.
    pub(crate) fn confine_clusterwide_peer(&mut self) {
        if !self.has_reserved_key() && !self.has_namespace_key() {
            self.requirements.push(Requirement {
                key: SelectorKey::namespace(),
                condition: Condition::Exists,
            });
        }
    }
}

impl Requirement {
    fn holds(&self, labels: &Labels) -> bool {
        if let Some(prefix) = self.key.as_prefix() {
            return self.holds_inside(prefix, labels);
        }
        let mut with_key = labels.with_key(self.key.source.as_deref(), &self.key.key);
        match &self.condition {
            Condition::In(values) => with_key.any(|label| values.contains(label.value())),
            Condition::NotIn(values) => !with_key.any(|label| values.contains(label.value())),
            Condition::Exists => with_key.next().is_some(),
            Condition::DoesNotExist => with_key.next().is_none(),
        }
    }
}

impl Requirement {
    /// Labels of prefixes compare by containment: `cidr:10.0.0.0/8` stands for all inside it. They have
    /// no values.
    fn holds_inside(&self, prefix: IpNet, labels: &Labels) -> bool {
        let is_inside = labels.iter().any(|label| {
            label.source() == SOURCE_CIDR
                && prefix_of_key(label.key()).is_some_and(|inner| prefix.contains(&inner))
        });
        match &self.condition {
            Condition::In(values) => is_inside && values.contains(""),
            Condition::NotIn(values) => !is_inside || !values.contains(""),
            Condition::Exists => is_inside,
            Condition::DoesNotExist => !is_inside,
        }
    }
}

/// A prefix as the key of a label: `-` stands for the colon of IPv6, with a 0 at an end that is one.
fn prefix_of_key(key: &str) -> Option<IpNet> {
    key.replace('-', ":").parse().ok()
}

impl SelectorKey {
    /// The prefix that a key of source `cidr` stands for.
    fn as_prefix(&self) -> Option<IpNet> {
        if self.source.as_deref() == Some(SOURCE_CIDR) {
            prefix_of_key(&self.key)
        } else {
            None
        }
    }

    /// Reads a key: `foo` is of any source, `k8s:foo` of one, a leading `$` means `reserved:`.
    pub(crate) fn parse(text: &str) -> Result<Self, KeyError> {
        let (source, key) = match (text.strip_prefix('$'), text.split_once(':')) {
            (Some(key), _) => (Some(SOURCE_RESERVED), key),
            (None, Some(("any", key))) => (None, key),
            (None, Some((source, key))) => (Some(source), key),
            (None, None) => (None, text),
        };
        if key.contains(':') {
            return Err(KeyError::TwoColons);
        }
        if source.is_some_and(|source| {
            source.is_empty() || !source.bytes().all(|byte| byte.is_ascii_alphanumeric())
        }) {
            return Err(KeyError::Source);
        }
        let (prefix, name) = match key.split_once('/') {
            Some((prefix, name)) => (Some(prefix), name),
            None => (None, key),
        };
        if prefix.is_some_and(|prefix| !is_subdomain(prefix)) {
            return Err(KeyError::Prefix);
        }
        if name.is_empty() || !is_label_word(name) {
            return Err(KeyError::Name);
        }
        Ok(Self {
            source: source.map(Into::into),
            key: key.into(),
        })
    }

    /// The key of the label that says in which namespace a workload is.
    pub(crate) fn namespace() -> Self {
        Self {
            source: Some(SOURCE_K8S.into()),
            key: NAMESPACE_KEY.into(),
        }
    }

    /// Whether this is the very key that the namespace rules own.
    pub(crate) fn is_own_namespace(&self) -> bool {
        *self == Self::namespace()
    }

    fn is_namespace(&self) -> bool {
        matches!(self.source.as_deref(), None | Some(SOURCE_K8S))
            && (*self.key == *NAMESPACE_KEY || self.key.starts_with(NAMESPACE_LABELS_PREFIX))
    }
}

/// Whether the text may be a label's value (Kubernetes' syntax; empty is allowed).
pub(crate) fn is_label_word(text: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_none_or(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 63
        && edge(text.bytes().next())
        && edge(text.bytes().next_back())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn is_subdomain(text: &str) -> bool {
    let word = |word: &str| {
        !word.is_empty()
            && !word.starts_with('-')
            && !word.ends_with('-')
            && word
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    text.len() <= 253 && text.split('.').all(word)
}

fn in_namespace(namespace: &str) -> Requirement {
    Requirement {
        key: SelectorKey::namespace(),
        condition: Condition::In(BTreeSet::from([namespace.into()])),
    }
}

/// The labels that a workload has by being in a namespace.
pub(crate) fn namespace_labels(namespace: &str) -> [Label; 2] {
    let name_key = format!("{NAMESPACE_LABELS_PREFIX}kubernetes.io/metadata.name");
    [
        Label::new(SOURCE_K8S, NAMESPACE_KEY, namespace),
        Label::new(SOURCE_K8S, &name_key, namespace),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_prefixes_compare_by_containment() {
        let labels: Labels = ["10.1.2.3/32", "2001-db8--0/32"]
            .map(|key| Label::new("cidr", key, ""))
            .into_iter()
            .collect();
        for (key, expected) in [
            ("cidr:10.0.0.0/8", true),
            ("cidr:10.1.2.3/32", true),
            ("cidr:11.0.0.0/8", false),
            ("cidr:2001--0/16", true),
            ("cidr:2001-db9--0/32", false),
            ("10.0.0.0/8", false), // of any source: a key as others
        ] {
            let key = SelectorKey::parse(key).unwrap();
            let holds = |condition: Condition| {
                let key = key.clone();
                Selector::new(vec![Requirement { key, condition }]).matches(&labels)
            };
            assert_eq!(holds(Condition::Exists), expected, "{key:?}");
            assert_eq!(holds(Condition::DoesNotExist), !expected, "{key:?}");
            let empty = BTreeSet::from(["".into()]);
            assert_eq!(holds(Condition::In(empty)), expected, "{key:?}");
        }
    }

    #[test]
    fn keys_follow_the_syntax() {
        let key = |text: &str| {
            SelectorKey::parse(text)
                .map(|key| (key.source.map(String::from), String::from(key.key)))
        };
        let of = |source: Option<&str>, key: &str| Ok((source.map(Into::into), key.to_owned()));
        assert_eq!(key("foo"), of(None, "foo"));
        assert_eq!(key("any:foo"), of(None, "foo"));
        assert_eq!(key("k8s:a.b/foo_x"), of(Some("k8s"), "a.b/foo_x"));
        assert_eq!(key("$host"), of(Some("reserved"), "host"));
        assert_eq!(key("a:b:c"), Err(KeyError::TwoColons));
        assert_eq!(key(":b"), Err(KeyError::Source));
        assert_eq!(key("k-8:b"), Err(KeyError::Source));
        assert_eq!(key("A/b"), Err(KeyError::Prefix));
        assert_eq!(key("a/"), Err(KeyError::Name));
        assert_eq!(key("-a"), Err(KeyError::Name));
        assert_eq!(key(&"a".repeat(64)), Err(KeyError::Name));
        assert!(is_label_word("") && is_label_word("a.b_c-d") && !is_label_word("a "));
    }
}
