//! The thread that writes the raft log: all that waits in one batch with one fsync.

use std::sync::mpsc::{Receiver, Sender};

use super::apply_thread;
use super::inbox::Inbox;
use crate::raft::{Input, InstallPlan, LogStart, LogWrite};
use crate::storage::{RaftLog, StorageError};

/// Writes grouped into one fsync at most.
const GROUP_MAX: usize = 1024;

/// Work for the log thread, done in order.
pub(super) enum Job {
    /// Make durable, then report `Persisted`.
    Write(u64, LogWrite),
    /// Drop the log's beginning, then report `Compacted`.
    Compact(LogStart),
    /// Nothing before it is unfinished now: the apply thread carries the plan out.
    Install(InstallPlan),
    /// Finish.
    Stop,
}

/// Runs until told to stop; an error halts the node.
pub(super) fn run(
    jobs: &Receiver<Job>,
    log: &RaftLog,
    inbox: &Inbox,
    apply: &Sender<apply_thread::Job>,
) -> Result<(), StorageError> {
    let mut held_back = None;
    loop {
        let Some(job) = held_back.take().or_else(|| jobs.recv().ok()) else { return Ok(()) };
        match job {
            Job::Write(number, write) => {
                let mut last = number;
                let mut writes = vec![write];
                while writes.len() < GROUP_MAX {
                    match jobs.try_recv() {
                        Ok(Job::Write(number, write)) => {
                            last = number;
                            writes.push(write);
                        }
                        Ok(other) => {
                            held_back = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                log.write(&writes)?;
                inbox.report(Input::Persisted { number: last, log_bytes: log.bytes() });
            }
            Job::Compact(start) => {
                log.compact_to(start.index)?;
                inbox.report(Input::Compacted { log_bytes: log.bytes() });
            }
            Job::Install(plan) => {
                if apply.send(apply_thread::Job::Install(plan)).is_err() {
                    // The apply thread has ended, and says why itself.
                    return Ok(());
                }
            }
            Job::Stop => return Ok(()),
        }
    }
}
