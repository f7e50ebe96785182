//! Selectors of labels, as Kubernetes writes them.

use std::sync::Arc;

/// Requirements that must all hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct LabelSelector(Vec<Requirement>);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Requirement {
    /// None for a label of any source.
    source: Option<String>,
    key: String,
    test: Test,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Test {
    Present,
    Absent,
    /// One of these values.
    In(Vec<String>),
    /// No such label, or none of these values.
    NotIn(Vec<String>),
    Greater(i64),
    Less(i64),
}

impl LabelSelector {
    /// Reads `app=web`, `app in (a,b)`, `!x`, `k8s:app!=web,tier` and the like.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut words = Words { rest: text };
        let mut requirements = Vec::new();
        loop {
            requirements.push(words.requirement()?);
            match words.next() {
                None => return Ok(Self(requirements)),
                Some(",") => {}
                Some(other) => return Err(format!("found {other:?}, expected: , or the end")),
            }
        }
    }

    pub(super) fn matches(&self, labels: &[Arc<str>]) -> bool {
        self.0.iter().all(|requirement| requirement.holds(labels))
    }
}

impl Requirement {
    fn holds(&self, labels: &[Arc<str>]) -> bool {
        let mut values = labels.iter().filter_map(|label| self.value(label));
        match &self.test {
            Test::Present => values.next().is_some(),
            Test::Absent => values.next().is_none(),
            Test::In(wanted) => values.any(|value| wanted.iter().any(|it| it == value)),
            Test::NotIn(unwanted) => !values.any(|value| unwanted.iter().any(|it| it == value)),
            Test::Greater(than) => {
                values.any(|value| value.parse().is_ok_and(|it: i64| it > *than))
            }
            Test::Less(than) => values.any(|value| value.parse().is_ok_and(|it: i64| it < *than)),
        }
    }

    /// The value of a label `source:key=value` if it is of this key.
    fn value<'a>(&self, label: &'a str) -> Option<&'a str> {
        let (name, value) = label.split_once('=').unwrap_or((label, ""));
        let (source, key) = name.split_once(':').unwrap_or(("", name));
        let same_source = self.source.as_deref().is_none_or(|it| it == source);
        (same_source && key == self.key).then_some(value)
    }
}

/// The words and signs of a selector.
struct Words<'a> {
    rest: &'a str,
}

const SIGNS: [&str; 9] = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"];

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a str> {
        self.rest = self.rest.trim_start();
        let sign = SIGNS.into_iter().find(|sign| self.rest.starts_with(sign));
        let len = match sign {
            Some(sign) => sign.len(),
            None => {
                let is_end = |c: char| c.is_whitespace() || "=!(),<>".contains(c);
                self.rest.find(is_end).unwrap_or(self.rest.len())
            }
        };
        let (word, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }

    fn peek(&self) -> Option<&'a str> {
        Words { rest: self.rest }.next()
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let is_absent = self.peek() == Some("!");
        if is_absent {
            self.next();
        }
        let name = self.name()?;
        let test = match self.peek() {
            _ if is_absent => Test::Absent,
            None | Some(",") => Test::Present,
            Some(_) => self.test()?,
        };
        let (source, key) = match name.split_once(':') {
            Some(("any", key)) => (None, key),
            Some((source, key)) => (Some(source.to_owned()), key),
            None => (None, name),
        };
        Ok(Requirement {
            source,
            key: key.to_owned(),
            test,
        })
    }

    fn test(&mut self) -> Result<Test, String> {
        match self.next().unwrap_or_default() {
            "=" | "==" => Ok(Test::In(vec![self.value()])),
            "!=" => Ok(Test::NotIn(vec![self.value()])),
            "in" => Ok(Test::In(self.values()?)),
            "notin" => Ok(Test::NotIn(self.values()?)),
            ">" | "gt" => Ok(Test::Greater(self.number()?)),
            "<" | "lt" => Ok(Test::Less(self.number()?)),
            other => Err(format!(
                "found {other:?}, expected: in, notin, =, ==, !=, gt, lt"
            )),
        }
    }

    fn name(&mut self) -> Result<&'a str, String> {
        match self.next() {
            Some(word) if !SIGNS.contains(&word) => Ok(word),
            Some(other) => Err(format!("found {other:?}, expected: a label's key")),
            None => Err("it ends where a label's key is expected".to_owned()),
        }
    }

    /// A value may be empty.
    fn value(&mut self) -> String {
        match self.peek() {
            Some(word) if !SIGNS.contains(&word) => {
                self.next();
                word.to_owned()
            }
            _ => String::new(),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        if self.next() != Some("(") {
            return Err("expected: ( and values".to_owned());
        }
        let mut values = vec![self.value()];
        loop {
            match self.next() {
                Some(",") => values.push(self.value()),
                Some(")") => return Ok(values),
                _ => return Err("expected: , or )".to_owned()),
            }
        }
    }

    fn number(&mut self) -> Result<i64, String> {
        let value = self.value();
        value.parse().map_err(|_| format!("{value:?} is no number"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_match_as_kubernetes_has_it() {
        let labels: Vec<Arc<str>> = [
            "k8s:app=web",
            "k8s:tier=3",
            "reserved:world",
            "cidr:1.2.3.4/32",
        ]
        .map(Arc::from)
        .to_vec();
        for (selector, expected) in [
            ("app=web", true),
            ("app == web", true),
            ("app", true),
            ("any:app", true),
            ("k8s:app=web", true),
            ("container:app=web", false),
            ("app!=web", false),
            ("app!=x", true),
            ("other!=x", true),
            ("app in (a, web)", true),
            ("app in (a,b)", false),
            ("app notin (a,b)", true),
            ("app notin (web)", false),
            ("other notin (web)", true),
            ("!other", true),
            ("!app", false),
            ("reserved:world", true),
            ("app=web,tier gt 2", true),
            ("app=web,tier<3", false),
            ("app=", false),
            ("app=web,", false),
        ] {
            let found = LabelSelector::parse(selector).map(|it| it.matches(&labels));
            assert_eq!(found.unwrap_or(false), expected, "{selector}");
        }
        for wrong in ["", "a(b", "=x", "a in b", "a in (b", "a b", "a gt x", "a,"] {
            assert!(LabelSelector::parse(wrong).is_err(), "{wrong}");
        }
    }
}
