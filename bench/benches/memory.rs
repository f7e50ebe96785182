//! What a revision of policy keeps in memory, with its loader and compiler: live bytes as the allocator
//! counts them, without what it keeps for itself.

use std::alloc::System;
use std::io::Write as _;

use anyhow::Result;
use namegate_bench::revisions::{Revisions, Shape, cast, one_rule_file, pattern_files, rule_files};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> Result<()> {
    let cast = cast(&["a"])?;
    let mut out = std::io::stdout();
    for (what, counts) in [
        ("rules", &[10, 1_000, 10_000, 100_000][..]),
        (
            "patterns, each in a DNS list and in toFQDNs",
            &[10, 1_000, 10_000, 100_000][..],
        ),
        ("patterns in one list", &[10, 1_000, 10_000][..]),
    ] {
        for count in counts {
            let sources = match what {
                "rules" => rule_files(*count),
                "patterns in one list" => {
                    let texts = (0..*count).map(|index| Shape::Suffix.pattern(index));
                    vec![one_rule_file(&texts.collect::<Vec<_>>())]
                }
                _ => pattern_files(Shape::Suffix, *count),
            };
            let region = Region::new(ALLOCATOR);
            let mut revisions = Revisions::new();
            revisions.change(&sources, &cast)?;
            let change = region.change();
            let kept = change
                .bytes_allocated
                .saturating_sub(change.bytes_deallocated);
            writeln!(out, "{count} {what}: {} KB", kept / 1_000)?;
        }
    }
    Ok(())
}
