//! Labels: what identities are made of.

use std::collections::BTreeSet;
use std::fmt;

/// The source of labels that Kubernetes (or an endpoint file) gives.
pub(crate) const SOURCE_K8S: &str = "k8s";
/// The source of labels that name a fixed identity.
pub(crate) const SOURCE_RESERVED: &str = "reserved";
/// The label that says in which namespace a workload is.
pub(crate) const NAMESPACE_KEY: &str = "io.kubernetes.pod.namespace";
/// What the keys of a namespace's own labels start with.
pub(crate) const NAMESPACE_LABELS_PREFIX: &str = "io.cilium.k8s.namespace.labels.";

/// One label, `source:key=value`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label {
    source: Box<str>,
    key: Box<str>,
    value: Box<str>,
}

impl Label {
    /// A label of a known source.
    #[must_use]
    pub fn new(source: &str, key: &str, value: &str) -> Self {
        Self {
            source: source.into(),
            key: key.into(),
            value: value.into(),
        }
    }

    /// A label as an endpoint file writes it: the source is `k8s` unless the key names another
    /// (`container:app`).
    #[must_use]
    pub fn from_key(key: &str, value: &str) -> Self {
        match key.split_once(':') {
            Some((source, key)) => Self::new(source, key, value),
            None => Self::new(SOURCE_K8S, key, value),
        }
    }

    /// The label of a fixed identity, `reserved:<name>`.
    #[must_use]
    pub fn reserved(name: &str) -> Self {
        Self::new(SOURCE_RESERVED, name, "")
    }

    pub(crate) fn is_reserved(&self) -> bool {
        *self.source == *SOURCE_RESERVED
    }

    /// Who gave the label.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The key, without source.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The value; may be empty.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.key)?;
        if self.value.is_empty() {
            return Ok(());
        }
        write!(f, "={}", self.value)
    }
}

/// A sorted set of labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(BTreeSet<Label>);

impl Labels {
    /// The labels in order.
    pub fn iter(&self) -> impl Iterator<Item = &Label> {
        self.0.iter()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a label; another one of the same source and key gives way.
    pub fn insert(&mut self, label: Label) {
        self.0
            .retain(|old| old.source != label.source || old.key != label.key);
        self.0.insert(label);
    }

    /// Whether the fixed label `reserved:<name>` is among them.
    #[must_use]
    pub fn has_reserved(&self, name: &str) -> bool {
        self.with_key(Some(SOURCE_RESERVED), name).next().is_some()
    }

    /// The labels with this key, of one source or of any.
    pub(crate) fn with_key<'a>(
        &'a self,
        source: Option<&'a str>,
        key: &'a str,
    ) -> impl Iterator<Item = &'a Label> {
        self.0
            .iter()
            .filter(move |label| source.is_none_or(|source| *label.source == *source))
            .filter(move |label| *label.key == *key)
    }

    /// The whole set as one text, in order, each label ended by `;` (a `;` or `\` inside is
    /// escaped): equal sets, equal texts.
    #[must_use]
    pub fn to_sorted_text(&self) -> String {
        let mut text = String::new();
        for label in &self.0 {
            for ch in label.to_string().chars() {
                if matches!(ch, ';' | '\\') {
                    text.push('\\');
                }
                text.push(ch);
            }
            text.push(';');
        }
        text
    }
}

impl FromIterator<Label> for Labels {
    fn from_iter<I: IntoIterator<Item = Label>>(labels: I) -> Self {
        let mut set = Self::default();
        for label in labels {
            set.insert(label);
        }
        set
    }
}
