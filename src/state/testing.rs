//! A store in memory and a replica on it, for this room's tests.
//!
//! The store is as plain as can be: it is the yardstick, so it shares no code with `storage/`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::codec::{encode_entry, encode_request};
use crate::kv::{Batch, Cursor, Family, KvError, Op, View};
use crate::types::{
    Action, Addresses, ClusterId, Code, CollectionName, Command, Committed, Condition, ConfState,
    Failure, Node, NodeId, Payload, Reply, Request, SessionSequence, Write, WriteBatch,
};

use super::{Genesis, Outcome, State, StateError, genesis};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// All families in maps.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct MemoryView {
    families: BTreeMap<Family, Rows>,
}

impl MemoryView {
    /// Takes a batch's writes.
    pub(super) fn write(&mut self, batch: &Batch) {
        for op in batch.ops() {
            match op.clone() {
                Op::Put(family, key, value) => {
                    self.families.entry(family).or_default().insert(key, value);
                }
                Op::Delete(family, key) | Op::SingleDelete(family, key) => {
                    self.families.entry(family).or_default().remove(&key);
                }
            }
        }
    }

    /// The rows of a family.
    pub(super) fn rows(&self, family: Family) -> Rows {
        self.families.get(&family).cloned().unwrap_or_default()
    }
}

impl View for MemoryView {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let value = self.families.get(&family).and_then(|rows| rows.get(key));
        Ok(value.map(|value| Bytes::copy_from_slice(value)))
    }

    fn cursor<'a>(&'a self, family: Family) -> Box<dyn Cursor + 'a> {
        static EMPTY: Rows = Rows::new();
        Box::new(MemoryCursor { rows: self.families.get(&family).unwrap_or(&EMPTY), at: None })
    }
}

struct MemoryCursor<'a> {
    rows: &'a Rows,
    at: Option<(&'a [u8], &'a [u8])>,
}

impl<'a> MemoryCursor<'a> {
    fn first(&self, from: Bound<&[u8]>) -> Option<(&'a [u8], &'a [u8])> {
        let row = self.rows.range::<[u8], _>((from, Bound::Unbounded)).next();
        row.map(|(key, value)| (key.as_slice(), value.as_slice()))
    }

    fn last(&self, to: Bound<&[u8]>) -> Option<(&'a [u8], &'a [u8])> {
        let row = self.rows.range::<[u8], _>((Bound::Unbounded, to)).next_back();
        row.map(|(key, value)| (key.as_slice(), value.as_slice()))
    }
}

impl Cursor for MemoryCursor<'_> {
    fn seek(&mut self, key: &[u8]) {
        self.at = self.first(Bound::Included(key));
    }

    fn seek_for_prev(&mut self, key: &[u8]) {
        self.at = self.last(Bound::Included(key));
    }

    fn next(&mut self) {
        self.at = self.at.and_then(|(key, _)| self.first(Bound::Excluded(key)));
    }

    fn prev(&mut self) {
        self.at = self.at.and_then(|(key, _)| self.last(Bound::Excluded(key)));
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        self.at
    }

    fn status(&self) -> Result<(), KvError> {
        Ok(())
    }
}

/// One replica: its store, the batch under way, and its state machine.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) view: MemoryView,
    pub(super) batch: Batch,
    pub(super) state: State,
    /// What the leader's clock says next.
    pub(super) clock_ms: u64,
}

/// When the cluster of the tests was founded.
pub(super) const FOUNDED_MS: u64 = 1_000_000;

impl Replica {
    /// A newly founded cluster's only replica.
    pub(super) fn new() -> Replica {
        let mut view = MemoryView::default();
        view.write(&genesis(&Genesis {
            cluster: ClusterId([7; 16]),
            node: Node { id: NodeId(1), addresses: addresses("one"), learner: false },
            sealed_ca_key: vec![1, 2, 3],
            ca_certificate: vec![4, 5],
            created_unix_ms: FOUNDED_MS,
        }));
        let state = State::load(&view).unwrap();
        Replica { view, batch: Batch::default(), state, clock_ms: FOUNDED_MS }
    }

    /// One with the collection `default/c`.
    pub(super) fn with_collection() -> Replica {
        let mut replica = Replica::new();
        replica.run(Command::CreateCollection(collection("c"))).unwrap();
        replica
    }

    /// Writes the batch under way and begins another.
    pub(super) fn write_batch(&mut self) {
        self.view.write(&std::mem::take(&mut self.batch));
    }

    /// Applies a payload at the next index.
    pub(super) fn apply(&mut self, payload: Payload) -> Result<Outcome, StateError> {
        let index = self.state.applied() + 1;
        let committed = Committed { index, term: 2, payload };
        self.state.apply(&self.view, &mut self.batch, &committed)
    }

    /// Applies a request, and says all that came of it.
    pub(super) fn request(&mut self, request: &Request) -> Outcome {
        let entry = encode_entry(self.clock_ms, &encode_request(request));
        self.apply(Payload::Command(entry)).unwrap()
    }

    /// Applies a command without a session.
    pub(super) fn run(&mut self, command: Command) -> Result<Reply, Failure> {
        self.request(&Request { session: None, command }).reply
    }

    /// Applies a command of a session.
    pub(super) fn run_in(&mut self, session: u64, sequence: u64, command: Command) -> Outcome {
        let session = Some(SessionSequence { session, sequence });
        self.request(&Request { session, command })
    }

    /// Applies a conf change with a command beside it.
    pub(super) fn conf_change(&mut self, command: Command, conf_state: ConfState) -> Outcome {
        let request = encode_request(&Request { session: None, command });
        let context = encode_entry(self.clock_ms, &request);
        self.apply(Payload::ConfChange { context, conf_state }).unwrap()
    }

    /// Writes records to `default/c`.
    pub(super) fn write(&mut self, writes: Vec<Write>) -> Result<Reply, Failure> {
        self.run(Command::Write(WriteBatch { writes }))
    }

    /// Writes one value to `default/c`; answers with its version.
    pub(super) fn put(&mut self, key: &str, value: &str) -> u64 {
        self.write(vec![put(key, value)]).unwrap();
        self.state.applied()
    }

    /// Enrols a node by a fresh token.
    pub(super) fn enrol(&mut self, host: &str) -> NodeId {
        let secret_hash = *blake3::hash(host.as_bytes()).as_bytes();
        let expires_unix_ms = self.clock_ms + 1000;
        self.run(Command::CreateToken { secret_hash, expires_unix_ms, learner: false }).unwrap();
        let addresses = addresses(host);
        match self.run(Command::RedeemToken { secret_hash, addresses }).unwrap() {
            Reply::Node(node) => node,
            other => panic!("a token gave {other:?}"),
        }
    }
}

/// `default/NAME`.
pub(super) fn collection(name: &str) -> CollectionName {
    CollectionName::parse("default", name).unwrap()
}

/// Addresses on one host.
pub(super) fn addresses(host: &str) -> Addresses {
    Addresses {
        raft: format!("{host}:7400"),
        bulk: format!("{host}:7401"),
        api: format!("{host}:7402"),
    }
}

/// A write to `default/c`.
pub(super) fn write(key: &str, condition: Condition, action: Action) -> Write {
    let key = Bytes::copy_from_slice(key.as_bytes());
    Write { collection: collection("c"), key, condition, action }
}

/// An unconditional put to `default/c`.
pub(super) fn put(key: &str, value: &str) -> Write {
    write(key, Condition::Always, put_action(value))
}

/// Stores a text.
pub(super) fn put_action(value: &str) -> Action {
    let value = Bytes::copy_from_slice(value.as_bytes());
    Action::Put { value, content_type: "text/plain".into() }
}

/// An unconditional delete in `default/c`.
pub(super) fn delete(key: &str) -> Write {
    write(key, Condition::Always, Action::Delete)
}

/// A membership of plain voters and learners.
pub(super) fn members(voters: &[u64], learners: &[u64]) -> ConfState {
    ConfState { voters: voters.to_vec(), learners: learners.to_vec(), ..ConfState::default() }
}

/// Asserts that something was refused, and why.
#[track_caller]
pub(super) fn assert_refused<T: std::fmt::Debug>(
    result: Result<T, impl Into<Failure>>,
    code: Code,
) {
    match result {
        Ok(value) => panic!("expected {code:?}, got {value:?}"),
        Err(error) => assert_eq!(error.into().code, code),
    }
}
