//! Reading one query and one answer: our readers, and hickory-proto as the comparison.

use std::hint::black_box;

use anyhow::{Result, ensure};
use criterion::Criterion;
use dnsproxy::{gate_query, read_answer};
use hickory_proto::op::Message;
use policy::L4Protocol;

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let query = message(0x0100, 0);
    let answer = message(0x8180, 4);
    ensure!(gate_query(&query, L4Protocol::Udp).is_ok());
    ensure!(read_answer(&answer).is_ok_and(|reading| reading.addresses.len() == 4));
    let mut group = criterion.benchmark_group("messages");
    group.bench_function("query/ours", |bench| {
        bench.iter(|| gate_query(black_box(&query), L4Protocol::Udp).is_ok());
    });
    group.bench_function("query/hickory", |bench| {
        bench.iter(|| Message::from_vec(black_box(&query)).is_ok());
    });
    group.bench_function("answer/ours", |bench| {
        bench.iter(|| read_answer(black_box(&answer)).is_ok());
    });
    group.bench_function("answer/hickory", |bench| {
        bench.iter(|| Message::from_vec(black_box(&answer)).is_ok());
    });
    group.finish();
    criterion.final_summary();
    Ok(())
}

/// A message with one question for `www.svc9.example.org A` and that many A records.
fn message(flags: u16, records: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [0x1234, flags, 1, u16::from(records), 0, 0] {
        bytes.extend_from_slice(&word.to_be_bytes());
    }
    bytes.extend_from_slice(b"\x03www\x04svc9\x07example\x03org\0\0\x01\0\x01");
    for last in 0..records {
        bytes.extend_from_slice(b"\xC0\x0C\0\x01\0\x01\0\0\0\x3C\0\x04\xCB\0\x71");
        bytes.push(last);
    }
    bytes
}
