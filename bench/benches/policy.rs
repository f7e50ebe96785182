//! Policy from files to a snapshot, whole and after a change; verdicts and learned addresses under it.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result};
use criterion::{BatchSize, BenchmarkId, Criterion};
use namegate_bench::revisions::{
    FILE_PATTERNS, Revisions, Shape, cast, load, one_rule_file, pattern_file, pattern_files,
    rule_files,
};
use namegate_bench::{name, question, server, subject};
use policy::{Identity, L4Protocol, Loader, PolicySet, Source};

/// Names that take turns.
const NAMES: usize = 512;

fn main() -> Result<()> {
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    for count in [10, 1_000, 10_000, 100_000] {
        let sources = pattern_files(Shape::Suffix, count);
        changes(&mut criterion, ("patterns", count), &sources)?;
        replaced_patterns(&mut criterion, count, sources)?;
    }
    for count in [10, 1_000, 10_000, 100_000] {
        changes(&mut criterion, ("rules", count), &rule_files(count))?;
        replaced_rules(&mut criterion, count)?;
    }
    for shape in Shape::ALL {
        for count in [10, 1_000, 10_000, 100_000] {
            verdicts(&mut criterion, shape, count)?;
        }
    }
    for count in [10, 10_000] {
        learned(&mut criterion, count)?;
    }
    criterion.final_summary();
    Ok(())
}

/// Loading and compiling whole, and what one more endpoint costs.
fn changes(
    criterion: &mut Criterion,
    (what, count): (&str, usize),
    sources: &[Source],
) -> Result<()> {
    let id = |step: &str| BenchmarkId::new(format!("{what}/{step}"), count);
    let [alone, alike, other] = [cast(&["a"])?, cast(&["a", "a"])?, cast(&["a", "b"])?];
    let mut group = criterion.benchmark_group("policy");
    group.bench_function(id("load"), |bench| {
        bench.iter(|| load(&mut Loader::new(), black_box(sources)).is_ok());
    });
    let set = load(&mut Loader::new(), sources)?.set;
    group.bench_function(id("build"), |bench| {
        // Files that were just read: a list keeps the set that its first compiling made.
        let read = || load(&mut Loader::new(), sources).map(|loaded| loaded.set);
        let build = |set: Result<PolicySet>| {
            let set = set.ok()?;
            let is_built = Revisions::new().build(black_box(&set), &alone).is_ok();
            is_built.then_some(set)
        };
        bench.iter_batched(read, build, BatchSize::PerIteration);
    });
    for (step, more) in [("same labels", &alike), ("new labels", &other)] {
        let mut revisions = Revisions::new();
        revisions.build(&set, more)?;
        let mut turns = [&alone, more].into_iter().cycle();
        group.bench_function(id(step), |bench| {
            bench.iter(|| {
                let cast = turns.next()?;
                revisions.build(&set, black_box(cast)).is_ok().then_some(())
            });
        });
    }
    group.finish();
    Ok(())
}

/// The first file says something else in all its lists.
fn replaced_patterns(criterion: &mut Criterion, count: usize, sources: Vec<Source>) -> Result<()> {
    let texts = |first| -> Vec<String> {
        let numbers = first..first + count.min(FILE_PATTERNS);
        numbers.map(|index| Shape::Suffix.pattern(index)).collect()
    };
    let (old, new) = (texts(0), texts(1_000_000));
    let mut changed = sources.clone();
    *changed.first_mut().context("a file")? = pattern_file(0, &new);
    replaced(criterion, ("patterns/replace", count), [sources, changed])?;
    let one_rule = [vec![one_rule_file(&old)], vec![one_rule_file(&new)]];
    replaced(criterion, ("patterns/replace one rule", count), one_rule)
}

/// A file of up to 2,000 rules says something else in one of them.
fn replaced_rules(criterion: &mut Criterion, count: usize) -> Result<()> {
    let sources = rule_files(count);
    let mut changed = sources.clone();
    let first = changed.first_mut().context("a file")?;
    first.text = first.text.replace("host0.example", "other.example");
    replaced(criterion, ("rules/replace", count), [sources, changed])
}

/// Two sets of files in turn, each read and compiled after the other.
fn replaced(
    criterion: &mut Criterion,
    (what, count): (&str, usize),
    turns: [Vec<Source>; 2],
) -> Result<()> {
    let cast = cast(&["a"])?;
    let mut revisions = Revisions::new();
    let mut turns = turns.iter().cycle();
    let mut change = || {
        let sources = turns.next().context("endless")?;
        revisions.change(black_box(sources), &cast).map(|_| ())
    };
    change()?;
    change()?;
    let id = BenchmarkId::new(what, count);
    criterion
        .benchmark_group("policy")
        .bench_function(id, |bench| bench.iter(|| change().is_ok()));
    Ok(())
}

/// Verdicts on questions: names of patterns in turn, and names that only the number tells from those.
fn verdicts(criterion: &mut Criterion, shape: Shape, count: usize) -> Result<()> {
    let mut revisions = Revisions::new();
    let snapshot = revisions.change(&pattern_files(shape, count), &cast(&["a"])?)?;
    let endpoint = subject()?;
    let questions = |index: &dyn Fn(usize) -> usize| -> Result<Vec<_>> {
        let turns = 0..NAMES;
        turns
            .map(|turn| question(&shape.name(index(turn))))
            .collect()
    };
    // A prime step goes through all patterns out of order.
    let hits = questions(&|turn| turn * 7_919 % count)?;
    let misses = questions(&|turn| count + turn)?;
    let judge = |asked| snapshot.judge_dns(endpoint, server(), L4Protocol::Udp, asked);
    let mut group = criterion.benchmark_group("policy");
    for (what, questions) in [("hit", &hits), ("miss", &misses)] {
        for asked in questions {
            assert_eq!(judge(asked).is_ok(), what == "hit", "{asked:?}");
        }
        let mut turns = questions.iter().cycle();
        let id = BenchmarkId::new(format!("{}/{what}", shape.word()), count);
        group.bench_function(id, |bench| {
            bench.iter(|| turns.next().map(|asked| judge(black_box(asked)).is_ok()));
        });
    }
    group.finish();
    Ok(())
}

/// From the name of an answer to the entries of its address.
fn learned(criterion: &mut Criterion, count: usize) -> Result<()> {
    let mut revisions = Revisions::new();
    let snapshot = revisions.change(&pattern_files(Shape::Suffix, count), &cast(&["a"])?)?;
    let endpoint = subject()?;
    let identity = Identity::from_number(1 << 24);
    let address = IpAddr::V4(Ipv4Addr::new(45, 0, 0, 1));
    let names = (0..NAMES).map(|turn| name(&Shape::Suffix.name(turn * 7_919 % count)));
    let names = names.collect::<Result<Vec<_>>>()?;
    let entries = |name| {
        let labels = snapshot.learned_labels(endpoint, std::iter::once(name), address);
        snapshot.entries_for(endpoint, &labels, identity).len()
    };
    assert!(names.iter().all(|name| entries(name) == 1));
    let mut turns = names.iter().cycle();
    let id = BenchmarkId::new("learned", count);
    criterion
        .benchmark_group("policy")
        .bench_function(id, |bench| {
            bench.iter(|| turns.next().map(|name| entries(black_box(name))));
        });
    Ok(())
}
