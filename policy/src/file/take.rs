//! What readers ask of a mapping again and again.

use super::cursor::{At, Fields, Report};
use super::yaml::Value;
use crate::problem::Code;

/// A list of the file and its items.
pub(super) struct List<'a> {
    pub(super) at: At<'a>,
    pub(super) items: Vec<At<'a>>,
}

impl<'a> At<'a> {
    /// The flag, if it is one.
    pub(super) fn flag(&self, report: &mut Report<'_>) -> Option<bool> {
        match &self.node.value {
            Value::Bool(flag) => Some(*flag),
            Value::Text(text) if matches!(text.as_str(), "true" | "false") => {
                let fault = "a boolean is expected here, not a string".to_owned();
                let help = format!("write {text} without quotes");
                report.note_with_help(self, (Code::WrongType, fault), help);
                None
            }
            Value::Null | Value::Number(_) | Value::Text(_) | Value::List(_) | Value::Map(_) => {
                self.expected(report, "a boolean (true or false)");
                None
            }
        }
    }

    /// The whole number up to `max`, if it is one.
    pub(super) fn number(&self, max: u16, report: &mut Report<'_>) -> Option<u16> {
        let Value::Number(text) = &self.node.value else {
            self.expected(report, "a number");
            return None;
        };
        match text.parse() {
            Ok(number) if number <= max => Some(number),
            Ok(_) | Err(_) => {
                let message = format!("{text} is no whole number from 0 to {max}");
                report.note(self, Code::InvalidValue, message);
                None
            }
        }
    }

    /// Whether it is a mapping without members.
    pub(super) fn is_empty_map(&self) -> bool {
        matches!(&self.node.value, Value::Map(members) if members.is_empty())
    }
}

impl<'a> Fields<'a> {
    /// The value of a field as a list; absent if null or of another type.
    pub(super) fn take_list(&mut self, key: &str, report: &mut Report<'_>) -> Option<List<'a>> {
        let at = self.take(key)?;
        let items = at.items(report)?;
        Some(List { at, items })
    }

    /// The value of a field as text; absent if null or of another type.
    pub(super) fn take_text(&mut self, key: &str, report: &mut Report<'_>) -> Option<&'a str> {
        self.take(key)?.text(report)
    }

    /// The same, where empty is as good as absent.
    pub(super) fn take_word(&mut self, key: &str, report: &mut Report<'_>) -> Option<&'a str> {
        self.take_text(key, report).filter(|text| !text.is_empty())
    }

    /// Text that must be there; empty is missing.
    pub(super) fn require_word(&mut self, key: &str, report: &mut Report<'_>) -> Option<&'a str> {
        let Some(at) = self.take(key) else {
            self.note_missing(report, &format!("no `{key}`"));
            return None;
        };
        let text = at.text(report)?;
        if text.is_empty() {
            report.note(&at, Code::Missing, format!("`{key}` is empty"));
        }
        Some(text).filter(|text| !text.is_empty())
    }

    /// Refuses a field that stands in the wrong place, if it holds anything.
    pub(super) fn refuse(
        &mut self,
        key: &str,
        report: &mut Report<'_>,
        (what, help): (&str, &str),
    ) {
        let Some(at) = self.take(key) else {
            return;
        };
        report.note_with_help(&at, (Code::UnknownField, what.to_owned()), help);
    }
}
