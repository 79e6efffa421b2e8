//! Gathers records into batches that are worth one log entry each.
//!
//! Order is kept, nothing is dropped, and no batch is over the limits of one write.

use crate::limits::{BATCH_BYTES_MAX, BATCH_WRITES_MAX, IMPORT_BATCH_BYTES, IMPORT_BATCH_RECORDS};
use crate::types::Record;

const _: () = assert!(IMPORT_BATCH_BYTES <= BATCH_BYTES_MAX);
const _: () = assert!(IMPORT_BATCH_RECORDS <= BATCH_WRITES_MAX);

/// Records on their way to one batch.
#[derive(Debug, Default)]
pub struct Batcher {
    records: Vec<Record>,
    bytes: usize,
}

/// Bytes a record counts against a batch's limit.
pub fn record_bytes(record: &Record) -> usize {
    record.key.len() + record.value.len()
}

impl Batcher {
    /// Takes a record; answers with the batch before it, if that is full.
    pub fn push(&mut self, record: Record) -> Option<Vec<Record>> {
        let bytes = record_bytes(&record);
        let full = !self.records.is_empty()
            && (self.bytes + bytes > IMPORT_BATCH_BYTES
                || self.records.len() >= IMPORT_BATCH_RECORDS);
        let batch = match full {
            true => self.finish(),
            false => None,
        };
        self.bytes += bytes;
        self.records.push(record);
        batch
    }

    /// The last batch, if any record waits.
    pub fn finish(&mut self) -> Option<Vec<Record>> {
        self.bytes = 0;
        let records = std::mem::take(&mut self.records);
        (!records.is_empty()).then_some(records)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn batches_keep_order_and_limits(
            sizes in proptest::collection::vec(
                prop_oneof![0usize..2000, Just(IMPORT_BATCH_BYTES / 2), Just(4 << 20)], 0..40
            )
        ) {
            let mut batcher = Batcher::default();
            let mut batches = Vec::new();
            for (at, size) in sizes.iter().enumerate() {
                batches.extend(batcher.push(Record {
                    key: at.to_string().into(),
                    value: Bytes::from(vec![0; *size]),
                    version: 0,
                    content_type: String::new(),
                }));
            }
            batches.extend(batcher.finish());
            for batch in &batches {
                let bytes: usize = batch.iter().map(record_bytes).sum();
                prop_assert!(bytes <= IMPORT_BATCH_BYTES || batch.len() == 1);
                prop_assert!(bytes <= BATCH_BYTES_MAX);
                prop_assert!(!batch.is_empty() && batch.len() <= IMPORT_BATCH_RECORDS);
            }
            let keys: Vec<Bytes> = batches.into_iter().flatten().map(|record| record.key).collect();
            let expected: Vec<Bytes> = (0..sizes.len()).map(|at| at.to_string().into()).collect();
            prop_assert_eq!(keys, expected);
        }
    }

    #[test]
    fn many_small_records_are_cut_by_count() {
        let mut batcher = Batcher::default();
        let record = Record {
            key: "k".into(),
            value: Bytes::new(),
            version: 0,
            content_type: String::new(),
        };
        let full = (0..=IMPORT_BATCH_RECORDS).find_map(|_| batcher.push(record.clone()));
        assert_eq!(full.unwrap().len(), IMPORT_BATCH_RECORDS);
        assert_eq!(batcher.finish().unwrap().len(), 1);
        assert!(batcher.finish().is_none());
    }
}
