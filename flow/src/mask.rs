//! Which fields of a flow are wanted.

use std::collections::BTreeMap;

use crate::schema::{FLOW, Fields};

/// A field mask, as protobuf has it: paths of fields by their names in Hubble's protocol.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct FieldMask {
    /// The fields that are wanted, each with what is wanted of it; none for all of it.
    fields: BTreeMap<&'static str, Self>,
}

/// A path that no flow has.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("invalid path {path:?} for a flow")]
pub struct BadPath {
    /// The path.
    pub path: String,
}

impl FieldMask {
    /// All fields.
    pub const ALL: Self = Self {
        fields: BTreeMap::new(),
    };

    /// The mask of these paths; none want all.
    ///
    /// # Errors
    ///
    /// A path that no flow has.
    pub fn new<'a>(paths: impl IntoIterator<Item = &'a str>) -> Result<Self, BadPath> {
        let mut mask = Self::default();
        for path in paths {
            mask.add(path).ok_or_else(|| BadPath {
                path: path.to_owned(),
            })?;
        }
        Ok(mask)
    }

    fn add(&mut self, path: &str) -> Option<()> {
        let mut fields = FLOW;
        let mut mask = self;
        let mut words = path.split('.').peekable();
        while let Some(word) = words.next() {
            let (name, inner) = fields.iter().find(|(name, _)| *name == word)?;
            let is_whole = mask.fields.get(name).is_some_and(Self::is_all);
            mask = mask.fields.entry(name).or_default();
            match words.peek() {
                // What was wanted whole stays so.
                Some(_) if is_whole => return exists(inner.fields(), words),
                Some(_) => fields = inner.fields(),
                None => mask.fields.clear(),
            }
        }
        Some(())
    }

    /// Whether all fields are wanted.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.fields.is_empty()
    }

    /// What is wanted of a field, if it is wanted.
    #[must_use]
    pub fn of(&self, field: &str) -> Option<&Self> {
        match self.is_all() {
            true => Some(self),
            false => self.fields.get(field),
        }
    }
}

/// Looks whether the rest of a path is there.
fn exists<'a>(mut fields: Fields, words: impl Iterator<Item = &'a str>) -> Option<()> {
    for word in words {
        let (_, inner) = fields.iter().find(|(name, _)| *name == word)?;
        fields = inner.fields();
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_wanted_by_their_paths() {
        let mask = FieldMask::new(["time", "source.identity", "source.pod_name", "l7"]).unwrap();
        let source = mask.of("source").unwrap();
        assert!(source.of("identity").is_some() && source.of("labels").is_none());
        assert!(
            mask.of("l7")
                .unwrap()
                .of("dns")
                .unwrap()
                .of("query")
                .is_some()
        );
        assert!(mask.of("time").is_some() && mask.of("verdict").is_none());
        assert!(FieldMask::default().of("verdict").is_some());
    }

    #[test]
    fn what_is_wanted_whole_stays_whole_in_either_order() {
        for paths in [["source", "source.identity"], ["source.identity", "source"]] {
            let mask = FieldMask::new(paths).unwrap();
            assert!(mask.of("source").unwrap().is_all(), "{paths:?}");
        }
    }

    #[test]
    fn paths_that_no_flow_has_are_refused() {
        for path in [
            "nope",
            "",
            "time.seconds",
            "source.",
            "source.x",
            "l7.dns.query.x",
        ] {
            let error = FieldMask::new(["l7", path]).unwrap_err();
            assert_eq!(error.path, path);
        }
        assert!(FieldMask::new(["source", "source.x"]).is_err());
    }
}
