//! Join tokens: remembered by the hash of their secret, good for one node, for a while.
//!
//! Used and expired ones are remembered for a time, so that whoever shows one again is told what
//! is wrong with it. Expiry is judged by commit time, so that every replica judges alike.

use crate::codec::stored::{self, Token};
use crate::kv::Family;
use crate::limits::{
    ADDRESS_BYTES_MAX, CLOCK_SKEW_MS_MAX, NODES_MAX, TOKEN_TTL_MS_MAX, TOKENS_MAX,
    TOKENS_REMEMBERED_MAX,
};
use crate::types::{Addresses, Code, Failure, Node, NodeId, Reply};

use super::apply::Execution;
use super::error::{RequestError, StateError};
use super::key::{Key, Kind};
use super::rows;

/// What to do about a token that is of no use.
const NEW_TOKEN: &str = "create a new token on any node: ratoon token create";

impl Execution<'_> {
    pub(super) fn create_token(
        &mut self,
        secret_hash: &[u8; 32],
        expires_unix_ms: u64,
        learner: bool,
    ) -> Result<Reply, RequestError> {
        let now = self.time_unix_ms();
        // Whoever chose the expiry read another clock than the leader's.
        if expires_unix_ms > now.saturating_add(TOKEN_TTL_MS_MAX + CLOCK_SKEW_MS_MAX) {
            return Err(Failure::new(
                Code::InvalidArgument,
                format!("a join token lives at most {TOKEN_TTL_MS_MAX} ms"),
            )
            .into());
        }
        if expires_unix_ms <= now {
            return Err(Failure::new(
                Code::InvalidArgument,
                "the join token would be expired from the start",
            )
            .hint("check the clocks of the nodes")
            .into());
        }
        let key = Key::Token(*secret_hash);
        if self.find::<Token>(&key)?.is_some() {
            return Err(Failure::new(Code::AlreadyExists, "the join token exists already").into());
        }
        self.make_room_for_a_token()?;
        self.transaction.put(&key, &Token { expires_unix_ms, learner, used_by: None });
        Ok(Reply::Done)
    }

    /// Forgets tokens long expired, and the longest expired ones if there are still too many.
    /// Creating a token is rare and the table small, so it is simply read through.
    fn make_room_for_a_token(&mut self) -> Result<(), RequestError> {
        let now = self.time_unix_ms();
        let mut tokens = self.tokens()?;
        let usable = tokens
            .iter()
            .filter(|(_, token)| token.used_by.is_none() && token.expires_unix_ms > now);
        if usable.count() >= TOKENS_MAX {
            return Err(too_many_tokens(TOKENS_MAX).into());
        }
        tokens.sort_by_key(|(hash, token)| (token.expires_unix_ms, *hash));
        let mut left = tokens.len();
        for (hash, token) in tokens {
            let expired = token.expires_unix_ms <= now;
            let long_expired = token.expires_unix_ms.saturating_add(TOKEN_TTL_MS_MAX) <= now;
            if long_expired || (expired && left >= TOKENS_REMEMBERED_MAX) {
                self.transaction.delete(&Key::Token(hash));
                left -= 1;
            }
        }
        if left >= TOKENS_REMEMBERED_MAX {
            return Err(too_many_tokens(TOKENS_REMEMBERED_MAX).into());
        }
        Ok(())
    }

    fn tokens(&self) -> Result<Vec<([u8; 32], Token)>, StateError> {
        let all = self.transaction.rows(Family::Meta, &Kind::tokens(), usize::MAX)?;
        let mut tokens = Vec::with_capacity(all.len());
        for (bytes, row) in all {
            let key = Key::decode(Family::Meta, &bytes)?;
            if let Key::Token(hash) = key {
                tokens.push((hash, rows::decode(&key, &row)?));
            }
        }
        Ok(tokens)
    }

    /// The token is used up by the very entry that enrols the node.
    pub(super) fn redeem_token(
        &mut self,
        secret_hash: &[u8; 32],
        addresses: &Addresses,
    ) -> Result<Reply, RequestError> {
        validate_addresses(addresses)?;
        let key = Key::Token(*secret_hash);
        let Some(token) = self.find::<Token>(&key)? else {
            return Err(refused(Code::TokenUnknown, "the cluster does not know the join token"));
        };
        if let Some(node) = token.used_by {
            let failure =
                Failure::new(Code::TokenUsed, format!("the join token was used by node {node}"));
            // The machine itself does not know that id, if its join was cut off.
            let hint = format!(
                "{NEW_TOKEN}; if the join of this machine was cut off, take out what it left: \
                 ratoon node remove {node}"
            );
            return Err(failure.hint(hint).into());
        }
        if token.expires_unix_ms <= self.time_unix_ms() {
            return Err(refused(Code::TokenExpired, "the join token has expired"));
        }
        if self.facts.nodes.len() >= NODES_MAX {
            return Err(Failure::new(
                Code::LimitReached,
                format!("the cluster has its limit of {NODES_MAX} nodes"),
            )
            .hint("remove a node first")
            .into());
        }
        let id = NodeId(self.facts.counters.next_node);
        self.facts.counters.next_node =
            id.0.checked_add(1)
                .ok_or_else(|| StateError::corrupt("the counter of node ids is at its end"))?;
        self.transaction.put(&key, &Token { used_by: Some(id.0), ..token });
        self.put_node(Node { id, addresses: addresses.clone(), learner: token.learner });
        Ok(Reply::Node(id))
    }

    pub(super) fn set_node_addresses(
        &mut self,
        node: NodeId,
        addresses: &Addresses,
    ) -> Result<Reply, RequestError> {
        validate_addresses(addresses)?;
        let Some(known) = self.facts.nodes.get(&node) else {
            return Err(super::membership::node_not_found(node).into());
        };
        if known.addresses != *addresses {
            self.put_node(Node { addresses: addresses.clone(), ..known.clone() });
        }
        Ok(Reply::Done)
    }

    fn put_node(&mut self, node: Node) {
        self.transaction.put(&Key::Node(node.id), &stored::Node::from(&node));
        self.facts.nodes.insert(node.id, node);
        self.nodes_changed = true;
    }
}

fn validate_addresses(addresses: &Addresses) -> Result<(), Failure> {
    let longest = [&addresses.raft, &addresses.bulk, &addresses.api].map(|text| text.len());
    match longest.into_iter().max() {
        Some(bytes) if bytes > ADDRESS_BYTES_MAX => Err(Failure::new(
            Code::InvalidArgument,
            format!("an address has {bytes} bytes, the limit is {ADDRESS_BYTES_MAX}"),
        )),
        _ => Ok(()),
    }
}

fn refused(code: Code, problem: &str) -> RequestError {
    Failure::new(code, problem).hint(NEW_TOKEN).into()
}

fn too_many_tokens(limit: usize) -> Failure {
    // Later, because tokens expire by themselves.
    let mut failure = Failure::new(
        Code::LimitReached,
        format!("the cluster remembers its limit of {limit} join tokens"),
    );
    failure.retry = crate::types::Retry::Later;
    failure.hint("wait until some of them expire")
}
