//! Stories of the store and the staging area, on real files.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use slog::{Discard, Logger, o};
use tempfile::TempDir;

use super::*;
use crate::codec::manifest::{decode_embedded, encode_embedded, encode_manifest};
use crate::limits::{CHUNK_BYTES_MIN, GIB, MIB};
use crate::manifest::Part;
use crate::transfer::receiver::{Finding, Origin, RecordedPart};
use crate::types::{
    ChunkSet, ClusterId, ConfState, EmbeddedSnapshot, PartialChunk, PullCounters, PullRecord,
    SnapshotReference, SnapshotSource, TransferState,
};

const CLUSTER: ClusterId = ClusterId([3; 16]);
const CHUNK: usize = CHUNK_BYTES_MIN as usize;

fn logger() -> Logger {
    Logger::root(Discard, o!())
}

fn open_store(root: &Path) -> DiskSnapshotStore {
    let options = DiskOptions { reserve_bytes: 0, ..DiskOptions::default() };
    DiskSnapshotStore::open(root, options, logger()).unwrap()
}

fn open_staging(root: &Path) -> Staging {
    let options = StagingOptions { reserve_bytes: 0, ..StagingOptions::default() };
    Staging::open(root, options, logger()).unwrap()
}

/// Bytes that differ from each other and hold no zero.
fn content(seed: u8, bytes: usize) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8 | 1
    };
    (0..bytes).map(next).collect()
}

fn build_options(index: u64, generation: u64) -> BuildOptions {
    BuildOptions {
        cluster: CLUSTER,
        index,
        term: 2,
        conf_state: ConfState { voters: vec![1], ..Default::default() },
        chunk_bytes: CHUNK_BYTES_MIN,
        generation,
        created_unix_ms: index,
    }
}

/// Puts a checkpoint into the store.
fn save(store: &DiskSnapshotStore, index: u64, files: &[(&str, Vec<u8>)]) -> SnapshotMeta {
    let directory = store.building_directory().unwrap();
    fs::create_dir(&directory).unwrap();
    for (name, bytes) in files {
        fs::write(directory.join(name), bytes).unwrap();
    }
    let manifest = build_manifest(&directory, build_options(index, 1), store.digests()).unwrap();
    store.save(&directory, &manifest, 0).unwrap()
}

fn checkpoint(seed: u8) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("000012.sst", content(seed, 2 * CHUNK + 77)),
        ("000013.sst", content(seed.wrapping_add(1), 900)),
        ("CURRENT", b"MANIFEST-000005\n".to_vec()),
        ("MANIFEST-000005", content(seed.wrapping_add(2), 300)),
        ("OPTIONS-000007", Vec::new()),
    ]
}

fn names(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

// ---- The store.

#[test]
fn a_saved_snapshot_survives_a_restart() {
    let root = TempDir::new().unwrap();
    let files = checkpoint(1);
    let meta = save(&open_store(root.path()), 40, &files);
    let store = open_store(root.path());
    assert_eq!(store.list(), std::slice::from_ref(&meta));
    assert_eq!((meta.index, meta.term, meta.parts), (40, 2, 5));
    let stored = store.manifest(meta.id).unwrap();
    for (position, part) in stored.manifest.parts.iter().enumerate() {
        let mut bytes = vec![0; part.bytes as usize];
        store.open_part(meta.id, position as u32).unwrap().read_at(0, &mut bytes).unwrap();
        assert_eq!(bytes, files.iter().find(|(name, _)| *name == part.name).unwrap().1);
    }
    assert_eq!(
        store.verify(meta.id).unwrap(),
        VerifyReport { bytes: meta.bytes, problems: vec![] }
    );
    store.remove(meta.id).unwrap();
    assert!(matches!(store.manifest(meta.id), Err(StoreError::Unknown(_))));
    assert_eq!(names(root.path()), ["digests"]);
}

#[test]
fn the_same_state_saved_twice_is_one_snapshot() {
    let root = TempDir::new().unwrap();
    let store = open_store(root.path());
    let first = save(&store, 40, &checkpoint(1));
    assert_eq!(save(&store, 40, &checkpoint(1)), first);
    assert_eq!(names(root.path()).len(), 2, "the snapshot and the digests");
}

#[test]
fn damage_found_at_start_is_moved_aside_and_blocks_nothing() {
    // camunda #6894: a partial or corrupt snapshot on disk blocks the start.
    let root = TempDir::new().unwrap();
    let store = open_store(root.path());
    let bad_manifest = save(&store, 40, &checkpoint(1)).id.to_string();
    let short_part = save(&store, 41, &checkpoint(2)).id.to_string();
    drop(store);
    let manifest = root.path().join(&bad_manifest).join("manifest");
    let mut bytes = fs::read(&manifest).unwrap();
    bytes[9] ^= 1;
    fs::write(&manifest, bytes).unwrap();
    fs::write(root.path().join(&short_part).join("parts/000012.sst"), b"short").unwrap();
    fs::create_dir_all(root.path().join("building-3/parts")).unwrap();
    fs::write(root.path().join("building-3/parts/000012.sst"), b"half").unwrap();
    fs::create_dir(root.path().join("removing-x")).unwrap();
    fs::write(root.path().join("notes.txt"), b"somebody's").unwrap();
    fs::create_dir(root.path().join("00".repeat(32))).unwrap();

    let store = open_store(root.path());
    assert_eq!(store.list(), []);
    let good = save(&store, 42, &checkpoint(3));
    assert_eq!(store.list(), [good]);
    let left = names(root.path());
    assert!(left.contains(&format!("damaged-0-{bad_manifest}")), "{left:?}");
    assert!(left.contains(&format!("damaged-0-{short_part}")), "{left:?}");
    assert!(left.contains(&"notes.txt".to_owned()), "{left:?}");
    assert!(!left.iter().any(|name| name.starts_with("building-")), "{left:?}");
}

#[test]
fn a_snapshot_with_unreadable_metadata_is_never_deleted() {
    // nats-server #7556: corrupt snapshot metadata on a minority, data deleted.
    let root = TempDir::new().unwrap();
    let id = save(&open_store(root.path()), 40, &checkpoint(1)).id.to_string();
    for boot in 0..3 {
        let place = root.path().join(&id);
        if boot > 0 {
            // Somebody put it back without mending it.
            fs::rename(root.path().join(format!("damaged-{}-{id}", boot - 1)), &place).unwrap();
            fs::create_dir(root.path().join(format!("damaged-{}-{id}", boot - 1))).unwrap();
        }
        fs::write(place.join("manifest"), b"").unwrap();
        let store = open_store(root.path());
        assert_eq!(store.list(), []);
        let kept = root.path().join(format!("damaged-{boot}-{id}")).join("parts/000012.sst");
        assert_eq!(fs::read(kept).unwrap(), checkpoint(1)[0].1, "boot {boot}");
    }
}

#[test]
fn snapshots_regenerated_for_hours_do_not_fill_the_disk() {
    // tikv #10930: 4 h of regenerated snapshots fill the disk.
    let root = TempDir::new().unwrap();
    let store = open_store(root.path());
    let pinned = save(&store, 1, &checkpoint(0)).id;
    store.pin(pinned, NodeId(7), 0).unwrap();
    for index in 2..60 {
        save(&store, index, &checkpoint(index as u8));
    }
    let left: Vec<(u64, Vec<NodeId>)> =
        store.list().into_iter().map(|meta| (meta.index, meta.pinned_for)).collect();
    assert_eq!(left, [(59, vec![]), (58, vec![]), (1, vec![NodeId(7)])]);
    assert_eq!(names(root.path()).len(), 4);
    store.unpin(NodeId(7));
    assert_eq!(store.retain(1).removed, [pinned]);
    // A pin on what is gone is refused, so that nobody relies on it.
    assert!(matches!(store.pin(pinned, NodeId(7), 1), Err(StoreError::Unknown(_))));
}

#[test]
fn a_slow_receiver_cannot_pin_the_sources_disk_for_ever() {
    // cockroach #76295: a pin without bound, a slow receiver fills the leader's disk.
    let root = TempDir::new().unwrap();
    let policy = PinPolicy { keep: 1, pinned_bytes_max: 1, pin_idle_ms_max: 1_000 };
    let options = DiskOptions { policy, reserve_bytes: 0, ..DiskOptions::default() };
    let store = DiskSnapshotStore::open(root.path(), options, logger()).unwrap();
    let pinned = save(&store, 1, &checkpoint(1)).id;
    store.pin(pinned, NodeId(7), 0).unwrap();
    save(&store, 2, &checkpoint(2));
    let left: Vec<u64> = store.list().into_iter().map(|meta| meta.index).collect();
    assert_eq!(left, [2], "over its byte budget");
}

#[test]
fn an_sst_seen_before_is_not_read_again() {
    let root = TempDir::new().unwrap();
    let cache = DigestCache::open(&root.path().join("digests"));
    let directory = root.path().join("checkpoint");
    fs::create_dir(&directory).unwrap();
    let sst = directory.join("000012.sst");
    fs::write(&sst, content(1, 5_000)).unwrap();
    let first = build_manifest(&directory, build_options(1, 1), &cache).unwrap();
    cache.save().unwrap();
    // Rot below the file system changes bytes and nothing else.
    let modified = fs::metadata(&sst).unwrap().modified().unwrap();
    let file = fs::OpenOptions::new().write(true).open(&sst).unwrap();
    file.write_all_at(b"rot", 100).unwrap();
    file.set_modified(modified).unwrap();
    let cache = DigestCache::open(&root.path().join("digests"));
    let again = build_manifest(&directory, build_options(1, 1), &cache).unwrap();
    assert_eq!(again.parts, first.parts, "the sums are those of the time when it was new");
    // A name that comes back in another generation is another file.
    let other = build_manifest(&directory, build_options(1, 2), &cache).unwrap();
    assert_ne!(other.parts, first.parts);
}

#[test]
fn a_reused_name_does_not_fool_the_digests() {
    let root = TempDir::new().unwrap();
    let cache = DigestCache::open(&root.path().join("digests"));
    let directory = root.path().join("checkpoint");
    fs::create_dir(&directory).unwrap();
    let sst = directory.join("000012.sst");
    fs::write(&sst, content(1, 5_000)).unwrap();
    build_manifest(&directory, build_options(1, 1), &cache).unwrap();
    fs::write(directory.join("new"), content(2, 5_000)).unwrap();
    fs::rename(directory.join("new"), &sst).unwrap();
    let manifest = build_manifest(&directory, build_options(1, 1), &cache).unwrap();
    assert_eq!(manifest.parts[0].digest, Digest::of(&content(2, 5_000)));
}

#[test]
fn a_rotten_block_is_found_though_live_state_and_snapshot_share_it() {
    // A checkpoint by hard links shares inodes with the live state: one rotten block is rotten in both.
    let root = TempDir::new().unwrap();
    let store = open_store(root.path());
    let live = root.path().join("live.sst");
    fs::write(&live, content(1, 3 * CHUNK)).unwrap();
    let directory = store.building_directory().unwrap();
    fs::create_dir(&directory).unwrap();
    fs::hard_link(&live, directory.join("000012.sst")).unwrap();
    let manifest = build_manifest(&directory, build_options(1, 1), store.digests()).unwrap();
    let id = store.save(&directory, &manifest, 0).unwrap().id;
    let file = fs::OpenOptions::new().write(true).open(&live).unwrap();
    file.write_all_at(&[0], CHUNK as u64 + 9).unwrap();
    let report = store.verify(id).unwrap();
    assert_eq!(report.problems, ["part 000012.sst does not have its digest; bad chunks: 1"]);
    store.set_aside(id, "rot").unwrap();
    assert_eq!(store.list(), []);
    assert!(names(root.path()).contains(&format!("damaged-0-{id}")), "its bytes stay for people");

    // The next checkpoint links the same file; it must not be offered with the rot, again and again.
    let directory = store.building_directory().unwrap();
    fs::create_dir(&directory).unwrap();
    fs::hard_link(&live, directory.join("000012.sst")).unwrap();
    let error = build_manifest(&directory, build_options(2, 1), store.digests()).unwrap_err();
    assert!(error.to_string().contains("replace this node"), "{error}");
}

#[test]
fn a_checkpoint_with_strange_files_is_refused() {
    let root = TempDir::new().unwrap();
    let cache = DigestCache::open(&root.path().join("digests"));
    let directory = root.path().join("checkpoint");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("CURRENT"), b"x").unwrap();
    fs::write(directory.join("000009.log"), b"").unwrap();
    let manifest = build_manifest(&directory, build_options(1, 1), &cache).unwrap();
    assert_eq!(manifest.parts.len(), 1, "an empty log is no part");
    fs::write(directory.join("000009.log"), b"writes that were not flushed").unwrap();
    let error = build_manifest(&directory, build_options(1, 1), &cache).unwrap_err();
    assert!(matches!(error, StoreError::Strange(_)), "{error}");
    fs::remove_file(directory.join("000009.log")).unwrap();
    symlink("/etc/passwd", directory.join("000010.sst")).unwrap();
    let error = build_manifest(&directory, build_options(1, 1), &cache).unwrap_err();
    assert!(matches!(error, StoreError::Strange(_)), "{error}");
}

#[test]
fn no_snapshot_is_built_below_the_reserve() {
    let root = TempDir::new().unwrap();
    let options = DiskOptions {
        reserve_bytes: 1_000,
        free_bytes: Arc::new(|_| Ok(999)),
        ..DiskOptions::default()
    };
    let store = DiskSnapshotStore::open(root.path(), options, logger()).unwrap();
    assert!(store.building_directory().unwrap_err().is_disk_full());
}

#[test]
fn the_store_in_memory_keeps_the_same_promises() {
    let store = MemorySnapshotStore::new(PinPolicy { keep: 1, ..PinPolicy::default() });
    let bytes = Bytes::from(content(1, 2_000));
    let manifest = |index| manifest_of(index, &[("000012.sst", bytes.to_vec())]);
    let first = store.insert(&manifest(1), vec![bytes.clone()], 0).unwrap();
    store.pin(first.id, NodeId(2), 0).unwrap();
    let second = store.insert(&manifest(2), vec![bytes.clone()], 0).unwrap();
    assert_eq!(store.list().len(), 2);
    store.unpin(NodeId(2));
    assert_eq!(store.retain(0).removed, [first.id]);
    assert_eq!(store.verify(second.id).unwrap().problems, Vec::<String>::new());
    let mut tail = [0; 5];
    store.open_part(second.id, 0).unwrap().read_at(1_995, &mut tail).unwrap();
    assert_eq!(tail, bytes[1_995..]);
    assert!(store.open_part(second.id, 0).unwrap().read_at(1_996, &mut tail).is_err());
    let wrong = store.insert(&manifest(3), vec![Bytes::from_static(b"other")], 0);
    assert!(matches!(wrong, Err(StoreError::Damaged { .. })));
}

// ---- The staging area.

fn manifest_of(index: u64, files: &[(&str, Vec<u8>)]) -> Manifest {
    let part = |(name, bytes): &(&str, Vec<u8>)| Part {
        name: (*name).to_owned(),
        bytes: bytes.len() as u64,
        digest: Digest::of(bytes),
        chunk_crc32c: bytes.chunks(CHUNK).map(crc32c::crc32c).collect(),
    };
    Manifest {
        cluster: CLUSTER,
        index,
        term: 2,
        conf_state: ConfState { voters: vec![1], ..Default::default() },
        chunk_bytes: CHUNK_BYTES_MIN,
        parts: files.iter().map(part).collect(),
        created_unix_ms: 0,
    }
}

struct Staged {
    _root: TempDir,
    path: PathBuf,
    staging: Staging,
    pull: StagedPull,
    manifest: Arc<Manifest>,
    encoded: Bytes,
    id: SnapshotId,
}

fn stage(files: &[(&str, Vec<u8>)]) -> Staged {
    let root = TempDir::new().unwrap();
    let path = root.path().join("incoming");
    let staging = open_staging(&path);
    let manifest = Arc::new(manifest_of(40, files));
    let (id, encoded) = encode_manifest(&manifest).unwrap();
    let (pull, record) = staging.begin(id, &encoded, Arc::clone(&manifest)).unwrap();
    assert_eq!(record, None);
    Staged { _root: root, path, staging, pull, manifest, encoded, id }
}

impl Staged {
    fn record(&self) -> PullRecord {
        let parts = self.manifest.parts.len() as u32;
        PullRecord {
            reference: SnapshotReference {
                id: self.id,
                cluster: CLUSTER,
                total_bytes: self.manifest.total_bytes(),
                parts,
                manifest_bytes: self.encoded.len() as u64,
                sources: vec![SnapshotSource { node: NodeId(1), bulk_address: "a:1".to_owned() }],
            },
            index: 40,
            message_bytes: 0,
            counters: PullCounters::default(),
            state: TransferState::Pulling,
            finished_unix_ms: 0,
            complete: ChunkSet::new(parts),
            verified: ChunkSet::new(parts),
            incomplete: Vec::new(),
            partial: Vec::new(),
        }
    }

    fn reopen(&mut self) -> Option<PullRecord> {
        let (pull, record) =
            self.staging.begin(self.id, &self.encoded, Arc::clone(&self.manifest)).unwrap();
        self.pull = pull;
        record
    }
}

#[test]
fn a_pull_on_disk_is_found_again_with_its_record_and_manifest() {
    let files = [("000012.sst", content(1, CHUNK + 10))];
    let mut staged = stage(&files);
    assert!(staged.staging.found().is_empty(), "nothing was recorded yet");
    staged.pull.write(0, 0, &files[0].1).unwrap();
    let record = staged.record();
    staged.pull.persist(&[0], &record).unwrap();
    let found = staged.staging.found();
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].record, found[0].durable), (&record, false));
    assert_eq!(found[0].manifest.as_ref().unwrap(), &staged.encoded);
    assert_eq!(staged.reopen(), Some(record.clone()));
    staged.pull.finish(&record).unwrap();
    assert!(staged.staging.found()[0].durable);
    assert_eq!(
        fs::read(staged.staging.durable_parts(staged.id).join("000012.sst")).unwrap(),
        files[0].1
    );
}

#[test]
fn chunks_newer_than_the_bitmap_are_kept_if_their_checksum_says_so() {
    let bytes = content(1, 4 * CHUNK + 100);
    let staged = stage(&[("000012.sst", bytes.clone())]);
    // Chunks 0 and 2 whole, 1 missing, 3 begun, 4 (short) whole.
    staged.pull.write(0, 0, &bytes[..CHUNK]).unwrap();
    staged.pull.write(0, 2 * CHUNK as u64, &bytes[2 * CHUNK..3 * CHUNK + 5_000]).unwrap();
    staged.pull.write(0, 4 * CHUNK as u64, &bytes[4 * CHUNK..]).unwrap();
    let finding = staged.pull.inspect(0, &RecordedPart::default(), &[]).unwrap();
    let Finding::Staged { chunks, prefixes } = finding else { panic!("not whole") };
    assert_eq!((0..5).filter(|n| chunks.contains(*n)).collect::<Vec<u32>>(), [0, 2, 4]);
    assert_eq!(prefixes.len(), 1);
    assert_eq!((prefixes[0].chunk, prefixes[0].bytes, prefixes[0].delivered), (3, 5_000, 5_000));
    assert_eq!(prefixes[0].crc32c, crc32c::crc32c(&bytes[3 * CHUNK..3 * CHUNK + 5_000]));
}

#[test]
fn a_whole_but_wrong_chunk_begins_anew_and_counts_as_delivered() {
    let bytes = content(1, CHUNK);
    let staged = stage(&[("000012.sst", bytes.clone())]);
    let mut wrong = bytes;
    wrong[7] ^= 2;
    staged.pull.write(0, 0, &wrong).unwrap();
    let recorded = PartialChunk { part: 0, chunk: 0, staged: 10, delivered: 20 };
    let recorded = RecordedPart { partial: vec![recorded], ..RecordedPart::default() };
    let Finding::Staged { chunks, prefixes } = staged.pull.inspect(0, &recorded, &[]).unwrap()
    else {
        panic!("not whole")
    };
    assert_eq!(chunks.count(), 0);
    assert_eq!((prefixes[0].bytes, prefixes[0].delivered), (0, CHUNK as u32));
}

#[test]
fn a_part_is_reused_by_its_bytes_and_never_by_its_name() {
    // kvrocks, hashicorp/raft: reused by name, checksum computed on what was just written.
    let bytes = content(1, CHUNK + 5);
    let staged = stage(&[("000012.sst", bytes.clone())]);
    let elsewhere = staged.path.join("000012.sst");
    let candidates = [(Origin::Store, PartSource::File(elsewhere.clone()))];
    // The right name and length, the wrong bytes.
    fs::write(&elsewhere, content(9, CHUNK + 5)).unwrap();
    let finding = staged.pull.inspect(0, &RecordedPart::default(), &candidates).unwrap();
    assert!(matches!(finding, Finding::Staged { ref chunks, .. } if chunks.count() == 0));
    assert!(!staged.path.join(staged.id.to_string()).join("partial/000012.sst").exists());
    fs::write(&elsewhere, &bytes).unwrap();
    let finding = staged.pull.inspect(0, &RecordedPart::default(), &candidates).unwrap();
    assert_eq!(finding, Finding::Verified(Origin::Store));
    // What is staged is never written into what is stored.
    staged.pull.write(0, 0, b"overwritten").unwrap();
    assert_eq!(fs::read(&elsewhere).unwrap(), bytes);
}

#[test]
fn parts_of_other_partials_are_offered_by_digest() {
    let (bytes, current) = (content(1, 700), content(2, 16));
    let staged = stage(&[("000012.sst", bytes.clone()), ("CURRENT", current.clone())]);
    staged.pull.write(0, 0, &bytes).unwrap();
    staged.pull.write(1, 0, b"begun").unwrap();
    let others = staged.staging.parts_of_others(Digest([0; 32]));
    let mut expected = [(Digest::of(&bytes), 700), (Digest::of(&current), 16)];
    expected.sort_unstable();
    assert_eq!(others.keys().copied().collect::<Vec<_>>(), expected);
    assert!(staged.staging.parts_of_others(staged.id).is_empty());
    staged.staging.remove_others(Some(Digest([0; 32]))).unwrap();
    assert!(names(&staged.path).is_empty());
}

/// A second staged snapshot that has nothing yet of the same part, and where the first one has it.
fn newer_offer(staged: &Staged, bytes: &[u8]) -> (StagedPull, [(Origin, PartSource); 1]) {
    let manifest = Arc::new(manifest_of(41, &[("000099.sst", bytes.to_vec())]));
    let (id, encoded) = encode_manifest(&manifest).unwrap();
    let (pull, _) = staged.staging.begin(id, &encoded, manifest).unwrap();
    let others = staged.staging.parts_of_others(id);
    let begun = others[&(Digest::of(bytes), bytes.len() as u64)].clone();
    (pull, [(Origin::OtherPartial, PartSource::File(begun))])
}

#[test]
fn a_part_begun_by_another_snapshot_is_taken_over_chunk_by_chunk() {
    let bytes = content(1, 3 * CHUNK);
    let staged = stage(&[("000012.sst", bytes.clone())]);
    staged.pull.write(0, 0, &bytes[..CHUNK + 500]).unwrap();
    let (newer, elsewhere) = newer_offer(&staged, &bytes);
    let finding = newer.inspect(0, &RecordedPart::default(), &elsewhere).unwrap();
    let Finding::Adopted { chunks, prefixes } = finding else { panic!("{finding:?}") };
    assert_eq!((0..3).filter(|n| chunks.contains(*n)).collect::<Vec<u32>>(), [0]);
    assert_eq!((prefixes[0].chunk, prefixes[0].bytes), (1, 500));
    newer.write(0, CHUNK as u64 + 500, &bytes[CHUNK + 500..]).unwrap();
    assert_eq!(newer.check(0).unwrap().digest, Digest::of(&bytes));
}

#[test]
fn a_wrong_part_elsewhere_costs_nothing_of_what_is_staged() {
    let bytes = content(1, 3 * CHUNK);
    let staged = stage(&[("000012.sst", bytes.clone())]);
    staged.pull.write(0, 0, &content(9, 3 * CHUNK)).unwrap();
    let (newer, elsewhere) = newer_offer(&staged, &bytes);
    newer.write(0, 0, &bytes[..CHUNK]).unwrap();
    let finding = newer.inspect(0, &RecordedPart::default(), &elsewhere).unwrap();
    assert!(matches!(finding, Finding::Staged { ref chunks, .. } if chunks.contains(0)));
    newer.write(0, CHUNK as u64, &bytes[CHUNK..]).unwrap();
    assert_eq!(newer.check(0).unwrap().digest, Digest::of(&bytes));
}

/// Flips one bit of a file.
fn rot(path: &Path, offset: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 8], offset).unwrap();
}

#[test]
fn a_verified_part_that_rots_before_a_restart_loses_the_rotten_chunk_alone() {
    let bytes = content(1, 3 * CHUNK);
    let staged = stage(&[("000012.sst", bytes.clone())]);
    staged.pull.write(0, 0, &bytes).unwrap();
    let recorded = RecordedPart { verified: true, complete: true, ..RecordedPart::default() };
    let finding = staged.pull.inspect(0, &recorded, &[]).unwrap();
    assert_eq!(finding, Finding::Verified(Origin::Here));
    let partial = staged.path.join(staged.id.to_string()).join("partial");
    rot(&partial.join("000012.sst"), CHUNK as u64 + 3);
    let Finding::Staged { chunks, .. } = staged.pull.inspect(0, &recorded, &[]).unwrap() else {
        panic!("a rotten part was believed")
    };
    assert_eq!((0..3).filter(|n| chunks.contains(*n)).collect::<Vec<u32>>(), [0, 2]);
}

#[test]
fn a_durable_snapshot_that_rots_before_a_restart_is_judged_anew() {
    let bytes = content(1, 2 * CHUNK);
    let staged = stage(&[("000012.sst", bytes.clone())]);
    staged.pull.write(0, 0, &bytes).unwrap();
    staged.pull.finish(&staged.record()).unwrap();
    assert!(staged.staging.found()[0].durable);
    rot(&staged.staging.durable_parts(staged.id).join("000012.sst"), 5);
    assert!(!staged.staging.found()[0].durable);
}

#[test]
fn a_check_names_the_rotten_chunk_of_a_staged_part() {
    let bytes = content(1, 3 * CHUNK);
    let staged = stage(&[("000012.sst", bytes.clone())]);
    staged.pull.write(0, 0, &bytes).unwrap();
    assert_eq!(staged.pull.check(0).unwrap().digest, Digest::of(&bytes));
    staged.pull.write(0, CHUNK as u64 + 3, &[0]).unwrap();
    assert_eq!(staged.pull.check(0).unwrap().bad_chunks, [1]);
    fs::remove_file(staged.path.join(staged.id.to_string()).join("partial/000012.sst")).unwrap();
    assert_eq!(staged.pull.check(0).unwrap().bad_chunks, [0, 1, 2]);
}

#[test]
fn positions_beyond_4_gib_are_kept() {
    // kafka: 32-bit positions, fails above 2 GiB.
    let bytes = 5 * GIB as u64 + 123;
    let mut manifest = manifest_of(40, &[("000012.sst", vec![1])]);
    manifest.parts[0].bytes = bytes;
    manifest.parts[0].chunk_crc32c = vec![0; bytes.div_ceil(CHUNK as u64) as usize];
    let tail = content(1, 123);
    let last = manifest.parts[0].chunk_crc32c.len() - 1;
    manifest.parts[0].chunk_crc32c[last] = crc32c::crc32c(&tail);
    let manifest = Arc::new(manifest);
    let (id, encoded) = encode_manifest(&manifest).unwrap();
    let root = TempDir::new().unwrap();
    let staging = open_staging(root.path());
    let (pull, _) = staging.begin(id, &encoded, Arc::clone(&manifest)).unwrap();
    assert_eq!(manifest.chunk_bounds(0, last as u32), (5 * GIB as u64, 123));
    pull.write(0, 5 * GIB as u64, &tail).unwrap();
    let path = root.path().join(id.to_string()).join("partial/000012.sst");
    let mut read = vec![0; 123];
    fs::File::open(&path).unwrap().read_exact_at(&mut read, 5 * GIB as u64).unwrap();
    assert_eq!(read, tail);
    assert!(fs::metadata(&path).unwrap().blocks() * 512 < MIB as u64, "holes take no room");
}

#[test]
fn a_write_stops_before_the_reserve_and_goes_on_later() {
    let root = TempDir::new().unwrap();
    let free = Arc::new(AtomicU64::new(10_000));
    let asked = Arc::clone(&free);
    let options = StagingOptions {
        reserve_bytes: 9_000,
        free_bytes: Arc::new(move |_| Ok(asked.load(Ordering::Relaxed))),
    };
    let staging = Staging::open(root.path(), options, logger()).unwrap();
    let manifest = Arc::new(manifest_of(40, &[("000012.sst", content(1, 3_000))]));
    let (id, encoded) = encode_manifest(&manifest).unwrap();
    let (pull, _) = staging.begin(id, &encoded, manifest).unwrap();
    pull.write(0, 0, &[1; 600]).unwrap();
    let error = pull.write(0, 600, &[1; 1_500]).unwrap_err();
    assert!(matches!(error, StoreError::DiskFull { needed: 1_500, free: 1_000 }), "{error}");
    assert!(staging.check_space(1_001).unwrap_err().is_disk_full());
    free.store(100_000, Ordering::Relaxed);
    pull.write(0, 600, &[1; 1_500]).unwrap();
}

#[test]
fn a_removed_pull_cannot_come_back_through_a_late_record() {
    let staged = stage(&[("000012.sst", content(1, 10))]);
    let record = staged.record();
    staged.pull.remove().unwrap();
    staged.pull.persist(&[], &record).unwrap();
    assert!(names(&staged.path).is_empty());
}

#[test]
fn a_damaged_record_costs_the_record_and_not_the_bytes() {
    let bytes = content(1, 2 * CHUNK);
    let mut staged = stage(&[("000012.sst", bytes.clone())]);
    staged.pull.write(0, 0, &bytes[..CHUNK]).unwrap();
    staged.pull.persist(&[0], &staged.record()).unwrap();
    let record = staged.path.join(staged.id.to_string()).join("record");
    fs::write(&record, b"\x01garbage").unwrap();
    assert!(staged.staging.found().is_empty(), "without it nobody knows the source");
    assert_eq!(staged.reopen(), None);
    let finding = staged.pull.inspect(0, &RecordedPart::default(), &[]).unwrap();
    assert!(matches!(finding, Finding::Staged { chunks, .. } if chunks.contains(0)));
}

#[test]
fn parts_go_live_by_link_and_what_rocksdb_appends_to_by_copy() {
    let files = checkpoint(1);
    let staged = stage(&files);
    for (part, (_, bytes)) in (0..).zip(&files) {
        staged.pull.write(part, 0, bytes).unwrap();
    }
    staged.pull.finish(&staged.record()).unwrap();
    let live = staged.path.join("live");
    fs::create_dir(&live).unwrap();
    for attempt in 0..2 {
        // The second time finds what a crash left behind.
        staged.staging.link_into(staged.id, &staged.manifest, &live).unwrap();
        for (name, bytes) in &files {
            assert_eq!(&fs::read(live.join(name)).unwrap(), bytes, "attempt {attempt}");
            let links = fs::metadata(live.join(name)).unwrap().nlink();
            assert_eq!(links, if name.ends_with(".sst") { 2 } else { 1 }, "{name}");
        }
    }
}

#[test]
fn the_status_of_the_last_pull_is_kept() {
    let root = TempDir::new().unwrap();
    let staging = open_staging(root.path());
    assert_eq!(staging.last_status(), None);
    fs::write(root.path().join("last-status"), b"garbage").unwrap();
    assert_eq!(staging.last_status(), None);
}

// ---- Embedded.

#[test]
fn a_small_snapshot_travels_whole_and_is_staged_like_a_pulled_one() {
    let root = TempDir::new().unwrap();
    let store = open_store(&root.path().join("snapshots"));
    let files = [("000012.sst", content(1, 5_000)), ("CURRENT", content(2, 16))];
    let meta = save(&store, 40, &files);
    let embedded = embed(&store, meta.id).unwrap();
    let embedded = decode_embedded(&encode_embedded(&embedded)).unwrap();
    let staging = open_staging(&root.path().join("incoming"));
    let reference = SnapshotReference {
        id: meta.id,
        cluster: CLUSTER,
        total_bytes: meta.bytes,
        parts: meta.parts,
        manifest_bytes: meta.manifest_bytes,
        sources: vec![SnapshotSource { node: NodeId(1), bulk_address: "a:1".to_owned() }],
    };
    let staged = stage_embedded(&staging, &reference, 40, &embedded).unwrap();
    assert_eq!(staged.index, 40);
    assert!(staging.found()[0].durable);
    assert_eq!(fs::read(staging.durable_parts(meta.id).join("CURRENT")).unwrap(), files[1].1);

    let mut spoiled = embedded.clone();
    let mut part = spoiled.parts[0].to_vec();
    part[3] ^= 1;
    spoiled.parts[0] = part.into();
    let error = stage_embedded(&staging, &reference, 40, &spoiled).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert!(staging.found().is_empty(), "nothing of it stays");
}

#[test]
fn an_embedded_snapshot_without_content_is_refused() {
    // nodedb: empty data with done = true advanced the applied index.
    let root = TempDir::new().unwrap();
    let staging = open_staging(root.path());
    let empty = EmbeddedSnapshot { manifest: Bytes::new(), parts: Vec::new() };
    let reference = SnapshotReference {
        id: Digest::of(b""),
        cluster: CLUSTER,
        total_bytes: 0,
        parts: 0,
        manifest_bytes: 0,
        sources: Vec::new(),
    };
    assert!(stage_embedded(&staging, &reference, 40, &empty).is_err());
    assert!(names(root.path()).is_empty());

    // A manifest that is whole, without its bytes, or for another index than the one offered.
    let store = open_store(&root.path().join("snapshots"));
    let files = [("000012.sst", content(1, 5_000)), ("CURRENT", content(2, 16))];
    let meta = save(&store, 40, &files);
    let whole = embed(&store, meta.id).unwrap();
    let reference = SnapshotReference {
        id: meta.id,
        total_bytes: meta.bytes,
        parts: meta.parts,
        manifest_bytes: meta.manifest_bytes,
        ..reference
    };
    let none = EmbeddedSnapshot { parts: Vec::new(), ..whole.clone() };
    let hollow = EmbeddedSnapshot { parts: vec![Bytes::new(); 2], ..whole.clone() };
    for (index, embedded) in [(40, &none), (40, &hollow), (41, &whole)] {
        let error = stage_embedded(&staging, &reference, index, embedded).unwrap_err();
        assert!(matches!(error, StoreError::Manifest(_)), "{error}");
    }
    assert!(staging.found().is_empty());
}

#[test]
fn a_large_snapshot_is_not_embedded() {
    let root = TempDir::new().unwrap();
    let store = open_store(root.path());
    let meta = save(&store, 40, &[("000012.sst", content(1, 5 * MIB))]);
    assert!(matches!(embed(&store, meta.id), Err(StoreError::TooLarge { .. })));
}
