//! Namespaces and collections.
//!
//! A collection has three ids apart: its name, its incarnation (the index of its creation), and
//! the layer its records live in. Descriptors are versioned by index, so that a read at an earlier
//! index finds the collection as it was then.
//!
//! Dropping a collection frees its name at once and leaves its records where they are, for later
//! garbage collection. A collection created again under the name has another incarnation and
//! another layer, and sees none of them.

use crate::codec::stored::{CollectionEntry, Counts, Descriptor, Namespace};
use crate::kv::Family;
use crate::limits::{COLLECTIONS_MAX, NAMESPACES_MAX};
use crate::types::{Code, CollectionName, Failure, Name, Reply};

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
            return Err(full("namespaces", NAMESPACES_MAX).into());
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
    ) -> Result<Reply, RequestError> {
        if self.find::<Namespace>(&Key::Namespace(name.namespace.clone()))?.is_none() {
            return Err(namespace_not_found(&name.namespace).into());
        }
        let key = Key::Collection(name.clone());
        if self.find::<CollectionEntry>(&key)?.is_some() {
            return Err(Failure::new(
                Code::AlreadyExists,
                format!("collection {name} exists already"),
            )
            .into());
        }
        if self.facts.counters.collections >= COLLECTIONS_MAX as u64 {
            return Err(full("collections", COLLECTIONS_MAX).into());
        }
        let index = self.index();
        let created_unix_ms = self.time_unix_ms();
        let descriptor = Descriptor {
            namespace: name.namespace.to_string(),
            name: name.name.to_string(),
            layer: index,
            below: Vec::new(),
            created_unix_ms,
            dropped: false,
        };
        self.transaction.put(&key, &CollectionEntry { incarnation: index, layer: index });
        self.transaction.put(&Key::Descriptor { incarnation: index, index }, &descriptor);
        self.transaction.put(&Key::Counts(index), &Counts::default());
        self.facts.counters.collections += 1;
        Ok(Reply::CollectionCreated { incarnation: index, created_unix_ms })
    }

    pub(super) fn drop_collection(&mut self, name: &CollectionName) -> Result<Reply, RequestError> {
        let key = Key::Collection(name.clone());
        let Some(CollectionEntry { incarnation, .. }) = self.find(&key)? else {
            return Err(collection_not_found(name).into());
        };
        let descriptor = self.descriptor(incarnation)?;
        let index = self.index();
        self.transaction.delete(&key);
        self.transaction.put(
            &Key::Descriptor { incarnation, index },
            &Descriptor { dropped: true, ..descriptor },
        );
        self.transaction.delete(&Key::Counts(incarnation));
        self.facts.counters.collections =
            decremented("collections", self.facts.counters.collections)?;
        Ok(Reply::Done)
    }

    /// The newest descriptor of an incarnation that a name stands for.
    fn descriptor(&self, incarnation: u64) -> Result<Descriptor, StateError> {
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

fn full(what: &str, limit: usize) -> Failure {
    Failure::new(Code::LimitReached, format!("the cluster holds its limit of {limit} {what}"))
        .hint("drop what is not needed any more")
}

fn decremented(what: &str, counter: u64) -> Result<u64, StateError> {
    counter
        .checked_sub(1)
        .ok_or_else(|| StateError::corrupt(format!("fewer {what} are counted than exist")))
}
