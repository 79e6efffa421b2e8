//! Runs the source's machine: one task drives it, one task a stream writes, reads of parts go to the
//! blocking pool ahead of the network. What is decided is decided in the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use slog::{Logger, info, warn};
use tokio::select;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle, spawn_blocking};
use tokio::time::sleep_until;

use super::bulk_clock::BulkClock;
use crate::codec::bulk::{decode_pull_request, encode_chunk_header, encode_pull_response};
use crate::limits::{BULK_FRAME_BYTES_MAX, BULK_QUEUE_MAX, STAGED_FILES_OPEN_MAX};
use crate::manifest::Manifest;
use crate::net::{Connection, Endpoint, NetError, RecvStream, SendStream};
use crate::snapshot_store::{PartReader, SnapshotStore, StoreError, StoredManifest};
use crate::transfer::Sender;
use crate::transfer::sender::{Input, Lease, OpenFailure, OpenSnapshot, Options, Output};
use crate::types::{ByteRange, ChunkHeader, Digest, Failure, NodeId, PullResponse, SnapshotId};

/// Words of the node that wait for the driver.
const COMMANDS_MAX: usize = 64;
/// Damaged snapshots that are told of; older ones have been heard long ago.
const FENCED_TOLD_MAX: usize = 64;
/// Bytes read at once when a whole part is checked.
const CHECK_BYTES: usize = 1 << 20;

/// Says whether a node may be served, and if not, why.
pub type Guard = Arc<dyn Fn(NodeId) -> Result<(), Failure> + Send + Sync>;

/// How a receiver's pull is getting on, as its source sees it.
#[derive(Clone, Debug)]
pub struct SenderStatus {
    /// The machine's word.
    pub lease: Lease,
    /// How long ago the receiver made progress or waited in line, ms.
    pub idle_ms: u64,
}

/// The running source of this node. Clones share it; it ends when the last one is dropped.
#[derive(Clone)]
pub struct BulkSender {
    commands: mpsc::Sender<Input>,
    leases: Arc<Mutex<Vec<Lease>>>,
    fenced: watch::Receiver<BTreeSet<SnapshotId>>,
    clock: BulkClock,
}

impl BulkSender {
    /// Starts it inside the current (bulk) runtime. It takes every connection that the endpoint
    /// accepts and the guard lets pass; the guard is asked again at each request.
    pub fn start(
        options: Options,
        endpoint: Endpoint,
        store: Arc<dyn SnapshotStore>,
        guard: Guard,
        logger: Logger,
    ) -> Self {
        let (commands, command_queue) = mpsc::channel(COMMANDS_MAX);
        let (inputs, input_queue) = mpsc::channel(BULK_QUEUE_MAX);
        let leases = Arc::new(Mutex::new(Vec::new()));
        let (fence, fenced) = watch::channel(BTreeSet::new());
        let clock = BulkClock::new();
        let driver = Driver {
            machine: Sender::new(options),
            clock,
            shelf: Arc::new(Shelf { store, readers: Mutex::default() }),
            guard,
            manifests: BTreeMap::new(),
            connections: BTreeMap::new(),
            streams: BTreeMap::new(),
            names: 0,
            inputs,
            leases: Arc::clone(&leases),
            fence,
            logger,
        };
        tokio::spawn(driver.run(endpoint, command_queue, input_queue));
        BulkSender { commands, leases, fenced, clock }
    }

    /// Snapshots found damaged since the start, which are served to nobody any more: they must not
    /// be offered either.
    pub fn fenced(&self) -> watch::Receiver<BTreeSet<SnapshotId>> {
        self.fenced.clone()
    }

    /// Limits the rate over all receivers: bytes a second, 0 for none.
    pub fn limit(&self, bytes_per_second: u64) -> bool {
        self.commands.try_send(Input::Limit(bytes_per_second)).is_ok()
    }

    /// Receivers that pull, wait, or did so lately.
    pub fn statuses(&self) -> Vec<SenderStatus> {
        let now_ms = self.clock.now().monotonic_ms;
        let leases = self.leases.lock().expect("nobody panics with the leases in hand").clone();
        let idle_ms = |lease: &Lease| now_ms.saturating_sub(lease.last_progress_ms);
        leases.into_iter().map(|lease| SenderStatus { idle_ms: idle_ms(&lease), lease }).collect()
    }
}

/// What a stream's writer is to do, in order.
enum Command {
    Answer(PullResponse),
    Raw(Bytes),
    /// A frame that is being read already.
    Frame(Reading),
    Finish,
}

/// A read of a chunk under way, and the frame it becomes.
type Reading = JoinHandle<Result<(ChunkHeader, Bytes), FrameError>>;

/// A stream and the task that writes it.
struct Writer {
    commands: mpsc::UnboundedSender<Command>,
    /// Bytes of the frame at hand that may be sent.
    pieces: mpsc::UnboundedSender<u64>,
    task: AbortHandle,
}

/// Why a frame could not be read.
struct FrameError {
    is_corrupt: bool,
    reason: String,
}

/// The store, and the parts that are open.
struct Shelf {
    store: Arc<dyn SnapshotStore>,
    readers: Mutex<BTreeMap<(SnapshotId, u32), Arc<dyn PartReader>>>,
}

/// What reaches the driver from its own tasks.
enum FromTask {
    /// A receiver opened a stream and asked.
    Asked { connection: u64, send: SendStream, request: Result<crate::types::PullRequest, String> },
    /// Anything else is for the machine.
    Machine(Input),
}

struct Driver {
    machine: Sender,
    clock: BulkClock,
    shelf: Arc<Shelf>,
    guard: Guard,
    manifests: BTreeMap<SnapshotId, Arc<OpenSnapshot>>,
    connections: BTreeMap<u64, Connection>,
    streams: BTreeMap<u64, Writer>,
    names: u64,
    inputs: mpsc::Sender<FromTask>,
    leases: Arc<Mutex<Vec<Lease>>>,
    fence: watch::Sender<BTreeSet<SnapshotId>>,
    logger: Logger,
}

impl Driver {
    async fn run(
        mut self,
        endpoint: Endpoint,
        mut commands: mpsc::Receiver<Input>,
        mut inputs: mpsc::Receiver<FromTask>,
    ) {
        loop {
            let now_ms = self.clock.now().monotonic_ms;
            let due_ms = self.machine.next_timer_ms(now_ms).unwrap_or(now_ms + 60_000);
            select! {
                biased;
                command = commands.recv() => match command {
                    Some(input) => self.handle(input),
                    // The last handle is gone: the node is shutting down.
                    None => return self.handle(Input::Shutdown),
                },
                Some(from) = inputs.recv() => match from {
                    FromTask::Asked { connection, send, request } => {
                        self.asked(connection, send, request);
                    }
                    FromTask::Machine(input) => self.handle(input),
                },
                accepted = endpoint.accept() => match accepted {
                    Some(connection) => self.accepted(connection),
                    None => return self.handle(Input::Shutdown),
                },
                () = sleep_until(self.clock.instant(due_ms)) => {
                    self.machine.handle_timer(self.clock.now().monotonic_ms);
                    self.carry_out();
                }
            }
        }
    }

    fn handle(&mut self, input: Input) {
        match &input {
            Input::Opened { snapshot, result: Ok(open) } => {
                self.manifests.insert(*snapshot, Arc::clone(open));
            }
            Input::Closed { connection } => {
                self.connections.remove(connection);
            }
            Input::StreamClosed { stream } => {
                self.streams.remove(stream);
            }
            Input::FrameFailed { reason, .. } => {
                warn!(self.logger, "a chunk of a stored snapshot cannot be sent"; "reason" => reason);
            }
            _ => {}
        }
        self.machine.handle(self.clock.now().monotonic_ms, input);
        self.carry_out();
    }

    fn name(&mut self) -> u64 {
        self.names += 1;
        self.names
    }

    /// Closes the connection of a receiver that may not be served.
    fn refuse(&self, connection: &Connection) -> bool {
        let Err(failure) = (self.guard)(connection.peer()) else { return false };
        warn!(self.logger, "refused a receiver"; "receiver" => connection.peer().0,
            "reason" => %failure);
        connection.close(&failure.message);
        true
    }

    fn accepted(&mut self, connection: Connection) {
        let name = self.name();
        let receiver = connection.peer();
        if self.refuse(&connection) {
            return;
        }
        self.connections.insert(name, connection.clone());
        tokio::spawn(serve(connection, name, self.inputs.clone()));
        self.handle(Input::Connected { connection: name, receiver });
    }

    fn asked(
        &mut self,
        connection: u64,
        send: SendStream,
        request: Result<crate::types::PullRequest, String>,
    ) {
        let Some(asking) = self.connections.get(&connection) else { return };
        if self.refuse(asking) {
            return self.handle(Input::Closed { connection });
        }
        if let Err(problem) = &request {
            warn!(self.logger, "refused a malformed request"; "receiver" => asking.peer().0,
                "error" => problem);
        }
        let stream = self.name();
        // The machine bounds what is queued: a few answers, the frames it reads ahead, one piece.
        let (commands, queue) = mpsc::unbounded_channel();
        let (pieces, allowed) = mpsc::unbounded_channel();
        let writing = Writing { send, stream, allowed, inputs: self.inputs.clone() };
        let task = tokio::spawn(writing.run(queue)).abort_handle();
        self.streams.insert(stream, Writer { commands, pieces, task });
        self.handle(Input::Request { connection, stream, request });
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Open { snapshot } => self.open(snapshot),
                Output::Release { snapshot } => {
                    self.manifests.remove(&snapshot);
                    self.shelf.release(snapshot);
                }
                Output::Answer { stream, response } => {
                    self.command(stream, Command::Answer(response));
                }
                Output::SendManifest { stream, snapshot } => {
                    if let Some(open) = self.manifests.get(&snapshot) {
                        let encoded = open.encoded.clone();
                        self.command(stream, Command::Raw(encoded));
                    }
                }
                Output::SendFrame { stream, snapshot, range } => {
                    let Some(open) = self.manifests.get(&snapshot).cloned() else { continue };
                    let shelf = Arc::clone(&self.shelf);
                    // Begun now, so that it is read when the network is ready for it.
                    let reading =
                        spawn_blocking(move || shelf.read(snapshot, &open.manifest, range));
                    self.command(stream, Command::Frame(reading));
                }
                Output::SendPiece { stream, bytes } => {
                    if let Some(writer) = self.streams.get(&stream) {
                        // A writer that is gone has said so; the machine will hear of it.
                        let _ = writer.pieces.send(bytes);
                    }
                }
                Output::Finish { stream } => self.command(stream, Command::Finish),
                Output::Reset { stream } => {
                    // Its writer may be waiting for a receiver that takes nothing. Dropping the
                    // stream resets it.
                    if let Some(writer) = self.streams.remove(&stream) {
                        writer.task.abort();
                    }
                }
                Output::CheckPart { snapshot, part } => self.check_part(snapshot, part),
                Output::Close { connection } => {
                    if let Some(connection) = self.connections.remove(&connection) {
                        connection.close("the source closes it");
                    }
                }
                Output::Fenced { snapshot, reason } => self.fenced(snapshot, reason),
            }
        }
        let leases = self.machine.leases();
        *self.leases.lock().expect("nobody panics with the leases in hand") = leases;
    }

    fn command(&self, stream: u64, command: Command) {
        if let Some(writer) = self.streams.get(&stream) {
            // A writer that is gone has said so; the machine will hear of it.
            let _ = writer.commands.send(command);
        }
    }

    fn open(&self, snapshot: SnapshotId) {
        let (shelf, inputs) = (Arc::clone(&self.shelf), self.inputs.clone());
        spawn_blocking(move || {
            let result = match shelf.store.manifest(snapshot) {
                Ok(StoredManifest { manifest, encoded }) => {
                    let manifest = Manifest::clone(&manifest);
                    Ok(Arc::new(OpenSnapshot { manifest, encoded }))
                }
                Err(StoreError::Unknown(_)) => Err(OpenFailure::Unknown),
                Err(error @ StoreError::Damaged { .. }) => {
                    Err(OpenFailure::Damaged(error.to_string()))
                }
                Err(error) => Err(OpenFailure::Unreadable(error.to_string())),
            };
            // The driver is gone when the node is shutting down.
            let _ = inputs.blocking_send(FromTask::Machine(Input::Opened { snapshot, result }));
        });
    }

    fn check_part(&self, snapshot: SnapshotId, part: u32) {
        let Some(open) = self.manifests.get(&snapshot).cloned() else { return };
        let (shelf, inputs) = (Arc::clone(&self.shelf), self.inputs.clone());
        spawn_blocking(move || {
            let result = shelf.check(snapshot, &open.manifest, part);
            let input = Input::PartChecked { snapshot, part, result };
            // The driver is gone when the node is shutting down.
            let _ = inputs.blocking_send(FromTask::Machine(input));
        });
    }

    fn fenced(&self, snapshot: SnapshotId, reason: String) {
        warn!(self.logger, "a stored snapshot is damaged and served to nobody";
            "snapshot" => %snapshot, "reason" => &reason);
        self.fence.send_modify(|fenced| {
            if fenced.len() >= FENCED_TOLD_MAX {
                fenced.pop_first();
            }
            fenced.insert(snapshot);
        });
        let (shelf, logger) = (Arc::clone(&self.shelf), self.logger.clone());
        spawn_blocking(move || {
            if let Err(error) = shelf.store.set_aside(snapshot, &reason) {
                info!(logger, "it could not be moved aside"; "error" => %error);
            }
        });
    }
}

/// Takes the streams of one connection until it ends.
async fn serve(connection: Connection, name: u64, inputs: mpsc::Sender<FromTask>) {
    while let Ok((send, recv)) = connection.accept_bi().await {
        // A stream whose request does not come must not hold up the others.
        tokio::spawn(ask(name, send, recv, inputs.clone()));
    }
    // The driver is gone when the node is shutting down.
    let _ = inputs.send(FromTask::Machine(Input::Closed { connection: name })).await;
}

async fn ask(
    connection: u64,
    send: SendStream,
    mut recv: RecvStream,
    inputs: mpsc::Sender<FromTask>,
) {
    // Without a request there is nothing to answer; dropping the stream resets it.
    let Ok(Some(frame)) = recv.read_frame(BULK_FRAME_BYTES_MAX).await else { return };
    let request = decode_pull_request(&frame).map_err(|error| error.to_string());
    // The driver is gone when the node is shutting down.
    let _ = inputs.send(FromTask::Asked { connection, send, request }).await;
}

/// The task that writes one stream. Not cancellation safe; it ends with its queue or its stream.
struct Writing {
    send: SendStream,
    stream: u64,
    /// The machine's word on how many bytes of the frame at hand may be sent next.
    allowed: mpsc::UnboundedReceiver<u64>,
    inputs: mpsc::Sender<FromTask>,
}

impl Writing {
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Command>) {
        while let Some(command) = queue.recv().await {
            if self.write(command).await.is_err() {
                break;
            }
        }
        let stream = self.stream;
        // The driver is gone when the node is shutting down.
        let _ = self.tell(Input::StreamClosed { stream }).await;
    }

    /// Does one thing. Err: the stream has ended.
    async fn write(&mut self, command: Command) -> Result<(), NetError> {
        match command {
            Command::Answer(response) => {
                self.send.write_frame(&encode_pull_response(&response)).await
            }
            Command::Raw(bytes) => self.send.write_bytes(bytes).await,
            Command::Frame(reading) => self.write_frame(reading).await,
            Command::Finish => {
                self.send.finish()?;
                Err(NetError::Closed)
            }
        }
    }

    /// Sends a frame piece by piece, each at the machine's word.
    async fn write_frame(&mut self, reading: Reading) -> Result<(), NetError> {
        let stream = self.stream;
        let frame = reading.await.unwrap_or_else(|error| {
            let reason = format!("the read did not end: {error}");
            Err(FrameError { is_corrupt: false, reason })
        });
        let (header, mut bytes) = match frame {
            Ok(frame) => frame,
            Err(FrameError { is_corrupt, reason }) => {
                return self.tell(Input::FrameFailed { stream, is_corrupt, reason }).await;
            }
        };
        let mut header = Some(encode_chunk_header(&header));
        while !bytes.is_empty() {
            self.tell(Input::PieceReady { stream, bytes: bytes.len() as u64 }).await?;
            let allowed = self.allowed.recv().await.ok_or(NetError::Closed)?;
            if let Some(header) = header.take() {
                self.send.write(&header).await?;
            }
            let piece = bytes.split_to(bytes.len().min(allowed as usize));
            self.send.write_bytes(piece).await?;
        }
        self.tell(Input::FrameSent { stream }).await
    }

    async fn tell(&self, input: Input) -> Result<(), NetError> {
        self.inputs.send(FromTask::Machine(input)).await.map_err(|_| NetError::Closed)
    }
}

impl Shelf {
    /// Reads the chunk that holds `range` whole, checks it, and cuts the range out of it.
    fn read(
        &self,
        snapshot: SnapshotId,
        manifest: &Manifest,
        range: ByteRange,
    ) -> Result<(ChunkHeader, Bytes), FrameError> {
        let failed = |reason: String| FrameError { is_corrupt: false, reason };
        let chunk = manifest.chunk_at(range.offset);
        let (start, length) = manifest.chunk_bounds(range.part, chunk);
        let reader = self.reader(snapshot, range.part).map_err(|e| failed(e.to_string()))?;
        let mut content = BytesMut::zeroed(length as usize);
        let name = &manifest.parts[range.part as usize].name;
        reader
            .read_at(start, &mut content)
            .map_err(|error| failed(format!("reading part {name}: {error}")))?;
        let mut crc32c = crc32c::crc32c(&content);
        if crc32c != manifest.chunk_crc32c(range.part, chunk) {
            let reason = format!("chunk {chunk} of part {name} does not have its checksum");
            return Err(FrameError { is_corrupt: true, reason });
        }
        let from = (range.offset - start) as usize;
        let bytes = content.freeze().slice(from..from + range.bytes as usize);
        if bytes.len() < length as usize {
            crc32c = crc32c::crc32c(&bytes);
        }
        let header = ChunkHeader {
            part: range.part,
            offset: range.offset,
            bytes: range.bytes as u32,
            crc32c,
        };
        Ok((header, bytes))
    }

    /// Reads a whole part, by a handle of its own.
    fn check(&self, snapshot: SnapshotId, manifest: &Manifest, part: u32) -> Result<bool, String> {
        let reader = self.store.open_part(snapshot, part).map_err(|error| error.to_string())?;
        let known = &manifest.parts[part as usize];
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; CHECK_BYTES];
        let mut offset = 0;
        while offset < known.bytes {
            let length = (known.bytes - offset).min(CHECK_BYTES as u64) as usize;
            let piece = &mut buffer[..length];
            reader.read_at(offset, piece).map_err(|error| error.to_string())?;
            hasher.update(piece);
            offset += length as u64;
        }
        Ok(Digest(*hasher.finalize().as_bytes()) == known.digest)
    }

    fn reader(&self, snapshot: SnapshotId, part: u32) -> Result<Arc<dyn PartReader>, StoreError> {
        let key = (snapshot, part);
        if let Some(reader) = self.lock().get(&key) {
            return Ok(Arc::clone(reader));
        }
        let reader = self.store.open_part(snapshot, part)?;
        let mut readers = self.lock();
        if readers.len() >= STAGED_FILES_OPEN_MAX {
            readers.pop_first();
        }
        readers.insert(key, Arc::clone(&reader));
        Ok(reader)
    }

    fn release(&self, snapshot: SnapshotId) {
        self.lock().retain(|(id, _), _| *id != snapshot);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(SnapshotId, u32), Arc<dyn PartReader>>> {
        self.readers.lock().expect("nobody panics with the readers in hand")
    }
}
