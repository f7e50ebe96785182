//! What `namegate top` shows: gathered flows as tables of a size. No terminal here, and no clock.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::report::time;
use crate::traffic::{Counted, NameFigures, Pair, PairFigures, Tally, Traffic};

/// What is shown, and how much has room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    /// Columns of the screen.
    pub(crate) width: usize,
    /// Rows of the screen; none: as many as there are, up to [`ROWS_MAX`] of each table.
    pub(crate) height: Option<usize>,
    /// What was between two turns; none: counts are shown in the place of rates.
    pub(crate) interval: Option<Duration>,
    /// Whether colours may be used.
    pub(crate) color: bool,
}

/// Rows of a table where nothing else bounds it.
const ROWS_MAX: usize = 50;

const BOLD: &str = "\u{1b}[1m";
const RED: &str = "\u{1b}[31m";
const PLAIN: &str = "\u{1b}[0m";

impl View {
    /// The screen as lines. `lost` events were not seen.
    pub(crate) fn lines(self, traffic: &Traffic, lost: u64) -> Vec<String> {
        let mut lines = vec![self.head(traffic, lost), String::new()];
        // Three tables with a title and a blank line each; pairs get half of the room.
        let room = self
            .height
            .map(|height| height.saturating_sub(2 + 3 + 3 + 2));
        let rows = |share: usize| room.map_or(ROWS_MAX, |room| (room * share / 4).max(1));
        self.pairs(traffic, rows(2), &mut lines);
        lines.push(String::new());
        self.names(traffic, ("SLOWEST NAMES", slowness, rows(1)), &mut lines);
        lines.push(String::new());
        self.names(traffic, ("NOISIEST NAMES", noise, rows(1)), &mut lines);
        if let Some(height) = self.height {
            lines.truncate(height);
        }
        lines
    }

    fn head(self, traffic: &Traffic, lost: u64) -> String {
        let (sum, unit) = match self.interval {
            Some(_) => (traffic.sum(|one| one.last), "/s"),
            None => (traffic.sum(|one| one.total), ""),
        };
        let mut head = format!(
            "namegate top   allowed {}{unit}   denied {}{unit}   {} flows, {} pairs, {} names",
            self.figure(sum.allowed),
            self.figure(sum.denied),
            traffic.flows,
            traffic.pairs.len(),
            traffic.names.len(),
        );
        for (count, what) in [(lost, "lost"), (traffic.left_out, "without room")] {
            if count > 0 {
                let _ = write!(head, ", {count} {what}");
            }
        }
        cut(&head, self.width)
    }

    /// A count as it is, or as a rate.
    fn figure(self, count: u64) -> String {
        match self.interval {
            None => count.to_string(),
            #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
            Some(interval) => format!("{:.1}", count as f64 / interval.as_secs_f64().max(0.001)),
        }
    }

    fn pairs(self, traffic: &Traffic, rows: usize, lines: &mut Vec<String>) {
        let mut all: Vec<(&Pair, &PairFigures)> = traffic.pairs.iter().collect();
        all.sort_by_key(|(_, one)| std::cmp::Reverse(self.weight(&one.counted)));
        // Figures have their columns; names share the rest.
        const FIGURES: usize = 12 + 3 * 10;
        let name = (self.width.saturating_sub(FIGURES) / 2).max(8);
        let title = format!(
            "{:<name$}{:<name$}{:<12}{:>10}{:>10}{:>10}",
            "FROM", "TO", "HOW", "ALLOWED", "DENIED", "99 %"
        );
        lines.push(self.title(&title));
        for (pair, one) in all.into_iter().take(rows) {
            let tally = self.tally(&one.counted);
            let row = format!(
                "{:<name$}{:<name$}{:<12}{:>10}{:>10}{:>10}",
                cell(&pair.from, name),
                cell(&pair.to, name),
                pair.how.to_string(),
                self.figure(tally.allowed),
                self.figure(tally.denied),
                time(one.latency.percentile(99)),
            );
            lines.push(self.row(&row, tally.denied > 0));
        }
    }

    fn names(
        self,
        traffic: &Traffic,
        (what, order, rows): (&str, fn(&NameFigures) -> u128, usize),
        lines: &mut Vec<String>,
    ) {
        let mut all: Vec<(&Arc<str>, &NameFigures)> = traffic.names.iter().collect();
        all.sort_by_key(|(_, one)| std::cmp::Reverse(order(one)));
        const FIGURES: usize = 5 * 10;
        let name = self.width.saturating_sub(FIGURES).max(8);
        let title = format!(
            "{what:<name$}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "ASKED", "DENIED", "FAILED", "50 %", "99 %"
        );
        lines.push(self.title(&title));
        for (text, one) in all.into_iter().take(rows) {
            let total = one.counted.total;
            let row = format!(
                "{:<name$}{:>10}{:>10}{:>10}{:>10}{:>10}",
                cell(text, name),
                total.all(),
                total.denied,
                one.failed,
                time(one.latency.percentile(50)),
                time(one.latency.percentile(99)),
            );
            lines.push(self.row(&row, total.denied > 0));
        }
    }

    fn tally(self, counted: &Counted) -> Tally {
        match self.interval {
            Some(_) => counted.last,
            None => counted.total,
        }
    }

    /// Who is shown first: who is busy now, then who was.
    fn weight(self, counted: &Counted) -> (u64, u64) {
        (self.tally(counted).all(), counted.total.all())
    }

    fn title(self, title: &str) -> String {
        let title = cut(title, self.width);
        match self.color {
            true => format!("{BOLD}{title}{PLAIN}"),
            false => title,
        }
    }

    fn row(self, row: &str, is_denied: bool) -> String {
        let row = cut(row.trim_end(), self.width);
        match self.color && is_denied {
            true => format!("{RED}{row}{PLAIN}"),
            false => row,
        }
    }
}

fn slowness(one: &NameFigures) -> u128 {
    one.latency
        .percentile(99)
        .map_or(0, |time| time.as_micros())
}

fn noise(one: &NameFigures) -> u128 {
    u128::from(one.counted.last.all()) << 64 | u128::from(one.counted.total.all())
}

/// A text of a workload's in a column: no control characters, cut, and one blank behind it.
fn cell(text: &str, width: usize) -> String {
    let clean = text.chars().map(|letter| match letter {
        letter if letter.is_control() => '?',
        letter => letter,
    });
    let clean: String = clean.collect();
    cut(&clean, width.saturating_sub(1))
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut kept: String = text.chars().take(width.saturating_sub(1)).collect();
    kept.push('…');
    kept
}

/// All of it for programs.
pub(crate) fn as_json(traffic: &Traffic, lost: u64) -> Value {
    let micros = |time: Option<Duration>| time.map(|time| time.as_micros());
    let pairs = traffic.pairs.iter().map(|(pair, one)| {
        json!({
            "from": &*pair.from,
            "to": &*pair.to,
            "how": pair.how.to_string(),
            "allowed": one.counted.total.allowed,
            "denied": one.counted.total.denied,
            "latency_p99_us": micros(one.latency.percentile(99)),
        })
    });
    let names = traffic.names.iter().map(|(name, one)| {
        json!({
            "name": &**name,
            "asked": one.counted.total.all(),
            "denied": one.counted.total.denied,
            "failed": one.failed,
            "latency_p50_us": micros(one.latency.percentile(50)),
            "latency_p99_us": micros(one.latency.percentile(99)),
        })
    });
    json!({
        "version": 1,
        "flows": traffic.flows,
        "lost": lost,
        "left_out": traffic.left_out,
        "pairs": pairs.collect::<Vec<_>>(),
        "names": names.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flow::Line;

    const FLOWS: [&str; 4] = [
        r#"{"flow":{"verdict":"FORWARDED","IP":{"source":"10.0.0.2","destination":"192.0.2.1"},"l4":{"TCP":{"destination_port":443}},"source":{"namespace":"a","pod_name":"x"},"event_type":{"type":5},"is_reply":false,"destination_names":["web.test"],"traffic_direction":"EGRESS"}}"#,
        r#"{"flow":{"verdict":"DROPPED","IP":{"source":"10.0.0.2","destination":"192.0.2.2"},"l4":{"TCP":{"destination_port":22}},"source":{"namespace":"a","pod_name":"x"},"event_type":{"type":5},"destination_names":["evil\u001b[2Jtest"],"traffic_direction":"EGRESS"}}"#,
        r#"{"flow":{"verdict":"DROPPED","IP":{"source":"10.0.0.2","destination":"192.0.2.53"},"l4":{"UDP":{"destination_port":53}},"source":{"namespace":"a","pod_name":"x"},"l7":{"type":"REQUEST","dns":{"query":"no.test.","qtypes":["A"]}},"event_type":{"type":129},"is_reply":false}}"#,
        r#"{"flow":{"verdict":"FORWARDED","IP":{"source":"192.0.2.53","destination":"10.0.0.2"},"l4":{"UDP":{"source_port":53}},"destination":{"namespace":"a","pod_name":"x"},"l7":{"type":"RESPONSE","latency_ns":"3000000","dns":{"query":"web.test.","qtypes":["A"]}},"event_type":{"type":129},"is_reply":true}}"#,
    ];

    fn traffic() -> Traffic {
        let mut traffic = Traffic::default();
        for line in FLOWS {
            match Line::parse(line).unwrap() {
                Line::Flow(flow) => drop(traffic.add(&flow)),
                Line::LostEvents { .. } => unreachable!("all are flows"),
            }
        }
        traffic
    }

    fn view(width: usize) -> View {
        View {
            width,
            height: None,
            interval: None,
            color: false,
        }
    }

    #[test]
    fn who_talks_to_whom_and_which_names_are_slow() {
        let text = view(100).lines(&traffic(), 7).join("\n");
        for part in [
            "allowed 1   denied 2   4 flows, 3 pairs, 2 names, 7 lost",
            "a/x                          web.test                     443/TCP              1         0",
            "a/x                          192.0.2.53                   DNS                  0         1",
            "no.test                                                    1         1         0",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains('\u{1b}'), "{text}");
        assert!(text.contains("evil?[2Jtest"), "{text}");
        let (slow, noisy) = text.split_once("NOISIEST").unwrap();
        let slow = slow.split_once("SLOWEST").unwrap().1;
        assert!(slow.find("web.test") < slow.find("no.test"), "{slow}");
        assert!(noisy.find("no.test") < noisy.find("web.test"), "{noisy}");
    }

    #[test]
    fn a_screen_is_as_large_as_it_is() {
        let mut traffic = traffic();
        traffic.turn(300);
        let view = View {
            height: Some(12),
            interval: Some(Duration::from_secs(2)),
            color: true,
            ..view(60)
        };
        let lines = view.lines(&traffic, 0);
        assert!(lines.len() <= 12, "{lines:#?}");
        for line in &lines {
            let plain = [BOLD, RED, PLAIN]
                .iter()
                .fold(line.clone(), |line, code| line.replace(code, ""));
            assert!(
                plain.chars().count() <= 60 && !plain.contains('\u{1b}'),
                "{line:?}"
            );
        }
        assert!(
            lines[0].contains("allowed 0.5/s   denied 1.0/s"),
            "{lines:#?}"
        );
        assert!(lines.iter().any(|line| line.starts_with(RED)), "{lines:#?}");
    }

    #[test]
    fn programs_get_all_of_it() {
        let value = as_json(&traffic(), 0);
        assert_eq!(value["pairs"].as_array().unwrap().len(), 3);
        assert_eq!(value["names"][1]["name"], "web.test");
        assert_eq!(value["names"][1]["latency_p99_us"], 3_000);
    }
}
