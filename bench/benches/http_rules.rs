//! Requests against many HTTP rules: may this one be made? Our list, and the rules' expressions tried in
//! turn as the comparison.

use std::hint::black_box;

use anyhow::Result;
use criterion::{BenchmarkId, Criterion};
use policy::http::{HttpRule, HttpRules, HttpVerdict, Path, Request};
use regex::Regex;

/// Paths that take turns: no automaton lives from one path alone.
const PATHS: usize = 512;

/// How the paths of rules differ, with the expression and a path of the rule with a number.
const SHAPES: [(&str, Shape); 3] = [
    ("beginning", |rule, turn| {
        let expression = format!("/svc{rule}/[a-z]+/[0-9]+");
        (expression, format!("/svc{rule}/items/{turn}"))
    }),
    ("literal", |rule, _| {
        let path = format!("/svc{rule}/items");
        (path.clone(), path)
    }),
    ("end", |rule, turn| {
        let expression = format!("/[a-z]+/[0-9]+/svc{rule}");
        (expression, format!("/items/{turn}/svc{rule}"))
    }),
];

type Shape = fn(usize, usize) -> (String, String);

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    for (name, shape) in SHAPES {
        for count in [10, 1_000] {
            verdicts(&mut criterion, count, (name, shape))?;
        }
    }
    criterion.final_summary();
    Ok(())
}

fn verdicts(criterion: &mut Criterion, count: usize, (name, shape): (&str, Shape)) -> Result<()> {
    let expressions: Vec<String> = (0..count).map(|rule| shape(rule, 0).0).collect();
    let rules: Vec<HttpRule> = expressions.iter().map(|path| rule(path)).collect();
    let ours = HttpRules::compile(&rules)?;
    let theirs = in_turn(&expressions)?;
    let paths = |rule: usize| (0..PATHS).map(move |turn| shape(rule, turn).1).collect();
    // The last rule, and the one behind it.
    let hits: Vec<String> = paths(count - 1);
    let misses: Vec<String> = paths(count);
    let mut group = criterion.benchmark_group("http_rules");
    for (what, paths) in [("hit", &hits), ("miss", &misses)] {
        for path in paths {
            assert_eq!(allows(&ours, path), what == "hit", "{path}");
            assert_eq!(first(&theirs, path).is_some(), what == "hit", "{path}");
        }
        let mut turn = paths.iter().cycle();
        let id = BenchmarkId::new(format!("{name}/ours/{what}"), count);
        group.bench_function(id, |bench| {
            bench.iter(|| turn.next().map(|path| allows(&ours, black_box(path))));
        });
        let mut turn = paths.iter().cycle();
        let id = BenchmarkId::new(format!("{name}/in turn/{what}"), count);
        group.bench_function(id, |bench| {
            bench.iter(|| turn.next().map(|path| first(&theirs, black_box(path))));
        });
    }
    group.sample_size(10);
    let id = BenchmarkId::new(format!("{name}/ours/build"), count);
    group.bench_function(id, |bench| {
        bench.iter(|| HttpRules::compile(black_box(&rules)).is_ok());
    });
    group.finish();
    Ok(())
}

fn rule(path: &str) -> HttpRule {
    HttpRule {
        method: Some("GET".into()),
        path: Some(path.into()),
        ..HttpRule::default()
    }
}

/// The whole of what a request costs here: its path read, and the verdict.
fn allows(rules: &HttpRules, target: &str) -> bool {
    let Ok(path) = Path::parse(target.as_bytes()) else {
        return false;
    };
    let verdict = rules.judge(&Request {
        method: "GET",
        path: Some(&path),
        host: Some("shop.test"),
        port: 80,
        headers: &[("host", b"shop.test"), ("accept", b"*/*")],
    });
    verdict != HttpVerdict::Denied
}

fn in_turn(expressions: &[String]) -> Result<Vec<Regex>> {
    let whole = |text: &String| Ok(Regex::new(&format!("^(?-u:{text})$"))?);
    expressions.iter().map(whole).collect()
}

fn first(expressions: &[Regex], path: &str) -> Option<usize> {
    expressions.iter().position(|each| each.is_match(path))
}
