//! The receiver of a snapshot: from an offer to verified, durable bytes, through any number of
//! cuts, crashes and changes of leader or source.
//!
//! [`Receiver`] runs one pull at a time. Its words are closed enums: [`Input`] goes in, [`Output`]
//! comes out, and a runtime carries out the outputs and reports back. Disk operations carry
//! tickets; a runtime executes writes in the order they were asked for. It never decides that
//! something took too long as a whole: only that nothing moved for a while.

mod book;
mod disk;
mod link;
mod machine;
mod table;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;

use crate::limits::{
    DISK_RETRY_MS, PULL_BACKOFF_MS_MAX, PULL_BACKOFF_MS_MIN, PULL_NO_PROGRESS_MS,
    PULL_STREAMS_DEFAULT, RUN_BYTES_MAX, RUN_BYTES_MIN, SOURCE_GRACE_MS, STAGED_LEFTOVERS_MS,
    UNWRITTEN_BYTES_MAX,
};
use crate::manifest::Manifest;
use crate::types::{
    ChunkHeader, ChunkSet, ClusterId, Digest, Index, NodeId, PartialChunk, PullRecord, PullRequest,
    RefusalReason, SnapshotId, SnapshotReference, SnapshotSource, TransferStatus,
};

pub use machine::Receiver;
pub use table::{TRANSITIONS, may_follow};

/// What an operator may set, and what the tests do.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node.
    pub receiver: NodeId,
    /// Offers of other clusters are refused.
    pub cluster: ClusterId,
    /// Requests under way at once; 1 to `PULL_STREAMS_MAX`.
    pub streams: usize,
    /// Bytes a second; 0: no limit.
    pub bytes_per_second: u64,
    /// A source without progress for longer is left for another, ms.
    pub grace_ms: u64,
    /// A connection without progress for longer is dialled anew, ms.
    pub no_progress_ms: u64,
    /// Shortest pause between two attempts to reach a source, ms.
    pub backoff_ms_min: u64,
    /// Longest pause between two attempts to reach a source, ms.
    pub backoff_ms_max: u64,
    /// Pause before an operation that found the disk full is tried again, ms.
    pub disk_retry_ms: u64,
    /// What is staged and belongs to no pull is removed after so long without a pull, ms.
    pub leftovers_ms: u64,
    /// Received bytes that may wait for the disk.
    pub unwritten_bytes_max: u64,
    /// Bytes that one request asks for at least, while there are so many.
    pub run_bytes_min: u64,
    /// Bytes that one request asks for at most.
    pub run_bytes_max: u64,
    /// For jitter.
    pub seed: u64,
}

impl Options {
    /// The defaults of `limits.rs`.
    pub fn new(receiver: NodeId, cluster: ClusterId, seed: u64) -> Self {
        Options {
            receiver,
            cluster,
            streams: PULL_STREAMS_DEFAULT,
            bytes_per_second: 0,
            grace_ms: SOURCE_GRACE_MS,
            no_progress_ms: PULL_NO_PROGRESS_MS,
            backoff_ms_min: PULL_BACKOFF_MS_MIN,
            backoff_ms_max: PULL_BACKOFF_MS_MAX,
            disk_retry_ms: DISK_RETRY_MS,
            leftovers_ms: STAGED_LEFTOVERS_MS,
            unwritten_bytes_max: UNWRITTEN_BYTES_MAX,
            run_bytes_min: RUN_BYTES_MIN,
            run_bytes_max: RUN_BYTES_MAX,
            seed,
        }
    }
}

/// What happened, told to the machine.
#[derive(Clone, Debug)]
pub enum Input {
    /// A leader offers a snapshot.
    Offer {
        /// What it offers.
        reference: SnapshotReference,
        /// The log index it stands for.
        index: Index,
        /// Bytes of the MsgSnapshot.
        message_bytes: u64,
    },
    /// A staged snapshot was found at boot.
    Resume(Box<Found>),
    /// Something of the answer to a request has come, and is not whole yet.
    Heard {
        /// From `Output::Request`.
        request: u64,
    },
    /// The dialled source answered.
    Connected {
        /// From `Output::Connect`.
        attempt: u64,
    },
    /// The source could not be reached, or the connection is gone.
    Disconnected {
        /// From `Output::Connect`.
        attempt: u64,
        /// Why, for people.
        reason: String,
    },
    /// The source has too much to do; it will answer later.
    Queued {
        /// The request that waits.
        request: u64,
        /// Receivers before this one.
        ahead: u32,
    },
    /// The source does not serve the request.
    Refused {
        /// The refused request.
        request: u64,
        /// Why.
        reason: RefusalReason,
        /// Why, for people.
        message: String,
    },
    /// The manifest's bytes, complete.
    Manifest {
        /// The request answered.
        request: u64,
        /// The encoded manifest, unchecked.
        bytes: Bytes,
    },
    /// A chunk frame begins.
    Frame {
        /// The request answered.
        request: u64,
        /// Its header.
        header: ChunkHeader,
    },
    /// The next bytes of the frame; never more than it has left.
    Data {
        /// The request answered.
        request: u64,
        /// At least one byte.
        bytes: Bytes,
    },
    /// The source checked its own part.
    Verdict {
        /// The request answered.
        request: u64,
        /// Whether the part has its digest.
        part_is_good: bool,
    },
    /// The request's stream ended, cleanly or not, before or after its last byte.
    RequestEnded {
        /// The request.
        request: u64,
        /// What broke it; None: a clean end.
        failure: Option<String>,
    },
    /// A disk operation ended, or cannot go on.
    Disk {
        /// From `Output::Disk`.
        ticket: u64,
        /// What came of it.
        result: DiskResult,
    },
    /// An operator limits the rate: bytes a second, 0 for none.
    Limit(u64),
    /// An operator stops reading, or lets it go on.
    Pause(bool),
    /// An operator ends the pull and gives its bytes up.
    Cancel,
    /// Raft took the snapshot's metadata.
    Stepped(SnapshotId),
    /// The node runs on the snapshot.
    Installed(SnapshotId),
    /// The node does not need the snapshot any more.
    Superseded(SnapshotId),
    /// The durable snapshot could not be used.
    Rejected(SnapshotId, String),
}

/// What lies in the staging area at boot.
#[derive(Clone, Debug)]
pub struct Found {
    /// The record of the pull.
    pub record: PullRecord,
    /// The encoded manifest, if it was stored.
    pub manifest: Option<Bytes>,
    /// All parts were verified and made durable.
    pub durable: bool,
}

/// What the machine wants done.
#[derive(Clone, PartialEq, Debug)]
pub enum Output {
    /// Dial a source; answer with `Connected` or `Disconnected`.
    Connect {
        /// Names the connection from now on.
        attempt: u64,
        /// Whom.
        source: SnapshotSource,
    },
    /// Close a connection, or stop dialling; no answer.
    Disconnect {
        /// Which.
        attempt: u64,
    },
    /// Open a stream and ask.
    Request {
        /// On which connection.
        attempt: u64,
        /// Names the stream from now on.
        request: u64,
        /// What to ask.
        body: PullRequest,
    },
    /// Stop reading a stream; no answer.
    Abandon {
        /// Which.
        request: u64,
    },
    /// Do something on disk; answer with `Disk`.
    Disk {
        /// Names the operation.
        ticket: u64,
        /// What to do.
        operation: DiskOperation,
    },
    /// Try an operation again that found the disk full.
    RetryDisk {
        /// Which.
        ticket: u64,
    },
    /// Forget an operation that found the disk full; no answer.
    DropDisk {
        /// Which.
        ticket: u64,
    },
    /// Tell the node.
    Event(Event),
}

/// What is to be done on disk. Writes are executed in order; the others may overtake each other
/// unless they change the same snapshot.
#[derive(Clone, PartialEq, Debug)]
pub enum DiskOperation {
    /// Make the staging directory with its manifest, or open it; answer `Opened`.
    Open {
        /// The snapshot.
        snapshot: SnapshotId,
        /// Its encoded manifest.
        encoded: Bytes,
        /// The same, decoded.
        manifest: Arc<Manifest>,
    },
    /// Find out what is here of a part: staged, in the store, or in another partial; answer
    /// `Inspected`.
    Inspect {
        /// The snapshot.
        snapshot: SnapshotId,
        /// The part.
        part: u32,
        /// What the record says of it.
        recorded: RecordedPart,
    },
    /// Is there room for so many bytes besides the reserve? Answer `Done` or `Full`.
    CheckSpace {
        /// How many.
        bytes: u64,
    },
    /// Write bytes of a part in place; answer `Done`.
    Write {
        /// The snapshot.
        snapshot: SnapshotId,
        /// The part.
        part: u32,
        /// Where in the part.
        offset: u64,
        /// What.
        bytes: Bytes,
    },
    /// Sync parts, and only then replace the record; answer `Done`.
    Persist {
        /// The snapshot.
        snapshot: SnapshotId,
        /// The parts written to since the last time.
        parts: Vec<u32>,
        /// The record.
        record: Box<PullRecord>,
    },
    /// Read a whole part; answer `Checked`.
    Verify {
        /// The snapshot.
        snapshot: SnapshotId,
        /// The part.
        part: u32,
    },
    /// Sync everything, make it durable, write the record; answer `Done`.
    Finish {
        /// The snapshot.
        snapshot: SnapshotId,
        /// The record.
        record: Box<PullRecord>,
    },
    /// Remove a staged snapshot; answer `Done`.
    Remove {
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// Remove every staged snapshot, or all but one; answer `Done`.
    RemoveOthers {
        /// The one to keep.
        keep: Option<SnapshotId>,
    },
    /// Remember how the last pull ended; answer `Done`.
    SaveStatus(Box<TransferStatus>),
}

/// What a record says of one part.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RecordedPart {
    /// Its digest was checked.
    pub verified: bool,
    /// All its chunks are staged.
    pub complete: bool,
    /// Its staged chunks; None: nothing is recorded.
    pub chunks: Option<ChunkSet>,
    /// Its begun chunks.
    pub partial: Vec<PartialChunk>,
}

/// What came of a disk operation.
#[derive(Clone, PartialEq, Debug)]
pub enum DiskResult {
    /// It is done.
    Done,
    /// The staging directory is open.
    Opened {
        /// The record that lay in it.
        record: Option<Box<PullRecord>>,
    },
    /// What is here of a part.
    Inspected(Finding),
    /// What a whole part reads as.
    Checked(PartCheck),
    /// No room. The operation waits for `RetryDisk`, and answers again, or for `DropDisk`.
    Full {
        /// For people.
        reason: String,
    },
    /// The disk failed. The operation will not be tried again.
    Failed {
        /// For people.
        reason: String,
    },
}

/// What is here of a part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// All of it, with the right digest.
    Verified(Origin),
    /// Some chunks, each with the right CRC, and beginnings of others.
    Staged {
        /// The chunks.
        chunks: ChunkSet,
        /// The beginnings.
        prefixes: Vec<StagedPrefix>,
    },
    /// The same, taken over from another staged snapshot that has begun an equal part.
    Adopted {
        /// The chunks.
        chunks: ChunkSet,
        /// The beginnings.
        prefixes: Vec<StagedPrefix>,
    },
}

/// Where a whole part came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// It was staged and checked before.
    Here,
    /// A snapshot of this node's store holds the same part.
    Store,
    /// Another staged snapshot holds the same part.
    OtherPartial,
}

/// The beginning of a chunk, as it lies on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StagedPrefix {
    /// Position of the chunk in its part.
    pub chunk: u32,
    /// Bytes to keep; less than the chunk's.
    pub bytes: u32,
    /// Bytes that were ever delivered, at least `bytes`.
    pub delivered: u32,
    /// CRC32C of the bytes to keep.
    pub crc32c: u32,
}

/// What a whole part reads as.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartCheck {
    /// Digest of its bytes.
    pub digest: Digest,
    /// Chunks whose CRC does not match the manifest.
    pub bad_chunks: Vec<u32>,
}

/// What the node wants to know.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// Where the pull stands; about once a second while it runs.
    Progress(Box<TransferStatus>),
    /// All parts are verified and durable.
    Durable {
        /// The snapshot.
        id: SnapshotId,
        /// The log index it stands for.
        index: Index,
        /// Its manifest.
        manifest: Arc<Manifest>,
    },
    /// The pull was given up.
    Failed {
        /// The snapshot.
        id: SnapshotId,
        /// The log index it stands for.
        index: Index,
        /// Why, for people.
        reason: String,
    },
    /// No source can serve the snapshot: the leader should offer another. The staged bytes are kept.
    WantsNewOffer {
        /// The snapshot.
        id: SnapshotId,
        /// The log index it stands for.
        index: Index,
        /// Why, for people.
        reason: String,
    },
}
