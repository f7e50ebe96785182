//! The one way to write a policy file.
//!
//! A formatted file says what the file said, to the reader of policies as to any other: the result is
//! read again, and thrown away if it says anything else.

mod comments;
mod order;
mod read;
mod scalar;
mod tree;
mod write;

use std::collections::BTreeMap;

use super::Source;
use super::cursor::Report;
use super::yaml::{self, Member, Node, Place, Value};
use crate::problem::{Code, Problem};

/// Why a file is not formatted.
#[derive(Debug)]
struct Refusal {
    place: Place,
    code: Code,
    message: String,
}

/// Formats a file: keys in their usual order, blocks, quotes only where they must be. Comments stay with
/// what they are beside or above.
///
/// # Errors
/// If the file is not YAML, or has something that can't be kept: anchors, tags, directives, keys that are no
/// simple words, or the same key twice.
pub fn format(source: &Source) -> Result<String, Box<Problem>> {
    let mut report = Report::new(&source.path, &source.text);
    let before = match yaml::parse(&source.text) {
        Ok(documents) => documents,
        Err(error) => {
            report.note_yaml(error);
            let problem = report.into_problems().into_iter().next();
            return problem.map_or_else(|| Ok(String::new()), |problem| Err(Box::new(problem)));
        }
    };
    print(&source.text, &before).map_err(|refusal| {
        let Refusal {
            place,
            code,
            message,
        } = refusal;
        Box::new(report.problem((place, &""), code, message))
    })
}

fn print(text: &str, before: &[Node]) -> Result<String, Refusal> {
    let mut read = read::read(text)?;
    read.documents.iter_mut().for_each(order::arrange);
    let printed = write::write(&read);
    let after = yaml::parse(&printed).unwrap_or_default();
    let is_same = read::read(&printed).is_ok_and(|again| again.comments == read.comments)
        && before.len() == after.len()
        && before.iter().zip(&after).all(|(a, b)| says_same(a, b));
    if is_same {
        return Ok(printed);
    }
    Err(Refusal {
        place: Place { line: 0, column: 0 },
        code: Code::NotSupported,
        message: "formatting would change what the file says or lose a comment".to_owned(),
    })
}

/// Whether two values are the same but for the order of keys.
fn says_same(a: &Node, b: &Node) -> bool {
    match (&a.value, &b.value) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Number(a), Value::Number(b)) | (Value::Text(a), Value::Text(b)) => a == b,
        (Value::List(a), Value::List(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| says_same(a, b))
        }
        (Value::Map(a), Value::Map(b)) => {
            let (a, b) = (by_key(a), by_key(b));
            let mut pairs = a.iter().zip(&b);
            a.len() == b.len() && pairs.all(|(a, b)| a.0 == b.0 && says_same(a.1, b.1))
        }
        (
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Text(_)
            | Value::List(_)
            | Value::Map(_),
            _,
        ) => false,
    }
}

fn by_key(members: &[Member]) -> BTreeMap<&str, &Node> {
    let pairs = members
        .iter()
        .map(|member| (member.key.as_str(), &member.node));
    pairs.collect()
}

#[cfg(test)]
mod tests;
