//! What a read of a collection sees: one moment, and the layers it looks through.
//!
//! The own layer comes first and hides what lies below it. Each layer below is seen up to its
//! ceiling, whatever is written to it later. A moment of the past is seen only if nothing of it was
//! collected: at or above each layer's floor, or at exactly an index that somebody holds.

use crate::codec::stored::{self, AtIndex, CollectionEntry, Descriptor, Hold, Layer};
use crate::kv::{Family, View};
use crate::types::{Code, CollectionName, Failure, Index, Moment, Name};

use super::collections::collection_not_found;
use super::error::{RequestError, StateError};
use super::key::{Key, Kind};
use super::rows;

/// One layer of a sight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Level {
    /// The layer.
    pub(super) layer: u64,
    /// Versions above this index are not seen.
    pub(super) ceiling: Index,
    /// Added to the expiry of its records.
    pub(super) shift_ms: u64,
    /// It may hold range tombstones.
    pub(super) ranges: bool,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Sight {
    /// The index that is read at.
    pub(super) index: Index,
    /// Expiry is judged at this commit time.
    pub(super) time_unix_ms: u64,
    /// Nearest first.
    pub(super) levels: Vec<Level>,
}

impl Sight {
    /// Of a layer that reads through no other and holds no range tombstone.
    pub(super) fn plain(layer: u64, index: Index, time_unix_ms: u64) -> Sight {
        let own = Level { layer, ceiling: index, shift_ms: 0, ranges: false };
        Sight { index, time_unix_ms, levels: vec![own] }
    }

    /// Of a layer and what it reads through, from its creation on.
    pub(super) fn through(id: u64, layer: &Layer, index: Index, time_unix_ms: u64) -> Sight {
        let ranges = layer.stored.ranges > 0;
        let mut levels = vec![Level { layer: id, ceiling: index, shift_ms: 0, ranges }];
        levels.extend(layer.below.iter().map(|below| Level {
            layer: below.layer,
            ceiling: below.ceiling,
            shift_ms: below.shift_ms,
            ranges: below.ranges,
        }));
        Sight { index, time_unix_ms, levels }
    }
}

/// A collection at a moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Resolved {
    /// The collection's incarnation.
    pub(super) incarnation: u64,
    /// What is seen of it.
    pub(super) sight: Sight,
}

/// What `name` stands for now, at a moment.
pub(super) fn resolve(
    view: &dyn View,
    name: &CollectionName,
    moment: &Moment,
) -> Result<Resolved, RequestError> {
    let entry: CollectionEntry = rows::find(view, &Key::Collection(name.clone()))?
        .ok_or_else(|| collection_not_found(name))?;
    let CollectionEntry { incarnation, layer, plain } = entry;
    let applied: stored::Applied = rows::required(view, &Key::Applied)?;
    let index = match moment {
        Moment::Now => {
            let sight = match plain {
                true => Sight::plain(layer, applied.index, applied.time_unix_ms),
                false => {
                    let row = layer_row(view, layer)?;
                    Sight::through(layer, &row, applied.index, applied.time_unix_ms)
                }
            };
            return Ok(Resolved { incarnation, sight });
        }
        Moment::Index(index) => *index,
        Moment::Time(unix_ms) => index_at(view, *unix_ms)?,
        Moment::Tag(tag) => tagged_index(view, name, incarnation, tag)?,
    };
    let sight = sight_at(view, name, incarnation, index)?;
    Ok(Resolved { incarnation, sight })
}

/// What is seen of an incarnation at an index.
pub(super) fn sight_at(
    view: &dyn View,
    name: &CollectionName,
    incarnation: u64,
    index: Index,
) -> Result<Sight, RequestError> {
    let applied: stored::Applied = rows::required(view, &Key::Applied)?;
    if index > applied.index {
        return Err(Failure::new(
            Code::Unavailable,
            format!("the read is of index {index}, this node has applied {}", applied.index),
        )
        .hint("ask again, or ask another node")
        .into());
    }
    let descriptor = descriptor_at(view, incarnation, index)?;
    if let Some(descriptor) = descriptor {
        let layer = layer_row(view, descriptor.layer)?;
        let time = kept_time(view, name, descriptor.layer, &layer, index, &applied)?;
        return Ok(Sight::through(descriptor.layer, &layer, index, time));
    }
    before_creation(view, name, incarnation, index, &applied)
}

/// A clone before its creation: what it was made of, at that index or at the one it was made of.
fn before_creation(
    view: &dyn View,
    name: &CollectionName,
    incarnation: u64,
    index: Index,
    applied: &stored::Applied,
) -> Result<Sight, RequestError> {
    let missing = || {
        let message = format!("there was no collection {name} at index {index}");
        Failure::new(Code::CollectionNotFound, message)
    };
    let Some(first) = first_descriptor(view, incarnation)? else { return Err(missing().into()) };
    if index >= first.created_index {
        return Err(missing().hint("it was dropped before that index").into());
    }
    let Some(origin) = first.origin else {
        let hint = format!("it was created at index {}", first.created_index);
        return Err(missing().hint(hint).into());
    };
    let layer = layer_row(view, first.layer)?;
    let mut sight = Sight::through(first.layer, &layer, index, 0);
    sight.levels.remove(0);
    let mut time = origin.time_unix_ms;
    for level in &mut sight.levels {
        if level.ceiling > index {
            level.ceiling = index;
            let below = layer_row(view, level.layer)?;
            time = time.min(kept_time(view, name, level.layer, &below, index, applied)?);
        }
    }
    // The shifts lead from the time of the source to that of the clone's creation.
    sight.time_unix_ms = time + first.created_unix_ms.saturating_sub(origin.time_unix_ms);
    Ok(sight)
}

/// The commit time of an index, if a layer can still be read at it.
fn kept_time(
    view: &dyn View,
    name: &CollectionName,
    id: u64,
    layer: &Layer,
    index: Index,
    applied: &stored::Applied,
) -> Result<u64, RequestError> {
    if index >= layer.floor {
        return Ok(time_at(view, index, applied)?);
    }
    match rows::first::<Hold>(view, &Kind::holds_at(id, index))? {
        Some((_, hold)) => Ok(hold.time_unix_ms),
        None => Err(below_floor(name, index, layer).into()),
    }
}

/// The refusal of a moment that is not kept any more.
pub(super) fn below_floor(name: &CollectionName, index: Index, layer: &Layer) -> Failure {
    let (floor, time) = (layer.floor, layer.floor_unix_ms);
    Failure::new(
        Code::BelowFloor,
        format!("{name} at index {index} is gone: its history reaches back to index {floor} (commit time {time} ms)"),
    )
    .hint("read at the floor or later; a tag keeps a moment, and a longer history keeps more of them")
}

fn tagged_index(
    view: &dyn View,
    name: &CollectionName,
    incarnation: u64,
    tag: &Name,
) -> Result<Index, RequestError> {
    match rows::find::<stored::Tag>(view, &Key::Tag { incarnation, name: tag.clone() })? {
        Some(row) => Ok(row.index),
        None => Err(tag_not_found(name, tag).into()),
    }
}

/// The refusal of a tag that is not there.
pub(super) fn tag_not_found(name: &CollectionName, tag: &Name) -> Failure {
    Failure::new(Code::TagNotFound, format!("{name} has no tag {tag}"))
}

/// The last index with a commit time of at most `unix_ms`.
pub(super) fn index_at(view: &dyn View, unix_ms: u64) -> Result<Index, RequestError> {
    let applied: stored::Applied = rows::required(view, &Key::Applied)?;
    if unix_ms > applied.time_unix_ms {
        let message =
            format!("time {unix_ms} ms lies ahead of the cluster's, {}", applied.time_unix_ms);
        return Err(Failure::new(Code::InvalidArgument, message)
            .hint("leave the time out to read what is there now")
            .into());
    }
    match last_commit(view, unix_ms)? {
        Some((index, _)) => Ok(index),
        None => Err(Failure::new(
            Code::BelowFloor,
            format!("nothing is known of time {unix_ms} ms any more"),
        )
        .hint("a later time may be kept")
        .into()),
    }
}

/// The last index with a commit time of at most `unix_ms`, and that time, as far as times are kept.
pub(super) fn last_commit(
    view: &dyn View,
    unix_ms: u64,
) -> Result<Option<(Index, u64)>, StateError> {
    let mut cursor = view.cursor(Family::Times);
    cursor.seek_for_prev(&Key::Time(unix_ms).encode());
    match cursor.entry() {
        Some((key, value)) => {
            let key = Key::decode(Family::Times, key)?;
            let row: AtIndex = rows::decode(&key, value)?;
            match key {
                Key::Time(time) => Ok(Some((row.index, time))),
                _ => Err(StateError::corrupt("times hold a row that is no time")),
            }
        }
        None => {
            cursor.status()?;
            Ok(None)
        }
    }
}

/// The commit time of an index whose time is kept: that of the first row whose index is not below.
pub(super) fn time_at(
    view: &dyn View,
    index: Index,
    applied: &stored::Applied,
) -> Result<u64, StateError> {
    if index == applied.index {
        return Ok(applied.time_unix_ms);
    }
    // Rows are ordered by time, and their indexes grow with it.
    let (mut low, mut high) = (0, applied.time_unix_ms);
    let mut cursor = view.cursor(Family::Times);
    while low < high {
        let middle = low + (high - low) / 2;
        cursor.seek(&Key::Time(middle).encode());
        let Some((key, value)) = cursor.entry() else {
            cursor.status()?;
            return Err(StateError::corrupt("the newest commit time is missing"));
        };
        let key = Key::decode(Family::Times, key)?;
        let (Key::Time(time), row) = (&key, rows::decode::<AtIndex>(&key, value)?) else {
            return Err(StateError::corrupt("times hold a row that is no time"));
        };
        match row.index >= index {
            true => high = middle,
            false => low = time + 1,
        }
    }
    cursor.seek(&Key::Time(low).encode());
    match cursor.entry().map(|(key, _)| Key::decode(Family::Times, key)).transpose()? {
        Some(Key::Time(time)) => Ok(time),
        _ => Err(StateError::corrupt(format!("index {index} has no commit time"))),
    }
}

/// A layer that a descriptor or another layer names.
pub(super) fn layer_row(view: &dyn View, layer: u64) -> Result<Layer, StateError> {
    rows::find(view, &Key::Layer(layer))?
        .ok_or_else(|| StateError::corrupt(format!("layer {layer} has no row")))
}

/// The oldest descriptor of an incarnation that is kept.
fn first_descriptor(view: &dyn View, incarnation: u64) -> Result<Option<Descriptor>, StateError> {
    let kind = Kind::descriptors(incarnation);
    let mut cursor = view.cursor(Family::Meta);
    cursor.seek_for_prev(&kind.end);
    match cursor.entry().filter(|(key, _)| *key >= kind.start.as_slice()) {
        Some((key, row)) => {
            let key = Key::decode(Family::Meta, key)?;
            rows::decode(&key, row).map(Some)
        }
        None => {
            cursor.status()?;
            Ok(None)
        }
    }
}

/// The newest descriptor of an incarnation at or below an index, unless it was dropped.
pub(super) fn descriptor_at(
    view: &dyn View,
    incarnation: u64,
    index: Index,
) -> Result<Option<Descriptor>, StateError> {
    let newest = Key::Descriptor { incarnation, index }.encode();
    let kind = Kind { start: newest, ..Kind::descriptors(incarnation) };
    let found = rows::first::<Descriptor>(view, &kind)?;
    Ok(found.map(|(_, descriptor)| descriptor).filter(|descriptor| !descriptor.dropped))
}
