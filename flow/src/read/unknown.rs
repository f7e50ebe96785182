//! Fields that nobody knows: of a newer agent, or misspelt.

use serde_json::{Map, Value};

use super::fields::lower_camel;
use crate::schema::{FLOW, Fields};

/// What may stand beside an event, and the events themselves.
const BESIDE: [&str; 7] = [
    "flow",
    "lost_events",
    "node_status",
    "agent_event",
    "debug_event",
    "node_name",
    "time",
];

/// The path of the first field of a line that no event has; of lists, and of other events than flows, nothing is
/// known here.
pub(super) fn first(line: &Value) -> Option<String> {
    let line = line.as_object()?;
    let is_known = |key: &&String| BESIDE.iter().any(|name| is_it(name, key));
    if let Some(unknown) = line.keys().find(|key| !is_known(key)) {
        return Some(unknown.clone());
    }
    first_of(line.get("flow")?.as_object()?, FLOW, "flow")
}

fn first_of(object: &Map<String, Value>, fields: Fields, path: &str) -> Option<String> {
    object.iter().find_map(|(key, value)| {
        let Some((_, inner)) = fields.iter().find(|(name, _)| is_it(name, key)) else {
            return Some(format!("{path}.{key}"));
        };
        // A list, or a value into which no path goes.
        let value = value.as_object().filter(|_| !inner.fields().is_empty())?;
        first_of(value, inner.fields(), &format!("{path}.{key}"))
    })
}

fn is_it(name: &str, key: &str) -> bool {
    name == key || lower_camel(name) == key
}
