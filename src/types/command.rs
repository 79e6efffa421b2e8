//! What clients and nodes ask the replicated state to do, and what it answers.

use bytes::Bytes;

use super::{Addresses, CollectionName, Index, Name, NodeId, SnapshotId};

/// Names one command of one client session, so that a retry executes once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionSequence {
    /// From `OpenSession`; never 0.
    pub session: u64,
    /// Grows by one with each new command; a retry repeats it.
    pub sequence: u64,
}

/// A command and, if the client wants exactly-once retries, its place in a session.
#[derive(Clone, PartialEq, Debug)]
pub struct Request {
    /// None: executed as often as it is sent.
    pub session: Option<SessionSequence>,
    /// What to do.
    pub command: Command,
}

/// One deterministic change of the replicated state. One command is one log entry.
#[derive(Clone, PartialEq, Debug)]
pub enum Command {
    /// Creates an empty namespace.
    CreateNamespace(Name),
    /// Drops an empty namespace.
    DropNamespace(Name),
    /// Creates an empty collection in an existing namespace.
    CreateCollection(CollectionName),
    /// Drops a collection with all its records.
    DropCollection(CollectionName),
    /// Writes records, all or nothing.
    Write(WriteBatch),
    /// Opens a client session; its id is the entry's index.
    OpenSession,
    /// Remembers a join token by the BLAKE3 hash of its secret.
    CreateToken {
        /// Hash of the secret; the secret itself is in no log.
        secret_hash: [u8; 32],
        /// Commit time from which it is refused.
        expires_unix_ms: u64,
        /// A node that joins with it stays a learner until promoted by hand.
        learner: bool,
    },
    /// Uses a token up and enrols a new node.
    RedeemToken {
        /// Hash of the secret shown.
        secret_hash: [u8; 32],
        /// Where the new node will listen.
        addresses: Addresses,
    },
    /// A node says where it listens now.
    SetNodeAddresses {
        /// The node that says so.
        node: NodeId,
        /// Its addresses from now on.
        addresses: Addresses,
    },
    /// In a conf change: an enrolled node becomes a learner; pins the log for it.
    AddLearner(NodeId),
    /// In a conf change: a learner becomes a voter.
    PromoteNode(NodeId),
    /// In a conf change: a node leaves for ever.
    RemoveNode(NodeId),
    /// Keeps the log above `index`, and a snapshot on its source, for a receiver.
    SetPin {
        /// For whom.
        receiver: NodeId,
        /// Entries above this are kept.
        index: Index,
        /// The snapshot being pulled and the node it comes from, once known.
        snapshot: Option<(SnapshotId, NodeId)>,
    },
    /// The receiver needs its pin no more, or lost it.
    ReleasePin(NodeId),
    /// Changes nothing; fixes the index at which replicas compute a content digest.
    ComputeDigest,
}

/// Records to write, all or nothing; each key at most once.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct WriteBatch {
    /// In any order: all conditions are judged before any write.
    pub writes: Vec<Write>,
}

/// One write of a batch.
#[derive(Clone, PartialEq, Debug)]
pub struct Write {
    /// Where.
    pub collection: CollectionName,
    /// 1 B to 4 KiB, any bytes.
    pub key: Bytes,
    /// What must hold before.
    pub condition: Condition,
    /// What to do.
    pub action: Action,
}

/// What must hold of a key before its batch is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    /// Anything.
    Always,
    /// It holds no value.
    Absent,
    /// It holds a value written at exactly this index.
    Version(Index),
}

/// What a write does to its key.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Stores a value.
    Put {
        /// 0 B to 4 MiB, any bytes.
        value: Bytes,
        /// MIME type or empty; at most 255 bytes.
        content_type: String,
    },
    /// Removes the value.
    Delete,
    /// Nothing: only the condition counts.
    Check,
}

/// What a command answered. The index it was applied at is its version.
#[derive(Clone, PartialEq, Debug)]
pub enum Reply {
    /// Nothing more to say.
    Done,
    /// For each write in order: whether its key held a value before.
    Written {
        /// Parallel to the batch's writes.
        existed: Vec<bool>,
    },
    /// A new session.
    Session(u64),
    /// A newly enrolled node.
    Node(NodeId),
    /// A new collection.
    CollectionCreated {
        /// Unique over the cluster's life.
        incarnation: u64,
        /// Commit time.
        created_unix_ms: u64,
    },
}
