//! Everything a node keeps on its disk but snapshots: the state, the raft log, the directory.
//!
//! The only room that knows RocksDB. `StateDb` stands behind `kv.rs`, `RaftLog` behind raft's log
//! store; `memory` holds their adversarial twins for the simulation. All calls block: they belong
//! on the log, apply and blocking threads. Nothing here knows what a key or an entry means.

mod data_dir;
mod durable_file;
mod error;
mod log_bounds;
mod log_records;
mod log_size;
pub mod memory;
mod options;
mod owned_snapshot;
mod raft_log;
mod state_db;
mod state_view;
mod wal_check;

#[cfg(test)]
mod tests;

pub use data_dir::{DataDir, Generation, InstallPlan};
pub use error::{Remedy, StorageError};
pub use options::{Options, Shared};
pub use raft_log::RaftLog;
pub use state_db::{LiveFile, MemoryUse, StateDb};
pub use state_view::LatestView;
