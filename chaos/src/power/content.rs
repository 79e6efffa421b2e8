//! The bytes of one file: as they are now in a backing file, and what is needed to take them back to
//! what was durable.
//!
//! Only blocks that were durable and changed since are copied; appended ones are known by the durable
//! size. It never syncs the backing file: durable means here what `lose_power` may not take away.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::SystemTime;

use crate::random::Random;

/// What survives or is lost as one.
pub const BLOCK_BYTES: u64 = 4096;

type Block = Box<[u8; BLOCK_BYTES as usize]>;

/// See the module.
pub struct Content {
    /// Holds the current bytes, and is as long as `size`.
    backing: File,
    /// Current length in bytes.
    size: u64,
    /// Length in bytes at the last sync.
    durable_size: u64,
    /// Blocks below the durable size that changed since the last sync, as they were then, zeros
    /// after the durable size. Keyed by their number in the file.
    undo: BTreeMap<u64, Block>,
    /// When the bytes or the length changed last.
    modified: SystemTime,
}

impl Content {
    /// An empty file whose bytes go to `backing`.
    pub fn new(backing: File, now: SystemTime) -> Self {
        Content { backing, size: 0, durable_size: 0, undo: BTreeMap::new(), modified: now }
    }

    /// Current length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// When the bytes or the length changed last.
    pub fn modified(&self) -> SystemTime {
        self.modified
    }

    /// Sets when the bytes or the length changed last.
    pub fn set_modified(&mut self, modified: SystemTime) {
        self.modified = modified;
    }

    /// Up to `length` bytes from `offset`; fewer only at the end of the file.
    pub fn read(&self, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        let end = offset.saturating_add(length).min(self.size);
        let mut bytes = vec![0; end.saturating_sub(offset) as usize];
        self.backing.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Writes `bytes` at `offset`.
    pub fn write(&mut self, offset: u64, bytes: &[u8], now: SystemTime) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        self.save(offset, end)?;
        self.backing.write_all_at(bytes, offset)?;
        self.size = self.size.max(end);
        self.modified = now;
        Ok(())
    }

    /// Cuts the file off at `size`, or fills it up to there with zeros.
    pub fn set_size(&mut self, size: u64, now: SystemTime) -> io::Result<()> {
        self.save(size, self.size)?;
        self.backing.set_len(size)?;
        self.size = size;
        self.modified = now;
        Ok(())
    }

    /// Makes all that was written durable.
    pub fn sync(&mut self) {
        self.durable_size = self.size;
        self.undo.clear();
    }

    /// Takes the file to a state that a power loss may leave: of the blocks that are not durable each
    /// survives with `survival_permille`, and the length is between the durable and the current one.
    /// What is left is durable. Returns how many blocks were lost.
    pub fn lose_power(&mut self, random: &mut Random, survival_permille: u64) -> io::Result<u64> {
        let (current, durable) = (self.size, self.durable_size);
        let size = match survival_permille {
            0 => durable,
            1000 => current,
            _ => match random.below(3) {
                0 => durable,
                1 => current,
                _ => random.between(durable.min(current), durable.max(current)),
            },
        };
        // While blocks are put back, the file is long enough for any of them.
        self.backing.set_len(durable.max(current))?;
        let undo = std::mem::take(&mut self.undo);
        let mut numbers: BTreeSet<u64> = undo.keys().copied().collect();
        if durable < current {
            numbers.extend(durable / BLOCK_BYTES..current.div_ceil(BLOCK_BYTES));
        }
        let mut lost = 0;
        for number in numbers {
            let start = number * BLOCK_BYTES;
            // What a cut took away comes back whole: a length beyond the cut says it did not happen.
            if start >= current || !random.chance(survival_permille) {
                self.put_back(start, undo.get(&number))?;
                lost += 1;
            } else if size < current.min(start + BLOCK_BYTES) {
                // It survived beyond the end of the file.
                lost += 1;
            }
        }
        self.backing.set_len(size)?;
        (self.size, self.durable_size) = (size, size);
        Ok(lost)
    }

    /// Makes the block at `start` what it was: `copy` as far as the file was durable, zeros after that.
    fn put_back(&self, start: u64, copy: Option<&Block>) -> io::Result<()> {
        let durable = self.durable_size.saturating_sub(start).min(BLOCK_BYTES) as usize;
        let current = self.size.saturating_sub(start).min(BLOCK_BYTES) as usize;
        if let Some(copy) = copy {
            self.backing.write_all_at(&copy[..durable], start)?;
        }
        let appended = current.saturating_sub(durable);
        self.backing.write_all_at(&[0; BLOCK_BYTES as usize][..appended], start + durable as u64)
    }

    /// Copies the durable blocks between `from` and `to` that were not copied since the last sync.
    fn save(&mut self, from: u64, to: u64) -> io::Result<()> {
        let end = to.min(self.durable_size);
        if from >= end {
            return Ok(());
        }
        for number in from / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES) {
            if self.undo.contains_key(&number) {
                continue;
            }
            let start = number * BLOCK_BYTES;
            let mut block: Block = Box::new([0; BLOCK_BYTES as usize]);
            // A block that was not copied yet lies below the current size as far as it is durable.
            let length = (self.durable_size - start).min(BLOCK_BYTES) as usize;
            self.backing.read_exact_at(&mut block[..length], start)?;
            self.undo.insert(number, block);
        }
        Ok(())
    }
}
