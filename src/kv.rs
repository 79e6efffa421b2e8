//! The ordered key-value view that the state machine reads and the batch that it writes.
//!
//! The seam between `state/` and `storage/`: RocksDB and its in-memory twin stand behind it. It
//! knows neither what keys mean nor when a batch becomes durable.

use bytes::Bytes;
use thiserror::Error;

/// A keyspace of its own inside one state database: a column family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    /// Descriptors, nodes, sessions, pins, tokens, the applied index and conf state.
    Meta,
    /// Versioned records.
    Records,
    /// Versioned range tombstones.
    Ranges,
    /// What each index wrote, by layer.
    Changes,
    /// Commit time to index.
    Times,
}

impl Family {
    /// All families, in the order of their declaration.
    pub const ALL: [Family; 5] =
        [Family::Meta, Family::Records, Family::Ranges, Family::Changes, Family::Times];

    /// The name on disk.
    pub fn name(self) -> &'static str {
        match self {
            Family::Meta => "meta",
            Family::Records => "records",
            Family::Ranges => "ranges",
            Family::Changes => "changes",
            Family::Times => "times",
        }
    }
}

/// What kind of failure a store met; from it follows who must act.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreFault {
    /// Stored bytes do not match their checksum, or contradict each other: the node is rebuilt.
    Corrupt,
    /// There is no room: the operator makes some and starts the node again.
    DiskFull,
    /// It was closed: the node is stopping, or another generation of the state has taken its place.
    /// Nothing is wrong, and whoever reads asks again.
    Closed,
    /// The system or the store refused in another way: the operator looks at the disk.
    Other,
}

/// The store below failed. Halt: a node that cannot read or write its state must stop. Only a read of
/// a store that was closed is asked again.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("{attempted}: {cause}")]
pub struct KvError {
    /// What was being done.
    pub attempted: String,
    /// What the store said.
    pub cause: String,
    /// What kind of failure it is.
    pub fault: StoreFault,
}

/// One consistent, unchanging view of the state.
pub trait View: Send + Sync {
    /// The value of `key`, if there is one.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, KvError>;

    /// A cursor that stands nowhere until it is told to seek.
    fn cursor<'a>(&'a self, family: Family) -> Box<dyn Cursor + 'a>;
}

/// Walks keys in byte order.
pub trait Cursor {
    /// To the first key at or after `key`.
    fn seek(&mut self, key: &[u8]);
    /// To the last key at or before `key`.
    fn seek_for_prev(&mut self, key: &[u8]);
    /// To the next key.
    fn next(&mut self);
    /// To the key before.
    fn prev(&mut self);
    /// Key and value here; None past either end or after an error.
    fn entry(&self) -> Option<(&[u8], &[u8])>;
    /// Tells an end from an error; ask whenever `entry` is None.
    fn status(&self) -> Result<(), KvError>;
}

/// One write of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Stores a value.
    Put(Family, Vec<u8>, Vec<u8>),
    /// Removes a key that may have been written more than once.
    Delete(Family, Vec<u8>),
    /// Removes a key that was written exactly once.
    SingleDelete(Family, Vec<u8>),
}

/// Writes that take effect all at once or not at all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    ops: Vec<Op>,
    bytes: usize,
}

impl Batch {
    /// Stores `value` under `key`.
    pub fn put(&mut self, family: Family, key: Vec<u8>, value: Vec<u8>) {
        self.bytes += key.len() + value.len();
        self.ops.push(Op::Put(family, key, value));
    }

    /// Removes `key`.
    pub fn delete(&mut self, family: Family, key: Vec<u8>) {
        self.bytes += key.len();
        self.ops.push(Op::Delete(family, key));
    }

    /// Removes `key`, which was written exactly once.
    pub fn single_delete(&mut self, family: Family, key: Vec<u8>) {
        self.bytes += key.len();
        self.ops.push(Op::SingleDelete(family, key));
    }

    /// The writes, in order; a later one wins.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it writes nothing.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Takes all of `other`'s writes, after its own.
    pub fn append(&mut self, mut other: Batch) {
        self.bytes += other.bytes;
        self.ops.append(&mut other.ops);
    }
}
