//! Reads of a view: records, and what the cluster knows of itself.
//!
//! A view is one applied index; everything answered here is as of it, and of nothing later.
//! Nothing here writes, and nothing remembers a view.

use bytes::Bytes;

use crate::codec::stored::{self, AtIndex, CollectionEntry, Counts};
use crate::kv::View;
use crate::limits::SCAN_PAGE_BYTES_MAX;
use crate::types::{CollectionName, ConfState, Index, Moment, Name, Node, NodeId, Pin, Record};

use super::collections::{collection_not_found, namespace_not_found};
use super::error::{RequestError, StateError};
use super::key::{Key, Kind};
use super::lookup::Lookup;
use super::records::validate_key;
use super::rows;
use super::sight::{Resolved, Sight, descriptor_at, layer_row, resolve};
use super::walk::VisibleRecord;

pub use super::scan::scan;

/// A namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamespaceInfo {
    /// Its name.
    pub name: Name,
    /// Index of the entry that created it.
    pub created_index: Index,
    /// Commit time of that entry.
    pub created_unix_ms: u64,
}

/// A collection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CollectionInfo {
    /// Its full name.
    pub name: CollectionName,
    /// Unique over the cluster's life.
    pub incarnation: u64,
    /// Index of its creation.
    pub created_index: Index,
    /// Commit time of that entry.
    pub created_unix_ms: u64,
    /// The layer it writes to.
    pub layer: u64,
    /// Records, expired ones that were not collected yet among them.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// False: nobody counted them, since a range was deleted or the clone began in the past.
    pub counted: bool,
}

/// What the cluster was founded with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterInfo {
    /// Its id.
    pub id: crate::types::ClusterId,
    /// When it was founded, by the founder's clock.
    pub created_unix_ms: u64,
    /// DER bytes of the CA certificate.
    pub ca_certificate: Vec<u8>,
    /// The CA's key, sealed by the cluster secret.
    pub sealed_ca_key: Vec<u8>,
}

/// How far the log is applied in `view`.
pub fn applied(view: &dyn View) -> Result<Index, StateError> {
    Ok(rows::required::<stored::Applied>(view, &Key::Applied)?.index)
}

/// Raft membership at the view's applied index.
pub fn conf_state(view: &dyn View) -> Result<ConfState, StateError> {
    Ok(rows::required::<stored::ConfState>(view, &Key::ConfState)?.into())
}

/// What the cluster was founded with.
pub fn cluster(view: &dyn View) -> Result<ClusterInfo, StateError> {
    let row: stored::Cluster = rows::required(view, &Key::Cluster)?;
    Ok(ClusterInfo {
        id: crate::types::ClusterId(row.id),
        created_unix_ms: row.created_unix_ms,
        ca_certificate: row.ca_certificate,
        sealed_ca_key: row.sealed_ca_key,
    })
}

/// Enrolled nodes, by id.
pub fn nodes(view: &dyn View) -> Result<Vec<Node>, StateError> {
    let mut nodes = Vec::new();
    rows::each(view, &Kind::nodes(), |key, value| {
        if let Key::Node(id) = key {
            nodes.push(rows::decode::<stored::Node>(&key, value)?.into_node(id));
        }
        Ok(())
    })?;
    Ok(nodes)
}

/// The index at which a node was removed, if it was.
pub fn removed_at(view: &dyn View, node: NodeId) -> Result<Option<Index>, StateError> {
    Ok(rows::find::<AtIndex>(view, &Key::RemovedNode(node))?.map(|row| row.index))
}

/// Nodes that were removed, each with the index of its removal, by id.
pub fn removed_nodes(view: &dyn View) -> Result<Vec<(NodeId, Index)>, StateError> {
    let mut nodes = Vec::new();
    rows::each(view, &Kind::removed_nodes(), |key, value| {
        if let Key::RemovedNode(id) = key {
            nodes.push((id, rows::decode::<AtIndex>(&key, value)?.index));
        }
        Ok(())
    })?;
    Ok(nodes)
}

/// Pins of receivers, by receiver.
pub fn pins(view: &dyn View) -> Result<Vec<Pin>, StateError> {
    let mut pins = Vec::new();
    rows::each(view, &Kind::pins(), |key, value| {
        if let Key::Pin(receiver) = key {
            pins.push(rows::decode::<stored::Pin>(&key, value)?.into_pin(receiver));
        }
        Ok(())
    })?;
    Ok(pins)
}

/// All namespaces, by name.
pub fn list_namespaces(view: &dyn View) -> Result<Vec<NamespaceInfo>, StateError> {
    let mut namespaces = Vec::new();
    rows::each(view, &Kind::namespaces(), |key, value| {
        let row: stored::Namespace = rows::decode(&key, value)?;
        if let Key::Namespace(name) = key {
            namespaces.push(NamespaceInfo {
                name,
                created_index: row.created_index,
                created_unix_ms: row.created_unix_ms,
            });
        }
        Ok(())
    })?;
    Ok(namespaces)
}

/// The collections of one namespace, or of all, by full name.
pub fn list_collections(
    view: &dyn View,
    namespace: Option<&Name>,
) -> Result<Vec<CollectionInfo>, RequestError> {
    if let Some(name) = namespace
        && rows::find::<stored::Namespace>(view, &Key::Namespace(name.clone()))?.is_none()
    {
        return Err(namespace_not_found(name).into());
    }
    let mut collections = Vec::new();
    rows::each(view, &Kind::collections(namespace), |key, value| {
        let entry: CollectionEntry = rows::decode(&key, value)?;
        if let Key::Collection(name) = key {
            collections.push(collection_info(view, name, entry.incarnation)?);
        }
        Ok(())
    })?;
    Ok(collections)
}

/// One collection.
pub fn describe(view: &dyn View, name: &CollectionName) -> Result<CollectionInfo, RequestError> {
    let incarnation = incarnation(view, name)?;
    Ok(collection_info(view, name.clone(), incarnation)?)
}

/// The record under `key` at a moment; None if there was none, or it was deleted or had expired.
pub fn get(
    view: &dyn View,
    collection: &CollectionName,
    key: &[u8],
    moment: &Moment,
) -> Result<Option<Record>, RequestError> {
    let Resolved { sight, .. } = resolve(view, collection, moment)?;
    get_in(&mut Lookup::new(view), &sight, key)
}

fn get_in(
    lookup: &mut Lookup<'_>,
    sight: &Sight,
    key: &[u8],
) -> Result<Option<Record>, RequestError> {
    validate_key(key)?;
    let held = lookup.find(sight, key, |content_type, value| {
        (content_type.to_owned(), Bytes::copy_from_slice(value))
    })?;
    Ok(held.filter(|held| !held.expired).map(|held| Record {
        key: Bytes::copy_from_slice(key),
        value: held.taken.1,
        version: held.version,
        content_type: held.taken.0,
        expires_unix_ms: held.expires_unix_ms,
    }))
}

/// The records under `keys` at a moment, up to the size of a page; a key that is not there is left
/// out. Answers how many keys were looked up, too: one at least.
pub fn multi_get(
    view: &dyn View,
    collection: &CollectionName,
    keys: &[Bytes],
    moment: &Moment,
) -> Result<(Vec<Record>, usize), RequestError> {
    let Resolved { sight, .. } = resolve(view, collection, moment)?;
    let mut lookup = Lookup::new(view);
    let (mut records, mut bytes) = (Vec::new(), 0);
    for (place, key) in keys.iter().enumerate() {
        if bytes > SCAN_PAGE_BYTES_MAX {
            return Ok((records, place));
        }
        if let Some(record) = get_in(&mut lookup, &sight, key)? {
            bytes += record.key.len() + record.value.len() + record.content_type.len();
            records.push(record);
        }
    }
    Ok((records, keys.len()))
}

/// The record that a walk stands on.
pub(super) fn record_of(key: Bytes, visible: &VisibleRecord<'_>, without_value: bool) -> Record {
    Record {
        key,
        value: match without_value {
            true => Bytes::new(),
            false => Bytes::copy_from_slice(visible.value),
        },
        version: visible.version,
        content_type: visible.content_type.to_owned(),
        expires_unix_ms: visible.expires_unix_ms,
    }
}

/// What a name stands for now.
pub(super) fn incarnation(view: &dyn View, name: &CollectionName) -> Result<u64, RequestError> {
    match rows::find::<CollectionEntry>(view, &Key::Collection(name.clone()))? {
        Some(entry) => Ok(entry.incarnation),
        None => Err(collection_not_found(name).into()),
    }
}

fn collection_info(
    view: &dyn View,
    name: CollectionName,
    incarnation: u64,
) -> Result<CollectionInfo, StateError> {
    let missing = |what| StateError::corrupt(format!("collection {name} has no {what}"));
    let descriptor = descriptor_at(view, incarnation, Index::MAX)?;
    let descriptor = descriptor.ok_or_else(|| missing("descriptor"))?;
    let Counts { records, bytes, inexact } = layer_row(view, descriptor.layer)?.counts;
    Ok(CollectionInfo {
        name,
        incarnation,
        created_index: descriptor.created_index,
        created_unix_ms: descriptor.created_unix_ms,
        layer: descriptor.layer,
        records,
        bytes,
        counted: !inexact,
    })
}
