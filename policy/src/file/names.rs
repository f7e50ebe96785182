//! `matchName` and `matchPattern`, in `toFQDNs` and in `rules.dns`.

use std::sync::Arc;

use fqdn::{Everything, Pattern};

use super::cursor::{At, Known, Report};
use super::lint;
use crate::names::NameList;
use crate::problem::Code;

const FQDN_ITEM: Known = Known {
    object: "a name selector",
    read: &["matchName", "matchPattern"],
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
    for item in items {
        if let Some(text) = read_item(item, report, everything) {
            places.push(item);
            texts.push(text);
        }
    }
    let list = NameList::new(&texts, everything);
    lint::warn_of_names(&list, &places, report);
    Arc::new(list)
}

/// Reads `{matchName}` or `{matchPattern}`: the text, if it is one.
fn read_item<'a>(at: &At<'a>, report: &mut Report<'_>, everything: Everything) -> Option<&'a str> {
    let mut fields = at.fields(report)?;
    let name = fields.take("matchName");
    let pattern = fields.take("matchPattern");
    if name.is_some() == pattern.is_some() {
        let message = "exactly one of `matchName` and `matchPattern`";
        fields.note_conflict(report, message);
    }
    fields.finish(report, &FQDN_ITEM);
    let parsed = match (&name, &pattern) {
        (Some(at), None) => at.text(report).map(|text| (at, text, Pattern::exact(text))),
        (None, Some(at)) => at
            .text(report)
            .map(|text| (at, text, Pattern::parse(text, everything))),
        (Some(_), Some(_)) | (None, None) => None,
    };
    let (at, text, parsed) = parsed?;
    match parsed {
        Ok(_) => Some(text),
        Err(error) => {
            let what = if name.is_some() { "name" } else { "pattern" };
            let message = format!("{text:?} is no {what}: {error}");
            report.note(at, Code::InvalidValue, message);
            None
        }
    }
}
