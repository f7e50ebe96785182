//! Crafted packets by topic, each with what must become of it: what the program returns, what it counts
//! and what it tells. The kernel runs them (`BPF_PROG_TEST_RUN`).

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]

#[path = "../common/mod.rs"]
mod common;
mod errors;
mod flows;
mod headers;
mod hosts;
mod link;
mod policy;
mod ports;
mod table;
mod traces;

#[test]
fn there_are_a_thousand_rows() {
    let tables = [
        ports::topics(),
        policy::topics(),
        headers::topics(),
        hosts::topics(),
        flows::stories(),
        errors::stories(),
        link::stories(),
    ];
    let rows: usize = tables.iter().flatten().map(table::Topic::size).sum();
    assert!(rows >= 1_000, "{rows}");
}
