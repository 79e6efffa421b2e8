//! Carries records from the reading thread to the cluster, several batches at once.
//!
//! Every batch is all or nothing and a repetition changes nothing, so the work may stop anywhere.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::batch::{Batcher, record_bytes};
use super::input::Input;
use crate::cli::failure::CliError;
use crate::cli::progress::Progress;
use crate::client::Client;
use crate::limits::{IMPORT_BATCHES_IN_FLIGHT, IMPORT_COMPARES_IN_FLIGHT};
use crate::types::{
    Action, CollectionName, Condition, Consistency, Failure, Record, Write, WriteBatch,
};

/// Batches read ahead of those on their way.
const BATCHES_AHEAD: usize = 2;

/// What an import has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Records written and acknowledged.
    pub written_records: u64,
    /// Bytes of their keys and values.
    pub written_bytes: u64,
    /// Records that were in the collection already, all alike.
    pub unchanged_records: u64,
    /// Bytes of their keys and values.
    pub unchanged_bytes: u64,
}

/// Writes records into one collection.
pub struct Writer {
    /// The cluster.
    pub client: Client,
    /// Where to.
    pub collection: CollectionName,
    /// Whether the collection may hold some of the records already.
    pub compare: bool,
    /// Told of every record that is done.
    pub progress: Progress,
}

impl Writer {
    /// Reads and writes all of `input`. The counts hold also if it ended badly.
    pub async fn run(
        self,
        input: Arc<Input>,
        skip_too_large: bool,
    ) -> (Counts, Result<(), CliError>) {
        let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
        let reading = tokio::task::spawn_blocking(move || read(&input, skip_too_large, &sender));
        let mut counts = Counts::default();
        let written = self.write_all(receiver, &mut counts).await;
        // The receiver is gone by now, so that the reader stops by itself if it has not ended.
        let read = match reading.await {
            Ok(read) => read,
            Err(error) => Err(CliError::Defect(error.to_string())),
        };
        // If both failed, the cluster's word is the cause: the reader only found nobody to read for.
        (counts, written.and(read))
    }

    async fn write_all(
        &self,
        batches: mpsc::Receiver<Vec<Record>>,
        counts: &mut Counts,
    ) -> Result<(), CliError> {
        let compares = Semaphore::new(IMPORT_COMPARES_IN_FLIGHT);
        let mut writes = ReceiverStream::new(batches)
            .map(|batch| self.write_batch(batch, &compares))
            .buffer_unordered(IMPORT_BATCHES_IN_FLIGHT);
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        loop {
            let done = tokio::select! {
                next = writes.try_next() => next.map_err(with_resume_hint)?,
                signal = &mut interrupted => {
                    signal.map_err(CliError::file("could not wait for Ctrl-C"))?;
                    return Err(CliError::Interrupted { hint: RESUME_HINT.to_owned() });
                }
            };
            let Some(done) = done else { return Ok(()) };
            counts.written_records += done.written_records;
            counts.written_bytes += done.written_bytes;
            counts.unchanged_records += done.unchanged_records;
            counts.unchanged_bytes += done.unchanged_bytes;
            self.progress.add(done.written_bytes + done.unchanged_bytes);
        }
    }

    /// Writes what differs of one batch.
    async fn write_batch(
        &self,
        batch: Vec<Record>,
        compares: &Semaphore,
    ) -> Result<Counts, Failure> {
        let mut counts = Counts::default();
        let mut writes = Vec::with_capacity(batch.len());
        let equal = match self.compare {
            true => self.equal_already(&batch, compares).await?,
            false => vec![false; batch.len()],
        };
        for (record, equal) in batch.into_iter().zip(equal) {
            let bytes = record_bytes(&record) as u64;
            if equal {
                counts.unchanged_records += 1;
                counts.unchanged_bytes += bytes;
                continue;
            }
            counts.written_records += 1;
            counts.written_bytes += bytes;
            writes.push(Write {
                collection: self.collection.clone(),
                key: record.key,
                condition: Condition::Always,
                action: Action::Put { value: record.value, content_type: record.content_type },
            });
        }
        if !writes.is_empty() {
            self.client.write(WriteBatch { writes }).await?;
        }
        Ok(counts)
    }

    /// For each record whether the collection holds exactly it. One semaphore bounds the values of
    /// all batches that are held at once.
    async fn equal_already(
        &self,
        batch: &[Record],
        compares: &Semaphore,
    ) -> Result<Vec<bool>, Failure> {
        let compare = |record: Record| async move {
            let _permit = compares.acquire().await.expect("the semaphore is never closed");
            let found =
                self.client.get(&self.collection, record.key.clone(), Consistency::Linearizable);
            Ok(found.await?.is_some_and(|found| {
                found.value == record.value && found.content_type == record.content_type
            }))
        };
        // Cloning a record copies no bytes of its key and value.
        let comparisons = batch.iter().cloned().map(compare);
        stream::iter(comparisons).buffered(IMPORT_COMPARES_IN_FLIGHT).try_collect().await
    }
}

/// How to go on after an import that did not reach its end.
const RESUME_HINT: &str =
    "run the same command again: what is in the collection already is not written twice";

/// A failure says that the import can be resumed where it says nothing better.
fn with_resume_hint(failure: Failure) -> CliError {
    match failure.hint.is_empty() {
        true => failure.hint(RESUME_HINT).into(),
        false => {
            let hint = format!("{}; then {RESUME_HINT}", failure.hint);
            failure.hint(hint).into()
        }
    }
}

/// The reading thread: ends early, without an error, when nobody takes batches any more.
fn read(
    input: &Input,
    skip_too_large: bool,
    sender: &mpsc::Sender<Vec<Record>>,
) -> Result<(), CliError> {
    let mut batcher = Batcher::default();
    let mut wanted = true;
    input.read(skip_too_large, &mut |record| {
        if let Some(batch) = batcher.push(record) {
            wanted = sender.blocking_send(batch).is_ok();
        }
        wanted
    })?;
    if let (true, Some(batch)) = (wanted, batcher.finish()) {
        // An error means that the writer has ended, which tells its own reason.
        let _ended = sender.blocking_send(batch);
    }
    Ok(())
}
