//! What must hold under faults, told as stories.

use super::world::{Faults, World};
use super::{Content, noise};
use crate::limits::{CHUNK_BYTES_MIN, MIB};
use crate::transfer::receiver::{Event, Input};
use crate::transfer::timing::Random;
use crate::types::TransferState;

const CHUNK: u64 = CHUNK_BYTES_MIN as u64;

/// A snapshot of a few parts: large, small, empty, and of an odd length.
fn content(seed: u64) -> Content {
    let mib = MIB;
    let mut random = Random::new(seed);
    let odd = 1 + random.below(3 * CHUNK) as usize;
    Content::random(40, &[2 * mib, odd, 0, 17, mib + 1, 300], seed)
}

/// Bytes that may be delivered twice after what has happened.
fn bound(world: &World) -> u64 {
    let streams = world.options.streams as u64;
    let Faults { cuts, receiver_kills, source_kills, power_losses, corruptions } = world.happened;
    let crashes = u64::from(cuts + receiver_kills + source_kills);
    crashes * streams * CHUNK
        + u64::from(corruptions) * CHUNK
        + u64::from(power_losses) * crate::limits::BITMAP_BYTES_INTERVAL
}

#[test]
fn any_pattern_of_faults_ends_with_equal_bytes_and_few_repeats() {
    for seed in 0..60 {
        let content = content(seed);
        let mut world = World::new(seed, vec![(1, vec![content.clone()])]);
        let mut random = Random::new(seed ^ 0xabcd);
        world.faults = Faults {
            cuts: random.below(12) as u32,
            receiver_kills: random.below(6) as u32,
            source_kills: random.below(4) as u32,
            power_losses: random.below(3) as u32,
            corruptions: random.below(3) as u32,
        };
        world.offer(&content, &[1]);
        world.run_until(|world| world.status().state == TransferState::Durable);
        world.assert_equal(&content);
        let (repeated, bound) = (world.repeated_bytes(), bound(&world));
        assert!(repeated <= bound, "seed {seed}: {repeated} > {bound}: {:?}", world.happened);
        assert!(world.sources[&1].machine.places_taken() <= 1, "seed {seed}");
    }
}

#[test]
fn a_clean_pull_delivers_every_byte_once() {
    let content = content(1);
    let mut world = World::new(1, vec![(1, vec![content.clone()])]);
    world.offer(&content, &[1]);
    world.run_until(World::is_durable);
    world.assert_equal(&content);
    let status = world.status();
    assert_eq!(world.repeated_bytes(), 0);
    assert_eq!((status.resent_bytes, status.resumes, status.discarded_bytes), (0, 0, 0));
    assert_eq!(
        status.received_bytes,
        content.manifest.total_bytes() + content.encoded.len() as u64
    );
    world.tell(Input::Stepped(content.id));
    world.tell(Input::Installed(content.id));
    assert_eq!(world.status().state, TransferState::Installed);
    world.run_until(|world| world.disk.staged.is_empty());
}

#[test]
fn the_counter_of_repeats_tells_what_the_link_saw() {
    for seed in 100..120 {
        let content = content(seed);
        let mut world = World::new(seed, vec![(1, vec![content.clone()])]);
        world.faults = Faults { cuts: 6, corruptions: 3, ..Faults::default() };
        world.offer(&content, &[1]);
        world.run_until(World::is_durable);
        assert_eq!(world.status().resent_bytes, world.repeated_bytes(), "seed {seed}");
    }
}

#[test]
fn a_slow_link_that_is_cut_within_every_chunk_still_gets_on() {
    // Each connection carries a fifth of a chunk: only what is kept of a chunk can ever finish it.
    let content = content(3);
    let mut world = World::new(3, vec![(1, vec![content.clone()])]);
    world.piece_bytes = 30_000;
    world.cut_every_bytes = CHUNK / 5;
    world.offer(&content, &[1]);
    world.run_until(World::is_durable);
    world.assert_equal(&content);
    assert!(world.happened.cuts > 10, "{:?}", world.happened);
    assert_eq!(world.repeated_bytes(), 0, "a cut costs nothing that had arrived");
    assert!(world.status().resumes > 10, "{:?}", world.status());
}

#[test]
fn a_killed_receiver_keeps_what_was_staged_since_the_last_bitmap() {
    // iroh-blobs #254: bitmap written only at the end, kill -9 loses all progress.
    let content = Content::random(40, &[6 * MIB], 4);
    let mut world = World::new(4, vec![(1, vec![content.clone()])]);
    world.offer(&content, &[1]);
    world.run_until(|world| world.status().done_bytes > 4 * MIB as u64);
    let before = world.status().done_bytes;
    world.disk.kill();
    world.happened.receiver_kills += 1;
    world.restart_receiver();
    world.run_until(|world| world.status().state == TransferState::Pulling);
    let status = world.status();
    assert!(status.done_bytes + 4 * CHUNK >= before, "{} of {before}", status.done_bytes);
    assert!(status.resumes >= 1 && status.resumed_from_bytes > 0, "{status:?}");
    world.run_until(World::is_durable);
    world.assert_equal(&content);
    assert!(world.repeated_bytes() <= bound(&world));
}

#[test]
fn a_restarted_receiver_names_its_own_offsets_and_the_source_none() {
    // logcabin #174: the receiver restarts, the sender keeps its mid-file offset.
    for seed in 0..10 {
        let content = Content::random(40, &[3 * MIB], seed);
        let mut world = World::new(seed, vec![(1, vec![content.clone()])]);
        world.faults = Faults { receiver_kills: 8, ..Faults::default() };
        world.offer(&content, &[1]);
        world.run_until(|world| world.status().state == TransferState::Durable);
        world.assert_equal(&content);
    }
}

#[test]
fn a_durable_snapshot_is_told_again_after_a_restart() {
    let content = content(5);
    let mut world = World::new(5, vec![(1, vec![content.clone()])]);
    world.offer(&content, &[1]);
    world.run_until(World::is_durable);
    world.disk.kill();
    world.events.clear();
    world.restart_receiver();
    assert!(world.is_durable());
    assert_eq!(world.status().state, TransferState::Durable);
}

#[test]
fn a_partial_of_another_snapshot_is_never_taken_for_this_one() {
    // camunda #4876, #11496: a partial reused without checking its identity never completes.
    let mut random = Random::new(6);
    let shared = noise(&mut random, 2 * MIB);
    let old = Content::new(40, vec![shared.clone(), noise(&mut random, 5 * MIB)]);
    // The same names and lengths, other bytes; and one part that is the same under another name.
    let new = Content::new(50, vec![noise(&mut random, 2 * MIB), shared]);
    let mut world = World::new(6, vec![(1, vec![old.clone()]), (2, vec![new.clone()])]);
    world.offer(&old, &[1]);
    world.run_until(|world| world.status().done_bytes > 3 * MIB as u64);
    world.sources.get_mut(&1).expect("there").kill();
    world.cut();
    world.offer(&new, &[2]);
    world.run_until(World::is_durable);
    world.assert_equal(&new);
    let status = world.status();
    assert_eq!(status.reused_bytes, 2 * MIB as u64, "the equal part was taken over");
    assert!(status.discarded_bytes > 0 && status.discarded_bytes <= 5 * MIB as u64, "{status:?}");
    assert_eq!(status.resent_bytes, 0);
}

#[test]
fn a_pull_stays_with_its_source_through_newer_offers_until_the_grace_period_ends() {
    let (old, new) = (content(7), content(8));
    let mut world = World::new(7, vec![(1, vec![old.clone()]), (2, vec![new.clone()])]);
    world.offer(&old, &[1]);
    world.run_until(|world| world.status().done_bytes > MIB as u64);
    world.offer(&new, &[2]);
    world.sources.get_mut(&1).expect("there").kill();
    world.cut();
    let gone_at = world.now_ms;
    world.run_until(|world| world.now_ms > gone_at + 30_000);
    assert_eq!(world.status().snapshot, old.id, "it waits for its source");
    world.sources.get_mut(&1).expect("there").is_up = true;
    world.run_until(World::is_durable);
    world.assert_equal(&old);
    assert_eq!(world.status().discarded_bytes, 0);
}

#[test]
fn a_source_gone_without_another_offer_is_waited_for_and_a_new_offer_asked_for() {
    let content = content(9);
    let mut world = World::new(9, vec![(1, vec![content.clone()])]);
    world.offer(&content, &[1]);
    world.run_until(|world| world.status().done_bytes > MIB as u64);
    world.sources.get_mut(&1).expect("there").kill();
    world.cut();
    let wants = |world: &World| {
        world.events.iter().filter(|e| matches!(e, Event::WantsNewOffer { .. })).count()
    };
    world.run_until(|world| wants(world) >= 2);
    assert!(world.status().stall_reason.contains("out of reach"), "{:?}", world.status());
    // There is no limit on the whole: hours later it goes on where it was.
    let before = world.status().done_bytes;
    world.sources.get_mut(&1).expect("there").is_up = true;
    world.run_until(World::is_durable);
    world.assert_equal(&content);
    assert!(world.status().resumed_from_bytes >= before);
}

#[test]
fn large_states_over_slow_links_meet_no_deadline() {
    // etcd #16377, tikv #17881, ClickHouse NuRaft #121: fixed timeouts of 5 s or 60 s.
    let content = content(10);
    let mut world = World::new(10, vec![(1, vec![content.clone()])]);
    world.offer(&content, &[1]);
    world.tell(Input::Limit(20_000));
    world.run_until(World::is_durable);
    world.assert_equal(&content);
    assert!(world.now_ms > 150_000, "it took {} ms", world.now_ms);
    assert_eq!(world.status().resumes, 0, "nobody lost patience");
}

#[test]
fn a_corrupt_chunk_is_asked_for_again_alone() {
    let content = Content::random(40, &[4 * MIB], 11);
    let mut world = World::new(11, vec![(1, vec![content.clone()])]);
    world.faults.corruptions = 1;
    world.offer(&content, &[1]);
    world.run_until(World::is_durable);
    world.assert_equal(&content);
    assert_eq!(world.happened.corruptions, 1);
    assert_eq!(world.repeated_bytes(), CHUNK);
}

#[test]
fn a_rotten_source_fences_itself_and_another_one_serves_the_rest() {
    let content = content(12);
    let sources = vec![(1, vec![content.clone()]), (2, vec![content.clone()])];
    let mut world = World::new(12, sources);
    let rotten = world.sources.get_mut(&1).expect("there");
    rotten.rot.insert((content.id, 0, CHUNK + 5));
    world.offer(&content, &[1, 2]);
    world.run_until(World::is_durable);
    world.assert_equal(&content);
    assert_eq!(world.status().source.0, 2);
    assert!(world.repeated_bytes() <= 4 * CHUNK);
}

#[test]
fn a_rotten_source_without_another_one_ends_the_pull_with_a_reason() {
    let content = content(13);
    let mut world = World::new(13, vec![(1, vec![content.clone()])]);
    world.sources.get_mut(&1).expect("there").rot.insert((content.id, 0, 5));
    world.offer(&content, &[1]);
    world.run_until(|world| world.status().state.is_final());
    let TransferState::Failed(reason) = world.status().state else { panic!("it must fail") };
    assert!(reason.contains("Fenced"), "{reason}");
    assert!(world.events.iter().any(|event| matches!(event, Event::Failed { .. })));
    assert!(!world.is_durable());
}

#[test]
fn a_staged_part_that_rots_before_it_is_checked_costs_one_chunk() {
    let content = Content::random(40, &[3 * MIB], 14);
    let mut world = World::new(14, vec![(1, vec![content.clone()])]);
    world.disk.rot = vec![0];
    world.offer(&content, &[1]);
    world.run_until(World::is_durable);
    world.assert_equal(&content);
    assert_eq!(world.repeated_bytes(), CHUNK);
    assert_eq!(world.status().resent_bytes, CHUNK);
}

#[test]
fn a_disk_without_room_refuses_before_the_pull_and_goes_on_when_there_is_room() {
    let content = content(15);
    let mut world = World::new(15, vec![(1, vec![content.clone()])]);
    world.disk.room = Some(1_000);
    world.offer(&content, &[1]);
    world.run_until(|world| world.now_ms > 120_000);
    let status = world.status();
    assert_eq!(status.state, TransferState::Planning);
    assert!(status.stall_reason.starts_with("disk full"), "{status:?}");
    assert_eq!(status.received_bytes, content.encoded.len() as u64, "no byte was pulled");
    world.disk.room = None;
    world.run_until(World::is_durable);
    world.assert_equal(&content);
}

#[test]
fn a_disk_that_fills_up_on_the_way_stops_the_pull_without_losing_a_byte() {
    let content = content(16);
    let mut world = World::new(16, vec![(1, vec![content.clone()])]);
    world.offer(&content, &[1]);
    world.run_until(|world| world.status().done_bytes > MIB as u64);
    world.disk.room = Some(100_000);
    world.run_until(|world| world.now_ms > 120_000);
    assert!(world.status().stall_reason.starts_with("disk full"), "{:?}", world.status());
    assert_eq!(world.sources[&1].machine.places_taken(), 0, "its place is for others meanwhile");
    world.disk.room = None;
    world.run_until(World::is_durable);
    world.assert_equal(&content);
    assert_eq!(world.repeated_bytes(), 0);
}

#[test]
fn thousands_of_small_parts_share_round_trips() {
    // camunda #5135: 5 min instead of 1.5 s.
    let content = Content::random(40, &vec![600; 5_000], 17);
    let mut world = World::new(17, vec![(1, vec![content.clone()])]);
    world.offer(&content, &[1]);
    world.run_until(World::is_durable);
    world.assert_equal(&content);
    assert!(world.requests < 60, "{} requests for 5000 parts", world.requests);
}

#[test]
fn parts_of_the_own_store_are_taken_over_by_digest() {
    let mut random = Random::new(18);
    let shared = noise(&mut random, 2 * MIB);
    let own = Content::new(30, vec![noise(&mut random, 9), shared.clone()]);
    let content = Content::new(40, vec![shared, noise(&mut random, MIB)]);
    let mut world = World::new(18, vec![(1, vec![content.clone()])]);
    world.disk.store.push(own);
    world.offer(&content, &[1]);
    world.run_until(World::is_durable);
    world.assert_equal(&content);
    let status = world.status();
    assert_eq!(status.reused_bytes, 2 * MIB as u64);
    assert_eq!(status.received_bytes, MIB as u64 + content.encoded.len() as u64);
}

#[test]
fn a_cancelled_pull_ends_and_leaves_nothing() {
    let content = content(19);
    let mut world = World::new(19, vec![(1, vec![content.clone()])]);
    world.offer(&content, &[1]);
    world.run_until(|world| world.status().done_bytes > MIB as u64);
    world.tell(Input::Cancel);
    assert!(matches!(world.status().state, TransferState::Failed(_)));
    world.run_until(|world| world.disk.staged.is_empty() && world.disk.last.is_some());
    assert!(world.status().discarded_bytes > 0);
    assert_eq!(world.sources[&1].machine.places_taken(), 0);
}
