//! Garbage collection: versions that no reader may ask for any more are removed, by log entries.
//!
//! A pass goes through one layer in steps, each an entry that names a stretch of keys, so that every
//! replica removes the same rows whatever its speed. A pass begins by moving the floor: the index
//! below which only holds keep anything. It stays where it is until the pass ends.
//!
//! A version with a successor (a newer version, or a range deletion over it) goes if the successor is
//! not above the floor and nobody holds an index between the two. A tombstone, or an expired value,
//! is what readers see until its older versions are gone; it goes with or after the last of them,
//! and never while something below its layer would show through.

use bytes::Bytes;

use crate::codec::stored::{Descriptor, Hold, Layer, Pass, Record, Tag};
use crate::kv::{Family, View};
use crate::types::{Code, Failure, Index, Purge, Reply, Trim};

use super::apply::Execution;
use super::clones::name_of;
use super::error::{RequestError, StateError};
use super::key::{Holder, Key, Kind, version_row, versions_of};
use super::ranges::Range;
use super::records::earliest;
use super::rows;
use super::sight::last_commit;

/// A hold of the layer that is collected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Held {
    /// The index.
    pub(super) index: Index,
    /// Its commit time.
    pub(super) time_unix_ms: u64,
}

/// One version of a key, as the collector sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Version {
    /// Its index.
    pub(super) index: Index,
    /// Bytes of key and value.
    pub(super) bytes: u64,
    /// None: a tombstone. Else when it expires, if ever.
    pub(super) value: Option<Option<u64>>,
}

/// What says which versions go.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Rules {
    /// Reads below it need a hold.
    pub(super) floor: Index,
    /// Its commit time.
    pub(super) floor_unix_ms: u64,
    /// Sorted by index.
    pub(super) holds: Vec<Held>,
    /// Something lies below the layer.
    pub(super) has_below: bool,
}

/// What becomes of a version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// Nobody may ask for it.
    Goes,
    /// Somebody may, or it is what readers see.
    Stays,
    /// It is superfluous, but the floor has not passed it.
    Waits,
    /// It is superfluous, but somebody holds it.
    IsHeld,
}

impl Rules {
    /// Judges the versions of one key, newest first. `deletions` are the range deletions over it;
    /// `complete`: these are all its versions.
    pub(super) fn judge(
        &self,
        versions: &[Version],
        deletions: &[Index],
        complete: bool,
    ) -> Vec<Fate> {
        let mut fates = Vec::with_capacity(versions.len());
        let mut newer: Option<Index> = None;
        for version in versions {
            let deletion = deletions.iter().copied().filter(|index| *index > version.index).min();
            let successor = match (newer, deletion) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
            fates.push(match successor {
                Some(successor) if successor > self.floor => Fate::Waits,
                Some(successor) if self.is_held(version.index, successor) => Fate::IsHeld,
                Some(_) => Fate::Goes,
                None => Fate::Stays,
            });
            newer = Some(version.index);
        }
        if !complete || self.has_below {
            return fates;
        }
        // From the oldest on: what reads as nothing goes once nothing older is left.
        for (version, fate) in versions.iter().zip(&mut fates).rev() {
            if *fate != Fate::Goes {
                if !self.reads_as_nothing(version) {
                    break;
                }
                if version.index > self.floor {
                    *fate = Fate::Waits;
                    break;
                }
                *fate = Fate::Goes;
            }
        }
        fates
    }

    fn is_held(&self, from: Index, to: Index) -> bool {
        let first = self.holds.partition_point(|hold| hold.index < from);
        self.holds.get(first).is_some_and(|hold| hold.index < to)
    }

    /// Whether everybody who may read it sees nothing.
    fn reads_as_nothing(&self, version: &Version) -> bool {
        match version.value {
            None => true,
            Some(None) => false,
            Some(Some(expires)) => {
                expires <= self.floor_unix_ms
                    && !self
                        .holds
                        .iter()
                        .any(|hold| hold.index >= version.index && hold.time_unix_ms < expires)
            }
        }
    }
}

impl Execution<'_> {
    /// One step of a pass. A step that does not continue the pass removes nothing: the leader that
    /// proposed it had not seen an earlier one.
    pub(super) fn purge(&mut self, purge: &Purge) -> Result<Reply, RequestError> {
        let nothing = Reply::Purged { rows: 0, bytes: 0, done: false };
        if !purge.to.is_empty() && purge.to < purge.from {
            return Err(
                Failure::new(Code::InvalidArgument, "the step ends before it begins").into()
            );
        }
        self.end_leases()?;
        let Some(mut layer) = self.find::<Layer>(&Key::Layer(purge.layer))? else {
            return Ok(nothing);
        };
        let mut pass = match layer.pass.take() {
            Some(pass) if pass.next_key == purge.from[..] => pass,
            None if purge.from.is_empty() => self.begin_pass(purge.layer, &mut layer)?,
            Some(_) | None => return Ok(nothing),
        };
        let ranges = self.ranges_of(purge.layer)?;
        let rules = Rules {
            floor: layer.floor,
            floor_unix_ms: layer.floor_unix_ms,
            holds: holds_of(&self.transaction, purge.layer)?,
            has_below: !layer.below.is_empty(),
        };
        let mut removed = Removed::default();
        for key in gather(&self.transaction, purge)? {
            let fates = match pass.everything {
                true => vec![Fate::Goes; key.versions.len()],
                false => {
                    let deletions: Vec<Index> = ranges
                        .iter()
                        .filter(|range| range.covers(&key.key))
                        .map(|r| r.index)
                        .collect();
                    rules.judge(&key.versions, &deletions, key.complete)
                }
            };
            self.carry_out_fates(purge.layer, &key, &fates, &mut layer, &mut pass, &mut removed)?;
        }
        let ends = purge.to.is_empty() && !(pass.everything && self.has_changes(purge.layer)?);
        if !ends {
            pass.next_key = purge.to.to_vec();
            layer.pass = Some(pass);
            self.transaction.put(&Key::Layer(purge.layer), &layer);
        } else if pass.everything {
            self.remove_layer(purge.layer, &layer, &ranges)?;
        } else {
            self.end_pass(purge.layer, layer, &pass, &ranges)?;
        }
        Ok(Reply::Purged { rows: removed.rows, bytes: removed.bytes, done: ends })
    }

    fn begin_pass(&self, id: u64, layer: &mut Layer) -> Result<Pass, StateError> {
        self.advance_floor(layer)?;
        let holds = holds_of(&self.transaction, id)?;
        let everything = is_dead(&self.transaction, id, layer)?;
        layer.passed_unix_ms = self.time_unix_ms();
        let stored = &mut layer.stored;
        // What is written while the pass goes on is counted anew.
        stored.superseded = 0;
        stored.held_back = 0;
        stored.next_expiry_unix_ms = 0;
        Ok(Pass {
            began_at: self.index(),
            lowest_hold: holds.first().map_or(Index::MAX, |hold| hold.index),
            next_key: Vec::new(),
            everything,
            next_expiry_unix_ms: 0,
            kept: 0,
            held_back: 0,
        })
    }

    /// Moves the floor to where the history of the collection ends now. Never back.
    fn advance_floor(&self, layer: &mut Layer) -> Result<(), StateError> {
        let since = self.time_unix_ms().saturating_sub(layer.settings.history_ms);
        if let Some((index, time)) = last_commit(&self.transaction, since)?
            && index > layer.floor
        {
            layer.floor = index;
            layer.floor_unix_ms = time;
        }
        Ok(())
    }

    fn ranges_of(&self, layer: u64) -> Result<Vec<Range>, StateError> {
        let rows = self.transaction.rows(Family::Ranges, &Kind::ranges(layer), usize::MAX)?;
        rows.iter().map(|(key, row)| Range::decode(key, row)).collect()
    }

    fn has_changes(&self, layer: u64) -> Result<bool, StateError> {
        let kind = Kind::changes(layer, Index::MAX);
        Ok(!self.transaction.rows(Family::Changes, &kind, 1)?.is_empty())
    }

    fn carry_out_fates(
        &mut self,
        id: u64,
        key: &Gathered,
        fates: &[Fate],
        layer: &mut Layer,
        pass: &mut Pass,
        removed: &mut Removed,
    ) -> Result<(), StateError> {
        let rows_prefix = versions_of(id, &key.key);
        for (place, (version, fate)) in key.versions.iter().zip(fates).enumerate() {
            match fate {
                Fate::Stays => {}
                Fate::Waits => pass.kept += 1,
                Fate::IsHeld => pass.held_back += 1,
                Fate::Goes => {
                    let row = version_row(&rows_prefix, version.index);
                    self.transaction.single_delete(Family::Records, row);
                    removed.rows += 1;
                    removed.bytes += version.bytes;
                    let stored = &mut layer.stored;
                    stored.versions = counted_down(stored.versions, 1)?;
                    stored.bytes = counted_down(stored.bytes, version.bytes)?;
                    // An expired value counts as a record until it goes.
                    let counts = &mut layer.counts;
                    if place == 0 && version.value.is_some() && !counts.inexact {
                        counts.records = counted_down(counts.records, 1)?;
                        counts.bytes = counted_down(counts.bytes, version.bytes)?;
                    }
                    continue;
                }
            }
            if let Some(Some(expires)) = version.value {
                pass.next_expiry_unix_ms = earliest(pass.next_expiry_unix_ms, expires);
            }
        }
        Ok(())
    }

    /// All keys were seen: range deletions that hide nothing any more go, too.
    fn end_pass(
        &mut self,
        id: u64,
        mut layer: Layer,
        pass: &Pass,
        ranges: &[Range],
    ) -> Result<(), StateError> {
        if layer.below.is_empty() {
            // A lower hold than those of the beginning cannot have come since.
            let passed = layer.floor.min(pass.lowest_hold);
            for range in ranges.iter().filter(|range| range.index <= passed) {
                let key = Key::Range { layer: id, start: range.start.clone(), index: range.index };
                self.transaction.single_delete(Family::Ranges, key.encode());
                layer.stored.ranges = counted_down(layer.stored.ranges, 1)?;
            }
        }
        let stored = &mut layer.stored;
        stored.superseded += pass.kept;
        stored.held_back += pass.held_back;
        stored.next_expiry_unix_ms = earliest(stored.next_expiry_unix_ms, pass.next_expiry_unix_ms);
        self.transaction.put(&Key::Layer(id), &layer);
        if layer.closed_at.is_none() {
            let descriptor = self.descriptor(layer.incarnation)?;
            self.put_entry(&name_of(&descriptor)?, layer.incarnation, id, &layer);
        }
        Ok(())
    }

    /// The last traces of a layer that nobody may read.
    fn remove_layer(&mut self, id: u64, layer: &Layer, ranges: &[Range]) -> Result<(), StateError> {
        for range in ranges {
            let key = Key::Range { layer: id, start: range.start.clone(), index: range.index };
            self.transaction.single_delete(Family::Ranges, key.encode());
        }
        for below in &layer.below {
            self.release(below.layer, below.ceiling, Holder::Layer(id))?;
        }
        let incarnation = layer.incarnation;
        for (key, row) in
            self.transaction.rows(Family::Meta, &Kind::tags(incarnation), usize::MAX)?
        {
            let key = Key::decode(Family::Meta, &key)?;
            let tag: Tag = rows::decode(&key, &row)?;
            if let Key::Tag { name, .. } = &key
                && tag.layer == id
            {
                let owner = Holder::Tag { incarnation, name: name.clone() };
                self.transaction.delete(&Key::Hold { layer: id, index: tag.index, owner });
                self.transaction.delete(&key);
            }
        }
        let descriptors = Kind::descriptors(incarnation);
        for (key, row) in self.transaction.rows(Family::Meta, &descriptors, usize::MAX)? {
            let key = Key::decode(Family::Meta, &key)?;
            let descriptor: Descriptor = rows::decode(&key, &row)?;
            if descriptor.layer == id {
                self.transaction.delete(&key);
                let name = name_of(&descriptor)?;
                self.transaction.delete(&Key::Dropped { name, incarnation });
            }
        }
        self.transaction.delete(&Key::Layer(id));
        Ok(())
    }

    pub(super) fn trim(&mut self, trim: &Trim) -> Result<Reply, RequestError> {
        match *trim {
            Trim::Changes { layer, to } => self.trim_changes(layer, to),
            Trim::Times { to_unix_ms } => self.trim_times(to_unix_ms),
        }
    }

    fn trim_changes(&mut self, id: u64, to: Index) -> Result<Reply, RequestError> {
        let mut removed = Removed::default();
        let Some(mut layer) = self.find::<Layer>(&Key::Layer(id))? else {
            return Ok(Reply::Purged { rows: 0, bytes: 0, done: true });
        };
        let to = match is_dead(&self.transaction, id, &layer)? {
            true => to,
            false => {
                // During a pass the floor stays where it is.
                if layer.pass.is_none() {
                    self.advance_floor(&mut layer)?;
                    self.transaction.put(&Key::Layer(id), &layer);
                }
                to.min(layer.floor)
            }
        };
        for (key, row) in
            self.transaction.rows(Family::Changes, &Kind::changes(id, to), usize::MAX)?
        {
            removed.rows += 1;
            removed.bytes += (key.len() + row.len()) as u64;
            self.transaction.single_delete(Family::Changes, key);
        }
        Ok(Reply::Purged { rows: removed.rows, bytes: removed.bytes, done: true })
    }

    /// Commit times below every floor go, but the newest of them: it says what was last then.
    fn trim_times(&mut self, to_unix_ms: u64) -> Result<Reply, RequestError> {
        let mut to = to_unix_ms;
        for (key, row) in self.transaction.rows(Family::Meta, &Kind::layers(), usize::MAX)? {
            let key = Key::decode(Family::Meta, &key)?;
            to = to.min(rows::decode::<Layer>(&key, &row)?.floor_unix_ms);
        }
        let mut removed = Removed::default();
        let Some((_, newest)) = last_commit(&self.transaction, to)? else {
            return Ok(Reply::Purged { rows: 0, bytes: 0, done: true });
        };
        let kind = Kind { start: Vec::new(), end: Key::Time(newest).encode() };
        for (key, row) in self.transaction.rows(Family::Times, &kind, usize::MAX)? {
            removed.rows += 1;
            removed.bytes += (key.len() + row.len()) as u64;
            let key = Key::decode(Family::Times, &key)?;
            self.transaction.delete(&key);
        }
        Ok(Reply::Purged { rows: removed.rows, bytes: removed.bytes, done: true })
    }
}

/// What a step removed.
#[derive(Clone, Copy, Default)]
struct Removed {
    rows: u64,
    bytes: u64,
}

/// A key of the layer with its versions.
pub(super) struct Gathered {
    key: Bytes,
    /// Newest first.
    pub(super) versions: Vec<Version>,
    /// These are all of them.
    pub(super) complete: bool,
}

/// The keys of a step, in order.
fn gather(view: &dyn View, purge: &Purge) -> Result<Vec<Gathered>, StateError> {
    let start = versions_of_or_layer(purge.layer, &purge.from);
    let end = match (purge.to.is_empty(), purge.to_above) {
        (true, _) => Kind::records(purge.layer).end,
        (false, 0) => versions_of(purge.layer, &purge.to),
        (false, above) => version_row(&versions_of(purge.layer, &purge.to), above),
    };
    let mut cursor = view.cursor(Family::Records);
    cursor.seek(&start);
    let mut keys: Vec<Gathered> = Vec::new();
    while let Some((row, value)) = cursor.entry().filter(|(row, _)| *row < end.as_slice()) {
        let (key, version) = version_of(row, value)?;
        match keys.last_mut().filter(|gathered| gathered.key == key) {
            Some(gathered) => gathered.versions.push(version),
            None => {
                // Of the last key only a part may be looked at.
                let complete = purge.to_above == 0 || key != purge.to;
                keys.push(Gathered { key, versions: vec![version], complete });
            }
        }
        cursor.next();
    }
    cursor.status()?;
    Ok(keys)
}

fn versions_of_or_layer(layer: u64, from: &[u8]) -> Vec<u8> {
    match from.is_empty() {
        true => Kind::records(layer).start,
        false => versions_of(layer, from),
    }
}

/// The key and the version that a row of the records family holds.
fn version_of(row: &[u8], value: &[u8]) -> Result<(Bytes, Version), StateError> {
    let Key::Record { key, index, .. } = Key::decode(Family::Records, row)? else {
        return Err(StateError::corrupt("records hold a row that is no record"));
    };
    let (bytes, value) = match rows::decode_record(value)? {
        Record::Tombstone => (key.len(), None),
        Record::Value { expires_unix_ms, value, .. } => {
            (key.len() + value.len(), Some(expires_unix_ms))
        }
    };
    Ok((key, Version { index, bytes: bytes as u64, value }))
}

/// The indexes at which a layer is held, in order, each with the earliest of its times.
pub(super) fn holds_of(view: &dyn View, layer: u64) -> Result<Vec<Held>, StateError> {
    let mut holds: Vec<Held> = Vec::new();
    rows::each(view, &Kind::holds(layer), |key, row| {
        let hold: Hold = rows::decode(&key, row)?;
        if let Key::Hold { index, .. } = key {
            match holds.last_mut().filter(|last| last.index == index) {
                Some(last) => last.time_unix_ms = last.time_unix_ms.min(hold.time_unix_ms),
                None => holds.push(Held { index, time_unix_ms: hold.time_unix_ms }),
            }
        }
        Ok(())
    })?;
    Ok(holds)
}

/// Whether nobody may read a layer any more: it was closed before the history of its collection
/// begins, and neither a clone nor a lease holds it. Tags end with their collection.
pub(super) fn is_dead(view: &dyn View, id: u64, layer: &Layer) -> Result<bool, StateError> {
    let Some(closed_at) = layer.closed_at else { return Ok(false) };
    if layer.pass.as_ref().is_some_and(|pass| pass.everything) {
        return Ok(true);
    }
    if closed_at > layer.floor {
        return Ok(false);
    }
    let newest = rows::first::<Descriptor>(view, &Kind::descriptors(layer.incarnation))?;
    let is_dropped = newest.is_none_or(|(_, descriptor)| descriptor.dropped);
    let mut is_held = false;
    rows::each(view, &Kind::holds(id), |key, _| {
        is_held |= match key {
            Key::Hold { owner: Holder::Tag { .. }, .. } => !is_dropped,
            _ => true,
        };
        Ok(())
    })?;
    Ok(!is_held)
}

fn counted_down(count: u64, by: u64) -> Result<u64, StateError> {
    count.checked_sub(by).ok_or_else(|| StateError::corrupt("a layer holds more than it counts"))
}
