//! A verdict that cannot be bad is none: each rule is shown what breaks it.
#![allow(clippy::unwrap_used)]

use ratoon::types::{Condition, Reply, Write, WriteBatch};

use super::judge::*;
use super::*;
use crate::checks::history::{Effect, History, Outcome};
use crate::storm::load::Finish;
use crate::storm::watch::Transfer;
use bytes::Bytes;
use ratoon::types::Action;

const KEY: &[u8] = b"000000/01";

fn put(value: &'static str) -> Effect {
    write(Action::Put { value: Bytes::from_static(value.as_bytes()), content_type: String::new() })
}

fn write(action: Action) -> Effect {
    let collection = load::COLLECTION.parse().unwrap();
    let key = Bytes::from_static(KEY);
    let write = Write { collection, key, condition: Condition::Always, action };
    Effect::Write(WriteBatch { writes: vec![write] })
}

fn acknowledged(history: &mut History, at: u64, effect: Effect, index: u64, existed: bool) {
    let id = history.begin(at, effect);
    history.end(id, at + 1, Outcome::Applied(index, Reply::Written { existed: vec![existed] }));
}

/// Two writes, the second in place of the first, and a read of it.
fn finish() -> Finish {
    let mut history = History::default();
    acknowledged(&mut history, 1, put("a"), 5, false);
    acknowledged(&mut history, 3, put("b"), 6, true);
    let mut finish = Finish { history, finals: Default::default(), broken: Vec::new() };
    find(&mut finish, Some((6, "b")));
    finish
}

/// The last read finds this.
fn find(finish: &mut Finish, found: Option<(u64, &'static str)>) {
    let found = found.map(|(version, value)| (version, Bytes::from_static(value.as_bytes())));
    finish.finals.insert(KEY.to_vec(), found.clone());
    let id = finish.history.begin(9, Effect::Get(KEY.to_vec()));
    finish.history.end(id, 10, Outcome::Read(0, found));
}

fn installed() -> Transfer {
    Transfer {
        receiver: 4,
        state: "Installed".to_owned(),
        total_bytes: 100 << 20,
        resent_bytes: 3 << 20,
        faults: 1,
        resumes: 1,
        ..Transfer::default()
    }
}

fn digest(id: u64, digest: u8) -> NodeDigest {
    NodeDigest { id, digest: vec![digest; 32], error: String::new() }
}

fn evidence() -> Evidence {
    Evidence {
        finish: finish(),
        acknowledged: 2,
        digests: vec![vec![digest(1, 7), digest(2, 7)]],
        transfers: vec![installed()],
        faults: Vec::new(),
        problems: Vec::new(),
        log_lines: Vec::new(),
        pins: Vec::new(),
        memory: ([(1, 10)].into(), 20),
        disk: (10, 20),
        minimum: Minimum { writes: 2, faults: 0, installed: 1, resumes_of_one: 1 },
        missing: Vec::new(),
    }
}

/// The rules that `evidence` breaks.
fn broken(evidence: &Evidence) -> Vec<String> {
    let checks = judge(evidence);
    checks.into_iter().filter(|check| !check.ok).map(|check| check.name).collect()
}

/// Asserts that what `spoil` does breaks these rules and no others.
fn breaks(spoil: impl FnOnce(&mut Evidence), rules: &[&str]) {
    let mut evidence = evidence();
    spoil(&mut evidence);
    assert_eq!(broken(&evidence), rules);
}

#[test]
fn a_storm_in_which_all_went_well_passes() {
    breaks(|_| {}, &[]);
}

#[test]
fn a_lost_write_is_noticed() {
    let lost = "no acknowledged write is lost";
    let unexplained = "operations are linearizable";
    for found in [None, Some((5, "a")), Some((7, "c"))] {
        breaks(|evidence| find(&mut evidence.finish, found), &[lost, unexplained]);
    }
}

#[test]
fn a_write_of_unknown_outcome_may_have_taken_the_place_of_the_last_one() {
    breaks(
        |evidence| {
            let id = evidence.finish.history.begin(5, put("c"));
            evidence.finish.history.end(id, 6, Outcome::Unknown);
            find(&mut evidence.finish, Some((8, "c")));
        },
        &[],
    );
}

#[test]
fn a_stale_read_is_noticed() {
    breaks(
        |evidence| {
            let id = evidence.finish.history.begin(5, Effect::Get(KEY.to_vec()));
            let seen = Some((5, Bytes::from_static(b"a")));
            evidence.finish.history.end(id, 6, Outcome::Read(5, seen));
        },
        &["operations are linearizable"],
    );
}

#[test]
fn a_write_that_stands_before_an_older_one_is_noticed() {
    let mut history = History::default();
    acknowledged(&mut history, 1, put("a"), 8, false);
    acknowledged(&mut history, 5, put("b"), 7, true);
    let found = Some((8, "a"));
    breaks(
        |evidence| {
            evidence.finish.history = history;
            evidence.finish.finals.clear();
            find(&mut evidence.finish, found);
        },
        &["operations are linearizable", "writes stand in the order of their times"],
    );
}

#[test]
fn digests_that_differ_or_are_missing_are_noticed() {
    let rule = "digests are equal";
    breaks(|evidence| evidence.digests[0].push(digest(3, 8)), &[rule]);
    breaks(|evidence| evidence.digests[0][1].digest.clear(), &[rule]);
    breaks(|evidence| evidence.digests.clear(), &[rule]);
}

#[test]
fn a_transfer_without_end_or_one_that_failed_for_good_is_noticed() {
    let rule = "every transfer ended";
    let pulling = Transfer { receiver: 5, state: "Pulling".to_owned(), ..Transfer::default() };
    breaks(|evidence| evidence.transfers.push(pulling.clone()), &[rule]);
    let abandoned = Transfer { is_abandoned: true, ..pulling.clone() };
    breaks(|evidence| evidence.transfers.push(abandoned), &[]);
    let failed = Transfer { failure: "no".to_owned(), state: "Failed".to_owned(), ..pulling };
    breaks(|evidence| evidence.transfers.push(failed.clone()), &[rule]);
    let followed = Transfer { receiver: 4, ..failed };
    breaks(|evidence| evidence.transfers.push(followed), &[]);
}

#[test]
fn too_much_sent_again_is_noticed() {
    let spoil = |evidence: &mut Evidence| evidence.transfers[0].resent_bytes = RESENT_BYTES_MAX + 1;
    breaks(spoil, &["what was sent again is within its bound"]);
    let with_power_loss = |evidence: &mut Evidence| {
        spoil(evidence);
        evidence.transfers[0].power_losses = 1;
    };
    breaks(with_power_loss, &[]);
}

#[test]
fn deaths_log_lines_pins_memory_and_disk_are_noticed() {
    let line = || vec!["bad".to_owned()];
    breaks(|evidence| evidence.problems = line(), &["the story came to its end"]);
    breaks(|evidence| evidence.finish.broken = line(), &["answers make sense"]);
    breaks(|evidence| evidence.log_lines = line(), &["logs tell of no defect"]);
    breaks(|evidence| evidence.pins = line(), &["pins are gone"]);
    breaks(|evidence| evidence.missing = line(), &["everything could be played"]);
    breaks(|evidence| evidence.memory.1 = 9, &["memory is bounded"]);
    breaks(|evidence| evidence.disk.1 = 9, &["disk is bounded"]);
}

#[test]
fn a_storm_with_too_little_in_it_does_not_count() {
    let least = Minimum { writes: 3, faults: 1, installed: 2, resumes_of_one: 2 };
    breaks(
        |evidence| evidence.minimum = least,
        &[
            "enough was written",
            "enough faults struck",
            "enough transfers ended",
            "one transfer was resumed often enough",
        ],
    );
}
