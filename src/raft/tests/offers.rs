//! The leader's side of a snapshot: what it offers, and that every offer ends.

use raft::eraftpb::MessageType;
use raft::{ProgressState, Storage as _};

use super::cluster::{Cluster, LEASE_MS, Letter, TICK_MS, Task};
use crate::limits::{BUILD_RETRY_MS, OFFER_PAUSE_MS_MAX, SNAPSHOT_REFERENCE_BYTES_MAX};
use crate::raft::{ClientRequest, Input};
use crate::types::{ConfState, MembershipChange, NodeId};

/// Ticks after which a silent receiver has lost its lease.
const LEASE_TICKS: usize = (LEASE_MS / TICK_MS) as usize + 1;

/// Node 1 leads; node 2 has been offered a snapshot and holds its pull back.
fn with_an_offer_under_way() -> Cluster {
    let mut cluster = Cluster::alone();
    cluster.place(2);
    cluster.hold(2, Task::Pull);
    cluster.change(1, MembershipChange::AddLearner(NodeId(2)));
    cluster.ticks(5);
    assert_eq!(cluster.peer(1, 2).state, ProgressState::Snapshot);
    assert_eq!(cluster.machine(2).pulls.len(), 1);
    cluster
}

#[test]
fn a_receiver_that_dies_before_it_pulls_is_not_paused_for_ever() {
    let mut cluster = with_an_offer_under_way();
    cluster.crash(2);
    cluster.ticks(LEASE_TICKS);
    assert_eq!(cluster.peer(1, 2).state, ProgressState::Probe, "the offer has ended");
    cluster.start(2);
    cluster.ticks(20);
    assert_eq!(cluster.peer(1, 2).state, ProgressState::Replicate);
    assert_eq!(cluster.machine(2).installed.len(), 1);
}

#[test]
fn a_receiver_cut_off_in_the_middle_of_its_pull_is_offered_again() {
    let mut cluster = with_an_offer_under_way();
    cluster.progress(1, 2, 1, false);
    let offered = cluster.machine(1).offered;
    cluster.crash(2);
    cluster.start(2);
    cluster.hold(2, Task::Pull);
    cluster.ticks(LEASE_TICKS / 2);
    assert_eq!(cluster.machine(1).offered, offered, "while the lease lives nothing is offered");
    cluster.ticks(LEASE_TICKS);
    assert!(cluster.machine(1).offered > offered);
    cluster.release(2, Task::Pull);
    cluster.ticks(10);
    assert_eq!(cluster.peer(1, 2).state, ProgressState::Replicate);
}

#[test]
fn a_pull_that_goes_on_for_hours_keeps_its_lease() {
    let mut cluster = with_an_offer_under_way();
    let offered = cluster.machine(1).offered;
    for _ in 0..1_000 {
        cluster.progress(1, 2, 1, false);
        cluster.ticks(LEASE_TICKS - 3);
    }
    assert_eq!(cluster.peer(1, 2).state, ProgressState::Snapshot);
    assert_eq!(cluster.machine(1).offered, offered, "nobody lost patience");
    assert_eq!(cluster.machine(1).state.pins.len(), 1);
    cluster.release(2, Task::Pull);
    cluster.ticks(5);
    assert_eq!(cluster.peer(1, 2).state, ProgressState::Replicate);
}

#[test]
fn a_failed_pull_is_never_reported_as_finished() {
    let mut cluster = with_an_offer_under_way();
    let (reference, index, _) = cluster.machine(2).pulls.pop().unwrap();
    let reason = "the disk is gone".to_owned();
    cluster.tell(2, Input::PullFailed { id: reference.id, index, reason });
    let reports: Vec<_> = cluster
        .sent
        .iter()
        .filter_map(|(_, _, letter)| match letter {
            Letter::Report(index, ok) => Some((*index, *ok)),
            Letter::Raft(_) | Letter::Progress(..) => None,
        })
        .collect();
    assert_eq!(reports, [(index, false)]);
    // Finish would make the leader go on after the snapshot; Failure makes it begin again.
    assert_eq!(cluster.peer(1, 2).next_idx, 1);
    assert_eq!(cluster.peer(1, 2).matched, 0);
    cluster.ticks(5);
    assert_eq!(cluster.machine(2).pulls.len(), 1, "it is offered again");
}

#[test]
fn a_snapshot_found_damaged_is_not_offered_again() {
    let mut cluster = with_an_offer_under_way();
    let (reference, index, _) = cluster.machine(2).pulls.pop().unwrap();
    cluster.tell(1, Input::SnapshotLost { id: reference.id });
    cluster.write(1, 1, 10);
    let reason = "no source is left".to_owned();
    cluster.tell(2, Input::PullFailed { id: reference.id, index, reason });
    cluster.ticks(5);
    let offered: Vec<_> = cluster.machine(2).pulls.iter().map(|pull| pull.0.id).collect();
    assert_eq!(offered.len(), 1);
    assert_ne!(offered[0], reference.id);
    cluster.release(2, Task::Pull);
    cluster.ticks(10);
    assert_eq!(cluster.peer(1, 2).state, ProgressState::Replicate);
}

#[test]
fn a_report_about_another_snapshot_neither_finishes_nor_forgets_the_offered_one() {
    for ok in [true, false] {
        let mut cluster = with_an_offer_under_way();
        let (pending, offered) = (cluster.peer(1, 2).pending_snapshot, cluster.machine(1).offered);
        cluster.tell(1, Input::SnapshotReport { from: NodeId(2), index: pending - 1, ok });
        assert!(cluster.peer(1, 2).next_idx < pending, "the receiver has nothing yet");
        // What the receiver dropped for the other one is offered again, and that offer ends too.
        cluster.ticks(5);
        assert!(cluster.machine(1).offered > offered);
        cluster.crash(2);
        cluster.ticks(LEASE_TICKS);
        assert_eq!(cluster.peer(1, 2).state, ProgressState::Probe);
    }
}

#[test]
fn an_older_snapshot_than_the_offered_one_lets_the_receiver_go_on() {
    let mut cluster = with_an_offer_under_way();
    let (old, ..) = cluster.machine(2).pulls[0].clone();
    // The leader offers a newer one, but the receiver finishes the older.
    cluster.write(1, 3, 10);
    cluster.client(1, ClientRequest::BuildSnapshot);
    cluster.progress(1, 2, 1, true);
    cluster.ticks(5);
    let pending = cluster.peer(1, 2).pending_snapshot;
    assert!(pending > cluster.store[&old.id].meta.index);
    let meta = cluster.store[&old.id].meta.clone();
    cluster.machine(2).pulls.clear();
    // The report is lost; only the append response tells.
    cluster.cut.insert((2, 1));
    cluster.tell(2, Input::SnapshotDurable(meta.clone()));
    cluster.cut.clear();
    assert_eq!(cluster.machine(2).installed, [old.id]);
    let mut response = raft::eraftpb::Message::default();
    response.set_msg_type(MessageType::MsgAppendResponse);
    (response.from, response.to, response.index) = (2, 1, meta.index);
    response.term = cluster.core(1).raw.raft.term;
    cluster.deliver(2, 1, &response);
    assert_ne!(cluster.peer(1, 2).state, ProgressState::Snapshot, "it is paused no longer");
    cluster.ticks(5);
    assert_eq!(cluster.peer(1, 2).state, ProgressState::Replicate);
    assert_eq!(cluster.machine(2).installed, [old.id], "the newer one was not needed");
}

#[test]
fn a_receiver_that_installed_and_died_before_it_said_so_goes_on_at_once() {
    let mut cluster = with_an_offer_under_way();
    // Nothing that it says from the install on arrives.
    cluster.cut.insert((2, 1));
    cluster.release(2, Task::Pull);
    assert_eq!(cluster.machine(2).installed.len(), 1);
    cluster.crash(2);
    assert_eq!(cluster.peer(1, 2).state, ProgressState::Snapshot);
    cluster.cut.clear();
    cluster.start(2);
    // Far less than a lease: its answer to a heartbeat tells.
    cluster.ticks(5);
    assert_eq!(cluster.peer(1, 2).state, ProgressState::Replicate);
    assert!(cluster.machine(2).pulls.is_empty(), "nothing is offered to it again");
}

#[test]
fn an_unreachable_peer_does_not_end_an_offer() {
    let mut cluster = with_an_offer_under_way();
    cluster.tell(1, Input::Unreachable(NodeId(2)));
    assert_eq!(cluster.peer(1, 2).state, ProgressState::Snapshot);
    cluster.release(2, Task::Pull);
    cluster.ticks(5);
    assert_eq!(cluster.peer(1, 2).state, ProgressState::Replicate);
}

#[test]
fn whatever_cannot_be_offered_is_temporarily_unavailable() {
    // Any other error, and a snapshot at index 0, ends the process inside raft-rs.
    let mut cluster = Cluster::of(2);
    cluster.write(1, 5, 10);
    cluster.client(1, ClientRequest::BuildSnapshot);
    let commit = cluster.core(1).commit_index();
    let whole = cluster.machine(1).offer.clone().unwrap();
    let view = |cluster: &mut Cluster, offer| {
        cluster.core(1).raw.mut_store().offering.offer = offer;
    };
    let answer = |cluster: &mut Cluster, request: u64, to: u64| {
        cluster.core(1).raw.store().snapshot(request, to)
    };
    let unavailable = Err(raft::Error::Store(raft::StorageError::SnapshotTemporarilyUnavailable));
    assert_eq!(answer(&mut cluster, 0, 2).unwrap().get_metadata().index, whole.meta.index);
    assert_eq!(answer(&mut cluster, commit + 1, 2), unavailable, "older than asked for");
    assert_eq!(answer(&mut cluster, 0, 4), unavailable, "it does not know the receiver");
    view(&mut cluster, None);
    assert_eq!(answer(&mut cluster, 0, 2), unavailable, "none is built");
    let mut empty = whole.clone();
    empty.meta.index = 0;
    view(&mut cluster, Some(empty));
    assert_eq!(answer(&mut cluster, 0, 2), unavailable, "an empty one");
    // One from before the log begins would be sent again and again.
    cluster.ticks(60);
    cluster.write(1, 20, 1000);
    assert!(cluster.compact(1) > whole.meta.index);
    view(&mut cluster, Some(whole));
    assert_eq!(answer(&mut cluster, 0, 2), unavailable, "the log after it is gone");
}

#[test]
fn a_snapshot_message_holds_a_reference_whatever_the_size_of_the_state() {
    let cluster = with_an_offer_under_way();
    let sizes: Vec<usize> = cluster
        .sent
        .iter()
        .filter_map(|(_, _, letter)| match letter {
            Letter::Raft(m) if m.get_msg_type() == MessageType::MsgSnapshot => {
                Some(m.get_snapshot().data.len())
            }
            _ => None,
        })
        .collect();
    assert!(!sizes.is_empty());
    let total = cluster.store.values().next().map(|_| 1u64 << 40);
    assert!(
        total > Some(1 << 30) && sizes.iter().all(|size| *size <= SNAPSHOT_REFERENCE_BYTES_MAX)
    );
}

#[test]
fn no_snapshot_is_offered_that_lacks_its_receiver() {
    // raft-rs would refuse it without a word, and the leader would wait.
    let mut cluster = Cluster::alone();
    cluster.client(1, ClientRequest::BuildSnapshot);
    cluster.hold(1, Task::Apply);
    cluster.join(2);
    cluster.ticks(5);
    assert_eq!(cluster.machine(1).offered, 0, "the addition is not applied");
    assert_eq!(cluster.machine(1).built, 1, "nor would a new snapshot hold it");
    cluster.release(1, Task::Apply);
    cluster.ticks(10);
    let stranger = |conf_state: &ConfState| !conf_state.contains(NodeId(2));
    let offers = cluster.sent.iter().filter_map(|(_, _, letter)| match letter {
        Letter::Raft(m) if m.get_msg_type() == MessageType::MsgSnapshot => {
            Some(crate::raft::wire::conf_state_from_raft(
                m.get_snapshot().get_metadata().get_conf_state(),
            ))
        }
        _ => None,
    });
    let offers: Vec<ConfState> = offers.collect();
    assert!(!offers.is_empty() && !offers.iter().any(stranger), "{offers:?}");
    assert_eq!(cluster.peer(1, 2).state, ProgressState::Replicate);
}

#[test]
fn one_snapshot_is_built_at_a_time_and_none_without_need() {
    // Regenerated for hours, they would fill the disk.
    let mut cluster = Cluster::alone();
    cluster.hold(1, Task::Build);
    for id in 2..=4 {
        cluster.join(id);
        cluster.ticks(20);
    }
    assert_eq!(cluster.machine(1).builds, 1, "asked for once, however many wait");
    cluster.release(1, Task::Build);
    cluster.ticks(30);
    let built = cluster.machine(1).built;
    assert!(built <= 3, "{built} were built for three receivers");
    cluster.ticks(500);
    assert_eq!(cluster.machine(1).built, built, "nobody needs another");
}

#[test]
fn a_receiver_whose_pulls_fail_is_offered_less_and_less_often() {
    let mut cluster = with_an_offer_under_way();
    let mut offers = 0;
    for _ in 0..100 * 1000 / TICK_MS {
        if let Some((reference, index, _)) = cluster.machine(2).pulls.pop() {
            offers += 1;
            let reason = "the disk fails".to_owned();
            cluster.tell(2, Input::PullFailed { id: reference.id, index, reason });
        }
        cluster.ticks(1);
    }
    assert!((5..=12).contains(&offers), "{offers} offers in 100 s");
    // The disk is mended: one that succeeds ends the pauses.
    cluster.ticks((OFFER_PAUSE_MS_MAX / TICK_MS) as usize + 10);
    cluster.release(2, Task::Pull);
    cluster.ticks(5);
    assert_eq!(cluster.peer(1, 2).state, ProgressState::Replicate);
}

#[test]
fn a_build_that_fails_is_not_repeated_at_once() {
    let mut cluster = Cluster::alone();
    cluster.place(2);
    cluster.hold(1, Task::Build);
    cluster.change(1, MembershipChange::AddLearner(NodeId(2)));
    let mut builds = 0;
    for _ in 0..3 * BUILD_RETRY_MS / TICK_MS {
        if std::mem::take(&mut cluster.machine(1).builds) > 0 {
            builds += 1;
            cluster.tell(1, Input::SnapshotFailed { reason: "a file cannot be read".to_owned() });
        }
        cluster.ticks(1);
    }
    assert!((3..=4).contains(&builds), "{builds} builds");
    cluster.release(1, Task::Build);
    cluster.ticks((BUILD_RETRY_MS / TICK_MS) as usize + 10);
    cluster.assert_equal(2, 1);
}

#[test]
fn the_log_is_kept_for_the_snapshot_that_is_being_built() {
    let mut cluster = Cluster::of(3);
    cluster.machine(3).installed.clear();
    cluster.isolate(3);
    cluster.ticks(40);
    cluster.write(1, 50, 1000);
    cluster.compact(1);
    cluster.hold(1, Task::Build);
    if let Some(offer) = cluster.machine(1).offer.clone() {
        cluster.tell(1, Input::SnapshotLost { id: offer.meta.id });
    }
    cluster.cut.clear();
    cluster.ticks(20);
    assert_eq!(cluster.machine(1).builds, 1);
    // While it is built a snapshot's worth is written. Without the log the offer would be too old.
    let applied = cluster.machine(1).state.applied;
    cluster.write(1, 50, 1000);
    assert_eq!(cluster.compact(1), applied);
    cluster.release(1, Task::Build);
    cluster.ticks(20);
    assert_eq!(cluster.machine(1).builds, 0);
    assert_eq!(cluster.machine(3).installed.len(), 1, "one snapshot was enough");
    cluster.assert_equal(3, 1);
}
