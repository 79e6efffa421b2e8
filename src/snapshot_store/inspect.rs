//! What is here of a part: the judgement of staged bytes after a restart, the reuse of equal parts,
//! and the check of whole ones.
//!
//! Synced chunks are believed by the record, since the digest of their part is still to be checked;
//! newer ones by their CRC alone; a begun chunk keeps its beginning, whose CRC is judged at the
//! chunk's end. A part whose digest was checked before the restart is checked again: nothing looks
//! at it after this. A part from elsewhere is read whole before it is believed: equal names and file
//! numbers mean nothing. One that another staged snapshot has begun is taken over and judged by its
//! CRCs, so that a newer offer costs no byte twice.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::files::{fill, link_or_copy, open_part_file, sum_file};
use super::staging::StagedPull;
use super::{PartSource, StoreError};
use crate::fault::{self, Point};
use crate::transfer::receiver::{Finding, Origin, PartCheck, RecordedPart, StagedPrefix};
use crate::types::{ChunkSet, Digest, PartialChunk};

/// How a file ends that may become a part. No part is named so.
const CANDIDATE_EXTENSION: &str = "candidate";

impl StagedPull {
    /// Finds out what is here of a part. `elsewhere` are places that may hold it, whole or begun.
    pub fn inspect(
        &self,
        part: u32,
        recorded: &RecordedPart,
        elsewhere: &[(Origin, PartSource)],
    ) -> Result<Finding, StoreError> {
        let name = &self.manifest.parts[part as usize].name;
        let failed =
            |cause| StoreError::io(format!("inspecting part {name} of {}", self.id), cause);
        if self.manifest.parts[part as usize].bytes == 0 {
            // There is nothing to pull, but the file must be there.
            File::create(self.path(part)).map_err(failed)?;
            self.note_new_name();
            return Ok(Finding::Verified(Origin::Here));
        }
        let staged = match self.inspect_staged(part, recorded) {
            Ok(finding) => finding,
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.nothing(part),
            Err(_) => {
                // A block that cannot be read is worth as little as a missing one.
                self.discard(part).map_err(failed)?;
                self.nothing(part)
            }
        };
        let Finding::Staged { chunks, prefixes } = &staged else { return Ok(staged) };
        if chunks.is_full() {
            return Ok(staged);
        }
        for (origin, source) in elsewhere {
            if self.reuse(part, source).map_err(failed)? {
                return Ok(Finding::Verified(*origin));
            }
        }
        if chunks.count() > 0 || !prefixes.is_empty() {
            return Ok(staged);
        }
        for (origin, source) in elsewhere {
            if let (Origin::OtherPartial, PartSource::File(from)) = (origin, source)
                && let Some(adopted) = self.adopt(part, from).map_err(failed)?
            {
                return Ok(adopted);
            }
        }
        Ok(staged)
    }

    /// Takes over what another staged snapshot holds of an equal part, which is given up with it.
    fn adopt(&self, part: u32, from: &Path) -> io::Result<Option<Finding>> {
        match fs::symlink_metadata(from) {
            // It was only linked here: the next write would begin it anew.
            Ok(metadata) if metadata.nlink() > 1 => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        self.discard(part)?;
        fs::rename(from, self.path(part))?;
        fault::point(Point::StagingPartAdopted);
        self.note_new_name();
        Ok(match self.inspect_staged(part, &RecordedPart::default())? {
            Finding::Staged { chunks, prefixes } => Some(Finding::Adopted { chunks, prefixes }),
            _ => None,
        })
    }

    fn nothing(&self, part: u32) -> Finding {
        Finding::Staged { chunks: ChunkSet::new(self.manifest.chunks(part)), prefixes: Vec::new() }
    }

    fn inspect_staged(&self, part: u32, recorded: &RecordedPart) -> io::Result<Finding> {
        let file = open_part_file(&self.path(part))?;
        let known = &self.manifest.parts[part as usize];
        let length = file.metadata()?.len();
        if recorded.verified
            && length == known.bytes
            && sum_file(&file, self.manifest.chunk_bytes)?.digest == known.digest
        {
            return Ok(Finding::Verified(Origin::Here));
        }
        let mut chunks = ChunkSet::new(self.manifest.chunks(part));
        let mut prefixes = Vec::new();
        let mut buffer = vec![0; self.manifest.chunk_bytes as usize];
        for chunk in 0..chunks.len() {
            let (offset, bytes) = self.manifest.chunk_bounds(part, chunk);
            // What was verified and is not any more has rotted: only the CRCs tell where.
            let is_synced = !recorded.verified
                && (recorded.complete
                    || recorded.chunks.as_ref().is_some_and(|c| c.contains(chunk)));
            if is_synced && offset + u64::from(bytes) <= length {
                chunks.insert(chunk);
                continue;
            }
            let content = &mut buffer[..bytes as usize];
            let filled = fill(&file, offset, content)?;
            content[filled..].fill(0);
            if filled == bytes as usize
                && crc32c::crc32c(content) == self.manifest.chunk_crc32c(part, chunk)
            {
                chunks.insert(chunk);
                continue;
            }
            let known = recorded.partial.iter().find(|entry| entry.chunk == chunk);
            prefixes.extend(prefix(chunk, content, known.copied()));
        }
        Ok(Finding::Staged { chunks, prefixes })
    }

    /// Takes a part over from elsewhere, if all of its bytes are right. Judged beside what is staged,
    /// which stays if they are not.
    fn reuse(&self, part: u32, source: &PartSource) -> io::Result<bool> {
        let candidate = self.path(part).with_extension(CANDIDATE_EXTENSION);
        remove_if_there(&candidate)?;
        let taken = match source {
            PartSource::File(from) => link_or_copy(from, &candidate),
            PartSource::Memory(bytes) => fs::write(&candidate, bytes),
        };
        let known = &self.manifest.parts[part as usize];
        let is_right = taken.and_then(|()| open_part_file(&candidate)).and_then(|file| {
            if file.metadata()?.len() != known.bytes {
                return Ok(false);
            }
            let sums = sum_file(&file, self.manifest.chunk_bytes)?;
            file.sync_all()?;
            fault::fail(Point::StagingCandidateChecked)?;
            Ok(sums.digest == known.digest)
        });
        // A block elsewhere that cannot be read is as good as none.
        if !is_right.unwrap_or(false) {
            remove_if_there(&candidate)?;
            return Ok(false);
        }
        self.discard(part)?;
        fs::rename(&candidate, self.path(part))?;
        fault::point(Point::StagingCandidateTaken);
        self.note_new_name();
        Ok(true)
    }

    /// Reads a whole part. What cannot be read is thrown away and reported as all bad.
    pub fn check(&self, part: u32) -> Result<PartCheck, StoreError> {
        let known = &self.manifest.parts[part as usize];
        let sums = open_part_file(&self.path(part))
            .and_then(|file| sum_file(&file, self.manifest.chunk_bytes));
        let sums = match sums {
            Ok(sums) if sums.bytes == known.bytes => sums,
            _ => {
                self.discard(part).map_err(|cause| {
                    StoreError::io(format!("dropping part {} of {}", known.name, self.id), cause)
                })?;
                let bad_chunks = (0..self.manifest.chunks(part)).collect();
                return Ok(PartCheck { digest: Digest([0; 32]), bad_chunks });
            }
        };
        fault::point(Point::StagingPartVerified);
        let pairs = sums.chunk_crc32c.iter().zip(&known.chunk_crc32c);
        let bad_chunks =
            (0..).zip(pairs).filter(|(_, (found, right))| found != right).map(|(n, _)| n);
        Ok(PartCheck { digest: sums.digest, bad_chunks: bad_chunks.collect() })
    }
}

/// The beginning of an unfinished chunk: what the record says, or up to the last byte that was ever
/// written, since holes read as zeros. A beginning that only looks like one fails at the chunk's end.
fn prefix(chunk: u32, content: &[u8], recorded: Option<PartialChunk>) -> Option<StagedPrefix> {
    let extent = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u32 + 1);
    let (staged, delivered) = recorded.map_or((0, 0), |entry| (entry.staged, entry.delivered));
    let length = content.len() as u32;
    let delivered = delivered.max(extent).min(length);
    let bytes = staged.max(extent);
    // A chunk that is all there and still wrong begins anew.
    let bytes = if bytes >= length { 0 } else { bytes };
    (delivered > 0).then(|| StagedPrefix {
        chunk,
        bytes,
        delivered,
        crc32c: crc32c::crc32c(&content[..bytes as usize]),
    })
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
