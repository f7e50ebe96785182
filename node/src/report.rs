//! One HTML page about flows that were recorded. Lines in, a page out: no files, no sockets, no clock.
//!
//! Names, methods and labels are what workloads made up: every text of the input goes through
//! [`html::text`], and the page forbids itself scripts and loading anything.

mod html;
mod map;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use flow::{Line, TimeFormat};

use crate::suggest::{self, Evidence, Names, Scope};
use crate::traffic::{Latency, NameFigures, Pair, Traffic};
use html::text;

/// Denied pairs for which a rule is written; further ones are counted.
const DENIED_MAX: usize = 200;
/// Rows of a table; the rest is counted.
const ROWS_MAX: usize = 500;

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Report {
    traffic: Traffic,
    /// Of each denied pair the first line that told it, and how often.
    denied: BTreeMap<Pair, String>,
    denied_left_out: u64,
    bad: u64,
    lost: u64,
}

impl Report {
    /// Takes a line.
    pub(crate) fn take(&mut self, line: &str) {
        match Line::parse(line) {
            Ok(Line::Flow(flow)) => {
                let Some(pair) = self.traffic.add(&flow) else {
                    return;
                };
                if self.denied.contains_key(&pair) {
                    return;
                }
                if self.denied.len() >= DENIED_MAX {
                    self.denied_left_out += 1;
                    return;
                }
                self.denied.insert(pair, line.to_owned());
            }
            Ok(Line::LostEvents { lost, .. }) => self.lost += lost.count,
            Err(flow::ReadError::OtherEvent { .. }) => {}
            Err(_) if line.trim().is_empty() => {}
            Err(_) => self.refuse(),
        }
    }

    /// Counts a line that can't be read.
    pub(crate) fn refuse(&mut self) {
        self.bad += 1;
    }

    /// Whether there is anything to tell.
    pub(crate) fn has_flows(&self) -> bool {
        self.traffic.flows > 0
    }

    /// What was read, in a line.
    pub(crate) fn in_short(&self) -> String {
        let mut said = format!(
            "{} flows of {} pairs and {} names",
            self.traffic.flows,
            self.traffic.pairs.len(),
            self.traffic.names.len()
        );
        for (count, what) in [
            (self.bad, "lines that can't be read"),
            (self.lost, "events lost while recording"),
            (
                self.traffic.left_out,
                "flows beyond the bounds of the report",
            ),
        ] {
            if count > 0 {
                let _ = write!(said, ", {count} {what}");
            }
        }
        said
    }

    /// The page.
    pub(crate) fn html(&self) -> String {
        let mut page = String::from(html::HEAD);
        self.summary(&mut page);
        map::write(&self.traffic, &mut page);
        self.pairs(&mut page);
        self.denied(&mut page);
        self.names(&mut page);
        page.push_str("</main>\n</body>\n</html>\n");
        page
    }

    fn summary(&self, page: &mut String) {
        let sum = self.traffic.sum(|one| one.total);
        page.push_str("<h1>What the gate saw</h1>\n<p class=\"span\">");
        if let Some((first, last)) = self.traffic.span {
            let mut span = String::new();
            TimeFormat::Rfc3339Milli.write(first, &mut span);
            span.push_str(" to ");
            TimeFormat::Rfc3339Milli.write(last, &mut span);
            page.push_str(&text(&span));
        }
        let _ = write!(
            page,
            "</p>\n<p>{}.</p>\n<p><b class=\"yes\">{} allowed</b>, <b class=\"no\">{} denied</b>: \
             connections, questions and requests.</p>\n",
            text(&self.in_short()),
            sum.allowed,
            sum.denied
        );
    }

    fn pairs(&self, page: &mut String) {
        page.push_str(
            "<section id=\"pairs\"><h2>Who talks to whom</h2>\n<table><thead><tr><th>from<th>to<th>how\
             <th class=\"n\">allowed<th class=\"n\">denied<th class=\"n\">99 % within</tr></thead>\n<tbody>\n",
        );
        let mut all: Vec<_> = self.traffic.pairs.iter().collect();
        all.sort_by_key(|(_, one)| std::cmp::Reverse(one.counted.total.all()));
        for (pair, one) in all.iter().take(ROWS_MAX) {
            let total = one.counted.total;
            let _ = writeln!(
                page,
                "<tr><td>{}<td>{}<td>{}<td class=\"n\">{}<td class=\"n{}\">{}<td class=\"n\">{}</tr>",
                text(&pair.from),
                text(&pair.to),
                text(&pair.how.to_string()),
                total.allowed,
                if total.denied > 0 { " no" } else { "" },
                total.denied,
                time(one.latency.percentile(99)),
            );
        }
        end_table(page, all.len());
    }

    fn denied(&self, page: &mut String) {
        page.push_str("<section id=\"denied\"><h2>What was denied</h2>\n");
        if self.denied.is_empty() {
            page.push_str("<p>Nothing.</p>\n");
        }
        for (pair, line) in &self.denied {
            let count = self.traffic.pairs.get(pair);
            let count = count.map_or(0, |one| one.counted.total.denied);
            let _ = writeln!(
                page,
                "<details><summary><b class=\"no\">{count} ×</b> {} → {} ({})</summary>",
                text(&pair.from),
                text(&pair.to),
                text(&pair.how.to_string()),
            );
            match rule(line) {
                Ok(rule) => {
                    page.push_str("<p>This policy would allow the first of them:</p>\n<pre>");
                    page.push_str(&text(&rule));
                    page.push_str("</pre>");
                }
                Err(why) => {
                    let _ = write!(page, "<p>No rule can be suggested: {}.</p>", text(&why));
                }
            }
            page.push_str("</details>\n");
        }
        if self.denied_left_out > 0 {
            let _ = writeln!(page, "<p>And {} denials more.</p>", self.denied_left_out);
        }
        page.push_str("</section>\n");
    }

    fn names(&self, page: &mut String) {
        page.push_str("<section id=\"names\"><h2>Names, the slowest first</h2>\n");
        let mut together = Latency::default();
        let figures = self.traffic.names.values();
        figures.for_each(|one| together.merge(&one.latency));
        map::write_latency(&together, page);
        page.push_str(
            "<table><thead><tr><th>name<th class=\"n\">asked<th class=\"n\">denied<th class=\"n\">failed\
             <th class=\"n\">half within<th class=\"n\">99 % within<th class=\"n\">longest</tr></thead>\n<tbody>\n",
        );
        let mut all: Vec<(&Arc<str>, &NameFigures)> = self.traffic.names.iter().collect();
        all.sort_by_key(|(_, one)| std::cmp::Reverse(one.latency.percentile(99)));
        for (name, one) in all.iter().take(ROWS_MAX) {
            let total = one.counted.total;
            let _ = writeln!(
                page,
                "<tr><td>{}<td class=\"n\">{}<td class=\"n{}\">{}<td class=\"n\">{}\
                 <td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{}</tr>",
                text(name),
                total.all(),
                if total.denied > 0 { " no" } else { "" },
                total.denied,
                one.failed,
                time(one.latency.percentile(50)),
                time(one.latency.percentile(99)),
                time(Some(one.latency.max).filter(|max| !max.is_zero())),
            );
        }
        end_table(page, all.len());
    }
}

/// The policy that would allow what a line tells as denied, or why there is none.
fn rule(line: &str) -> Result<String, String> {
    let record = match suggest::Line::parse(line) {
        Ok(suggest::Line::Flow(record)) => record,
        Ok(suggest::Line::Lost(_) | suggest::Line::Other) => return Err("it is no flow".to_owned()),
        Err(error) => return Err(error.to_string()),
    };
    let mut evidence = Evidence::new(Scope {
        includes_denied: true,
        ..Scope::default()
    });
    evidence.add(&record);
    let documents = evidence.suggest(Names::Exact);
    if documents.is_empty() {
        let skipped = evidence.skipped().keys().map(|skip| skip.text());
        return Err(skipped.collect::<Vec<_>>().join(", "));
    }
    Ok(documents.join("---\n"))
}

fn end_table(page: &mut String, rows: usize) {
    page.push_str("</tbody></table>\n");
    if rows > ROWS_MAX {
        let _ = writeln!(page, "<p>And {} more.</p>", rows - ROWS_MAX);
    }
    page.push_str("</section>\n");
}

/// A time for people; empty for none.
pub(crate) fn time(time: Option<Duration>) -> String {
    match time {
        None => String::new(),
        Some(time) if time < Duration::from_millis(1) => format!("{} µs", time.as_micros()),
        Some(time) if time < Duration::from_secs(1) => {
            format!("{:.1} ms", time.as_secs_f64() * 1e3)
        }
        Some(time) => format!("{:.2} s", time.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests;
