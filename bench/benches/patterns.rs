//! One name against many patterns: our set, and `regex::RegexSet` as the comparison.

use std::hint::black_box;

use anyhow::Result;
use criterion::{BenchmarkId, Criterion};
use fqdn::{Everything, Pattern, PatternSet};
use namegate_bench::{name, pattern};
use regex::RegexSetBuilder;

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    for count in [10, 1_000, 10_000] {
        compare(&mut criterion, count)?;
    }
    criterion.final_summary();
    Ok(())
}

fn compare(criterion: &mut Criterion, count: usize) -> Result<()> {
    let hit = format!("www.svc{}.example.org", count - 1);
    let miss = "www.example.com".to_owned();
    let mut ours = PatternSet::new();
    let mut expressions = Vec::new();
    for index in 0..count {
        let text = pattern(index);
        let parsed = Pattern::parse(&text, Everything::AnyName)
            .map_err(|error| anyhow::anyhow!("{text}: {error:?}"))?;
        ours.insert(&parsed, index);
        let expression = text.replace('.', "[.]").replace('*', "[-a-z0-9_]*");
        expressions.push(format!("^{expression}$"));
    }
    let theirs = RegexSetBuilder::new(&expressions)
        .size_limit(1 << 30)
        .dfa_size_limit(1 << 28)
        .build()?;
    let mut group = criterion.benchmark_group("patterns");
    for (what, text) in [("hit", &hit), ("miss", &miss)] {
        let wire = name(text)?;
        group.bench_function(BenchmarkId::new(format!("set/{what}"), count), |bench| {
            bench.iter(|| ours.first_match(black_box(wire.as_wire())));
        });
        group.bench_function(BenchmarkId::new(format!("regex/{what}"), count), |bench| {
            bench.iter(|| theirs.is_match(black_box(text)));
        });
    }
    group.finish();
    Ok(())
}
