//! Writes of records: all conditions first, then all rows, and exact counts.
//!
//! A write adds a version, never changes one: a row of the records family is written exactly once,
//! so that garbage collection may remove it by a single delete.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::codec::stored::{self, Change, CollectionEntry, Counts, Layer, Record};
use crate::kv::Family;
use crate::limits::{
    BATCH_BYTES_MAX, BATCH_WRITES_MAX, CONTENT_TYPE_BYTES_MAX, KEY_BYTES_MAX, TTL_MS_MAX,
    VALUE_BYTES_MAX,
};
use crate::types::{
    Action, Code, CollectionName, Condition, Expiry, Failure, Index, Reply, Write, WriteBatch,
};

use super::apply::Execution;
use super::error::{RequestError, StateError};
use super::key::{Key, version_row, versions_of};
use super::lookup::{Held, Lookup};
use super::patch::merge_patch;
use super::sight::Sight;

/// Content type of a record that a patch creates.
const JSON: &str = "application/json";

/// A collection that a batch writes to.
struct Target {
    layer: u64,
    /// The layer's row, with the counts as the writes so far leave them.
    row: Layer,
    sight: Sight,
}

/// What is needed of the value that a key holds.
struct Taken {
    value_bytes: usize,
    /// Content type and value, if the write depends on them.
    document: Option<(String, Vec<u8>)>,
}

/// What a write does once its condition holds.
enum Effect {
    Nothing,
    Delete,
    Store { expires_unix_ms: Option<u64>, content_type: String, value: Bytes },
}

/// A write whose condition holds.
struct Judged {
    held: Option<Held<Taken>>,
    effect: Effect,
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
        match &write.action {
            Action::Put { value, content_type, .. } => {
                validate_value("value", value)?;
                validate_content_type(content_type)?;
                bytes += value.len() + content_type.len();
            }
            Action::Patch { patch } => {
                validate_value("patch", patch)?;
                bytes += patch.len();
            }
            Action::Delete | Action::Check => {}
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

fn validate_value(what: &str, value: &Bytes) -> Result<(), Failure> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(Failure::new(
            Code::ValueTooLarge,
            format!("the {what} has {} bytes, the limit is {VALUE_BYTES_MAX}", value.len()),
        ));
    }
    Ok(())
}

/// Whether a content type has an allowed length.
pub(super) fn validate_content_type(content_type: &str) -> Result<(), Failure> {
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
        let mut lookup = Lookup::new(&self.transaction);
        let mut judged = Vec::with_capacity(batch.writes.len());
        let mut documents_bytes = 0;
        for (place, write) in batch.writes.iter().enumerate() {
            let target = &targets[&write.collection];
            let one = self.judge(&mut lookup, write, target).map_err(|error| match error {
                RequestError::Refused(mut failure) if batch.writes.len() > 1 => {
                    failure.message = format!("write {place}: {}", failure.message);
                    RequestError::Refused(failure)
                }
                other => other,
            })?;
            if let (Action::Patch { .. }, Effect::Store { value, .. }) =
                (&write.action, &one.effect)
            {
                documents_bytes += value.len();
                if documents_bytes > BATCH_BYTES_MAX {
                    return Err(Failure::new(
                        Code::BatchTooLarge,
                        format!("the patched values of the batch exceed {BATCH_BYTES_MAX} bytes"),
                    )
                    .hint("patch fewer records at once")
                    .into());
                }
            }
            judged.push(one);
        }
        drop(lookup);
        let existed =
            judged.iter().map(|judged| judged.held.as_ref().is_some_and(Held::lives)).collect();
        for (write, judged) in batch.writes.iter().zip(judged) {
            let target =
                targets.get_mut(&write.collection).expect("every write's target was looked up");
            self.carry_out(write, judged, target)?;
        }
        for target in targets.into_values() {
            self.transaction.put(&Key::Layer(target.layer), &target.row);
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
            let CollectionEntry { layer, .. } = self.collection(collection)?;
            let row = self.layer(layer)?;
            let sight = Sight::through(layer, &row, self.index(), self.time_unix_ms());
            targets.insert(collection, Target { layer, row, sight });
        }
        Ok(targets)
    }

    fn judge(
        &self,
        lookup: &mut Lookup<'_>,
        write: &Write,
        target: &Target,
    ) -> Result<Judged, RequestError> {
        let patches = matches!(write.action, Action::Patch { .. });
        let held = lookup.find(&target.sight, &write.key, |content_type, value| Taken {
            value_bytes: value.len(),
            document: patches.then(|| (content_type.to_owned(), value.to_vec())),
        })?;
        let live = held.as_ref().filter(|held| held.lives());
        judge_condition(write, live.map(|held| held.version))?;
        let settings = &target.row.settings;
        let effect = match &write.action {
            Action::Check => Effect::Nothing,
            Action::Delete if live.is_none() => Effect::Nothing,
            Action::Delete => Effect::Delete,
            Action::Put { value, content_type, expiry } => Effect::Store {
                expires_unix_ms: self.expiry(*expiry)?,
                content_type: match content_type.is_empty() {
                    true => settings.content_type.clone(),
                    false => content_type.clone(),
                },
                value: value.clone(),
            },
            Action::Patch { patch } => self.patch(write, patch, live, settings)?,
        };
        if let Effect::Store { value, .. } = &effect
            && value.len() as u64 > settings.value_bytes_max
        {
            let limit = settings.value_bytes_max;
            let message = format!(
                "{} would have {} bytes, the limit of its collection is {limit}",
                shown(write),
                value.len()
            );
            return Err(Failure::new(Code::ValueTooLarge, message).into());
        }
        Ok(Judged { held, effect })
    }

    fn patch(
        &self,
        write: &Write,
        patch: &[u8],
        live: Option<&Held<Taken>>,
        settings: &stored::Settings,
    ) -> Result<Effect, Failure> {
        let document = live.and_then(|held| held.taken.document.as_ref());
        let value =
            merge_patch(document.map(|(_, value)| value.as_slice()), patch).map_err(|problem| {
                Failure::new(Code::NotJson, format!("{}: {problem}", shown(write)))
            })?;
        let usual = || match settings.content_type.is_empty() {
            true => JSON.to_owned(),
            false => settings.content_type.clone(),
        };
        Ok(Effect::Store {
            expires_unix_ms: live.and_then(|held| held.expires_unix_ms),
            content_type: document.map_or_else(usual, |(content_type, _)| content_type.clone()),
            value: value.into(),
        })
    }

    fn expiry(&self, expiry: Expiry) -> Result<Option<u64>, Failure> {
        let now = self.time_unix_ms();
        let at = match expiry {
            Expiry::Never => return Ok(None),
            Expiry::AfterMs(ms) => now.saturating_add(ms),
            Expiry::AtUnixMs(time) => time,
        };
        match at.checked_sub(now) {
            Some(1..=TTL_MS_MAX) => Ok(Some(at)),
            Some(0) | None => Err(Failure::new(
                Code::InvalidArgument,
                "the record would be expired from the start",
            )
            .hint("check the clocks of client and cluster")),
            Some(_) => Err(Failure::new(
                Code::InvalidArgument,
                format!("a record lives at most {TTL_MS_MAX} ms"),
            )
            .hint("leave the expiry out, and it lives for ever")),
        }
    }

    fn carry_out(
        &mut self,
        write: &Write,
        judged: Judged,
        target: &mut Target,
    ) -> Result<(), StateError> {
        let (record, change) = match &judged.effect {
            Effect::Nothing => return Ok(()),
            Effect::Delete => (Record::Tombstone, Change::Delete),
            Effect::Store { expires_unix_ms, content_type, value } => (
                Record::Value { expires_unix_ms: *expires_unix_ms, content_type, value },
                Change::Put,
            ),
        };
        let index = self.index();
        let key_bytes = write.key.len() as u64;
        let gone = judged.held.as_ref().map(|held| key_bytes + held.taken.value_bytes as u64);
        let come = match &record {
            Record::Tombstone => None,
            Record::Value { value, .. } => Some(key_bytes + value.len() as u64),
        };
        let row = &mut target.row;
        row.counts = counted(row.counts, gone, come).ok_or_else(|| {
            StateError::corrupt(format!("the counts of {} are wrong", write.collection))
        })?;
        let stored = &mut row.stored;
        stored.versions += 1;
        stored.bytes += come.unwrap_or(key_bytes);
        if stored.first_write == 0 {
            stored.first_write = index;
        }
        stored.superseded += u64::from(judged.held.as_ref().is_some_and(|held| held.own))
            + u64::from(matches!(record, Record::Tombstone));
        if let Record::Value { expires_unix_ms: Some(time), .. } = &record {
            stored.next_expiry_unix_ms = earliest(stored.next_expiry_unix_ms, *time);
        }
        let versions = versions_of(target.layer, &write.key);
        let row = version_row(&versions, index);
        self.transaction.put_bytes(Family::Records, row, stored::encode(&record));
        let key = Key::Change { layer: target.layer, index, key: write.key.clone() };
        self.transaction.put(&key, &change);
        Ok(())
    }
}

impl<T> Held<T> {
    /// It has not expired.
    fn lives(&self) -> bool {
        !self.expired
    }
}

/// The counts after a record of so many bytes went and another came.
fn counted(counts: Counts, gone: Option<u64>, come: Option<u64>) -> Option<Counts> {
    let moved = |count: u64, gone: u64, come: u64| match counts.inexact {
        true => Some(count.saturating_sub(gone).saturating_add(come)),
        false => count.checked_sub(gone)?.checked_add(come),
    };
    Some(Counts {
        records: moved(counts.records, u64::from(gone.is_some()), u64::from(come.is_some()))?,
        bytes: moved(counts.bytes, gone.unwrap_or(0), come.unwrap_or(0))?,
        inexact: counts.inexact,
    })
}

/// The earlier of two commit times, of which 0 stands for never.
pub(super) fn earliest(one: u64, other: u64) -> u64 {
    match (one, other) {
        (0, time) | (time, 0) => time,
        (one, other) => one.min(other),
    }
}

fn judge_condition(write: &Write, held: Option<Index>) -> Result<(), Failure> {
    let problem = match (write.condition, held) {
        (Condition::Always, _) | (Condition::Absent, None) => return Ok(()),
        (Condition::Version(wanted), Some(version)) if version == wanted => return Ok(()),
        (Condition::Absent, Some(version)) => format!("is not absent: it holds version {version}"),
        (Condition::Version(wanted), Some(version)) => {
            format!("holds version {version}, not {wanted}")
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
