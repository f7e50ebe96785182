//! Entries of the kernel's maps for people and programs.

use bpf_redirect::{Field, MapSummary, Row, Write};
use flow::TimeFormat;
use serde_json::{Map, Value, json};

use crate::clock;

/// An entry as an object; whatever an entry doesn't look at is null.
pub(crate) fn json(row: &Row) -> Value {
    let fields = row
        .iter()
        .map(|(name, field)| ((*name).to_owned(), value(field)));
    Value::Object(fields.collect::<Map<_, _>>())
}

fn value(field: &Field) -> Value {
    match field {
        Field::Any => Value::Null,
        Field::Number(number) => json!(number),
        Field::Word(word) => json!(word),
        Field::Address(ip) => json!(ip),
        Field::Addresses(all) => json!(all),
        Field::Prefix(..) | Field::Range(..) | Field::Mac(_) => json!(field.to_string()),
    }
}

/// A map as an object.
pub(crate) fn summary(map: &MapSummary) -> Value {
    json!({
        "name": map.name,
        "type": map.kind,
        "key_size": map.key_size,
        "value_size": map.value_size,
        "max_entries": map.max_entries,
        "entries": map.entries,
        "path": map.path,
    })
}

/// A write as an object.
pub(crate) fn event(write: &Write) -> Value {
    let mut time = String::new();
    TimeFormat::Rfc3339Nano.write(clock::time_of_boot_ns(write.at), &mut time);
    json!({
        "time": time,
        "map": write.map,
        "action": write.act.word(),
        "entry": json(&write.row),
    })
}

/// Entries as a table.
pub(crate) fn table(rows: &[Row]) -> String {
    let Some(first) = rows.first() else {
        return "no entries\n".to_owned();
    };
    let heads = first.iter().map(|(name, _)| name.replace('_', " "));
    let fields = |row: &Row| {
        row.iter()
            .map(|(_, field)| field.to_string())
            .collect::<Vec<_>>()
    };
    aligned(
        heads.map(|head| head.to_uppercase()).collect(),
        rows.iter().map(fields),
    )
}

/// Lines whose columns stand below each other.
pub(crate) fn aligned(head: Vec<String>, rows: impl Iterator<Item = Vec<String>>) -> String {
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let mut widths: Vec<usize> = Vec::new();
    for line in &lines {
        widths.resize(widths.len().max(line.len()), 0);
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for line in &lines {
        let cells = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_line_and_an_object() {
        let row = |port| {
            vec![
                ("endpoint", Field::Number(1)),
                ("port", port),
                ("verdict", Field::Word("allow")),
            ]
        };
        let rows = [row(Field::Any), row(Field::Number(443))];
        assert_eq!(
            table(&rows),
            "ENDPOINT  PORT  VERDICT\n1         any   allow\n1         443   allow\n"
        );
        assert_eq!(
            rows.iter().map(json).collect::<Vec<_>>(),
            [
                json!({"endpoint": 1, "port": null, "verdict": "allow"}),
                json!({"endpoint": 1, "port": 443, "verdict": "allow"}),
            ]
        );
    }
}
