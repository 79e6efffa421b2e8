//! Writes of records: all conditions first, then all rows, and exact counts.
//!
//! A write adds a version, never changes one: a row of the records family is written exactly once,
//! so that garbage collection may remove it by a single delete.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::codec::stored::{self, Change, CollectionEntry, Counts, Record};
use crate::kv::{Cursor, Family};
use crate::limits::{
    BATCH_BYTES_MAX, BATCH_WRITES_MAX, CONTENT_TYPE_BYTES_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX,
};
use crate::types::{
    Action, Code, CollectionName, Condition, Failure, Index, Reply, Write, WriteBatch,
};

use super::apply::Execution;
use super::collections::collection_not_found;
use super::error::{RequestError, StateError};
use super::key::{Key, split_version, version_row, versions_of};
use super::rows;

/// A collection that a batch writes to.
struct Target {
    incarnation: u64,
    layer: u64,
    counts: Counts,
}

/// The value that a key holds before a batch.
struct Held {
    version: Index,
    /// Of the key and the value.
    bytes: u64,
}

/// A write whose condition holds, or is still to be judged.
struct Judged {
    /// What all versions of its record begin with.
    versions: Vec<u8>,
    held: Option<Held>,
}

/// Whether a batch keeps to the limits and names each key once. Apply judges by the same rules; a
/// front door that asks first spares the log a useless entry.
pub fn validate_writes(batch: &WriteBatch) -> Result<(), Failure> {
    let count = batch.writes.len();
    if count > BATCH_WRITES_MAX {
        return Err(Failure::new(
            Code::BatchTooLarge,
            format!("the batch has {count} writes, the limit is {BATCH_WRITES_MAX}"),
        ));
    }
    let mut bytes = 0;
    let mut keys = BTreeSet::new();
    for (place, write) in batch.writes.iter().enumerate() {
        validate_key(&write.key)?;
        bytes += write.key.len() + name_bytes(&write.collection);
        if let Action::Put { value, content_type } = &write.action {
            validate_value(value, content_type)?;
            bytes += value.len() + content_type.len();
        }
        if !keys.insert((&write.collection, &write.key)) {
            return Err(Failure::new(
                Code::DuplicateKey,
                format!("write {place} names {} again", shown(write)),
            )
            .hint("a batch may name each key once; keep the last write of a key"));
        }
    }
    if bytes > BATCH_BYTES_MAX {
        return Err(Failure::new(
            Code::BatchTooLarge,
            format!("the batch has {bytes} bytes, the limit is {BATCH_BYTES_MAX}"),
        )
        .hint("split it into smaller batches"));
    }
    Ok(())
}

/// Whether a user key has an allowed length.
pub(super) fn validate_key(key: &[u8]) -> Result<(), Failure> {
    if key.is_empty() {
        return Err(Failure::new(Code::KeyEmpty, "the key is empty"));
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(Failure::new(
            Code::KeyTooLarge,
            format!("the key has {} bytes, the limit is {KEY_BYTES_MAX}", key.len()),
        ));
    }
    Ok(())
}

fn validate_value(value: &Bytes, content_type: &str) -> Result<(), Failure> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(Failure::new(
            Code::ValueTooLarge,
            format!("the value has {} bytes, the limit is {VALUE_BYTES_MAX}", value.len()),
        ));
    }
    if content_type.len() > CONTENT_TYPE_BYTES_MAX {
        return Err(Failure::new(
            Code::InvalidArgument,
            format!(
                "the content type has {} bytes, the limit is {CONTENT_TYPE_BYTES_MAX}",
                content_type.len()
            ),
        ));
    }
    Ok(())
}

impl Execution<'_> {
    pub(super) fn write(&mut self, batch: &WriteBatch) -> Result<Reply, RequestError> {
        validate_writes(batch)?;
        let mut targets = self.targets(batch)?;
        let mut cursor = self.transaction.store_cursor(Family::Records);
        let mut judged = Vec::with_capacity(batch.writes.len());
        for (place, write) in batch.writes.iter().enumerate() {
            let layer = targets[&write.collection].layer;
            let versions = versions_of(layer, &write.key);
            let held = self.held(cursor.as_mut(), &versions, write.key.len())?;
            judge(write, held.as_ref()).map_err(|mut failure| {
                if batch.writes.len() > 1 {
                    failure.message = format!("write {place}: {}", failure.message);
                }
                failure
            })?;
            judged.push(Judged { versions, held });
        }
        drop(cursor);
        let existed = judged.iter().map(|judged| judged.held.is_some()).collect();
        for (write, judged) in batch.writes.iter().zip(judged) {
            let target =
                targets.get_mut(&write.collection).expect("every write's target was looked up");
            self.carry_out(write, judged, target)?;
        }
        for target in targets.into_values() {
            self.transaction.put(&Key::Counts(target.incarnation), &target.counts);
        }
        Ok(Reply::Written { existed })
    }

    fn targets<'b>(
        &self,
        batch: &'b WriteBatch,
    ) -> Result<BTreeMap<&'b CollectionName, Target>, RequestError> {
        let mut targets = BTreeMap::new();
        for Write { collection, .. } in &batch.writes {
            if targets.contains_key(collection) {
                continue;
            }
            let Some(CollectionEntry { incarnation, layer }) =
                self.find(&Key::Collection(collection.clone()))?
            else {
                return Err(collection_not_found(collection).into());
            };
            let counts = self.find(&Key::Counts(incarnation))?.ok_or_else(|| {
                StateError::corrupt(format!("collection {collection} has no counts"))
            })?;
            targets.insert(collection, Target { incarnation, layer, counts });
        }
        Ok(targets)
    }

    /// The value under the key whose rows begin with `versions`. Versions in the batch are newer
    /// than those in the store, where one seek finds the newest.
    fn held(
        &self,
        cursor: &mut dyn Cursor,
        versions: &[u8],
        key_bytes: usize,
    ) -> Result<Option<Held>, StateError> {
        if let Some((row, value)) = self.transaction.first_in_batch(Family::Records, versions) {
            return held_in(row, value, key_bytes);
        }
        cursor.seek(versions);
        match cursor.entry() {
            Some((row, value)) if row.starts_with(versions) => held_in(row, value, key_bytes),
            Some(_) => Ok(None),
            None => {
                cursor.status()?;
                Ok(None)
            }
        }
    }

    fn carry_out(
        &mut self,
        write: &Write,
        judged: Judged,
        target: &mut Target,
    ) -> Result<(), StateError> {
        let (record, change) = match (&write.action, &judged.held) {
            (Action::Check, _) | (Action::Delete, None) => return Ok(()),
            (Action::Delete, Some(_)) => (Record::Tombstone, Change::Delete),
            (Action::Put { value, content_type }, _) => {
                (Record::Value { expires_unix_ms: None, content_type, value }, Change::Put)
            }
        };
        let gone = judged.held.as_ref().map_or((0, 0), |held| (1, held.bytes));
        let come = match &record {
            Record::Tombstone => (0, 0),
            Record::Value { value, .. } => (1, (write.key.len() + value.len()) as u64),
        };
        let Counts { records, bytes } = target.counts;
        let moved = |count: u64, gone, come| count.checked_sub(gone)?.checked_add(come);
        target.counts = moved(records, gone.0, come.0)
            .zip(moved(bytes, gone.1, come.1))
            .map(|(records, bytes)| Counts { records, bytes })
            .ok_or_else(|| {
                StateError::corrupt(format!("the counts of {} are wrong", write.collection))
            })?;
        let index = self.index();
        let row = version_row(&judged.versions, index);
        self.transaction.put_bytes(Family::Records, row, stored::encode(&record));
        let key = Key::Change { layer: target.layer, index, key: write.key.clone() };
        self.transaction.put(&key, &change);
        Ok(())
    }
}

fn held_in(row: &[u8], value: &[u8], key_bytes: usize) -> Result<Option<Held>, StateError> {
    let (_, version) = split_version(row)?;
    Ok(match rows::decode_record(value)? {
        Record::Tombstone => None,
        Record::Value { value, .. } => {
            Some(Held { version, bytes: (key_bytes + value.len()) as u64 })
        }
    })
}

fn judge(write: &Write, held: Option<&Held>) -> Result<(), Failure> {
    let problem = match (write.condition, held) {
        (Condition::Always, _) | (Condition::Absent, None) => return Ok(()),
        (Condition::Version(wanted), Some(held)) if held.version == wanted => return Ok(()),
        (Condition::Absent, Some(held)) => {
            format!("is not absent: it holds version {}", held.version)
        }
        (Condition::Version(wanted), Some(held)) => {
            format!("holds version {}, not {wanted}", held.version)
        }
        (Condition::Version(wanted), None) => format!("holds no value, not version {wanted}"),
    };
    Err(Failure::new(Code::ConditionFailed, format!("{} {problem}", shown(write)))
        .hint("read the key again and decide anew"))
}

fn name_bytes(name: &CollectionName) -> usize {
    name.namespace.as_str().len() + name.name.as_str().len()
}

/// A write's key as a message shows it: short, and never raw bytes.
fn shown(write: &Write) -> String {
    const SHOWN_BYTES_MAX: usize = 32;
    let cut = &write.key[..write.key.len().min(SHOWN_BYTES_MAX)];
    let more = if cut.len() < write.key.len() { "..." } else { "" };
    format!("key \"{}\"{more} of {}", cut.escape_ascii(), write.collection)
}
