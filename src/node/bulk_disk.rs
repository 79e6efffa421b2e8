//! Carries out the receiver's disk operations on three threads of their own: writes in order, syncs
//! beside them, reads beside both. A thread that finds the disk full waits there with the operation
//! in hand, so that no received byte is lost.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc as thread_mpsc;
use std::sync::{Arc, Mutex};
use std::thread;

use slog::{Logger, warn};
use tokio::sync::mpsc;

use crate::snapshot_store::{PartSource, SnapshotStore, StagedPull, Staging, StoreError};
use crate::transfer::receiver::{DiskOperation, DiskResult, Origin, RecordedPart};
use crate::types::{Digest, SnapshotId};

/// Answers that may wait for the driver; it never has more operations under way.
const ANSWERS_MAX: usize = 4_096;

/// One operation, with the name under which it is answered.
struct Job {
    ticket: u64,
    operation: DiskOperation,
}

/// What becomes of an operation that found the disk full.
#[derive(Clone, Copy)]
enum Nudge {
    Retry(u64),
    Drop(u64),
}

/// One of the threads.
struct Worker {
    jobs: thread_mpsc::Sender<Job>,
    nudges: thread_mpsc::Sender<Nudge>,
}

/// The threads. They end when this is dropped and their work is done.
pub(super) struct BulkDisk {
    writer: Worker,
    syncer: Worker,
    reader: Worker,
}

/// What all threads share.
#[derive(Clone)]
struct Shared {
    staging: Staging,
    store: Arc<dyn SnapshotStore>,
    open: Arc<Mutex<BTreeMap<SnapshotId, Arc<OpenPull>>>>,
    answers: mpsc::Sender<(u64, DiskResult)>,
    logger: Logger,
}

struct OpenPull {
    staged: StagedPull,
    /// Files of other staged snapshots, by the digest and length they should have.
    others: BTreeMap<(Digest, u64), PathBuf>,
}

impl BulkDisk {
    /// Starts the threads; answers come out of the returned channel.
    pub fn start(
        staging: Staging,
        store: Arc<dyn SnapshotStore>,
        logger: Logger,
    ) -> std::io::Result<(Self, mpsc::Receiver<(u64, DiskResult)>)> {
        let (answers, receiver) = mpsc::channel(ANSWERS_MAX);
        let shared = Shared { staging, store, open: Arc::default(), answers, logger };
        let disk = BulkDisk {
            writer: Worker::start("bulk-write", &shared)?,
            syncer: Worker::start("bulk-sync", &shared)?,
            reader: Worker::start("bulk-read", &shared)?,
        };
        Ok((disk, receiver))
    }

    /// Hands an operation over; never waits.
    pub fn execute(&self, ticket: u64, operation: DiskOperation) {
        let worker = match operation {
            DiskOperation::Persist { .. } => &self.syncer,
            DiskOperation::Inspect { .. } | DiskOperation::Verify { .. } => &self.reader,
            _ => &self.writer,
        };
        worker.jobs.send(Job { ticket, operation }).expect("the threads live as long as this");
    }

    /// Lets an operation be tried again that found the disk full.
    pub fn retry(&self, ticket: u64) {
        self.nudge(Nudge::Retry(ticket));
    }

    /// Lets an operation be forgotten that found the disk full.
    pub fn drop_operation(&self, ticket: u64) {
        self.nudge(Nudge::Drop(ticket));
    }

    /// Only the thread that waits with this ticket heeds it.
    fn nudge(&self, nudge: Nudge) {
        for worker in [&self.writer, &self.syncer, &self.reader] {
            worker.nudges.send(nudge).expect("the threads live as long as this");
        }
    }
}

impl Worker {
    fn start(name: &str, shared: &Shared) -> std::io::Result<Self> {
        let (jobs, job_queue) = thread_mpsc::channel();
        let (nudges, nudge_queue) = thread_mpsc::channel();
        let shared = shared.clone();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(&shared, &job_queue, &nudge_queue))?;
        Ok(Worker { jobs, nudges })
    }
}

fn run(shared: &Shared, jobs: &thread_mpsc::Receiver<Job>, nudges: &thread_mpsc::Receiver<Nudge>) {
    while let Ok(Job { ticket, operation }) = jobs.recv() {
        loop {
            let result = shared.execute(&operation).unwrap_or_else(|error| failed(&error));
            let is_full = matches!(result, DiskResult::Full { .. });
            // The driver is gone when the node is shutting down.
            if shared.answers.blocking_send((ticket, result)).is_err() {
                return;
            }
            if !is_full {
                break;
            }
            match wait_for(ticket, nudges) {
                Some(Nudge::Retry(_)) => {}
                Some(Nudge::Drop(_)) => break,
                None => return,
            }
        }
    }
}

/// Waits for a word on this ticket; None: the driver is gone.
fn wait_for(ticket: u64, nudges: &thread_mpsc::Receiver<Nudge>) -> Option<Nudge> {
    loop {
        match nudges.recv().ok()? {
            nudge @ (Nudge::Retry(named) | Nudge::Drop(named)) if named == ticket => {
                return Some(nudge);
            }
            _ => {}
        }
    }
}

fn failed(error: &StoreError) -> DiskResult {
    let reason = error.to_string();
    if error.is_disk_full() { DiskResult::Full { reason } } else { DiskResult::Failed { reason } }
}

impl Shared {
    fn execute(&self, operation: &DiskOperation) -> Result<DiskResult, StoreError> {
        match operation {
            DiskOperation::Open { snapshot, encoded, manifest } => {
                let (staged, record) =
                    self.staging.begin(*snapshot, encoded, Arc::clone(manifest))?;
                let others = self.staging.parts_of_others(*snapshot);
                let open = Arc::new(OpenPull { staged, others });
                self.lock().insert(*snapshot, open);
                Ok(DiskResult::Opened { record: record.map(Box::new) })
            }
            DiskOperation::Inspect { snapshot, part, recorded } => {
                self.inspect(*snapshot, *part, recorded)
            }
            DiskOperation::CheckSpace { bytes } => {
                self.staging.check_space(*bytes)?;
                Ok(DiskResult::Done)
            }
            DiskOperation::Write { snapshot, part, offset, bytes } => {
                self.open(*snapshot)?.staged.write(*part, *offset, bytes)?;
                Ok(DiskResult::Done)
            }
            DiskOperation::Persist { snapshot, parts, record } => {
                self.open(*snapshot)?.staged.persist(parts, record)?;
                Ok(DiskResult::Done)
            }
            DiskOperation::Verify { snapshot, part } => {
                Ok(DiskResult::Checked(self.open(*snapshot)?.staged.check(*part)?))
            }
            DiskOperation::Finish { snapshot, record } => {
                self.open(*snapshot)?.staged.finish(record)?;
                Ok(DiskResult::Done)
            }
            DiskOperation::Remove { snapshot } => {
                self.remove(*snapshot);
                Ok(DiskResult::Done)
            }
            DiskOperation::RemoveOthers { keep } => {
                let mut open = self.lock();
                open.retain(|id, _| Some(id) == keep.as_ref());
                drop(open);
                self.warn("removing other staged snapshots", self.staging.remove_others(*keep));
                Ok(DiskResult::Done)
            }
            DiskOperation::SaveStatus(status) => {
                self.warn("saving the status of a pull", self.staging.save_status(status));
                Ok(DiskResult::Done)
            }
        }
    }

    fn inspect(
        &self,
        snapshot: SnapshotId,
        part: u32,
        recorded: &RecordedPart,
    ) -> Result<DiskResult, StoreError> {
        let open = self.open(snapshot)?;
        let (digest, bytes) = open.staged.identity(part);
        let in_store = self.store.find_part(digest, bytes).map(|found| (Origin::Store, found));
        let staged = open.others.get(&(digest, bytes)).cloned();
        let staged = staged.map(|path| (Origin::OtherPartial, PartSource::File(path)));
        let elsewhere: Vec<(Origin, PartSource)> = staged.into_iter().chain(in_store).collect();
        Ok(DiskResult::Inspected(open.staged.inspect(part, recorded, &elsewhere)?))
    }

    /// What stays behind is found and judged again by the next pull.
    fn remove(&self, snapshot: SnapshotId) {
        let open = self.lock().remove(&snapshot);
        let result = match open {
            Some(open) => open.staged.remove(),
            None => self.staging.remove(snapshot),
        };
        self.warn("removing a staged snapshot", result);
    }

    fn warn(&self, attempted: &str, result: Result<(), StoreError>) {
        if let Err(error) = result {
            warn!(self.logger, "{}", attempted; "error" => %error);
        }
    }

    fn open(&self, snapshot: SnapshotId) -> Result<Arc<OpenPull>, StoreError> {
        self.lock().get(&snapshot).cloned().ok_or(StoreError::Unknown(snapshot))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<SnapshotId, Arc<OpenPull>>> {
        self.open.lock().expect("nobody panics with the open pulls in hand")
    }
}
