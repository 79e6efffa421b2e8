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
        }
    }
}
