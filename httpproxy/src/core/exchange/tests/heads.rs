//! Paths, targets, hosts and the syntax of the head: every row of their tables, at every cut.

use crate::rows::{Row, heads};

#[test]
fn a_head_is_judged_in_every_reading_and_forwarded_as_judged() {
    heads::rows().iter().for_each(Row::check);
}
