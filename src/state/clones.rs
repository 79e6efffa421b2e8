//! Copy-on-write clones: made in one entry, whatever they hold, and dropped with care for others.
//!
//! A clone begins with a layer of its own, in which nothing lies, over the layers that its source
//! read through, each up to a ceiling. It keeps each of them readable at that ceiling by a hold, and
//! never writes to them: what it changes it copies up. A layer that nothing was written to adds no
//! depth.

use std::collections::BTreeSet;

use crate::codec::stored::{
    AtIndex, CollectionEntry, Counts, Descriptor, Layer, LayerBelow, Namespace, Origin,
};
use crate::kv::Family;
use crate::limits::{CLONE_DEPTH_MAX, CLONES_PER_COMMAND_MAX, DEPENDANTS_LISTED_MAX};
use crate::types::{
    CloneCollection, Code, CollectionName, Dependants, Failure, Index, Moment, Name, Reply,
    SettingsChange,
};

use super::apply::Execution;
use super::collections::{changed, namespace_not_found};
use super::error::{RequestError, StateError};
use super::key::{Holder, Key, Kind};
use super::rows;
use super::sight::{Sight, descriptor_at, resolve, sight_at};

/// A collection that is to be cloned.
struct Source {
    incarnation: u64,
    /// What the clone begins with.
    sight: Sight,
    /// What it holds there, if somebody counted.
    counts: Option<Counts>,
    /// Its name there.
    name: CollectionName,
}

impl Execution<'_> {
    pub(super) fn clone_collection(
        &mut self,
        clone: &CloneCollection,
    ) -> Result<Reply, RequestError> {
        self.require_free(&clone.target)?;
        self.require_room(1)?;
        let source = self.source(&clone.source, &clone.moment)?;
        let incarnation = self.make_clone(&source, &clone.target, &clone.settings)?;
        Ok(Reply::CollectionCreated { incarnation, created_unix_ms: self.time_unix_ms() })
    }

    pub(super) fn clone_namespace(
        &mut self,
        source: &Name,
        target: &Name,
        moment: &Moment,
    ) -> Result<Reply, RequestError> {
        if self.find::<Namespace>(&Key::Namespace(source.clone()))?.is_none() {
            return Err(namespace_not_found(source).into());
        }
        if let Moment::Tag(_) = moment {
            return Err(Failure::new(
                Code::InvalidArgument,
                "a tag names a moment of one collection, not of a namespace",
            )
            .hint("name the index or the time instead")
            .into());
        }
        let sources = self.sources(source, moment)?;
        if sources.len() > CLONES_PER_COMMAND_MAX {
            let count = sources.len();
            return Err(Failure::new(
                Code::LimitReached,
                format!("namespace {source} has {count} collections, one command clones {CLONES_PER_COMMAND_MAX}"),
            )
            .hint("clone its collections one by one, all at one index")
            .into());
        }
        self.require_room(sources.len() as u64)?;
        self.create_namespace(target)?;
        for source in &sources {
            let name = CollectionName { namespace: target.clone(), name: source.name.name.clone() };
            self.make_clone(source, &name, &SettingsChange::default())?;
        }
        let index = sources.first().map_or(self.index(), |source| source.sight.index);
        Ok(Reply::Collections { count: sources.len() as u64, index })
    }

    /// The collections that a namespace held at a moment, dropped ones too.
    fn sources(&self, namespace: &Name, moment: &Moment) -> Result<Vec<Source>, RequestError> {
        let mut incarnations = BTreeSet::new();
        let named = Kind::collections(Some(namespace));
        for (key, row) in self.transaction.rows(Family::Meta, &named, usize::MAX)? {
            let key = Key::decode(Family::Meta, &key)?;
            incarnations.insert(rows::decode::<CollectionEntry>(&key, &row)?.incarnation);
        }
        if *moment != Moment::Now {
            let dropped = Kind::dropped_in(namespace);
            for (key, row) in self.transaction.rows(Family::Meta, &dropped, usize::MAX)? {
                let key = Key::decode(Family::Meta, &key)?;
                let _: AtIndex = rows::decode(&key, &row)?;
                if let Key::Dropped { incarnation, .. } = key {
                    incarnations.insert(incarnation);
                }
            }
        }
        let index = self.moment_index(moment)?;
        let mut sources = Vec::new();
        for incarnation in incarnations {
            let Some(descriptor) = descriptor_at(&self.transaction, incarnation, index)? else {
                continue;
            };
            let name = name_of(&descriptor)?;
            if name.namespace == *namespace {
                let sight = self.sight_of(&name, incarnation, index)?;
                sources.push(Source { incarnation, counts: self.counts_at(&sight)?, sight, name });
            }
        }
        Ok(sources)
    }

    fn source(&self, name: &CollectionName, moment: &Moment) -> Result<Source, RequestError> {
        let incarnation = self.collection(name)?.incarnation;
        let sight = match moment {
            Moment::Now => self.sight_of(name, incarnation, self.index())?,
            earlier => resolve(&self.transaction, name, earlier)?.sight,
        };
        Ok(Source { incarnation, counts: self.counts_at(&sight)?, sight, name: name.clone() })
    }

    /// The index of a moment that no tag names.
    fn moment_index(&self, moment: &Moment) -> Result<Index, RequestError> {
        match moment {
            Moment::Now => Ok(self.index()),
            Moment::Index(index) => Ok(*index),
            Moment::Time(time) => super::sight::index_at(&self.transaction, *time),
            Moment::Tag(_) => unreachable!("the caller refused it"),
        }
    }

    /// What is seen of a collection at an index up to this entry's.
    pub(super) fn sight_of(
        &self,
        name: &CollectionName,
        incarnation: u64,
        index: Index,
    ) -> Result<Sight, RequestError> {
        if index != self.index() {
            return sight_at(&self.transaction, name, incarnation, index);
        }
        let layer = self.descriptor(incarnation)?.layer;
        Ok(Sight::through(layer, &self.layer(layer)?, index, self.time_unix_ms()))
    }

    /// The counts of what is there now; nobody counted what was there before.
    fn counts_at(&self, sight: &Sight) -> Result<Option<Counts>, StateError> {
        match (sight.levels.first(), sight.index == self.index()) {
            (Some(level), true) => Ok(Some(self.layer(level.layer)?.counts)),
            _ => Ok(None),
        }
    }

    fn make_clone(
        &mut self,
        source: &Source,
        target: &CollectionName,
        change: &SettingsChange,
    ) -> Result<u64, RequestError> {
        let Source { sight, .. } = source;
        let since_ms = self.time_unix_ms().saturating_sub(sight.time_unix_ms);
        let mut below = Vec::with_capacity(sight.levels.len());
        for level in &sight.levels {
            let row = self.layer(level.layer)?;
            let written = row.stored.first_write;
            if written == 0 || written > level.ceiling {
                continue;
            }
            below.push(LayerBelow {
                layer: level.layer,
                ceiling: level.ceiling,
                shift_ms: level.shift_ms.saturating_add(since_ms),
                ranges: level.ranges,
            });
        }
        if below.len() > CLONE_DEPTH_MAX {
            return Err(Failure::new(
                Code::DepthExceeded,
                format!(
                    "the clone would read through {} layers, the limit is {CLONE_DEPTH_MAX}",
                    below.len()
                ),
            )
            .hint("clone an earlier collection of the line, or export and import it")
            .into());
        }
        let settings_of = self.descriptor(source.incarnation)?.layer;
        let settings = changed(self.layer(settings_of)?.settings, change)?;
        let id = self.new_id()?;
        for level in &below {
            self.hold(level.layer, level.ceiling, Holder::Layer(id), &source.name)?;
        }
        let layer = Layer {
            below,
            counts: source.counts.unwrap_or(Counts { inexact: true, ..Counts::default() }),
            ..self.new_layer(id, settings)
        };
        let origin = Origin {
            namespace: source.name.namespace.to_string(),
            name: source.name.name.to_string(),
            incarnation: source.incarnation,
            index: sight.index,
            time_unix_ms: sight.time_unix_ms,
        };
        self.put_collection(target, id, id, &layer, Some(origin));
        Ok(id)
    }

    pub(super) fn drop_collection(
        &mut self,
        name: &CollectionName,
        dependants: Dependants,
    ) -> Result<Reply, RequestError> {
        let mut waiting = vec![(name.clone(), self.collection(name)?)];
        let mut known: BTreeSet<u64> = waiting.iter().map(|(_, entry)| entry.incarnation).collect();
        let mut dropped = 0;
        while let Some((name, entry)) = waiting.pop() {
            let clones = match dependants {
                Dependants::Detach => Vec::new(),
                Dependants::Refuse | Dependants::Cascade => self.dependants(entry.incarnation)?,
            };
            if dependants == Dependants::Refuse && !clones.is_empty() {
                return Err(has_dependants(&name, &clones).into());
            }
            for (clone, entry) in clones {
                if known.insert(entry.incarnation) {
                    waiting.push((clone, entry));
                }
            }
            self.drop_one(&name, entry)?;
            dropped += 1;
        }
        Ok(Reply::Collections { count: dropped, index: self.index() })
    }

    /// The collections that read through layers of this one.
    fn dependants(
        &self,
        incarnation: u64,
    ) -> Result<Vec<(CollectionName, CollectionEntry)>, StateError> {
        let mut layers = BTreeSet::new();
        let versions = Kind::descriptors(incarnation);
        for (key, row) in self.transaction.rows(Family::Meta, &versions, usize::MAX)? {
            let key = Key::decode(Family::Meta, &key)?;
            layers.insert(rows::decode::<Descriptor>(&key, &row)?.layer);
        }
        let mut dependants = Vec::new();
        for layer in layers {
            for (key, _) in self.transaction.rows(Family::Meta, &Kind::holds(layer), usize::MAX)? {
                let Key::Hold { owner: Holder::Layer(clone), .. } =
                    Key::decode(Family::Meta, &key)?
                else {
                    continue;
                };
                let row = self.layer(clone)?;
                if row.closed_at.is_none() && row.incarnation != incarnation {
                    let name = name_of(&self.descriptor(row.incarnation)?)?;
                    if let Some(entry) = self.find(&Key::Collection(name.clone()))? {
                        dependants.push((name, entry));
                    }
                }
            }
        }
        Ok(dependants)
    }
}

/// The name that a descriptor gives.
pub(super) fn name_of(descriptor: &Descriptor) -> Result<CollectionName, StateError> {
    CollectionName::parse(&descriptor.namespace, &descriptor.name)
        .map_err(|failure| StateError::corrupt(format!("a descriptor: {failure}")))
}

fn has_dependants(name: &CollectionName, clones: &[(CollectionName, CollectionEntry)]) -> Failure {
    let listed: Vec<String> =
        clones.iter().take(DEPENDANTS_LISTED_MAX).map(|(name, _)| name.to_string()).collect();
    let more = match clones.len() - listed.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Failure::new(
        Code::HasDependants,
        format!("clones read through {name}: {}{more}", listed.join(", ")),
    )
}
