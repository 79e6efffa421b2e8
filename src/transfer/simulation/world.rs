//! The world: one receiver, some sources, a link between them, time, and faults from a seed.

use std::collections::BTreeMap;

use super::disk::SimulatedDisk;
use super::source::{Down, Source, digest_of};
use super::{CLUSTER, Content};
use crate::codec::bulk::{decode_pull_request, encode_pull_request};
use crate::transfer::receiver::{Event, Input, Options, Output, Receiver};
use crate::transfer::sender;
use crate::transfer::timing::Random;
use crate::types::{NodeId, Now, SnapshotId, SnapshotSource, TransferStatus};

/// Faults that may still happen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    pub(super) cuts: u32,
    pub(super) receiver_kills: u32,
    pub(super) source_kills: u32,
    pub(super) power_losses: u32,
    pub(super) corruptions: u32,
}

impl Faults {
    fn left(&self) -> u32 {
        self.cuts + self.receiver_kills + self.source_kills + self.power_losses + self.corruptions
    }
}

/// A connection: the receiver's attempt, the source's name for it, and streams by request.
struct Connection {
    attempt: u64,
    node: u64,
    name: u64,
    /// Request of the receiver to stream of the source.
    streams: BTreeMap<u64, u64>,
}

/// Everything.
pub(super) struct World {
    pub(super) random: Random,
    pub(super) now_ms: u64,
    pub(super) receiver: Receiver,
    pub(super) options: Options,
    pub(super) disk: SimulatedDisk,
    pub(super) sources: BTreeMap<u64, Source>,
    connection: Option<Connection>,
    dialling: Option<(u64, SnapshotSource)>,
    names: u64,
    pub(super) faults: Faults,
    /// Faults that have happened so far.
    pub(super) happened: Faults,
    pub(super) events: Vec<Event>,
    /// How often each byte was delivered: by snapshot, part; counted over all crashes.
    delivered: BTreeMap<(SnapshotId, u32), Vec<u8>>,
    /// The frame each request is in: part and next offset.
    positions: BTreeMap<u64, (SnapshotId, u32, u64)>,
    snapshots_of: BTreeMap<u64, SnapshotId>,
    /// Bytes in one delivery, at most.
    pub(super) piece_bytes: usize,
    /// Cuts happen after so many delivered bytes; 0: at random.
    pub(super) cut_every_bytes: u64,
    since_cut: u64,
    pub(super) steps: u64,
    pub(super) requests: u64,
}

impl World {
    pub(super) fn new(seed: u64, sources: Vec<(u64, Vec<Content>)>) -> Self {
        let options = Options::new(NodeId(9), CLUSTER, seed);
        let sources = sources.into_iter();
        World {
            random: Random::new(seed),
            now_ms: 1_000,
            receiver: Receiver::new(
                options.clone(),
                None,
                Now { monotonic_ms: 1_000, unix_ms: 1_000 },
            ),
            options,
            disk: SimulatedDisk::default(),
            sources: sources.map(|(node, contents)| (node, Source::new(contents))).collect(),
            connection: None,
            dialling: None,
            names: 0,
            faults: Faults::default(),
            happened: Faults::default(),
            events: Vec::new(),
            delivered: BTreeMap::new(),
            positions: BTreeMap::new(),
            snapshots_of: BTreeMap::new(),
            piece_bytes: 200_000,
            cut_every_bytes: 0,
            since_cut: 0,
            steps: 0,
            requests: 0,
        }
    }

    pub(super) fn now(&self) -> Now {
        Now { monotonic_ms: self.now_ms, unix_ms: 1_700_000_000_000 + self.now_ms }
    }

    pub(super) fn status(&self) -> TransferStatus {
        self.receiver.status(self.now()).expect("a pull runs or has run")
    }

    pub(super) fn tell(&mut self, input: Input) {
        let now = self.now();
        self.receiver.handle(now, input);
        self.settle();
    }

    pub(super) fn offer(&mut self, content: &Content, nodes: &[u64]) {
        let (reference, index) = (content.reference(nodes), content.manifest.index);
        self.tell(Input::Offer { reference, index, message_bytes: 300 });
    }

    /// Runs until `done`; panics if it takes unreasonably long.
    pub(super) fn run_until(&mut self, done: impl Fn(&World) -> bool) {
        while !done(self) {
            self.step();
            assert!(self.steps < 400_000, "no end: {:?}", self.receiver.status(self.now()));
            assert!(self.now_ms < 3_600_000, "no end: {:?}", self.receiver.status(self.now()));
        }
    }

    pub(super) fn is_durable(&self) -> bool {
        self.events.iter().any(|event| matches!(event, Event::Durable { .. }))
    }

    /// One thing happens.
    pub(super) fn step(&mut self) {
        self.steps += 1;
        self.maybe_fault();
        let choice = self.random.below(10);
        if choice < 3 && self.disk.is_busy() {
            return self.step_disk();
        }
        if choice < 4 && self.dialling.is_some() {
            return self.finish_dialling();
        }
        if choice < 9 && self.deliver_one() {
            return;
        }
        if self.disk.is_busy() {
            return self.step_disk();
        }
        if self.dialling.is_some() {
            return self.finish_dialling();
        }
        self.pass_time();
    }

    fn step_disk(&mut self) {
        if let Some((ticket, result)) = self.disk.step() {
            self.tell(Input::Disk { ticket, result });
        }
    }

    /// To the next timer, but at most a little further.
    fn pass_time(&mut self) {
        let now = self.now();
        let mut next = self.receiver.next_timer_ms(now).into_iter().collect::<Vec<u64>>();
        next.extend(self.receiver.reads_at_ms(now).filter(|at| *at > self.now_ms));
        for source in self.sources.values() {
            next.extend(source.machine.next_timer_ms(self.now_ms));
        }
        let next = next.into_iter().min().unwrap_or(self.now_ms + 100);
        self.now_ms = next.clamp(self.now_ms + 1, self.now_ms + 5_000);
        let now = self.now();
        self.receiver.handle_timer(now);
        for source in self.sources.values_mut() {
            source.machine.handle_timer(self.now_ms);
            source.settle(self.now_ms);
        }
        self.settle();
    }

    // ---- The link.

    fn settle(&mut self) {
        while let Some(output) = self.receiver.poll_output() {
            match output {
                Output::Connect { attempt, source } => self.dialling = Some((attempt, source)),
                Output::Disconnect { attempt } => {
                    self.dialling.take_if(|(dialled, _)| *dialled == attempt);
                    if self.connection.as_ref().is_some_and(|c| c.attempt == attempt) {
                        self.drop_connection();
                    }
                }
                Output::Request { attempt, request, body } => {
                    assert!(self.connection.as_ref().is_some_and(|c| c.attempt == attempt));
                    let body = decode_pull_request(&encode_pull_request(&body));
                    self.ask(request, body.expect("it survives its bytes"));
                }
                Output::Abandon { request } => {
                    self.positions.remove(&request);
                    let stream = self.connection.as_mut().and_then(|c| c.streams.remove(&request));
                    if let (Some(stream), Some(source)) = (stream, self.connected_source()) {
                        source.streams.remove(&stream);
                        let input = sender::Input::StreamClosed { stream };
                        let now_ms = self.now_ms;
                        self.connected_source().expect("connected").handle(now_ms, input);
                    }
                }
                Output::Disk { ticket, operation } => self.disk.push(ticket, operation),
                Output::RetryDisk { ticket } => self.disk.retry(ticket),
                Output::DropDisk { ticket } => self.disk.drop_operation(ticket),
                Output::Event(event) => self.events.push(event),
            }
        }
    }

    fn connected_source(&mut self) -> Option<&mut Source> {
        let node = self.connection.as_ref()?.node;
        self.sources.get_mut(&node)
    }

    fn ask(&mut self, request: u64, body: crate::types::PullRequest) {
        self.requests += 1;
        self.names += 1;
        let stream = self.names;
        if let crate::types::PullRequest::Ranges { snapshot, .. } = &body {
            self.snapshots_of.insert(request, *snapshot);
        }
        let connection = self.connection.as_mut().expect("asked on a connection");
        connection.streams.insert(request, stream);
        let name = connection.name;
        let now_ms = self.now_ms;
        let source = self.connected_source().expect("asked on a connection");
        source.streams.insert(stream, Default::default());
        let request = Ok(body);
        source.handle(now_ms, sender::Input::Request { connection: name, stream, request });
    }

    fn finish_dialling(&mut self) {
        let Some((attempt, source)) = self.dialling.take() else { return };
        let node = source.node.0;
        self.names += 1;
        let (name, now_ms) = (self.names, self.now_ms);
        let up = self.sources.get_mut(&node).filter(|source| source.is_up);
        let Some(source) = up else {
            // A node that is gone does not answer; the dialler learns it after a while.
            self.now_ms += 300;
            let reason = "no answer".to_owned();
            return self.tell(Input::Disconnected { attempt, reason });
        };
        let receiver = NodeId(9);
        source.handle(now_ms, sender::Input::Connected { connection: name, receiver });
        self.connection = Some(Connection { attempt, node, name, streams: BTreeMap::new() });
        self.tell(Input::Connected { attempt });
    }

    fn drop_connection(&mut self) -> Option<u64> {
        let now_ms = self.now_ms;
        let connection = self.connection.take()?;
        self.positions.clear();
        if let Some(source) = self.sources.get_mut(&connection.node) {
            for stream in connection.streams.values() {
                source.streams.remove(stream);
            }
            source.handle(now_ms, sender::Input::Closed { connection: connection.name });
        }
        Some(connection.attempt)
    }

    pub(super) fn cut(&mut self) {
        self.since_cut = 0;
        if let Some(attempt) = self.drop_connection() {
            self.happened.cuts += 1;
            self.tell(Input::Disconnected { attempt, reason: "cut".to_owned() });
        }
    }

    /// Delivers the next thing of a random stream; false if there is none or none may be read.
    fn deliver_one(&mut self) -> bool {
        let now = self.now();
        if self.receiver.reads_at_ms(now).is_none_or(|at| at > self.now_ms) {
            return false;
        }
        let Some(connection) = &self.connection else { return false };
        let Some(source) = self.sources.get(&connection.node) else { return false };
        let ready: Vec<(u64, u64)> = connection
            .streams
            .iter()
            .filter(|(_, stream)| source.streams.get(stream).is_some_and(|q| !q.is_empty()))
            .map(|(request, stream)| (*request, *stream))
            .collect();
        if ready.is_empty() {
            return false;
        }
        let (request, stream) = ready[self.random.below(ready.len() as u64) as usize];
        let down = self.connected_source().expect("seen").streams.get_mut(&stream);
        let down = down.and_then(std::collections::VecDeque::pop_front).expect("not empty");
        self.deliver(request, stream, down);
        true
    }

    fn deliver(&mut self, request: u64, stream: u64, down: Down) {
        use crate::types::PullResponse;
        match down {
            Down::Response(PullResponse::Queued { ahead }) => {
                self.tell(Input::Queued { request, ahead });
            }
            Down::Response(PullResponse::Refused { reason, message }) => {
                self.tell(Input::Refused { request, reason, message });
            }
            Down::Response(PullResponse::Verdict { part_is_good }) => {
                self.tell(Input::Verdict { request, part_is_good });
            }
            Down::Response(_) => {}
            Down::Manifest(bytes) => self.tell(Input::Manifest { request, bytes }),
            Down::Header(header) => {
                let snapshot = self.snapshots_of[&request];
                self.positions.insert(request, (snapshot, header.part, header.offset));
                self.tell(Input::Frame { request, header });
            }
            Down::Data(mut bytes) => {
                let size = 1 + self.random.below(self.piece_bytes as u64) as usize;
                let piece = bytes.split_to(size.min(bytes.len()));
                if !bytes.is_empty() {
                    let source = self.connected_source().expect("it sent this");
                    if let Some(queue) = source.streams.get_mut(&stream) {
                        queue.push_front(Down::Data(bytes));
                    }
                }
                self.deliver_data(request, piece);
            }
            Down::Sent => {
                let now_ms = self.now_ms;
                if let Some(source) = self.connected_source() {
                    source.sent(now_ms, stream);
                }
            }
            Down::End(failure) => {
                if let Some(connection) = &mut self.connection {
                    connection.streams.remove(&request);
                }
                let now_ms = self.now_ms;
                if let Some(source) = self.connected_source() {
                    source.streams.remove(&stream);
                    source.handle(now_ms, sender::Input::StreamClosed { stream });
                }
                self.tell(Input::RequestEnded { request, failure });
            }
        }
    }

    fn deliver_data(&mut self, request: u64, mut piece: bytes::Bytes) {
        if let Some((snapshot, part, offset)) = self.positions.get_mut(&request) {
            let counts = self.delivered.entry((*snapshot, *part)).or_default();
            let end = *offset as usize + piece.len();
            counts.resize(counts.len().max(end), 0);
            counts[*offset as usize..end].iter_mut().for_each(|n| *n = n.saturating_add(1));
            *offset = end as u64;
        }
        if self.faults.corruptions > 0 && self.random.below(20) == 0 {
            self.faults.corruptions -= 1;
            self.happened.corruptions += 1;
            let mut spoiled = piece.to_vec();
            let at = self.random.below(spoiled.len() as u64) as usize;
            spoiled[at] ^= 0x10;
            piece = spoiled.into();
        }
        // A link of about 100 MB/s.
        self.now_ms += piece.len() as u64 / 100_000;
        self.since_cut += piece.len() as u64;
        self.tell(Input::Data { request, bytes: piece });
        if self.cut_every_bytes > 0 && self.since_cut >= self.cut_every_bytes {
            self.cut();
        }
    }

    // ---- Faults.

    fn maybe_fault(&mut self) {
        let left = self.faults.left();
        if left == 0 || self.random.below(60) != 0 {
            return;
        }
        let pick = self.random.below(u64::from(left)) as u32;
        let kinds = [
            self.faults.cuts,
            self.faults.receiver_kills,
            self.faults.source_kills,
            self.faults.power_losses,
        ];
        let mut sum = 0;
        let kind = kinds.iter().position(|count| {
            sum += count;
            pick < sum
        });
        match kind {
            Some(0) if self.connection.is_some() => {
                self.faults.cuts -= 1;
                self.cut();
            }
            Some(1) => {
                self.faults.receiver_kills -= 1;
                self.happened.receiver_kills += 1;
                self.disk.kill();
                self.restart_receiver();
            }
            Some(2) => {
                self.faults.source_kills -= 1;
                self.kill_source();
            }
            Some(3) => {
                self.faults.power_losses -= 1;
                self.happened.power_losses += 1;
                self.disk.lose_power();
                self.restart_receiver();
            }
            _ => {}
        }
    }

    fn kill_source(&mut self) {
        let Some(node) = self.connection.as_ref().map(|c| c.node) else { return };
        self.happened.source_kills += 1;
        let attempt = self.drop_connection();
        let source = self.sources.get_mut(&node).expect("connected");
        source.kill();
        // It comes back soon: its store is durable.
        source.is_up = true;
        if let Some(attempt) = attempt {
            self.tell(Input::Disconnected { attempt, reason: "source killed".to_owned() });
        }
    }

    /// A new process on the same disk. The leader offers again if nothing was staged.
    pub(super) fn restart_receiver(&mut self) {
        let offered = self.receiver.status(self.now()).map(|status| status.snapshot);
        self.drop_connection();
        self.dialling = None;
        self.options.seed = self.random.next();
        self.receiver = Receiver::new(self.options.clone(), self.disk.last.clone(), self.now());
        match self.disk.found() {
            Some(found) => self.tell(Input::Resume(Box::new(found))),
            None => {
                let content = offered.and_then(|id| {
                    let mut all = self.sources.values().flat_map(|source| source.store.values());
                    all.find(|content| content.id == id).cloned()
                });
                let nodes: Vec<u64> = self.sources.keys().copied().collect();
                if let Some(content) = content {
                    self.offer(&content, &nodes);
                }
            }
        }
    }

    // ---- Judgement.

    /// The staged bytes are those of the source.
    pub(super) fn assert_equal(&self, content: &Content) {
        let staged = &self.disk.staged[&content.id];
        assert!(staged.durable, "durable in name");
        let parts: Vec<bytes::Bytes> =
            staged.cached.values().map(|bytes| bytes.clone().into()).collect();
        assert_eq!(digest_of(&parts), digest_of(&content.parts));
    }

    /// Bytes delivered more than once, as the link saw it.
    pub(super) fn repeated_bytes(&self) -> u64 {
        let counts = self.delivered.values().flatten();
        counts.map(|count| u64::from(count.saturating_sub(1))).sum()
    }
}
