//! Many runs, on several threads, told in the order of their cases: the same cases make the same
//! report, however many threads there are.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use crate::corpus::Case;
use crate::run::{Options, Report, run};

/// How to run them.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    /// Threads; at least 1.
    pub threads: usize,
    /// Each case is run twice, and the traces are compared.
    pub twice: bool,
}

impl Campaign {
    /// Runs all cases. Each report is handed to `tell` in the order of the cases; false: that was
    /// the last one wanted.
    pub fn run(&self, cases: &[Case], mut tell: impl FnMut(Case, Report) -> bool) {
        let (next, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (reports, inbox) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..self.threads.max(1) {
                let (next, is_over, reports) = (&next, &is_over, reports.clone());
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        let place = next.fetch_add(1, Ordering::Relaxed);
                        let Some(case) = cases.get(place) else { return };
                        if reports.send((place, self.run_case(*case))).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(reports);
            let (mut early, mut due) = (BTreeMap::new(), 0);
            for (place, report) in inbox {
                early.insert(place, report);
                while let Some(report) = early.remove(&due) {
                    if !is_over.load(Ordering::Relaxed) && !tell(cases[due], report) {
                        is_over.store(true, Ordering::Relaxed);
                    }
                    due += 1;
                }
            }
        });
    }

    fn run_case(&self, case: Case) -> Report {
        let options = Options { seed: case.seed, steps: case.steps, ..Options::default() };
        let mut report = run(&options);
        if self.twice && report.violation.is_none() {
            let (one, other) = (report.trace_hash, run(&options).trace_hash);
            let differs = || format!("two traces of one seed: {one:016x} and {other:016x}");
            report.violation = (one != other).then(differs);
        }
        report
    }
}
