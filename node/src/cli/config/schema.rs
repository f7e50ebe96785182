//! The JSON Schema of the configuration, for editors.

use clap::Arg;
use serde_json::{Map, Value, json};

use super::help_of;
use crate::cli::layers::{self, is_list, is_switch, keys};

/// What every file may have.
pub(super) fn schema() -> Value {
    let run = layers::definition();
    let mut properties = Map::new();
    for arg in keys(&run) {
        for name in layers::names_of(arg) {
            properties.insert(name, property(arg));
        }
    }
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "The configuration of namegate run",
        "type": ["object", "null"],
        "additionalProperties": false,
        "properties": properties,
    })
}

/// One key: nothing behind it is the default.
fn property(arg: &Arg) -> Value {
    let choices = arg.get_possible_values();
    let choices: Vec<&str> = choices.iter().map(|one| one.get_name()).collect();
    let is_bool = is_switch(arg) || choices == ["true", "false"];
    let mut property = if is_bool {
        json!({ "type": ["boolean", "null"] })
    } else if is_list(arg) {
        let one = json!({ "type": ["string", "number"] });
        json!({ "type": ["array", "string", "number", "null"], "items": one })
    } else if choices.is_empty() {
        json!({ "type": ["string", "number", "boolean", "null"] })
    } else {
        let all = choices.into_iter().map(Value::from);
        json!({ "enum": all.chain([Value::Null]).collect::<Vec<Value>>() })
    };
    if let Value::Object(members) = &mut property {
        members.insert("description".to_owned(), help_of(arg).into());
    }
    property
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_there_as_what_it_takes() {
        let schema = schema();
        let all = schema.get("properties").and_then(Value::as_object).unwrap();
        let run = layers::definition();
        assert!(keys(&run).all(|arg| all.contains_key(arg.get_id().as_str())));
        let at = |path: &str| schema.pointer(&format!("/properties/{path}")).cloned();
        assert_eq!(at("audit/type/0"), Some("boolean".into()));
        assert_eq!(at("policy_dir/type/0"), Some("array".into()));
        assert_eq!(
            at("quic/enum"),
            Some(json!(["refuse", "sni", "allow", null]))
        );
        assert_eq!(at("hubble_socket/type/0"), Some("string".into()));
        let meant = at("dns_ttl_floor/description").unwrap();
        assert!(
            meant.as_str().is_some_and(|text| text.len() > 20),
            "{meant}"
        );
    }
}
