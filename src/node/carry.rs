//! Carries out what the core says: each output to the thread or task that can do it.
//!
//! Runs on the raft thread, so nothing here waits for a disk or a network.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use bytes::Bytes;

use super::peers::Class;
use super::shared::{Published, Shared};
use super::waiters::Outcome;
use super::{apply_thread, calls, log_thread};
use crate::codec::peer::encode_envelope;
use crate::proto::internal::v1::{Envelope, PullProgress, SnapshotReport, envelope};
use crate::raft::{Core, Halt, Input, LogEntry, LogError, LogStore, Output};
use crate::types::{Index, Node, NodeId};

pub(super) struct Carrier {
    shared: Arc<Shared>,
    log: Sender<log_thread::Job>,
    apply: Sender<apply_thread::Job>,
}

impl Carrier {
    pub fn new(
        shared: Arc<Shared>,
        log: Sender<log_thread::Job>,
        apply: Sender<apply_thread::Job>,
    ) -> Self {
        Carrier { shared, log, apply }
    }

    /// Carries out one output. True: what is published has changed.
    pub fn carry(&mut self, output: Output) -> bool {
        let shared = &self.shared;
        match output {
            Output::Send { to, urgent, bytes, offers } => {
                let class = if urgent { Class::Urgent } else { Class::Append };
                match offers {
                    Some(id) => shared.snapshots.send_offer(shared, to, id, bytes),
                    None => self.send(to, class, envelope::Body::Raft(bytes)),
                }
            }
            Output::SendProgress { to, id, index, source, wants_new_offer } => {
                let snapshot_id = Bytes::copy_from_slice(&id.0);
                let source = source.0;
                let progress = PullProgress { snapshot_id, index, source, wants_new_offer };
                self.send(to, Class::Urgent, envelope::Body::PullProgress(progress));
            }
            Output::SendReport { to, index, id, ok, reason } => {
                let snapshot_id = Bytes::copy_from_slice(&id.0);
                let report = SnapshotReport { index, snapshot_id, ok, reason };
                self.send(to, Class::Urgent, envelope::Body::SnapshotReport(report));
            }
            Output::Persist { number, write } => self.log(log_thread::Job::Write(number, write)),
            Output::Apply { generation, entries } => {
                self.apply(apply_thread::Job::Apply(generation, entries));
            }
            Output::FlushState => self.flush_state(),
            Output::CompactLog { start } => self.log(log_thread::Job::Compact(start)),
            Output::FetchEntries { ticket, from, to, max_bytes } => {
                self.fetch_entries(ticket, from, to, max_bytes);
            }
            Output::Forward { to, waiter, request } => {
                let shared = shared.clone();
                shared.runtime.clone().spawn(async move {
                    let result = calls::forward(&shared, to, request).await;
                    shared.inbox.report(Input::Forwarded { waiter, result });
                });
            }
            Output::Answer { waiter, result } => {
                shared.waiters.finish(waiter, Outcome::Answer(result));
            }
            Output::ReadReady { waiter, .. } => {
                shared.waiters.finish(waiter, Outcome::ReadReady);
            }
            Output::BuildSnapshot => shared.snapshots.build(shared),
            Output::FetchSnapshot { reference, index, from, message_bytes } => {
                shared.snapshots.fetch(shared, reference, index, from, message_bytes);
            }
            Output::PrepareSnapshot { id } => shared.snapshots.prepare(shared, id),
            Output::DiscardSnapshot { id } => shared.snapshots.discard(shared, id),
            Output::Install(plan) => {
                shared.snapshots.stepped(plan.id);
                self.log(log_thread::Job::Install(plan));
            }
            Output::SnapshotInstalled { id } => shared.snapshots.installed(shared, id),
            Output::Pins(pins) => shared.snapshots.set_pins(shared, &pins),
            Output::Nodes(nodes) => self.take_nodes(nodes),
            Output::Changed(standing) => {
                slog::info!(shared.logger, "standing"; "role" => ?standing.role,
                    "term" => standing.term, "leader" => standing.leader.map(|node| node.0),
                    "voters" => ?standing.conf_state.voters,
                    "learners" => ?standing.conf_state.learners);
                return true;
            }
        }
        false
    }

    /// Lets others see where the core stands.
    pub fn publish(&self, core: &Core) {
        let (first_index, last_index) = core.log_range();
        let published = Published {
            standing: core.standing().clone(),
            first_index,
            last_index,
            commit_index: core.commit_index(),
            applied_index: core.applied_index(),
            flushed_index: core.flushed_index(),
            log_bytes: core.log_bytes(),
            matched: core.matched_indexes(),
        };
        self.shared.published.send_if_modified(|old| {
            let changed = *old != published;
            *old = published;
            changed
        });
    }

    fn send(&self, to: NodeId, class: Class, body: envelope::Body) {
        let envelope = Envelope { body: Some(body), embedded: None };
        self.shared.peers.send(to, class, encode_envelope(&envelope));
    }

    fn log(&self, job: log_thread::Job) {
        if self.log.send(job).is_err() {
            // The log thread has ended, and has said why: the node is ending.
        }
    }

    fn apply(&self, job: apply_thread::Job) {
        if self.apply.send(job).is_err() {
            // The apply thread has ended, and has said why: the node is ending.
        }
    }

    fn flush_state(&self) {
        let shared = self.shared.clone();
        self.shared.runtime.spawn_blocking(move || match super::flush::flush(&shared) {
            Ok((index, state_bytes)) => {
                shared.inbox.report(Input::Flushed { index, state_bytes });
            }
            Err(error) => shared.fail(error),
        });
    }

    fn fetch_entries(&self, ticket: u64, from: u64, to: u64, max_bytes: u64) {
        let shared = self.shared.clone();
        self.shared.runtime.spawn_blocking(move || {
            match read_entries(&shared.log, from, to, max_bytes) {
                Ok(entries) => shared.inbox.report(Input::EntriesFetched { ticket, entries }),
                Err(error) => shared.fail(Halt::from(error)),
            }
        });
    }

    /// The address book follows the replicated state.
    fn take_nodes(&self, nodes: Vec<Node>) {
        let shared = &self.shared;
        for node in nodes.iter().filter(|node| node.id != shared.id()) {
            shared.peers.set_address(node.id, &node.addresses.raft);
        }
        let before = shared.nodes.send_replace(nodes.clone());
        // Before the first state there were seeds.
        let seeds = shared.options.seeds.iter().map(|(node, _)| *node);
        let before: Vec<NodeId> = match before.is_empty() {
            true => seeds.collect(),
            false => before.into_iter().map(|node| node.id).collect(),
        };
        for old in before {
            if !nodes.iter().any(|node| node.id == old) && !nodes.is_empty() {
                shared.peers.forget(old);
            }
        }
    }
}

/// Entries for a slow follower. None if they were dropped since the core asked, as it finds out by
/// itself; an error if they should be there: the core would ask for them again without end.
fn read_entries(
    log: &impl LogStore,
    from: Index,
    to: Index,
    bytes_max: u64,
) -> Result<Vec<LogEntry>, LogError> {
    log.entries(from, to, bytes_max).or_else(|error| {
        let dropped = from <= log.start().index || to > log.last_index() + 1;
        if dropped { Ok(Vec::new()) } else { Err(error) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::StoreFault;
    use crate::raft::LogStart;
    use crate::types::Term;

    /// A log of the entries 6 to 9 that cannot be read.
    struct Unreadable;

    impl LogStore for Unreadable {
        fn start(&self) -> LogStart {
            LogStart { index: 5, term: 1 }
        }

        fn last_index(&self) -> Index {
            9
        }

        fn term(&self, _: Index) -> Result<Option<Term>, LogError> {
            Ok(Some(1))
        }

        fn entries(&self, _: Index, _: Index, _: u64) -> Result<Vec<LogEntry>, LogError> {
            let (attempted, cause) = ("reading".into(), "it is rotten".into());
            Err(LogError { attempted, cause, fault: StoreFault::Corrupt })
        }
    }

    #[test]
    fn entries_that_are_there_and_cannot_be_read_are_an_error_and_dropped_ones_are_none() {
        assert!(read_entries(&Unreadable, 6, 10, 100).is_err());
        assert_eq!(read_entries(&Unreadable, 5, 8, 100), Ok(Vec::new()));
        assert_eq!(read_entries(&Unreadable, 8, 11, 100), Ok(Vec::new()));
    }
}
