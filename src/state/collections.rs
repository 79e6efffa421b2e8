//! Namespaces and collections.
//!
//! A collection has three ids apart: its name, its incarnation, and the layer its records live in.
//! Descriptors are versioned by index, so that a read at an earlier index finds the collection as
//! it was then.
//!
//! Dropping a collection frees its name at once and leaves its records where they are, for garbage
//! collection; until then it can be brought back. A collection created again under the name has
//! another incarnation and another layer, and sees none of them. Truncating one gives it a new
//! layer.

use crate::codec::stored::{
    AtIndex, Change, CollectionEntry, Counts, Descriptor, Layer, LayerStored, Namespace, Origin,
    RangeEnd, Settings,
};
use crate::kv::Family;
use crate::limits::{
    COLLECTIONS_MAX, HISTORY_MS_DEFAULT, HISTORY_MS_MAX, KEY_BYTES_MAX, NAMESPACES_MAX,
    RANGES_PER_LAYER_MAX, SCHEMA_LABEL_BYTES_MAX, VALUE_BYTES_MAX,
};
use crate::types::{
    Code, CollectionName, DeleteRange, Failure, Index, Name, Reply, SettingsChange,
};

use super::apply::Execution;
use super::error::{RequestError, StateError};
use super::key::{Key, Kind};

impl Execution<'_> {
    pub(super) fn create_namespace(&mut self, name: &Name) -> Result<Reply, RequestError> {
        let key = Key::Namespace(name.clone());
        if self.find::<Namespace>(&key)?.is_some() {
            return Err(Failure::new(
                Code::AlreadyExists,
                format!("namespace {name} exists already"),
            )
            .into());
        }
        if self.facts.counters.namespaces >= NAMESPACES_MAX as u64 {
            return Err(full("namespaces", NAMESPACES_MAX as u64).into());
        }
        let row = Namespace { created_index: self.index(), created_unix_ms: self.time_unix_ms() };
        self.transaction.put(&key, &row);
        self.facts.counters.namespaces += 1;
        Ok(Reply::Done)
    }

    pub(super) fn drop_namespace(&mut self, name: &Name) -> Result<Reply, RequestError> {
        let key = Key::Namespace(name.clone());
        if self.find::<Namespace>(&key)?.is_none() {
            return Err(namespace_not_found(name).into());
        }
        let collections = Kind::collections(Some(name));
        if !self.transaction.rows(Family::Meta, &collections, 1)?.is_empty() {
            return Err(Failure::new(
                Code::NamespaceNotEmpty,
                format!("namespace {name} still holds collections"),
            )
            .hint("drop its collections first")
            .into());
        }
        self.transaction.delete(&key);
        self.facts.counters.namespaces = decremented("namespaces", self.facts.counters.namespaces)?;
        Ok(Reply::Done)
    }

    pub(super) fn create_collection(
        &mut self,
        name: &CollectionName,
        change: &SettingsChange,
    ) -> Result<Reply, RequestError> {
        let settings = changed(usual_settings(), change)?;
        self.require_free(name)?;
        self.require_room(1)?;
        let id = self.new_id()?;
        let created_unix_ms = self.time_unix_ms();
        let layer = self.new_layer(id, settings);
        self.put_collection(name, id, id, &layer, None);
        Ok(Reply::CollectionCreated { incarnation: id, created_unix_ms })
    }

    pub(super) fn configure_collection(
        &mut self,
        name: &CollectionName,
        change: &SettingsChange,
    ) -> Result<Reply, RequestError> {
        let CollectionEntry { layer, .. } = self.collection(name)?;
        let mut row = self.layer(layer)?;
        row.settings = changed(row.settings, change)?;
        self.transaction.put(&Key::Layer(layer), &row);
        Ok(Reply::Done)
    }

    pub(super) fn rename_collection(
        &mut self,
        from: &CollectionName,
        to: &CollectionName,
    ) -> Result<Reply, RequestError> {
        let entry = self.collection(from)?;
        self.require_free(to)?;
        let descriptor = Descriptor {
            namespace: to.namespace.to_string(),
            name: to.name.to_string(),
            ..self.descriptor(entry.incarnation)?
        };
        self.transaction.delete(&Key::Collection(from.clone()));
        self.transaction.put(&Key::Collection(to.clone()), &entry);
        self.put_descriptor(entry.incarnation, &descriptor);
        Ok(Reply::Done)
    }

    /// The records stay where they are until garbage collection finds that nobody can see them.
    pub(super) fn drop_one(
        &mut self,
        name: &CollectionName,
        entry: CollectionEntry,
    ) -> Result<(), StateError> {
        let CollectionEntry { incarnation, layer, .. } = entry;
        let descriptor = self.descriptor(incarnation)?;
        let index = self.index();
        self.transaction.delete(&Key::Collection(name.clone()));
        self.put_descriptor(incarnation, &Descriptor { dropped: true, ..descriptor });
        let dropped = Key::Dropped { name: name.clone(), incarnation };
        self.transaction.put(&dropped, &AtIndex { index });
        let mut row = self.layer(layer)?;
        row.closed_at = Some(index);
        self.transaction.put(&Key::Layer(layer), &row);
        self.facts.counters.collections =
            decremented("collections", self.facts.counters.collections)?;
        Ok(())
    }

    pub(super) fn undrop_collection(
        &mut self,
        name: &CollectionName,
        wanted: Option<u64>,
    ) -> Result<Reply, RequestError> {
        self.require_free(name)?;
        self.require_room(1)?;
        let kind = Kind::dropped(name);
        let mut found: Option<(Index, u64)> = None;
        for (key, row) in self.transaction.rows(Family::Meta, &kind, usize::MAX)? {
            let key = Key::decode(Family::Meta, &key)?;
            let at: AtIndex = super::rows::decode(&key, &row)?;
            if let Key::Dropped { incarnation, .. } = key
                && wanted.is_none_or(|wanted| wanted == incarnation)
            {
                found = found.max(Some((at.index, incarnation)));
            }
        }
        let gone = || {
            let message = format!("no dropped collection {name} can be brought back");
            Failure::new(Code::CollectionNotFound, message).hint(
                "a dropped collection is kept as long as its history, unless it was collected",
            )
        };
        let (_, incarnation) = found.ok_or_else(gone)?;
        let descriptor = self.descriptor(incarnation)?;
        let mut row = self.layer(descriptor.layer)?;
        if row.pass.as_ref().is_some_and(|pass| pass.everything) {
            return Err(gone().into());
        }
        row.closed_at = None;
        self.transaction.put(&Key::Layer(descriptor.layer), &row);
        self.transaction.delete(&Key::Dropped { name: name.clone(), incarnation });
        self.put_entry(name, incarnation, descriptor.layer, &row);
        self.put_descriptor(incarnation, &Descriptor { dropped: false, ..descriptor });
        self.facts.counters.collections += 1;
        Ok(Reply::Collections { count: 1, index: self.index() })
    }

    /// The collection goes on in a new layer; the old one is kept as long as its history.
    pub(super) fn truncate_collection(
        &mut self,
        name: &CollectionName,
    ) -> Result<Reply, RequestError> {
        let CollectionEntry { incarnation, layer, .. } = self.collection(name)?;
        let mut old = self.layer(layer)?;
        let descriptor = self.descriptor(incarnation)?;
        let id = self.new_id()?;
        let new = self.new_layer(incarnation, old.settings.clone());
        old.closed_at = Some(self.index());
        self.transaction.put(&Key::Layer(layer), &old);
        self.transaction.put(&Key::Layer(id), &new);
        self.put_entry(name, incarnation, id, &new);
        self.put_descriptor(incarnation, &Descriptor { layer: id, ..descriptor });
        Ok(Reply::Done)
    }

    pub(super) fn delete_range(&mut self, range: &DeleteRange) -> Result<Reply, RequestError> {
        for bound in [&range.start, &range.end] {
            if bound.len() > KEY_BYTES_MAX {
                let message =
                    format!("a bound has {} bytes, keys have at most {KEY_BYTES_MAX}", bound.len());
                return Err(Failure::new(Code::KeyTooLarge, message).into());
            }
        }
        if !range.end.is_empty() && range.start >= range.end {
            return Err(Failure::new(Code::InvalidArgument, "the range ends before it begins")
                .hint("its end is the key after the last one")
                .into());
        }
        let CollectionEntry { incarnation, layer, .. } = self.collection(&range.collection)?;
        let mut row = self.layer(layer)?;
        if row.stored.ranges >= RANGES_PER_LAYER_MAX {
            return Err(full("deleted ranges in one collection", RANGES_PER_LAYER_MAX)
                .hint("garbage collection removes them once the history has passed; or truncate the collection")
                .into());
        }
        let index = self.index();
        let end = (!range.end.is_empty()).then(|| range.end.to_vec());
        let key = Key::Range { layer, start: range.start.clone(), index };
        self.transaction.put(&key, &RangeEnd { key: end.clone() });
        let key = Key::Change { layer, index, key: range.start.clone() };
        self.transaction.put(&key, &Change::DeleteRange { end });
        let stored = &mut row.stored;
        stored.ranges += 1;
        if stored.first_write == 0 {
            stored.first_write = index;
        }
        // Nobody counted how many versions lie in it; a pass will see.
        stored.superseded += 1 + stored.versions / 4;
        row.counts.inexact = true;
        self.transaction.put(&Key::Layer(layer), &row);
        self.put_entry(&range.collection, incarnation, layer, &row);
        Ok(Reply::Done)
    }

    /// A name in an existing namespace that no collection has.
    pub(super) fn require_free(&self, name: &CollectionName) -> Result<(), RequestError> {
        if self.find::<Namespace>(&Key::Namespace(name.namespace.clone()))?.is_none() {
            return Err(namespace_not_found(&name.namespace).into());
        }
        if self.find::<CollectionEntry>(&Key::Collection(name.clone()))?.is_some() {
            let message = format!("collection {name} exists already");
            return Err(Failure::new(Code::AlreadyExists, message).into());
        }
        Ok(())
    }

    /// Room for so many more collections.
    pub(super) fn require_room(&self, count: u64) -> Result<(), Failure> {
        match self.facts.counters.collections + count > COLLECTIONS_MAX as u64 {
            true => Err(full("collections", COLLECTIONS_MAX as u64)),
            false => Ok(()),
        }
    }

    /// An id that no collection and no layer has had.
    pub(super) fn new_id(&mut self) -> Result<u64, StateError> {
        let id = self.facts.counters.next_layer;
        let next = id.checked_add(1);
        self.facts.counters.next_layer =
            next.ok_or_else(|| StateError::corrupt("the counter of layers is at its end"))?;
        Ok(id)
    }

    /// A collection that begins with this entry, in a layer that does.
    pub(super) fn put_collection(
        &mut self,
        name: &CollectionName,
        incarnation: u64,
        id: u64,
        layer: &Layer,
        origin: Option<Origin>,
    ) {
        self.transaction.put(&Key::Layer(id), layer);
        self.put_entry(name, incarnation, id, layer);
        let descriptor = Descriptor {
            namespace: name.namespace.to_string(),
            name: name.name.to_string(),
            layer: id,
            created_index: self.index(),
            created_unix_ms: self.time_unix_ms(),
            dropped: false,
            origin,
        };
        self.put_descriptor(incarnation, &descriptor);
        self.facts.counters.collections += 1;
    }

    /// What a name stands for from now on.
    pub(super) fn put_entry(
        &mut self,
        name: &CollectionName,
        incarnation: u64,
        layer: u64,
        row: &Layer,
    ) {
        let plain = row.below.is_empty() && row.stored.ranges == 0;
        let entry = CollectionEntry { incarnation, layer, plain };
        self.transaction.put(&Key::Collection(name.clone()), &entry);
    }

    fn put_descriptor(&mut self, incarnation: u64, descriptor: &Descriptor) {
        let index = self.index();
        self.transaction.put(&Key::Descriptor { incarnation, index }, descriptor);
    }

    /// What a name stands for.
    pub(super) fn collection(
        &self,
        name: &CollectionName,
    ) -> Result<CollectionEntry, RequestError> {
        match self.find(&Key::Collection(name.clone()))? {
            Some(entry) => Ok(entry),
            None => Err(collection_not_found(name).into()),
        }
    }

    /// A layer that something names.
    pub(super) fn layer(&self, layer: u64) -> Result<Layer, StateError> {
        let missing = || StateError::corrupt(format!("layer {layer} has no row"));
        self.find(&Key::Layer(layer))?.ok_or_else(missing)
    }

    /// A layer that begins with this entry.
    pub(super) fn new_layer(&self, incarnation: u64, settings: Settings) -> Layer {
        Layer {
            incarnation,
            below: Vec::new(),
            closed_at: None,
            settings,
            counts: Counts::default(),
            stored: LayerStored::default(),
            floor: self.index(),
            floor_unix_ms: self.time_unix_ms(),
            passed_unix_ms: 0,
            pass: None,
        }
    }

    /// The newest descriptor of an incarnation.
    pub(super) fn descriptor(&self, incarnation: u64) -> Result<Descriptor, StateError> {
        let kind = Kind::descriptors(incarnation);
        let rows = self.transaction.rows(Family::Meta, &kind, 1)?;
        let Some((key, row)) = rows.first() else {
            return Err(StateError::corrupt(format!(
                "incarnation {incarnation} has no descriptor"
            )));
        };
        super::rows::decode(&Key::decode(Family::Meta, key)?, row)
    }
}

/// What a collection's owner gets without choosing.
pub(super) fn usual_settings() -> Settings {
    Settings {
        history_ms: HISTORY_MS_DEFAULT,
        value_bytes_max: VALUE_BYTES_MAX as u64,
        schema_label: String::new(),
        content_type: String::new(),
    }
}

/// The refusal of a namespace that is not there.
pub(super) fn namespace_not_found(name: &Name) -> Failure {
    Failure::new(Code::NamespaceNotFound, format!("there is no namespace {name}"))
        .hint("create it first, or list the namespaces that exist")
}

/// The refusal of a collection that is not there.
pub(super) fn collection_not_found(name: &CollectionName) -> Failure {
    Failure::new(Code::CollectionNotFound, format!("there is no collection {name}"))
        .hint("create it first, or list the collections that exist")
}

/// Settings with a change made to them.
pub(super) fn changed(settings: Settings, change: &SettingsChange) -> Result<Settings, Failure> {
    let invalid = |message: String| Err(Failure::new(Code::InvalidArgument, message));
    let settings = Settings {
        history_ms: change.history_ms.unwrap_or(settings.history_ms),
        value_bytes_max: change.value_bytes_max.unwrap_or(settings.value_bytes_max),
        schema_label: change.schema_label.clone().unwrap_or(settings.schema_label),
        content_type: change.content_type.clone().unwrap_or(settings.content_type),
    };
    if settings.history_ms > HISTORY_MS_MAX {
        return invalid(format!("a history is at most {HISTORY_MS_MAX} ms long"));
    }
    if settings.value_bytes_max > VALUE_BYTES_MAX as u64 {
        return invalid(format!("values have at most {VALUE_BYTES_MAX} bytes anyway"));
    }
    if settings.schema_label.len() > SCHEMA_LABEL_BYTES_MAX {
        return invalid(format!("a schema label has at most {SCHEMA_LABEL_BYTES_MAX} bytes"));
    }
    super::records::validate_content_type(&settings.content_type)?;
    Ok(settings)
}

fn full(what: &str, limit: u64) -> Failure {
    Failure::new(Code::LimitReached, format!("the cluster holds its limit of {limit} {what}"))
        .hint("drop what is not needed any more")
}

fn decremented(what: &str, counter: u64) -> Result<u64, StateError> {
    counter
        .checked_sub(1)
        .ok_or_else(|| StateError::corrupt(format!("fewer {what} are counted than exist")))
}
