//! The verdict on one DNS question, from the server's address to the permit or the denial.

use std::hint::black_box;

use anyhow::Result;
use criterion::{BenchmarkId, Criterion};
use namegate_bench::{Scene, question, server, subject};
use policy::L4Protocol;

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    for count in [10, 1_000, 10_000] {
        verdicts(&mut criterion, count)?;
    }
    criterion.final_summary();
    Ok(())
}

fn verdicts(criterion: &mut Criterion, count: usize) -> Result<()> {
    let scene = Scene::new(count)?;
    let endpoint = subject()?;
    let allowed = question(&format!("www.svc{}.example.org", count - 1))?;
    let denied = question("www.example.com")?;
    let mut group = criterion.benchmark_group("verdicts");
    for (what, asked, expected) in [("allowed", &allowed, true), ("denied", &denied, false)] {
        let judge = || {
            scene
                .snapshot
                .judge_dns(endpoint, server(), L4Protocol::Udp, black_box(asked))
        };
        assert_eq!(judge().is_ok(), expected);
        group.bench_function(BenchmarkId::new(what, count), |bench| {
            bench.iter(judge);
        });
    }
    group.finish();
    Ok(())
}
