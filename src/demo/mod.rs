//! `ratoon demo`: a cluster of real processes that grows by a snapshot over a link that is cut,
//! while its receiver and its sender are killed, and the figures that prove nothing was lost.
//!
//! Everything goes through the doors a person has: the program's own command line, the client
//! library and the operating system. It never reaches inside a node. The UDP proxy, and the modules
//! that start nodes and measure processes, are of use by themselves.

mod cluster;
mod faults;
mod input;
pub mod measure;
pub mod ports;
pub mod processes;
pub mod proxy;
pub mod pull;
mod report;
mod run;
mod schedule;
mod screen;
mod stage;
mod workload;

use std::path::PathBuf;

pub use report::{FaultReport, Report};
pub use run::run;

use crate::types::Failure;

/// What to show, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// A directory or a file of JSON lines to import; None: the sources of this program's crates.
    pub input: Option<PathBuf>,
    /// The field that holds the key, if `input` is a file of JSON lines; None: found out.
    pub key: Option<String>,
    /// Limit of the disturbed pull, bytes a second; None: so that it takes a bit over 30 s.
    pub rate_bytes_per_second: Option<u64>,
    /// Cuts of the link, beside one kill of the receiver and one of the leader; at least 3 make the
    /// run count.
    pub cuts: u32,
    /// Where and in which order faults strike follows from it.
    pub seed: u64,
    /// Where to write the report as JSON.
    pub report: Option<PathBuf>,
    /// Print the report as JSON instead of a table.
    pub json: bool,
    /// Leave the cluster running and its files in place, and say how to talk to it.
    pub keep: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            input: None,
            key: None,
            rate_bytes_per_second: None,
            cuts: report::CUTS_MIN,
            seed: 1,
            report: None,
            json: false,
            keep: false,
        }
    }
}

/// Why the demo could not be brought to its end. A run that ends with bad figures is no error but a
/// [`Report`] that is not ok.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The input cannot be used. Reject: give another.
    #[error("{0}")]
    Input(String),
    /// An option makes no sense. Reject: change it.
    #[error("{0}")]
    Options(String),
    /// The machine refused a file, a port or a process. Halt: the person must make room for it.
    #[error("{attempted}: {error}")]
    System {
        /// What the demo was about to do.
        attempted: String,
        /// What the system answered.
        error: std::io::Error,
    },
    /// A command of our own ended badly. Halt: a defect, or a machine too small; its output says
    /// which.
    #[error("`ratoon {command}` failed: {output}")]
    Command {
        /// Its arguments.
        command: String,
        /// The end of what it said.
        output: String,
    },
    /// A node's process ended by itself. Halt: a defect; the log says which.
    #[error("node {node} ended by itself ({status}); its log: {log}")]
    NodeEnded {
        /// The demo's number of the node, from 1.
        node: usize,
        /// How it ended.
        status: String,
        /// The last lines of its log.
        log: String,
    },
    /// The cluster refused something. Halt: a defect.
    #[error("{attempted}: {failure}")]
    Refused {
        /// What the demo asked for.
        attempted: String,
        /// What the cluster answered.
        failure: Failure,
    },
    /// Something that must happen did not. Retry on an idle machine; if it stays, a defect.
    #[error("{what} did not happen within {seconds} s; {state}")]
    TooLate {
        /// What was waited for.
        what: String,
        /// For how long.
        seconds: u64,
        /// What was seen last.
        state: String,
    },
    /// The person pressed Ctrl-C.
    #[error("interrupted; nothing is left running")]
    Interrupted,
}

impl DemoError {
    /// For `map_err` around calls of the operating system.
    fn system(attempted: impl Into<String>) -> impl FnOnce(std::io::Error) -> DemoError {
        let attempted = attempted.into();
        move |error| DemoError::System { attempted, error }
    }

    /// For `map_err` around calls of the cluster.
    fn refused(attempted: impl Into<String>) -> impl FnOnce(Failure) -> DemoError {
        let attempted = attempted.into();
        move |failure| DemoError::Refused { attempted, failure }
    }
}
