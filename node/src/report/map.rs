//! The drawings of the page.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::html::text;
use super::time;
use crate::traffic::{Latency, Tally, Traffic};

/// Lines of the map: those with the most traffic; the table below has all.
const EDGES_MAX: usize = 60;
/// Letters of a name in the map.
const NAME_LETTERS: usize = 48;

/// Height of a name, and where its two columns end and begin, in the drawing's own units.
const ROW: usize = 24;
const LEFT: usize = 380;
const RIGHT: usize = 720;
const WIDTH: usize = 1_100;

/// Draws who talks to whom: senders on the left, names on the right.
pub(super) fn write(traffic: &Traffic, page: &mut String) {
    let mut edges: BTreeMap<(&str, &str), Tally> = BTreeMap::new();
    for (pair, one) in &traffic.pairs {
        let sum = edges.entry((&pair.from, &pair.to)).or_default();
        sum.allowed += one.counted.total.allowed;
        sum.denied += one.counted.total.denied;
    }
    let mut edges: Vec<_> = edges.into_iter().collect();
    let all = edges.len();
    edges.sort_by_key(|(_, tally)| std::cmp::Reverse(tally.all()));
    edges.truncate(EDGES_MAX);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for ((from, to), _) in &edges {
        for (side, name) in [(&mut left, from), (&mut right, to)] {
            if !side.contains(name) {
                side.push(*name);
            }
        }
    }
    let height = left.len().max(right.len()) * ROW + ROW;
    let _ = writeln!(
        page,
        "<section id=\"map\"><h2>Services by name</h2>\n\
         <svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"who talks to whom\">"
    );
    let row = |side: &[&str], name: &str| {
        let at = side.iter().position(|one| *one == name).unwrap_or_default();
        at * ROW + ROW
    };
    for ((from, to), tally) in &edges {
        let (y1, y2) = (row(&left, from), row(&right, to));
        let bad = if tally.denied > 0 { " bad" } else { "" };
        let width = 1 + tally.all().max(1).ilog10();
        let (x1, x2, middle) = (LEFT + 8, RIGHT - 8, usize::midpoint(LEFT, RIGHT));
        let _ = writeln!(
            page,
            "<path class=\"edge{bad}\" stroke-width=\"{width}\" d=\"M{x1} {y1} C{middle} {y1} {middle} {y2} {x2} {y2}\">\
             <title>{} → {}: {} allowed, {} denied</title></path>",
            text(from),
            text(to),
            tally.allowed,
            tally.denied
        );
    }
    for (side, x, anchor) in [(&left, LEFT, "end"), (&right, RIGHT, "start")] {
        for name in side {
            let y = row(side, name) + 4;
            let short = short(name);
            let _ = writeln!(
                page,
                "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{}<title>{}</title></text>",
                text(&short),
                text(name)
            );
        }
    }
    page.push_str("</svg>\n");
    if all > EDGES_MAX {
        let _ = writeln!(page, "<p>And {} more, in the table.</p>", all - EDGES_MAX);
    }
    page.push_str("</section>\n");
}

fn short(name: &str) -> String {
    if name.chars().count() <= NAME_LETTERS {
        return name.to_owned();
    }
    let kept: String = name.chars().take(NAME_LETTERS - 1).collect();
    format!("{kept}…")
}

/// Draws how long names took: a bar for each doubling of time.
pub(super) fn write_latency(latency: &Latency, page: &mut String) {
    const BAR: usize = 84;
    const HEIGHT: usize = 120;
    let steps: Vec<_> = latency.steps().collect();
    let Some(first) = steps.iter().position(|(_, count)| *count > 0) else {
        page.push_str("<p>No answer was recorded.</p>\n");
        return;
    };
    let last = steps
        .iter()
        .rposition(|(_, count)| *count > 0)
        .unwrap_or(first);
    let shown = steps.get(first..=last).unwrap_or_default();
    let most = shown
        .iter()
        .map(|(_, count)| *count)
        .max()
        .unwrap_or(1)
        .max(1);
    let width = shown.len() * BAR;
    let _ = writeln!(
        page,
        "<svg id=\"latency\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"how long answers took\">",
        width.max(WIDTH),
        HEIGHT + 40
    );
    for (at, (bound, count)) in shown.iter().enumerate() {
        // At most HEIGHT, since no count is above the most.
        let height = usize::try_from(count * 100 / most).unwrap_or(100) * HEIGHT / 100;
        let (x, y) = (at * BAR, 20 + HEIGHT - height);
        let _ = writeln!(
            page,
            "<rect class=\"bar\" x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{height}\"><title>{count}</title></rect>\
             <text x=\"{x}\" y=\"{}\">{count}</text><text x=\"{x}\" y=\"{}\">≤ {}</text>",
            BAR - 8,
            y - 4,
            HEIGHT + 36,
            text(&time(Some(*bound)))
        );
    }
    page.push_str("</svg>\n");
}
