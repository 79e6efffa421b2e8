//! The content digest: equal on every replica that has applied the same entries, whatever its
//! flushes, compactions and file layouts were.
//!
//! It covers all rows of the meta family, and the records of every collection that are visible at
//! the applied index. The meta rows are taken as stored, since their format changes only by log
//! entries; of a session's remembered refusal, though, the wording is left out, because two
//! releases may word it differently. Versions that nobody can see, rows of dropped collections,
//! and the families `changes` and `times` are not covered.
//!
//! `DigestRun` goes in steps, so that the caller decides how fast; it holds no cursor between them
//! and a bounded amount of memory.

use crate::codec::stored::{self, CollectionEntry, Outcome, Session};
use crate::kv::{Family, View};
use crate::limits::KIB;
use crate::types::{Digest, Index};

use super::error::StateError;
use super::key::{Key, Kind, after_prefix, layer_prefix, user_key};
use super::read::{descriptor_at, own_layer};
use super::rows;
use super::scan::{Effort, Settled, VisibleRecord, Walk};

/// Begins every digest; another way to compute it gets another name.
const DOMAIN: &[u8] = b"ratoon content digest 1";
/// Small pieces are gathered up to this size, because BLAKE3 is several times faster on long input.
const GATHER_BYTES: usize = 64 * KIB;

/// What a replica holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContentDigest {
    /// The applied index it stands for.
    pub index: Index,
    /// Equal on all replicas at that index.
    pub digest: Digest,
    /// Visible records.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

/// A content digest being computed.
pub struct DigestRun {
    index: Index,
    hasher: Gatherer,
    place: Place,
    records: u64,
    bytes: u64,
    /// Bytes read since the beginning.
    read_bytes: u64,
}

/// Where a run goes on.
enum Place {
    /// At the first meta row at or after this key.
    Meta(Vec<u8>),
    /// At the first collection at or after this key.
    Collections(Vec<u8>),
    /// Inside a collection.
    Records {
        /// First records row to look at.
        row: Vec<u8>,
        /// First row after the collection's layer.
        end: Vec<u8>,
        /// Key of the first collection after this one.
        next: Vec<u8>,
    },
    /// Nothing is left.
    Done,
}

/// The digest of all that `view` holds, in one go.
pub fn content_digest(view: &dyn View) -> Result<ContentDigest, StateError> {
    let mut run = DigestRun::new(view)?;
    loop {
        if let Some(digest) = run.step(view, u64::MAX)? {
            return Ok(digest);
        }
    }
}

impl DigestRun {
    /// A run over `view`; every step must be given the same view.
    pub fn new(view: &dyn View) -> Result<DigestRun, StateError> {
        let applied: stored::Applied = rows::required(view, &Key::Applied)?;
        let mut hasher = Gatherer::default();
        hasher.frame(DOMAIN);
        Ok(DigestRun {
            index: applied.index,
            hasher,
            place: Place::Meta(Vec::new()),
            records: 0,
            bytes: 0,
            read_bytes: 0,
        })
    }

    /// Reads on for about `bytes_max` bytes; the digest once everything is read.
    pub fn step(
        &mut self,
        view: &dyn View,
        bytes_max: u64,
    ) -> Result<Option<ContentDigest>, StateError> {
        let stop_at = self.read_bytes.saturating_add(bytes_max.max(1));
        while self.read_bytes < stop_at {
            self.place = match std::mem::replace(&mut self.place, Place::Done) {
                Place::Meta(from) => self.read_meta(view, &from, stop_at)?,
                Place::Collections(from) => self.next_collection(view, from)?,
                Place::Records { row, end, next } => {
                    self.read_records(view, row, end, next, stop_at)?
                }
                Place::Done => return Ok(Some(self.finish())),
            };
        }
        Ok(None)
    }

    /// Bytes of rows read so far, for the caller's rate limit and progress.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    fn read_meta(
        &mut self,
        view: &dyn View,
        from: &[u8],
        stop_at: u64,
    ) -> Result<Place, StateError> {
        let mut cursor = view.cursor(Family::Meta);
        cursor.seek(from);
        while let Some((key, value)) = cursor.entry() {
            if self.read_bytes >= stop_at {
                return Ok(Place::Meta(key.to_vec()));
            }
            self.read_bytes += (key.len() + value.len()) as u64;
            self.hasher.frame(key);
            match Key::decode(Family::Meta, key)? {
                key @ Key::Session(_) => {
                    let row = without_wording(rows::decode(&key, value)?);
                    self.hasher.frame(&stored::encode(&row));
                }
                _ => self.hasher.frame(value),
            }
            cursor.next();
        }
        cursor.status()?;
        Ok(Place::Collections(Kind::collections(None).start))
    }

    fn next_collection(&mut self, view: &dyn View, from: Vec<u8>) -> Result<Place, StateError> {
        let kind = Kind { start: from, ..Kind::collections(None) };
        let Some((key, entry)) = rows::first::<CollectionEntry>(view, &kind)? else {
            return Ok(Place::Done);
        };
        let incarnation = entry.incarnation;
        let descriptor = descriptor_at(view, incarnation, self.index)?.ok_or_else(|| {
            StateError::corrupt(format!("incarnation {incarnation} has no descriptor"))
        })?;
        let layer = own_layer(&descriptor, self.index)?;
        let mut next = key.encode();
        self.read_bytes += next.len() as u64;
        self.hasher.frame(&next);
        // The least key above this one.
        next.push(0);
        let row = layer_prefix(layer).to_vec();
        Ok(Place::Records { end: after_prefix(&row), row, next })
    }

    fn read_records(
        &mut self,
        view: &dyn View,
        row: Vec<u8>,
        end: Vec<u8>,
        next: Vec<u8>,
        stop_at: u64,
    ) -> Result<Place, StateError> {
        let effort = Effort { rows: usize::MAX, bytes: stop_at - self.read_bytes };
        let mut walk = Walk::new(view.cursor(Family::Records), self.index, effort);
        walk.cursor.seek(&row);
        let place = loop {
            match walk.settle(&end)? {
                Settled::End => break Place::Collections(next),
                Settled::Paused => {
                    break Place::Records { row: walk.row()?.to_vec(), end, next };
                }
                Settled::Visible => {}
            }
            let VisibleRecord { row, version, content_type, value } = walk.visible()?;
            let key = user_key(row)?;
            self.hasher.frame(&key);
            self.hasher.add(&version.to_le_bytes());
            self.hasher.frame(content_type.as_bytes());
            self.hasher.frame(value);
            self.records += 1;
            self.bytes += (key.len() + value.len()) as u64;
            walk.leave()?;
        };
        self.read_bytes += walk.spent.bytes;
        Ok(place)
    }

    fn finish(&mut self) -> ContentDigest {
        ContentDigest {
            index: self.index,
            digest: self.hasher.finish(),
            records: self.records,
            bytes: self.bytes,
        }
    }
}

fn without_wording(mut session: Session) -> Session {
    if let Some(answer) = &mut session.outcome
        && let Outcome::Failed { message, hint, .. } = &mut answer.outcome
    {
        message.clear();
        hint.clear();
    }
    session
}

/// A hasher that gathers small pieces.
#[derive(Default)]
struct Gatherer {
    hasher: blake3::Hasher,
    gathered: Vec<u8>,
}

impl Gatherer {
    /// A piece behind its length, so that no two lists of pieces look alike.
    fn frame(&mut self, piece: &[u8]) {
        self.add(&(piece.len() as u64).to_le_bytes());
        self.add(piece);
    }

    fn add(&mut self, piece: &[u8]) {
        if self.gathered.len() + piece.len() > GATHER_BYTES {
            self.hasher.update(&self.gathered);
            self.gathered.clear();
        }
        match piece.len() {
            0..GATHER_BYTES => self.gathered.extend_from_slice(piece),
            _ => {
                self.hasher.update(piece);
            }
        }
    }

    fn finish(&mut self) -> Digest {
        self.hasher.update(&self.gathered);
        self.gathered.clear();
        Digest(*self.hasher.finalize().as_bytes())
    }
}
