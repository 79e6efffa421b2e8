//! The state as the next entry must see it: the store, and over it the batch not yet written.
//!
//! Many entries are applied into one batch, so that one write carries them all; a later entry must
//! still see what an earlier one did. The overlay is an index of the batch's writes by key, and
//! holds no values of its own.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::codec::stored::{self, Row};
use crate::kv::{Batch, Cursor, Family, Op, View};

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

    /// A cursor over the store alone, without the batch.
    pub(super) fn store_cursor(&self, family: Family) -> Box<dyn Cursor + 'a> {
        self.view.cursor(family)
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

    fn index_last(&mut self) {
        let op = self.batch.ops().last().expect("an operation was added just now");
        self.overlay.index(op);
    }

    /// The bytes of a row.
    pub(super) fn get(&self, key: &Key) -> Result<Option<Bytes>, StateError> {
        let (family, bytes) = (key.family(), key.encode());
        match self.overlay.families[family as usize].get(&bytes) {
            Some(place) => Ok(place.map(|at| Bytes::copy_from_slice(self.value(at)))),
            None => Ok(self.view.get(family, &bytes)?),
        }
    }

    /// The first row of `family` in the batch that begins with `prefix`.
    pub(super) fn first_in_batch(&self, family: Family, prefix: &[u8]) -> Option<(&[u8], &[u8])> {
        let rows = &self.overlay.families[family as usize];
        rows.range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .find_map(|(key, place)| place.map(|at| (key.as_slice(), self.value(at))))
    }

    /// Up to `limit` rows of a kind, in order.
    pub(super) fn rows(
        &self,
        family: Family,
        kind: &Kind,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, StateError> {
        let bounds = (Bound::Included(kind.start.as_slice()), Bound::Excluded(kind.end.as_slice()));
        let overlay = &self.overlay.families[family as usize];
        let mut above = overlay.range::<[u8], _>(bounds).peekable();
        let mut below = self.view.cursor(family);
        below.seek(&kind.start);
        let mut rows = Vec::new();
        while rows.len() < limit {
            let stored = below.entry().filter(|(key, _)| *key < kind.end.as_slice());
            if stored.is_none() {
                below.status()?;
            }
            match (above.peek(), stored) {
                (None, None) => break,
                (Some((key, _)), Some((stored_key, value))) if stored_key < key.as_slice() => {
                    rows.push((stored_key.to_vec(), Bytes::copy_from_slice(value)));
                    below.next();
                }
                (None, Some((stored_key, value))) => {
                    rows.push((stored_key.to_vec(), Bytes::copy_from_slice(value)));
                    below.next();
                }
                (Some((key, place)), stored) => {
                    // The batch's word on a key hides the store's.
                    let hides = stored.is_some_and(|(stored_key, _)| stored_key == key.as_slice());
                    if let Some(at) = place {
                        rows.push((key.to_vec(), Bytes::copy_from_slice(self.value(*at))));
                    }
                    if hides {
                        below.next();
                    }
                    above.next();
                }
            }
        }
        Ok(rows)
    }

    fn value(&self, place: usize) -> &[u8] {
        match &self.batch.ops()[place] {
            Op::Put(_, _, value) => value,
            Op::Delete(..) | Op::SingleDelete(..) => {
                unreachable!("only places of puts are indexed")
            }
        }
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
    }
}
