//! One committed entry: its order, its time, its command, and the rows that every entry writes.
//!
//! A command judges everything before it writes anything, so that a refusal leaves no trace but
//! the applied index, the time, and the session's memory of the refusal.

use bytes::Bytes;

use crate::codec::stored::{self, AtIndex, OwnedRow};
use crate::codec::{DecodeError, decode_entry, decode_request};
use crate::types::{Code, Command, Committed, Failure, Index, Payload, Reply, Request};

use super::error::{RequestError, StateError};
use super::key::Key;
use super::overlay::Transaction;
use super::rows;
use super::{Facts, Outcome};

/// One entry under way.
pub(super) struct Execution<'a> {
    /// The rows kept in memory; `applied` is this entry already.
    pub(super) facts: &'a mut Facts,
    /// The store under the batch.
    pub(super) transaction: Transaction<'a>,
    /// A pin was set, moved or released.
    pub(super) pins_changed: bool,
    /// A node was enrolled, changed or removed.
    pub(super) nodes_changed: bool,
    /// A content digest at this index was asked for.
    pub(super) digest_due: bool,
}

/// Applies the entry after the last one.
pub(super) fn apply(
    facts: &mut Facts,
    transaction: Transaction<'_>,
    committed: &Committed,
) -> Result<Outcome, StateError> {
    let applied = &mut facts.applied;
    if committed.index != applied.index.saturating_add(1) || committed.term < applied.term {
        return Err(StateError::OutOfOrder {
            index: committed.index,
            term: committed.term,
            applied: applied.index,
            applied_term: applied.term,
        });
    }
    applied.index = committed.index;
    applied.term = committed.term;
    let counters = facts.counters.clone();
    let mut execution = Execution {
        facts,
        transaction,
        pins_changed: false,
        nodes_changed: false,
        digest_due: false,
    };
    let (index, reply) = match &committed.payload {
        Payload::Empty => (committed.index, Ok(Reply::Done)),
        Payload::Command(entry) => match execution.open(entry)? {
            Ok(Some((request, bytes))) => execution.run(&request, &bytes)?,
            Ok(None) => (committed.index, Ok(Reply::Done)),
            Err(failure) => (committed.index, Err(failure)),
        },
        Payload::ConfChange { context, conf_state } => {
            (committed.index, execution.change_membership(context, conf_state)?)
        }
    };
    execution.close(&counters);
    let Execution { pins_changed, nodes_changed, digest_due, .. } = execution;
    Ok(Outcome { index, reply, pins_changed, nodes_changed, digest_due })
}

impl Execution<'_> {
    /// This entry's index.
    pub(super) fn index(&self) -> Index {
        self.facts.applied.index
    }

    /// This entry's commit time.
    pub(super) fn time_unix_ms(&self) -> u64 {
        self.facts.applied.time_unix_ms
    }

    /// The row under `key`, as the entries before this one left it.
    pub(super) fn find<T: OwnedRow>(&self, key: &Key) -> Result<Option<T>, StateError> {
        let bytes = self.transaction.get(key)?;
        bytes.map(|bytes| rows::decode(key, &bytes)).transpose()
    }

    /// Takes the entry's time and its request, decoded and as it was; None if it only carries the
    /// time.
    ///
    /// Bytes that no release reads are refused, alike on every replica. What a newer release may
    /// read halts this node: its peers may have executed it.
    pub(super) fn open(
        &mut self,
        entry: &Bytes,
    ) -> Result<Result<Option<(Request, Bytes)>, Failure>, StateError> {
        let (time_unix_ms, request) = match decode_entry(entry.clone()) {
            Ok(entry) => entry,
            Err(error) => return self.refuse(error),
        };
        let applied = &mut self.facts.applied;
        // A leader whose clock lags must not take the commit time back.
        applied.time_unix_ms = applied.time_unix_ms.max(time_unix_ms);
        if request.is_empty() {
            return Ok(Ok(None));
        }
        match decode_request(request.clone()) {
            Ok(decoded) => Ok(Ok(Some((decoded, request)))),
            Err(error) => self.refuse(error),
        }
    }

    fn refuse<T>(&self, error: DecodeError) -> Result<Result<T, Failure>, StateError> {
        match error {
            DecodeError::Unknown { .. } => Err(StateError::TooOld {
                problem: format!("entry {} holds what {error}", self.index()),
            }),
            DecodeError::Malformed { .. } | DecodeError::Refused(_) => Ok(Err(error.into())),
        }
    }

    /// Executes a command, whatever session it belongs to.
    pub(super) fn execute(
        &mut self,
        command: &Command,
    ) -> Result<Result<Reply, Failure>, StateError> {
        match self.dispatch(command) {
            Ok(reply) => Ok(Ok(reply)),
            Err(RequestError::Refused(failure)) => Ok(Err(failure)),
            Err(RequestError::State(error)) => Err(error),
        }
    }

    fn dispatch(&mut self, command: &Command) -> Result<Reply, RequestError> {
        match command {
            Command::CreateNamespace(name) => self.create_namespace(name),
            Command::DropNamespace(name) => self.drop_namespace(name),
            Command::CreateCollection(name) => self.create_collection(name),
            Command::DropCollection(name) => self.drop_collection(name),
            Command::Write(batch) => self.write(batch),
            Command::OpenSession => Ok(self.open_session()?),
            Command::CreateToken { secret_hash, expires_unix_ms, learner } => {
                self.create_token(secret_hash, *expires_unix_ms, *learner)
            }
            Command::RedeemToken { secret_hash, addresses } => {
                self.redeem_token(secret_hash, addresses)
            }
            Command::SetNodeAddresses { node, addresses } => {
                self.set_node_addresses(*node, addresses)
            }
            Command::AddLearner(_) | Command::PromoteNode(_) | Command::RemoveNode(_) => {
                // Without raft's own change beside it the nodes here and raft's would differ.
                Err(Failure::new(
                    Code::InvalidArgument,
                    "a membership change travels in a conf change only",
                )
                .into())
            }
            Command::SetPin { receiver, index, snapshot } => {
                self.set_pin(*receiver, *index, *snapshot)
            }
            Command::ReleasePin(receiver) => Ok(self.release_pin(*receiver)),
            Command::ComputeDigest => {
                self.digest_due = true;
                Ok(Reply::Done)
            }
        }
    }

    /// Writes what every entry writes.
    ///
    /// Of one millisecond the times family keeps the last index only. So the row of the greatest
    /// time not above T names the last index with a commit time of at most T, and the commit time
    /// of an index is that of the first row whose index is not below it.
    fn close(&mut self, counters_before: &stored::Counters) {
        let applied = self.facts.applied;
        if self.facts.counters != *counters_before {
            self.transaction.put(&Key::Counters, &self.facts.counters);
        }
        self.transaction.put(&Key::Time(applied.time_unix_ms), &AtIndex { index: applied.index });
        self.transaction.put(&Key::Applied, &applied);
    }
}
