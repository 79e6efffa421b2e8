//! Pages of a scan, one after another, all at one index.
//!
//! Checks what it is handed: keys ascend over all pages, because exports depend on it.

use bytes::Bytes;

use super::Client;
use crate::limits::SCAN_PAGE_RECORDS_MAX;
use crate::types::{Code, CollectionName, Consistency, Failure, ScanOptions, ScanPage};

/// A scan under way.
pub struct Pages {
    client: Client,
    collection: CollectionName,
    options: ScanOptions,
    consistency: Consistency,
    last_key: Option<Bytes>,
    ended: bool,
}

impl Pages {
    pub(super) fn new(
        client: Client,
        collection: CollectionName,
        options: ScanOptions,
        consistency: Consistency,
    ) -> Self {
        Pages { client, collection, options, consistency, last_key: None, ended: false }
    }

    /// The next page, of at most `records_max` records; None at the end.
    pub async fn next(&mut self, records_max: u64) -> Result<Option<ScanPage>, Failure> {
        if self.ended || records_max == 0 {
            return Ok(None);
        }
        // The bound makes the conversion lossless.
        self.options.limit = records_max.min(SCAN_PAGE_RECORDS_MAX as u64) as u32;
        let page = self.client.scan(&self.collection, &self.options, self.consistency).await?;
        if let Consistency::Stale { min_index } = &mut self.consistency {
            // The next page may come from another node, which must have caught up with this one.
            *min_index = page.index.max(*min_index);
        }
        for record in &page.records {
            if self.last_key.as_ref().is_some_and(|last| *last >= record.key) {
                let message = "a scan answered with keys out of order";
                return Err(Failure::new(Code::Internal, message));
            }
            self.last_key = Some(record.key.clone());
        }
        self.ended = page.cursor.is_empty();
        self.options.cursor = page.cursor.clone();
        Ok(Some(page))
    }
}
