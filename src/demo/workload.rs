//! A writer and readers that go on throughout, and the ledger that says what must be there.
//!
//! Each writer puts numbered records, one after the other, and now and then overwrites a register
//! with a growing number. Only an acknowledged write must be found; one whose outcome is unknown
//! stays open for ever: it may be there or not. Readers check linearizably that nothing
//! acknowledged, and nothing read before, is missed. The load is limited: it is a witness, not a
//! benchmark.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::cluster::Cluster;
use crate::types::{Failure, Record};

/// Writers at work at once.
const WRITERS: usize = 8;
/// Each writer puts one record in this time: 400 a second together.
const WRITE_EVERY: Duration = Duration::from_millis(20);
/// Readers at work at once.
const READERS: usize = 4;
/// Each reader reads one record in this time: 100 a second together.
const READ_EVERY: Duration = Duration::from_millis(40);
/// Every so many writes of a writer one goes to its register.
const REGISTER_EVERY: u64 = 4;
/// Pause after a failed call.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);

/// Writers and readers under way.
pub struct Workload {
    ledger: Arc<Ledger>,
    stop: CancellationToken,
    tasks: Vec<AbortOnDropHandle<()>>,
}

/// What the workload found in the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Verdict {
    /// Writes acknowledged.
    pub writes_acknowledged: u64,
    /// Of them, gone or changed.
    pub writes_lost: u64,
    /// Reads answered.
    pub reads: u64,
    /// Of them, older than something acknowledged or read before they began.
    pub reads_stale: u64,
}

impl Workload {
    /// Starts to write to and read from `cluster`. `seed` decides what readers look at.
    pub fn start(cluster: &Cluster, seed: u64) -> Self {
        let ledger = Arc::new(Ledger::new());
        let stop = CancellationToken::new();
        let mut tasks = Vec::new();
        for writer in 0..WRITERS {
            let task = write(cluster.clone(), ledger.clone(), stop.clone(), writer);
            tasks.push(AbortOnDropHandle::new(tokio::spawn(task)));
        }
        for reader in 0..READERS {
            let random = StdRng::seed_from_u64(seed.wrapping_add(reader as u64));
            let task = read(cluster.clone(), ledger.clone(), stop.clone(), random);
            tasks.push(AbortOnDropHandle::new(tokio::spawn(task)));
        }
        Workload { ledger, stop, tasks }
    }

    /// Writes acknowledged so far.
    pub fn writes_acknowledged(&self) -> u64 {
        self.ledger.acknowledged.load(Ordering::Relaxed)
    }

    /// Why a write failed last, if any did.
    pub fn last_failure(&self) -> Option<Failure> {
        self.ledger.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets every call under way end, then reads every acknowledged write back.
    pub async fn finish(&mut self, cluster: &Cluster) -> Result<Verdict, Failure> {
        self.stop.cancel();
        for task in self.tasks.drain(..) {
            // A task that panicked left its writes in the ledger, where they are checked all the
            // same.
            if let Err(error) = task.await
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        let mut expected = Expected::of(&self.ledger);
        cluster.scan_writes(|found| expected.see(found)).await?;
        Ok(Verdict {
            writes_acknowledged: self.ledger.acknowledged.load(Ordering::Relaxed),
            writes_lost: expected.lost(),
            reads: self.ledger.reads.load(Ordering::Relaxed),
            reads_stale: self.ledger.reads_stale.load(Ordering::Relaxed),
        })
    }
}

/// Writes until told to stop. A call is never given up half-way: its outcome would be unknown for
/// nothing.
async fn write(cluster: Cluster, ledger: Arc<Ledger>, stop: CancellationToken, writer: usize) {
    let mut ticks = tokio::time::interval(WRITE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 1.. {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        let outcome = if number % REGISTER_EVERY == 0 {
            let epoch = ledger.of(writer).register_attempt(number);
            let key = register_key(writer, epoch);
            let version = cluster.put_write(&key, number.to_string().into_bytes()).await;
            ledger.of(writer).register_outcome(number, version.is_ok());
            version
        } else {
            let key = record_key(writer, number);
            let version = cluster.put_write(&key, record_value(writer, number)).await;
            if let Ok(version) = version {
                ledger.of(writer).records.push((number, version));
            }
            version
        };
        match outcome {
            Ok(_) => {
                ledger.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(failure) => {
                *ledger.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
                tokio::time::sleep(FAILURE_PAUSE).await;
            }
        }
    }
}

/// Reads until told to stop.
async fn read(cluster: Cluster, ledger: Arc<Ledger>, stop: CancellationToken, mut random: StdRng) {
    let mut ticks = tokio::time::interval(READ_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        let writer = random.random_range(0..WRITERS);
        let fresh = if random.random_bool(0.5) {
            read_register(&cluster, &ledger, writer).await
        } else {
            let pick = random.random::<f64>();
            read_record(&cluster, &ledger, writer, pick).await
        };
        match fresh {
            Some(fresh) => {
                ledger.reads.fetch_add(1, Ordering::Relaxed);
                ledger.reads_stale.fetch_add(u64::from(!fresh), Ordering::Relaxed);
            }
            None => tokio::time::sleep(FAILURE_PAUSE).await,
        }
    }
}

/// Reads a register; whether the answer was fresh, or None if there was no answer.
async fn read_register(cluster: &Cluster, ledger: &Ledger, writer: usize) -> Option<bool> {
    let (epoch, least) = ledger.of(writer).register_floor();
    let found = cluster.get_write(&register_key(writer, epoch)).await.ok()?;
    let value = found.map(|found| parse_register(&found.value));
    Some(ledger.of(writer).register_seen(epoch, least, value))
}

/// Reads the acknowledged record at the share `pick` of the list; None if there is none or no
/// answer.
async fn read_record(cluster: &Cluster, ledger: &Ledger, writer: usize, pick: f64) -> Option<bool> {
    let (number, version) = {
        let writer = ledger.of(writer);
        // The newest ones are the likeliest to be missed, so that the pick leans toward the end.
        let at = (pick.sqrt() * writer.records.len() as f64) as usize;
        *writer.records.get(at)?
    };
    let found = cluster.get_write(&record_key(writer, number)).await.ok()?;
    Some(found.is_some_and(|found| {
        found.version == version && found.value[..] == record_value(writer, number)
    }))
}

/// What was written, acknowledged and seen.
struct Ledger {
    writers: Vec<Mutex<WriterLedger>>,
    acknowledged: AtomicU64,
    reads: AtomicU64,
    reads_stale: AtomicU64,
    last_failure: Mutex<Option<Failure>>,
}

impl Ledger {
    fn new() -> Self {
        Ledger {
            writers: (0..WRITERS).map(|_| Mutex::new(WriterLedger::default())).collect(),
            acknowledged: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            reads_stale: AtomicU64::new(0),
            last_failure: Mutex::new(None),
        }
    }

    fn of(&self, writer: usize) -> MutexGuard<'_, WriterLedger> {
        // Every change is one statement, so that a panic leaves nothing half-written.
        self.writers[writer].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One writer's part of the ledger.
#[derive(Default)]
struct WriterLedger {
    /// Number and version of each acknowledged record.
    records: Vec<(u64, u64)>,
    /// The register in use. After an unknown outcome a fresh one is taken, because the open write
    /// may still be executed at any later time.
    register: Register,
    /// Registers no longer written, by their epoch.
    closed: Vec<Register>,
}

/// One register: a key whose value only grows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Register {
    epoch: u64,
    /// The largest value acknowledged; 0: none.
    acknowledged: u64,
    /// The largest value sent; more than `acknowledged` while its outcome is open.
    attempted: u64,
    /// The largest value a reader has seen.
    seen: u64,
}

impl Register {
    /// Whether `value` may be what the register holds once nothing is under way; 0: absent.
    fn may_hold(&self, value: u64) -> bool {
        value == self.acknowledged || value == self.attempted
    }
}

impl WriterLedger {
    /// Notes that `value` is about to be sent, and returns the register's epoch.
    fn register_attempt(&mut self, value: u64) -> u64 {
        self.register.attempted = value;
        self.register.epoch
    }

    fn register_outcome(&mut self, value: u64, acknowledged: bool) {
        if acknowledged {
            self.register.acknowledged = value;
        } else {
            let next = Register { epoch: self.register.epoch + 1, ..Register::default() };
            self.closed.push(std::mem::replace(&mut self.register, next));
        }
    }

    /// The register in use and the least value that a read beginning now must see.
    fn register_floor(&self) -> (u64, u64) {
        (self.register.epoch, self.register.acknowledged.max(self.register.seen))
    }

    /// Judges what a read of the register saw (None: absent; Some(None): no number); `least` is the
    /// floor at its beginning.
    fn register_seen(&mut self, epoch: u64, least: u64, value: Option<Option<u64>>) -> bool {
        let register = match self.closed.iter_mut().find(|register| register.epoch == epoch) {
            Some(closed) => closed,
            None => &mut self.register,
        };
        let value = match value {
            None => 0,
            Some(Some(value)) => value,
            Some(None) => return false,
        };
        register.seen = register.seen.max(value);
        (least..=register.attempted).contains(&value)
    }
}

/// What the final scan must find; what is left over is lost.
struct Expected {
    records: BTreeMap<Vec<u8>, (usize, u64, u64)>,
    registers: BTreeMap<Vec<u8>, Register>,
}

impl Expected {
    fn of(ledger: &Ledger) -> Self {
        let mut expected = Expected { records: BTreeMap::new(), registers: BTreeMap::new() };
        for writer in 0..WRITERS {
            let ledger = ledger.of(writer);
            for &(number, version) in &ledger.records {
                expected.records.insert(record_key(writer, number), (writer, number, version));
            }
            for register in ledger.closed.iter().chain([&ledger.register]) {
                expected.registers.insert(register_key(writer, register.epoch), *register);
            }
        }
        expected
    }

    /// Crosses off what was found as it was written.
    fn see(&mut self, found: &Record) {
        if let Some(&(writer, number, version)) = self.records.get(&found.key[..]) {
            if found.version == version && found.value[..] == record_value(writer, number) {
                self.records.remove(&found.key[..]);
            }
        } else if let Some(register) = self.registers.get(&found.key[..])
            && parse_register(&found.value).is_some_and(|value| register.may_hold(value))
        {
            self.registers.remove(&found.key[..]);
        }
    }

    fn lost(&self) -> u64 {
        let registers = self.registers.values().filter(|register| !register.may_hold(0));
        (self.records.len() + registers.count()) as u64
    }
}

fn record_key(writer: usize, number: u64) -> Vec<u8> {
    format!("record/{writer:02}/{number:010}").into_bytes()
}

fn register_key(writer: usize, epoch: u64) -> Vec<u8> {
    format!("register/{writer:02}/{epoch:06}").into_bytes()
}

/// 64 to 319 bytes that follow from writer and number, so that the ledger need not keep them.
fn record_value(writer: usize, number: u64) -> Vec<u8> {
    let mut digest = blake3::Hasher::new().update(&record_key(writer, number)).finalize_xof();
    let mut length = [0];
    digest.fill(&mut length);
    let mut value = vec![0; 64 + usize::from(length[0])];
    digest.fill(&mut value);
    value
}

fn parse_register(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn found(key: Vec<u8>, value: Vec<u8>, version: u64) -> Record {
        Record { key: key.into(), value: value.into(), version, content_type: String::new() }
    }

    /// A ledger in which writer 0 has two records and a register at 8.
    fn ledger() -> Ledger {
        let ledger = Ledger::new();
        let mut writer = ledger.of(0);
        writer.records.extend([(1, 100), (2, 101)]);
        writer.register_attempt(8);
        writer.register_outcome(8, true);
        drop(writer);
        ledger
    }

    #[test]
    fn a_scan_that_finds_everything_finds_nothing_lost() {
        let mut expected = Expected::of(&ledger());
        expected.see(&found(record_key(0, 1), record_value(0, 1), 100));
        expected.see(&found(record_key(0, 2), record_value(0, 2), 101));
        expected.see(&found(register_key(0, 0), b"8".to_vec(), 102));
        expected.see(&found(b"stranger".to_vec(), b"?".to_vec(), 103));
        assert_eq!(expected.lost(), 0);
    }

    #[test]
    fn a_missing_changed_or_rewritten_record_is_lost() {
        let mut expected = Expected::of(&ledger());
        assert_eq!(expected.lost(), 3);
        expected.see(&found(record_key(0, 1), record_value(0, 2), 100));
        expected.see(&found(record_key(0, 2), record_value(0, 2), 999));
        expected.see(&found(register_key(0, 0), b"4".to_vec(), 90));
        assert_eq!(expected.lost(), 3);
    }

    #[test]
    fn a_write_of_unknown_outcome_may_be_there_or_not() {
        for value in ["8", "12"] {
            let ledger = ledger();
            ledger.of(0).register_attempt(12);
            ledger.of(0).register_outcome(12, false);
            let mut expected = Expected::of(&ledger);
            expected.see(&found(register_key(0, 0), value.into(), 200));
            // The two records are missing; the register is not.
            assert_eq!(expected.lost(), 2, "{value}");
        }
    }

    #[test]
    fn after_an_unknown_outcome_the_register_is_left_alone() {
        let ledger = ledger();
        ledger.of(0).register_attempt(12);
        ledger.of(0).register_outcome(12, false);
        assert_eq!(ledger.of(0).register_attempt(16), 1);
        ledger.of(0).register_outcome(16, true);
        assert_eq!(ledger.of(0).register_floor(), (1, 16));
    }

    #[test]
    fn a_read_older_than_what_was_acknowledged_is_stale() {
        let ledger = ledger();
        let mut writer = ledger.of(0);
        let (epoch, least) = writer.register_floor();
        assert!(writer.register_seen(epoch, least, Some(Some(8))));
        assert!(!writer.register_seen(epoch, least, Some(Some(4))));
        assert!(!writer.register_seen(epoch, least, None));
        assert!(!writer.register_seen(epoch, least, Some(None)));
        assert!(!writer.register_seen(epoch, least, Some(Some(12))), "nobody ever wrote it");
    }

    #[test]
    fn what_one_reader_saw_no_later_read_may_miss() {
        let ledger = ledger();
        let mut writer = ledger.of(0);
        // Under way, not acknowledged: a read may see it or not ...
        writer.register_attempt(12);
        let (epoch, least) = writer.register_floor();
        assert!(writer.register_seen(epoch, least, Some(Some(8))));
        assert!(writer.register_seen(epoch, least, Some(Some(12))));
        // ... but once one has, the next must.
        let (epoch, least) = writer.register_floor();
        assert!(!writer.register_seen(epoch, least, Some(Some(8))));
    }

    #[test]
    fn values_follow_from_writer_and_number() {
        assert_eq!(record_value(1, 5), record_value(1, 5));
        assert_ne!(record_value(1, 5), record_value(1, 6));
        assert!((64..320).contains(&record_value(3, 7).len()));
    }
}
