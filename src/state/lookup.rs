//! One key through the layers of a sight: the nearest layer that says anything about it decides.

use crate::codec::stored::Record as Row;
use crate::kv::{Cursor, Family, View};
use crate::types::Index;

use super::error::StateError;
use super::key::{Kind, split_version, version_row, versions_of};
use super::ranges::{Range, Ranges};
use super::rows::decode_record;
use super::sight::{Level, Sight};

/// The value that a key holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Held<T> {
    /// Index of the write.
    pub(super) version: Index,
    /// Commit time from which it counts as deleted, by the clock of the sight.
    pub(super) expires_unix_ms: Option<u64>,
    /// That time has come.
    pub(super) expired: bool,
    /// It lies in the first layer.
    pub(super) own: bool,
    /// What was taken of it.
    pub(super) taken: T,
}

/// Looks keys up in one view, one after the other.
pub(super) struct Lookup<'a> {
    view: &'a dyn View,
    records: Box<dyn Cursor + 'a>,
}

impl<'a> Lookup<'a> {
    pub(super) fn new(view: &'a dyn View) -> Self {
        Lookup { view, records: view.cursor(Family::Records) }
    }

    /// What `key` holds in `sight`, of which `take` takes content type and value. An expired value
    /// is found, too: it hides what is older or lies lower.
    pub(super) fn find<T>(
        &mut self,
        sight: &Sight,
        key: &[u8],
        take: impl Fn(&str, &[u8]) -> T,
    ) -> Result<Option<Held<T>>, StateError> {
        for (depth, level) in sight.levels.iter().enumerate() {
            let versions = versions_of(level.layer, key);
            self.records.seek(&version_row(&versions, level.ceiling));
            let entry = self.records.entry().filter(|(row, _)| row.starts_with(&versions));
            if entry.is_none() {
                self.records.status()?;
            }
            let deleted_at = match level.ranges {
                true => ranges_of(self.view, level.layer, level.ceiling)?.over(key),
                false => None,
            };
            let Some((row, value)) = entry else {
                match deleted_at {
                    Some(_) => return Ok(None),
                    None => continue,
                }
            };
            let (_, version) = split_version(row)?;
            if deleted_at.is_some_and(|index| index > version) {
                return Ok(None);
            }
            let Row::Value { expires_unix_ms, content_type, value } = decode_record(value)? else {
                return Ok(None);
            };
            let expires_unix_ms = level.expiry(expires_unix_ms);
            let expired = expires_unix_ms.is_some_and(|time| time <= sight.time_unix_ms);
            let taken = take(content_type, value);
            return Ok(Some(Held { version, expires_unix_ms, expired, own: depth == 0, taken }));
        }
        Ok(None)
    }
}

impl Level {
    /// The expiry of a record of this layer, by the clock of the sight.
    pub(super) fn expiry(&self, expires_unix_ms: Option<u64>) -> Option<u64> {
        expires_unix_ms.map(|time| time.saturating_add(self.shift_ms))
    }
}

/// The range tombstones of a layer at or below a ceiling.
pub(super) fn ranges_of(view: &dyn View, layer: u64, ceiling: Index) -> Result<Ranges, StateError> {
    let kind = Kind::ranges(layer);
    let mut cursor = view.cursor(Family::Ranges);
    cursor.seek(&kind.start);
    let mut all = Vec::new();
    while let Some((key, row)) = cursor.entry().filter(|(key, _)| *key < kind.end.as_slice()) {
        all.push(Range::decode(key, row)?);
        cursor.next();
    }
    cursor.status()?;
    Ok(Ranges::new(all, ceiling))
}
