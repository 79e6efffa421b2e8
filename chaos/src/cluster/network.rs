//! Links between nodes: delay, loss, duplicates, cuts in one direction or both.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ratoon::raft::{Answer, ClientRequest};
use ratoon::types::{Failure, Index, NodeId, SnapshotId};

use crate::random::Random;
use crate::settings::NetworkSettings;

/// What travels between nodes.
#[derive(Clone, Debug)]
pub enum Packet {
    /// A raft message.
    Raft(Bytes),
    /// How an offered snapshot ended.
    Report { index: Index, ok: bool },
    /// A pull lives, or wants another offer.
    Progress { id: SnapshotId, index: Index, source: NodeId, wants_new_offer: bool },
    /// A request of a node; None: it only asks whether it is answered.
    Call { call: u64, request: Option<ClientRequest> },
    /// The answer to a call.
    Reply { call: u64, result: Result<Answer, Failure> },
}

impl Packet {
    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        const HEAD: usize = 60;
        HEAD + match self {
            Packet::Raft(bytes) => bytes.len(),
            Packet::Call { request: Some(ClientRequest::Propose(bytes)), .. } => bytes.len(),
            _ => 0,
        }
    }
}

/// What shares a queue of a link: the lanes do not hold each other up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Lane {
    Raft,
    Bulk,
}

/// A datagram that would wait longer for its link is dropped, microseconds.
const QUEUE_US_MAX: u64 = 500_000;

/// See the module.
pub struct Network {
    settings: NetworkSettings,
    /// Until when a link is busy with what was sent before, by lane, from, to.
    busy_until_us: BTreeMap<(Lane, NodeId, NodeId), u64>,
    /// From, to.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// What is added to every delay, microseconds.
    clogged: BTreeMap<(NodeId, NodeId), u64>,
}

impl Network {
    pub fn new(settings: NetworkSettings) -> Self {
        let (cut, clogged) = (BTreeSet::new(), BTreeMap::new());
        Network { settings, busy_until_us: BTreeMap::new(), cut, clogged }
    }

    /// Nothing is lost any more, and nothing is very late.
    pub fn calm_down(&mut self) {
        self.cut.clear();
        self.clogged.clear();
        self.busy_until_us.clear();
        self.settings = NetworkSettings {
            bytes_per_second: 0,
            delay_us: self.settings.delay_us.min(1_000),
            jitter_us: self.settings.jitter_us.min(1_000),
            loss: 0,
            duplicates: 0,
            stragglers: 0,
            corruption: 0,
        };
    }

    pub fn cut(&mut self, from: NodeId, to: NodeId) -> bool {
        self.cut.insert((from, to))
    }

    pub fn heal(&mut self, from: NodeId, to: NodeId) {
        self.cut.remove(&(from, to));
    }

    pub fn clog(&mut self, from: NodeId, to: NodeId, delay_us: u64) {
        self.clogged.insert((from, to), delay_us);
    }

    pub fn unclog(&mut self, from: NodeId, to: NodeId) {
        self.clogged.remove(&(from, to));
    }

    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cut.contains(&(from, to))
    }

    /// Whether two nodes can hold a connection.
    pub fn is_connected(&self, one: NodeId, other: NodeId) -> bool {
        !self.is_cut(one, other) && !self.is_cut(other, one)
    }

    /// How long so many bytes wait for the link and take to pass it.
    pub fn pass(
        &mut self,
        now_us: u64,
        (lane, from, to): (Lane, NodeId, NodeId),
        bytes: usize,
    ) -> u64 {
        let rate = self.settings.bytes_per_second;
        if rate == 0 {
            return 0;
        }
        let busy = self.busy_until_us.entry((lane, from, to)).or_default();
        *busy = (*busy).max(now_us) + bytes as u64 * 1_000_000 / rate;
        *busy - now_us
    }

    /// Whether a link has so much to carry that it drops what comes next.
    pub fn is_congested(&self, now_us: u64, from: NodeId, to: NodeId) -> bool {
        let busy = self.busy_until_us.get(&(Lane::Raft, from, to));
        busy.is_some_and(|until| *until > now_us + QUEUE_US_MAX)
    }

    /// When a datagram's copies arrive, if at all.
    pub fn datagram(&self, random: &mut Random, from: NodeId, to: NodeId) -> Vec<u64> {
        if self.is_cut(from, to) || random.chance(self.settings.loss) {
            return Vec::new();
        }
        let mut copies = vec![self.delay(random, from, to)];
        if random.chance(self.settings.duplicates) {
            copies.push(self.delay(random, from, to));
        }
        copies
    }

    /// When something sent on a reliable stream arrives; None: the connection breaks.
    pub fn stream(&self, random: &mut Random, from: NodeId, to: NodeId) -> Option<u64> {
        if !self.is_connected(from, to) {
            return None;
        }
        let mut delay = self.delay(random, from, to);
        while random.chance(self.settings.loss) {
            delay += 2 * self.delay(random, from, to) + 1_000;
        }
        Some(delay)
    }

    fn delay(&self, random: &mut Random, from: NodeId, to: NodeId) -> u64 {
        let mut delay = self.settings.delay_us + random.interval(self.settings.jitter_us);
        if random.chance(self.settings.stragglers) {
            delay *= 100;
        }
        delay + self.clogged.get(&(from, to)).copied().unwrap_or(0)
    }
}
