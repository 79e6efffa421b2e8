//! Garbage collection: what goes, what stays, and for whom.

use proptest::prelude::*;

use crate::kv::Family;
use crate::state::collect::{Fate, Held, Rules, Version};
use crate::state::testing::*;
use crate::state::{content_digest, read};
use crate::types::{
    Action, CloneCollection, Code, Command, CreateTag, Dependants, Expiry, Moment, Name, OpenLease,
    Purge, Reply, SettingsChange, Trim, Write,
};

/// The collection `default/c`, which keeps no history.
fn without_history() -> Replica {
    let mut replica = Replica::new();
    let settings = SettingsChange { history_ms: Some(0), ..SettingsChange::default() };
    replica.run(Command::CreateCollection { name: collection("c"), settings }).unwrap();
    replica
}

fn purge(layer: u64) -> Command {
    let (from, to) = (Default::default(), Default::default());
    Command::Purge(Purge { layer, from, to, to_above: 0 })
}

/// A whole pass in one step; answers how many rows went.
fn collect(replica: &mut Replica, layer: u64) -> u64 {
    // What is applied in this millisecond is history only in the next.
    replica.clock_ms += 1;
    match replica.run(purge(layer)).unwrap() {
        Reply::Purged { rows, .. } => rows,
        other => panic!("a purge answered {other:?}"),
    }
}

fn records(replica: &mut Replica) -> usize {
    replica.write_batch();
    replica.view.rows(Family::Records).len()
}

fn layer_of(replica: &mut Replica, name: &str) -> u64 {
    replica.write_batch();
    read::describe(&replica.view, &collection(name)).unwrap().layer
}

fn value_at(replica: &mut Replica, key: &str, moment: Moment) -> Result<Option<String>, Code> {
    replica.write_batch();
    let got = read::get(&replica.view, &collection("c"), key.as_bytes(), &moment);
    got.map(|record| record.map(|record| String::from_utf8(record.value.to_vec()).unwrap()))
        .map_err(|error| crate::types::Failure::from(error).code)
}

fn tag(name: &str) -> Name {
    Name::parse("tag", name).unwrap()
}

#[test]
fn superseded_versions_and_tombstones_go_and_what_readers_see_stays() {
    let mut replica = without_history();
    for round in 0..10 {
        replica.put("a", &format!("{round}"));
        replica.put("gone", "x");
        replica.write(vec![delete("gone")]).unwrap();
    }
    let layer = layer_of(&mut replica, "c");
    assert_eq!(records(&mut replica), 30);
    assert_eq!(collect(&mut replica, layer), 29);
    assert_eq!(records(&mut replica), 1);
    assert_eq!(value_at(&mut replica, "a", Moment::Now), Ok(Some("9".into())));
    assert_eq!(collect(&mut replica, layer), 0);
}

#[test]
fn history_is_kept_as_long_as_was_chosen_and_a_read_below_it_names_the_floor() {
    let mut replica = Replica::with_collection();
    let old = replica.put("a", "old");
    replica.clock_ms += 1_000;
    let middle = replica.put("a", "middle");
    replica.clock_ms += 3_600_000 - 500;
    replica.put("a", "new");
    let layer = layer_of(&mut replica, "c");
    assert_eq!(collect(&mut replica, layer), 0, "the hour reaches back to the middle one");
    assert_eq!(value_at(&mut replica, "a", Moment::Index(old)), Ok(Some("old".into())));
    replica.clock_ms += 1_000;
    assert_eq!(collect(&mut replica, layer), 1);
    assert_eq!(value_at(&mut replica, "a", Moment::Index(middle)), Ok(Some("middle".into())));
    assert_eq!(value_at(&mut replica, "a", Moment::Index(old)), Err(Code::BelowFloor));
    let clone = Command::CloneCollection(CloneCollection {
        source: collection("c"),
        moment: Moment::Index(old),
        target: collection("d"),
        settings: SettingsChange::default(),
    });
    let failure = replica.run(clone).unwrap_err();
    assert_eq!(failure.code, Code::BelowFloor);
    assert!(failure.message.contains(&format!("index {middle}")), "{failure}");
}

#[test]
fn what_a_clone_a_tag_or_a_lease_holds_stays_until_the_last_of_them_is_gone() {
    let mut replica = without_history();
    let held = replica.put("a", "held");
    let moment = Moment::Index(held);
    let clone = Command::CloneCollection(CloneCollection {
        source: collection("c"),
        moment: moment.clone(),
        target: collection("d"),
        settings: SettingsChange { history_ms: Some(0), ..SettingsChange::default() },
    });
    replica.run(clone).unwrap();
    let create = CreateTag { collection: collection("c"), tag: tag("t"), moment: moment.clone() };
    replica.run(Command::CreateTag(create)).unwrap();
    let lease = OpenLease { collection: collection("c"), moment, ttl_ms: 50, bytes_max: 1_000 };
    let Reply::Moment { lease, .. } = replica.run(Command::OpenLease(lease)).unwrap() else {
        panic!("a lease answers with its moment");
    };
    replica.put("a", "now");
    replica.put("a", "later");
    let layer = layer_of(&mut replica, "c");
    assert_eq!(collect(&mut replica, layer), 1, "only the one in between");
    assert_eq!(value_at(&mut replica, "a", Moment::Index(held)), Ok(Some("held".into())));
    assert_eq!(value_at(&mut replica, "a", Moment::Tag(tag("t"))), Ok(Some("held".into())));
    replica.run(Command::DropTag { collection: collection("c"), tag: tag("t") }).unwrap();
    assert_eq!(collect(&mut replica, layer), 0);
    replica.run(Command::RenewLease { lease, ttl_ms: 100 }).unwrap();
    replica.clock_ms += 100;
    assert_eq!(collect(&mut replica, layer), 0, "the clone holds it still");
    assert_refused(replica.run(Command::RenewLease { lease, ttl_ms: 100 }), Code::LeaseExpired);
    let clone_layer = layer_of(&mut replica, "d");
    replica.run(Command::drop_collection(collection("d"))).unwrap();
    assert_eq!(collect(&mut replica, layer), 0, "it could be brought back");
    collect(&mut replica, clone_layer);
    assert_eq!(collect(&mut replica, layer), 1);
    assert_eq!(value_at(&mut replica, "a", Moment::Index(held)), Err(Code::BelowFloor));
}

#[test]
fn a_lease_is_broken_once_its_collection_has_grown_too_much() {
    let mut replica = without_history();
    replica.put("a", "1");
    let (moment, ttl_ms) = (Moment::Now, 1_000_000);
    let lease = OpenLease { collection: collection("c"), moment, ttl_ms, bytes_max: 10 };
    replica.run(Command::OpenLease(lease)).unwrap();
    replica.put("a", "12345");
    let layer = layer_of(&mut replica, "c");
    assert_eq!(collect(&mut replica, layer), 0);
    replica.put("a", "1234567890");
    assert_eq!(collect(&mut replica, layer), 2);
}

#[test]
fn a_tombstone_of_a_clone_stays_as_long_as_something_lies_below() {
    let mut replica = without_history();
    replica.put("a", "below");
    let settings = SettingsChange { history_ms: Some(0), ..SettingsChange::default() };
    let clone = Command::CloneCollection(CloneCollection {
        source: collection("c"),
        moment: Moment::Now,
        target: collection("d"),
        settings,
    });
    replica.run(clone).unwrap();
    let in_clone = |write: Write| Write { collection: collection("d"), ..write };
    replica.write(vec![in_clone(put("a", "own"))]).unwrap();
    replica.write(vec![in_clone(delete("a"))]).unwrap();
    let layer = layer_of(&mut replica, "d");
    assert_eq!(collect(&mut replica, layer), 1, "the own value goes");
    replica.write_batch();
    let got = read::get(&replica.view, &collection("d"), b"a", &Moment::Now).unwrap();
    assert_eq!(got, None, "what lies below must not come to light");
}

#[test]
fn an_expired_value_goes_with_what_it_hides() {
    let mut replica = without_history();
    replica.put("a", "older");
    let expiry = Expiry::AfterMs(10);
    let action = Action::Put { value: "short".into(), content_type: String::new(), expiry };
    replica.write(vec![Write { action, ..put("a", "") }]).unwrap();
    let layer = layer_of(&mut replica, "c");
    assert_eq!(collect(&mut replica, layer), 1, "the older one is superseded");
    replica.clock_ms += 20;
    replica.put("b", "tick");
    assert_eq!(collect(&mut replica, layer), 1);
    assert_eq!(records(&mut replica), 1);
    let info = read::describe(&replica.view, &collection("c")).unwrap();
    assert_eq!(info.records, 1);
}

#[test]
fn a_dropped_collection_leaves_no_row_once_its_history_has_passed() {
    let mut replica = Replica::new();
    replica.write_batch();
    let meta = replica.view.rows(Family::Meta).len();
    let settings = SettingsChange { history_ms: Some(1_000), ..SettingsChange::default() };
    replica.run(Command::CreateCollection { name: collection("c"), settings }).unwrap();
    replica.put("a", "1");
    replica.write(vec![delete("a")]).unwrap();
    let create = CreateTag { collection: collection("c"), tag: tag("t"), moment: Moment::Now };
    replica.run(Command::CreateTag(create)).unwrap();
    let layer = layer_of(&mut replica, "c");
    let dropping =
        Command::DropCollection { name: collection("c"), dependants: Dependants::Refuse };
    replica.run(dropping).unwrap();
    collect(&mut replica, layer);
    assert!(records(&mut replica) > 0, "it can be brought back for a while");
    let undrop = || Command::UndropCollection { name: collection("c"), incarnation: None };
    replica.run(undrop()).unwrap();
    replica.run(Command::drop_collection(collection("c"))).unwrap();
    replica.clock_ms += 1_001;
    replica.run(Command::OpenSession).unwrap();
    replica.clock_ms += 1;
    replica.run(Command::Trim(Trim::Changes { layer, to: u64::MAX })).unwrap();
    // The floor is moved by the first step, and the layer is found dead by it or by the next.
    collect(&mut replica, layer);
    replica.run(Command::Trim(Trim::Changes { layer, to: u64::MAX })).unwrap();
    collect(&mut replica, layer);
    assert_eq!(records(&mut replica), 0);
    assert!(replica.view.rows(Family::Changes).is_empty());
    assert_refused(replica.run(undrop()), Code::CollectionNotFound);
    // The session and its use came meanwhile.
    assert_eq!(replica.view.rows(Family::Meta).len(), meta + 2);
}

#[test]
fn a_pass_goes_on_where_it_was_and_a_late_step_of_another_leader_does_nothing() {
    let mut replica = without_history();
    for key in ["a", "b", "c"] {
        replica.put(key, "1");
        replica.put(key, "2");
    }
    let layer = layer_of(&mut replica, "c");
    let step = |from: &'static str, to: &'static str| {
        Command::Purge(Purge { layer, from: from.into(), to: to.into(), to_above: 0 })
    };
    let rows = |reply: Reply| match reply {
        Reply::Purged { rows, done, .. } => (rows, done),
        other => panic!("a purge answered {other:?}"),
    };
    replica.clock_ms += 1;
    assert_eq!(rows(replica.run(step("b", "")).unwrap()), (0, false), "no pass is there yet");
    assert_eq!(rows(replica.run(step("", "b")).unwrap()), (1, false));
    assert_eq!(rows(replica.run(step("", "b")).unwrap()), (0, false), "it is past that");
    assert_eq!(rows(replica.run(step("b", "")).unwrap()), (2, true));
    assert_eq!(records(&mut replica), 3);
}

#[test]
fn commit_times_below_every_floor_go_and_reads_by_time_stay_right() {
    let mut replica = without_history();
    for round in 0..10 {
        replica.clock_ms += 1_000;
        replica.put("a", &format!("{round}"));
    }
    let layer = layer_of(&mut replica, "c");
    collect(&mut replica, layer);
    replica.run(Command::Trim(Trim::Times { to_unix_ms: u64::MAX })).unwrap();
    replica.write_batch();
    assert!(replica.view.rows(Family::Times).len() <= 3);
    let now = replica.state.last_time_unix_ms();
    assert_eq!(value_at(&mut replica, "a", Moment::Time(now)), Ok(Some("9".into())));
    assert_eq!(value_at(&mut replica, "a", Moment::Time(FOUNDED_MS)), Err(Code::BelowFloor));
}

/// What a reader at an index sees of one key.
fn seen(versions: &[Version], deletions: &[u64], index: u64, time: u64) -> Option<u64> {
    let version = versions.iter().find(|version| version.index <= index)?;
    let deleted = deletions.iter().any(|deletion| *deletion > version.index && *deletion <= index);
    match version.value {
        Some(expires) if !deleted && expires.is_none_or(|expires| expires > time) => {
            Some(version.index)
        }
        _ => None,
    }
}

proptest! {
    /// Whatever the versions, deletions, holds and floor: nobody who may read sees a difference.
    #[test]
    fn no_reader_above_the_floor_and_no_holder_sees_a_difference(
        kinds in prop::collection::vec((any::<bool>(), prop::option::of(1..40_u64)), 1..8),
        gaps in prop::collection::vec(1..4_u64, 8),
        deletions in prop::collection::btree_set(1..30_u64, 0..3),
        holds in prop::collection::btree_set(1..30_u64, 0..4),
        floor in 1..30_u64,
        has_below in any::<bool>(),
    ) {
        let mut index = 0;
        let mut versions: Vec<Version> = kinds.iter().zip(gaps).map(|((value, expires), gap)| {
            index += gap;
            Version { index, bytes: 1, value: value.then_some(*expires) }
        }).collect();
        versions.reverse();
        let taken: Vec<u64> = versions.iter().map(|version| version.index).collect();
        let deletions: Vec<u64> =
            deletions.into_iter().filter(|index| !taken.contains(index)).collect();
        // Commit times are the indexes.
        let rules = Rules {
            floor,
            floor_unix_ms: floor,
            holds: holds.iter().map(|index| Held { index: *index, time_unix_ms: *index }).collect(),
            has_below,
        };
        let fates = rules.judge(&versions, &deletions, true);
        let left: Vec<Version> = versions
            .iter()
            .zip(&fates)
            .filter(|(_, fate)| **fate != Fate::Goes)
            .map(|(version, _)| version.clone())
            .collect();
        for reader in (floor..32).chain(holds.iter().copied().filter(|hold| *hold < floor)) {
            // Who reads later than it holds sees even less of what expires.
            for time in [reader, reader + 5] {
                prop_assert_eq!(
                    seen(&versions, &deletions, reader, time),
                    seen(&left, &deletions, reader, time),
                    "reader {} {:?}", reader, fates
                );
            }
            if has_below {
                let hides = |versions: &[Version]| {
                    versions.iter().any(|version| version.index <= reader)
                        || deletions.iter().any(|index| *index <= reader)
                };
                prop_assert_eq!(hides(&versions), hides(&left), "reader {} {:?}", reader, fates);
            }
        }
        let again = rules.judge(&left, &deletions, true);
        prop_assert!(!again.contains(&Fate::Goes), "one pass finds all: {:?}", again);
    }
}

#[test]
fn replicas_are_equal_after_any_pass() {
    let mut digests = [true, false].map(|batched| {
        let mut replica = without_history();
        for round in 0..5 {
            replica.put("a", &format!("{round}"));
            if !batched {
                replica.write_batch();
            }
        }
        let layer = layer_of(&mut replica, "c");
        replica.put("a", "last");
        collect(&mut replica, layer);
        replica.write_batch();
        (content_digest(&replica.view).unwrap(), replica.view.rows(Family::Records))
    });
    digests.reverse();
    assert_eq!(digests[0], digests[1]);
}
