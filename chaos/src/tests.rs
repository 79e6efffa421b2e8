//! Whole clusters under faults: what `ratoon-sim` does for a few seeds, on every test run.
#![allow(clippy::unwrap_used)]

use crate::campaign::Campaign;
use crate::corpus;
use crate::figures::Figures;
use crate::run::{Options, run};

/// Seeds of one test. Each is a cluster of its own making: sizes, rates, budgets and faults.
const SEEDS: u64 = 120;

#[test]
fn clusters_survive_their_faults_and_recover_by_themselves() {
    let mut total = Figures::default();
    let mut violations = Vec::new();
    for seed in 1..=SEEDS {
        let report = run(&Options { seed, ..Options::default() });
        total.add(&report.figures);
        if let Some(violation) = report.violation {
            violations.push(format!("ratoon-sim --seed {seed}: {violation}"));
        }
    }
    assert!(violations.is_empty(), "{} seeds failed:\n{}", violations.len(), violations.join("\n"));
    // A run in which nothing happened would pass, and prove nothing.
    for (count, least) in [
        (total.entries, 100 * SEEDS),
        (total.elections, 3 * SEEDS),
        (total.crashes, 5 * SEEDS),
        (total.cuts, 10 * SEEDS),
        (total.operations, 100 * SEEDS),
        (total.membership_changes, 5 * SEEDS),
        (total.compactions, 5 * SEEDS),
        (total.cold_reads, SEEDS / 2),
        (total.snapshots_built, 3 * SEEDS),
        (total.snapshots_installed, SEEDS),
        (total.pulls_resumed, SEEDS / 2),
        (total.seeds_through_faults, SEEDS / 2),
        (total.machines_replaced, SEEDS / 10),
        (total.digests_compared, 10 * SEEDS),
    ] {
        assert!(
            count >= least,
            "too little happened: {count} where {least} is the least: {total:?}"
        );
    }
}

#[test]
fn the_corpus_reaches_every_rare_path() {
    let cases = corpus::parse(include_str!("../corpus/simulation.seeds")).unwrap();
    let (mut total, mut violations) = (Figures::default(), Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    Campaign { threads, twice: false }.run(&cases, |case, report| {
        total.add(&report.figures);
        let seed = case.seed;
        violations.extend(report.violation.map(|violation| format!("seed {seed}: {violation}")));
        true
    });
    assert!(violations.is_empty(), "{} seeds failed:\n{}", violations.len(), violations.join("\n"));
    let missed: Vec<&str> =
        total.rare().into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name).collect();
    assert!(missed.is_empty(), "no seed of the corpus reaches: {}", missed.join(", "));
}

#[test]
fn any_number_of_threads_tells_the_same_in_the_same_order() {
    let cases: Vec<corpus::Case> =
        (50..58).map(|seed| corpus::Case { seed, steps: 2_000 }).collect();
    let told = |threads| {
        let mut told = Vec::new();
        Campaign { threads, twice: true }.run(&cases, |case, report| {
            told.push((case.seed, report.trace_hash, report.violation));
            true
        });
        told
    };
    assert_eq!(told(1), told(3));
}

#[test]
fn a_seed_tells_the_same_story_every_time() {
    for seed in 1_000..1_010 {
        let options = Options { seed, steps: 6_000, ..Options::default() };
        let (one, other) = (run(&options), run(&options));
        assert_eq!(one.trace_hash, other.trace_hash, "seed {seed}");
        assert_eq!(one.figures, other.figures, "seed {seed}");
    }
}

#[test]
fn different_seeds_tell_different_stories() {
    let hash = |seed| run(&Options { seed, steps: 2_000, ..Options::default() }).trace_hash;
    assert_ne!(hash(1), hash(2));
}
