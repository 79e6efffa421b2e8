//! What membership changes leave in the state, and the pins of receivers.
//!
//! Raft decides who is a member; the state stores its decision beside the applied index, where a
//! snapshot finds it, and never objects: by the time an entry is applied, raft has changed.

use bytes::Bytes;

use crate::codec::stored::{self, AtIndex};
use crate::types::{
    Code, Command, ConfState, Failure, Index, NodeId, Pin, Reply, Request, SnapshotId,
};

use super::apply::Execution;
use super::error::{RequestError, StateError};
use super::key::Key;

impl Execution<'_> {
    /// Takes over raft's new membership, and carries out the command that came with it.
    ///
    /// The session of such a request is ignored: raft has made the change either way, and making
    /// it again changes nothing.
    pub(super) fn change_membership(
        &mut self,
        context: &Bytes,
        conf_state: &ConfState,
    ) -> Result<Result<Reply, Failure>, StateError> {
        let before = self.take_conf_state(conf_state);
        if context.is_empty() {
            return Ok(Ok(Reply::Done));
        }
        let request = match self.open(context)? {
            Ok(Some((request, _))) => request,
            Ok(None) => return Ok(Ok(Reply::Done)),
            Err(failure) => return Ok(Err(failure)),
        };
        Ok(match request {
            Request { command: Command::AddLearner(node), .. } => self.add_learner(node, &before),
            Request { command: Command::PromoteNode(node), .. } => {
                match self.facts.nodes.contains_key(&node) {
                    true => Ok(Reply::Done),
                    false => Err(node_not_found(node)),
                }
            }
            Request { command: Command::RemoveNode(node), .. } => self.remove_node(node),
            _ => Err(Failure::new(
                Code::InvalidArgument,
                "a conf change carries a command that is no membership change",
            )),
        })
    }

    /// Answers with the membership before.
    fn take_conf_state(&mut self, conf_state: &ConfState) -> ConfState {
        let mut after = conf_state.clone();
        let ConfState { voters, learners, voters_outgoing, learners_next, auto_leave: _ } =
            &mut after;
        // Raft keeps sets; replicas must store equal rows.
        for list in [voters, learners, voters_outgoing, learners_next] {
            list.sort_unstable();
        }
        if after != self.facts.conf_state {
            self.transaction.put(&Key::ConfState, &stored::ConfState::from(&after));
        }
        std::mem::replace(&mut self.facts.conf_state, after)
    }

    /// A new member needs the log from here on: whichever snapshot it will be given holds this
    /// entry, since it must know the receiver.
    fn add_learner(&mut self, node: NodeId, before: &ConfState) -> Result<Reply, Failure> {
        if !self.facts.nodes.contains_key(&node) {
            return Err(node_not_found(node));
        }
        if !before.contains(node) {
            self.put_pin(Pin {
                receiver: node,
                index: self.index(),
                snapshot: None,
                renewed_unix_ms: self.time_unix_ms(),
            });
        }
        Ok(Reply::Done)
    }

    fn remove_node(&mut self, node: NodeId) -> Result<Reply, Failure> {
        if self.facts.nodes.remove(&node).is_none() {
            return Err(node_not_found(node));
        }
        self.nodes_changed = true;
        self.transaction.delete(&Key::Node(node));
        let index = self.index();
        self.transaction.put(&Key::RemovedNode(node), &AtIndex { index });
        self.release_pin(node);
        Ok(Reply::Done)
    }

    /// Sets or renews a pin. While the snapshot stays the same it only moves forward, so that a
    /// late renewal takes nothing back; a renewal that names no snapshot keeps the one named
    /// before.
    pub(super) fn set_pin(
        &mut self,
        receiver: NodeId,
        index: Index,
        snapshot: Option<(SnapshotId, NodeId)>,
    ) -> Result<Reply, RequestError> {
        if !self.facts.nodes.contains_key(&receiver) {
            return Err(node_not_found(receiver).into());
        }
        if index > self.index() {
            return Err(Failure::new(
                Code::InvalidArgument,
                format!("a pin at {index} lies ahead of the log, which is at {}", self.index()),
            )
            .into());
        }
        let pinned = self.facts.pins.get(&receiver);
        let (index, snapshot) = match pinned {
            None => (index, snapshot),
            Some(pin) => {
                let id = |snapshot: Option<(SnapshotId, NodeId)>| snapshot.map(|(id, _)| id);
                let another = snapshot.is_some() && id(snapshot) != id(pin.snapshot);
                let index = if another { index } else { index.max(pin.index) };
                (index, snapshot.or(pin.snapshot))
            }
        };
        self.put_pin(Pin { receiver, index, snapshot, renewed_unix_ms: self.time_unix_ms() });
        Ok(Reply::Done)
    }

    pub(super) fn release_pin(&mut self, receiver: NodeId) -> Reply {
        if self.facts.pins.remove(&receiver).is_some() {
            self.transaction.delete(&Key::Pin(receiver));
            self.pins_changed = true;
        }
        Reply::Done
    }

    fn put_pin(&mut self, pin: Pin) {
        self.transaction.put(&Key::Pin(pin.receiver), &stored::Pin::from(&pin));
        self.facts.pins.insert(pin.receiver, pin);
        self.pins_changed = true;
    }
}

/// The refusal of a node that is not enrolled.
pub(super) fn node_not_found(node: NodeId) -> Failure {
    Failure::new(Code::NodeNotFound, format!("node {node} is not enrolled, or was removed"))
}
