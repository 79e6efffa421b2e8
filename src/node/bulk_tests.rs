//! Receiver and source as they run, over real QUIC on loopback and real files.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::{BulkEvent, BulkReceiver, BulkSender};
use crate::limits::{BULK_RATE_MIN, CHUNK_BYTES_MIN, CONNECTIONS_PER_IDENTITY_MAX, MIB};
use crate::net::testing::{authority, endpoint, identity, logger};
use crate::net::{CertificateAuthority, Endpoint, Lane};
use crate::snapshot_store::{
    BuildOptions, DiskOptions, DiskSnapshotStore, SnapshotStore, Staging, StagingOptions,
    build_manifest,
};
use crate::transfer::{receiver, sender};
use crate::types::{
    ClusterId, ConfState, NodeId, SnapshotId, SnapshotReference, SnapshotSource, TransferState,
};

const CLUSTER: ClusterId = ClusterId([5; 16]);
const PATIENCE: Duration = Duration::from_secs(60);

/// A source on loopback with one snapshot.
struct Source {
    root: TempDir,
    store: Arc<DiskSnapshotStore>,
    endpoint: Endpoint,
    sender: BulkSender,
    id: SnapshotId,
    content: Vec<u8>,
}

fn content(bytes: usize) -> Vec<u8> {
    let mut state = 7_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8 | 1
    };
    (0..bytes).map(next).collect()
}

impl Source {
    fn start(authority: &CertificateAuthority, node: u64, bytes: usize) -> Source {
        let root = TempDir::new().unwrap();
        let options = DiskOptions { reserve_bytes: 0, ..DiskOptions::default() };
        let store = DiskSnapshotStore::open(&root.path().join("s"), options, logger()).unwrap();
        let directory = store.building_directory().unwrap();
        fs::create_dir(&directory).unwrap();
        let content = content(bytes);
        fs::write(directory.join("000012.sst"), &content).unwrap();
        fs::write(directory.join("CURRENT"), b"MANIFEST-000005\n").unwrap();
        fs::write(directory.join("OPTIONS-000007"), b"").unwrap();
        let options = BuildOptions {
            cluster: CLUSTER,
            index: 40,
            term: 2,
            conf_state: ConfState { voters: vec![1], ..Default::default() },
            chunk_bytes: CHUNK_BYTES_MIN,
            generation: 1,
            created_unix_ms: 1,
        };
        let manifest = build_manifest(&directory, options, store.digests()).unwrap();
        let id = store.save(&directory, &manifest, 0).unwrap().id;
        let store = Arc::new(store);
        let endpoint = endpoint(Lane::Bulk, &identity(authority, node));
        let served: Arc<dyn SnapshotStore> = store.clone();
        let options = sender::Options::default();
        let sender = BulkSender::start(
            options,
            endpoint.clone(),
            served,
            std::sync::Arc::new(|_| Ok(())),
            logger(),
        );
        Source { root, store, endpoint, sender, id, content }
    }

    fn reference(&self, sources: &[(u64, &Source)]) -> SnapshotReference {
        let meta = self.store.metadata(self.id).unwrap();
        let source = |(node, source): &(u64, &Source)| SnapshotSource {
            node: NodeId(*node),
            bulk_address: source.endpoint.local_address().to_string(),
        };
        SnapshotReference {
            id: meta.id,
            cluster: CLUSTER,
            total_bytes: meta.bytes,
            parts: meta.parts,
            manifest_bytes: meta.manifest_bytes,
            sources: sources.iter().map(source).collect(),
        }
    }

    fn part_path(&self) -> PathBuf {
        self.root.path().join("s").join(self.id.to_string()).join("parts/000012.sst")
    }
}

/// A receiver on loopback.
struct Sink {
    receiver: BulkReceiver,
    events: mpsc::Receiver<BulkEvent>,
    endpoint: Endpoint,
}

fn start_sink(authority: &CertificateAuthority, root: &Path, free: &Arc<AtomicU64>) -> Sink {
    let free = Arc::clone(free);
    let options = StagingOptions {
        reserve_bytes: 0,
        free_bytes: Arc::new(move |_| Ok(free.load(Ordering::Relaxed))),
    };
    let staging = Staging::open(&root.join("incoming"), options, logger()).unwrap();
    let options = DiskOptions { reserve_bytes: 0, ..DiskOptions::default() };
    let store = DiskSnapshotStore::open(&root.join("snapshots"), options, logger()).unwrap();
    let endpoint = endpoint(Lane::Bulk, &identity(authority, 9));
    let mut options = receiver::Options::new(NodeId(9), CLUSTER, 1);
    options.disk_retry_ms = 50;
    let (receiver, events) =
        BulkReceiver::start(options, endpoint.clone(), staging, Arc::new(store), logger()).unwrap();
    Sink { receiver, events, endpoint }
}

fn plenty() -> Arc<AtomicU64> {
    Arc::new(AtomicU64::new(u64::MAX))
}

impl Sink {
    /// Waits until the pull is durable; where its parts lie.
    async fn durable(&mut self) -> PathBuf {
        let wait = async {
            loop {
                match self.events.recv().await.unwrap() {
                    BulkEvent::Durable { parts, .. } => return parts,
                    BulkEvent::Failed { reason, .. } => panic!("{reason}"),
                    _ => {}
                }
            }
        };
        timeout(PATIENCE, wait).await.unwrap()
    }

    /// Waits until the status says so.
    async fn until(&self, holds: impl Fn(&crate::types::TransferStatus) -> bool) {
        let wait = async {
            while !self.receiver.status().is_some_and(|status| holds(&status)) {
                sleep(Duration::from_millis(2)).await;
            }
        };
        let result = timeout(PATIENCE, wait).await;
        assert!(result.is_ok(), "{:?}", self.receiver.status());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_arrives_whole_over_the_bulk_lane() {
    let authority = authority(5);
    let source = Source::start(&authority, 1, 20 * MIB + 12_345);
    let root = TempDir::new().unwrap();
    let mut sink = start_sink(&authority, root.path(), &plenty());
    assert!(sink.receiver.offer(source.reference(&[(1, &source)]), 40, 300));
    let parts = sink.durable().await;
    assert_eq!(fs::read(parts.join("000012.sst")).unwrap(), source.content);
    assert_eq!(fs::read(parts.join("OPTIONS-000007")).unwrap(), b"");
    let lease = source.sender.statuses().remove(0).lease;
    assert_eq!((lease.receiver, lease.snapshot), (NodeId(9), source.id));
    assert_eq!(lease.sent_bytes, source.reference(&[]).total_bytes);
    sink.until(|status| status.state == TransferState::Durable).await;
    assert_eq!(sink.receiver.status().unwrap().resent_bytes, 0);
    assert!(sink.receiver.installed(source.id));
    sink.until(|status| status.state == TransferState::Installed).await;
    let gone = async {
        while parts.exists() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn cuts_and_a_killed_receiver_cost_at_most_a_chunk_a_stream() {
    let authority = authority(5);
    let source = Source::start(&authority, 1, 24 * MIB);
    let root = TempDir::new().unwrap();
    let sink = start_sink(&authority, root.path(), &plenty());
    // Slow enough that the cuts fall into the pull.
    assert!(sink.receiver.limit(8 * MIB as u64));
    assert!(sink.receiver.offer(source.reference(&[(1, &source)]), 40, 300));
    for cuts in 1..=2 {
        sink.until(|status| status.done_bytes > cuts * 4 * MIB as u64).await;
        // The source drops the older one of two connections of one receiver.
        let address = source.endpoint.local_address().to_string();
        let connection = sink.endpoint.connect(NodeId(1), &address).await.unwrap();
        sink.until(|status| status.resumes >= cuts).await;
        drop(connection);
    }
    sink.until(|status| status.done_bytes > 12 * MIB as u64).await;
    // A process that is killed tells nobody: its endpoint falls silent and its tasks stop.
    sink.endpoint.close().await;
    drop(sink);
    sleep(Duration::from_millis(50)).await;
    let mut sink = start_sink(&authority, root.path(), &plenty());
    let parts = sink.durable().await;
    assert_eq!(fs::read(parts.join("000012.sst")).unwrap(), source.content);
    let status = sink.receiver.status().unwrap();
    // A kill forgets what was counted since the last record, and no staged byte.
    assert!(status.resumes >= 1 && status.resumed_from_bytes > 8 * MIB as u64, "{status:?}");
    assert!(status.resent_bytes <= 3 * 4 * MIB as u64, "{status:?}");
    assert!(status.received_bytes < 30 * MIB as u64, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotten_stored_part_is_fenced_and_another_source_serves() {
    let authority = authority(5);
    let rotten = Source::start(&authority, 1, 5 * MIB);
    let good = Source::start(&authority, 2, 5 * MIB);
    assert_eq!(rotten.id, good.id);
    let file = fs::OpenOptions::new().write(true).open(rotten.part_path()).unwrap();
    file.write_all_at(&[0], 3 * MIB as u64 + 5).unwrap();
    let root = TempDir::new().unwrap();
    let mut sink = start_sink(&authority, root.path(), &plenty());
    let reference = good.reference(&[(1, &rotten), (2, &good)]);
    assert!(sink.receiver.offer(reference, 40, 300));
    let parts = sink.durable().await;
    assert_eq!(fs::read(parts.join("000012.sst")).unwrap(), good.content);
    assert!(rotten.store.list().is_empty(), "it is served to nobody any more");
    assert!(!rotten.part_path().exists() && rotten.root.path().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_a_pull_which_goes_on_when_there_is_room() {
    let authority = authority(5);
    let source = Source::start(&authority, 1, 8 * MIB);
    let root = TempDir::new().unwrap();
    let free = Arc::new(AtomicU64::new(MIB as u64));
    let mut sink = start_sink(&authority, root.path(), &free);
    assert!(sink.receiver.offer(source.reference(&[(1, &source)]), 40, 300));
    sink.until(|status| status.stall_reason.starts_with("disk full")).await;
    assert_eq!(sink.receiver.status().unwrap().state, TransferState::Planning);
    free.store(u64::MAX, Ordering::Relaxed);
    let parts = sink.durable().await;
    assert_eq!(fs::read(parts.join("000012.sst")).unwrap(), source.content);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_staging_is_mended_after_a_restart() {
    let authority = authority(5);
    let source = Source::start(&authority, 1, 12 * MIB);
    let root = TempDir::new().unwrap();
    let sink = start_sink(&authority, root.path(), &plenty());
    assert!(sink.receiver.limit(6 * MIB as u64));
    assert!(sink.receiver.offer(source.reference(&[(1, &source)]), 40, 300));
    sink.until(|status| status.done_bytes > 4 * MIB as u64).await;
    sleep(Duration::from_millis(1_200)).await;
    drop(sink);
    sleep(Duration::from_millis(100)).await;
    // A staged chunk rots although the record vouches for it, and the manifest is damaged.
    let staged = root.path().join("incoming").join(source.id.to_string());
    let file = fs::OpenOptions::new().write(true).open(staged.join("partial/000012.sst")).unwrap();
    file.write_all_at(&[0; 16], MIB as u64 + 100).unwrap();
    fs::write(staged.join("manifest"), b"garbage").unwrap();
    let mut sink = start_sink(&authority, root.path(), &plenty());
    let parts = sink.durable().await;
    assert_eq!(fs::read(parts.join("000012.sst")).unwrap(), source.content);
    let status = sink.receiver.status().unwrap();
    assert!(status.resumed_from_bytes > 2 * MIB as u64, "{status:?}");
    assert!(status.resent_bytes >= MIB as u64, "the rotten chunk came again: {status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_snapshot_is_refused_and_a_new_offer_asked_for() {
    let authority = authority(5);
    let source = Source::start(&authority, 1, MIB);
    let root = TempDir::new().unwrap();
    let mut sink = start_sink(&authority, root.path(), &plenty());
    let reference = source.reference(&[(1, &source)]);
    source.store.remove(source.id).unwrap();
    assert!(sink.receiver.offer(reference, 40, 300));
    let wait = async {
        loop {
            if let BulkEvent::WantsNewOffer { reason, .. } = sink.events.recv().await.unwrap() {
                return reason;
            }
        }
    };
    let reason = timeout(PATIENCE, wait).await.unwrap();
    assert!(reason.contains("does not have the snapshot"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn however_often_a_waiting_receiver_is_cut_it_is_served_again() {
    // Writers that wait for their turn must end with their connection: the source counts those.
    let authority = authority(5);
    let source = Source::start(&authority, 1, 4 * MIB);
    let root = TempDir::new().unwrap();
    let mut sink = start_sink(&authority, root.path(), &plenty());
    assert!(source.sender.limit(BULK_RATE_MIN));
    assert!(sink.receiver.offer(source.reference(&[(1, &source)]), 40, 300));
    let mut received = 0;
    for cuts in 1..=CONNECTIONS_PER_IDENTITY_MAX as u64 + 2 {
        sink.until(|status| status.received_bytes > received && status.done_bytes > 0).await;
        received = sink.receiver.status().unwrap().received_bytes;
        let address = source.endpoint.local_address().to_string();
        let connection = sink.endpoint.connect(NodeId(1), &address).await.unwrap();
        sink.until(|status| status.resumes >= cuts).await;
        drop(connection);
    }
    assert!(source.sender.limit(0));
    let parts = sink.durable().await;
    assert_eq!(fs::read(parts.join("000012.sst")).unwrap(), source.content);
}
