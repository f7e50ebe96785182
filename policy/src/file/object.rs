//! Documents and objects.

use std::sync::Arc;

use super::cursor::{At, Fields, Known, Report};
use super::group::Groups;
use super::yaml::Value;
use super::{network_policy, rule};
use crate::NameBinding;
use crate::problem::Code;
use crate::rule::{Policy, PolicyKind, Rule};

/// Whose rule is being read.
pub(super) struct Owner<'a> {
    pub(super) kind: PolicyKind,
    /// Absent for a clusterwide policy.
    pub(super) namespace: Option<&'a str>,
    pub(super) name: &'a str,
    /// The CIDR groups that it may refer to.
    pub(super) groups: &'a Groups,
}

/// Reads the policies of one file.
pub(super) struct Reader<'a> {
    pub(super) file: Arc<str>,
    pub(super) groups: &'a Groups,
}

const OBJECT: Known = Known {
    object: "a policy",
    read: &["apiVersion", "kind", "metadata", "spec", "specs"],
    refused: &[],
};

const NETWORK_POLICY: Known = Known {
    object: "a NetworkPolicy",
    read: &["apiVersion", "kind", "metadata", "spec"],
    refused: &[],
};

pub(super) const METADATA: Known = Known {
    object: "metadata",
    read: &["name", "namespace", "labels", "annotations"],
    refused: &[],
};

/// Metadata that an API server writes and that says nothing about what is allowed.
pub(super) const METADATA_TOLERATED: &[&str] = &[
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
    "generateName",
];

const KIND_HELP: &str = "CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy, NetworkPolicy, \
                         CiliumCIDRGroup and List are read";

/// What the annotations that are ours start with.
const ANNOTATION_PREFIX: &str = "namegate.io/";
/// The annotation that makes a policy tell its denials and let them pass.
const ANNOTATION_AUDIT: &str = "namegate.io/audit";
/// The annotation that says how strictly a policy binds what its `toFQDNs` allow to their names.
const ANNOTATION_NAME_BINDING: &str = "namegate.io/name-binding";

/// The `kind` of a document, if it says one.
pub(super) fn kind_of<'a>(at: &At<'a>) -> Option<&'a str> {
    match &member(at, "kind")?.node.value {
        Value::Text(kind) => Some(kind),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::List(_) | Value::Map(_) => None,
    }
}

/// The objects of a `kind: List`.
pub(super) fn items_of_list<'a>(at: &At<'a>) -> Vec<At<'a>> {
    let Some(items) = member(at, "items") else {
        return Vec::new();
    };
    match &items.node.value {
        Value::List(nodes) => {
            let item = |(index, node)| At {
                node,
                path: items.path.index(index),
            };
            nodes.iter().enumerate().map(item).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Map(_) => {
            Vec::new()
        }
    }
}

fn member<'a>(at: &At<'a>, key: &str) -> Option<At<'a>> {
    let Value::Map(members) = &at.node.value else {
        return None;
    };
    let member = members.iter().find(|member| member.key == key)?;
    Some(At {
        node: &member.node,
        path: at.path.key(&member.key),
    })
}

/// Refuses an `apiVersion` that the kind doesn't have.
pub(super) fn check_version(
    fields: &Fields<'_>,
    version: Option<&At<'_>>,
    (report, known): (&mut Report<'_>, &[&str]),
) {
    let Some(at) = version else {
        fields.note_missing(report, "no `apiVersion`");
        return;
    };
    if let Some(text) = at.text(report)
        && !known.contains(&text)
    {
        let message = format!("only {} is read", known.join(" and "));
        report.note(at, Code::InvalidValue, message);
    }
}

impl Reader<'_> {
    /// Reads one document: an object, or a list of them. Objects with an error are left out.
    pub(super) fn read_document(&self, at: &At<'_>, report: &mut Report<'_>) -> Vec<Policy> {
        let errors = report.errors();
        if kind_of(at) == Some("CiliumCIDRGroup") {
            return Vec::new(); // read already
        }
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
            Some("NetworkPolicy") => PolicyKind::NetworkPolicy,
            Some("List") => {
                let list = fields.take_list("items", report);
                let items = list.map(|list| list.items).unwrap_or_default();
                let read = items
                    .iter()
                    .flat_map(|item| self.read_document(item, report));
                return read.collect();
            }
            Some(other) => {
                let fault = format!("{other:?} is no kind of policy that is supported");
                report.note_with_help(&kind_at, (Code::NotSupported, fault), KIND_HELP);
                return Vec::new();
            }
            None => return Vec::new(),
        };
        let versions = match kind {
            PolicyKind::CiliumNetworkPolicy | PolicyKind::CiliumClusterwideNetworkPolicy => {
                ["cilium.io/v2"]
            }
            PolicyKind::NetworkPolicy => ["networking.k8s.io/v1"],
        };
        check_version(&fields, version.as_ref(), (report, &versions));
        self.read_object(kind, (at, fields), report)
            .into_iter()
            .filter(|_| report.errors() == errors)
            .collect()
    }

    fn read_object(
        &self,
        kind: PolicyKind,
        (at, mut fields): (&At<'_>, Fields<'_>),
        report: &mut Report<'_>,
    ) -> Option<Policy> {
        let metadata = match fields.take("metadata") {
            Some(metadata) => read_metadata(kind, &metadata, report),
            None => {
                fields.note_missing(report, "no `metadata.name`");
                Metadata::default()
            }
        };
        let namespace = match kind {
            PolicyKind::CiliumNetworkPolicy | PolicyKind::NetworkPolicy => {
                Some(metadata.namespace.unwrap_or("default"))
            }
            PolicyKind::CiliumClusterwideNetworkPolicy => None,
        };
        let owner = Owner {
            kind,
            namespace,
            name: metadata.name.unwrap_or_default(),
            groups: self.groups,
        };
        fields.tolerate(&["status"]);
        let rules = match kind {
            PolicyKind::CiliumNetworkPolicy | PolicyKind::CiliumClusterwideNetworkPolicy => {
                let rules = read_specs(&mut fields, report, &owner);
                fields.finish(report, &OBJECT);
                rules
            }
            PolicyKind::NetworkPolicy => {
                let spec = fields.take("spec");
                if spec.is_none() {
                    fields.note_missing(report, "an empty policy: no `spec`");
                }
                fields.finish(report, &NETWORK_POLICY);
                spec.and_then(|spec| network_policy::read(&spec, report, &owner))
                    .map(|rule| vec![rule])
            }
        };
        Some(Policy {
            kind,
            namespace: namespace.map(ToOwned::to_owned),
            name: metadata.name?.to_owned(),
            file: Arc::clone(&self.file),
            line: at.node.place.line,
            audit: metadata.annotations.audit,
            name_binding: metadata.annotations.name_binding,
            rules: rules?,
        })
    }
}

/// Reads `spec` and `specs`.
fn read_specs(
    fields: &mut Fields<'_>,
    report: &mut Report<'_>,
    owner: &Owner<'_>,
) -> Option<Vec<Rule>> {
    let list = fields.take_list("specs", report);
    let mut specs = list.map(|list| list.items).unwrap_or_default();
    specs.splice(0..0, fields.take("spec"));
    if specs.is_empty() {
        fields.note_missing(report, "an empty policy: neither `spec` nor `specs`");
    }
    let rules: Vec<Option<Rule>> = specs
        .iter()
        .map(|spec| rule::read(spec, report, owner))
        .collect();
    rules.into_iter().collect()
}

#[derive(Default)]
struct Metadata<'a> {
    name: Option<&'a str>,
    namespace: Option<&'a str>,
    annotations: Annotations,
}

/// What the annotations that are ours say.
#[derive(Default)]
struct Annotations {
    audit: bool,
    name_binding: Option<NameBinding>,
}

fn read_metadata<'a>(kind: PolicyKind, metadata: &At<'a>, report: &mut Report<'_>) -> Metadata<'a> {
    let Some(mut fields) = metadata.fields(report) else {
        return Metadata::default();
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
    let annotations = fields.take("annotations");
    let annotations = annotations.map(|annotations| read_annotations(&annotations, report));
    if let Some(at) = fields.take("description") {
        let message = "metadata has no `description`: it is ignored".to_owned();
        let help = "the description of a rule is `spec.description`";
        report.note_with_help(&at, (Code::NoEffect, message), help);
    }
    fields.tolerate(METADATA_TOLERATED);
    fields.finish(report, &METADATA);
    Metadata {
        name,
        namespace: namespace.filter(|namespace| !namespace.is_empty()),
        annotations: annotations.unwrap_or_default(),
    }
}

/// Those that are not ours say nothing here.
fn read_annotations(at: &At<'_>, report: &mut Report<'_>) -> Annotations {
    let mut found = Annotations::default();
    let Some(fields) = at.fields(report) else {
        return found;
    };
    for (member, at) in fields.take_rest() {
        if !member.key.starts_with(ANNOTATION_PREFIX) {
            continue;
        }
        match &*member.key {
            ANNOTATION_AUDIT => match at.text(report) {
                Some("true") => found.audit = true,
                Some("false") | None => {}
                Some(other) => no_value(&at, (other, ANNOTATION_AUDIT, BOOLEANS), report),
            },
            ANNOTATION_NAME_BINDING => match at
                .text(report)
                .map(|text| (text, NameBinding::from_word(text)))
            {
                Some((other, None)) => {
                    no_value(&at, (other, ANNOTATION_NAME_BINDING, BINDINGS), report);
                }
                Some((_, known)) => found.name_binding = known,
                None => {}
            },
            other => {
                let message = format!("unknown annotation {other:?}");
                let help = format!(
                    "the annotations of Namegate are {ANNOTATION_AUDIT} and {ANNOTATION_NAME_BINDING}"
                );
                report.note_with_help(&at, (Code::UnknownField, message), help);
            }
        }
    }
    found
}

const BOOLEANS: &str = "the values are \"true\" and \"false\"";
const BINDINGS: &str = "the values are off, audit and enforce";

fn no_value(at: &At<'_>, (text, annotation, help): (&str, &str, &str), report: &mut Report<'_>) {
    let message = format!("{text:?} is no value of {annotation}");
    report.note_with_help(at, (Code::InvalidValue, message), help);
}
