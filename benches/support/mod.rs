//! What the benchmarks share: arguments, the machine they run on, a real cluster, and the report.
//!
//! They measure from outside, through the client library and the operating system, and never reach
//! inside a node.

pub mod arguments;
pub mod cluster;
pub mod machine;
pub mod report;

/// Why a benchmark came to no result. A sentence is all that its one reader, a person, needs.
pub type Failed = Box<dyn std::error::Error + Send + Sync>;
