//! Which labels tell a workload apart, whatever replica of it is seen.

use std::collections::BTreeMap;

use super::limits::LABELS_MAX;
use super::record::Party;
use super::skip::Skip;

/// The labels that a policy selects by, with the namespace that they are in.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Selector {
    pub(super) namespace: String,
    /// By key with source.
    pub(super) labels: BTreeMap<String, String>,
    /// Set where no label was left but those that differ between replicas.
    pub(super) is_of_replica: bool,
}

/// Sources of labels that are no workload's own.
const FOREIGN_SOURCES: [&str; 7] = [
    "reserved",
    "cidr",
    "cidrgroup",
    "fqdn",
    "cni",
    "unspec",
    "node",
];

/// Keys whose values differ between the replicas, or the runs, of one workload.
const REPLICA_KEYS: [&str; 11] = [
    "pod-template-hash",
    "controller-revision-hash",
    "pod-template-generation",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
    "controller-uid",
    "job-name",
    SERVICE_ACCOUNT,
];

/// The one key of Cilium's own that says something of a single workload.
const SERVICE_ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";
/// What the other keys of Cilium's own start with.
const CILIUM_PREFIX: &str = "io.cilium.";
/// The key of the namespace.
const NAMESPACE: &str = "io.kubernetes.pod.namespace";

/// The key of the namespace in a peer's selector.
pub(super) const NAMESPACE_KEY: &str = "k8s:io.kubernetes.pod.namespace";

impl Selector {
    /// The selector of a pod.
    ///
    /// # Errors
    /// If it has no namespace or no labels of its own, or some that no policy can hold.
    pub(super) fn of(party: &Party) -> Result<Self, Skip> {
        let namespace = namespace(party).ok_or(Skip::NotAWorkload)?;
        if !is_namespace(namespace) || party.labels.len() > LABELS_MAX {
            return Err(Skip::BadLabel);
        }
        let own = party.labels.iter().filter_map(|text| own_label(text));
        let (replica, lasting): (Vec<_>, Vec<_>) =
            own.partition(|label| REPLICA_KEYS.contains(&label.key));
        let is_of_replica = lasting.is_empty();
        let mut labels = BTreeMap::new();
        for label in if is_of_replica { replica } else { lasting } {
            if !label.can_be_written() {
                return Err(Skip::BadLabel);
            }
            let key = format!("{}:{}", label.source, label.key);
            let old = labels.insert(key, label.value.to_owned());
            if old.is_some_and(|old| old != label.value) {
                return Err(Skip::BadLabel);
            }
        }
        if labels.is_empty() {
            return Err(Skip::NoLabels);
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            labels,
            is_of_replica,
        })
    }
}

/// Whether a label is a workload's own, and not one of an address, a node or the namespace.
pub(super) fn is_own(label: &str) -> bool {
    own_label(label).is_some()
}

/// The namespace that a party is in, as its field or its label says.
pub(super) fn namespace(party: &Party) -> Option<&str> {
    let field = Some(party.namespace.as_str()).filter(|name| !name.is_empty());
    field.or_else(|| {
        let mut labels = party.labels.iter();
        labels.find_map(|text| text.strip_prefix(NAMESPACE_KEY)?.strip_prefix('='))
    })
}

struct Label<'a> {
    source: &'a str,
    key: &'a str,
    value: &'a str,
}

fn own_label(text: &str) -> Option<Label<'_>> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let (source, key) = name.split_once(':').unwrap_or(("k8s", name));
    let is_own = !FOREIGN_SOURCES.contains(&source)
        && key != NAMESPACE
        && (key == SERVICE_ACCOUNT || !key.starts_with(CILIUM_PREFIX));
    is_own.then_some(Label { source, key, value })
}

impl Label<'_> {
    /// Whether a selector of a policy can hold it: Kubernetes' syntax.
    fn can_be_written(&self) -> bool {
        let (prefix, name) = match self.key.split_once('/') {
            Some((prefix, name)) => (Some(prefix), name),
            None => (None, self.key),
        };
        // `any` would widen it to every source.
        let has_source = !self.source.is_empty()
            && self.source != "any"
            && self.source.bytes().all(|byte| byte.is_ascii_alphanumeric());
        has_source
            && prefix.is_none_or(is_dns_subdomain)
            && !name.is_empty()
            && is_label_word(name)
            && is_label_word(self.value)
    }
}

/// At most 63 letters, digits, `-`, `_`, `.`, with a letter or digit at both ends; or nothing.
fn is_label_word(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.len() <= 63 && text.bytes().all(is_inner) && has_alphanumeric_ends(text)
}

fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

fn is_namespace(text: &str) -> bool {
    is_dns_label(text) && text.len() <= 63
}

fn is_dns_label(text: &str) -> bool {
    let is_inner = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    !text.is_empty() && text.bytes().all(is_inner) && has_alphanumeric_ends(text)
}

fn has_alphanumeric_ends(text: &str) -> bool {
    let mut bytes = text.bytes();
    let first = bytes.next();
    let last = bytes.next_back();
    first
        .iter()
        .chain(&last)
        .all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(labels: &[&str]) -> Party {
        Party {
            namespace: "shop".to_owned(),
            labels: labels.iter().map(|&label| label.to_owned()).collect(),
            ..Party::default()
        }
    }

    fn keys(labels: &[&str]) -> Result<(Vec<String>, bool), Skip> {
        let selector = Selector::of(&party(labels))?;
        let keys = selector.labels.into_keys().collect();
        Ok((keys, selector.is_of_replica))
    }

    #[test]
    fn labels_of_replicas_addresses_and_cilium_are_left_out() {
        let labels = [
            "k8s:app=cart",
            "k8s:pod-template-hash=6f7c9d5b8",
            "k8s:controller-revision-hash=1",
            "k8s:statefulset.kubernetes.io/pod-name=cart-0",
            "k8s:apps.kubernetes.io/pod-index=0",
            "k8s:io.kubernetes.pod.namespace=shop",
            "k8s:io.cilium.k8s.policy.cluster=default",
            "k8s:io.cilium.k8s.policy.serviceaccount=cart",
            "k8s:io.cilium.k8s.namespace.labels.team=x",
            "reserved:init",
            "cidr:10.0.0.0/8",
            "fqdn:x.example",
            "cni:a=b",
            "unspec:a=b",
            "container:tier=front",
        ];
        let expected = ["container:tier", "k8s:app"].map(str::to_owned).to_vec();
        assert_eq!(keys(&labels), Ok((expected, false)));
    }

    #[test]
    fn a_pod_with_nothing_else_is_told_by_what_is_left() {
        let labels = [
            "k8s:pod-template-hash=1",
            "k8s:io.cilium.k8s.policy.cluster=c",
        ];
        let expected = vec!["k8s:pod-template-hash".to_owned()];
        assert_eq!(keys(&labels), Ok((expected, true)));
        assert_eq!(
            keys(&["k8s:io.kubernetes.pod.namespace=shop"]),
            Err(Skip::NoLabels)
        );
        assert_eq!(keys(&[]), Err(Skip::NoLabels));
    }

    #[test]
    fn labels_that_no_policy_can_hold_are_refused_and_never_dropped_alone() {
        let long = format!("k8s:app={}", "a".repeat(64));
        for bad in [
            "k8s:app=a b",
            "k8s:app=a\nspec: {}",
            "k8s:app=a#b",
            "k8s:app='x'",
            "k8s:a b=c",
            "k8s:Bad/x=c",
            "k8s:a:b=c",
            "k8s:=c",
            "any:app=c",
            "k8 s:app=c",
            "k8s:app=-a",
            "k8s:app=ü",
            &long,
        ] {
            assert_eq!(keys(&["k8s:tier=front", bad]), Err(Skip::BadLabel), "{bad}");
        }
        assert_eq!(keys(&["k8s:app=a", "k8s:app=b"]), Err(Skip::BadLabel));
        for good in ["k8s:app=", "k8s:app", "k8s:example.com/part-of=A_b.c"] {
            assert!(keys(&[good]).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_namespace_comes_from_the_field_or_the_label_and_must_be_one() {
        let mut pod = party(&["k8s:app=a", "k8s:io.kubernetes.pod.namespace=other"]);
        assert_eq!(namespace(&pod), Some("shop"));
        pod.namespace.clear();
        assert_eq!(namespace(&pod), Some("other"));
        pod.namespace = "a\nb".to_owned();
        assert_eq!(Selector::of(&pod), Err(Skip::BadLabel));
        pod.labels.clear();
        pod.namespace.clear();
        assert_eq!(Selector::of(&pod), Err(Skip::NotAWorkload));
    }

    #[test]
    fn a_workload_has_at_most_so_many_labels() {
        let labels: Vec<String> = (0..=LABELS_MAX).map(|n| format!("k8s:l{n}=x")).collect();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        assert!(keys(labels.get(1..).unwrap()).is_ok());
        assert_eq!(keys(&labels), Err(Skip::BadLabel));
    }
}
