//! What is asked of collections as a whole: settings, clones, drops, tags, leases, garbage.

use bytes::Bytes;

use super::{CollectionName, Index, Moment, Name};

/// What the owner of a collection chooses; None leaves a setting as it is, or usual.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SettingsChange {
    /// How long superseded versions are kept, ms.
    pub history_ms: Option<u64>,
    /// Largest value, bytes; at most 4 MiB.
    pub value_bytes_max: Option<u64>,
    /// Name of the schema its values follow, for readers; at most 255 bytes.
    pub schema_label: Option<String>,
    /// MIME type of records stored without one; at most 255 bytes.
    pub content_type: Option<String>,
}

/// What becomes of the clones of a collection that is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Dependants {
    /// The drop is refused if there are any.
    #[default]
    Refuse,
    /// They go on reading what the collection held.
    Detach,
    /// They are dropped too, and their clones, and so on.
    Cascade,
}

/// Makes a collection that begins with what another held at a moment. No byte is copied.
#[derive(Clone, PartialEq, Debug)]
pub struct CloneCollection {
    /// Whose records.
    pub source: CollectionName,
    /// Which of them.
    pub moment: Moment,
    /// The new collection.
    pub target: CollectionName,
    /// What differs from the source's settings.
    pub settings: SettingsChange,
}

/// Keeps a moment of a collection readable for a client.
#[derive(Clone, PartialEq, Debug)]
pub struct OpenLease {
    /// The collection.
    pub collection: CollectionName,
    /// The moment.
    pub moment: Moment,
    /// It counts for nothing after so long, unless renewed.
    pub ttl_ms: u64,
    /// It is broken once the collection has grown by so many bytes.
    pub bytes_max: u64,
}

/// One step of the collection of garbage in a layer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Purge {
    /// The layer.
    pub layer: u64,
    /// First user key to look at; where the step before ended.
    pub from: Bytes,
    /// The step ends before this user key; empty: at the end of the layer.
    pub to: Bytes,
    /// Of the key `to`, versions above this index are looked at, too; 0: none.
    pub to_above: Index,
}

/// One step of the removal of what only old indexes need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trim {
    /// Changes of a layer up to and with this index.
    Changes {
        /// The layer.
        layer: u64,
        /// Last index.
        to: Index,
    },
    /// Commit times up to and with this one, but the newest of them.
    Times {
        /// Last commit time, ms.
        to_unix_ms: u64,
    },
}

/// Deletes a range of keys at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeleteRange {
    /// The collection.
    pub collection: CollectionName,
    /// First key; empty: from the first.
    pub start: Bytes,
    /// Key after the last; empty: to the last.
    pub end: Bytes,
}

/// Names a moment of a collection, and keeps it readable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreateTag {
    /// The collection.
    pub collection: CollectionName,
    /// The tag's name, unique in the collection.
    pub tag: Name,
    /// The moment.
    pub moment: Moment,
}
