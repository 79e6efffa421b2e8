//! All keys of the state database, in one enum, to bytes and back.
//!
//! | family | key |
//! |---|---|
//! | meta | tag byte, then what the tag says |
//! | records | layer u64 BE, escaped user key, not index u64 BE |
//! | ranges | layer u64 BE, escaped start of the range, not index u64 BE |
//! | changes | layer u64 BE, index u64 BE, user key |
//! | times | commit time u64 BE |
//!
//! A user key is escaped (00 becomes 00 FF) and closed by 00 01, so that the byte order of rows is
//! the order of (layer, user key) whatever bytes a key holds: with plain concatenation `a`, FF..
//! would sort after `ab`. The index is stored with its bits flipped, so that of one user key the
//! newest version comes first, and one seek finds it. Decoding never panics, and accepts exactly
//! what encoding makes.

use bytes::Bytes;

use crate::kv::Family;
use crate::types::{CollectionName, Index, Name, NodeId};

use super::error::StateError;

/// Bytes of the flipped index that closes a record's or range's key.
pub(super) const VERSION_BYTES: usize = 8;
/// Closes an escaped user key.
const TERMINATOR: [u8; 2] = [0x00, 0x01];
/// Stands for a 00 of a user key.
const ESCAPED_ZERO: [u8; 2] = [0x00, 0xff];

const APPLIED: u8 = 0x01;
const CONF_STATE: u8 = 0x02;
const CLUSTER: u8 = 0x03;
const COUNTERS: u8 = 0x04;
const NAMESPACE: u8 = 0x10;
const COLLECTION: u8 = 0x11;
const DESCRIPTOR: u8 = 0x12;
const COUNTS: u8 = 0x13;
const NODE: u8 = 0x20;
const REMOVED_NODE: u8 = 0x21;
const PIN: u8 = 0x22;
const TOKEN: u8 = 0x23;
const SESSION: u8 = 0x30;
const SESSION_USE: u8 = 0x31;

/// The key of a row.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Key {
    /// How far the log is applied.
    Applied,
    /// Raft membership.
    ConfState,
    /// What the cluster was founded with.
    Cluster,
    /// The counters.
    Counters,
    /// A namespace.
    Namespace(Name),
    /// What a collection's name stands for now.
    Collection(CollectionName),
    /// A collection from an index on.
    Descriptor {
        /// The collection's incarnation.
        incarnation: u64,
        /// First index it holds for.
        index: Index,
    },
    /// What an incarnation holds now.
    Counts(u64),
    /// An enrolled node.
    Node(NodeId),
    /// A node that was removed.
    RemovedNode(NodeId),
    /// A pin, by its receiver.
    Pin(NodeId),
    /// A join token, by the hash of its secret.
    Token([u8; 32]),
    /// A session.
    Session(u64),
    /// The last use of a session: the sessions in the order of eviction.
    SessionUse {
        /// Index of the entry that used it.
        index: Index,
        /// The session.
        session: u64,
    },
    /// A version of a record.
    Record {
        /// The layer written to.
        layer: u64,
        /// The user key.
        key: Bytes,
        /// The version.
        index: Index,
    },
    /// A versioned range tombstone.
    Range {
        /// The layer written to.
        layer: u64,
        /// First user key of the range.
        start: Bytes,
        /// The version.
        index: Index,
    },
    /// What an index wrote to a layer.
    Change {
        /// The layer written to.
        layer: u64,
        /// The version.
        index: Index,
        /// The user key.
        key: Bytes,
    },
    /// A commit time.
    Time(u64),
}

impl Key {
    /// The family the row lives in.
    pub(super) fn family(&self) -> Family {
        match self {
            Key::Record { .. } => Family::Records,
            Key::Range { .. } => Family::Ranges,
            Key::Change { .. } => Family::Changes,
            Key::Time(_) => Family::Times,
            _ => Family::Meta,
        }
    }

    /// The key's bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Key::Applied => vec![APPLIED],
            Key::ConfState => vec![CONF_STATE],
            Key::Cluster => vec![CLUSTER],
            Key::Counters => vec![COUNTERS],
            Key::Namespace(name) => tagged(NAMESPACE, &[name.as_str().as_bytes()]),
            Key::Collection(CollectionName { namespace, name }) => {
                let (namespace, name) = (namespace.as_str().as_bytes(), name.as_str().as_bytes());
                tagged(COLLECTION, &[namespace, &[0], name])
            }
            Key::Descriptor { incarnation, index } => {
                tagged(DESCRIPTOR, &[&incarnation.to_be_bytes(), &(!index).to_be_bytes()])
            }
            Key::Counts(incarnation) => tagged(COUNTS, &[&incarnation.to_be_bytes()]),
            Key::Node(node) => tagged(NODE, &[&node.0.to_be_bytes()]),
            Key::RemovedNode(node) => tagged(REMOVED_NODE, &[&node.0.to_be_bytes()]),
            Key::Pin(receiver) => tagged(PIN, &[&receiver.0.to_be_bytes()]),
            Key::Token(hash) => tagged(TOKEN, &[hash]),
            Key::Session(session) => tagged(SESSION, &[&session.to_be_bytes()]),
            Key::SessionUse { index, session } => {
                tagged(SESSION_USE, &[&index.to_be_bytes(), &session.to_be_bytes()])
            }
            Key::Record { layer, key, index } | Key::Range { layer, start: key, index } => {
                version_row(&versions_of(*layer, key), *index)
            }
            Key::Change { layer, index, key } => {
                [&layer.to_be_bytes()[..], &index.to_be_bytes(), key].concat()
            }
            Key::Time(unix_ms) => unix_ms.to_be_bytes().to_vec(),
        }
    }

    /// The key whose bytes these are.
    pub(super) fn decode(family: Family, bytes: &[u8]) -> Result<Key, StateError> {
        let key = match family {
            Family::Meta => decode_meta(bytes),
            Family::Records => {
                decode_versioned(bytes).map(|(layer, key, index)| Key::Record { layer, key, index })
            }
            Family::Ranges => decode_versioned(bytes).map(|(layer, start, index)| Key::Range {
                layer,
                start,
                index,
            }),
            Family::Changes => decode_change(bytes),
            Family::Times => fixed(bytes).map(|time| Key::Time(u64::from_be_bytes(time))),
        };
        key.ok_or_else(|| {
            let shown: Vec<u8> = bytes.iter().copied().take(24).collect();
            StateError::corrupt(format!("{} holds a row with the key {shown:02x?}", family.name()))
        })
    }
}

/// The bytes that all meta keys of one kind begin with, and the first bytes after all of them.
pub(super) struct Kind {
    /// Inclusive.
    pub(super) start: Vec<u8>,
    /// Exclusive.
    pub(super) end: Vec<u8>,
}

impl Kind {
    /// All keys `Namespace`.
    pub(super) fn namespaces() -> Kind {
        Kind::of(vec![NAMESPACE])
    }

    /// All keys `Collection`, or those of one namespace.
    pub(super) fn collections(namespace: Option<&Name>) -> Kind {
        Kind::of(match namespace {
            None => vec![COLLECTION],
            Some(name) => tagged(COLLECTION, &[name.as_str().as_bytes(), &[0]]),
        })
    }

    /// All keys `Descriptor` of one incarnation, newest first.
    pub(super) fn descriptors(incarnation: u64) -> Kind {
        Kind::of(tagged(DESCRIPTOR, &[&incarnation.to_be_bytes()]))
    }

    /// All keys `Node`.
    pub(super) fn nodes() -> Kind {
        Kind::of(vec![NODE])
    }

    /// All keys `RemovedNode`.
    pub(super) fn removed_nodes() -> Kind {
        Kind::of(vec![REMOVED_NODE])
    }

    /// All keys `Pin`.
    pub(super) fn pins() -> Kind {
        Kind::of(vec![PIN])
    }

    /// All keys `Token`.
    pub(super) fn tokens() -> Kind {
        Kind::of(vec![TOKEN])
    }

    /// All keys `SessionUse`, the least recently used session first.
    pub(super) fn session_uses() -> Kind {
        Kind::of(vec![SESSION_USE])
    }

    /// All rows that begin with `prefix`.
    pub(super) fn of(prefix: Vec<u8>) -> Kind {
        let end = after_prefix(&prefix);
        Kind { start: prefix, end }
    }
}

/// The first bytes after everything that begins with `prefix`, which is not all FF.
pub(super) fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while end.pop_if(|byte| *byte == 0xff).is_some() {}
    // A layer is a log index, and no log gets that far.
    let last = end.last_mut().expect("a prefix begins with a tag or a layer, which are not all FF");
    *last += 1;
    end
}

/// What all keys of the records of a layer begin with.
pub(super) fn layer_prefix(layer: u64) -> [u8; 8] {
    layer.to_be_bytes()
}

/// What the rows of user keys that begin with `prefix` begin with.
pub(super) fn keys_with_prefix(layer: u64, prefix: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(prefix.len() + 24);
    bytes.extend_from_slice(&layer_prefix(layer));
    for byte in prefix {
        match byte {
            0 => bytes.extend_from_slice(&ESCAPED_ZERO),
            byte => bytes.push(*byte),
        }
    }
    bytes
}

/// What all versions of a record, and no other row, begin with.
pub(super) fn versions_of(layer: u64, key: &[u8]) -> Vec<u8> {
    let mut bytes = keys_with_prefix(layer, key);
    bytes.extend_from_slice(&TERMINATOR);
    bytes
}

/// The row of one version of the record whose rows begin with `versions`.
pub(super) fn version_row(versions: &[u8], index: Index) -> Vec<u8> {
    [versions, &(!index).to_be_bytes()].concat()
}

/// Splits a row of the records family into what all versions of its record begin with, and the
/// version.
pub(super) fn split_version(row: &[u8]) -> Result<(&[u8], Index), StateError> {
    row.split_last_chunk()
        .map(|(versions, index)| (versions, !u64::from_be_bytes(*index)))
        .ok_or_else(|| StateError::corrupt("records hold a row with a short key"))
}

/// The user key of a row of the records family.
pub(super) fn user_key(row: &[u8]) -> Result<Bytes, StateError> {
    match Key::decode(Family::Records, row)? {
        Key::Record { key, .. } => Ok(key),
        _ => Err(StateError::corrupt("records hold a row that is no record")),
    }
}

fn tagged(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    bytes.push(tag);
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}

fn fixed<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

fn number(bytes: &[u8]) -> Option<u64> {
    fixed(bytes).map(u64::from_be_bytes)
}

fn two_numbers(bytes: &[u8]) -> Option<(u64, u64)> {
    let (first, second) = bytes.split_at_checked(8)?;
    Some((number(first)?, number(second)?))
}

fn name(what: &str, bytes: &[u8]) -> Option<Name> {
    Name::parse(what, std::str::from_utf8(bytes).ok()?).ok()
}

fn decode_meta(bytes: &[u8]) -> Option<Key> {
    let (tag, rest) = bytes.split_first()?;
    match *tag {
        APPLIED => rest.is_empty().then_some(Key::Applied),
        CONF_STATE => rest.is_empty().then_some(Key::ConfState),
        CLUSTER => rest.is_empty().then_some(Key::Cluster),
        COUNTERS => rest.is_empty().then_some(Key::Counters),
        NAMESPACE => name("namespace", rest).map(Key::Namespace),
        COLLECTION => {
            let middle = rest.iter().position(|byte| *byte == 0)?;
            Some(Key::Collection(CollectionName {
                namespace: name("namespace", &rest[..middle])?,
                name: name("collection", &rest[middle + 1..])?,
            }))
        }
        DESCRIPTOR => two_numbers(rest)
            .map(|(incarnation, index)| Key::Descriptor { incarnation, index: !index }),
        COUNTS => number(rest).map(Key::Counts),
        NODE => number(rest).map(NodeId).map(Key::Node),
        REMOVED_NODE => number(rest).map(NodeId).map(Key::RemovedNode),
        PIN => number(rest).map(NodeId).map(Key::Pin),
        TOKEN => fixed(rest).map(Key::Token),
        SESSION => number(rest).map(Key::Session),
        SESSION_USE => two_numbers(rest).map(|(index, session)| Key::SessionUse { index, session }),
        _ => None,
    }
}

fn decode_versioned(bytes: &[u8]) -> Option<(u64, Bytes, Index)> {
    let (layer, rest) = bytes.split_first_chunk::<8>()?;
    let (escaped, index) = rest.split_last_chunk::<VERSION_BYTES>()?;
    let escaped = escaped.strip_suffix(&TERMINATOR)?;
    Some((u64::from_be_bytes(*layer), unescape(escaped)?, !u64::from_be_bytes(*index)))
}

/// None unless every 00 is an escaped one.
fn unescape(escaped: &[u8]) -> Option<Bytes> {
    if !escaped.contains(&0) {
        return Some(Bytes::copy_from_slice(escaped));
    }
    let mut key = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(byte) = bytes.next() {
        key.push(*byte);
        if *byte == 0 && bytes.next() != Some(&ESCAPED_ZERO[1]) {
            return None;
        }
    }
    Some(key.into())
}

fn decode_change(bytes: &[u8]) -> Option<Key> {
    let (layer, rest) = bytes.split_first_chunk::<8>()?;
    let (index, key) = rest.split_first_chunk::<8>()?;
    Some(Key::Change {
        layer: u64::from_be_bytes(*layer),
        index: u64::from_be_bytes(*index),
        key: Bytes::copy_from_slice(key),
    })
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
