//! `matchName` and `matchPattern`, in `toFQDNs` and in `rules.dns`.

use std::sync::Arc;

use fqdn::{Everything, Pattern};

use super::cursor::{At, Known, Report};
use super::lint;
use crate::names::NameList;
use crate::problem::Code;
use crate::record_type;

const FQDN_ITEM: Known = Known {
    object: "a name selector",
    read: &["matchName", "matchPattern"],
    refused: &[],
};
const DNS_ITEM: Known = Known {
    object: "a DNS rule",
    read: &["matchName", "matchPattern", "types"],
    refused: &[],
};

/// Reads a list of names and patterns.
pub(super) fn read_list(
    items: &[At<'_>],
    report: &mut Report<'_>,
    everything: Everything,
) -> Arc<NameList> {
    let mut places = Vec::with_capacity(items.len());
    let mut texts = Vec::with_capacity(items.len());
    let mut types = Vec::new();
    for item in items {
        if let Some((text, own)) = read_item(item, report, everything) {
            places.push(item);
            texts.push(text);
            types.push(own);
        }
    }
    let list = NameList::new(&texts, everything).with_types(types);
    lint::warn_of_names(&list, &places, report);
    Arc::new(list)
}

/// Reads `{matchName}` or `{matchPattern}`: the text, if it is one, and in a DNS rule the types of records
/// that may be asked for, none for all.
fn read_item<'a>(
    at: &At<'a>,
    report: &mut Report<'_>,
    everything: Everything,
) -> Option<(&'a str, Box<[u16]>)> {
    let mut fields = at.fields(report)?;
    let name = fields.take("matchName");
    let pattern = fields.take("matchPattern");
    if name.is_some() == pattern.is_some() {
        let message = "exactly one of `matchName` and `matchPattern`";
        fields.note_conflict(report, message);
    }
    let (known, types) = match everything {
        Everything::AnyName => (&DNS_ITEM, fields.take_list("types", report)),
        Everything::PlainNames => (&FQDN_ITEM, None),
    };
    fields.finish(report, known);
    let types = match types {
        Some(list) => read_types(&list.at, &list.items, report)?,
        None => Box::default(),
    };
    let parsed = match (&name, &pattern) {
        (Some(at), None) => at.text(report).map(|text| (at, text, Pattern::exact(text))),
        (None, Some(at)) => at
            .text(report)
            .map(|text| (at, text, Pattern::parse(text, everything))),
        (Some(_), Some(_)) | (None, None) => None,
    };
    let (at, text, parsed) = parsed?;
    match parsed {
        Ok(_) => Some((text, types)),
        Err(error) => {
            let what = if name.is_some() { "name" } else { "pattern" };
            let message = format!("{text:?} is no {what}: {error}");
            report.note(at, Code::InvalidValue, message);
            None
        }
    }
}

/// Reads `types`. An empty list would allow nothing, where lists of names that are empty limit nothing.
fn read_types(at: &At<'_>, items: &[At<'_>], report: &mut Report<'_>) -> Option<Box<[u16]>> {
    if items.is_empty() {
        let message = "`types` is empty: no question would be allowed".to_owned();
        let help = "leave it out to allow all types, or leave the name out";
        report.note_with_help(at, (Code::InvalidValue, message), help);
        return None;
    }
    let mut types = Vec::with_capacity(items.len());
    for item in items {
        let text = item.text(report)?;
        let Some(number) = record_type(text) else {
            let message = format!("{text:?} is no type of DNS records");
            let help = "write it in capitals, as A, AAAA, TXT, HTTPS, or by its number, as TYPE65";
            report.note_with_help(item, (Code::InvalidValue, message), help);
            return None;
        };
        types.push(number);
    }
    types.sort_unstable();
    types.dedup();
    Some(types.into())
}
