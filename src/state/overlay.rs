//! The state as the next entry must see it: the store, and over it the batch not yet written.
//!
//! Many entries are applied into one batch, so that one write carries them all; a later entry must
//! still see what an earlier one did. The overlay is an index of the batch's writes by key, and
//! holds no values of its own.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::codec::stored::{self, Row};
use crate::kv::{Batch, Cursor, Family, KvError, Op, View};

use super::error::StateError;
use super::key::{Key, Kind};

/// Where in a batch the last write of each key stands.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    /// For each family, key to the place of its last write in the batch; None: it was deleted.
    families: [BTreeMap<Vec<u8>, Option<usize>>; Family::ALL.len()],
    /// Writes of the batch that are indexed.
    indexed: usize,
}

impl Overlay {
    /// Makes the overlay that of `batch`. A batch that has other writes than were indexed is a
    /// new one: the caller wrote the last one and begins again with an empty one.
    pub(super) fn follow(&mut self, batch: &Batch) {
        if batch.ops().len() == self.indexed {
            return;
        }
        self.families.iter_mut().for_each(BTreeMap::clear);
        self.indexed = 0;
        for op in batch.ops() {
            self.index(op);
        }
    }

    fn index(&mut self, op: &Op) {
        let (family, key, place) = match op {
            Op::Put(family, key, _) => (family, key, Some(self.indexed)),
            Op::Delete(family, key) | Op::SingleDelete(family, key) => (family, key, None),
        };
        self.families[*family as usize].insert(key.clone(), place);
        self.indexed += 1;
    }
}

/// What one entry reads and writes.
pub(super) struct Transaction<'a> {
    view: &'a dyn View,
    batch: &'a mut Batch,
    overlay: &'a mut Overlay,
}

impl<'a> Transaction<'a> {
    /// Reads `view` under `batch`, writes to `batch`.
    pub(super) fn new(view: &'a dyn View, batch: &'a mut Batch, overlay: &'a mut Overlay) -> Self {
        overlay.follow(batch);
        Transaction { view, batch, overlay }
    }

    /// Stores a row.
    pub(super) fn put<T: Row>(&mut self, key: &Key, row: &T) {
        self.put_bytes(key.family(), key.encode(), stored::encode(row));
    }

    /// Stores a row whose key is encoded already.
    pub(super) fn put_bytes(&mut self, family: Family, key: Vec<u8>, value: Vec<u8>) {
        self.batch.put(family, key, value);
        self.index_last();
    }

    /// Removes a row that may have been written more than once.
    pub(super) fn delete(&mut self, key: &Key) {
        self.batch.delete(key.family(), key.encode());
        self.index_last();
    }

    /// Removes a row that was written exactly once.
    pub(super) fn single_delete(&mut self, family: Family, key: Vec<u8>) {
        self.batch.single_delete(family, key);
        self.index_last();
    }

    fn index_last(&mut self) {
        let op = self.batch.ops().last().expect("an operation was added just now");
        self.overlay.index(op);
    }

    /// Up to `limit` rows of a kind, in order.
    pub(super) fn rows(
        &self,
        family: Family,
        kind: &Kind,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, StateError> {
        let mut cursor = self.cursor(family);
        cursor.seek(&kind.start);
        let mut rows = Vec::new();
        while rows.len() < limit {
            let Some((key, value)) = cursor.entry().filter(|(key, _)| *key < kind.end.as_slice())
            else {
                cursor.status()?;
                break;
            };
            rows.push((key.to_vec(), Bytes::copy_from_slice(value)));
            cursor.next();
        }
        Ok(rows)
    }

    fn written(&self, family: Family) -> Written<'_> {
        Written { places: &self.overlay.families[family as usize], ops: self.batch.ops() }
    }
}

impl View for Transaction<'_> {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let written = self.written(family);
        match written.places.get(key) {
            Some(place) => Ok(place.map(|at| Bytes::copy_from_slice(written.value(at)))),
            None => self.view.get(family, key),
        }
    }

    fn cursor<'a>(&'a self, family: Family) -> Box<dyn Cursor + 'a> {
        Box::new(OverlayCursor {
            written: self.written(family),
            store: self.view.cursor(family),
            stands: Stands::Nowhere,
        })
    }
}

/// What a batch writes to one family.
#[derive(Clone, Copy)]
struct Written<'a> {
    places: &'a BTreeMap<Vec<u8>, Option<usize>>,
    ops: &'a [Op],
}

impl<'a> Written<'a> {
    fn value(&self, place: usize) -> &'a [u8] {
        match &self.ops[place] {
            Op::Put(_, _, value) => value,
            Op::Delete(..) | Op::SingleDelete(..) => {
                unreachable!("only places of puts are indexed")
            }
        }
    }

    fn first(&self, from: Bound<&[u8]>) -> Option<&'a [u8]> {
        let mut rows = self.places.range::<[u8], _>((from, Bound::Unbounded));
        rows.find_map(|(key, place)| place.map(|_| key.as_slice()))
    }

    fn last(&self, to: Bound<&[u8]>) -> Option<&'a [u8]> {
        let mut rows = self.places.range::<[u8], _>((Bound::Unbounded, to)).rev();
        rows.find_map(|(key, place)| place.map(|_| key.as_slice()))
    }
}

/// Where a cursor over store and batch stands.
enum Stands<'a> {
    Nowhere,
    /// On the row that the store's cursor stands on.
    Stored,
    /// On this row of the batch.
    Written(&'a [u8]),
}

/// Walks the rows of the store and of the batch as those of one map; the batch's word on a key
/// hides the store's.
struct OverlayCursor<'a> {
    written: Written<'a>,
    store: Box<dyn Cursor + 'a>,
    stands: Stands<'a>,
}

impl<'a> OverlayCursor<'a> {
    /// Moves the store's cursor on until it stands on a row that the batch says nothing about.
    fn skip_hidden(&mut self, step: fn(&mut dyn Cursor)) {
        while let Some((key, _)) = self.store.entry() {
            if !self.written.places.contains_key(key) {
                return;
            }
            step(self.store.as_mut());
        }
    }

    /// Stands on the nearer of the store's row and the batch's.
    fn choose(&mut self, written: Option<&'a [u8]>, backward: bool) {
        let stored = self.store.entry().map(|(key, _)| key);
        self.stands = match (written, stored) {
            (None, None) => Stands::Nowhere,
            (None, Some(_)) => Stands::Stored,
            (Some(key), None) => Stands::Written(key),
            (Some(key), Some(stored)) if (key < stored) != backward => Stands::Written(key),
            (Some(_), Some(_)) => Stands::Stored,
        };
    }

    fn key(&self) -> Option<Vec<u8>> {
        self.entry().map(|(key, _)| key.to_vec())
    }
}

impl Cursor for OverlayCursor<'_> {
    fn seek(&mut self, key: &[u8]) {
        self.store.seek(key);
        self.skip_hidden(|store| store.next());
        let written = self.written.first(Bound::Included(key));
        self.choose(written, false);
    }

    fn seek_for_prev(&mut self, key: &[u8]) {
        self.store.seek_for_prev(key);
        self.skip_hidden(|store| store.prev());
        let written = self.written.last(Bound::Included(key));
        self.choose(written, true);
    }

    fn next(&mut self) {
        let Some(key) = self.key() else { return };
        if let Stands::Stored = self.stands {
            self.store.next();
        } else {
            // The last move may have been backward.
            self.store.seek(&key);
        }
        self.skip_hidden(|store| store.next());
        let written = self.written.first(Bound::Excluded(&key));
        self.choose(written, false);
    }

    fn prev(&mut self) {
        let Some(key) = self.key() else { return };
        if let Stands::Stored = self.stands {
            self.store.prev();
        } else {
            self.store.seek_for_prev(&key);
        }
        self.skip_hidden(|store| store.prev());
        let written = self.written.last(Bound::Excluded(&key));
        self.choose(written, true);
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        match self.stands {
            Stands::Nowhere => None,
            Stands::Stored => self.store.entry(),
            Stands::Written(key) => {
                let place = self.written.places.get(key).copied().flatten()?;
                Some((key, self.written.value(place)))
            }
        }
    }

    fn status(&self) -> Result<(), KvError> {
        self.store.status()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::state::testing::MemoryView;

    const KIND: fn() -> Kind = || Kind::of(vec![5]);

    proptest! {
        /// Whatever lies in the store and whatever in the batch, together they look like one map.
        #[test]
        fn store_and_batch_look_like_one_map(
            writes in prop::collection::vec((0..6_u8, any::<bool>(), any::<u8>()), 0..40),
            flushed in 0..40_usize,
            limit in 0..8_usize,
        ) {
            let mut view = MemoryView::default();
            let mut model = BTreeMap::new();
            let mut batch = Batch::default();
            for (place, (key, put, value)) in writes.iter().enumerate() {
                if place == flushed {
                    view.write(&std::mem::take(&mut batch));
                }
                let bytes = vec![5, *key];
                if *put {
                    batch.put(Family::Meta, bytes.clone(), vec![*value]);
                    model.insert(bytes, vec![*value]);
                } else {
                    batch.delete(Family::Meta, bytes.clone());
                    model.remove(&bytes);
                }
            }
            let mut overlay = Overlay::default();
            let transaction = Transaction::new(&view, &mut batch, &mut overlay);
            let expected: Vec<_> = model
                .iter()
                .take(limit)
                .map(|(key, value)| (key.clone(), Bytes::from(value.clone())))
                .collect();
            prop_assert_eq!(transaction.rows(Family::Meta, &KIND(), limit).unwrap(), expected);
        }

        /// A cursor moves over store and batch as over one map, in any order of moves.
        #[test]
        fn a_cursor_moves_as_over_one_map(
            writes in prop::collection::vec((0..8_u8, any::<bool>(), any::<u8>()), 0..30),
            flushed in 0..30_usize,
            moves in prop::collection::vec((0..4_u8, 0..9_u8), 1..20),
        ) {
            let mut view = MemoryView::default();
            let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
            let mut batch = Batch::default();
            for (place, (key, put, value)) in writes.iter().enumerate() {
                if place == flushed {
                    view.write(&std::mem::take(&mut batch));
                }
                match put {
                    true => batch.put(Family::Meta, vec![*key], vec![*value]),
                    false => batch.delete(Family::Meta, vec![*key]),
                }
                match put {
                    true => model.insert(vec![*key], vec![*value]),
                    false => model.remove(&vec![*key]),
                };
            }
            let mut overlay = Overlay::default();
            let transaction = Transaction::new(&view, &mut batch, &mut overlay);
            let mut cursor = transaction.cursor(Family::Meta);
            let mut at: Option<Vec<u8>> = None;
            for (step, key) in moves {
                let first = |from: Bound<&Vec<u8>>| {
                    model.range::<Vec<u8>, _>((from, Bound::Unbounded)).next().map(|(key, _)| key.clone())
                };
                let last = |to: Bound<&Vec<u8>>| {
                    model.range::<Vec<u8>, _>((Bound::Unbounded, to)).next_back().map(|(key, _)| key.clone())
                };
                at = match (step, at) {
                    (0, _) => {
                        cursor.seek(&[key]);
                        first(Bound::Included(&vec![key]))
                    }
                    (1, _) => {
                        cursor.seek_for_prev(&[key]);
                        last(Bound::Included(&vec![key]))
                    }
                    (2, Some(at)) => {
                        cursor.next();
                        first(Bound::Excluded(&at))
                    }
                    (_, Some(at)) => {
                        cursor.prev();
                        last(Bound::Excluded(&at))
                    }
                    (_, None) => None,
                };
                let expected = at.as_ref().map(|key| (key.as_slice(), model[key].as_slice()));
                prop_assert_eq!(cursor.entry(), expected);
            }
        }
    }
}
