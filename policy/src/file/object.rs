//! Documents, objects and their rules.

use std::sync::Arc;

use super::cursor::{At, Fields, Known, Report};
use super::{egress, selector};
use crate::problem::Code;
use crate::rule::{Policy, PolicyKind, Rule, Subject};

/// Whose rule is being read.
pub(super) struct Owner<'a> {
    pub(super) kind: PolicyKind,
    /// Absent for a clusterwide policy.
    pub(super) namespace: Option<&'a str>,
    pub(super) name: &'a str,
}

const OBJECT: Known = Known {
    object: "a policy",
    read: &["apiVersion", "kind", "metadata", "spec", "specs"],
    refused: &[],
};

const METADATA: Known = Known {
    object: "metadata",
    read: &["name", "namespace", "labels", "annotations"],
    refused: &[],
};

/// Metadata that an API server writes and that says nothing about what is allowed.
const METADATA_TOLERATED: &[&str] = &[
    "labels",
    "annotations",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
    "ownerReferences",
    "finalizers",
    "selfLink",
];

const RULE: Known = Known {
    object: "a rule",
    read: &["endpointSelector", "egress", "labels", "description"],
    refused: &[
        (
            "nodeSelector",
            "policies for nodes (the host firewall) are not supported yet",
        ),
        ("ingress", "ingress rules are not supported yet"),
        ("ingressDeny", "deny rules are not supported yet"),
        ("egressDeny", "deny rules are not supported yet"),
        (
            "enableDefaultDeny",
            "`enableDefaultDeny` is not supported yet",
        ),
        ("log", "`log` is not supported yet"),
    ],
};

/// The fields that make a rule judge a direction.
const DIRECTIONS: [&str; 4] = ["ingress", "ingressDeny", "egress", "egressDeny"];

const KIND_HELP: &str = "CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy and List are read";

/// Reads one document: an object, or a list of them. Objects with an error are left out.
pub(super) fn read_document(at: &At<'_>, report: &mut Report<'_>, file: &Arc<str>) -> Vec<Policy> {
    let errors = report.errors();
    let Some(mut fields) = at.fields(report) else {
        return Vec::new();
    };
    let version = fields.take("apiVersion");
    let Some(kind_at) = fields.take("kind") else {
        fields.note_missing(report, "no `kind`");
        return Vec::new();
    };
    let kind = match kind_at.text(report) {
        Some("CiliumNetworkPolicy") => PolicyKind::CiliumNetworkPolicy,
        Some("CiliumClusterwideNetworkPolicy") => PolicyKind::CiliumClusterwideNetworkPolicy,
        Some("List") => {
            let items = fields.take("items").and_then(|items| items.items(report));
            let items = items.unwrap_or_default();
            return items
                .iter()
                .flat_map(|item| read_document(item, report, file))
                .collect();
        }
        Some(other) => {
            let fault = match other {
                "NetworkPolicy" => "NetworkPolicy is not supported yet".to_owned(),
                _ => format!("{other} is no kind of policy that is supported"),
            };
            report.note_with_help(&kind_at, (Code::NotSupported, fault), KIND_HELP);
            return Vec::new();
        }
        None => return Vec::new(),
    };
    match version.as_ref().map(|version| version.text(report)) {
        None => fields.note_missing(report, "no `apiVersion`"),
        Some(Some("cilium.io/v2") | None) => {}
        Some(Some(_)) => {
            if let Some(version) = &version {
                report.note(version, Code::InvalidValue, "only cilium.io/v2 is read");
            }
        }
    }
    read_object(kind, (at, fields), report, file)
        .into_iter()
        .filter(|_| report.errors() == errors)
        .collect()
}

fn read_object(
    kind: PolicyKind,
    (at, mut fields): (&At<'_>, Fields<'_>),
    report: &mut Report<'_>,
    file: &Arc<str>,
) -> Option<Policy> {
    let metadata = fields.take("metadata");
    let (name, namespace) = match &metadata {
        Some(metadata) => read_metadata(kind, metadata, report),
        None => {
            fields.note_missing(report, "no `metadata.name`");
            (None, None)
        }
    };
    let namespace = match kind {
        PolicyKind::CiliumNetworkPolicy | PolicyKind::NetworkPolicy => {
            Some(namespace.unwrap_or("default"))
        }
        PolicyKind::CiliumClusterwideNetworkPolicy => None,
    };
    let owner = Owner {
        kind,
        namespace,
        name: name.unwrap_or_default(),
    };
    let specs = fields.take("specs");
    let mut specs = specs
        .and_then(|specs| specs.items(report))
        .unwrap_or_default();
    specs.splice(0..0, fields.take("spec"));
    if specs.is_empty() {
        fields.note_missing(report, "an empty policy: neither `spec` nor `specs`");
    }
    let rules: Vec<Option<Rule>> = specs
        .iter()
        .map(|spec| read_rule(spec, report, &owner))
        .collect();
    fields.tolerate(&["status"]);
    fields.finish(report, &OBJECT);
    Some(Policy {
        kind,
        namespace: namespace.map(ToOwned::to_owned),
        name: name?.to_owned(),
        file: Arc::clone(file),
        line: at.node.place.line,
        audit: false,
        rules: rules.into_iter().collect::<Option<_>>()?,
    })
}

/// The name and the namespace.
fn read_metadata<'a>(
    kind: PolicyKind,
    metadata: &At<'a>,
    report: &mut Report<'_>,
) -> (Option<&'a str>, Option<&'a str>) {
    let Some(mut fields) = metadata.fields(report) else {
        return (None, None);
    };
    let name_at = fields.take("name");
    let name = name_at.as_ref().and_then(|name| name.text(report));
    if name_at.is_none() || name == Some("") {
        fields.note_missing(report, "no `name`");
    }
    let namespace_at = fields.take("namespace");
    let namespace = namespace_at.as_ref().and_then(|at| at.text(report));
    if let (PolicyKind::CiliumClusterwideNetworkPolicy, Some(at)) = (kind, &namespace_at) {
        report.note(at, Code::Conflict, "a clusterwide policy has no namespace");
    }
    fields.tolerate(METADATA_TOLERATED);
    fields.finish(report, &METADATA);
    (name, namespace.filter(|namespace| !namespace.is_empty()))
}

fn read_rule(at: &At<'_>, report: &mut Report<'_>, owner: &Owner<'_>) -> Option<Rule> {
    let mut fields = at.fields(report)?;
    check_directions(&fields, report);
    if fields.has("nodeSelector") && owner.kind == PolicyKind::CiliumNetworkPolicy {
        fields.note_missing(report, "a CiliumNetworkPolicy can't have a `nodeSelector`");
    }
    let subject = match fields.take("endpointSelector") {
        Some(_) if fields.holds("nodeSelector") => {
            fields.note_missing(report, "both `endpointSelector` and `nodeSelector`");
            None
        }
        Some(at) => selector::read_subject(&at, report, owner),
        None => {
            if !fields.holds("nodeSelector") {
                fields.note_missing(report, "no `endpointSelector`");
            }
            None
        }
    };
    if let Some(description) = fields.take("description") {
        description.text(report);
    }
    fields.tolerate(&["labels"]);
    let items = fields.take("egress").and_then(|at| at.items(report));
    let init = subject
        .as_ref()
        .is_some_and(|subject| subject.has_key("reserved", "init"));
    let egress: Vec<_> = items
        .unwrap_or_default()
        .iter()
        .map(|item| egress::read(item, report, (owner, init)).map(Arc::new))
        .collect();
    // An empty list has no effect, so it needs no support.
    let idle: Vec<&str> = DIRECTIONS
        .into_iter()
        .filter(|direction| fields.has(direction) && !fields.holds(direction))
        .collect();
    fields.tolerate(&idle);
    fields.finish(report, &RULE);
    Some(Rule {
        subject: Subject::Endpoints(subject?),
        items: egress.into_iter().collect::<Option<_>>()?,
    })
}

fn check_directions(fields: &Fields<'_>, report: &mut Report<'_>) {
    if !DIRECTIONS.iter().any(|direction| fields.holds(direction)) {
        let message = "the rule has no direction: one of `ingress`, `ingressDeny`, `egress`, \
                       `egressDeny` must have an element";
        fields.note_missing(report, message);
    }
}
