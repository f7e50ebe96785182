//! Configuration files: keys with values, each with its place. What a key means is the business of the
//! command line, whose flags the keys are.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_yaml::{Location, Spanned};

use crate::files::{TextFile, read_file, read_folder};

/// Values of one file at most, those of lists counted each.
pub(crate) const NODES_MAX: usize = 10_000;
/// A file is a mapping with lists in it; nothing lies deeper.
const DEPTH_MAX: usize = 8;

/// A place in a file, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: Arc<str>,
    pub(crate) line: u64,
    pub(crate) column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One key of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Where its value is.
    pub(crate) place: Place,
    pub(crate) values: Values,
}

/// What stands behind a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Values {
    /// Nothing: as if the key weren't there, in this file and in earlier ones.
    Unset,
    One(String),
    List(Vec<String>),
}

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) place: Place,
    pub(crate) reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: error: {}", self.place, self.reason)
    }
}

/// Reads a file and the drop-ins beside it, `config.d/*.yaml` by name. A later one's keys stand in place of an
/// earlier one's, lists whole. Without the file there are only the drop-ins.
///
/// # Errors
/// All that is wrong with them.
pub(crate) fn read(path: &Path) -> Result<BTreeMap<String, Setting>, Vec<Fault>> {
    let unread = |at: &Path, error: &std::io::Error| {
        let place = Place {
            file: at.display().to_string().into(),
            line: 1,
            column: 1,
        };
        // The place is in front already.
        let reason = error.to_string();
        let named = format!("{}: ", at.display());
        let reason = reason.strip_prefix(&named).unwrap_or(&reason).to_owned();
        Fault { place, reason }
    };
    let mut files: Vec<TextFile> = Vec::new();
    let mut faults = Vec::new();
    match read_file(path) {
        Ok(file) => files.push(file),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => faults.push(unread(path, &error)),
    }
    let folder = path.with_file_name("config.d");
    match read_folder(&folder) {
        Ok(found) => files.extend(found),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => faults.push(unread(&folder, &error)),
    }
    let mut settings = BTreeMap::new();
    for file in &files {
        match parse(&file.text, &file.path.display().to_string()) {
            Ok(found) => settings.extend(found),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() {
        Ok(settings)
    } else {
        Err(faults)
    }
}

/// The settings of a text.
fn parse(text: &str, file: &str) -> Result<BTreeMap<String, Setting>, Fault> {
    let file: Arc<str> = file.into();
    let at = |location: Location| Place {
        file: Arc::clone(&file),
        line: location.line().max(1),
        column: location.column().max(1),
    };
    let budget = serde_yaml::budget! { max_depth: DEPTH_MAX, max_nodes: NODES_MAX };
    let options = serde_yaml::options! { budget: budget, with_snippet: false };
    let documents: Vec<Spanned<Members>> = serde_yaml::from_multiple_with_options(text, options)
        .map_err(|error| {
            let rendered = error.render();
            let reason = rendered.lines().next().unwrap_or_default();
            // The place stands in front of the problem.
            let reason = reason.split(" at line ").next().unwrap_or(reason);
            Fault {
                place: at(error.location().unwrap_or(Location::UNKNOWN)),
                reason: reason.to_owned(),
            }
        })?;
    let mut documents = documents.into_iter();
    let Some(first) = documents.next() else {
        return Ok(BTreeMap::new());
    };
    if let Some(second) = documents.next() {
        return Err(Fault {
            place: at(second.referenced),
            reason: "a configuration is one document".to_owned(),
        });
    }
    let settings = first.value.0.into_iter().map(|(key, value)| {
        let place = at(value.referenced);
        let values = value.value;
        (key, Setting { place, values })
    });
    Ok(settings.collect())
}

/// The mapping that a file is; an empty file is an empty one.
struct Members(Vec<(String, Spanned<Values>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping: `key: value`, a line each")
    }

    fn visit_unit<E>(self) -> Result<Members, E> {
        Ok(Members(Vec::new()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Members, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = access.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValuesVisitor)
    }
}

struct ValuesVisitor;

impl<'de> Visitor<'de> for ValuesVisitor {
    type Value = Values;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value or a list of values")
    }

    fn visit_unit<E>(self) -> Result<Values, E> {
        Ok(Values::Unset)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Values, E> {
        Ok(Values::One(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Values, E> {
        Ok(Values::One(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Values, E> {
        Ok(Values::One(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Values, E> {
        Ok(Values::One(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Values, E> {
        Ok(Values::One(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Values, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            match item {
                Values::One(item) => items.push(item),
                Values::Unset | Values::List(_) => {
                    return Err(A::Error::custom("a list of values has only values in it"));
                }
            }
        }
        Ok(Values::List(items))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        parse(text, "c.yaml").unwrap_err().to_string()
    }

    #[test]
    fn values_are_what_they_are_written_as_and_know_their_place() {
        let text = "audit: true\nflow_log: \"/x y\"\n\nhttp_port: 80\npolicy_dir: [a, b]\nlog:\n";
        let settings = parse(text, "c.yaml").unwrap();
        let one = |text: &str| Values::One(text.to_owned());
        let of = |key: &str| settings.get(key).unwrap();
        assert_eq!(of("audit").values, one("true"));
        assert_eq!(of("flow_log").values, one("/x y"));
        assert_eq!(of("http_port").place.to_string(), "c.yaml:4:12");
        let both = ["a".to_owned(), "b".to_owned()];
        assert_eq!(of("policy_dir").values, Values::List(both.into()));
        assert_eq!(of("log").values, Values::Unset);
        for nothing in ["", "# only words\n", "---\n"] {
            assert_eq!(parse(nothing, "c.yaml").unwrap(), BTreeMap::new());
        }
    }

    #[test]
    fn what_is_no_configuration_is_refused_by_its_place() {
        assert!(fault("a: 1\nb: {c: 2}\n").starts_with("c.yaml:2:4: error: "));
        assert!(fault("a: 1\na: 2\n").starts_with("c.yaml:2:1: error: duplicate"));
        assert!(fault("- a\n").contains("a mapping"));
        assert!(fault("a: [[b]]\n").contains("only values"));
        assert!(fault("a: [~]\n").contains("only values"));
        assert!(fault("a: 1\n---\nb: 1\n").contains("one document"));
        assert!(fault("a: [1\n").starts_with("c.yaml:"));
    }

    #[test]
    fn a_file_with_too_many_values_is_refused() {
        let wide = |count: usize| format!("policy_dir: [{}]", "a,".repeat(count));
        // The mapping, the key and the list are values too.
        parse(&wide(NODES_MAX - 3), "c.yaml").unwrap();
        parse(&wide(NODES_MAX), "c.yaml").unwrap_err();
    }

    #[test]
    fn drop_ins_stand_in_place_of_what_was_before() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        std::fs::write(&file, "audit: true\nquic: allow\npolicy_dir: [a, b]\n").unwrap();
        std::fs::create_dir(dir.path().join("config.d")).unwrap();
        let drop_in = |name: &str, text: &str| {
            std::fs::write(dir.path().join("config.d").join(name), text).unwrap();
        };
        drop_in("10-a.yaml", "audit: false\npolicy_dir: [c]\n");
        drop_in("20-b.yaml", "quic:\n");
        let settings = read(&file).unwrap();
        let said = |key: &str| settings.get(key).map(|setting| setting.values.clone());
        assert_eq!(said("audit"), Some(Values::One("false".to_owned())));
        assert_eq!(said("quic"), Some(Values::Unset));
        assert_eq!(said("policy_dir"), Some(Values::List(vec!["c".to_owned()])));
        drop_in("30-c.yaml", "- x\n");
        std::fs::write(&file, "a: [\n").unwrap();
        assert_eq!(read(&file).unwrap_err().len(), 2, "each is told");
    }
}
