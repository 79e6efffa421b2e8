//! Random histories against a plain model, with random batch boundaries and reloads.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use crate::kv::{Family, View};
use crate::state::testing::*;
use crate::state::{ContentDigest, DigestRun, State, content_digest, read};
use crate::types::{
    Action, Code, Command, Condition, NodeId, Reply, Request, ScanOptions, SessionSequence, Write,
    WriteBatch,
};

/// One step of a history; small numbers name keys, collections and sessions.
#[derive(Clone, Debug)]
enum Step {
    Write { writes: Vec<(u8, u8, u8, u8)>, session: Option<(u8, u64)> },
    Drop(u8),
    Create(u8),
    OpenSession,
    Enrol,
    Pin(u64),
    Time(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let one = (0..2_u8, 0..5_u8, 0..4_u8, 0..4_u8);
    let writes = prop::collection::vec(one, 1..4);
    let session = prop::option::of((0..3_u8, 1..6_u64));
    prop_oneof![
        8 => (writes, session).prop_map(|(writes, session)| Step::Write { writes, session }),
        1 => (0..2_u8).prop_map(Step::Drop),
        2 => (0..2_u8).prop_map(Step::Create),
        1 => Just(Step::OpenSession),
        1 => Just(Step::Enrol),
        1 => (0..40_u64).prop_map(Step::Pin),
        1 => (0..5_u64).prop_map(Step::Time),
    ]
}

/// What a step asks the replica to do, given what the model knows.
fn request(step: &Step, model: &Model, at: usize) -> Request {
    let name = |number: &u8| collection(["c", "d"][usize::from(*number)]);
    let (session, command) = match step {
        Step::Write { writes, session } => {
            let writes = writes.iter().map(|(of, key, condition, action)| Write {
                collection: name(of),
                key: model_key(*key),
                condition: match condition {
                    0 | 1 => Condition::Always,
                    2 => Condition::Absent,
                    _ => Condition::Version(model.version(*of, *key).unwrap_or(3)),
                },
                action: match action {
                    0 | 1 => put_action(&format!("{at}").repeat(usize::from(*action) + 1)),
                    2 => Action::Delete,
                    _ => Action::Check,
                },
            });
            let session = session.map(|(which, sequence)| SessionSequence {
                session: model.sessions.get(usize::from(which)).map_or(99_999, |known| known.0),
                sequence,
            });
            (session, Command::Write(WriteBatch { writes: writes.collect() }))
        }
        Step::Drop(of) => (None, Command::DropCollection(name(of))),
        Step::Create(of) => (None, Command::CreateCollection(name(of))),
        Step::OpenSession => (None, Command::OpenSession),
        Step::Enrol => {
            let secret_hash = *blake3::hash(&at.to_le_bytes()).as_bytes();
            let expires_unix_ms = FOUNDED_MS + 10_000;
            (None, Command::CreateToken { secret_hash, expires_unix_ms, learner: false })
        }
        Step::Pin(index) => {
            let receiver = NodeId(1);
            (None, Command::SetPin { receiver, index: *index, snapshot: None })
        }
        Step::Time(_) => (None, Command::ComputeDigest),
    };
    Request { session, command }
}

/// Keys that begin like others, and ones with zeros.
fn model_key(number: u8) -> Bytes {
    let keys: [&[u8]; 5] = [b"a", b"a\0", b"a\0\x01", b"ab", b"\xff\xff"];
    Bytes::from_static(keys[usize::from(number)])
}

type Records = BTreeMap<Bytes, (Bytes, u64)>;

/// What the state must look like, kept as simply as can be.
#[derive(Default)]
struct Model {
    collections: BTreeMap<u8, Records>,
    /// Id, last sequence, and what was answered to which command.
    sessions: Vec<(u64, u64, Option<Remembered>)>,
}

/// A command of a session and its answer.
type Remembered = (Command, Answer);

/// Index of execution, and the reply's code or what existed.
type Answer = (u64, Result<Vec<bool>, Code>);

impl Model {
    fn version(&self, of: u8, key: u8) -> Option<u64> {
        self.collections.get(&of)?.get(&model_key(key)).map(|(_, version)| *version)
    }

    fn write(&mut self, request: &Request, index: u64) -> Answer {
        let Command::Write(batch) = &request.command else { panic!("the model takes writes") };
        let place = match request.session {
            None => return (index, self.execute(batch, index)),
            Some(place) => place,
        };
        let Some(at) = self.sessions.iter().position(|known| known.0 == place.session) else {
            return (index, Err(Code::SessionExpired));
        };
        let last = self.sessions[at].1;
        if place.sequence < last {
            return (index, Err(Code::SequenceStale));
        }
        if place.sequence == last {
            return match self.sessions[at].2.clone().unwrap() {
                (command, answer) if command == request.command => answer,
                _ => (index, Err(Code::InvalidArgument)),
            };
        }
        let answer = (index, self.execute(batch, index));
        self.sessions[at] =
            (place.session, place.sequence, Some((request.command.clone(), answer.clone())));
        answer
    }

    fn execute(&mut self, batch: &WriteBatch, index: u64) -> Result<Vec<bool>, Code> {
        let of = |write: &Write| u8::from(write.collection == collection("d"));
        let mut names: Vec<_> = batch.writes.iter().map(|write| (of(write), &write.key)).collect();
        names.sort();
        names.dedup();
        if names.len() < batch.writes.len() {
            return Err(Code::DuplicateKey);
        }
        if batch.writes.iter().any(|write| !self.collections.contains_key(&of(write))) {
            return Err(Code::CollectionNotFound);
        }
        let held = |write: &Write| self.collections[&of(write)].get(&write.key).cloned();
        let holds = |write: &Write| match write.condition {
            Condition::Always => true,
            Condition::Absent => held(write).is_none(),
            Condition::Version(version) => held(write).is_some_and(|(_, is)| is == version),
        };
        if !batch.writes.iter().all(holds) {
            return Err(Code::ConditionFailed);
        }
        let existed = batch.writes.iter().map(|write| held(write).is_some()).collect();
        for write in &batch.writes {
            let records = self.collections.get_mut(&of(write)).unwrap();
            match &write.action {
                Action::Put { value, .. } => {
                    records.insert(write.key.clone(), (value.clone(), index));
                }
                Action::Delete => {
                    records.remove(&write.key);
                }
                Action::Check => {}
            }
        }
        Ok(existed)
    }

    /// Everything a reader can ask agrees.
    fn check(&self, view: &dyn View, limit: u32) {
        let index = read::applied(view).unwrap();
        for (number, name) in [(0_u8, "c"), (1, "d")] {
            let name = collection(name);
            let Some(records) = self.collections.get(&number) else {
                assert_refused(read::describe(view, &name), Code::CollectionNotFound);
                continue;
            };
            let info = read::describe(view, &name).unwrap();
            let bytes: usize =
                records.iter().map(|(key, (value, _))| key.len() + value.len()).sum();
            assert_eq!((info.records, info.bytes), (records.len() as u64, bytes as u64));
            for key in (0..5).map(model_key) {
                let got = read::get(view, &name, &key).unwrap();
                let got = got.map(|record| (record.value, record.version));
                assert_eq!(got.as_ref(), records.get(&key));
            }
            let mut options = ScanOptions { limit, ..ScanOptions::default() };
            let mut scanned = Records::new();
            loop {
                let page = read::scan(view, &name, &options, index).unwrap();
                assert!(limit == 0 || page.records.len() <= limit as usize);
                for record in page.records {
                    scanned.insert(record.key, (record.value, record.version));
                }
                options.cursor = page.cursor;
                if options.cursor.is_empty() {
                    break;
                }
            }
            assert_eq!(&scanned, records);
        }
    }
}

/// Applies a history; `ends` says after which steps the batch is written, `reloads` after which
/// of those the node starts anew.
fn play(steps: &[Step], ends: &[bool], reloads: &[bool], check: bool) -> (Replica, ContentDigest) {
    let mut replica = Replica::new();
    let mut model = Model::default();
    for (at, step) in steps.iter().enumerate() {
        if let Step::Time(ms) = step {
            replica.clock_ms += ms;
        }
        let request = request(step, &model, at);
        let outcome = replica.request(&request);
        let index = replica.state.applied();
        match (step, &outcome.reply) {
            (Step::Write { .. }, reply) => {
                let got = match reply {
                    Ok(Reply::Written { existed }) => Ok(existed.clone()),
                    Ok(other) => panic!("a write gave {other:?}"),
                    Err(failure) => Err(failure.code),
                };
                assert_eq!((outcome.index, got), model.write(&request, index));
            }
            (Step::Create(of), Ok(_)) => {
                assert!(model.collections.insert(*of, Records::new()).is_none());
            }
            (Step::Drop(of), Ok(_)) => assert!(model.collections.remove(of).is_some()),
            (Step::OpenSession, Ok(Reply::Session(id))) => model.sessions.push((*id, 0, None)),
            _ => {}
        }
        if ends[at % ends.len()] {
            replica.write_batch();
            let loaded = State::load(&replica.view).unwrap();
            assert_eq!(loaded.facts, replica.state.facts);
            if reloads[at % reloads.len()] {
                replica.state = loaded;
            }
            if check {
                model.check(&replica.view, (at % 4) as u32);
            }
        }
    }
    replica.write_batch();
    model.check(&replica.view, 2);
    let digest = content_digest(&replica.view).unwrap();
    let records: usize = model.collections.values().map(BTreeMap::len).sum();
    assert_eq!(digest.records, records as u64);
    (replica, digest)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_state_does_what_the_model_does(
        steps in prop::collection::vec(step(), 1..50),
        ends in prop::collection::vec(any::<bool>(), 1..20),
        reloads in prop::collection::vec(any::<bool>(), 1..20),
    ) {
        play(&steps, &ends, &reloads, true);
    }

    #[test]
    fn replicas_are_equal_whatever_their_batches(
        steps in prop::collection::vec(step(), 1..50),
        ends in prop::collection::vec(any::<bool>(), 1..20),
        reloads in prop::collection::vec(any::<bool>(), 1..20),
        step_bytes in 1..400_u64,
    ) {
        let (one, one_digest) = play(&steps, &ends, &reloads, false);
        let (other, other_digest) = play(&steps, &[false], &[false], false);
        prop_assert_eq!(&one.view, &other.view);
        prop_assert_eq!(one_digest, other_digest);
        // In steps of any size the digest is the same.
        let mut run = DigestRun::new(&one.view).unwrap();
        let stepped = loop {
            if let Some(digest) = run.step(&one.view, step_bytes).unwrap() {
                break digest;
            }
        };
        prop_assert_eq!(stepped, one_digest);
    }
}

fn digest(replica: &mut Replica) -> ContentDigest {
    replica.write_batch();
    content_digest(&replica.view).unwrap()
}

/// Two replicas that have taken the same entries but for one, which does the same amount.
fn digests_of(one: Command, other: Command) -> (ContentDigest, ContentDigest) {
    let mut digests = [one, other].into_iter().map(|command| {
        let mut replica = Replica::with_collection();
        replica.put("k", "v");
        replica.run(command).unwrap();
        digest(&mut replica)
    });
    (digests.next().unwrap(), digests.next().unwrap())
}

#[test]
fn a_digest_tells_values_keys_and_content_types_apart() {
    let written = |write: Write| Command::Write(WriteBatch { writes: vec![write] });
    let typed = |content_type: &str| Write {
        action: Action::Put { value: "v".into(), content_type: content_type.into() },
        ..put("a", "")
    };
    for (one, other) in [
        (put("a", "1"), put("a", "2")),
        (put("a", "bc"), put("ab", "c")),
        (put("k", "v"), delete("k")),
        (typed("x"), typed("y")),
    ] {
        let (one, other) = digests_of(written(one), written(other));
        assert_ne!(one.digest, other.digest);
    }
}

#[test]
fn a_digest_covers_what_is_visible_and_not_what_lies_below() {
    let mut replica = Replica::with_collection();
    replica.put("k", "old");
    replica.put("k", "new");
    let before = digest(&mut replica);
    assert_eq!((before.records, before.bytes), (1, 4));
    // As garbage collection may do one day: the hidden version goes.
    let rows = replica.view.rows(Family::Records);
    let (oldest, _) = rows.last_key_value().unwrap();
    let mut batch = crate::kv::Batch::default();
    batch.single_delete(Family::Records, oldest.clone());
    replica.view.write(&batch);
    assert_eq!(content_digest(&replica.view).unwrap(), before);
    // And one bit of the visible version turns.
    let (newest, value) = rows.first_key_value().unwrap();
    let mut rotten = value.clone();
    *rotten.last_mut().unwrap() ^= 1;
    let mut batch = crate::kv::Batch::default();
    batch.put(Family::Records, newest.clone(), rotten);
    replica.view.write(&batch);
    assert_ne!(content_digest(&replica.view).unwrap().digest, before.digest);
}

#[test]
fn a_digest_covers_sessions_but_not_the_wording_of_refusals() {
    use crate::codec::stored::{self, Outcome, Session};
    let mut replica = Replica::with_collection();
    replica.run(Command::OpenSession).unwrap();
    let session = replica.state.applied();
    replica.run_in(session, 1, Command::DropCollection(collection("nope"))).reply.unwrap_err();
    let before = digest(&mut replica);
    let meta = replica.view.rows(Family::Meta);
    let (key, row) = meta.iter().find(|(key, _)| key[0] == 0x30).unwrap();
    let altered = |change: fn(&mut Session)| {
        let mut row: Session = stored::decode(row).unwrap();
        change(&mut row);
        let mut batch = crate::kv::Batch::default();
        batch.put(Family::Meta, key.clone(), stored::encode(&row));
        let mut view = replica.view.clone();
        view.write(&batch);
        content_digest(&view).unwrap().digest
    };
    let rewording = altered(|session| match &mut session.outcome.as_mut().unwrap().outcome {
        Outcome::Failed { message, hint, .. } => {
            message.push_str(", as another release says");
            hint.clear();
        }
        other => panic!("{other:?} is no refusal"),
    });
    assert_eq!(rewording, before.digest);
    assert_ne!(altered(|session| session.sequence += 1), before.digest);
}

#[test]
fn dropped_collections_do_not_count() {
    let mut replica = Replica::with_collection();
    replica.put("k", "v");
    replica.run(Command::DropCollection(collection("c"))).unwrap();
    let empty = digest(&mut replica);
    assert_eq!((empty.records, empty.bytes), (0, 0));
}
