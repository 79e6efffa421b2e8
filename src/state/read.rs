//! Reads of a view: records, and what the cluster knows of itself.
//!
//! A view is one applied index; everything answered here is as of it, and of nothing later.
//! Nothing here writes, and nothing remembers a view.

use bytes::Bytes;

use crate::codec::stored::{self, AtIndex, CollectionEntry, Counts, Descriptor, Record as Row};
use crate::kv::{Family, View};
use crate::types::{
    Code, CollectionName, ConfState, Failure, Index, Name, Node, NodeId, Pin, Record,
};

use super::collections::{collection_not_found, namespace_not_found};
use super::error::{RequestError, StateError};
use super::key::{Key, Kind, split_version, version_row, versions_of};
use super::records::validate_key;
use super::rows;

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
    /// Unique over the cluster's life; also the index of the entry that created it.
    pub incarnation: u64,
    /// Commit time of that entry.
    pub created_unix_ms: u64,
    /// Live records.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
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

/// The record under `key`; None if there is none, or it was deleted.
pub fn get(
    view: &dyn View,
    collection: &CollectionName,
    key: &[u8],
) -> Result<Option<Record>, RequestError> {
    validate_key(key)?;
    let at = applied(view)?;
    let layer = layer_at(view, collection, incarnation(view, collection)?, at)?;
    let versions = versions_of(layer, key);
    let mut cursor = view.cursor(Family::Records);
    cursor.seek(&version_row(&versions, at));
    match cursor.entry() {
        Some((row, value)) if row.starts_with(&versions) => {
            let (_, version) = split_version(row)?;
            Ok(visible(value)?.map(|(content_type, value)| Record {
                key: Bytes::copy_from_slice(key),
                value: Bytes::copy_from_slice(value),
                version,
                content_type: content_type.to_owned(),
            }))
        }
        Some(_) => Ok(None),
        None => {
            cursor.status()?;
            Ok(None)
        }
    }
}

/// What a name stands for now.
pub(super) fn incarnation(view: &dyn View, name: &CollectionName) -> Result<u64, RequestError> {
    match rows::find::<CollectionEntry>(view, &Key::Collection(name.clone()))? {
        Some(entry) => Ok(entry.incarnation),
        None => Err(collection_not_found(name).into()),
    }
}

/// The layer that an incarnation reads at an index.
pub(super) fn layer_at(
    view: &dyn View,
    name: &CollectionName,
    incarnation: u64,
    index: Index,
) -> Result<u64, RequestError> {
    match descriptor_at(view, incarnation, index)? {
        Some(descriptor) => Ok(own_layer(&descriptor, index)?),
        None => Err(Failure::new(
            Code::CollectionNotFound,
            format!("there was no collection {name} at index {index}"),
        )
        .into()),
    }
}

/// The layer of a collection that has no other.
pub(super) fn own_layer(descriptor: &Descriptor, index: Index) -> Result<u64, StateError> {
    if !descriptor.below.is_empty() {
        return Err(StateError::TooOld { problem: "a collection reads through layers".into() });
    }
    if descriptor.layer > index {
        return Err(StateError::corrupt(format!(
            "layer {} is newer than its descriptor",
            descriptor.layer
        )));
    }
    Ok(descriptor.layer)
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

/// Content type and value of a version, unless it is a tombstone.
pub(super) fn visible(row: &[u8]) -> Result<Option<(&str, &[u8])>, StateError> {
    match rows::decode_record(row)? {
        Row::Tombstone => Ok(None),
        Row::Value { expires_unix_ms: None, content_type, value } => {
            Ok(Some((content_type, value)))
        }
        Row::Value { expires_unix_ms: Some(_), .. } => {
            Err(StateError::TooOld { problem: "a record expires".into() })
        }
    }
}

fn collection_info(
    view: &dyn View,
    name: CollectionName,
    incarnation: u64,
) -> Result<CollectionInfo, StateError> {
    let missing = |what| StateError::corrupt(format!("collection {name} has no {what}"));
    let descriptor = descriptor_at(view, incarnation, Index::MAX)?;
    let created_unix_ms = descriptor.ok_or_else(|| missing("descriptor"))?.created_unix_ms;
    let counts: Counts =
        rows::find(view, &Key::Counts(incarnation))?.ok_or_else(|| missing("counts"))?;
    let Counts { records, bytes } = counts;
    Ok(CollectionInfo { name, incarnation, created_unix_ms, records, bytes })
}
