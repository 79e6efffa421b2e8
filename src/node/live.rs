//! The live generation of the state, the one being prepared, and digests of its content.

use std::collections::BTreeMap;
use std::sync::{Mutex, RwLock};

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
