//! What clients did and saw, against the committed log: nothing acknowledged is lost, nothing
//! refused is done, and the order of the log is one that clients could have watched.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use ratoon::types::{Action, Index, Reply, WriteBatch};

use super::replay::Replay;

/// Names an operation.
pub type OperationId = usize;

/// What an operation was meant to do.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Read a key.
    Get(Vec<u8>),
    /// Write records.
    Write(WriteBatch),
}

/// How an operation ended, as its client sees it.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// Executed at this index, with this answer.
    Applied(Index, Reply),
    /// Executed, and a condition was false.
    ConditionFailed,
    /// Read as of an applied index: version and value.
    Read(Index, Option<(Index, Bytes)>),
    /// The cluster said that nothing was done.
    NotDone,
    /// Nobody knows; it may still happen.
    Unknown,
    /// An answer that makes no sense.
    Broken(String),
}

/// One operation of a client.
#[derive(Clone, Debug)]
pub struct Operation {
    /// What.
    pub effect: Effect,
    /// When it was asked.
    pub called_us: u64,
    /// When it was answered, and how; None: it never was.
    pub ended: Option<(u64, Outcome)>,
}

/// All operations of a run, in the order of their calls.
#[derive(Default)]
pub struct History {
    /// See the type.
    pub operations: Vec<Operation>,
}

impl History {
    /// A client asks for something.
    pub fn begin(&mut self, called_us: u64, effect: Effect) -> OperationId {
        self.operations.push(Operation { effect, called_us, ended: None });
        self.operations.len() - 1
    }

    /// A client got its answer.
    pub fn end(&mut self, id: OperationId, at_us: u64, outcome: Outcome) {
        self.operations[id].ended = Some((at_us, outcome));
    }

    /// What an operation was meant to do.
    pub fn effect(&self, id: OperationId) -> &Effect {
        &self.operations[id].effect
    }

    /// Compares every answer with the replay of the log.
    pub fn check_against(&self, replay: &Replay) -> Result<()> {
        let done: BTreeSet<&[u8]> =
            replay.executed.values().flat_map(|(batch, _)| values(batch)).collect();
        for operation in &self.operations {
            check_answer(operation, replay, &done)
                .with_context(|| format!("in the history: {operation:?}"))?;
        }
        self.check_order()
    }

    /// An operation that began after another had ended comes later in the log, too.
    fn check_order(&self) -> Result<()> {
        // Ends in order of time, with the index each had certainly reached.
        let mut ends: Vec<(u64, Index)> = Vec::new();
        for operation in &self.operations {
            if let Some((at, Outcome::Applied(index, _) | Outcome::Read(index, _))) =
                &operation.ended
            {
                ends.push((*at, *index));
            }
        }
        ends.sort_unstable();
        let (mut reached, mut next) = (0, 0);
        for operation in &self.operations {
            while let Some((_, index)) = ends.get(next).filter(|(at, _)| *at < operation.called_us)
            {
                reached = reached.max(*index);
                next += 1;
            }
            let fits = match &operation.ended {
                Some((_, Outcome::Applied(index, _))) => *index > reached,
                Some((_, Outcome::Read(index, _))) => *index >= reached,
                _ => true,
            };
            ensure!(fits, "index {reached} had been seen before this began: {operation:?}");
        }
        Ok(())
    }
}

fn check_answer(operation: &Operation, replay: &Replay, done: &BTreeSet<&[u8]>) -> Result<()> {
    match (&operation.effect, &operation.ended) {
        (Effect::Write(batch), Some((_, Outcome::Applied(index, reply)))) => {
            let (executed, answer) =
                replay.executed.get(index).context("an acknowledged write is lost")?;
            ensure!(executed == batch, "another write stands at its index: {executed:?}");
            ensure!(answer.as_ref() == Ok(reply), "the log answers {answer:?}");
        }
        (Effect::Write(batch), Some((_, Outcome::NotDone))) => {
            let was_done = values(batch).any(|value| done.contains(value));
            ensure!(!was_done, "it was done, though the cluster said it was not");
        }
        (Effect::Get(key), Some((_, Outcome::Read(index, seen)))) => {
            let expected = replay.value_at(key, *index);
            ensure!(expected == *seen, "the log has {expected:?} at index {index}");
        }
        _ => {}
    }
    Ok(())
}

/// Values that name a batch: each is written once in a run.
fn values(batch: &WriteBatch) -> impl Iterator<Item = &[u8]> {
    batch.writes.iter().filter_map(|write| match &write.action {
        Action::Put { value, .. } => Some(&value[..]),
        _ => None,
    })
}
