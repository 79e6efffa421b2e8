//! The core of a node: everything that decides, nothing that does IO.

mod log_store;

pub use log_store::{HardState, LogEntry, LogError, LogStart, LogStore, LogWrite};
