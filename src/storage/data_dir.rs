//! The data directory of a node: who holds it, which state is the live one, and how a snapshot's
//! state takes its place.
//!
//! ```text
//! DATA/
//!   LOCK                 held by the running process (flock)
//!   SEEDS                addresses of nodes to ask first, of a node that has joined
//!   raft/                the raft log; created after the first state, if the node begins with one
//!   identity/            0700; created last, so that its presence means: a node lives here
//!   state/<generation>/  one state database each
//!   state/CURRENT        the live generation
//!   state/PLAN           an install that has begun
//!   snapshots/  incoming/
//!   LOST                 this node lost acknowledged entries and never starts again
//! ```
//!
//! An install goes: PLAN durable, raft log reset to the snapshot, CURRENT flipped, PLAN removed; old
//! generations are deleted later. Each step is durable before the next begins, and may be done twice; so a
//! crash anywhere leaves the node wholly before the install (no PLAN yet) or wholly after it (once
//! `redo_install_at_boot` has run). A damaged file here is an error for a person to see: it never
//! leads to the deletion of a state.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, statvfs};

use super::{RaftLog, StorageError, durable_file};
use crate::codec::{
    INSTALL_PLAN_BYTES_MAX, InstallPlanRecord, decode_install_plan, encode_install_plan, frame,
    local,
};
use crate::fault::{self, Point};
use crate::raft::{HardState, LogStart, LogStore};
use crate::types::{Digest, SnapshotId};

/// Number of a state directory. Grows by each install; never used twice for different states that
/// were live.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Generation(pub u64);

/// What a node has decided to become.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InstallPlan {
    /// The snapshot being installed.
    pub snapshot: SnapshotId,
    /// Where the raft log starts afterwards: the snapshot's index and term.
    pub start: LogStart,
    /// The hard state afterwards; its commit is `start.index`.
    pub hard_state: HardState,
    /// The generation directory that holds the snapshot's state, opened and checked before.
    pub generation: Generation,
}

/// An exclusively held data directory.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// The lock lives as long as this file is open.
    _lock: File,
}

const CURRENT_PLACE: &[u8] = b"current generation";
const CURRENT_VERSION: u8 = 1;
const CURRENT_BYTES_MAX: usize = 64;

const LOST_BYTES_MAX: usize = 64 * 1024;

const SEEDS_PLACE: &[u8] = b"seeds";
const SEEDS_VERSION: u8 = 1;
const SEEDS_BYTES_MAX: usize = 64 * 1024;

impl DataDir {
    /// Takes hold of the data directory at `path`, making what is missing of its layout. `InUse` if
    /// another process, or another `DataDir` of this one, holds it.
    pub fn open(path: &Path) -> Result<DataDir, StorageError> {
        fs::create_dir_all(path).map_err(StorageError::io_at("creating", path))?;
        let lock_path = path.join("LOCK");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(StorageError::io_at("opening", &lock_path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(StorageError::InUse { path: path.to_owned() });
            }
            Err(errno) => return Err(StorageError::io_at("locking", &lock_path)(errno.into())),
        }
        let directory = DataDir { path: path.to_owned(), _lock: lock };
        for (subdirectory, mode) in [
            (directory.state(), 0o755),
            (directory.snapshots(), 0o755),
            (directory.incoming(), 0o755),
        ] {
            make_directory(&subdirectory, mode)?;
        }
        durable_file::sync_directory(path)?;
        durable_file::sync_parent(path)?;
        fault::fail(Point::DataDirectoryMade).map_err(StorageError::io_at("laying out", path))?;
        Ok(directory)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keys and names of the node; mode 0700.
    pub fn identity(&self) -> PathBuf {
        self.path.join("identity")
    }

    /// The raft log's directory; absent until the log is created.
    pub fn raft(&self) -> PathBuf {
        self.path.join("raft")
    }

    /// Stored snapshots.
    pub fn snapshots(&self) -> PathBuf {
        self.path.join("snapshots")
    }

    /// Snapshots on their way in.
    pub fn incoming(&self) -> PathBuf {
        self.path.join("incoming")
    }

    /// The directory of one generation of the state.
    pub fn generation(&self, generation: Generation) -> PathBuf {
        self.state().join(generation.0.to_string())
    }

    /// The live generation; None in a directory that was never set up.
    pub fn current_generation(&self) -> Result<Option<Generation>, StorageError> {
        let path = self.current();
        let Some(bytes) = durable_file::read(&path, CURRENT_BYTES_MAX)? else { return Ok(None) };
        let [generation] = frame::open_integers(CURRENT_VERSION, CURRENT_PLACE, &bytes)
            .map_err(|error| StorageError::corrupt(format!("reading {}", path.display()), error))?;
        Ok(Some(Generation(generation)))
    }

    /// Makes the first state the live one; to be called once it is flushed, and before the raft log
    /// is created. Refused once there is a live one: later ones come by install.
    pub fn set_first_generation(&self, generation: Generation) -> Result<(), StorageError> {
        let attempted = "setting the first generation of the state";
        if let Some(current) = self.current_generation()? {
            return Err(refused(attempted, format!("generation {} is live", current.0)));
        }
        self.require_generation(attempted, generation)?;
        self.flip_current(generation)
    }

    /// The generation after the live one, and its directory, which is absent on return: leftovers
    /// of an install that never began are removed. Refused while an install is under way. Where none
    /// is live, `check_current` must have said that none ever was.
    pub fn next_generation(&self) -> Result<(Generation, PathBuf), StorageError> {
        let attempted = "preparing the next generation of the state";
        if self.pending_install()?.is_some() {
            return Err(refused(attempted, "an install has begun and is not finished".to_owned()));
        }
        let current = self.current_generation()?;
        let next = Generation(current.map_or(1, |current| current.0 + 1));
        for leftover in self.generations()?.into_iter().filter(|found| *found >= next) {
            durable_file::remove_directory(&self.generation(leftover))?;
        }
        Ok((next, self.generation(next)))
    }

    /// Tells a joiner that waits for its first snapshot from a node whose CURRENT is gone: clearing
    /// leftovers there could delete the only state there is. To be called at boot.
    pub fn check_current(&self, log: &RaftLog) -> Result<(), StorageError> {
        if self.current_generation()?.is_none() && log.last_index() > 0 {
            return Err(StorageError::corrupt(
                "opening the data directory",
                "the raft log has begun, and no state is live: state/CURRENT is gone",
            ));
        }
        Ok(())
    }

    /// The install that has begun and is not finished, if any.
    pub fn pending_install(&self) -> Result<Option<InstallPlan>, StorageError> {
        let path = self.plan();
        let Some(bytes) = durable_file::read(&path, INSTALL_PLAN_BYTES_MAX)? else {
            return Ok(None);
        };
        let record = decode_install_plan(&bytes)
            .map_err(|error| StorageError::corrupt(format!("reading {}", path.display()), error))?;
        Ok(Some(InstallPlan::from(record)))
    }

    /// The first step of an install: from here on a crash leads to its end, not back. The planned
    /// generation must be there and durable. Next: `RaftLog::reset_to`, then `finish_install`.
    pub fn begin_install(&self, plan: &InstallPlan) -> Result<(), StorageError> {
        let attempted = "beginning to install a snapshot";
        if self.pending_install()?.is_some() {
            return Err(refused(attempted, "another install is not finished".to_owned()));
        }
        if self.current_generation()?.is_some_and(|current| current >= plan.generation) {
            return Err(refused(attempted, format!("generation {} is old", plan.generation.0)));
        }
        assert!(
            plan.hard_state.commit == plan.start.index,
            "a snapshot is committed up to its index: {plan:?}"
        );
        self.require_generation(attempted, plan.generation)?;
        fault::fail(Point::InstallBegun).map_err(|error| StorageError::io(attempted, error))?;
        durable_file::sync_directory(&self.generation(plan.generation))?;
        durable_file::sync_directory(&self.state())?;
        let record = encode_install_plan(&InstallPlanRecord::from(*plan));
        durable_file::replace(&self.plan(), &record, Point::InstallPlanStaged)?;
        fault::point(Point::InstallPlanWritten);
        Ok(())
    }

    /// The last steps, once the raft log is reset: CURRENT flips, and the plan goes. Old generations
    /// may then be removed, at leisure: see `remove_old_generations`.
    pub fn finish_install(&self) -> Result<Generation, StorageError> {
        let attempted = "finishing the install of a snapshot";
        let Some(plan) = self.pending_install()? else {
            return Err(refused(attempted, "none has begun".to_owned()));
        };
        self.require_generation(attempted, plan.generation)?;
        self.flip_current(plan.generation)?;
        self.remove_plan()?;
        Ok(plan.generation)
    }

    /// Removes all generations before `live`, which must be the live one or have been it. Those after
    /// it stay: the next may be in the making. The caller has discarded the old state databases.
    pub fn remove_old_generations(&self, live: Generation) -> Result<(), StorageError> {
        self.remove_generations(|found| found < live)
    }

    /// Finishes an install that a crash interrupted, and clears what an earlier one left behind. To
    /// be called at boot, after the raft log is opened and before the state is. Returns the
    /// install it finished.
    pub fn redo_install_at_boot(&self, log: &RaftLog) -> Result<Option<InstallPlan>, StorageError> {
        let current = self.current_generation()?;
        let Some(plan) = self.pending_install()? else {
            if let Some(current) = current {
                self.remove_other_generations(current)?;
            }
            return Ok(None);
        };
        // CURRENT flips only after the log was reset. Once it has, the log must be left alone: it
        // may have grown since, if the removal of the plan was lost.
        let pass = |point| fault::fail(point).map_err(StorageError::io_at("redoing", &self.plan()));
        pass(Point::InstallRedoBegun)?;
        if current != Some(plan.generation) {
            let attempted = "finishing the install of a snapshot at boot";
            self.require_generation(attempted, plan.generation)?;
            let (start, hard_state) = (log.start(), log.hard_state());
            if start.index > plan.start.index
                || hard_state.term > plan.hard_state.term
                || current.is_some_and(|current| current > plan.generation)
            {
                return Err(StorageError::corrupt(
                    attempted,
                    format!("{plan:?} is older than the log: {start:?}, {hard_state:?}"),
                ));
            }
            log.reset_to(plan.start, plan.hard_state)?;
        }
        self.finish_install()?;
        pass(Point::InstallRedoDone)?;
        self.remove_other_generations(plan.generation)?;
        Ok(Some(plan))
    }

    /// Notes for all later starts that this node lost acknowledged entries, and how that came out.
    pub fn mark_lost(&self, reason: &str) -> Result<(), StorageError> {
        durable_file::replace(&self.lost(), reason.as_bytes(), Point::LostStaged)?;
        fault::point(Point::LostNoted);
        Ok(())
    }

    /// `Lost` if `mark_lost` was ever called here. That the file is there decides, whatever it says.
    pub fn check_not_lost(&self) -> Result<(), StorageError> {
        let path = self.lost();
        match durable_file::read(&path, LOST_BYTES_MAX)? {
            None => Ok(()),
            Some(bytes) => {
                let reason = String::from_utf8_lossy(&bytes).into_owned();
                Err(StorageError::Lost { path, reason })
            }
        }
    }

    fn lost(&self) -> PathBuf {
        self.path.join("LOST")
    }

    /// Remembers nodes to ask for admission, id and raft address each, until there is a state to
    /// know them from.
    pub fn save_seeds(&self, seeds: &[(u64, String)]) -> Result<(), StorageError> {
        let payload = local::encode(SEEDS_VERSION, &seeds.to_vec());
        let sealed = frame::seal(SEEDS_VERSION, SEEDS_PLACE, &payload);
        durable_file::replace(&self.seeds(), &sealed, Point::JoinSeedsStaged)?;
        fault::point(Point::JoinSeedsSaved);
        Ok(())
    }

    /// What `save_seeds` wrote; empty if it never did.
    pub fn load_seeds(&self) -> Result<Vec<(u64, String)>, StorageError> {
        let path = self.seeds();
        let Some(bytes) = durable_file::read(&path, SEEDS_BYTES_MAX)? else {
            return Ok(Vec::new());
        };
        let corrupt =
            |error: String| StorageError::corrupt(format!("reading {}", path.display()), error);
        let payload = frame::open(SEEDS_VERSION, SEEDS_PLACE, &bytes)
            .map_err(|error| corrupt(error.to_string()))?;
        local::decode("the list of seeds", SEEDS_VERSION, payload)
            .map_err(|error| corrupt(error.to_string()))
    }

    /// Replaces the file of settings, `name`, that people may edit.
    pub fn save_settings(&self, name: &str, text: &str) -> Result<(), StorageError> {
        durable_file::replace(&self.path.join(name), text.as_bytes(), Point::SettingsStaged)?;
        fault::point(Point::SettingsWritten);
        Ok(())
    }

    fn seeds(&self) -> PathBuf {
        self.path.join("SEEDS")
    }

    /// Bytes free for this process on the disk that holds the directory.
    pub fn free_bytes(&self) -> Result<u64, StorageError> {
        let stat = statvfs(&self.path)
            .map_err(|errno| StorageError::io_at("measuring", &self.path)(errno.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    pub(super) fn flip_current(&self, generation: Generation) -> Result<(), StorageError> {
        let bytes = frame::seal_integers(CURRENT_VERSION, CURRENT_PLACE, [generation.0]);
        durable_file::replace(&self.current(), &bytes, Point::CurrentStaged)?;
        fault::point(Point::CurrentFlipped);
        Ok(())
    }

    pub(super) fn remove_plan(&self) -> Result<(), StorageError> {
        let path = self.plan();
        fault::fail(Point::InstallPlanDoomed).map_err(StorageError::io_at("removing", &path))?;
        durable_file::remove(&path)?;
        fault::point(Point::InstallPlanRemoved);
        Ok(())
    }

    fn remove_other_generations(&self, keep: Generation) -> Result<(), StorageError> {
        self.remove_generations(|found| found != keep)
    }

    fn remove_generations(
        &self,
        is_doomed: impl Fn(Generation) -> bool,
    ) -> Result<(), StorageError> {
        for found in self.generations()?.into_iter().filter(|found| is_doomed(*found)) {
            let path = self.generation(found);
            let failed = StorageError::io_at("removing", &path);
            fault::fail(Point::InstallOldDoomed).map_err(failed)?;
            durable_file::remove_directory(&path)?;
            fault::point(Point::InstallOldRemoved);
        }
        Ok(())
    }

    /// Every step of an install rests on the new state being there.
    fn require_generation(
        &self,
        attempted: &str,
        generation: Generation,
    ) -> Result<(), StorageError> {
        if self.generation(generation).join("CURRENT").exists() {
            return Ok(());
        }
        Err(StorageError::corrupt(attempted, format!("generation {} is no state", generation.0)))
    }

    /// Generations there are, live or not, ascending. Other names in the directory are not ours.
    fn generations(&self) -> Result<Vec<Generation>, StorageError> {
        let state = self.state();
        let entries = fs::read_dir(&state).map_err(StorageError::io_at("listing", &state))?;
        let mut generations = Vec::new();
        for entry in entries {
            let name = entry.map_err(StorageError::io_at("listing", &state))?.file_name();
            let number = name.to_str().and_then(|name| name.parse::<u64>().ok());
            // Only the one spelling that `generation` gives: '07' or '+7' is somebody else's.
            generations
                .extend(number.filter(|n| name.to_str() == Some(&n.to_string())).map(Generation));
        }
        generations.sort();
        Ok(generations)
    }

    fn state(&self) -> PathBuf {
        self.path.join("state")
    }

    fn current(&self) -> PathBuf {
        self.state().join("CURRENT")
    }

    pub(super) fn plan(&self) -> PathBuf {
        self.state().join("PLAN")
    }
}

fn make_directory(path: &Path, mode: u32) -> Result<(), StorageError> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(StorageError::io_at("creating", path)(error)),
    }
}

fn refused(attempted: &str, reason: String) -> StorageError {
    StorageError::Refused { attempted: attempted.to_owned(), reason }
}

impl From<InstallPlanRecord> for InstallPlan {
    fn from(record: InstallPlanRecord) -> Self {
        InstallPlan {
            snapshot: Digest(record.snapshot),
            start: LogStart { index: record.start_index, term: record.start_term },
            hard_state: HardState { term: record.term, vote: record.vote, commit: record.commit },
            generation: Generation(record.generation),
        }
    }
}

impl From<InstallPlan> for InstallPlanRecord {
    fn from(plan: InstallPlan) -> Self {
        InstallPlanRecord {
            snapshot: plan.snapshot.0,
            start_index: plan.start.index,
            start_term: plan.start.term,
            term: plan.hard_state.term,
            vote: plan.hard_state.vote,
            commit: plan.hard_state.commit,
            generation: plan.generation.0,
        }
    }
}
