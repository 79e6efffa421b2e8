//! What a benchmark says: lines on the way on stderr, one table on stdout, the same as JSON.
//!
//! The only file of the benchmarks that prints.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::Path;
use std::process::ExitCode;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::Failed;

/// A figure over several runs. Medians, because one disturbed run must not move the result.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    /// The middle one; the mean of the two middle ones of an even number.
    pub median: f64,
    /// The least of all.
    pub least: f64,
    /// The greatest of all.
    pub greatest: f64,
}

impl Spread {
    /// Of the figures of all runs; None without any.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (least, greatest) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            (sorted[middle - 1] + sorted[middle]) / 2.0
        };
        Some(Spread { median, least, greatest })
    }

    /// `median (least..greatest)`, with digits that fit the size; of one run the figure alone.
    pub fn shown(&self) -> String {
        if self.least == self.greatest {
            return digits(self.median);
        }
        let (least, greatest) = (digits(self.least), digits(self.greatest));
        format!("{} ({least}..{greatest})", digits(self.median))
    }
}

/// A figure with about three digits.
pub fn digits(figure: f64) -> String {
    match figure.abs() {
        size if size >= 100.0 => format!("{figure:.0}"),
        size if size >= 10.0 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

/// A column of a figure that may not be there.
pub fn shown(figure: Option<Spread>) -> String {
    figure.map_or_else(|| "-".to_owned(), |spread| spread.shown())
}

/// A line on the way.
pub fn line(text: impl AsRef<str>) {
    eprintln!("{}", text.as_ref());
}

/// The result: lines, then the table, then notes.
pub fn result(head: &[String], columns: &[&str], rows: Vec<Vec<String>>, notes: &[String]) {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(columns).add_rows(rows);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    head.iter().for_each(|line| println!("{line}"));
    println!("{table}");
    notes.iter().for_each(|note| println!("{note}"));
}

/// Replaces the member `name` of the JSON object in `path`, which is made if absent, so that one
/// file takes the results of all benchmarks.
pub fn write_json(path: &Path, name: &str, document: &impl Serialize) -> Result<(), Failed> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut all: serde_json::Map<String, serde_json::Value> = match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(&error))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => serde_json::Map::new(),
        Err(error) => return Err(failed(&error).into()),
    };
    all.insert(name.to_owned(), serde_json::to_value(document)?);
    let text = serde_json::to_string_pretty(&all)? + "\n";
    std::fs::write(path, text).map_err(|error| failed(&error))?;
    Ok(())
}

/// Runs a benchmark to its end and says how it ended.
pub async fn finish(work: impl Future<Output = Result<(), Failed>>) -> ExitCode {
    let ended = tokio::select! {
        ended = work => ended,
        // Returning drops all that runs, which ends it and removes its files.
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map_err(Failed::from).and(Err("interrupted".into()))
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Help, which is a result.
pub fn help(text: &str) {
    print!("{text}");
}
