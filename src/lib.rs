//! ratoon: a replicated store of collections, grown by out-of-band, resumable snapshots.
//!
//! The rooms of the house, lowest floor first; a room imports only from floors below its own
//! (`tests/tidy.rs` checks it, `docs/architecture.md` explains it).

// Floor 0: words, bytes, bounds.
pub mod codec;
pub mod fault;
#[cfg(test)]
mod fuzz;
pub mod kv;
pub mod limits;
pub mod manifest;
pub mod proto;
pub mod types;

// Floor 1: what decides, and does no IO.
pub mod raft;
pub mod state;
pub mod transfer;

// Floor 2: what touches disks and networks, one library each.
pub mod net;
pub mod snapshot_store;
pub mod storage;

// Floor 3: the runtime of one node.
pub mod node;

// Floor 4: the doors.
pub mod api;
pub mod client;
pub mod config;
pub mod http;

// Floor 5: one whole node.
pub mod server;

// Floor 6: the demo.
pub mod demo;

// Floor 7: the command line.
pub mod cli;
