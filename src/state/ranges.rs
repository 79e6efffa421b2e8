//! Range tombstones of one layer, ready to be asked which of them covers a key.
//!
//! A range covers the keys from its start to before its end, in versions older than its own. A
//! layer holds a bounded number of them, so that all are read at once; overlapping ones are cut
//! into segments, of which at most one covers a key.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;

use crate::codec::stored;
use crate::types::Index;

use super::error::StateError;
use super::key::Key;
use super::rows;

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Ranges {
    /// From each key on: the newest range over it, if any.
    segments: BTreeMap<Bytes, Option<Index>>,
}

/// One range tombstone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Range {
    /// First key.
    pub(super) start: Bytes,
    /// Key after the last; None: it goes to the end of the layer.
    pub(super) end: Option<Bytes>,
    /// Its version.
    pub(super) index: Index,
}

impl Range {
    /// Whether it lies over `key`.
    pub(super) fn covers(&self, key: &[u8]) -> bool {
        self.start[..] <= *key && self.end.as_ref().is_none_or(|end| end[..] > *key)
    }

    /// The range of a row of the ranges family.
    pub(super) fn decode(key: &[u8], row: &[u8]) -> Result<Range, StateError> {
        let key = Key::decode(crate::kv::Family::Ranges, key)?;
        let end: stored::RangeEnd = rows::decode(&key, row)?;
        match key {
            Key::Range { start, index, .. } => {
                Ok(Range { start, end: end.key.map(Bytes::from), index })
            }
            _ => Err(StateError::corrupt("ranges hold a row that is no range")),
        }
    }
}

impl Ranges {
    /// Those at or below a ceiling.
    pub(super) fn new(all: impl IntoIterator<Item = Range>, ceiling: Index) -> Ranges {
        let mut begins: BTreeMap<Bytes, Vec<Index>> = BTreeMap::new();
        let mut ends: BTreeMap<Bytes, Vec<Index>> = BTreeMap::new();
        for range in all.into_iter().filter(|range| range.index <= ceiling) {
            if let Some(end) = range.end {
                ends.entry(end).or_default().push(range.index);
            }
            begins.entry(range.start).or_default().push(range.index);
        }
        let places: BTreeSet<Bytes> = begins.keys().chain(ends.keys()).cloned().collect();
        let mut open = BTreeSet::new();
        let mut segments = BTreeMap::new();
        for place in places {
            for index in ends.get(&place).into_iter().flatten() {
                open.remove(index);
            }
            open.extend(begins.get(&place).into_iter().flatten().copied());
            segments.insert(place, open.last().copied());
        }
        Ranges { segments }
    }

    /// The version of the newest range over `key`.
    pub(super) fn over(&self, key: &[u8]) -> Option<Index> {
        let (_, index) =
            self.segments.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()?;
        *index
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Of all ranges over a key the newest counts, however they overlap.
        #[test]
        fn the_newest_range_over_a_key_is_found(
            ranges in prop::collection::vec((0..8_u8, prop::option::of(0..9_u8)), 0..12),
            key in 0..9_u8,
            ceiling in 0..14_u64,
        ) {
            let all = ranges.iter().zip(1..).map(|((start, end), index)| Range {
                start: Bytes::from(vec![*start]),
                end: end.map(|end| Bytes::from(vec![end])),
                index,
            });
            let all: Vec<Range> =
                all.filter(|range| range.end.as_ref().is_none_or(|end| *end > range.start)).collect();
            let covers = |range: &&Range| {
                range.index <= ceiling
                    && range.start[..] <= [key][..]
                    && range.end.as_ref().is_none_or(|end| end[..] > [key][..])
            };
            let expected = all.iter().filter(covers).map(|range| range.index).max();
            prop_assert_eq!(Ranges::new(all.clone(), ceiling).over(&[key]), expected);
        }
    }
}
