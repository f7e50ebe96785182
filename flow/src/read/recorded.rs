//! A line as it was recorded, with all that is in it: also what our own flow has no room for.

use serde_json::{Map, Value};

use super::fields::{Fields as Read, lower_camel, unsigned};
use super::{Line, ReadError, json, unknown};
use crate::json::{Object, string};
use crate::mask::FieldMask;
use crate::schema::{Enum, FLOW, Fields, LINE, Type};
use crate::time::Time;

/// A line of an exporter's file, and what it says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recorded {
    line: Line,
    value: Value,
}

impl Recorded {
    /// Reads a line, with or without its newline.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn parse(text: &str) -> Result<Self, ReadError> {
        let value = json(text)?;
        let line = Line::read(&Read::of(&value)?)?;
        Ok(Self { line, value })
    }

    /// What it says.
    #[must_use]
    pub const fn line(&self) -> &Line {
        &self.line
    }

    /// The path of the first field that no event has; none if all are known.
    #[must_use]
    pub fn unknown_field(&self) -> Option<String> {
        unknown::first(&self.value)
    }

    /// Appends the line as Hubble's command writes it, without a newline: keys as declared and in that order, no
    /// zero values, no fields that nobody knows, values of enums by name where they have one; of the flow what
    /// the mask wants.
    pub fn write_json(&self, mask: &FieldMask, out: &mut String) {
        let Some(line) = self.value.as_object() else {
            return;
        };
        Object::write(out, |object| {
            for (key, field) in LINE {
                match (*key, value_of(line, key)) {
                    ("flow", Some(Value::Object(flow))) => {
                        object.masked(key, mask, |object| write(FLOW, flow, object));
                    }
                    (_, Some(value)) => write_field((key, *field), value, object),
                    (_, None) => {}
                }
            }
        });
    }
}

fn write(fields: Fields, message: &Map<String, Value>, object: &mut Object<'_>) {
    for (key, field) in fields {
        if let Some(value) = value_of(message, key) {
            write_field((key, *field), value, object);
        }
    }
}

/// A value of another type than its field's was refused when the line was read, or nobody reads it: then nothing
/// is written.
fn write_field((key, field): (&str, Type), value: &Value, object: &mut Object<'_>) {
    let number = || unsigned(value).and_then(|number| u32::try_from(number).ok());
    match (field, value) {
        (Type::Text, Value::String(text)) => object.text(key, text),
        (Type::Number, _) => object.number(key, number().unwrap_or(0)),
        (Type::Long, _) => object.long(key, unsigned(value).unwrap_or(0)),
        (Type::SignedOrNone, Value::Number(_)) => object.raw(key, value),
        (Type::SignedOrNone, Value::String(digits)) => object.raw(key, digits),
        (Type::Flag, _) => object.flag(key, value.as_bool() == Some(true)),
        (Type::FlagOrNone, Value::Bool(_)) => object.raw(key, value),
        (Type::Time, Value::String(text)) => object.time(key, Time::from_rfc3339(text)),
        (Type::Enum(values), _) => write_enum((key, values), value, object),
        (Type::Message(fields), Value::Object(message)) => {
            object.nested(key, |object| write(fields, message, object));
        }
        (Type::Texts, Value::Array(items)) => object.list(key, items, |out, item| {
            string(item.as_str().unwrap_or(""), out);
        }),
        (Type::Messages(fields), Value::Array(items)) => object.list(key, items, |out, item| {
            Object::write(out, |object| {
                if let Some(message) = item.as_object() {
                    write(fields, message, object);
                }
            });
        }),
        _ => {}
    }
}

/// By name; by number where there is no name; a name that nobody knows is as if it weren't there.
fn write_enum((key, values): (&str, &Enum), value: &Value, object: &mut Object<'_>) {
    let number = match value.as_str() {
        Some(name) => (values.number)(name).map(i64::from),
        None => value.as_i64(),
    };
    let Some(number) = number.filter(|number| *number != 0) else {
        return;
    };
    match u32::try_from(number).ok().and_then(values.name) {
        Some(name) => object.name(key, &name, false),
        None => object.raw(key, number),
    }
}

fn value_of<'a>(message: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    let value = message.get(key).or_else(|| message.get(&lower_camel(key)));
    value.filter(|value| !value.is_null())
}
