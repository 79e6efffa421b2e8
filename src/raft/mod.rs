//! The core of a node: everything that decides, nothing that does IO.
//!
//! `Core` wraps raft-rs's RawNode. It takes `Input`s, gives `Output`s, and reads the log through the
//! `LogStore` trait. raft-rs and its protobuf types never leave this room. It does not know what a
//! command means, nor how a snapshot's bytes travel.

// Messages of the generated protobuf types are filled in field by field.
#![allow(clippy::field_reassign_with_default)]

mod clients;
mod compaction;
mod core;
mod install;
mod io;
mod log_store;
mod log_view;
mod offers;
mod ready;
mod shape;
mod wire;

#[cfg(test)]
mod tests;

pub use self::core::{Boot, Config, Core, Halt};
pub use io::{
    Answer, AppliedReply, ClientRequest, Input, InstallPlan, Offer, Output, SnapshotMeta, Standing,
    Waiter,
};
pub use log_store::{HardState, LogEntry, LogError, LogStart, LogStore, LogWrite};
