//! YAML as a tree in which every key and every value knows its place.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::options::DuplicateKeyPolicy;
use serde_yaml::{Location, Spanned};

use crate::limits::{FILE_DEPTH_MAX, FILE_NODES_MAX};

/// A place in a file, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: u32,
    pub(super) column: u32,
}

/// A value and its place.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) place: Place,
}

/// A value as the YAML schema reads it: an unquoted `80` is a number, a quoted one is text.
#[derive(Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Member>),
}

/// One key with its value.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) node: Node,
}

/// Why a text is no YAML, or more than we read.
#[derive(Debug)]
pub(super) struct YamlError {
    pub(super) place: Option<Place>,
    pub(super) message: String,
    /// Whether a limit was hit, rather than the syntax broken.
    pub(super) is_limit: bool,
}

/// What [`FILE_DEPTH_MAX`] levels take without optimization is about 3 MiB; threads have 2 by habit.
const STACK_BYTES: usize = 16 << 20;

/// Reads all documents of a text, on a stack that its depth can't overflow.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, YamlError> {
    let failed = |message: String| YamlError {
        place: None,
        message,
        is_limit: false,
    };
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().stack_size(STACK_BYTES);
        let reader = builder.spawn_scoped(scope, || parse_here(text));
        let reader = reader.map_err(|error| failed(format!("no thread to read it: {error}")))?;
        let gone = |_| Err(failed("the reader panicked".to_owned()));
        reader.join().unwrap_or_else(gone)
    })
}

fn parse_here(text: &str) -> Result<Vec<Node>, YamlError> {
    let budget = serde_yaml::budget! {
        max_depth: FILE_DEPTH_MAX,
        max_nodes: FILE_NODES_MAX,
        max_documents: FILE_NODES_MAX,
        flow_nesting_limit: FILE_DEPTH_MAX,
    };
    let mut options = serde_yaml::options! {
        budget: budget,
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        with_snippet: false,
    };
    options.alias_limits.max_total_replayed_events = FILE_NODES_MAX;
    serde_yaml::from_multiple_with_options::<Node>(text, options).map_err(|error| {
        let rendered = error.render();
        let message = rendered.lines().next().unwrap_or_default();
        // The place stands in front of the problem already.
        let message = message.split(" at line ").next().unwrap_or(message);
        YamlError {
            place: error.location().map(Place::of),
            is_limit: is_limit(&error) || message.starts_with("recursion limit"),
            message: message.to_owned(),
        }
    })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "not our enum")]
fn is_limit(error: &serde_yaml::Error) -> bool {
    use serde_yaml::Error;
    match error.without_snippet() {
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => true,
        Error::AliasError { error, .. } => is_limit(error),
        _ => false,
    }
}

impl Place {
    fn of(location: Location) -> Self {
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Self {
            line: small(location.line()),
            column: small(location.column()),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self {
            place: Place::of(spanned.referenced),
            value: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element::<Node>()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut members = Vec::new();
        while let Some(key) = access.next_key::<Node>()? {
            let text = match key.value {
                Value::Text(text) | Value::Number(text) => text,
                Value::Bool(value) => value.to_string(),
                Value::Null => "null".to_owned(),
                // No field has such a name: the reader refuses it, by its place.
                Value::List(_) => "[…]".to_owned(),
                Value::Map(_) => "{…}".to_owned(),
            };
            members.push(Member {
                key: text,
                place: key.place,
                node: access.next_value()?,
            });
        }
        Ok(Value::Map(members))
    }
}

impl Value {
    /// What the value is, for a message.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_and_deep_or_wide_files_hit_a_limit() {
        let wide = |count: usize| format!("[{}]", "a,".repeat(count));
        assert!(parse(&wide(FILE_NODES_MAX - 1)).is_ok());
        assert!(parse(&wide(FILE_NODES_MAX)).unwrap_err().is_limit);
        assert!(parse(&"[".repeat(FILE_DEPTH_MAX + 1)).unwrap_err().is_limit);
        let mut block = String::new();
        for depth in 0..=FILE_DEPTH_MAX {
            block.push_str(&format!("{}a:\n", " ".repeat(depth)));
        }
        assert!(parse(&block).unwrap_err().is_limit);
        let mut bomb = String::from("a0: &a0 x\n");
        for level in 1..9 {
            let below = format!("*a{},", level - 1).repeat(9);
            bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        assert!(parse(&bomb).unwrap_err().is_limit);
    }

    #[test]
    fn merged_members_are_members() {
        let nodes = parse("x: &b {a: 1, c: 3}\nz: {<<: *b, a: 2}\n").unwrap();
        let Value::Map(members) = &nodes.first().unwrap().value else {
            panic!("a mapping");
        };
        let Value::Map(merged) = &members[1].node.value else {
            panic!("a mapping");
        };
        let keys: Vec<&str> = merged.iter().map(|member| member.key.as_str()).collect();
        assert_eq!(keys, ["a", "c"]);
        assert!(matches!(&merged[0].node.value, Value::Number(number) if number == "2"));
    }

    #[test]
    fn quotes_decide_between_number_and_string() {
        let nodes = parse("[80, '80', yes, ~, 1.10, !!str 5]").unwrap();
        let Value::List(items) = &nodes.first().unwrap().value else {
            panic!("a list");
        };
        let kinds: Vec<&str> = items.iter().map(|item| item.value.kind()).collect();
        let expected = [
            "a number",
            "a string",
            "a boolean",
            "nothing",
            "a number",
            "a string",
        ];
        assert_eq!(kinds, expected);
        assert_eq!(items[1].place, Place { line: 1, column: 6 });
    }
}
