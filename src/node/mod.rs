//! The runtime of one node: carries out what the core says, and nothing else.
//!
//! Three threads of its own (raft, log, apply), tasks for the network, and the blocking pool for
//! whatever takes long. What is decided is decided in the core, where simulation sees it.

mod apply_thread;
mod bulk_clock;
mod bulk_disk;
mod bulk_receiver;
mod bulk_request;
mod bulk_sender;
#[cfg(test)]
mod bulk_tests;
mod calls;
mod carry;
mod enroll;
mod flush;
mod handle;
mod inbound;
mod inbox;
mod live;
mod log_thread;
mod members;
mod metrics;
mod peers;
mod process;
mod raft_thread;
mod shared;
mod snapshots;
mod start;
mod status;
mod waiters;

pub use bulk_receiver::{BulkEvent, BulkReceiver};
pub use bulk_sender::{BulkSender, Guard, SenderStatus};
pub use handle::{Handle, Health, StateView};
pub use peers::{CallError, Class, Inbound, Peers};
pub use snapshots::Options as SnapshotOptions;
pub use start::{Node, NodeError, Options, RaftOptions, create_first, create_joiner};
