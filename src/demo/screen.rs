//! What a person sees while the demo runs, on stderr: one line a step, and a bar for the transfer.
//!
//! On a terminal the bar moves below the lines; elsewhere its state is a plain line now and then.
//! Standard output is left to the result. The only file of the demo that prints.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::report::bytes;

/// How often a plain progress line is written where there is no terminal.
const PLAIN_LINE_EVERY: Duration = Duration::from_secs(5);

/// How a transfer stands, for the bar.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Bytes staged.
    pub done_bytes: u64,
    /// Bytes of the snapshot.
    pub total_bytes: u64,
    /// Present speed, bytes a second.
    pub bytes_per_second: u64,
    /// State, resumes, why it stalls.
    pub note: String,
}

/// The demo's narration.
pub struct Screen {
    started: Instant,
    bar: Option<ProgressBar>,
    plain_line_at: Mutex<Option<Instant>>,
}

impl Screen {
    /// A screen that begins to count seconds now.
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("  {bar:30} {bytes}/{total_bytes} {msg}")
                .expect("the template is constant and valid");
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            bar.with_style(style)
        });
        Screen { started: Instant::now(), bar, plain_line_at: Mutex::new(None) }
    }

    /// One step of the story.
    pub fn line(&self, text: impl AsRef<str>) {
        let seconds = self.started.elapsed().as_secs_f64();
        let text = format!("[{seconds:6.1} s] {}", text.as_ref());
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// Shows how a transfer stands.
    pub fn progress(&self, progress: &Progress) {
        let rate = bytes(progress.bytes_per_second);
        if let Some(bar) = &self.bar {
            bar.set_length(progress.total_bytes);
            bar.set_position(progress.done_bytes);
            bar.set_message(format!("{rate}/s {}", progress.note));
            return;
        }
        let mut line_at = self.plain_line_at.lock().unwrap_or_else(PoisonError::into_inner);
        if line_at.is_none_or(|at| at.elapsed() >= PLAIN_LINE_EVERY) {
            *line_at = Some(Instant::now());
            let percent = 100.0 * progress.done_bytes as f64 / progress.total_bytes.max(1) as f64;
            self.line(format!("  {percent:5.1} % {rate}/s {}", progress.note));
        }
    }

    /// Takes the bar away.
    pub fn progress_ends(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// The result, on standard output.
    pub fn result(&self, text: &str) {
        self.progress_ends();
        println!("{text}");
    }
}
