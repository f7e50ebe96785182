//! The fields of a JSON object, by type, with protobuf's tolerance.

use std::str::FromStr;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::ReadError;
use crate::time::Time;

/// A JSON object. A key that is missing, and one whose value is null, is the zero value.
pub(super) struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub(super) fn of(value: &'a Value) -> Result<Self, ReadError> {
        let not_an_object = || ReadError::NotJson {
            problem: "another type of value".to_owned(),
        };
        value.as_object().map(Self).ok_or_else(not_an_object)
    }

    pub(super) fn object(&self, key: &'static str) -> Result<Option<Self>, ReadError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        value
            .as_object()
            .map(|object| Some(Self(object)))
            .ok_or_else(|| bad(key, value))
    }

    pub(super) fn objects(&self, key: &'static str) -> Result<Vec<Self>, ReadError> {
        let objects = self
            .items(key)?
            .iter()
            .map(|item| item.as_object().map(Self));
        objects.collect::<Option<_>>().ok_or_else(|| self.bad(key))
    }

    pub(super) fn text(&self, key: &'static str) -> Result<&'a str, ReadError> {
        let Some(value) = self.value(key) else {
            return Ok("");
        };
        value.as_str().ok_or_else(|| bad(key, value))
    }

    pub(super) fn texts(&self, key: &'static str) -> Result<Vec<Arc<str>>, ReadError> {
        self.each_text(key, |text| Arc::from(text))
    }

    pub(super) fn each_text<T>(
        &self,
        key: &'static str,
        read: impl Fn(&str) -> T,
    ) -> Result<Vec<T>, ReadError> {
        let items = self.items(key)?.iter().map(|item| item.as_str().map(&read));
        items.collect::<Option<_>>().ok_or_else(|| self.bad(key))
    }

    /// A text that stands for something; the empty one stands for nothing.
    pub(super) fn parsed<T: FromStr>(&self, key: &'static str) -> Result<Option<T>, ReadError> {
        let text = self.text(key)?;
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| self.bad(key))
    }

    pub(super) fn all_parsed<T: FromStr>(&self, key: &'static str) -> Result<Vec<T>, ReadError> {
        let items = self.each_text(key, |text| text.parse().ok())?;
        items
            .into_iter()
            .collect::<Option<_>>()
            .ok_or_else(|| self.bad(key))
    }

    pub(super) fn time(&self, key: &'static str) -> Result<Option<Time>, ReadError> {
        let text = self.text(key)?;
        if text.is_empty() {
            return Ok(None);
        }
        Time::from_rfc3339(text)
            .map(Some)
            .ok_or_else(|| self.bad(key))
    }

    pub(super) fn flag(&self, key: &'static str) -> Result<Option<bool>, ReadError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        value.as_bool().map(Some).ok_or_else(|| bad(key, value))
    }

    pub(super) fn long(&self, key: &'static str) -> Result<u64, ReadError> {
        let Some(value) = self.value(key) else {
            return Ok(0);
        };
        unsigned(value).ok_or_else(|| bad(key, value))
    }

    pub(super) fn number(&self, key: &'static str) -> Result<u32, ReadError> {
        self.small(key)
    }

    /// A number that may not be there.
    pub(super) fn optional(&self, key: &'static str) -> Result<Option<u32>, ReadError> {
        self.value(key).map(|_| self.number(key)).transpose()
    }

    /// A number of any width.
    pub(super) fn small<T: TryFrom<u64>>(&self, key: &'static str) -> Result<T, ReadError> {
        T::try_from(self.long(key)?).map_err(|_| self.bad(key))
    }

    pub(super) fn signed(&self, key: &'static str) -> Result<Option<i32>, ReadError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let number = value.as_i64().or_else(|| value.as_str()?.parse().ok());
        let number = number.and_then(|number| i32::try_from(number).ok());
        number.map(Some).ok_or_else(|| bad(key, value))
    }

    /// A value of an enum; one that is not known is the zero value.
    pub(super) fn enumerated<T: Default>(
        &self,
        key: &'static str,
        (from_name, from_number): (impl Fn(&str) -> Option<T>, impl Fn(usize) -> Option<T>),
    ) -> Result<T, ReadError> {
        let known = match self.value(key) {
            None => None,
            Some(Value::String(name)) => from_name(name),
            Some(value) => {
                let number = value.as_i64().ok_or_else(|| bad(key, value))?;
                usize::try_from(number).ok().and_then(from_number)
            }
        };
        Ok(known.unwrap_or_default())
    }

    /// The number of an enum's value that has no name; 0 for all others.
    pub(super) fn nameless<T>(
        &self,
        key: &'static str,
        from_number: impl Fn(usize) -> Option<T>,
    ) -> Result<i32, ReadError> {
        let Some(value) = self.value(key).filter(|value| !value.is_string()) else {
            return Ok(0);
        };
        let number = value.as_i64().and_then(|number| i32::try_from(number).ok());
        let number = number.ok_or_else(|| bad(key, value))?;
        let named = usize::try_from(number).ok().and_then(from_number);
        Ok(named.map_or(number, |_| 0))
    }

    fn items(&self, key: &'static str) -> Result<&'a [Value], ReadError> {
        let Some(value) = self.value(key) else {
            return Ok(&[]);
        };
        value
            .as_array()
            .map(Vec::as_slice)
            .ok_or_else(|| bad(key, value))
    }

    fn value(&self, key: &'static str) -> Option<&'a Value> {
        let value = self.0.get(key).or_else(|| self.0.get(&lower_camel(key)))?;
        Some(value).filter(|value| !value.is_null())
    }

    fn bad(&self, key: &'static str) -> ReadError {
        bad(key, self.value(key).unwrap_or(&Value::Null))
    }
}

fn bad(field: &'static str, value: &Value) -> ReadError {
    ReadError::BadValue {
        field,
        value: value.to_string(),
    }
}

/// A number, or its digits as a string.
pub(crate) fn unsigned(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// The other form of a key: `is_reply` is `isReply` too.
pub(super) fn lower_camel(key: &str) -> String {
    let mut camel = String::with_capacity(key.len());
    for (at, word) in key.split('_').enumerate() {
        let mut letters = word.chars();
        match letters.next() {
            Some(first) if at > 0 => camel.push(first.to_ascii_uppercase()),
            Some(first) => camel.push(first),
            None => {}
        }
        camel.push_str(letters.as_str());
    }
    camel
}
