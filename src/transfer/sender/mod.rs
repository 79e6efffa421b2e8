//! The source of a snapshot: admits receivers, checks their requests, feeds their streams, and
//! fences what it finds damaged.
//!
//! Places are never counted: who holds one is a property of a session, so that no error path can
//! leak one. Chunks are read ahead within one bound of memory and leave piece by piece, in turn over
//! all streams, within one rate limit. It never reads a part and never opens a stream.

mod machine;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;

use crate::limits::{PULL_NO_PROGRESS_MS, PULLS_SERVED_MAX, SENDER_BUFFER_BYTES_MAX};
use crate::manifest::Manifest;
use crate::types::{ByteRange, NodeId, PullRequest, PullResponse, SnapshotId};

pub use machine::Sender;

/// What an operator may set, and what the tests do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Receivers served at once.
    pub pulls_max: usize,
    /// Bytes a second over all receivers; 0: no limit.
    pub bytes_per_second: u64,
    /// Chunk bytes read and not yet handed to the network, over all receivers; each has one chunk
    /// beyond that.
    pub buffer_bytes_max: u64,
    /// A stream that takes nothing for longer is reset, ms.
    pub no_progress_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            pulls_max: PULLS_SERVED_MAX,
            bytes_per_second: 0,
            buffer_bytes_max: SENDER_BUFFER_BYTES_MAX,
            no_progress_ms: 2 * PULL_NO_PROGRESS_MS,
        }
    }
}

/// A snapshot of the store, opened for sending.
#[derive(Debug)]
pub struct OpenSnapshot {
    /// Its manifest.
    pub manifest: Manifest,
    /// The same, encoded.
    pub encoded: Bytes,
}

/// What happened, told to the machine.
#[derive(Clone, Debug)]
pub enum Input {
    /// A receiver connected. An older connection of the same receiver is closed.
    Connected {
        /// Names the connection from now on.
        connection: u64,
        /// Who it is.
        receiver: NodeId,
    },
    /// A connection is gone, with all its streams.
    Closed {
        /// Which.
        connection: u64,
    },
    /// A receiver asks.
    Request {
        /// On which connection.
        connection: u64,
        /// Names the stream from now on.
        stream: u64,
        /// What it asks; Err: what broke the protocol.
        request: Result<PullRequest, String>,
    },
    /// A snapshot was opened, or could not be.
    Opened {
        /// Which.
        snapshot: SnapshotId,
        /// What came of it.
        result: Result<Arc<OpenSnapshot>, OpenFailure>,
    },
    /// A frame was read, or a piece of it was handed to the network, and more of it is left.
    PieceReady {
        /// On which stream.
        stream: u64,
        /// Bytes of the frame that are left.
        bytes: u64,
    },
    /// The last piece of a frame was handed to the network.
    FrameSent {
        /// On which stream.
        stream: u64,
    },
    /// A frame could not be read, or its bytes do not match the manifest.
    FrameFailed {
        /// On which stream.
        stream: u64,
        /// The bytes were read but are wrong.
        is_corrupt: bool,
        /// For people.
        reason: String,
    },
    /// A stream ended: all was taken, or the receiver does not want it any more.
    StreamClosed {
        /// Which.
        stream: u64,
    },
    /// A part was read whole.
    PartChecked {
        /// Of which snapshot.
        snapshot: SnapshotId,
        /// Which part.
        part: u32,
        /// Whether its digest matches; Err: it could not be read.
        result: Result<bool, String>,
    },
    /// An operator limits the rate: bytes a second, 0 for none.
    Limit(u64),
    /// The node is shutting down.
    Shutdown,
}

/// Why a snapshot could not be opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OpenFailure {
    /// The store does not have it.
    Unknown,
    /// The store has it, but it is damaged.
    Damaged(String),
    /// The disk failed.
    Unreadable(String),
}

/// What the machine wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Open a snapshot of the store; answer with `Opened`.
    Open {
        /// Which.
        snapshot: SnapshotId,
    },
    /// Nobody pulls it any more: close it.
    Release {
        /// Which.
        snapshot: SnapshotId,
    },
    /// Send a response on a stream; more may follow.
    Answer {
        /// Which stream.
        stream: u64,
        /// What to say.
        response: PullResponse,
    },
    /// Send the encoded manifest, raw.
    SendManifest {
        /// Which stream.
        stream: u64,
        /// Of which snapshot.
        snapshot: SnapshotId,
    },
    /// Read a chunk and check its CRC, ahead of the network; answer with `PieceReady` or
    /// `FrameFailed`. Frames of a stream are sent in the order they were asked for.
    SendFrame {
        /// Which stream.
        stream: u64,
        /// Of which snapshot.
        snapshot: SnapshotId,
        /// What to send: lies within one chunk.
        range: ByteRange,
    },
    /// Send the next bytes of the frame that is ready, after its header if they are the first;
    /// answer with `PieceReady`, or with `FrameSent` when none is left.
    SendPiece {
        /// Which stream.
        stream: u64,
        /// How many bytes: no more than are left.
        bytes: u64,
    },
    /// Finish a stream after what was sent on it.
    Finish {
        /// Which.
        stream: u64,
    },
    /// Break a stream off.
    Reset {
        /// Which.
        stream: u64,
    },
    /// Read a part whole and check its digest; answer with `PartChecked`.
    CheckPart {
        /// Of which snapshot.
        snapshot: SnapshotId,
        /// Which part.
        part: u32,
    },
    /// Close a connection.
    Close {
        /// Which.
        connection: u64,
    },
    /// A snapshot was found damaged and is served to nobody from now on.
    Fenced {
        /// Which.
        snapshot: SnapshotId,
        /// For people.
        reason: String,
    },
}

/// How a receiver's pull is getting on, as its source sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lease {
    /// Who pulls.
    pub receiver: NodeId,
    /// What.
    pub snapshot: SnapshotId,
    /// When it last made progress or waited in line, monotonic ms.
    pub last_progress_ms: u64,
    /// Bytes handed to the network for this snapshot since this source started.
    pub sent_bytes: u64,
    /// It waits for a place.
    pub is_queued: bool,
    /// It is connected.
    pub is_connected: bool,
}
