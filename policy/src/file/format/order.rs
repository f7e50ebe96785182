//! The order of keys that readers of policies know.

use super::tree::{Content, Document, Entry, Line, Scalar};

/// The keys of an object in their order, and what they hold. A list has the shape of its items.
struct Shape(&'static [(&'static str, Option<&'static Self>)]);

/// Kinds whose `spec` has a known shape.
const POLICIES: [&str; 4] = [
    "CiliumNetworkPolicy",
    "CiliumClusterwideNetworkPolicy",
    "NetworkPolicy",
    "List",
];

static POLICY: Shape = Shape(&[
    ("apiVersion", None),
    ("kind", None),
    ("metadata", Some(&METADATA)),
    ("spec", Some(&RULE)),
    ("specs", Some(&RULE)),
    ("items", Some(&POLICY)),
    ("status", None),
]);
/// Any other object.
static OBJECT: Shape = Shape(&[
    ("apiVersion", None),
    ("kind", None),
    ("metadata", Some(&METADATA)),
]);
static METADATA: Shape = Shape(&[
    ("name", None),
    ("namespace", None),
    ("labels", None),
    ("annotations", None),
]);
static RULE: Shape = Shape(&[
    ("description", None),
    ("endpointSelector", Some(&SELECTOR)),
    ("nodeSelector", Some(&SELECTOR)),
    ("podSelector", Some(&SELECTOR)),
    ("policyTypes", None),
    ("enableDefaultDeny", Some(&DIRECTIONS)),
    ("ingress", Some(&ITEM)),
    ("ingressDeny", Some(&ITEM)),
    ("egress", Some(&ITEM)),
    ("egressDeny", Some(&ITEM)),
    ("labels", Some(&LABEL)),
    ("log", None),
]);
static DIRECTIONS: Shape = Shape(&[("ingress", None), ("egress", None)]);
static LABEL: Shape = Shape(&[("source", None), ("key", None), ("value", None)]);
static SELECTOR: Shape = Shape(&[
    ("matchLabels", None),
    ("matchExpressions", Some(&EXPRESSION)),
]);
static EXPRESSION: Shape = Shape(&[("key", None), ("operator", None), ("values", None)]);
static ITEM: Shape = Shape(&[
    ("fromEndpoints", Some(&SELECTOR)),
    ("fromCIDR", None),
    ("fromCIDRSet", Some(&PREFIXES)),
    ("fromEntities", None),
    ("fromNodes", Some(&SELECTOR)),
    ("fromGroups", None),
    ("fromRequires", Some(&SELECTOR)),
    ("toEndpoints", Some(&SELECTOR)),
    ("toCIDR", None),
    ("toCIDRSet", Some(&PREFIXES)),
    ("toEntities", None),
    ("toServices", Some(&SERVICE)),
    ("toFQDNs", Some(&NAME)),
    ("toGroups", None),
    ("toNodes", Some(&SELECTOR)),
    ("toRequires", Some(&SELECTOR)),
    ("from", Some(&PEER)),
    ("to", Some(&PEER)),
    ("toPorts", Some(&TO_PORTS)),
    ("ports", Some(&PORT)),
    ("icmps", Some(&ICMP)),
    ("authentication", None),
]);
static PREFIXES: Shape = Shape(&[
    ("cidr", None),
    ("cidrGroupRef", None),
    ("cidrGroupSelector", Some(&SELECTOR)),
    ("except", None),
]);
static SERVICE: Shape = Shape(&[
    (
        "k8sService",
        Some(&Shape(&[("serviceName", None), ("namespace", None)])),
    ),
    (
        "k8sServiceSelector",
        Some(&Shape(&[
            ("selector", Some(&SELECTOR)),
            ("namespace", None),
        ])),
    ),
]);
static PEER: Shape = Shape(&[
    ("ipBlock", Some(&PREFIXES)),
    ("namespaceSelector", Some(&SELECTOR)),
    ("podSelector", Some(&SELECTOR)),
]);
static TO_PORTS: Shape = Shape(&[
    ("ports", Some(&PORT)),
    ("terminatingTLS", Some(&TLS)),
    ("originatingTLS", Some(&TLS)),
    ("serverNames", None),
    ("listener", None),
    ("rules", Some(&RULES)),
]);
static PORT: Shape = Shape(&[("port", None), ("endPort", None), ("protocol", None)]);
static ICMP: Shape = Shape(&[("fields", Some(&Shape(&[("family", None), ("type", None)])))]);
static TLS: Shape = Shape(&[
    ("secret", Some(&SECRET)),
    ("trustedCA", None),
    ("certificate", None),
    ("privateKey", None),
]);
static SECRET: Shape = Shape(&[("namespace", None), ("name", None)]);
static RULES: Shape = Shape(&[("http", Some(&HTTP)), ("dns", Some(&DNS))]);
static HTTP: Shape = Shape(&[
    ("method", None),
    ("path", None),
    ("host", None),
    ("headers", None),
    ("headerMatches", Some(&HEADER)),
]);
static HEADER: Shape = Shape(&[
    ("name", None),
    ("value", None),
    ("secret", Some(&SECRET)),
    ("mismatch", None),
]);
static DNS: Shape = Shape(&[("matchName", None), ("matchPattern", None), ("types", None)]);
static NAME: Shape = Shape(&[("matchName", None), ("matchPattern", None)]);

/// Puts the keys in order, and the comments where the printed form has lines for them.
pub(super) fn arrange(document: &mut Document) {
    let Some(root) = &mut document.root else {
        return;
    };
    match kind(&root.content) {
        Some(kind) if POLICIES.contains(&kind.as_str()) => sort(&mut root.content, &POLICY),
        Some(_) => sort(&mut root.content, &OBJECT),
        None => {}
    }
    lift(&mut root.content);
    if root.content.entries().is_some() {
        // A root has no line of its own.
        document.top.extend(root.beside.take().map(Line::Comment));
    }
}

fn kind(root: &Content) -> Option<String> {
    let Content::Map(entries) = root else {
        return None;
    };
    let is_kind = |key: &Scalar| key.value == "kind";
    let mut all = entries.all.iter();
    let entry = all.find(|entry| entry.key.as_ref().is_some_and(is_kind))?;
    match &entry.content {
        Content::Scalar(kind) => Some(kind.value.clone()),
        Content::List(_) | Content::Map(_) => None,
    }
}

/// Known keys first, in their order; then the others, in the file's.
fn sort(content: &mut Content, shape: &Shape) {
    let entries = match content {
        Content::Scalar(_) => return,
        Content::List(entries) => {
            for item in &mut entries.all {
                sort(&mut item.content, shape);
            }
            return;
        }
        Content::Map(entries) => entries,
    };
    let rank = |entry: &Entry| {
        let key = entry.key.as_ref().map(|key| key.value.as_str());
        shape.0.iter().position(|(name, _)| Some(*name) == key)
    };
    for entry in &mut entries.all {
        let known = rank(entry).and_then(|rank| shape.0.get(rank));
        if let Some((_, Some(inner))) = known {
            sort(&mut entry.content, inner);
        }
    }
    entries
        .all
        .sort_by_key(|entry| rank(entry).unwrap_or(usize::MAX));
}

/// Moves comments above an item's first line, and beside its dash, above the dash.
fn lift(content: &mut Content) {
    let Some(entries) = content.entries_mut() else {
        return;
    };
    for entry in &mut entries.all {
        lift(&mut entry.content);
        if entry.key.is_some() {
            continue;
        }
        let inner = entry.content.entries_mut();
        if let Some(first) = inner.and_then(|inner| inner.all.first_mut()) {
            let beside = entry.beside.take();
            entry.above.extend(beside.map(Line::Comment));
            entry.above.append(&mut first.above);
        }
    }
}
