//! Many names against many patterns: which pattern stands for a name? Our set, and
//! `regex::RegexSet` as the comparison.

use std::hint::black_box;

use anyhow::Result;
use criterion::{BenchmarkId, Criterion};
use fqdn::{Everything, Name, Pattern, PatternSet};
use namegate_bench::{name, pattern};
use regex::{RegexSet, RegexSetBuilder};

/// Names that take turns: no automaton lives from one name's path alone.
const NAMES: usize = 512;

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    for count in [10, 1_000, 10_000] {
        lookups(&mut criterion, count)?;
    }
    criterion.final_summary();
    Ok(())
}

fn lookups(criterion: &mut Criterion, count: usize) -> Result<()> {
    let patterns = (0..count).map(|index| {
        Pattern::parse(&pattern(index), Everything::AnyName)
            .map_err(|error| anyhow::anyhow!("{error:?}"))
    });
    let patterns = patterns.collect::<Result<Vec<_>>>()?;
    let ours = set_of(&patterns);
    let expressions: Vec<String> = (0..count).map(expression).collect();
    let theirs = regexes(&expressions)?;
    // A prime step goes through all patterns out of order.
    let hits = texts(|turn| turn * 7_919 % count)?;
    let misses = texts(|turn| count + turn)?;
    let mut group = criterion.benchmark_group("patterns");
    for (what, names) in [("hit", &hits), ("miss", &misses)] {
        for (text, name) in names {
            let ours = ours.first_match(name.as_wire());
            assert_eq!(ours, theirs.matches(text).iter().next(), "{text}");
        }
        let mut turn = names.iter().cycle();
        group.bench_function(BenchmarkId::new(format!("set/{what}"), count), |bench| {
            bench.iter(|| {
                let (_, name) = turn.next()?;
                ours.first_match(black_box(name.as_wire()))
            });
        });
        let mut turn = names.iter().cycle();
        group.bench_function(BenchmarkId::new(format!("regex/{what}"), count), |bench| {
            bench.iter(|| {
                let (text, _) = turn.next()?;
                theirs.matches(black_box(text)).iter().next()
            });
        });
    }
    group.sample_size(10);
    group.bench_function(BenchmarkId::new("set/build", count), |bench| {
        bench.iter(|| set_of(black_box(&patterns)));
    });
    group.bench_function(BenchmarkId::new("regex/build", count), |bench| {
        bench.iter(|| regexes(black_box(&expressions)).is_ok());
    });
    group.finish();
    Ok(())
}

fn set_of(patterns: &[Pattern]) -> PatternSet<usize> {
    let mut set = PatternSet::new();
    for (index, pattern) in patterns.iter().enumerate() {
        set.insert(pattern, index);
    }
    set
}

/// The same pattern as an expression.
fn expression(index: usize) -> String {
    let text = pattern(index);
    format!("^{}$", text.replace('.', "[.]").replace('*', "[-a-z0-9_]*"))
}

fn regexes(expressions: &[String]) -> Result<RegexSet> {
    let mut builder = RegexSetBuilder::new(expressions);
    Ok(builder
        .size_limit(1 << 30)
        .dfa_size_limit(1 << 28)
        .build()?)
}

/// Names below `svcN`, for the N of each turn.
fn texts(service: impl Fn(usize) -> usize) -> Result<Vec<(String, Name)>> {
    (0..NAMES)
        .map(|turn| {
            let text = format!("n{turn}.svc{}.example.org", service(turn));
            let name = name(&text)?;
            Ok((text, name))
        })
        .collect()
}
