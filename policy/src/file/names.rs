//! `matchName` and `matchPattern`, in `toFQDNs` and in `rules.dns`.

use fqdn::{Everything, Pattern};

use super::cursor::{At, Known, Report};
use super::lint;
use crate::problem::Code;
use crate::rule::FqdnSelector;

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
) -> Vec<FqdnSelector> {
    let read: Vec<(&At<'_>, FqdnSelector)> = items
        .iter()
        .filter_map(|item| read_item(item, report, everything).map(|name| (item, name)))
        .collect();
    lint::warn_of_names(&read, report);
    read.into_iter().map(|(_, name)| name).collect()
}

/// Reads `{matchName}` or `{matchPattern}`.
fn read_item(at: &At<'_>, report: &mut Report<'_>, everything: Everything) -> Option<FqdnSelector> {
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
        Ok(pattern) => Some(FqdnSelector {
            text: text.into(),
            pattern,
        }),
        Err(error) => {
            let what = if name.is_some() { "name" } else { "pattern" };
            let message = format!("{text:?} is no {what}: {error}");
            report.note(at, Code::InvalidValue, message);
            None
        }
    }
}
