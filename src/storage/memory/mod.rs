//! Adversarial twins of the storage, in memory, for the simulation.
//!
//! They do whatever the real ones may do at the worst moment: flush early, forget all that was not
//! flushed or synced, keep a part of it. Deterministic: every choice comes from a seed that the
//! caller passes. They never touch a disk, and behave exactly like the real ones otherwise; one
//! test suite runs against both.

mod log;
mod map;
mod state;

pub use log::MemoryLog;
pub use state::{MemoryCheckpoint, MemoryState};
