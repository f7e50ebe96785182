//! From an answer's name and addresses to the ledger, over maps in memory.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::Result;
use criterion::{BenchmarkId, Criterion};
use namegate_bench::{Learning, Scene, names};

/// More than an endpoint's cache holds, so that each new name takes the oldest one's place.
const NAMES: usize = 20_000;

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    for count in [10, 1_000, 10_000] {
        learning(&mut criterion, count)?;
    }
    criterion.final_summary();
    Ok(())
}

fn learning(criterion: &mut Criterion, count: usize) -> Result<()> {
    let answers: Vec<_> = names(NAMES, count)?.into_iter().zip(addresses()).collect();
    let mut learning = Learning::new(Scene::new(count)?);
    let mut group = criterion.benchmark_group("learning");
    if let [(name, address), ..] = answers.as_slice() {
        group.bench_function(BenchmarkId::new("refresh", count), |bench| {
            bench.iter(|| learning.learn(black_box(name), &[*address]).ok());
        });
    }
    for (name, address) in &answers {
        learning.learn(name, &[*address])?;
    }
    let mut turn = answers.iter().cycle();
    group.bench_function(BenchmarkId::new("new", count), |bench| {
        bench.iter(|| {
            let (name, address) = turn.next()?;
            learning.learn(black_box(name), &[*address]).ok()
        });
    });
    group.finish();
    Ok(())
}

/// Addresses that end an hour from now.
#[expect(
    clippy::disallowed_methods,
    reason = "an Instant can be had in no other way"
)]
fn addresses() -> impl Iterator<Item = (IpAddr, Instant)> {
    let end = Instant::now() + Duration::from_secs(3600);
    (0..u32::MAX).map(move |number| (IpAddr::V4(Ipv4Addr::from_bits(0x2D00_0000 + number)), end))
}
