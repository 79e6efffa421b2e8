//! How many bytes of entries the raft log holds, counted by runs of indexes.
//!
//! RocksDB cannot say: entries it holds in memory or has not compacted away still count there. A
//! count for each entry would cost as much memory as the log is long, so neighbours share one.

use std::collections::BTreeMap;
use std::ops::RangeBounds;

use crate::types::Index;

/// Entries that share one count.
const RUN_ENTRIES: u64 = 256;

/// Bytes of entries by run. Exact at run boundaries, proportional inside a run.
#[derive(Debug, Default)]
pub struct LogSize {
    /// Run number (index / RUN_ENTRIES) to its entries and their bytes.
    runs: BTreeMap<u64, Run>,
    /// Sum over all runs.
    bytes: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Run {
    entries: u64,
    bytes: u64,
}

impl LogSize {
    /// Of a log found on disk: entries `first ..= last` of `bytes` in all, as if of equal size.
    pub fn estimated(first: Index, last: Index, bytes: u64) -> Self {
        let mut size = LogSize::default();
        let count = (last + 1).saturating_sub(first);
        if count == 0 {
            return size;
        }
        let bytes_each = bytes / count;
        for run in first / RUN_ENTRIES..=last / RUN_ENTRIES {
            let from = first.max(run * RUN_ENTRIES);
            let to = (last + 1).min((run + 1) * RUN_ENTRIES);
            let entries = to - from;
            size.runs.insert(run, Run { entries, bytes: entries * bytes_each });
            size.bytes += entries * bytes_each;
        }
        size
    }

    /// Bytes of all entries.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// An entry was added at the end.
    pub fn push(&mut self, index: Index, bytes: u64) {
        let run = self.runs.entry(index / RUN_ENTRIES).or_default();
        run.entries += 1;
        run.bytes += bytes;
        self.bytes += bytes;
    }

    /// Entries `from ..= last` are gone, `last` being the end of the log until now.
    pub fn cut_end(&mut self, from: Index, last: Index) {
        let run = from / RUN_ENTRIES;
        self.drop_runs(run + 1..);
        self.shrink(run, last.min((run + 1) * RUN_ENTRIES - 1) + 1 - from);
    }

    /// Entries `first ..= to` are gone, `first` being the beginning of the log until now.
    pub fn cut_beginning(&mut self, first: Index, to: Index) {
        let run = to / RUN_ENTRIES;
        self.drop_runs(..run);
        self.shrink(run, to + 1 - first.max(run * RUN_ENTRIES));
    }

    fn drop_runs(&mut self, numbers: impl RangeBounds<u64>) {
        let bytes = &mut self.bytes;
        self.runs.retain(|number, run| {
            let gone = numbers.contains(number);
            *bytes -= if gone { run.bytes } else { 0 };
            !gone
        });
    }

    /// Takes `entries` out of a run, at the average size of its entries.
    fn shrink(&mut self, number: u64, entries: u64) {
        let Some(run) = self.runs.get_mut(&number) else { return };
        let gone = entries.min(run.entries);
        let bytes = run.bytes * gone / run.entries;
        run.entries -= gone;
        run.bytes -= bytes;
        self.bytes -= bytes;
        if run.entries == 0 {
            self.runs.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn entries_of_one_size_are_counted_exactly(
            start in 0..2000u64,
            steps in prop::collection::vec((0..4u8, 1..700u64), 1..40)
        ) {
            let mut size = LogSize::default();
            let (mut first, mut last) = (start + 1, start);
            for (kind, amount) in steps {
                match kind {
                    0 | 1 => for _ in 0..amount {
                        last += 1;
                        size.push(last, 100);
                    },
                    2 if first <= last => {
                        let from = first.max((last + 1).saturating_sub(amount));
                        size.cut_end(from, last);
                        last = from - 1;
                    }
                    3 if first <= last => {
                        let to = last.min(first + amount - 1);
                        size.cut_beginning(first, to);
                        first = to + 1;
                    }
                    _ => {}
                }
                prop_assert_eq!(size.bytes(), (last + 1 - first) * 100);
            }
            let estimated = LogSize::estimated(first, last, size.bytes());
            prop_assert_eq!(estimated.bytes(), size.bytes());
        }
    }
}
