//! Many storms, one after the other, with their results as files: what has passed is not played
//! again, so that a campaign can be killed and taken up where it was.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::report::table_row;
use super::{Options, Report, SCENARIOS, Say, Verdict, run};

/// Plays every scenario, or those of `only`, whose result `results` does not hold as passed. Answers
/// whether all of them have passed.
pub async fn campaign(
    results: &Path,
    only: &[String],
    options: &Options,
    say: impl Fn() -> Say,
) -> Result<bool> {
    std::fs::create_dir_all(results).with_context(|| format!("create {}", results.display()))?;
    let mut all_passed = true;
    for scenario in SCENARIOS {
        if !only.is_empty() && !only.iter().any(|name| name == scenario.name) {
            continue;
        }
        let file = file_of(results, scenario.name, options.seed);
        if read(&file).is_some_and(|report| report.verdict == Verdict::Passed) {
            say()(&format!("{} has passed before: {}", scenario.name, file.display()));
            continue;
        }
        let options = Options { scenario: scenario.name.to_owned(), ..options.clone() };
        match run(&options, say()).await {
            Ok(report) => {
                write(&file, &report)?;
                std::fs::write(file.with_extension("txt"), report.text())?;
                say()(&report.text());
                all_passed &= report.verdict == Verdict::Passed;
            }
            Err(error) => {
                let told = format!("{}: {error:#}", scenario.name);
                std::fs::write(file.with_extension("error"), &told)?;
                say()(&told);
                all_passed = false;
            }
        }
    }
    Ok(all_passed)
}

/// The table of all results in a directory, in Markdown, in the order of the scenarios.
pub fn summary(results: &Path) -> Result<String> {
    let mut reports: Vec<Report> = Vec::new();
    let entries =
        std::fs::read_dir(results).with_context(|| format!("read {}", results.display()))?;
    for entry in entries {
        reports.extend(read(&entry?.path()));
    }
    let place = |report: &Report| {
        let place = SCENARIOS.iter().position(|scenario| scenario.name == report.scenario);
        (place, report.seed)
    };
    reports.sort_by_key(place);
    let mut lines = vec![table_row(None)];
    lines.extend(reports.iter().map(|report| table_row(Some(report))));
    Ok(lines.join("\n"))
}

fn file_of(results: &Path, scenario: &str, seed: u64) -> PathBuf {
    results.join(format!("{scenario}-{seed}.json"))
}

/// A result that was written whole; anything else is none.
fn read(file: &Path) -> Option<Report> {
    if file.extension().is_none_or(|extension| extension != "json") {
        return None;
    }
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

/// Written beside and renamed, so that a result is there whole or not at all.
fn write(file: &Path, report: &Report) -> Result<()> {
    let beside = file.with_extension("part");
    std::fs::write(&beside, serde_json::to_vec_pretty(report)?)?;
    std::fs::rename(&beside, file).with_context(|| format!("write {}", file.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn report(scenario: &str, verdict: Verdict) -> Report {
        Report {
            scenario: scenario.to_owned(),
            seed: 3,
            seconds: 1.0,
            verdict,
            checks: Vec::new(),
            latencies: Vec::new(),
            recoveries: Vec::new(),
            totals: Default::default(),
            transfers: Vec::new(),
            faults: Vec::new(),
            events: Vec::new(),
        }
    }

    #[tokio::test]
    async fn what_has_passed_is_not_played_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = file_of(directory.path(), "kills", 3);
        write(&file, &report("kills", Verdict::Passed)).unwrap();
        // A program that is none: whatever is played fails.
        let options = Options {
            scenario: String::new(),
            duration: None,
            seed: 3,
            program: directory.path().join("none"),
            keep: false,
        };
        let say = || -> Say { Box::new(|_| {}) };
        let only = |name: &str| [name.to_owned()];
        assert!(campaign(directory.path(), &only("kills"), &options, say).await.unwrap());
        assert!(!campaign(directory.path(), &only("pauses"), &options, say).await.unwrap());
        write(&file, &report("kills", Verdict::Failed)).unwrap();
        assert!(!campaign(directory.path(), &only("kills"), &options, say).await.unwrap());
    }

    #[test]
    fn the_summary_has_a_line_for_each_result_in_the_order_of_the_scenarios() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["wipe", "cuts"] {
            let file = file_of(directory.path(), name, 3);
            write(&file, &report(name, Verdict::Passed)).unwrap();
        }
        std::fs::write(directory.path().join("broken-1.json"), "{").unwrap();
        let table = summary(directory.path()).unwrap();
        let lines: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("| cuts | 3 | passed") && lines[1].starts_with("| wipe"));
    }
}
