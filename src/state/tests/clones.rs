//! Clones: what they show, what they cost nobody, and how they end.

use bytes::Bytes;

use crate::kv::Family;
use crate::limits::CLONE_DEPTH_MAX;
use crate::state::testing::*;
use crate::state::{content_digest, read};
use crate::types::{
    Action, CloneCollection, Code, CollectionName, Command, Condition, Dependants, Expiry, Failure,
    Moment, Name, Reply, ScanOptions, SettingsChange, Write, WriteBatch,
};

fn clone_at(source: &str, target: &str, moment: Moment) -> Command {
    Command::CloneCollection(CloneCollection {
        source: collection(source),
        moment,
        target: collection(target),
        settings: SettingsChange::default(),
    })
}

fn clone_now(source: &str, target: &str) -> Command {
    clone_at(source, target, Moment::Now)
}

fn drop_with(name: &str, dependants: Dependants) -> Command {
    Command::DropCollection { name: collection(name), dependants }
}

fn write_to(name: &str, key: &str, action: Action) -> Command {
    let write = Write { collection: collection(name), ..write(key, Condition::Always, action) };
    Command::Write(WriteBatch { writes: vec![write] })
}

fn put_to(name: &str, key: &str, value: &str) -> Command {
    write_to(name, key, put_action(value))
}

fn delete_from(name: &str, key: &str) -> Command {
    write_to(name, key, Action::Delete)
}

fn patch_in(name: &str, key: &str, patch: &str) -> Command {
    write_to(name, key, Action::Patch { patch: Bytes::copy_from_slice(patch.as_bytes()) })
}

fn expiring(name: &str, key: &str, after_ms: u64) -> Command {
    let expiry = Expiry::AfterMs(after_ms);
    let action = Action::Put { value: "{\"v\":1}".into(), content_type: String::new(), expiry };
    write_to(name, key, action)
}

/// `key=value` of all records, in order.
fn shown_at(replica: &Replica, name: &str, moment: Moment) -> Result<String, Failure> {
    let options = ScanOptions { moment: moment.clone(), ..ScanOptions::default() };
    let page = read::scan(&replica.view, &collection(name), &options)?;
    let reverse = ScanOptions { reverse: true, ..options.clone() };
    let mut backward = read::scan(&replica.view, &collection(name), &reverse)?.records;
    backward.reverse();
    assert_eq!(page.records, backward, "a scan shows the same from both ends");
    let lines: Vec<String> = page
        .records
        .iter()
        .map(|record| {
            let got = read::get(&replica.view, &collection(name), &record.key, &moment);
            assert_eq!(got.unwrap().as_ref(), Some(record), "get and scan agree");
            let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
            format!("{}={}", text(&record.key), text(&record.value))
        })
        .collect();
    Ok(lines.join(" "))
}

#[track_caller]
fn assert_shows(replica: &mut Replica, name: &str, expected: &str) {
    replica.write_batch();
    assert_eq!(shown_at(replica, name, Moment::Now).unwrap(), expected);
}

/// A source with a, b and c.
fn with_source() -> Replica {
    let mut replica = Replica::with_collection();
    for key in ["a", "b", "c"] {
        replica.put(key, "1");
    }
    replica
}

#[test]
fn a_clone_begins_with_what_its_source_held_and_neither_sees_the_others_writes() {
    let mut replica = with_source();
    replica.run(clone_now("c", "d")).unwrap();
    replica.run(put_to("c", "a", "2")).unwrap();
    replica.run(delete_from("c", "b")).unwrap();
    replica.run(put_to("d", "c", "3")).unwrap();
    replica.run(delete_from("d", "a")).unwrap();
    replica.run(put_to("d", "z", "4")).unwrap();
    assert_shows(&mut replica, "c", "a=2 c=1");
    assert_shows(&mut replica, "d", "b=1 c=3 z=4");
    let info = read::describe(&replica.view, &collection("d")).unwrap();
    assert_eq!((info.records, info.bytes), (3, 6));
}

#[test]
fn a_clone_copies_no_byte() {
    let mut replica = with_source();
    replica.write_batch();
    let rows = replica.view.rows(Family::Records);
    replica.run(clone_now("c", "d")).unwrap();
    replica.write_batch();
    assert_eq!(replica.view.rows(Family::Records), rows);
    assert!(replica.view.rows(Family::Changes).len() == 3);
}

#[test]
fn conditions_and_existed_are_judged_on_what_the_clone_shows() {
    let mut replica = with_source();
    replica.run(clone_now("c", "d")).unwrap();
    let held = |replica: &Replica| {
        read::get(&replica.view, &collection("d"), b"a", &Moment::Now).unwrap().unwrap().version
    };
    replica.write_batch();
    let inherited = held(&replica);
    let conditional = |condition| {
        let write = Write { collection: collection("d"), ..write("a", condition, put_action("2")) };
        Command::Write(WriteBatch { writes: vec![write] })
    };
    assert_refused(replica.run(conditional(Condition::Absent)), Code::ConditionFailed);
    let reply = replica.run(conditional(Condition::Version(inherited))).unwrap();
    assert_eq!(reply, Reply::Written { existed: vec![true] });
    assert_refused(replica.run(conditional(Condition::Version(inherited))), Code::ConditionFailed);
    let reply = replica.run(delete_from("d", "nothing")).unwrap();
    assert_eq!(reply, Reply::Written { existed: vec![false] });
}

#[test]
fn a_patch_copies_up_what_the_clone_shows_and_not_what_the_source_holds_by_now() {
    let mut replica = Replica::with_collection();
    replica.run(put_to("c", "k", r#"{"a":1,"b":2}"#)).unwrap();
    replica.run(clone_now("c", "d")).unwrap();
    replica.run(put_to("c", "k", r#"{"a":9}"#)).unwrap();
    replica.run(patch_in("d", "k", r#"{"b":3}"#)).unwrap();
    assert_shows(&mut replica, "d", r#"k={"a":1,"b":3}"#);
    assert_shows(&mut replica, "c", r#"k={"a":9}"#);
}

#[test]
fn a_copy_up_sees_through_all_layers_and_not_only_the_nearest() {
    let mut replica = Replica::with_collection();
    replica.run(put_to("c", "k", r#"{"a":1}"#)).unwrap();
    replica.run(clone_now("c", "d")).unwrap();
    replica.run(put_to("d", "other", "{}")).unwrap();
    replica.run(clone_now("d", "e")).unwrap();
    replica.run(patch_in("e", "k", r#"{"b":2}"#)).unwrap();
    assert_shows(&mut replica, "e", r#"k={"a":1,"b":2} other={}"#);
}

#[test]
fn a_clone_of_a_moment_shows_that_moment() {
    let mut replica = with_source();
    let early = replica.state.applied();
    replica.clock_ms += 600_000;
    for round in 0..20 {
        replica.put("a", &format!("x{round}"));
        replica.write(vec![delete("b")]).unwrap();
    }
    replica.run(clone_at("c", "by-index", Moment::Index(early))).unwrap();
    replica.run(clone_at("c", "by-time", Moment::Time(FOUNDED_MS + 1))).unwrap();
    assert_shows(&mut replica, "by-index", "a=1 b=1 c=1");
    assert_shows(&mut replica, "by-time", "a=1 b=1 c=1");
    assert_refused(
        replica.run(clone_at("c", "e", Moment::Time(replica.clock_ms + 1))),
        Code::InvalidArgument,
    );
    assert_refused(replica.run(clone_at("c", "e", Moment::Index(1))), Code::CollectionNotFound);
}

#[test]
fn a_clone_of_a_clone_adds_depth_only_where_something_was_written() {
    let mut replica = with_source();
    replica.run(clone_now("c", "d0")).unwrap();
    for step in 0..30 {
        replica.run(clone_now(&format!("d{step}"), &format!("d{}", step + 1))).unwrap();
    }
    assert_shows(&mut replica, "d30", "a=1 b=1 c=1");
    let mut last = "d30".to_owned();
    for step in 0..CLONE_DEPTH_MAX - 1 {
        let next = format!("e{step}");
        replica.run(put_to(&last, "a", &format!("{step}"))).unwrap();
        replica.run(clone_now(&last, &next)).unwrap();
        last = next;
    }
    assert_shows(&mut replica, &last, &format!("a={} b=1 c=1", CLONE_DEPTH_MAX - 2));
    replica.run(put_to(&last, "a", "deep")).unwrap();
    assert_refused(replica.run(clone_now(&last, "too-deep")), Code::DepthExceeded);
    // Whoever is refused leaves nothing behind that would block the name.
    replica.run(clone_now("c", "too-deep")).unwrap();
}

#[test]
fn a_read_of_a_clone_before_its_creation_shows_its_source() {
    let mut replica = with_source();
    let early = replica.state.applied();
    replica.put("a", "2");
    let taken = replica.state.applied();
    replica.put("a", "3");
    replica.run(clone_at("c", "d", Moment::Index(taken))).unwrap();
    replica.run(put_to("d", "a", "own")).unwrap();
    replica.write_batch();
    let at = |index| shown_at(&replica, "d", Moment::Index(index)).unwrap();
    assert_eq!(at(early), "a=1 b=1 c=1");
    assert_eq!(at(taken), "a=2 b=1 c=1");
    assert_eq!(at(taken + 1), "a=2 b=1 c=1", "not what the source became");
    assert_eq!(at(replica.state.applied()), "a=own b=1 c=1");
}

#[test]
fn a_record_lives_as_long_in_a_clone_as_it_had_left_in_its_source() {
    let mut replica = Replica::with_collection();
    replica.run(expiring("c", "k", 1_000)).unwrap();
    replica.clock_ms += 400;
    replica.run(put_to("c", "tick", "")).unwrap();
    let early = replica.state.applied();
    replica.clock_ms += 10_000;
    replica.run(clone_at("c", "d", Moment::Index(early))).unwrap();
    assert_shows(&mut replica, "c", "tick=");
    assert_shows(&mut replica, "d", "k={\"v\":1} tick=");
    replica.clock_ms += 599;
    replica.run(put_to("c", "tick", "")).unwrap();
    assert_shows(&mut replica, "d", "k={\"v\":1} tick=");
    replica.clock_ms += 1;
    replica.run(put_to("c", "tick", "")).unwrap();
    assert_shows(&mut replica, "d", "tick=");
}

#[test]
fn a_copy_up_keeps_the_expiry() {
    let mut replica = Replica::with_collection();
    replica.run(expiring("c", "k", 1_000)).unwrap();
    replica.clock_ms += 500;
    replica.run(clone_now("c", "d")).unwrap();
    replica.run(patch_in("d", "k", r#"{"w":2}"#)).unwrap();
    assert_shows(&mut replica, "d", r#"k={"v":1,"w":2}"#);
    replica.clock_ms += 500;
    replica.run(put_to("c", "tick", "")).unwrap();
    assert_shows(&mut replica, "d", "");
}

#[test]
fn an_expired_value_uncovers_neither_an_older_nor_a_lower_one() {
    let mut replica = Replica::with_collection();
    replica.run(put_to("c", "k", "lower")).unwrap();
    replica.run(clone_now("c", "d")).unwrap();
    replica.run(put_to("d", "k", "older")).unwrap();
    replica.run(expiring("d", "k", 10)).unwrap();
    replica.clock_ms += 10;
    replica.run(put_to("c", "tick", "")).unwrap();
    assert_shows(&mut replica, "d", "");
    let reply = replica.run(put_to("d", "k", "again")).unwrap();
    assert_eq!(reply, Reply::Written { existed: vec![false] }, "what has expired is absent");
    assert_shows(&mut replica, "d", "k=again");
}

#[test]
fn a_deleted_range_hides_what_lies_below_and_what_is_older_and_nothing_newer() {
    let mut replica = with_source();
    replica.run(clone_now("c", "d")).unwrap();
    replica.run(put_to("d", "bb", "own")).unwrap();
    let range = |name: &str, start: &'static str, end: &'static str| {
        let (start, end) = (start.into(), end.into());
        Command::DeleteRange(crate::types::DeleteRange { collection: collection(name), start, end })
    };
    replica.run(range("d", "b", "c")).unwrap();
    assert_shows(&mut replica, "d", "a=1 c=1");
    replica.run(put_to("d", "b", "new")).unwrap();
    replica.run(clone_now("d", "e")).unwrap();
    replica.run(range("d", "", "")).unwrap();
    assert_shows(&mut replica, "d", "");
    assert_shows(&mut replica, "e", "a=1 b=new c=1");
    assert_shows(&mut replica, "c", "a=1 b=1 c=1");
    assert_refused(replica.run(range("d", "b", "b")), Code::InvalidArgument);
}

#[test]
fn a_truncated_clone_is_empty_and_its_own_clones_are_not() {
    let mut replica = with_source();
    replica.run(clone_now("c", "d")).unwrap();
    replica.run(put_to("d", "z", "1")).unwrap();
    let before = replica.state.applied();
    replica.run(clone_now("d", "e")).unwrap();
    replica.run(Command::TruncateCollection(collection("d"))).unwrap();
    replica.run(put_to("d", "new", "1")).unwrap();
    assert_shows(&mut replica, "d", "new=1");
    assert_shows(&mut replica, "e", "a=1 b=1 c=1 z=1");
    assert_eq!(
        shown_at(&replica, "d", Moment::Index(before)).unwrap(),
        "a=1 b=1 c=1 z=1",
        "history is kept"
    );
}

#[test]
fn a_source_with_clones_is_dropped_only_as_it_is_said_how() {
    let mut replica = with_source();
    replica.run(clone_now("c", "d")).unwrap();
    replica.run(put_to("d", "z", "1")).unwrap();
    replica.run(clone_now("d", "e")).unwrap();
    let refused = replica.run(drop_with("c", Dependants::Refuse)).unwrap_err();
    assert_eq!(refused.code, Code::HasDependants);
    assert!(refused.message.contains("default/d") && refused.message.contains("default/e"));
    assert_shows(&mut replica, "c", "a=1 b=1 c=1");
    replica.run(drop_with("c", Dependants::Detach)).unwrap();
    assert_shows(&mut replica, "e", "a=1 b=1 c=1 z=1");
    assert_refused(replica.run(drop_with("d", Dependants::Refuse)), Code::HasDependants);
    let reply = replica.run(drop_with("d", Dependants::Cascade)).unwrap();
    assert!(matches!(reply, Reply::Collections { count: 2, .. }), "{reply:?}");
    replica.write_batch();
    assert!(read::list_collections(&replica.view, None).unwrap().is_empty());
}

#[test]
fn a_dropped_collection_comes_back_with_all_it_held() {
    let mut replica = with_source();
    replica.run(Command::drop_collection(collection("c"))).unwrap();
    replica.run(Command::create_collection(collection("c"))).unwrap();
    let undrop = |incarnation| Command::UndropCollection { name: collection("c"), incarnation };
    assert_refused(replica.run(undrop(None)), Code::AlreadyExists);
    let rename = Command::RenameCollection { from: collection("c"), to: collection("other") };
    replica.run(rename).unwrap();
    assert_refused(replica.run(undrop(Some(99))), Code::CollectionNotFound);
    replica.run(undrop(None)).unwrap();
    assert_shows(&mut replica, "c", "a=1 b=1 c=1");
    replica.run(put_to("c", "d", "2")).unwrap();
    assert_shows(&mut replica, "c", "a=1 b=1 c=1 d=2");
    assert_shows(&mut replica, "other", "");
}

#[test]
fn a_namespace_is_cloned_at_one_index_with_what_was_dropped_since() {
    let mut replica = with_source();
    replica.run(Command::create_collection(collection("two"))).unwrap();
    replica.run(put_to("two", "k", "1")).unwrap();
    let then = replica.state.applied();
    replica.run(put_to("two", "k", "2")).unwrap();
    replica.run(Command::drop_collection(collection("c"))).unwrap();
    replica.run(Command::create_collection(collection("late"))).unwrap();
    let name = |text: &str| Name::parse("namespace", text).unwrap();
    let clone = |target: &str, moment| Command::CloneNamespace {
        source: name("default"),
        target: name(target),
        moment,
    };
    let reply = replica.run(clone("lab", Moment::Index(then))).unwrap();
    assert_eq!(reply, Reply::Collections { count: 2, index: then });
    replica.run(clone("now", Moment::Now)).unwrap();
    replica.write_batch();
    let names = |namespace: &str| -> Vec<String> {
        let listed = read::list_collections(&replica.view, Some(&name(namespace))).unwrap();
        listed.into_iter().map(|info| info.name.name.to_string()).collect()
    };
    assert_eq!(names("lab"), ["c", "two"]);
    assert_eq!(names("now"), ["late", "two"]);
    let two = CollectionName::parse("lab", "two").unwrap();
    let record = read::get(&replica.view, &two, b"k", &Moment::Now).unwrap().unwrap();
    assert_eq!(&record.value[..], b"1");
    assert_refused(replica.run(clone("lab", Moment::Now)), Code::AlreadyExists);
}

#[test]
fn a_refused_clone_changes_nothing() {
    let mut replica = with_source();
    replica.run(Command::create_collection(collection("taken"))).unwrap();
    replica.write_batch();
    let before = content_digest(&replica.view).unwrap().digest;
    let refusals = [
        (clone_now("c", "taken"), Code::AlreadyExists),
        (clone_now("nothing", "d"), Code::CollectionNotFound),
        (clone_at("c", "d", Moment::Tag(Name::parse("tag", "t").unwrap())), Code::TagNotFound),
    ];
    for (command, code) in refusals {
        assert_refused(replica.run(command), code);
    }
    replica.write_batch();
    let rows = replica.view.rows(Family::Meta);
    assert!(!rows.keys().any(|key| key[0] == 0x15), "no hold is left");
    // The applied row alone is another one.
    assert_ne!(content_digest(&replica.view).unwrap().digest, before);
    replica.run(clone_now("c", "d")).unwrap();
}
