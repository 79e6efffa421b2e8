//! A pool of client sessions, each with at most one command under way.
//!
//! The cluster remembers one answer a session, so concurrent writes take a session each; the pool
//! opens as many as were ever needed at once, up to its bound. A session comes back to the pool when
//! its lease is dropped, even by a cancelled call: its sequence has moved on, so that whatever became
//! of the cancelled command, it is not mistaken for a later one.

use std::sync::{Mutex, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::types::SessionSequence;

/// Sessions nobody uses at the moment, and the bound on all of them.
pub(super) struct Sessions {
    /// Each with the last sequence it has used. Taken from the end: the same few stay in use.
    idle: Mutex<Vec<SessionSequence>>,
    places: Semaphore,
}

/// The right to run one command at a time.
pub(super) struct Lease<'a> {
    sessions: &'a Sessions,
    /// None until a session is opened, and after one has expired.
    session: Option<SessionSequence>,
    _place: SemaphorePermit<'a>,
}

impl Sessions {
    /// At most `writes_max` sessions; at least one.
    pub(super) fn new(writes_max: usize) -> Self {
        let places = writes_max.clamp(1, Semaphore::MAX_PERMITS);
        Sessions { idle: Mutex::new(Vec::new()), places: Semaphore::new(places) }
    }

    /// Waits for a place and takes an idle session, if there is one.
    pub(super) async fn lease(&self) -> Lease<'_> {
        let place = self.places.acquire().await.expect("the semaphore is never closed");
        let session = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Lease { sessions: self, session, _place: place }
    }
}

impl Lease<'_> {
    /// The next command's place in the session; None if a session must be opened first.
    pub(super) fn next(&mut self) -> Option<SessionSequence> {
        let session = self.session.as_mut()?;
        session.sequence += 1;
        Some(*session)
    }

    /// Starts using a session that has just been opened; answers with its first command's place.
    pub(super) fn opened(&mut self, session: u64) -> SessionSequence {
        *self.session.insert(SessionSequence { session, sequence: 1 })
    }

    /// The cluster has forgotten the session.
    pub(super) fn expired(&mut self) {
        self.session = None;
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            self.sessions.idle.lock().unwrap_or_else(PoisonError::into_inner).push(session);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_session_never_repeats_a_sequence_even_after_a_cancelled_command() {
        let sessions = Sessions::new(1);
        let mut lease = sessions.lease().await;
        assert_eq!(lease.next(), None);
        assert_eq!(lease.opened(7), SessionSequence { session: 7, sequence: 1 });
        // The call is dropped in the middle; what it sent may still arrive.
        drop(lease);
        let mut lease = sessions.lease().await;
        assert_eq!(lease.next(), Some(SessionSequence { session: 7, sequence: 2 }));
    }

    #[tokio::test]
    async fn concurrent_commands_take_sessions_of_their_own() {
        let sessions = Sessions::new(2);
        let mut first = sessions.lease().await;
        first.opened(1);
        let mut second = sessions.lease().await;
        assert_eq!(second.next(), None);
        second.opened(2);
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(20), sessions.lease());
        assert!(waiting.await.is_err(), "a third command waits for a place");
        drop(second);
        let mut third = sessions.lease().await;
        assert_eq!(third.next().unwrap().session, 2);
    }

    #[tokio::test]
    async fn an_expired_session_does_not_come_back() {
        let sessions = Sessions::new(1);
        let mut lease = sessions.lease().await;
        lease.opened(1);
        lease.expired();
        drop(lease);
        assert_eq!(sessions.lease().await.next(), None);
    }
}
