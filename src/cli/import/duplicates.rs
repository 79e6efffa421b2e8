//! Finds keys that occur twice in an input of any size, in bounded memory.
//!
//! Hashes of keys go to an unnamed temporary file and are compared part by part. BLAKE3 at 128 bits
//! makes a false alarm as unlikely as a broken disk. Keeps no keys.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};

use crate::limits::IMPORT_HASHES_IN_MEMORY_MAX;

/// 16 bytes of hash, 4 of file number, 8 of line number.
const ENTRY_BYTES: usize = 28;

/// Where a record of the input stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// Position of its file among those given.
    pub file: u32,
    /// Its line; the first is 1.
    pub line: u64,
}

/// Collects keys, then tells which occur more than once.
pub struct DuplicateFinder {
    spill: BufWriter<File>,
    count: u64,
    in_memory_max: usize,
}

impl DuplicateFinder {
    /// A finder with its temporary file.
    pub fn new() -> io::Result<Self> {
        Self::with_memory(IMPORT_HASHES_IN_MEMORY_MAX)
    }

    fn with_memory(in_memory_max: usize) -> io::Result<Self> {
        Ok(DuplicateFinder {
            spill: BufWriter::new(tempfile::tempfile()?),
            count: 0,
            in_memory_max,
        })
    }

    /// Notes that `key` stands at `place`.
    pub fn add(&mut self, key: &[u8], place: Place) -> io::Result<()> {
        let mut entry = [0; ENTRY_BYTES];
        entry[..16].copy_from_slice(&blake3::hash(key).as_bytes()[..16]);
        entry[16..20].copy_from_slice(&place.file.to_be_bytes());
        entry[20..].copy_from_slice(&place.line.to_be_bytes());
        self.count += 1;
        self.spill.write_all(&entry)
    }

    /// Calls `found` with the first place of a key and each later one, in no particular order.
    pub fn finish(self, mut found: impl FnMut(Place, Place)) -> io::Result<()> {
        let mut file = self.spill.into_inner().map_err(io::IntoInnerError::into_error)?;
        let parts = self.count.div_ceil(self.in_memory_max as u64).max(1);
        for part in 0..parts {
            file.rewind()?;
            let mut entries = Vec::new();
            let mut reader = BufReader::new(&file);
            for _ in 0..self.count {
                let mut entry = [0; ENTRY_BYTES];
                reader.read_exact(&mut entry)?;
                if u64::from_be_bytes(field(&entry, 0)) % parts == part {
                    entries.push(entry);
                }
            }
            // Byte order is hash, then file, then line: equal keys stand together, first one first.
            entries.sort_unstable();
            for same in entries.chunk_by(|a, b| a[..16] == b[..16]) {
                for later in &same[1..] {
                    found(place(&same[0]), place(later));
                }
            }
        }
        Ok(())
    }
}

fn field<const N: usize>(entry: &[u8; ENTRY_BYTES], at: usize) -> [u8; N] {
    entry[at..at + N].try_into().expect("the field lies inside the entry")
}

fn place(entry: &[u8; ENTRY_BYTES]) -> Place {
    Place { file: u32::from_be_bytes(field(entry, 16)), line: u64::from_be_bytes(field(entry, 20)) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn exactly_the_later_places_of_equal_keys_are_found(
            keys in proptest::collection::vec("[a-e]{1,2}", 0..60), memory in 1usize..40,
        ) {
            let mut finder = DuplicateFinder::with_memory(memory).unwrap();
            let mut first = BTreeMap::new();
            let mut expected = Vec::new();
            for (at, key) in keys.iter().enumerate() {
                let place = Place { file: at as u32 / 7, line: at as u64 + 1 };
                finder.add(key.as_bytes(), place).unwrap();
                match first.get(key) {
                    Some(earlier) => expected.push((*earlier, place)),
                    None => { first.insert(key, place); }
                }
            }
            let mut found = Vec::new();
            finder.finish(|a, b| found.push((a, b))).unwrap();
            found.sort();
            expected.sort();
            prop_assert_eq!(found, expected);
        }
    }
}
