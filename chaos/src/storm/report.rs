//! The report of a storm: for people as text, for programs as JSON, from one struct.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::judge::Check;
use super::timeline::{Event, Fault, seconds};
use super::watch::Transfer;
use crate::checks::history::{Effect, History, Outcome};

/// What operations outside all faults count as.
const QUIET: &str = "(quiet)";
/// Longest latency told apart, microseconds.
const LATENCY_US_MAX: u64 = 120_000_000;

/// What a storm came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every rule held.
    Passed,
    /// A rule was broken, or there was too little to judge.
    Failed,
    /// Nothing was broken, and a part could not be played on this machine.
    Incomplete,
}

/// Everything about one storm.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Its name.
    pub scenario: String,
    /// Everything drawn follows from it.
    pub seed: u64,
    /// From the start of the load to the end of the judgement.
    pub seconds: f64,
    /// See the type.
    pub verdict: Verdict,
    /// All rules.
    pub checks: Vec<Check>,
    /// Operations by what struck meanwhile.
    pub latencies: Vec<Latencies>,
    /// What came after faults, by their kind.
    pub recoveries: Vec<Recovery>,
    /// Sums.
    pub totals: Totals,
    /// Every transfer.
    pub transfers: Vec<Transfer>,
    /// Every fault.
    pub faults: Vec<Fault>,
    /// The story, line by line.
    pub events: Vec<Event>,
}

/// Latencies of the operations that ran, at least in part, during faults of one kind.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Latencies {
    /// The kind; operations beside no fault are under one of their own.
    pub during: String,
    /// Writes that were answered.
    pub puts: Quantiles,
    /// Reads that were answered.
    pub gets: Quantiles,
    /// Operations that ended without an answer.
    pub unanswered: u64,
}

/// A distribution.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Quantiles {
    /// Values.
    pub count: u64,
    /// Median, milliseconds.
    pub p50_ms: f64,
    /// 99th percentile, milliseconds.
    pub p99_ms: f64,
    /// Greatest, milliseconds.
    pub max_ms: f64,
}

/// What came after the faults of one kind.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Recovery {
    /// The kind.
    pub kind: String,
    /// Faults.
    pub count: usize,
    /// From the end of a fault to the next acknowledged write.
    pub first_write: Quantiles,
    /// From the end of a fault until what it had disturbed was seen to work: all nodes well, or bytes
    /// flowing.
    pub well: Quantiles,
}

/// Sums over a storm.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Operations asked.
    pub operations: usize,
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// Writes of which nobody knows whether they happened.
    pub unknown: usize,
    /// Bytes of content at the begin, besides what the clients write.
    pub ballast_bytes: u64,
    /// Bytes that passed the proxies.
    pub proxied_bytes: u64,
    /// Datagrams that proxies dropped on purpose.
    pub dropped_datagrams: u64,
    /// Elections that the node which saw most of them has seen won since its start.
    pub elections: u64,
}

fn quantiles(histogram: &Histogram<u64>) -> Quantiles {
    let ms = |us: u64| us as f64 / 1e3;
    Quantiles {
        count: histogram.len(),
        p50_ms: ms(histogram.value_at_quantile(0.5)),
        p99_ms: ms(histogram.value_at_quantile(0.99)),
        max_ms: ms(histogram.max()),
    }
}

fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constant and valid")
}

/// What operations during one kind of fault took.
struct Phase {
    puts: Histogram<u64>,
    gets: Histogram<u64>,
    unanswered: u64,
}

/// Latencies by what struck meanwhile.
pub fn latencies(history: &History, faults: &[Fault]) -> Vec<Latencies> {
    let mut phases: BTreeMap<&str, Phase> = BTreeMap::new();
    for operation in &history.operations {
        let Some((ended_us, outcome)) = &operation.ended else { continue };
        let overlaps = |fault: &&Fault| {
            fault.began_us <= *ended_us && fault.ended_us.is_none_or(|at| at >= operation.called_us)
        };
        let mut kinds: Vec<&str> =
            faults.iter().filter(overlaps).map(|fault| fault.kind.as_str()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        if kinds.is_empty() {
            kinds.push(QUIET);
        }
        for kind in kinds {
            let phase = phases.entry(kind).or_insert_with(|| Phase {
                puts: empty(),
                gets: empty(),
                unanswered: 0,
            });
            let took_us = (ended_us - operation.called_us).max(1);
            match (&operation.effect, outcome) {
                (_, Outcome::NotDone | Outcome::Unknown) => phase.unanswered += 1,
                (Effect::Get(_), _) => phase.gets.saturating_record(took_us),
                (Effect::Write(_), _) => phase.puts.saturating_record(took_us),
            }
        }
    }
    let told = |(during, phase): (&str, Phase)| Latencies {
        during: during.to_owned(),
        puts: quantiles(&phase.puts),
        gets: quantiles(&phase.gets),
        unanswered: phase.unanswered,
    };
    phases.into_iter().map(told).collect()
}

/// What came after faults, by their kind.
pub fn recoveries(history: &History, faults: &[Fault]) -> Vec<Recovery> {
    let mut acknowledged: Vec<u64> = Vec::new();
    for operation in &history.operations {
        if let Some((at, Outcome::Applied(..))) = &operation.ended {
            acknowledged.push(*at);
        }
    }
    acknowledged.sort_unstable();
    let mut kinds: BTreeMap<&str, (usize, Histogram<u64>, Histogram<u64>)> = BTreeMap::new();
    for fault in faults {
        let Some(ended_us) = fault.ended_us else { continue };
        let entry = kinds.entry(&fault.kind).or_insert_with(|| (0, empty(), empty()));
        entry.0 += 1;
        let next = acknowledged.partition_point(|at| *at < ended_us);
        if let Some(at) = acknowledged.get(next) {
            entry.1.saturating_record((at - ended_us).max(1));
        }
        if let Some(at) = fault.recovered_us {
            entry.2.saturating_record(at.saturating_sub(ended_us).max(1));
        }
    }
    let told = |(kind, (count, first, well)): (&str, _)| Recovery {
        kind: kind.to_owned(),
        count,
        first_write: quantiles(&first),
        well: quantiles(&well),
    };
    kinds.into_iter().map(told).collect()
}

impl Report {
    /// The rules that were broken.
    pub fn broken(&self) -> Vec<&Check> {
        self.checks.iter().filter(|check| !check.ok).collect()
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_text(&mut text);
        text
    }

    fn write_text(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "\ntimeline of {} (seed {})", self.scenario, self.seed)?;
        for event in &self.events {
            writeln!(text, "{:8.1} s  {}", event.at_seconds, event.text)?;
        }
        writeln!(text, "\nlatencies, milliseconds")?;
        writeln!(
            text,
            "{:<36} {:>8} {:>8} {:>8} {:>9} {:>8} {:>8} {:>8} {:>9} {:>10}",
            "during", "puts", "p50", "p99", "max", "gets", "p50", "p99", "max", "unanswered"
        )?;
        for of in &self.latencies {
            let row = |q: &Quantiles| {
                format!("{:>8} {:>8.1} {:>8.1} {:>9.1}", q.count, q.p50_ms, q.p99_ms, q.max_ms)
            };
            let (puts, gets) = (row(&of.puts), row(&of.gets));
            writeln!(text, "{:<36} {puts} {gets} {:>10}", of.during, of.unanswered)?;
        }
        writeln!(text, "\nafter faults, seconds: the next acknowledged write; all well")?;
        for of in &self.recoveries {
            let row = |q: &Quantiles| {
                format!("median {:.1}, most {:.1} (of {})", q.p50_ms / 1e3, q.max_ms / 1e3, q.count)
            };
            let (first, well) = (row(&of.first_write), row(&of.well));
            writeln!(text, "{:<36} {:>4} faults  {first}; {well}", of.kind, of.count)?;
        }
        let totals = &self.totals;
        writeln!(
            text,
            "\n{} operations, {} writes acknowledged, {} of unknown outcome; {} bytes and {} \
             dropped datagrams at the proxies; {} elections",
            totals.operations,
            totals.acknowledged,
            totals.unknown,
            totals.proxied_bytes,
            totals.dropped_datagrams,
            totals.elections
        )?;
        for check in &self.checks {
            let mark = if check.ok { "ok    " } else { "BROKEN" };
            writeln!(text, "{mark} {}: {}", check.name, check.detail)?;
        }
        writeln!(text, "{:?} after {:.0} s", self.verdict, self.seconds)
    }

    /// The verdict that follows from checks and from what could not be played.
    pub fn verdict_of(checks: &[Check], is_all_played: bool) -> Verdict {
        let broken = checks.iter().filter(|check| !check.ok).count();
        match (broken, is_all_played) {
            (0, _) => Verdict::Passed,
            (1, false) => Verdict::Incomplete,
            _ => Verdict::Failed,
        }
    }
}

/// One line of the table of many storms, in Markdown; the head of the table for None.
pub fn table_row(report: Option<&Report>) -> String {
    let Some(report) = report else {
        return "| scenario | seed | verdict | s | writes | faults | transfers | resumes | resent MiB \
                | p99 put ms in faults / quiet | p99 get ms in faults / quiet | s to next write / \
                well (most) |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
            .to_owned();
    };
    let p99 = |of: fn(&Latencies) -> f64| {
        let worst = |quiet: bool| {
            let of_these = report.latencies.iter().filter(|it| (it.during == QUIET) == quiet);
            of_these.map(of).fold(0.0, f64::max)
        };
        format!("{:.0} / {:.0}", worst(false), worst(true))
    };
    let most =
        |of: fn(&Recovery) -> f64| report.recoveries.iter().map(of).fold(0.0, f64::max) / 1e3;
    let sum = |of: fn(&Transfer) -> u64| report.transfers.iter().map(of).sum::<u64>();
    let installed = report.transfers.iter().filter(|transfer| transfer.is_installed()).count();
    format!(
        "| {} | {} | {} | {:.0} | {} | {} | {installed} | {} | {:.1} | {} | {} | {:.1} / {:.1} |",
        report.scenario,
        report.seed,
        match report.verdict {
            Verdict::Passed => "passed".to_owned(),
            Verdict::Incomplete => "incomplete".to_owned(),
            Verdict::Failed => {
                let names: Vec<&str> =
                    report.broken().iter().map(|check| check.name.as_str()).collect();
                format!("FAILED: {}", names.join(", "))
            }
        },
        report.seconds,
        report.totals.acknowledged,
        report.faults.len(),
        sum(|transfer| transfer.resumes),
        sum(|transfer| transfer.resent_bytes) as f64 / f64::from(1 << 20),
        p99(|it| it.puts.p99_ms),
        p99(|it| it.gets.p99_ms),
        most(|it| it.first_write.max_ms),
        most(|it| it.well.max_ms),
    )
}

/// How long a storm took, for its report.
pub fn elapsed_seconds(from_us: u64, to_us: u64) -> f64 {
    seconds(to_us.saturating_sub(from_us))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn fault(kind: &str, began_us: u64, ended_us: u64, recovered_us: u64) -> Fault {
        Fault {
            kind: kind.to_owned(),
            detail: String::new(),
            began_us,
            ended_us: Some(ended_us),
            recovered_us: Some(recovered_us),
        }
    }

    fn get(history: &mut History, called: u64, ended: u64, outcome: Outcome) {
        let id = history.begin(called, Effect::Get(b"k".to_vec()));
        history.end(id, ended, outcome);
    }

    #[test]
    fn an_operation_counts_for_every_fault_that_it_met_and_else_for_quiet() {
        let mut history = History::default();
        get(&mut history, 1_000, 2_000, Outcome::Read(0, None));
        get(&mut history, 9_000, 21_000, Outcome::Read(0, None));
        get(&mut history, 15_000, 16_000, Outcome::NotDone);
        let faults = [fault("cut", 10_000, 20_000, 30_000), fault("kill", 20_500, 22_000, 23_000)];
        let told = latencies(&history, &faults);
        let of = |during: &str| told.iter().find(|it| it.during == during).unwrap().clone();
        assert_eq!((of(QUIET).gets.count, of("cut").gets.count, of("kill").gets.count), (1, 1, 1));
        assert_eq!((of("cut").unanswered, of("kill").unanswered), (1, 0));
        assert!((11.9..12.1).contains(&of("kill").gets.p99_ms));
    }

    #[test]
    fn recovery_is_counted_from_the_end_of_a_fault() {
        let mut history = History::default();
        for at in [5_000, 26_000] {
            let reply = ratoon::types::Reply::Done;
            let id = history.begin(at - 1, Effect::Get(b"k".to_vec()));
            history.end(id, at, Outcome::Applied(1, reply));
        }
        let told = recoveries(&history, &[fault("cut", 1_000, 20_000, 50_000)]);
        assert_eq!(told[0].count, 1);
        assert!((5.9..6.1).contains(&told[0].first_write.max_ms));
        assert!((29.9..30.1).contains(&told[0].well.max_ms));
    }

    #[test]
    fn what_could_not_be_played_is_neither_passed_nor_failed() {
        let check = |ok| Check { name: String::new(), ok, detail: String::new() };
        assert_eq!(Report::verdict_of(&[check(true)], true), Verdict::Passed);
        assert_eq!(Report::verdict_of(&[check(false)], true), Verdict::Failed);
        assert_eq!(Report::verdict_of(&[check(false)], false), Verdict::Incomplete);
        assert_eq!(Report::verdict_of(&[check(false), check(false)], false), Verdict::Failed);
    }
}
