//! Requests and commands of the raft log on the wire.
//!
//! Decoding checks what a type promises (names, fixed lengths, known enum values) and the bounds
//! of single fields; whether a command makes sense is judged by the state machine at apply.

use bytes::Bytes;

use super::error::DecodeError;
use super::internal::v1 as wire;
use super::membership::{node_id, required_addresses};
use super::moments::{dependants_from, dependants_to, moment_from, moment_to};
use super::v1;
use crate::limits::BATCH_WRITES_MAX;
use crate::types::{
    Action, CloneCollection, Code, CollectionName, Command, Condition, CreateTag, DeleteRange,
    Digest, Expiry, Failure, Name, NodeId, OpenLease, Purge, Request, SessionSequence, SnapshotId,
    Trim, Write, WriteBatch,
};

impl From<&CollectionName> for v1::CollectionName {
    fn from(name: &CollectionName) -> Self {
        v1::CollectionName {
            namespace: name.namespace.as_str().to_owned(),
            name: name.name.as_str().to_owned(),
        }
    }
}

impl TryFrom<v1::CollectionName> for CollectionName {
    type Error = DecodeError;

    fn try_from(message: v1::CollectionName) -> Result<Self, DecodeError> {
        Ok(CollectionName::parse(&message.namespace, &message.name)?)
    }
}

impl From<SessionSequence> for v1::SessionSequence {
    fn from(place: SessionSequence) -> Self {
        v1::SessionSequence { session: place.session, sequence: place.sequence }
    }
}

impl TryFrom<v1::SessionSequence> for SessionSequence {
    type Error = DecodeError;

    fn try_from(message: v1::SessionSequence) -> Result<Self, DecodeError> {
        if message.session == 0 || message.sequence == 0 {
            return Err(DecodeError::refused("a session id and its sequence start at 1"));
        }
        Ok(SessionSequence { session: message.session, sequence: message.sequence })
    }
}

impl From<&Request> for wire::Request {
    fn from(request: &Request) -> Self {
        wire::Request {
            session: request.session.map(Into::into),
            command: Some((&request.command).into()),
        }
    }
}

impl TryFrom<wire::Request> for Request {
    type Error = DecodeError;

    fn try_from(message: wire::Request) -> Result<Self, DecodeError> {
        // A command that only a newer release knows looks like none at all.
        let command =
            message.command.ok_or_else(|| DecodeError::unknown("command", "(none it knows)"))?;
        Ok(Request {
            session: message.session.map(TryInto::try_into).transpose()?,
            command: command.try_into()?,
        })
    }
}

impl From<&Command> for wire::request::Command {
    fn from(command: &Command) -> Self {
        use wire::request::Command as To;
        match command {
            Command::CreateNamespace(name) => {
                To::CreateNamespace(wire::CreateNamespace { name: name.as_str().to_owned() })
            }
            Command::DropNamespace(name) => {
                To::DropNamespace(wire::DropNamespace { name: name.as_str().to_owned() })
            }
            Command::CreateCollection { name, settings } => {
                To::CreateCollection(wire::CreateCollection {
                    collection: Some(name.into()),
                    settings: Some(settings.into()),
                })
            }
            Command::ConfigureCollection { name, settings } => {
                To::ConfigureCollection(wire::ConfigureCollection {
                    collection: Some(name.into()),
                    settings: Some(settings.into()),
                })
            }
            Command::RenameCollection { from, to } => {
                To::RenameCollection(wire::RenameCollection {
                    from: Some(from.into()),
                    to: Some(to.into()),
                })
            }
            Command::DropCollection { name, dependants } => {
                To::DropCollection(wire::DropCollection {
                    collection: Some(name.into()),
                    dependants: dependants_to(*dependants) as i32,
                })
            }
            Command::UndropCollection { name, incarnation } => {
                To::UndropCollection(wire::UndropCollection {
                    collection: Some(name.into()),
                    incarnation: incarnation.unwrap_or(0),
                })
            }
            Command::TruncateCollection(name) => {
                To::TruncateCollection(wire::TruncateCollection { collection: Some(name.into()) })
            }
            Command::CloneCollection(clone) => To::CloneCollection(wire::CloneCollection {
                source: Some((&clone.source).into()),
                moment: moment_to(&clone.moment),
                target: Some((&clone.target).into()),
                settings: Some((&clone.settings).into()),
            }),
            Command::CloneNamespace { source, target, moment } => {
                To::CloneNamespace(wire::CloneNamespace {
                    source: source.as_str().to_owned(),
                    target: target.as_str().to_owned(),
                    moment: moment_to(moment),
                })
            }
            Command::DeleteRange(range) => To::DeleteRange(wire::DeleteRange {
                collection: Some((&range.collection).into()),
                start: range.start.clone(),
                end: range.end.clone(),
            }),
            Command::CreateTag(tag) => To::CreateTag(wire::CreateTag {
                collection: Some((&tag.collection).into()),
                tag: tag.tag.as_str().to_owned(),
                moment: moment_to(&tag.moment),
            }),
            Command::DropTag { collection, tag } => To::DropTag(wire::DropTag {
                collection: Some(collection.into()),
                tag: tag.as_str().to_owned(),
            }),
            Command::OpenLease(lease) => To::OpenLease(wire::OpenLease {
                collection: Some((&lease.collection).into()),
                moment: moment_to(&lease.moment),
                ttl_ms: lease.ttl_ms,
                bytes_max: lease.bytes_max,
            }),
            Command::RenewLease { lease, ttl_ms } => {
                To::RenewLease(wire::RenewLease { lease: *lease, ttl_ms: *ttl_ms })
            }
            Command::CloseLease(lease) => To::CloseLease(wire::CloseLease { lease: *lease }),
            Command::Purge(purge) => To::Purge(wire::Purge {
                layer: purge.layer,
                from: purge.from.clone(),
                to: purge.to.clone(),
                to_above: purge.to_above,
            }),
            Command::Trim(Trim::Changes { layer, to }) => {
                To::TrimChanges(wire::TrimChanges { layer: *layer, to: *to })
            }
            Command::Trim(Trim::Times { to_unix_ms }) => {
                To::TrimTimes(wire::TrimTimes { to_unix_ms: *to_unix_ms })
            }
            Command::Write(batch) => To::Write(batch.into()),
            Command::OpenSession => To::OpenSession(wire::OpenSession {}),
            Command::CreateToken { secret_hash, expires_unix_ms, learner } => {
                To::CreateToken(wire::CreateToken {
                    secret_hash: Bytes::copy_from_slice(secret_hash),
                    expires_unix_ms: *expires_unix_ms,
                    learner: *learner,
                })
            }
            Command::RedeemToken { secret_hash, addresses } => To::RedeemToken(wire::RedeemToken {
                secret_hash: Bytes::copy_from_slice(secret_hash),
                addresses: Some(addresses.into()),
            }),
            Command::SetNodeAddresses { node, addresses } => {
                To::SetNodeAddresses(wire::SetNodeAddresses {
                    node: node.0,
                    addresses: Some(addresses.into()),
                })
            }
            Command::AddLearner(node) => To::AddLearner(wire::AddLearner { node: node.0 }),
            Command::PromoteNode(node) => To::PromoteNode(wire::PromoteNode { node: node.0 }),
            Command::RemoveNode(node) => To::RemoveNode(wire::RemoveNode { node: node.0 }),
            Command::SetPin { receiver, index, snapshot } => To::SetPin(wire::SetPin {
                receiver: receiver.0,
                index: *index,
                snapshot_id: match snapshot {
                    Some((id, _)) => Bytes::copy_from_slice(&id.0),
                    None => Bytes::new(),
                },
                source: snapshot.map_or(0, |(_, source)| source.0),
            }),
            Command::ReleasePin(receiver) => {
                To::ReleasePin(wire::ReleasePin { receiver: receiver.0 })
            }
            Command::ComputeDigest => To::ComputeDigest(wire::ComputeDigest {}),
        }
    }
}

impl TryFrom<wire::request::Command> for Command {
    type Error = DecodeError;

    fn try_from(message: wire::request::Command) -> Result<Self, DecodeError> {
        use wire::request::Command as From;
        Ok(match message {
            From::CreateNamespace(it) => Command::CreateNamespace(namespace(&it.name)?),
            From::DropNamespace(it) => Command::DropNamespace(namespace(&it.name)?),
            From::CreateCollection(it) => Command::CreateCollection {
                name: collection(it.collection)?,
                settings: it.settings.unwrap_or_default().into(),
            },
            From::ConfigureCollection(it) => Command::ConfigureCollection {
                name: collection(it.collection)?,
                settings: it.settings.unwrap_or_default().into(),
            },
            From::RenameCollection(it) => {
                Command::RenameCollection { from: collection(it.from)?, to: collection(it.to)? }
            }
            From::DropCollection(it) => Command::DropCollection {
                name: collection(it.collection)?,
                dependants: dependants_from(it.dependants)?,
            },
            From::UndropCollection(it) => Command::UndropCollection {
                name: collection(it.collection)?,
                incarnation: (it.incarnation > 0).then_some(it.incarnation),
            },
            From::TruncateCollection(it) => Command::TruncateCollection(collection(it.collection)?),
            From::CloneCollection(it) => Command::CloneCollection(CloneCollection {
                source: collection(it.source)?,
                moment: moment_from(it.moment)?,
                target: collection(it.target)?,
                settings: it.settings.unwrap_or_default().into(),
            }),
            From::CloneNamespace(it) => Command::CloneNamespace {
                source: namespace(&it.source)?,
                target: namespace(&it.target)?,
                moment: moment_from(it.moment)?,
            },
            From::DeleteRange(it) => Command::DeleteRange(DeleteRange {
                collection: collection(it.collection)?,
                start: it.start,
                end: it.end,
            }),
            From::CreateTag(it) => Command::CreateTag(CreateTag {
                collection: collection(it.collection)?,
                tag: Name::parse("tag", &it.tag)?,
                moment: moment_from(it.moment)?,
            }),
            From::DropTag(it) => Command::DropTag {
                collection: collection(it.collection)?,
                tag: Name::parse("tag", &it.tag)?,
            },
            From::OpenLease(it) => Command::OpenLease(OpenLease {
                collection: collection(it.collection)?,
                moment: moment_from(it.moment)?,
                ttl_ms: it.ttl_ms,
                bytes_max: it.bytes_max,
            }),
            From::RenewLease(it) => Command::RenewLease { lease: it.lease, ttl_ms: it.ttl_ms },
            From::CloseLease(it) => Command::CloseLease(it.lease),
            From::Purge(it) => Command::Purge(Purge {
                layer: it.layer,
                from: it.from,
                to: it.to,
                to_above: it.to_above,
            }),
            From::TrimChanges(it) => Command::Trim(Trim::Changes { layer: it.layer, to: it.to }),
            From::TrimTimes(it) => Command::Trim(Trim::Times { to_unix_ms: it.to_unix_ms }),
            From::Write(batch) => Command::Write(batch.try_into()?),
            From::OpenSession(wire::OpenSession {}) => Command::OpenSession,
            From::CreateToken(it) => Command::CreateToken {
                secret_hash: hash("secret hash", &it.secret_hash)?,
                expires_unix_ms: it.expires_unix_ms,
                learner: it.learner,
            },
            From::RedeemToken(it) => Command::RedeemToken {
                secret_hash: hash("secret hash", &it.secret_hash)?,
                addresses: required_addresses(it.addresses)?,
            },
            From::SetNodeAddresses(it) => Command::SetNodeAddresses {
                node: node_id(it.node)?,
                addresses: required_addresses(it.addresses)?,
            },
            From::AddLearner(it) => Command::AddLearner(node_id(it.node)?),
            From::PromoteNode(it) => Command::PromoteNode(node_id(it.node)?),
            From::RemoveNode(it) => Command::RemoveNode(node_id(it.node)?),
            From::SetPin(it) => Command::SetPin {
                receiver: node_id(it.receiver)?,
                index: it.index,
                snapshot: pinned_snapshot(&it.snapshot_id, it.source)?,
            },
            From::ReleasePin(it) => Command::ReleasePin(node_id(it.receiver)?),
            From::ComputeDigest(wire::ComputeDigest {}) => Command::ComputeDigest,
        })
    }
}

impl From<&WriteBatch> for wire::WriteBatch {
    fn from(batch: &WriteBatch) -> Self {
        wire::WriteBatch { writes: batch.writes.iter().map(Into::into).collect() }
    }
}

impl TryFrom<wire::WriteBatch> for WriteBatch {
    type Error = DecodeError;

    fn try_from(message: wire::WriteBatch) -> Result<Self, DecodeError> {
        if message.writes.len() > BATCH_WRITES_MAX {
            return Err(DecodeError::Refused(Failure::new(
                Code::BatchTooLarge,
                format!(
                    "the batch has {} writes, the limit is {BATCH_WRITES_MAX}",
                    message.writes.len()
                ),
            )));
        }
        let writes: Result<_, _> = message.writes.into_iter().map(TryInto::try_into).collect();
        Ok(WriteBatch { writes: writes? })
    }
}

impl From<&Write> for wire::WriteOp {
    fn from(write: &Write) -> Self {
        use wire::write_op::{ActionKind, ConditionKind};
        let (condition, version) = match write.condition {
            Condition::Always => (ConditionKind::Always, 0),
            Condition::Absent => (ConditionKind::Absent, 0),
            Condition::Version(version) => (ConditionKind::Version, version),
        };
        let (action, value, content_type) = match &write.action {
            Action::Put { value, content_type, .. } => {
                (ActionKind::Put, value.clone(), content_type.clone())
            }
            Action::Patch { patch } => (ActionKind::Patch, patch.clone(), String::new()),
            Action::Delete => (ActionKind::Delete, Bytes::new(), String::new()),
            Action::Check => (ActionKind::Check, Bytes::new(), String::new()),
        };
        wire::WriteOp {
            collection: Some((&write.collection).into()),
            key: write.key.clone(),
            condition: condition as i32,
            version,
            action: action as i32,
            value,
            content_type,
            expires_after_ms: match write.action {
                Action::Put { expiry: Expiry::AfterMs(ms), .. } => Some(ms),
                _ => None,
            },
            expires_at_unix_ms: match write.action {
                Action::Put { expiry: Expiry::AtUnixMs(time), .. } => Some(time),
                _ => None,
            },
        }
    }
}

impl TryFrom<wire::WriteOp> for Write {
    type Error = DecodeError;

    fn try_from(message: wire::WriteOp) -> Result<Self, DecodeError> {
        use wire::write_op::{ActionKind, ConditionKind};
        let condition = match ConditionKind::try_from(message.condition) {
            Ok(ConditionKind::Always) => Condition::Always,
            Ok(ConditionKind::Absent) => Condition::Absent,
            Ok(ConditionKind::Version) => Condition::Version(message.version),
            Err(_) => return Err(DecodeError::unknown("condition kind", message.condition)),
        };
        let action = match ActionKind::try_from(message.action) {
            Ok(ActionKind::Put) => Action::Put {
                value: message.value,
                content_type: message.content_type,
                expiry: match (message.expires_after_ms, message.expires_at_unix_ms) {
                    (None, None) => Expiry::Never,
                    (Some(ms), None) => Expiry::AfterMs(ms),
                    (None, Some(time)) => Expiry::AtUnixMs(time),
                    (Some(_), Some(_)) => {
                        return Err(DecodeError::refused("a write has two expiries"));
                    }
                },
            },
            Ok(ActionKind::Patch) => Action::Patch { patch: message.value },
            Ok(ActionKind::Delete) => Action::Delete,
            Ok(ActionKind::Check) => Action::Check,
            Err(_) => return Err(DecodeError::unknown("action kind", message.action)),
        };
        Ok(Write {
            collection: collection(message.collection)?,
            key: message.key,
            condition,
            action,
        })
    }
}

fn namespace(text: &str) -> Result<Name, DecodeError> {
    Ok(Name::parse("namespace", text)?)
}

fn collection(message: Option<v1::CollectionName>) -> Result<CollectionName, DecodeError> {
    message
        .ok_or_else(|| Failure::new(Code::InvalidName, "the collection's name is missing"))?
        .try_into()
}

fn hash(what: &'static str, bytes: &[u8]) -> Result<[u8; 32], DecodeError> {
    <[u8; 32]>::try_from(bytes).map_err(|_| {
        DecodeError::refused(format!("the {what} has {} bytes, expected 32", bytes.len()))
    })
}

fn pinned_snapshot(id: &[u8], source: u64) -> Result<Option<(SnapshotId, NodeId)>, DecodeError> {
    match (id.is_empty(), source) {
        (true, 0) => Ok(None),
        (true, _) => Err(DecodeError::refused("a pin names a source but no snapshot")),
        (false, source) => Ok(Some((Digest(hash("snapshot id", id)?), node_id(source)?))),
    }
}
