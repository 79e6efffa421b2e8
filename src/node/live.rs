//! The live generation of the state, the one being prepared, the time by which it judges, and digests
//! of its content.

use std::collections::BTreeMap;
use std::sync::{Mutex, RwLock};
use std::time::Instant;

use slog::Logger;
use tokio::sync::watch;

use crate::limits::MIB;
use crate::state::{ContentDigest, DigestRun, State, StateError};
use crate::storage::{Generation, StateDb};
use crate::types::{Index, SnapshotId};

/// The state database that reads are served from. None before a joiner's first install.
#[derive(Default)]
pub(super) struct Live {
    current: RwLock<Option<(Generation, StateDb)>>,
}

impl Live {
    pub fn new(current: Option<(Generation, StateDb)>) -> Self {
        Live { current: RwLock::new(current) }
    }

    pub fn current(&self) -> Option<(Generation, StateDb)> {
        self.current.read().expect("no code panics while it holds this lock").clone()
    }

    /// Makes another database the live one; returns the old.
    pub fn switch(&self, generation: Generation, db: StateDb) -> Option<(Generation, StateDb)> {
        let mut current = self.current.write().expect("no code panics while it holds this lock");
        current.replace((generation, db))
    }
}

/// A generation opened and checked, waiting for raft to take its snapshot.
#[derive(Default)]
pub(super) struct Prepared {
    slot: Mutex<Option<(SnapshotId, u64, StateDb, State)>>,
}

impl Prepared {
    pub fn put(&self, id: SnapshotId, generation: u64, db: StateDb, state: State) {
        *self.slot.lock().expect("no code panics while it holds this lock") =
            Some((id, generation, db, state));
    }

    pub fn take(&self, generation: u64) -> Option<(StateDb, State)> {
        let mut slot = self.slot.lock().expect("no code panics while it holds this lock");
        slot.take_if(|(_, prepared, ..)| *prepared == generation)
            .map(|(_, _, db, state)| (db, state))
    }

    pub fn is_empty(&self) -> bool {
        self.slot.lock().expect("no code panics while it holds this lock").is_none()
    }

    /// Closes what is prepared, if it is this snapshot.
    pub fn clear(&self, id: SnapshotId) {
        let mut slot = self.slot.lock().expect("no code panics while it holds this lock");
        slot.take_if(|(prepared, ..)| *prepared == id);
    }
}

/// The cluster's commit time, as far as this node can tell. Leaders stamp it and it never goes back,
/// so one leader with a fast clock takes it ahead of everybody's clock for long.
pub(super) struct CommitClock {
    /// The newest commit time, Unix ms, and when it was applied here.
    newest: Mutex<(u64, Instant)>,
}

impl CommitClock {
    /// `unix_ms`: commit time of the last entry that the state holds; 0 without one.
    pub fn new(unix_ms: u64) -> Self {
        CommitClock { newest: Mutex::new((unix_ms, Instant::now())) }
    }

    /// An entry of this commit time was applied, or a snapshot that ends with one.
    pub fn note(&self, unix_ms: u64) {
        let mut newest = self.newest.lock().expect("no code panics while it holds this lock");
        if unix_ms > newest.0 {
            *newest = (unix_ms, Instant::now());
        }
    }

    /// The time that an entry proposed now would bear, Unix ms, if the leader's clock reads
    /// `clock_unix_ms` or less. Too early by the time in which nothing was applied before a restart.
    pub fn now_unix_ms(&self, clock_unix_ms: u64) -> u64 {
        let (newest, since) = *self.newest.lock().expect("no code panics while it holds this lock");
        let elapsed_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        clock_unix_ms.max(newest.saturating_add(elapsed_ms))
    }
}

/// Digests kept for whoever asks, newest last.
const DIGESTS_KEPT: usize = 4;
/// Bytes hashed between looks at whether the digest is still wanted.
const DIGEST_STEP_BYTES: u64 = 16 * MIB as u64;

type DigestResult = Option<Result<ContentDigest, String>>;

/// Content digests by index; each is computed once, off the apply thread.
pub(super) struct Digests {
    logger: Logger,
    runtime: tokio::runtime::Handle,
    known: Mutex<BTreeMap<Index, watch::Receiver<DigestResult>>>,
}

impl Digests {
    pub fn new(logger: Logger, runtime: tokio::runtime::Handle) -> Self {
        Digests { logger, runtime, known: Mutex::default() }
    }

    /// Begins to hash the state as it is now, which is at `index`.
    pub fn start(&self, index: Index, db: &StateDb) {
        let view = db.view_for_sweep();
        let (sender, receiver) = watch::channel(None);
        {
            let mut known = self.known.lock().expect("no code panics while it holds this lock");
            known.insert(index, receiver);
            while known.len() > DIGESTS_KEPT {
                known.pop_first();
            }
        }
        let logger = self.logger.clone();
        self.runtime.spawn_blocking(move || {
            let result = compute(&*view, &sender);
            if let Some(result) = result {
                if let Err(error) = &result {
                    slog::error!(logger, "a content digest failed"; "index" => index,
                        "error" => %error);
                }
                sender.send_replace(Some(result.map_err(|error| error.to_string())));
            }
        });
    }

    /// The digest at `index`, once it is there. None: it never will be here.
    pub async fn wait(&self, index: Index) -> Option<Result<ContentDigest, String>> {
        let receiver = {
            let known = self.known.lock().expect("no code panics while it holds this lock");
            known.get(&index).cloned()
        };
        let mut receiver = receiver?;
        let result = receiver.wait_for(Option::is_some).await.ok()?;
        result.clone()
    }
}

/// None: nobody keeps the result any more.
fn compute(
    view: &dyn crate::kv::View,
    wanted: &watch::Sender<DigestResult>,
) -> Option<Result<ContentDigest, StateError>> {
    let mut run = match DigestRun::new(view) {
        Ok(run) => run,
        Err(error) => return Some(Err(error)),
    };
    loop {
        if wanted.receiver_count() == 0 {
            return None;
        }
        match run.step(view, DIGEST_STEP_BYTES) {
            Ok(None) => {}
            Ok(Some(digest)) => return Some(Ok(digest)),
            Err(error) => return Some(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_time_ahead_of_the_clock_counts_and_goes_on() {
        let hour_ms = 3_600_000;
        let clock = CommitClock::new(0);
        assert_eq!(clock.now_unix_ms(hour_ms), hour_ms);
        clock.note(3 * hour_ms);
        // An entry of before cannot take it back.
        clock.note(2 * hour_ms);
        std::thread::sleep(std::time::Duration::from_millis(5));
        let now = clock.now_unix_ms(hour_ms);
        assert!(now >= 3 * hour_ms + 5 && now < 4 * hour_ms, "{now}");
        assert_eq!(clock.now_unix_ms(9 * hour_ms), 9 * hour_ms);
    }
}
