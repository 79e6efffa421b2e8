//! Values of the rows of the state database, one struct a kind of row.
//!
//! Apart from the domain types on purpose: a domain type may change with the code, a persisted one
//! only with a new format number, and the golden fixtures below hold every format for ever. Keys
//! are not here: `state/` encodes them.

use bincode::{BorrowDecode, Encode};

use super::{DecodeError, local};
use crate::types::{self, Code, Digest, Failure, NodeId, Reply, Retry};

/// A kind of row, with the format this release writes.
pub trait Row: Encode {
    /// What it is called in errors.
    const WHAT: &'static str;
    /// The version byte.
    const FORMAT: u8;
}

/// A row that borrows nothing from its bytes.
pub trait OwnedRow: Row + for<'a> BorrowDecode<'a, ()> {}

impl<T: Row + for<'a> BorrowDecode<'a, ()>> OwnedRow for T {}

/// The bytes of a row.
pub fn encode<T: Row>(row: &T) -> Vec<u8> {
    local::encode(T::FORMAT, row)
}

/// The row that `bytes` hold; may borrow from them.
pub fn decode<'a, T: Row + BorrowDecode<'a, ()>>(bytes: &'a [u8]) -> Result<T, DecodeError> {
    local::decode(T::WHAT, T::FORMAT, bytes)
}

macro_rules! rows {
    ($($row:ty = $what:literal, $format:literal;)*) => {
        $(impl Row for $row {
            const WHAT: &'static str = $what;
            const FORMAT: u8 = $format;
        })*
    };
}

rows! {
    Applied = "applied row", 1;
    ConfState = "conf state row", 1;
    Cluster = "cluster row", 1;
    Counters = "counters row", 1;
    Namespace = "namespace row", 1;
    CollectionEntry = "collection row", 1;
    Descriptor = "descriptor row", 1;
    Counts = "counts row", 1;
    Node = "node row", 1;
    AtIndex = "index row", 1;
    Pin = "pin row", 1;
    Token = "token row", 1;
    Session = "session row", 1;
    Record<'_> = "record row", 1;
    Change = "change row", 1;
}

/// How far the log has been applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, BorrowDecode)]
pub struct Applied {
    /// Index of the last applied entry.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Its commit time; never goes back.
    pub time_unix_ms: u64,
}

/// Raft membership at the applied index; lists are sorted.
#[derive(Clone, PartialEq, Eq, Debug, Encode, BorrowDecode)]
pub struct ConfState {
    /// Voters of the (incoming) configuration.
    pub voters: Vec<u64>,
    /// Learners.
    pub learners: Vec<u64>,
    /// Voters of the outgoing configuration.
    pub voters_outgoing: Vec<u64>,
    /// Learners once the joint change ends.
    pub learners_next: Vec<u64>,
    /// Whether raft leaves the joint configuration by itself.
    pub auto_leave: bool,
}

/// What the cluster was founded with; never changes.
#[derive(Clone, PartialEq, Eq, Debug, Encode, BorrowDecode)]
pub struct Cluster {
    /// Its id.
    pub id: [u8; 16],
    /// When it was founded, by the founder's clock.
    pub created_unix_ms: u64,
    /// DER bytes of the CA certificate.
    pub ca_certificate: Vec<u8>,
    /// The CA's key, sealed by the cluster secret, which is not in the state.
    pub sealed_ca_key: Vec<u8>,
}

/// Numbers the state machine keeps so that it need not count.
#[derive(Clone, PartialEq, Eq, Debug, Encode, BorrowDecode)]
pub struct Counters {
    /// Raft id of the next node enrolled; ids are never reused.
    pub next_node: u64,
    /// Namespaces.
    pub namespaces: u64,
    /// Collections.
    pub collections: u64,
    /// Sessions.
    pub sessions: u64,
}

/// A namespace; its name is the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, BorrowDecode)]
pub struct Namespace {
    /// Index of the entry that created it.
    pub created_index: u64,
    /// Commit time of that entry.
    pub created_unix_ms: u64,
}

/// What a collection's name stands for now; the name is the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, BorrowDecode)]
pub struct CollectionEntry {
    /// Its incarnation, under which its descriptors and counts are found.
    pub incarnation: u64,
    /// The layer of its newest descriptor, repeated here so that a write need not seek for it.
    pub layer: u64,
}

/// A collection from one index on; incarnation and index are the key.
#[derive(Clone, PartialEq, Eq, Debug, Encode, BorrowDecode)]
pub struct Descriptor {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The layer it writes to.
    pub layer: u64,
    /// Layers it reads through where its own has nothing, nearest first; empty unless it is a clone.
    pub below: Vec<LayerBelow>,
    /// Commit time of its creation.
    pub created_unix_ms: u64,
    /// Dropped at this version's index: there is nothing to read from here on.
    pub dropped: bool,
}

/// A layer that a clone reads through.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, BorrowDecode)]
pub struct LayerBelow {
    /// The layer.
    pub layer: u64,
    /// Versions above this index are not seen through it.
    pub ceiling: u64,
}

/// What a collection holds now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, BorrowDecode)]
pub struct Counts {
    /// Live records.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

/// An enrolled node; its id is the key.
#[derive(Clone, PartialEq, Eq, Debug, Encode, BorrowDecode)]
pub struct Node {
    /// Raft endpoint.
    pub raft: String,
    /// Bulk endpoint.
    pub bulk: String,
    /// Client API.
    pub api: String,
    /// Promoted by hand only.
    pub learner: bool,
}

/// A bare log index: of a commit time, of a node's removal, of a session's last use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, BorrowDecode)]
pub struct AtIndex {
    /// The index.
    pub index: u64,
}

/// A log and snapshot pin; its receiver is the key.
#[derive(Clone, PartialEq, Eq, Debug, Encode, BorrowDecode)]
pub struct Pin {
    /// Entries above it are kept.
    pub index: u64,
    /// Snapshot id and its source.
    pub snapshot: Option<([u8; 32], u64)>,
    /// Commit time of the last renewal.
    pub renewed_unix_ms: u64,
}

/// A join token; the hash of its secret is the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, BorrowDecode)]
pub struct Token {
    /// Commit time from which it is refused.
    pub expires_unix_ms: u64,
    /// Nodes that join with it are promoted by hand only.
    pub learner: bool,
    /// The node that joined with it.
    pub used_by: Option<u64>,
}

/// A client session; its id is the key.
#[derive(Clone, PartialEq, Eq, Debug, Encode, BorrowDecode)]
pub struct Session {
    /// Index of the last entry that named it.
    pub last_use: u64,
    /// Sequence of the last command executed; 0 before the first.
    pub sequence: u64,
    /// What that command answered.
    pub outcome: Option<Answer>,
}

/// What a command answered, and where.
#[derive(Clone, PartialEq, Eq, Debug, Encode, BorrowDecode)]
pub struct Answer {
    /// Index at which the command was executed.
    pub index: u64,
    /// Tells the command from any other: the beginning of its digest.
    pub command: [u8; 16],
    /// What came of it.
    pub outcome: Outcome,
}

/// The result of a command.
#[derive(Clone, PartialEq, Eq, Debug, Encode, BorrowDecode)]
pub enum Outcome {
    /// `Reply::Done`.
    Done,
    /// `Reply::Written`.
    Written {
        /// Number of writes.
        count: u32,
        /// One bit a write, lowest first.
        existed: Vec<u8>,
    },
    /// `Reply::Session`.
    Session(u64),
    /// `Reply::Node`.
    Node(u64),
    /// `Reply::CollectionCreated`.
    CollectionCreated {
        /// The incarnation.
        incarnation: u64,
        /// Commit time.
        created_unix_ms: u64,
    },
    /// A failure.
    Failed {
        /// Name of its code.
        code: String,
        /// 0 never, 1 later, 2 unknown.
        retry: u8,
        /// Its sentence.
        message: String,
        /// Its hint.
        hint: String,
    },
}

/// One version of one record; layer, key and index are the key.
#[derive(Clone, PartialEq, Eq, Debug, Encode, BorrowDecode)]
pub enum Record<'a> {
    /// Deleted at this version.
    Tombstone,
    /// A value.
    Value {
        /// Commit time from which it counts as deleted.
        expires_unix_ms: Option<u64>,
        /// MIME type or empty.
        content_type: &'a str,
        /// The value's bytes.
        value: &'a [u8],
    },
}

/// What a write did; layer, index and user key are the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, BorrowDecode)]
pub enum Change {
    /// Stored a value.
    Put,
    /// Wrote a tombstone.
    Delete,
}

impl From<&types::ConfState> for ConfState {
    fn from(conf_state: &types::ConfState) -> Self {
        ConfState {
            voters: conf_state.voters.clone(),
            learners: conf_state.learners.clone(),
            voters_outgoing: conf_state.voters_outgoing.clone(),
            learners_next: conf_state.learners_next.clone(),
            auto_leave: conf_state.auto_leave,
        }
    }
}

impl From<ConfState> for types::ConfState {
    fn from(row: ConfState) -> Self {
        types::ConfState {
            voters: row.voters,
            learners: row.learners,
            voters_outgoing: row.voters_outgoing,
            learners_next: row.learners_next,
            auto_leave: row.auto_leave,
        }
    }
}

impl From<&types::Node> for Node {
    fn from(node: &types::Node) -> Self {
        let types::Addresses { raft, bulk, api } = node.addresses.clone();
        Node { raft, bulk, api, learner: node.learner }
    }
}

impl Node {
    /// The domain's form of the row under `id`.
    pub fn into_node(self, id: NodeId) -> types::Node {
        let addresses = types::Addresses { raft: self.raft, bulk: self.bulk, api: self.api };
        types::Node { id, addresses, learner: self.learner }
    }
}

impl From<&types::Pin> for Pin {
    fn from(pin: &types::Pin) -> Self {
        Pin {
            index: pin.index,
            snapshot: pin.snapshot.map(|(id, source)| (id.0, source.0)),
            renewed_unix_ms: pin.renewed_unix_ms,
        }
    }
}

impl Pin {
    /// The domain's form of the row under `receiver`.
    pub fn into_pin(self, receiver: NodeId) -> types::Pin {
        types::Pin {
            receiver,
            index: self.index,
            snapshot: self.snapshot.map(|(id, source)| (Digest(id), NodeId(source))),
            renewed_unix_ms: self.renewed_unix_ms,
        }
    }
}

impl From<&Result<Reply, Failure>> for Outcome {
    fn from(result: &Result<Reply, Failure>) -> Self {
        match result {
            Ok(Reply::Done) => Outcome::Done,
            Ok(Reply::Written { existed }) => Outcome::Written {
                count: u32::try_from(existed.len()).expect("a batch has a bounded length"),
                existed: pack(existed),
            },
            Ok(Reply::Session(session)) => Outcome::Session(*session),
            Ok(Reply::Node(node)) => Outcome::Node(node.0),
            Ok(Reply::CollectionCreated { incarnation, created_unix_ms }) => {
                Outcome::CollectionCreated {
                    incarnation: *incarnation,
                    created_unix_ms: *created_unix_ms,
                }
            }
            Err(failure) => Outcome::Failed {
                code: failure.code.as_str().to_owned(),
                retry: match failure.retry {
                    Retry::Never => 0,
                    Retry::Later => 1,
                    Retry::Unknown => 2,
                },
                message: failure.message.clone(),
                hint: failure.hint.clone(),
            },
        }
    }
}

impl Outcome {
    /// The result as it was answered first.
    pub fn into_result(self) -> Result<Result<Reply, Failure>, DecodeError> {
        Ok(Ok(match self {
            Outcome::Done => Reply::Done,
            Outcome::Written { count, existed } => {
                Reply::Written { existed: unpack(count, &existed)? }
            }
            Outcome::Session(session) => Reply::Session(session),
            Outcome::Node(node) => Reply::Node(NodeId(node)),
            Outcome::CollectionCreated { incarnation, created_unix_ms } => {
                Reply::CollectionCreated { incarnation, created_unix_ms }
            }
            Outcome::Failed { code, retry, message, hint } => {
                let code =
                    Code::parse(&code).ok_or_else(|| DecodeError::unknown("failure code", code))?;
                let retry = match retry {
                    0 => Retry::Never,
                    1 => Retry::Later,
                    2 => Retry::Unknown,
                    other => return Err(DecodeError::unknown("retry advice", other)),
                };
                return Ok(Err(Failure { code, message, hint, retry }));
            }
        }))
    }
}

/// Eight answers a byte, lowest bit first: the reply to a full batch is kept for every session.
fn pack(bits: &[bool]) -> Vec<u8> {
    bits.chunks(8)
        .map(|chunk| chunk.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit)))
        .collect()
}

fn unpack(count: u32, bytes: &[u8]) -> Result<Vec<bool>, DecodeError> {
    let count = count as usize;
    if bytes.len() != count.div_ceil(8) {
        return Err(DecodeError::malformed(
            Session::WHAT,
            format!("{} bytes of answers for {count} writes", bytes.len()),
        ));
    }
    Ok((0..count).map(|at| bytes[at / 8] >> (at % 8) & 1 == 1).collect())
}

#[cfg(test)]
#[path = "stored_tests.rs"]
mod tests;
