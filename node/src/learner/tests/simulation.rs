//! Whole lives of a proxy: the real core of the exchange and the real learner, under a clock that tests
//! turn, a network that loses, delays, doubles and forges, and a kernel that is slow or full; beside a
//! plain model of what the laws call for. After each step both must agree.

mod life;
mod model;
mod network;
mod steps;
mod wire;

use std::panic::AssertUnwindSafe;
use std::sync::atomic::AtomicU64;

use super::*;
use life::{Life, Stage};

/// How many lives, unless `NAMEGATE_SEEDS` says otherwise.
const SEEDS: u64 = 10_000;
/// Threads that live them.
const THREADS: u64 = 4;

#[expect(clippy::disallowed_methods, reason = "what a person asks of a test")]
fn asked_for(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().expect("a number"))
}

#[test]
fn the_laws_hold_whatever_network_and_kernel_do() {
    if let Some(seed) = asked_for("NAMEGATE_SEED") {
        let (seen, _) = Life::new((seed, true), Stage::new()).live();
        println!("{seen}");
        return;
    }
    let seeds = asked_for("NAMEGATE_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let lives = || {
        let mut all = life::Seen::default();
        let mut stage = Stage::new();
        loop {
            let seed = next.fetch_add(1, SeqCst);
            if seed >= seeds {
                return all;
            }
            let life = AssertUnwindSafe(|| Life::new((seed, false), stage).live());
            match std::panic::catch_unwind(life) {
                Ok((seen, after)) => {
                    all.add(&seen);
                    stage = after;
                }
                Err(why) => {
                    next.store(seeds, SeqCst);
                    eprintln!(
                        "seed {seed} breaks a law; NAMEGATE_SEED={seed} cargo test -p namegate simulation -- --nocapture tells how"
                    );
                    std::panic::resume_unwind(why);
                }
            }
        }
    };
    let mut all = life::Seen::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(lives)).collect();
        for thread in threads {
            all.add(&thread.join().unwrap());
        }
    });
    println!("{all}");
    if seeds >= SEEDS {
        all.assert_that_all_happened();
    }
}
