//! The clients of a storm: closed loops of puts, gets, deletes, conditional writes and batches over
//! several keys, through the product's own client library, with a history of what each asked and
//! was answered.
//!
//! Keys belong to an epoch of some seconds, so that the history of one key stays short enough to be
//! judged; keys of past epochs are read on, because what was written long ago must stay too. An
//! outcome that the client library calls unknown stays open: the write may happen at any later time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use ratoon::client::{self, Client, Profile, Written};
use ratoon::types::{
    Action, Code, CollectionName, Condition, Consistency, Failure, Index, Record, Reply, Retry,
    Write, WriteBatch,
};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::timeline::{Timeline, lock};
use crate::checks::history::{Effect, History, Outcome};
use crate::random::Random;

/// Collection that the clients write.
pub const COLLECTION: &str = "default/quarrel";
/// Clients that run at once.
const CLIENTS: usize = 6;
/// Keys of one epoch.
const KEYS: u64 = 12;
/// How long new keys are quarrelled about before others take their place.
const EPOCH_US: u64 = 10_000_000;
/// Pause between two operations of a client, so that the history of a long storm fits memory.
const PAUSE: Duration = Duration::from_millis(15);
/// All attempts of one operation.
const TIMEOUT: Duration = Duration::from_secs(20);
/// One attempt.
const ATTEMPT: Duration = Duration::from_secs(3);
/// Longest value, bytes.
const VALUE_BYTES_MAX: u64 = 256;

/// The final value of each key: version and value, or none.
pub type Finals = BTreeMap<Vec<u8>, Option<(Index, Bytes)>>;

/// Clients under way.
pub struct Load {
    ledger: Arc<Ledger>,
    stop: CancellationToken,
    tasks: Vec<AbortOnDropHandle<()>>,
}

/// What all clients share.
struct Ledger {
    timeline: Arc<Timeline>,
    history: Mutex<History>,
    /// Writes that were acknowledged.
    acknowledged: AtomicU64,
    /// Answers that no client should ever get.
    broken: Mutex<Vec<String>>,
}

impl Load {
    /// Starts the clients; each begins with another of the profile's endpoints.
    pub fn start(profile: &Profile, timeline: Arc<Timeline>, random: &mut Random) -> Result<Load> {
        let ledger = Arc::new(Ledger {
            timeline,
            history: Mutex::default(),
            acknowledged: AtomicU64::new(0),
            broken: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let mut tasks = Vec::new();
        for number in 0..CLIENTS {
            let mut profile = profile.clone();
            let places = profile.endpoints.len().max(1);
            profile.endpoints.rotate_left(number % places);
            let options =
                client::Options { timeout: TIMEOUT, attempt_timeout: ATTEMPT, writes_max: 1 };
            let quarreller = Quarreller {
                number,
                client: Client::connect_with(&profile, options)?,
                collection: COLLECTION.parse()?,
                ledger: ledger.clone(),
                random: random.fork(),
                seen: BTreeMap::new(),
                next_name: 0,
            };
            let task = tokio::spawn(quarreller.run(stop.clone()));
            tasks.push(AbortOnDropHandle::new(task));
        }
        Ok(Load { ledger, stop, tasks })
    }

    /// Writes acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.ledger.acknowledged.load(Ordering::Relaxed)
    }

    /// Lets every operation under way end, then reads every key once more; the history and what the
    /// keys hold in the end. Must be called when the cluster is well.
    pub async fn finish(mut self, client: &Client) -> Result<Finish> {
        self.stop.cancel();
        for task in self.tasks.drain(..) {
            task.await?;
        }
        let collection: CollectionName = COLLECTION.parse()?;
        let keys: Vec<Vec<u8>> = keys_of(&lock(&self.ledger.history));
        let mut finals = Finals::new();
        for key in keys {
            let called_us = self.ledger.timeline.now_us();
            let found = client.get(&collection, key.clone(), Consistency::Linearizable).await?;
            let mut history = lock(&self.ledger.history);
            let id = history.begin(called_us, Effect::Get(key.clone()));
            let (outcome, _) = judge_read(&Ok(found.clone()));
            history.end(id, self.ledger.timeline.now_us(), outcome);
            finals.insert(key, found.map(|record| (record.version, record.value)));
        }
        let history = std::mem::take(&mut *lock(&self.ledger.history));
        let broken = std::mem::take(&mut *lock(&self.ledger.broken));
        Ok(Finish { history, finals, broken })
    }
}

/// What is left of a load that ended.
pub struct Finish {
    /// All operations.
    pub history: History,
    /// What each key ever written holds.
    pub finals: Finals,
    /// Answers that no client should ever get.
    pub broken: Vec<String>,
}

/// Every key that the history names.
fn keys_of(history: &History) -> Vec<Vec<u8>> {
    let mut keys = std::collections::BTreeSet::new();
    for operation in &history.operations {
        match &operation.effect {
            Effect::Get(key) => {
                keys.insert(key.clone());
            }
            Effect::Write(batch) => {
                keys.extend(batch.writes.iter().map(|write| write.key.to_vec()));
            }
        }
    }
    keys.into_iter().collect()
}

/// One client.
struct Quarreller {
    number: usize,
    client: Client,
    collection: CollectionName,
    ledger: Arc<Ledger>,
    random: Random,
    /// Last version seen of a key of the present epoch; 0: absent.
    seen: BTreeMap<Vec<u8>, Index>,
    next_name: u64,
}

impl Quarreller {
    /// Works until told to stop. An operation is never given up half-way.
    async fn run(mut self, stop: CancellationToken) {
        let mut epoch = 0;
        while !stop.is_cancelled() {
            let now = self.ledger.timeline.now_us() / EPOCH_US;
            if now != epoch {
                epoch = now;
                self.seen.clear();
            }
            self.work(epoch).await;
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    async fn work(&mut self, epoch: u64) {
        let number = self.random.below(KEYS);
        match self.random.below(100) {
            0..35 => self.get(key(epoch, number)).await,
            35..45 => {
                let past = self.random.below(epoch + 1);
                self.get(key(past, number)).await;
            }
            45..95 => self.write(epoch, 1).await,
            _ => {
                let count = self.random.between(2, 4);
                self.write(epoch, count).await;
            }
        }
    }

    async fn get(&mut self, key: Vec<u8>) {
        let id = self.begin(Effect::Get(key.clone()));
        let answer =
            self.client.get(&self.collection, key.clone(), Consistency::Linearizable).await;
        let (outcome, version) = judge_read(&answer);
        if let Some(version) = version {
            self.seen.insert(key, version);
        }
        self.end(id, outcome);
    }

    async fn write(&mut self, epoch: u64, count: u64) {
        let mut keys: Vec<Vec<u8>> =
            (0..count).map(|_| key(epoch, self.random.below(KEYS))).collect();
        keys.sort();
        keys.dedup();
        let writes = keys.into_iter().map(|key| self.draw_write(key)).collect();
        let batch = WriteBatch { writes };
        let id = self.begin(Effect::Write(batch.clone()));
        let answer = self.client.write(batch.clone()).await;
        if let Ok(written) = &answer {
            self.ledger.acknowledged.fetch_add(1, Ordering::Relaxed);
            for write in &batch.writes {
                let deleted = matches!(write.action, Action::Delete);
                let version = if deleted { 0 } else { written.version };
                self.seen.insert(write.key.to_vec(), version);
            }
        }
        self.end(id, judge_write(answer));
    }

    fn draw_write(&mut self, key: Vec<u8>) -> Write {
        let condition = match self.random.below(10) {
            0..3 => match self.seen.get(&key) {
                Some(0) => Condition::Absent,
                Some(version) => Condition::Version(*version),
                None => Condition::Always,
            },
            _ => Condition::Always,
        };
        let action = match self.random.below(10) {
            0 => Action::Delete,
            _ => Action::Put { value: self.new_value(), content_type: String::new() },
        };
        Write { collection: self.collection.clone(), key: key.into(), condition, action }
    }

    /// A value that nobody writes a second time.
    fn new_value(&mut self) -> Bytes {
        self.next_name += 1;
        let mut value = format!("{}.{}.", self.number, self.next_name).into_bytes();
        let bytes = self.random.magnitude(8, VALUE_BYTES_MAX) as usize;
        value.resize(bytes.max(value.len()), b'v');
        value.into()
    }

    fn begin(&self, effect: Effect) -> usize {
        let mut history = lock(&self.ledger.history);
        // Under the lock: operations stand in the order of their calls.
        history.begin(self.ledger.timeline.now_us(), effect)
    }

    fn end(&self, id: usize, outcome: Outcome) {
        let mut history = lock(&self.ledger.history);
        if let Outcome::Broken(what) = &outcome {
            let told = format!("{:?} was answered with {what}", history.effect(id));
            lock(&self.ledger.broken).push(told);
        }
        history.end(id, self.ledger.timeline.now_us(), outcome);
    }
}

fn key(epoch: u64, number: u64) -> Vec<u8> {
    format!("{epoch:06}/{number:02}").into_bytes()
}

/// What a read saw; with the version, if it saw anything.
fn judge_read(answer: &Result<Option<Record>, Failure>) -> (Outcome, Option<Index>) {
    match answer {
        Ok(None) => (Outcome::Read(0, None), Some(0)),
        Ok(Some(record)) => {
            let seen = Some((record.version, record.value.clone()));
            (Outcome::Read(record.version, seen), Some(record.version))
        }
        Err(failure) if failure.retry == Retry::Never => {
            (Outcome::Broken(failure.to_string()), None)
        }
        // A read changes nothing, whether it happened or not.
        Err(_) => (Outcome::NotDone, None),
    }
}

/// What became of a write.
fn judge_write(answer: Result<Written, Failure>) -> Outcome {
    match answer {
        Ok(written) => {
            Outcome::Applied(written.version, Reply::Written { existed: written.existed })
        }
        Err(failure) if failure.code == Code::ConditionFailed => Outcome::ConditionFailed,
        Err(failure) => match failure.retry {
            Retry::Never => Outcome::Broken(failure.to_string()),
            Retry::Later => Outcome::NotDone,
            Retry::Unknown => Outcome::Unknown,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_becomes_the_outcome_that_it_means() {
        let failed = |code| judge_write(Err(Failure::new(code, "")));
        assert_eq!(failed(Code::ConditionFailed), Outcome::ConditionFailed);
        assert_eq!(failed(Code::Unavailable), Outcome::NotDone);
        assert_eq!(failed(Code::OutcomeUnknown), Outcome::Unknown);
        assert!(matches!(failed(Code::KeyEmpty), Outcome::Broken(_)));
        let written = Written { version: 9, existed: vec![true] };
        let reply = Reply::Written { existed: vec![true] };
        assert_eq!(judge_write(Ok(written)), Outcome::Applied(9, reply));
        assert_eq!(judge_read(&Ok(None)), (Outcome::Read(0, None), Some(0)));
        let lost = judge_read(&Err(Failure::new(Code::Unavailable, "")));
        assert_eq!(lost, (Outcome::NotDone, None));
    }
}
