//! Requests and commands of the raft log on the wire.
//!
//! Decoding checks what a type promises (names, fixed lengths, known enum values) and the bounds
//! of single fields; whether a command makes sense is judged by the state machine at apply.

use bytes::Bytes;

use super::error::DecodeError;
use super::internal::v1 as wire;
use super::membership::{node_id, required_addresses};
use super::v1;
use crate::limits::BATCH_WRITES_MAX;
use crate::types::{
    Action, Code, CollectionName, Command, Condition, Digest, Failure, Name, NodeId, Request,
    SessionSequence, SnapshotId, Write, WriteBatch,
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
            Command::CreateCollection(name) => {
                To::CreateCollection(wire::CreateCollection { collection: Some(name.into()) })
            }
            Command::DropCollection(name) => {
                To::DropCollection(wire::DropCollection { collection: Some(name.into()) })
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
            From::CreateCollection(it) => Command::CreateCollection(collection(it.collection)?),
            From::DropCollection(it) => Command::DropCollection(collection(it.collection)?),
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
            Action::Put { value, content_type } => {
                (ActionKind::Put, value.clone(), content_type.clone())
            }
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
            Ok(ActionKind::Put) => {
                Action::Put { value: message.value, content_type: message.content_type }
            }
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
