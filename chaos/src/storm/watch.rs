//! Follows the transfers of all nodes and the memory of their processes, all the time and from
//! outside: what a receiver says of its pull, and what the system says of its process.
//!
//! It changes nothing, and a node that does not answer is asked again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ratoon::client::Client;
use ratoon::demo::measure;
use ratoon::proto::v1;
use ratoon::types::TransferState;
use serde::{Deserialize, Serialize};
use tokio_util::task::AbortOnDropHandle;

use super::net::Number;
use super::timeline::{Timeline, lock, seconds};

/// How often all nodes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// How long one node may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// One transfer, as its receiver told it last.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Transfer {
    /// The receiver's number.
    pub node: Number,
    /// The receiver's id.
    pub receiver: u64,
    /// The snapshot's id.
    pub snapshot: String,
    /// The source's id.
    pub source: u64,
    /// Where it stands, by the product's words.
    pub state: String,
    /// Why it failed, if it did.
    pub failure: String,
    /// When it was first seen, and when it was first seen ended.
    pub began_seconds: f64,
    /// See `began_seconds`; 0: not ended.
    pub ended_seconds: f64,
    /// Bytes of the snapshot.
    pub total_bytes: u64,
    /// Of them here.
    pub done_bytes: u64,
    /// How often it went on after a fault, as it counts itself.
    pub resumes: u64,
    /// Bytes that arrived more than once.
    pub resent_bytes: u64,
    /// Bytes given up for another snapshot.
    pub discarded_bytes: u64,
    /// Payload that arrived.
    pub received_bytes: u64,
    /// Cuts, kills and the like while it was under way.
    pub faults: u64,
    /// Losses of power of its receiver while it was under way.
    pub power_losses: u64,
    /// The storm took its receiver away on purpose.
    pub is_abandoned: bool,
    /// Its receiver runs on a state and no longer tells of it.
    pub is_forgotten: bool,
}

impl Transfer {
    /// Whether it will not move again.
    pub fn is_final(&self) -> bool {
        let ended = [
            TransferState::Installed.name(),
            TransferState::Superseded.name(),
            TransferState::Failed(String::new()).name(),
        ];
        ended.contains(&self.state.as_str())
    }

    /// Whether the receiver runs on what it pulled.
    pub fn is_installed(&self) -> bool {
        self.state == TransferState::Installed.name()
    }
}

/// A node to look at.
#[derive(Clone)]
struct Watched {
    id: u64,
    pid: Option<u32>,
    client: Client,
}

/// What was seen so far; clones share it.
#[derive(Clone, Default)]
pub struct Watch {
    nodes: Arc<Mutex<BTreeMap<Number, Watched>>>,
    transfers: Arc<Mutex<BTreeMap<(u64, String), Transfer>>>,
    peaks: Arc<Mutex<BTreeMap<Number, u64>>>,
}

impl Watch {
    /// Looks from now on at the node with this number, id and client.
    pub fn add(&self, number: Number, id: u64, client: Client) {
        lock(&self.nodes).insert(number, Watched { id, pid: None, client });
    }

    /// Its process, or that it has none.
    pub fn runs(&self, number: Number, pid: Option<u32>) {
        if let Some(watched) = lock(&self.nodes).get_mut(&number) {
            watched.pid = pid;
        }
    }

    /// Looks at a node no more; what it pulls ends with it.
    pub fn remove(&self, number: Number) {
        let Some(watched) = lock(&self.nodes).remove(&number) else { return };
        for transfer in lock(&self.transfers).values_mut() {
            if transfer.receiver == watched.id && !transfer.is_final() {
                transfer.is_abandoned = !transfer.is_forgotten;
            }
        }
    }

    /// A fault strikes that any transfer under way may feel.
    pub fn disturb(&self) {
        self.change_live(|transfer| transfer.faults += 1);
    }

    /// The receiver with this number loses what it had not synced.
    pub fn loses_power(&self, number: Number) {
        self.change_live(|transfer| {
            transfer.power_losses += u64::from(transfer.node == number);
        });
    }

    fn change_live(&self, change: impl Fn(&mut Transfer)) {
        lock(&self.transfers).values_mut().filter(|transfer| !transfer.is_final()).for_each(change);
    }

    /// All transfers seen, the oldest first.
    pub fn transfers(&self) -> Vec<Transfer> {
        let mut all: Vec<Transfer> = lock(&self.transfers).values().cloned().collect();
        all.sort_by(|one, other| one.began_seconds.total_cmp(&other.began_seconds));
        all
    }

    /// Most memory ever resident of each node's processes, bytes.
    pub fn peaks(&self) -> BTreeMap<Number, u64> {
        lock(&self.peaks).clone()
    }

    /// Begins to look.
    pub fn start(&self, timeline: Arc<Timeline>) -> AbortOnDropHandle<()> {
        let watch = self.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                watch.look(&timeline).await;
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }))
    }

    /// Looks at every node once.
    pub async fn look(&self, timeline: &Timeline) {
        let nodes: Vec<(Number, Watched)> =
            lock(&self.nodes).iter().map(|(number, watched)| (*number, watched.clone())).collect();
        let asked = nodes.iter().map(|(number, watched)| async move {
            let Some(pid) = watched.pid else { return };
            if let Ok(memory) = measure::memory(pid) {
                let mut peaks = lock(&self.peaks);
                let peak = peaks.entry(*number).or_default();
                *peak = memory.peak_bytes.max(*peak);
            }
            // A node that was just killed or started answers the next time.
            if let Ok(told) = watched.client.with_timeout(PATIENCE).list_transfers().await {
                self.hear(*number, watched.id, &told, timeline);
            }
        });
        futures::future::join_all(asked).await;
    }

    /// Takes down what one receiver tells of its pulls.
    fn hear(&self, number: Number, id: u64, told: &[v1::Transfer], timeline: &Timeline) {
        let now = seconds(timeline.now_us());
        let mut lines = Vec::new();
        let mut all = lock(&self.transfers);
        for of in told.iter().filter(|transfer| transfer.receiver == id) {
            let known = all.entry((id, of.snapshot_id.clone())).or_insert_with(|| Transfer {
                node: number,
                receiver: id,
                snapshot: of.snapshot_id.clone(),
                began_seconds: now,
                ..Transfer::default()
            });
            lines.extend(changes(known, of));
            let was_final = known.is_final();
            take(known, of);
            if known.is_final() && !was_final {
                known.ended_seconds = now;
            }
        }
        for transfer in all.values_mut().filter(|transfer| transfer.receiver == id) {
            let is_told = told.iter().any(|of| of.snapshot_id == transfer.snapshot);
            transfer.is_forgotten = !is_told && !transfer.is_final();
        }
        drop(all);
        lines.into_iter().for_each(|line| timeline.note(line));
    }
}

/// What is worth a line.
fn changes(known: &Transfer, told: &v1::Transfer) -> Vec<String> {
    let mut lines = Vec::new();
    let node = known.node;
    let percent = 100.0 * told.done_bytes as f64 / told.total_bytes.max(1) as f64;
    if known.state.is_empty() {
        let (bytes, source) = (told.total_bytes, told.source);
        lines.push(format!("transfer to node {node} begins: {bytes} bytes from id {source}"));
    }
    if told.resumes > known.resumes {
        lines.push(format!(
            "transfer to node {node} resumes (no. {}) at {percent:.1} %; {} bytes sent again",
            told.resumes, told.resent_bytes
        ));
    }
    if known.source != told.source && known.source != 0 {
        lines.push(format!("transfer to node {node} goes on from id {}", told.source));
    }
    let mut after = known.clone();
    take(&mut after, told);
    if after.is_final() && !known.is_final() {
        lines.push(format!(
            "transfer to node {node} ends: {} after {} resumes, {} bytes sent again {}",
            told.state, told.resumes, told.resent_bytes, told.failure
        ));
    }
    lines
}

fn take(known: &mut Transfer, told: &v1::Transfer) {
    known.source = told.source;
    known.state.clone_from(&told.state);
    known.failure.clone_from(&told.failure);
    known.total_bytes = told.total_bytes;
    known.done_bytes = told.done_bytes;
    // A receiver that was killed may tell less than it did, having lost the last figures.
    known.resumes = known.resumes.max(told.resumes);
    known.resent_bytes = known.resent_bytes.max(told.resent_bytes);
    known.discarded_bytes = known.discarded_bytes.max(told.discarded_bytes);
    known.received_bytes = known.received_bytes.max(told.received_bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(state: TransferState, resumes: u64) -> v1::Transfer {
        v1::Transfer {
            snapshot_id: "aa".to_owned(),
            receiver: 4,
            state: state.name().to_owned(),
            resumes,
            total_bytes: 100,
            ..v1::Transfer::default()
        }
    }

    #[test]
    fn a_transfer_is_followed_from_its_begin_to_its_end() {
        let (watch, timeline) = (Watch::default(), Timeline::new(Box::new(|_| {})));
        watch.hear(9, 4, &[told(TransferState::Pulling, 0)], &timeline);
        watch.disturb();
        watch.loses_power(8);
        watch.hear(9, 4, &[told(TransferState::Pulling, 1)], &timeline);
        watch.hear(9, 4, &[told(TransferState::Installed, 1)], &timeline);
        watch.disturb();
        let seen = watch.transfers();
        assert_eq!(seen.len(), 1);
        assert!(seen[0].is_installed() && seen[0].ended_seconds > 0.0);
        assert_eq!((seen[0].faults, seen[0].power_losses, seen[0].resumes), (1, 0, 1));
        assert_eq!(timeline.events().len(), 3);
    }

    #[test]
    fn what_a_receiver_tells_of_no_more_is_forgotten_and_not_ended() {
        let (watch, timeline) = (Watch::default(), Timeline::new(Box::new(|_| {})));
        watch.hear(9, 4, &[told(TransferState::Pulling, 0)], &timeline);
        watch.hear(9, 4, &[], &timeline);
        let seen = watch.transfers();
        assert!(seen[0].is_forgotten && !seen[0].is_final());
    }
}
