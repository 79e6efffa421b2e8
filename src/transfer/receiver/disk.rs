//! The receiver's side towards the disk: planning, writes, persisting, verification, finish.

use crate::types::{Now, PullRecord, TransferState};

use super::book::Book;
use super::machine::Receiver;
use super::{DiskOperation, DiskResult, Event, Finding, Origin, Output, PartCheck, RecordedPart};

/// Parts whose inspection is under way at once.
const INSPECTIONS_MAX: usize = 32;
/// Parts whose digest is being checked at once: the pull goes on meanwhile.
const VERIFICATIONS_MAX: usize = 2;
/// A part whose digest is wrong so often cannot be had.
const MISMATCHES_MAX: u8 = 3;

/// What an operation on disk was for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pending {
    /// Opening the staging directory.
    Open,
    /// Inspecting a part.
    Inspect(u32),
    /// Asking for room.
    Space,
    /// Writing received bytes.
    Write,
    /// Persisting the record.
    Persist,
    /// Checking a part.
    Verify(u32),
    /// Making everything durable.
    Finish,
    /// Nothing depends on it.
    Other,
}

impl Receiver {
    /// Asks for a disk operation.
    pub(super) fn disk(&mut self, pending: Pending, operation: DiskOperation) {
        let ticket = self.name();
        self.expect_pull_mut().pending.insert(ticket, pending);
        self.outputs.push_back(Output::Disk { ticket, operation });
    }

    /// Forgets every operation under way: their answers will be of no interest.
    pub(super) fn drop_pending(&mut self) {
        let pull = self.expect_pull_mut();
        pull.pending.clear();
        for ticket in std::mem::take(&mut pull.stuck) {
            self.outputs.push_back(Output::DropDisk { ticket });
        }
    }

    pub(super) fn handle_disk(&mut self, now: Now, ticket: u64, result: DiskResult) {
        let retry_ms = self.options.disk_retry_ms;
        let known = self.active_mut().filter(|pull| pull.pending.contains_key(&ticket));
        let Some(pull) = known else {
            // Of a pull that has ended. Nobody would ever try it again, and it may block others.
            if matches!(result, DiskResult::Full { .. }) {
                self.outputs.push_back(Output::DropDisk { ticket });
            }
            return;
        };
        if let DiskResult::Full { reason } = result {
            pull.stuck.insert(ticket);
            pull.disk_reason = reason;
            pull.disk_retry_due_ms = now.monotonic_ms + retry_ms;
            return;
        }
        pull.stuck.remove(&ticket);
        let pending = pull.pending.remove(&ticket).expect("it was seen above");
        match (pending, result) {
            (Pending::Other, _) => {}
            (_, DiskResult::Failed { reason }) => {
                // What the disk refused to take, or to give back, cannot be relied on later either.
                self.fail(now, format!("disk: {reason}"), true);
            }
            (Pending::Open, DiskResult::Opened { record }) => self.opened(record),
            (Pending::Inspect(part), DiskResult::Inspected(finding)) => {
                self.inspected(now, part, &finding);
            }
            (Pending::Space, DiskResult::Done) => self.planned(),
            (Pending::Write, DiskResult::Done) => {
                self.expect_book_mut().written(ticket);
            }
            (Pending::Persist, DiskResult::Done) => self.expect_pull_mut().persisting = false,
            (Pending::Verify(part), DiskResult::Checked(check)) => self.checked(now, part, &check),
            (Pending::Finish, DiskResult::Done) => self.finished(),
            (pending, result) => unreachable!("{result:?} answers {pending:?}"),
        }
    }

    pub(super) fn handle_disk_timer(&mut self, now: Now) {
        let retry_ms = self.options.disk_retry_ms;
        let Some(pull) = self.active_mut() else { return };
        if pull.stuck.is_empty() || pull.disk_retry_due_ms > now.monotonic_ms {
            return;
        }
        pull.disk_retry_due_ms = now.monotonic_ms + retry_ms;
        let tickets: Vec<u64> = pull.stuck.iter().copied().collect();
        self.outputs.extend(tickets.into_iter().map(|ticket| Output::RetryDisk { ticket }));
    }

    /// Asks the disk for whatever has become possible.
    pub(super) fn advance_disk(&mut self, now: Now) {
        let Some(pull) = self.active() else { return };
        if pull.book.is_none() {
            return;
        }
        match pull.state {
            TransferState::Planning => self.inspect_more(),
            TransferState::Pulling | TransferState::Verifying => {
                self.verify_more();
                self.judge_state();
                self.persist_if_due(now);
            }
            _ => {}
        }
    }

    // ---- Planning.

    fn opened(&mut self, record: Option<Box<PullRecord>>) {
        let pull = self.expect_pull_mut();
        let manifest = pull.manifest.clone().expect("the manifest was stored");
        // A record of another shape is of no use; the CRCs will tell what is here.
        let parts = manifest.parts.len() as u32;
        pull.record = record.filter(|record| {
            record.complete.len() == parts
                && record.verified.len() == parts
                && record.incomplete.iter().all(|entry| {
                    entry.part < parts && entry.chunks.len() == manifest.chunks(entry.part)
                })
        });
        pull.book = Some(Book::new(manifest));
    }

    fn inspect_more(&mut self) {
        loop {
            let pull = self.expect_pull_mut();
            let manifest = pull.manifest.as_ref().expect("planning needs a manifest");
            if pull.pending.len() >= INSPECTIONS_MAX
                || pull.next_inspect as usize >= manifest.parts.len()
            {
                return;
            }
            let part = pull.next_inspect;
            pull.next_inspect += 1;
            let recorded =
                pull.record.as_ref().map_or_else(RecordedPart::default, |r| of_part(r, part));
            let snapshot = pull.offer.reference.id;
            let operation = DiskOperation::Inspect { snapshot, part, recorded };
            self.disk(Pending::Inspect(part), operation);
        }
    }

    fn inspected(&mut self, now: Now, part: u32, finding: &Finding) {
        let pull = self.expect_pull_mut();
        pull.last_progress_ms = now.monotonic_ms;
        let book = pull.book.as_mut().expect("planning has a book");
        let before = book.staged_bytes();
        book.inspected(part, finding);
        let bytes = book.staged_bytes() - before;
        let origin = match finding {
            Finding::Verified(origin) => *origin,
            Finding::Staged { .. } => Origin::Here,
            Finding::Adopted { .. } => Origin::OtherPartial,
        };
        let counters = &mut pull.counters;
        match origin {
            Origin::Here => {}
            Origin::Store => counters.reused += bytes,
            Origin::OtherPartial => {
                counters.reused += bytes;
                counters.discarded = counters.discarded.saturating_sub(bytes);
            }
        }
        if book.is_inspected() {
            let bytes = book.wanted_bytes();
            // What could be reused of other partials has been linked by now; their room is ours.
            let keep = Some(self.expect_pull().offer.reference.id);
            self.disk(Pending::Other, DiskOperation::RemoveOthers { keep });
            self.disk(Pending::Space, DiskOperation::CheckSpace { bytes });
        }
    }

    fn planned(&mut self) {
        let pull = self.expect_pull_mut();
        let book = pull.book.as_ref().expect("planning has a book");
        if pull.record.take().is_some() && book.staged_bytes() > 0 {
            pull.counters.resumes += 1;
            pull.counters.resumed_from = book.staged_bytes();
        }
        let missing = book.wanted_bytes() > 0;
        if missing {
            self.enter(TransferState::Pulling);
        } else {
            self.enter(TransferState::Verifying);
            self.close_link();
        }
        self.persist();
    }

    // ---- Pulling and verifying.

    fn verify_more(&mut self) {
        loop {
            let pull = self.expect_pull_mut();
            if pull.verifying >= VERIFICATIONS_MAX {
                return;
            }
            let book = pull.book.as_mut().expect("verification has a book");
            let Some(part) = book.take_to_verify() else { return };
            pull.verifying += 1;
            let snapshot = pull.offer.reference.id;
            self.disk(Pending::Verify(part), DiskOperation::Verify { snapshot, part });
        }
    }

    fn checked(&mut self, now: Now, part: u32, check: &PartCheck) {
        let pull = self.expect_pull_mut();
        pull.verifying -= 1;
        let book = pull.book.as_mut().expect("verification has a book");
        let failures = book.checked(part, check);
        if failures >= MISMATCHES_MAX {
            let name = &book.manifest().parts[part as usize].name;
            let reason = format!("part {name} was staged {failures} times with a wrong digest");
            return self.fail(now, reason, true);
        }
        if failures > 0 && pull.state == TransferState::Verifying {
            self.enter(TransferState::Pulling);
        }
    }

    /// Pulling ends when no byte is missing or on its way; verifying when every digest matched.
    fn judge_state(&mut self) {
        let pull = self.expect_pull();
        let book = pull.book.as_ref().expect("judged with a book");
        let all_here =
            book.wanted_bytes() == 0 && pull.lanes.is_empty() && pull.suspects.is_empty();
        if pull.state == TransferState::Pulling && all_here && book.unwritten_bytes() == 0 {
            self.enter(TransferState::Verifying);
            self.close_link();
        }
        let pull = self.expect_pull();
        let book = pull.book.as_ref().expect("judged with a book");
        if pull.state == TransferState::Verifying
            && book.is_verified()
            && !pull.finishing
            && !pull.persisting
        {
            let mut record = self.record();
            record.state = TransferState::Durable;
            let snapshot = record.reference.id;
            self.expect_pull_mut().finishing = true;
            let operation = DiskOperation::Finish { snapshot, record: Box::new(record) };
            self.disk(Pending::Finish, operation);
        }
    }

    fn finished(&mut self) {
        self.enter(TransferState::Durable);
        let pull = self.expect_pull();
        let (id, index) = (pull.offer.reference.id, pull.offer.index);
        let manifest = pull.manifest.clone().expect("finished with a manifest");
        self.expect_pull_mut().book = None;
        self.emit(Event::Durable { id, index, manifest });
    }

    // ---- The record.

    fn persist_if_due(&mut self, now: Now) {
        let pull = self.expect_pull_mut();
        let book = pull.book.as_ref().expect("persisted with a book");
        if !book.is_dirty() && !pull.persist_soon {
            return;
        }
        let due = *pull
            .persist_due_ms
            .get_or_insert(now.monotonic_ms + crate::limits::BITMAP_MS_INTERVAL);
        let is_due = pull.persist_soon
            || due <= now.monotonic_ms
            || book.dirty_bytes() >= crate::limits::BITMAP_BYTES_INTERVAL;
        if is_due && !pull.persisting && !pull.finishing {
            self.persist();
        }
    }

    fn persist(&mut self) {
        let record = Box::new(self.record());
        let pull = self.expect_pull_mut();
        pull.persisting = true;
        pull.persist_due_ms = None;
        pull.persist_soon = false;
        let parts = pull.book.as_mut().expect("persisted with a book").take_dirty();
        let snapshot = record.reference.id;
        self.disk(Pending::Persist, DiskOperation::Persist { snapshot, parts, record });
    }

    /// Records that the pull has ended and its bytes only lie there to be reused.
    pub(super) fn persist_end(&mut self) {
        let record = Box::new(self.record());
        let book = self.expect_book_mut();
        let parts = book.take_dirty();
        let snapshot = record.reference.id;
        self.disk(Pending::Other, DiskOperation::Persist { snapshot, parts, record });
    }

    fn record(&self) -> PullRecord {
        let pull = self.expect_pull();
        let book = pull.book.as_ref().expect("recorded with a book");
        let (complete, verified, incomplete, partial) = book.claims();
        PullRecord {
            reference: pull.offer.reference.clone(),
            index: pull.offer.index,
            message_bytes: pull.offer.message_bytes,
            counters: pull.counters,
            state: pull.state.clone(),
            finished_unix_ms: pull.finished_unix_ms,
            complete,
            verified,
            incomplete,
            partial,
        }
    }

    pub(super) fn expect_book_mut(&mut self) -> &mut Book {
        self.expect_pull_mut().book.as_mut().expect("the caller has seen a book")
    }
}

fn of_part(record: &PullRecord, part: u32) -> RecordedPart {
    let incomplete = record.incomplete.binary_search_by_key(&part, |entry| entry.part);
    let chunks = incomplete.ok().map(|position| record.incomplete[position].chunks.clone());
    let partial = record.partial.iter().filter(|entry| entry.part == part).copied().collect();
    RecordedPart {
        verified: record.verified.contains(part),
        complete: record.complete.contains(part),
        chunks,
        partial,
    }
}
