//! The content digest: equal on every replica that has applied the same entries, whatever its
//! flushes, compactions and file layouts were.
//!
//! It covers all rows of the meta family, and the records of every collection that are visible at
//! the applied index: a clone's as it shows them, whatever layers they lie in. The meta rows are taken as stored, since their format changes only by log
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
use super::key::{Key, Kind};
use super::rows;
use super::sight::{Sight, layer_row};
use super::walk::{Effort, Keys, Settled, Walk};

/// Begins every digest; another way to compute it gets another name.
const DOMAIN: &[u8] = b"ratoon content digest 2";
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
    applied: stored::Applied,
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
        /// What it shows.
        sight: Sight,
        /// Keys that are left.
        keys: Keys,
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
            applied,
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
                Place::Records { sight, keys, next } => {
                    self.read_records(view, sight, keys, next, stop_at)?
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
        let stored::Applied { index, time_unix_ms, .. } = self.applied;
        let layer = layer_row(view, entry.layer)?;
        let sight = Sight::through(entry.layer, &layer, index, time_unix_ms);
        let mut next = key.encode();
        self.read_bytes += next.len() as u64;
        self.hasher.frame(&next);
        // The least key above this one.
        next.push(0);
        Ok(Place::Records { sight, keys: Keys::default(), next })
    }

    fn read_records(
        &mut self,
        view: &dyn View,
        sight: Sight,
        mut keys: Keys,
        next: Vec<u8>,
        stop_at: u64,
    ) -> Result<Place, StateError> {
        let effort = Effort { rows: usize::MAX, bytes: stop_at - self.read_bytes };
        let mut walk = Walk::new(view, &sight, &keys, false, effort)?;
        let place = loop {
            match walk.settle()? {
                Settled::End => break Place::Collections(next),
                Settled::Paused => {
                    keys.start = walk.place()?;
                    break Place::Records { sight, keys, next };
                }
                Settled::Visible => {}
            }
            let record = walk.visible()?;
            let key = record.key()?;
            self.hasher.frame(&key);
            self.hasher.add(&record.version.to_le_bytes());
            self.hasher.add(&record.expires_unix_ms.unwrap_or(0).to_le_bytes());
            self.hasher.frame(record.content_type.as_bytes());
            self.hasher.frame(record.value);
            self.records += 1;
            self.bytes += (key.len() + record.value.len()) as u64;
            walk.leave()?;
        };
        self.read_bytes += walk.spent.bytes;
        Ok(place)
    }

    fn finish(&mut self) -> ContentDigest {
        ContentDigest {
            index: self.applied.index,
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
