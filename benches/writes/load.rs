//! Closed-loop load: so many clients, each with one operation under way, for a while.
//!
//! A closed loop slows down with what it measures: its latencies are those of so many clients, not
//! of a given rate.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ratoon::demo::measure;
use serde::Serialize;
use tokio::task::JoinSet;

use super::Plan;
use super::store::{Session, Store};
use super::support::Failed;

/// Clients that write the keys before anything is measured.
const FILLERS: usize = 64;
/// Longest latency told apart, microseconds.
const LATENCY_MICROSECONDS_MAX: u64 = 120_000_000;

/// What a client does again and again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Operation {
    /// Store a random value under a random key.
    Put,
    /// Read the newest value of a random key, linearizably.
    Get,
}

/// Which nodes the clients are connected to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Through {
    /// The leader alone.
    Leader,
    /// All nodes, evenly: what clients do that know nothing of leaders.
    All,
}

/// One kind of load.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Load {
    /// What is done.
    pub operation: Operation,
    /// By how many at once.
    pub clients: usize,
    /// Whom they ask.
    pub through: Through,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operation = match self.operation {
            Operation::Put => "put",
            Operation::Get => "get",
        };
        let through = match self.through {
            Through::Leader => "the leader",
            Through::All => "all nodes",
        };
        write!(f, "{operation}, {} clients, {through}", self.clients)
    }
}

/// What one measurement found.
pub struct Measured {
    /// Operations a second.
    pub rate: f64,
    /// Microseconds from call to answer.
    pub latencies: Histogram<u64>,
    /// Processor time of all nodes, microseconds an operation.
    pub servers_cpu_microseconds: f64,
    /// Processor time of this process, microseconds an operation.
    pub client_cpu_microseconds: f64,
    /// Syncs of the leader's log an operation.
    pub syncs: f64,
    /// Bytes that all nodes had written to the disk, an operation.
    pub disk_bytes: f64,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = |quantile| self.milliseconds(quantile);
        write!(
            f,
            "{:.0}/s, p50 {:.2} ms, p99 {:.2} ms",
            self.rate,
            milliseconds(0.5),
            milliseconds(0.99)
        )
    }
}

impl Measured {
    /// A quantile of the latencies, milliseconds.
    pub fn milliseconds(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1000.0
    }
}

fn key(number: usize) -> Bytes {
    Bytes::from(format!("record/{number:016}"))
}

fn value(random: &mut StdRng, length: usize) -> Bytes {
    let mut value = vec![0; length];
    random.fill(&mut value[..]);
    Bytes::from(value)
}

/// Writes every key once, so that every read finds something.
pub async fn fill(store: &mut Store, keys: usize, value_bytes: usize) -> Result<(), Failed> {
    let sessions = store.connect(FILLERS, Through::Leader).await?;
    let mut writers = JoinSet::new();
    for (first, session) in sessions.into_iter().enumerate() {
        writers.spawn(async move {
            let mut random = StdRng::seed_from_u64(first as u64);
            for number in (first..keys).step_by(FILLERS) {
                session.put(key(number), value(&mut random, value_bytes)).await?;
            }
            Ok::<(), Failed>(())
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended??;
    }
    Ok(())
}

/// Counters of the machine at one moment.
struct Counters {
    at: Instant,
    servers_cpu_seconds: f64,
    client_cpu_seconds: f64,
    syncs: f64,
    disk_bytes: u64,
}

impl Counters {
    async fn read(store: &mut Store) -> Result<Self, Failed> {
        let (mut servers_cpu_seconds, mut disk_bytes) = (0.0, 0);
        for pid in store.pids() {
            servers_cpu_seconds += measure::cpu_seconds(pid)?;
            disk_bytes += measure::written_bytes(pid)?;
        }
        Ok(Counters {
            syncs: store.syncs().await?,
            client_cpu_seconds: measure::cpu_seconds(std::process::id())?,
            servers_cpu_seconds,
            disk_bytes,
            at: Instant::now(),
        })
    }
}

/// Puts `store` under load, lets it settle, and measures.
pub async fn measure(store: &mut Store, load: &Load, plan: &Plan) -> Result<Measured, Failed> {
    let sessions = store.connect(load.clients, load.through).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for session in sessions {
        let client = Client {
            session,
            operation: load.operation,
            keys: plan.keys,
            value_bytes: plan.value_bytes,
            random: StdRng::seed_from_u64(rand::random()),
            stop: stop.clone(),
        };
        clients.spawn(client.run());
    }
    tokio::time::sleep(plan.warm_up).await;
    let before = Counters::read(store).await?;
    tokio::time::sleep(plan.length).await;
    let after = Counters::read(store).await?;
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Histogram::new_with_max(LATENCY_MICROSECONDS_MAX, 3)?;
    while let Some(ended) = clients.join_next().await {
        for (ended_at, took) in ended?? {
            if ended_at >= before.at && ended_at < after.at {
                let microseconds = took.as_micros().min(LATENCY_MICROSECONDS_MAX.into());
                latencies.record(u64::try_from(microseconds)?)?;
            }
        }
    }
    // At least one, so that a store that stands still shows a rate near nothing instead of an error.
    let operations = latencies.len().max(1) as f64;
    let cpu = |before: f64, after: f64| (after - before) * 1e6 / operations;
    Ok(Measured {
        rate: latencies.len() as f64 / (after.at - before.at).as_secs_f64(),
        latencies,
        servers_cpu_microseconds: cpu(before.servers_cpu_seconds, after.servers_cpu_seconds),
        client_cpu_microseconds: cpu(before.client_cpu_seconds, after.client_cpu_seconds),
        syncs: (after.syncs - before.syncs) / operations,
        disk_bytes: (after.disk_bytes - before.disk_bytes) as f64 / operations,
    })
}

/// One client of the closed loop.
struct Client {
    session: Session,
    operation: Operation,
    keys: usize,
    value_bytes: usize,
    random: StdRng,
    stop: Arc<AtomicBool>,
}

impl Client {
    /// Goes on until told to stop; when each operation ended, and how long it took. An operation
    /// that fails ends the benchmark: nothing fails on a machine that is well.
    async fn run(mut self) -> Result<Vec<(Instant, Duration)>, Failed> {
        let mut done = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let key = key(self.random.random_range(0..self.keys));
            let started = match self.operation {
                Operation::Put => {
                    let value = value(&mut self.random, self.value_bytes);
                    let started = Instant::now();
                    self.session.put(key, value).await?;
                    started
                }
                Operation::Get => {
                    let started = Instant::now();
                    let found = self.session.get(key).await?;
                    if found != Some(self.value_bytes) {
                        return Err(format!("a get found {found:?} bytes").into());
                    }
                    started
                }
            };
            let ended = Instant::now();
            done.push((ended, ended - started));
        }
        Ok(done)
    }
}
