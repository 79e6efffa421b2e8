//! Replies of the state machine on the wire.

use super::error::DecodeError;
use super::internal::v1 as wire;
use super::membership::node_id;
use crate::limits::BATCH_WRITES_MAX;
use crate::types::Reply;

impl From<&Reply> for wire::Reply {
    fn from(reply: &Reply) -> Self {
        let body = match reply {
            Reply::Done => wire::reply::Body::Done(wire::Done {}),
            Reply::Written { existed } => {
                wire::reply::Body::Written(wire::Written { existed: existed.clone() })
            }
            Reply::Session(session) => wire::reply::Body::Session(*session),
            Reply::Node(node) => wire::reply::Body::Node(node.0),
            Reply::CollectionCreated { incarnation, created_unix_ms } => {
                wire::reply::Body::CollectionCreated(wire::CollectionCreated {
                    incarnation: *incarnation,
                    created_unix_ms: *created_unix_ms,
                })
            }
            Reply::Collections { count, index } => {
                let (count, index) = (*count, *index);
                wire::reply::Body::CollectionsChanged(wire::CollectionsChanged { count, index })
            }
            Reply::Moment { lease, index, time_unix_ms } => {
                let (lease, index, time_unix_ms) = (*lease, *index, *time_unix_ms);
                wire::reply::Body::MomentKept(wire::MomentKept { lease, index, time_unix_ms })
            }
            Reply::Purged { rows, bytes, done } => {
                let (rows, bytes, done) = (*rows, *bytes, *done);
                wire::reply::Body::Purged(wire::Purged { rows, bytes, done })
            }
        };
        wire::Reply { body: Some(body) }
    }
}

impl TryFrom<wire::Reply> for Reply {
    type Error = DecodeError;

    fn try_from(message: wire::Reply) -> Result<Self, DecodeError> {
        match message.body {
            None => Err(DecodeError::unknown("reply", "without a known body")),
            Some(wire::reply::Body::Done(wire::Done {})) => Ok(Reply::Done),
            Some(wire::reply::Body::Written(written)) => {
                if written.existed.len() > BATCH_WRITES_MAX {
                    return Err(DecodeError::malformed("reply", "answers too many writes"));
                }
                Ok(Reply::Written { existed: written.existed })
            }
            Some(wire::reply::Body::Session(session)) => Ok(Reply::Session(session)),
            Some(wire::reply::Body::Node(node)) => Ok(Reply::Node(node_id(node)?)),
            Some(wire::reply::Body::CollectionCreated(created)) => Ok(Reply::CollectionCreated {
                incarnation: created.incarnation,
                created_unix_ms: created.created_unix_ms,
            }),
            Some(wire::reply::Body::CollectionsChanged(it)) => {
                Ok(Reply::Collections { count: it.count, index: it.index })
            }
            Some(wire::reply::Body::MomentKept(it)) => Ok(Reply::Moment {
                lease: it.lease,
                index: it.index,
                time_unix_ms: it.time_unix_ms,
            }),
            Some(wire::reply::Body::Purged(it)) => {
                Ok(Reply::Purged { rows: it.rows, bytes: it.bytes, done: it.done })
            }
        }
    }
}
