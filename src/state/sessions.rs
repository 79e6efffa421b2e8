//! Client sessions: a command sent twice is executed once.
//!
//! A session remembers its last command, its sequence and outcome, refusals included. Another
//! command under the same number is refused: its caller would take the answer for its own. At most
//! `SESSIONS_MAX` are kept; a new one beyond that evicts the least recently used. Uses are ordered
//! by log index, so every replica evicts the same session. A command of an evicted session is
//! never executed: nobody could say whether it had been before.

use crate::codec::stored::{self, Answer, AtIndex};
use crate::kv::Family;
use crate::limits::SESSIONS_MAX;
use crate::types::{Code, Digest, Failure, Index, Reply, Request, SessionSequence};

use super::apply::Execution;
use super::error::StateError;
use super::key::{Key, Kind};

/// Where a command was executed, and what came of it.
type Executed = (Index, Result<Reply, Failure>);

impl Execution<'_> {
    /// Executes a request, or repeats the answer it was given before. `bytes` are the request as
    /// the log holds it, alike on every replica.
    pub(super) fn run(&mut self, request: &Request, bytes: &[u8]) -> Result<Executed, StateError> {
        let index = self.index();
        let Some(place) = request.session else {
            return Ok((index, self.execute(&request.command)?));
        };
        let key = Key::Session(place.session);
        let Some(mut session) = self.find::<stored::Session>(&key)? else {
            let failure = Failure::new(
                Code::SessionExpired,
                format!("session {} was never opened, or was evicted", place.session),
            );
            return Ok((
                index,
                Err(failure.hint("read back what the command did, then open a new session")),
            ));
        };
        // Touched before anything is executed, so that no command evicts its own session.
        self.touch(place.session, &mut session);
        let executed = if place.sequence > session.sequence {
            let result = self.execute(&request.command)?;
            session.sequence = place.sequence;
            let command = fingerprint(bytes);
            session.outcome = Some(Answer { index, command, outcome: (&result).into() });
            (index, result)
        } else if place.sequence == session.sequence {
            repeat(index, place, &session, bytes)?
        } else {
            let failure = Failure::new(
                Code::SequenceStale,
                format!(
                    "session {} is at sequence {}, the command has {}",
                    place.session, session.sequence, place.sequence
                ),
            );
            (index, Err(failure))
        };
        self.transaction.put(&key, &session);
        Ok(executed)
    }

    /// Moves a session to the end of the order of eviction.
    fn touch(&mut self, id: u64, session: &mut stored::Session) {
        self.transaction.delete(&Key::SessionUse { index: session.last_use, session: id });
        session.last_use = self.index();
        self.note_use(id);
    }

    fn note_use(&mut self, id: u64) {
        let index = self.index();
        self.transaction.put(&Key::SessionUse { index, session: id }, &AtIndex { index });
    }

    pub(super) fn open_session(&mut self) -> Result<Reply, StateError> {
        while self.facts.counters.sessions >= SESSIONS_MAX as u64 {
            self.evict_session()?;
        }
        let id = self.index();
        let session = stored::Session { last_use: id, sequence: 0, outcome: None };
        self.transaction.put(&Key::Session(id), &session);
        self.note_use(id);
        self.facts.counters.sessions += 1;
        Ok(Reply::Session(id))
    }

    fn evict_session(&mut self) -> Result<(), StateError> {
        let oldest = self.transaction.rows(Family::Meta, &Kind::session_uses(), 1)?;
        let Some((bytes, _)) = oldest.first() else {
            return Err(StateError::corrupt("more sessions are counted than used"));
        };
        let key = Key::decode(Family::Meta, bytes)?;
        let Key::SessionUse { session, .. } = key else {
            return Err(StateError::corrupt("a session's use has another row's key"));
        };
        self.transaction.delete(&key);
        self.transaction.delete(&Key::Session(session));
        self.facts.counters.sessions -= 1;
        Ok(())
    }
}

fn repeat(
    index: Index,
    place: SessionSequence,
    session: &stored::Session,
    bytes: &[u8],
) -> Result<Executed, StateError> {
    let SessionSequence { session: id, sequence } = place;
    let answer = session.outcome.clone().ok_or_else(|| {
        StateError::corrupt(format!("session {id} does not remember its last answer"))
    })?;
    if answer.command != fingerprint(bytes) {
        let failure = Failure::new(
            Code::InvalidArgument,
            format!(
                "sequence {sequence} of session {id} was another command's, at {}",
                answer.index
            ),
        );
        return Ok((
            index,
            Err(failure.hint("give each command of a session a number of its own")),
        ));
    }
    let result = answer.outcome.into_result();
    Ok((answer.index, result.map_err(|error| StateError::row(Family::Meta, error))?))
}

/// Tells one request from another.
fn fingerprint(bytes: &[u8]) -> [u8; 16] {
    let digest = Digest::of(bytes).0;
    std::array::from_fn(|at| digest[at])
}
