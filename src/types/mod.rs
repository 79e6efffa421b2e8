//! The words every room shares: ids, names, commands, failures, membership.
//!
//! Plain data with its validation. Never does IO, never reads a clock, and knows no wire format:
//! `proto/` and `codec/` turn these into bytes.

mod command;
mod failure;
mod id;
mod membership;
mod name;
mod pull;
mod read;
mod snapshot;
mod token;

#[cfg(test)]
mod fuzz;

pub use command::{Action, Command, Condition, Reply, Request, SessionSequence, Write, WriteBatch};
pub use failure::{Code, Failure, Retry, causes};
pub use id::{ClusterId, Digest, Index, NodeId, Now, SnapshotId, Term};
pub use membership::{Addresses, Committed, ConfState, MembershipChange, Node, Payload, Pin, Role};
pub use name::{CollectionName, Name};
pub use pull::{
    ByteRange, ChunkHeader, ChunkSet, EmbeddedSnapshot, IncompletePart, PartialChunk, PullCounters,
    PullRecord, PullRequest, PullResponse, RefusalReason,
};
pub use read::{Consistency, Record, ScanOptions, ScanPage};
pub use snapshot::{SnapshotReference, SnapshotSource, TransferState, TransferStatus};
pub use token::JoinToken;
