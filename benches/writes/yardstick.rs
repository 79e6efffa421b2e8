//! What the disk can do: one writer that appends a record and syncs it, again and again.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::support::Failed;

/// Longest latency told apart, microseconds.
const LATENCY_MICROSECONDS_MAX: u64 = 120_000_000;

/// Appends of one run.
pub struct Appends {
    /// Appends a second.
    pub rate: f64,
    /// Microseconds of each.
    pub latencies: Histogram<u64>,
}

/// Appends records of `bytes` bytes for `length`, each followed by fdatasync.
pub async fn run(directory: &Path, bytes: usize, length: Duration) -> Result<Appends, Failed> {
    let path = directory.join("appends");
    tokio::task::spawn_blocking(move || append(&path, bytes, length)).await?
}

fn append(path: &Path, bytes: usize, length: Duration) -> Result<Appends, Failed> {
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    let record = vec![7; bytes];
    let mut latencies = Histogram::new_with_max(LATENCY_MICROSECONDS_MAX, 3)?;
    let started = Instant::now();
    while started.elapsed() < length {
        let begin = Instant::now();
        file.write_all(&record)?;
        file.sync_data()?;
        latencies.record(u64::try_from(begin.elapsed().as_micros())?)?;
    }
    let rate = latencies.len() as f64 / started.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(Appends { rate, latencies })
}
