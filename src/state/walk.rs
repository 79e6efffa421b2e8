//! The walk over the records that a sight shows, in key order, forward or backward: a merge of its
//! layers, in which the nearest layer that says anything about a key decides.
//!
//! Of one layer and one key only the newest version at or below the ceiling is looked at; a few
//! older or newer ones are stepped over one by one, more are skipped by a seek. A walk pauses once it
//! has looked at so many rows: a stretch of deleted records costs pages, never one long call.

use std::cmp::Ordering;

use bytes::Bytes;

use crate::codec::stored::Record as Row;
use crate::kv::{Cursor, Family, View};
use crate::limits::VERSION_STEPS_MAX;
use crate::types::Index;

use super::error::StateError;
use super::key::{
    Kind, VERSION_BYTES, keys_with_prefix, split_version, user_key, version_row, versions_of,
};
use super::lookup::ranges_of;
use super::ranges::Ranges;
use super::rows;
use super::sight::{Level, Sight};

/// Bytes of the layer that a row begins with.
const LAYER_BYTES: usize = 8;

/// Where a walk came to stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Settled {
    /// On a visible record.
    Visible,
    /// Past the end.
    End,
    /// On some key, because enough rows were looked at.
    Paused,
}

/// An amount of rows looked at, or the most of it that is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Effort {
    /// Rows, seen or skipped.
    pub(super) rows: usize,
    /// Bytes of their keys and values.
    pub(super) bytes: u64,
}

impl Effort {
    fn add(&mut self, row: &[u8], value: &[u8]) {
        self.rows += 1;
        self.bytes += (row.len() + value.len()) as u64;
    }
}

/// Keys that a walk may show: those with a prefix, from a start, before an end.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Keys {
    /// Empty: any.
    pub(super) prefix: Bytes,
    /// Inclusive; empty: from the first.
    pub(super) start: Bytes,
    /// Exclusive; empty: to the last.
    pub(super) end: Bytes,
}

impl Keys {
    /// The rows of one layer.
    fn rows(&self, layer: u64) -> (Vec<u8>, Vec<u8>) {
        let within = Kind::of(keys_with_prefix(layer, &self.prefix));
        let (mut start, mut end) = (within.start, within.end);
        if !self.start.is_empty() {
            start = start.max(versions_of(layer, &self.start));
        }
        if !self.end.is_empty() {
            end = end.min(versions_of(layer, &self.end));
        }
        (start, end)
    }

    /// Whether a key is one of them.
    pub(super) fn contains(&self, key: &[u8]) -> bool {
        key.starts_with(&self.prefix)
            && *key >= *self.start
            && (self.end.is_empty() || *key < *self.end)
    }
}

/// A record that a walk stands on; borrows from the store.
pub(super) struct VisibleRecord<'a> {
    /// Its row in the records family.
    pub(super) row: &'a [u8],
    /// Index of the write.
    pub(super) version: Index,
    /// Commit time from which it counts as deleted, by the clock of the sight.
    pub(super) expires_unix_ms: Option<u64>,
    /// MIME type or empty.
    pub(super) content_type: &'a str,
    /// The value.
    pub(super) value: &'a [u8],
}

impl VisibleRecord<'_> {
    /// Its key.
    pub(super) fn key(&self) -> Result<Bytes, StateError> {
        user_key(self.row)
    }
}

/// See the module.
pub(super) struct Walk<'a> {
    levels: Vec<LevelWalk<'a>>,
    /// Expiry is judged at this commit time.
    time_unix_ms: u64,
    backward: bool,
    /// The level whose row is shown.
    winner: usize,
    /// Rows looked at.
    pub(super) spent: Effort,
    /// It pauses when it has looked at so many.
    allowed: Effort,
}

impl<'a> Walk<'a> {
    /// A walk over those of `keys` that `sight` shows, before the first of them.
    pub(super) fn new(
        view: &'a dyn View,
        sight: &Sight,
        keys: &Keys,
        backward: bool,
        allowed: Effort,
    ) -> Result<Self, StateError> {
        let levels = sight.levels.iter().map(|level| LevelWalk::new(view, *level, keys, backward));
        let levels = levels.collect::<Result<_, StateError>>()?;
        let time_unix_ms = sight.time_unix_ms;
        Ok(Walk { levels, time_unix_ms, backward, winner: 0, spent: Effort::default(), allowed })
    }

    /// Stands on the first visible record at or after the key it stands on.
    pub(super) fn settle(&mut self) -> Result<Settled, StateError> {
        loop {
            for level in &mut self.levels {
                if !level.settle(self.backward, &mut self.spent, self.allowed)? {
                    return Ok(Settled::Paused);
                }
            }
            match self.nearest() {
                None => return Ok(Settled::End),
                Some(winner) => self.winner = winner,
            }
            if !self.is_hidden()? {
                return Ok(Settled::Visible);
            }
            self.leave()?;
        }
    }

    /// Whether what the winner stands on is no value, or a nearer layer deleted a range over it.
    fn is_hidden(&self) -> Result<bool, StateError> {
        let (nearer, rest) = self.levels.split_at(self.winner);
        let Some(shown) = rest[0].shown(self.time_unix_ms)? else { return Ok(true) };
        if nearer.iter().all(|level| level.ranges.is_empty()) {
            return Ok(false);
        }
        let key = shown.key()?;
        Ok(nearer.iter().any(|level| level.ranges.over(&key).is_some()))
    }

    /// The level that stands on the next key; of several the nearest.
    fn nearest(&self) -> Option<usize> {
        let mut best: Option<(usize, &[u8])> = None;
        for (depth, level) in self.levels.iter().enumerate() {
            let Some(key) = level.key() else { continue };
            let order = best.map_or(Ordering::Less, |(_, known)| key.cmp(known));
            let is_before = match self.backward {
                false => order.is_lt(),
                true => best.is_none() || order.is_gt(),
            };
            if is_before {
                best = Some((depth, key));
            }
        }
        best.map(|(depth, _)| depth)
    }

    /// To the record after the one it stands on.
    pub(super) fn leave(&mut self) -> Result<(), StateError> {
        let (before, rest) = self.levels.split_at_mut(self.winner);
        let Some((winner, after)) = rest.split_first_mut() else { return Ok(()) };
        for level in before.iter_mut().chain(after) {
            if level.key().is_some() && level.key() == winner.key() {
                level.leave(self.backward, &mut self.spent)?;
            }
        }
        winner.leave(self.backward, &mut self.spent)
    }

    /// The visible record it stands on.
    pub(super) fn visible(&self) -> Result<VisibleRecord<'_>, StateError> {
        self.levels[self.winner]
            .shown(self.time_unix_ms)?
            .ok_or_else(|| StateError::corrupt("a value turned into a tombstone"))
    }

    /// The key that a later walk over the same keys must begin with to miss nothing.
    pub(super) fn place(&self) -> Result<Bytes, StateError> {
        let rows = self.levels.iter().filter_map(LevelWalk::row);
        let keys: Result<Vec<Bytes>, _> = rows.map(user_key).collect();
        let keys = keys?.into_iter();
        let place = if self.backward { keys.max() } else { keys.min() };
        place.ok_or_else(|| StateError::corrupt("a walk paused nowhere"))
    }
}

/// The walk over one layer: on the newest version at or below the ceiling of one key after another,
/// tombstones among them.
struct LevelWalk<'a> {
    cursor: Box<dyn Cursor + 'a>,
    level: Level,
    ranges: Ranges,
    /// Rows before it are not looked at.
    start: Vec<u8>,
    /// Rows from it on are not looked at.
    end: Vec<u8>,
    /// It stands where `settle` leads.
    settled: bool,
    /// What all versions of the current record begin with; kept to save allocations.
    versions: Vec<u8>,
}

impl<'a> LevelWalk<'a> {
    fn new(
        view: &'a dyn View,
        level: Level,
        keys: &Keys,
        backward: bool,
    ) -> Result<Self, StateError> {
        let (start, end) = keys.rows(level.layer);
        let ranges = match level.ranges {
            true => ranges_of(view, level.layer, level.ceiling)?,
            false => Ranges::default(),
        };
        let mut cursor = view.cursor(Family::Records);
        match backward {
            // No row equals the end: it lacks a version.
            true => cursor.seek_for_prev(&end),
            false => cursor.seek(&start),
        }
        cursor.status()?;
        Ok(LevelWalk { cursor, level, ranges, start, end, settled: false, versions: Vec::new() })
    }

    /// The row it stands on, if that lies within the bounds.
    fn row(&self) -> Option<&[u8]> {
        let (row, _) = self.cursor.entry()?;
        (row >= self.start.as_slice() && row < self.end.as_slice()).then_some(row)
    }

    /// The part of the row that says the key, in the order of keys.
    fn key(&self) -> Option<&[u8]> {
        let row = self.row()?;
        row.get(LAYER_BYTES..row.len().checked_sub(VERSION_BYTES)?)
    }

    /// The value it stands on, unless that is hidden.
    fn shown(&self, time_unix_ms: u64) -> Result<Option<VisibleRecord<'_>>, StateError> {
        let lost = || StateError::corrupt("a cursor lost the row it stood on");
        let (row, value) = self.cursor.entry().ok_or_else(lost)?;
        let (_, version) = split_version(row)?;
        let Row::Value { expires_unix_ms, content_type, value } = rows::decode_record(value)?
        else {
            return Ok(None);
        };
        let expires_unix_ms = self.level.expiry(expires_unix_ms);
        if expires_unix_ms.is_some_and(|time| time <= time_unix_ms) {
            return Ok(None);
        }
        if !self.ranges.is_empty()
            && self.ranges.over(&user_key(row)?).is_some_and(|index| index > version)
        {
            return Ok(None);
        }
        Ok(Some(VisibleRecord { row, version, expires_unix_ms, content_type, value }))
    }

    /// Stands on the newest version at or below the ceiling of the next key that has one, or past
    /// the end. False: enough rows were looked at before it got there.
    fn settle(
        &mut self,
        backward: bool,
        spent: &mut Effort,
        allowed: Effort,
    ) -> Result<bool, StateError> {
        while !self.settled {
            let Some(row) = self.row() else {
                self.cursor.status()?;
                self.settled = true;
                return Ok(true);
            };
            if spent.rows >= allowed.rows || spent.bytes >= allowed.bytes {
                return Ok(false);
            }
            let (_, version) = split_version(row)?;
            let (row, value) = self.cursor.entry().expect("it stands on a row");
            spent.add(row, value);
            if backward {
                self.settle_within_key()?;
            } else if version > self.level.ceiling {
                self.skip_newer(spent)?;
            } else {
                self.settled = true;
            }
        }
        Ok(true)
    }

    /// From any version of a key to the one that counts, or to the key before.
    fn settle_within_key(&mut self) -> Result<(), StateError> {
        self.remember_record()?;
        self.cursor.seek(&version_row(&self.versions, self.level.ceiling));
        match self.cursor.entry() {
            Some((row, _)) if row.starts_with(&self.versions) => self.settled = true,
            _ => {
                self.cursor.status()?;
                self.cursor.seek_for_prev(&self.versions);
            }
        }
        Ok(())
    }

    /// To the record after, or before, the one it stands on, past all its versions.
    fn leave(&mut self, backward: bool, spent: &mut Effort) -> Result<(), StateError> {
        self.settled = false;
        self.remember_record()?;
        if backward {
            self.cursor.seek_for_prev(&self.versions);
        } else if !self.step_while_same(|_| true, spent)? {
            // No entry has index 0, so nothing stands at this row: it is past all versions.
            self.cursor.seek(&version_row(&self.versions, 0));
        }
        Ok(self.cursor.status()?)
    }

    /// To the newest version of the record it stands on that is not above the ceiling, or to the
    /// next record.
    fn skip_newer(&mut self, spent: &mut Effort) -> Result<(), StateError> {
        self.remember_record()?;
        let ceiling = self.level.ceiling;
        if !self.step_while_same(|version| version > ceiling, spent)? {
            self.cursor.seek(&version_row(&self.versions, ceiling));
        }
        Ok(())
    }

    fn remember_record(&mut self) -> Result<(), StateError> {
        let Some((row, _)) = self.cursor.entry() else {
            return Ok(self.cursor.status()?);
        };
        let (versions, _) = split_version(row)?;
        self.versions.clear();
        self.versions.extend_from_slice(versions);
        Ok(())
    }

    /// A few steps; false if they all led to versions of the same record that are to be skipped.
    fn step_while_same(
        &mut self,
        skip: impl Fn(Index) -> bool,
        spent: &mut Effort,
    ) -> Result<bool, StateError> {
        for _ in 0..VERSION_STEPS_MAX {
            self.cursor.next();
            let Some((row, value)) = self.cursor.entry() else {
                self.cursor.status()?;
                return Ok(true);
            };
            let (versions, version) = split_version(row)?;
            if versions != self.versions || !skip(version) {
                return Ok(true);
            }
            spent.add(row, value);
        }
        Ok(false)
    }
}
