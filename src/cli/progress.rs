//! Progress of long work: bytes, rate and ETA on stderr, and only if that is a terminal.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::Output;

/// A line on stderr that goes away when the work is done.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// Work on `total_bytes`.
    pub fn bytes(output: Output, what: &'static str, total_bytes: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total_bytes), target(output));
        let template =
            "{msg}  {wide_bar} {bytes} of {total_bytes}  {binary_bytes_per_sec}  ETA {eta}";
        Self::styled(bar, what, template)
    }

    /// Work on nobody knows how much.
    pub fn unbounded(output: Output, what: &'static str) -> Self {
        let bar = ProgressBar::with_draw_target(None, target(output));
        Self::styled(bar, what, "{msg}  {spinner} {bytes}  {binary_bytes_per_sec}")
    }

    fn styled(bar: ProgressBar, what: &'static str, template: &str) -> Self {
        let style = ProgressStyle::with_template(template).expect("the templates are constants");
        bar.set_style(style);
        bar.set_message(what);
        Progress(bar)
    }

    /// So many bytes more are done.
    pub fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// So many bytes in all are done.
    pub fn set(&self, bytes: u64) {
        self.0.set_position(bytes);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn target(output: Output) -> ProgressDrawTarget {
    match io::stderr().is_terminal() && !output.json {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    }
}
