//! `CiliumCIDRGroup`: prefixes under a name, for `cidrGroupRef` and `cidrGroupSelector`.

use std::cell::Cell;
use std::collections::BTreeMap;

use ipnet::IpNet;

use super::cursor::{At, Known, Report};
use super::object::{self, METADATA};
use super::peer::read_prefix;
use crate::limits::GROUP_PREFIXES_MAX;
use crate::problem::Code;
use crate::rule::CidrSelector;
use crate::{Label, Labels, Selector};

/// The source of a group's labels.
const SOURCE_GROUP: &str = "cidrgroup";
/// What the key of the label that names a group starts with.
const NAME_KEY_PREFIX: &str = "io.cilium.policy.cidrgroupname/";

const GROUP: Known = Known {
    object: "a CIDR group",
    read: &["apiVersion", "kind", "metadata", "spec"],
    refused: &[],
};

const SPEC: Known = Known {
    object: "a CIDR group's `spec`",
    read: &["externalCIDRs"],
    refused: &[],
};

/// All groups of a set of files.
#[derive(Debug, Default)]
pub(super) struct Groups {
    by_name: BTreeMap<String, Group>,
    /// What the references so far stand for, bounded by [`GROUP_PREFIXES_MAX`].
    resolved: Cell<usize>,
}

#[derive(Debug)]
struct Group {
    labels: Labels,
    prefixes: Vec<IpNet>,
    /// File and line.
    place: String,
}

impl Groups {
    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Reads the groups of a document; whatever else stands there is left to others.
    pub(super) fn read_document(&mut self, at: &At<'_>, report: &mut Report<'_>) {
        match object::kind_of(at) {
            Some("CiliumCIDRGroup") => self.read(at, report),
            Some("List") => {
                for item in object::items_of_list(at) {
                    self.read_document(&item, report);
                }
            }
            Some(_) | None => {}
        }
    }

    fn read(&mut self, at: &At<'_>, report: &mut Report<'_>) {
        let Some(mut fields) = at.fields(report) else {
            return;
        };
        let version = fields.take("apiVersion");
        object::check_version(&fields, version.as_ref(), (report, &VERSIONS));
        fields.tolerate(&["kind", "status"]);
        let mut labels = Labels::default();
        let name = fields.take("metadata").and_then(|metadata| {
            let (name, found) = read_metadata(&metadata, report)?;
            labels = found;
            Some(name)
        });
        let spec = fields.take("spec");
        if name.is_none() {
            fields.note_missing(report, "no `metadata.name`");
        }
        if spec.is_none() {
            fields.note_missing(report, "no `spec.externalCIDRs`");
        }
        fields.finish(report, &GROUP);
        let prefixes = spec
            .map(|spec| read_prefixes(&spec, report))
            .unwrap_or_default();
        let Some(name) = name else {
            return;
        };
        let place = report.name_of(at);
        if let Some(first) = self.by_name.get(&name) {
            let message = format!(
                "CiliumCIDRGroup {name} is here twice, first in {}",
                first.place
            );
            report.note(at, Code::Duplicate, message);
            return;
        }
        labels.insert(Label::new(
            SOURCE_GROUP,
            &format!("{NAME_KEY_PREFIX}{name}"),
            "",
        ));
        let group = Group {
            labels,
            prefixes,
            place,
        };
        self.by_name.insert(name, group);
    }

    /// The prefixes of a group, each with the holes that lie in it.
    pub(super) fn by_name(
        &self,
        (name, except): (&str, &[IpNet]),
        at: &At<'_>,
        report: &mut Report<'_>,
    ) -> Vec<CidrSelector> {
        let Some(group) = self.by_name.get(name) else {
            let message = format!("no file of the set has the CIDR group {name:?}");
            note_unknown(at, report, message);
            return Vec::new();
        };
        self.resolve((group, except), at, report)
    }

    /// The same of all groups with such labels.
    pub(super) fn by_labels(
        &self,
        (selector, except): (&Selector, &[IpNet]),
        at: &At<'_>,
        report: &mut Report<'_>,
    ) -> Vec<CidrSelector> {
        let groups = self.by_name.values();
        let mut groups = groups
            .filter(|group| selector.matches(&group.labels))
            .peekable();
        if groups.peek().is_none() {
            let message = "no CIDR group of the set has such labels".to_owned();
            note_unknown(at, report, message);
        }
        groups
            .flat_map(|group| self.resolve((group, except), at, report))
            .collect()
    }

    fn resolve(
        &self,
        (group, except): (&Group, &[IpNet]),
        at: &At<'_>,
        report: &mut Report<'_>,
    ) -> Vec<CidrSelector> {
        let cost = group.prefixes.len().saturating_mul(1 + except.len());
        let before = self.resolved.get();
        let after = before.saturating_add(cost);
        self.resolved.set(after);
        if after > GROUP_PREFIXES_MAX {
            if before <= GROUP_PREFIXES_MAX {
                let message = format!(
                    "the references of the set to CIDR groups stand for more than \
                     {GROUP_PREFIXES_MAX} prefixes (GROUP_PREFIXES_MAX)"
                );
                report.note(at, Code::Limit, message);
            }
            return Vec::new();
        }
        let prefixes = group.prefixes.iter();
        let open = prefixes.filter(|prefix| !except.iter().any(|hole| hole.contains(*prefix)));
        let with_holes = open.map(|prefix| CidrSelector {
            prefix: *prefix,
            except: except
                .iter()
                .copied()
                .filter(|hole| prefix.contains(hole))
                .collect(),
        });
        with_holes.collect()
    }
}

const VERSIONS: [&str; 2] = ["cilium.io/v2", "cilium.io/v2alpha1"];

fn note_unknown(at: &At<'_>, report: &mut Report<'_>, message: String) {
    let help = "CIDR groups are read from the same set of files: add the CiliumCIDRGroup object, or \
                write the prefixes as `cidr`";
    report.note_with_help(at, (Code::NotSupported, message), help);
}

/// The name and the labels.
fn read_metadata(metadata: &At<'_>, report: &mut Report<'_>) -> Option<(String, Labels)> {
    let mut fields = metadata.fields(report)?;
    let name = fields.take_word("name", report);
    let mut labels = Labels::default();
    if let Some(members) = fields
        .take("labels")
        .and_then(|labels| labels.fields(report))
    {
        for (member, at) in members.take_rest() {
            if let Some(value) = at.text(report) {
                labels.insert(Label::new(SOURCE_GROUP, &member.key, value));
            }
        }
    }
    if let Some(at) = fields.take("namespace") {
        report.note(&at, Code::Conflict, "a CIDR group has no namespace");
    }
    fields.tolerate(object::METADATA_TOLERATED);
    fields.finish(report, &METADATA);
    name.map(|name| (name.to_owned(), labels))
}

fn read_prefixes(spec: &At<'_>, report: &mut Report<'_>) -> Vec<IpNet> {
    let Some(mut fields) = spec.fields(report) else {
        return Vec::new();
    };
    if !fields.has("externalCIDRs") {
        fields.note_missing(report, "no `externalCIDRs`");
    }
    let list = fields.take_list("externalCIDRs", report);
    fields.finish(report, &SPEC);
    let items = list.map(|list| list.items).unwrap_or_default();
    items
        .iter()
        .filter_map(|item| read_prefix(item, report))
        .collect()
}
