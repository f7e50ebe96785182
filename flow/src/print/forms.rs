//! The forms of many lines: `-o dict` and `-o table`.

use std::fmt::Write;

use super::{Printer, destination, escape, source, write_type};
use crate::agent::AgentLine;
use crate::flow::Flow;
use crate::lost::LostEvents;
use crate::time::Time;

/// What stands for a peer, a verdict or a type of lost events, which have none.
const NOTHING: &str = "-";

/// Rows as wide as their widest cells, which are known only at the end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    printer: Printer,
    rows: Vec<Vec<String>>,
}

impl Printer {
    /// Appends the flow, `-o dict`, with its newlines; between two there is a line of dashes.
    pub fn write_dict(&self, flow: &Flow, out: &mut String) {
        self.write_pairs(self.cells(flow), out);
    }

    /// Appends lost events in the same form.
    pub fn write_dict_lost(&self, lost: &LostEvents, time: Option<Time>, out: &mut String) {
        let mut cells = self.lost_cells(lost, time);
        cells.retain(|(key, _)| *key != "DESTINATION");
        self.write_pairs(cells, out);
    }

    /// Appends what an agent did in the same form.
    pub fn write_dict_agent(&self, line: &AgentLine, out: &mut String) {
        self.write_pairs(self.agent_cells(line), out);
    }

    fn write_pairs(&self, cells: Vec<(&str, String)>, out: &mut String) {
        for (key, cell) in cells {
            writeln!(out, "{key:>11}: {cell}").ok();
        }
    }

    /// The line between two flows, `-o dict`.
    pub const BETWEEN: &str = "------------\n";

    fn cells(&self, flow: &Flow) -> Vec<(&'static str, String)> {
        let text = |write: &dyn Fn(&mut String)| {
            let mut text = String::new();
            write(&mut text);
            text
        };
        let mut cells = vec![("TIMESTAMP", text(&|out| self.write_time(flow.time, out)))];
        if self.node_name {
            cells.push(("NODE", text(&|out| escape(&flow.node_name, out))));
        }
        cells.extend([
            ("SOURCE", text(&|out| self.write_host(&source(flow), out))),
            (
                "DESTINATION",
                text(&|out| self.write_host(&destination(flow), out)),
            ),
            ("TYPE", text(&|out| write_type(flow, out))),
            ("VERDICT", text(&|out| self.write_verdict(flow, out))),
            ("SUMMARY", text(&|out| self.write_summary(flow, out))),
        ]);
        cells
    }

    fn lost_cells(&self, lost: &LostEvents, time: Option<Time>) -> Vec<(&'static str, String)> {
        let (mut at, mut summary) = (String::new(), String::new());
        self.write_time(time, &mut at);
        write!(summary, "CPU({}) - {}", lost.cpu.unwrap_or(0), lost.count).ok();
        self.write_span(lost, &mut summary);
        let mut cells = vec![("TIMESTAMP", at)];
        if self.node_name {
            cells.push(("NODE", String::new()));
        }
        cells.extend([
            ("SOURCE", lost.source.to_string()),
            ("DESTINATION", NOTHING.to_owned()),
            ("TYPE", "EVENTS LOST".to_owned()),
            ("VERDICT", NOTHING.to_owned()),
            ("SUMMARY", summary),
        ]);
        cells
    }
}

impl Table {
    /// A table with its heading.
    #[must_use]
    pub fn new(printer: Printer) -> Self {
        let keys = [
            "TIMESTAMP",
            "NODE",
            "SOURCE",
            "DESTINATION",
            "TYPE",
            "VERDICT",
            "SUMMARY",
        ];
        Self::headed(printer, &keys)
    }

    /// A table of what agents did, with its heading.
    #[must_use]
    pub fn of_agents(printer: Printer) -> Self {
        let keys = ["TIMESTAMP", "NODE", "TYPE", "DETAILS"];
        Self::headed(printer, &keys)
    }

    fn headed(printer: Printer, keys: &[&str]) -> Self {
        let is_shown = |key: &&&str| printer.node_name || **key != "NODE";
        let shown = keys.iter().filter(is_shown);
        Self {
            printer,
            rows: vec![shown.map(|key| (*key).to_owned()).collect()],
        }
    }

    /// Adds what an agent did.
    pub fn push_agent(&mut self, line: &AgentLine) {
        self.add(self.printer.agent_cells(line));
    }

    /// Adds a flow.
    pub fn push(&mut self, flow: &Flow) {
        self.add(self.printer.cells(flow));
    }

    /// Adds lost events.
    pub fn push_lost(&mut self, lost: &LostEvents, time: Option<Time>) {
        self.add(self.printer.lost_cells(lost, time));
    }

    fn add(&mut self, cells: Vec<(&str, String)>) {
        self.rows
            .push(cells.into_iter().map(|(_, cell)| cell).collect());
    }

    /// Appends all rows, each with its newline.
    pub fn write(&self, out: &mut String) {
        const GAP: usize = 3;
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| shown(cell)).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        for row in &self.rows {
            for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
                out.push_str(cell);
                if at + 1 < columns {
                    out.extend(std::iter::repeat_n(' ', width + GAP - shown(cell)));
                }
            }
            out.push('\n');
        }
    }
}

/// How many characters are seen of a cell: not its colours.
fn shown(cell: &str) -> usize {
    let mut is_colour = false;
    let seen = cell.chars().filter(|c| {
        let starts = *c == '\x1b';
        let ends = is_colour && *c == 'm';
        let is_seen = !is_colour && !starts;
        is_colour = (is_colour || starts) && !ends;
        is_seen
    });
    seen.count()
}
