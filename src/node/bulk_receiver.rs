//! Runs the receiver's machine: one task drives it, tasks beside it dial and read, threads do the
//! disk work. What is decided is decided in the machine.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use slog::{Logger, debug, info, warn};
use tokio::select;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::sleep_until;
use tokio_util::task::TaskTracker;

use super::bulk_clock::BulkClock;
use super::bulk_disk::BulkDisk;
use super::bulk_request;
use crate::limits::BULK_QUEUE_MAX;
use crate::manifest::Manifest;
use crate::net::{Connection, Endpoint};
use crate::snapshot_store::{SnapshotStore, Staging};
use crate::transfer::Receiver;
use crate::transfer::receiver::{DiskResult, Event, Found, Input, Options, Output};
use crate::types::{Index, Now, SnapshotId, SnapshotReference, SnapshotSource, TransferStatus};

/// Words of the node that wait for the driver.
const COMMANDS_MAX: usize = 1_024;
/// Events that wait for the node; more progress is dropped, nothing else.
const EVENTS_MAX: usize = 256;
/// How often the status that others read is renewed, ms.
const STATUS_MS: u64 = 100;

/// What a pull wants the node to know.
#[derive(Clone, Debug)]
pub enum BulkEvent {
    /// Where the pull stands; about once a second while it runs. To be told to the leader.
    Progress(Box<TransferStatus>),
    /// All parts are verified and durable, also right after a start.
    Durable {
        /// The snapshot.
        id: SnapshotId,
        /// The log index it stands for.
        index: Index,
        /// Its manifest.
        manifest: Arc<Manifest>,
        /// Where its parts lie, to be linked from there by `snapshot_store::link_parts`.
        parts: PathBuf,
    },
    /// The pull was given up.
    Failed {
        /// The snapshot.
        id: SnapshotId,
        /// The log index it stands for.
        index: Index,
        /// Why.
        reason: String,
    },
    /// No source can serve the snapshot: the leader should offer another. What is staged stays.
    WantsNewOffer {
        /// The snapshot.
        id: SnapshotId,
        /// The log index it stands for.
        index: Index,
        /// Why.
        reason: String,
    },
}

/// The running receiver of this node. Clones share it; it ends when the last one is dropped.
#[derive(Clone)]
pub struct BulkReceiver {
    commands: mpsc::Sender<Input>,
    status: Arc<Mutex<Option<TransferStatus>>>,
}

impl BulkReceiver {
    /// Starts it inside the current (bulk) runtime, and goes on with what lies in the staging area.
    /// Reads the staging area: call it where that may block.
    pub fn start(
        options: Options,
        endpoint: Endpoint,
        staging: Staging,
        store: Arc<dyn SnapshotStore>,
        logger: Logger,
    ) -> std::io::Result<(Self, mpsc::Receiver<BulkEvent>)> {
        let found = staging.found().into_iter().next();
        let last = staging.last_status();
        let (disk, answers) = BulkDisk::start(staging.clone(), store, logger.clone())?;
        let (commands, command_queue) = mpsc::channel(COMMANDS_MAX);
        let (events, event_queue) = mpsc::channel(EVENTS_MAX);
        let (inputs, input_queue) = mpsc::channel(BULK_QUEUE_MAX);
        let status = Arc::new(Mutex::new(last.clone()));
        let clock = BulkClock::new();
        let driver = Driver {
            machine: Receiver::new(options, last, clock.now()),
            clock,
            endpoint,
            staging,
            disk,
            links: BTreeMap::new(),
            requests: BTreeMap::new(),
            inputs,
            events,
            outbox: VecDeque::new(),
            status: Arc::clone(&status),
            status_due_ms: 0,
            status_is_old: false,
            logger,
        };
        tokio::spawn(driver.run(found, command_queue, answers, input_queue));
        Ok((BulkReceiver { commands, status }, event_queue))
    }

    /// A leader offers a snapshot. False: too much waits already, offer it again.
    #[must_use]
    pub fn offer(&self, reference: SnapshotReference, index: Index, message_bytes: u64) -> bool {
        self.tell(Input::Offer { reference, index, message_bytes })
    }

    /// Ends the pull and gives its bytes up.
    pub fn cancel(&self) -> bool {
        self.tell(Input::Cancel)
    }

    /// Limits the rate: bytes a second, 0 for none.
    pub fn limit(&self, bytes_per_second: u64) -> bool {
        self.tell(Input::Limit(bytes_per_second))
    }

    /// Stops reading, or lets it go on.
    pub fn pause(&self, paused: bool) -> bool {
        self.tell(Input::Pause(paused))
    }

    /// Raft took the snapshot's metadata.
    pub fn stepped(&self, id: SnapshotId) -> bool {
        self.tell(Input::Stepped(id))
    }

    /// The node runs on the snapshot: its staging is removed.
    pub fn installed(&self, id: SnapshotId) -> bool {
        self.tell(Input::Installed(id))
    }

    /// The node does not need the snapshot any more: its staging is removed.
    pub fn superseded(&self, id: SnapshotId) -> bool {
        self.tell(Input::Superseded(id))
    }

    /// The durable snapshot could not be used: it ends as Failed and its staging is removed.
    pub fn rejected(&self, id: SnapshotId, reason: String) -> bool {
        self.tell(Input::Rejected(id, reason))
    }

    /// The present pull, or the last one; kept over restarts.
    pub fn status(&self) -> Option<TransferStatus> {
        self.status.lock().expect("nobody panics with the status in hand").clone()
    }

    fn tell(&self, input: Input) -> bool {
        self.commands.try_send(input).is_ok()
    }
}

/// A connection of the driver, dialled or being dialled.
struct Link {
    connection: Option<Connection>,
    dialling: Option<AbortHandle>,
    /// The tasks that read from it.
    readers: TaskTracker,
}

/// What reaches the driver from its own tasks.
enum FromNet {
    /// A source was dialled.
    Up(u64, Connection),
    /// Anything else is for the machine.
    Machine(Input),
}

struct Driver {
    machine: Receiver,
    clock: BulkClock,
    endpoint: Endpoint,
    staging: Staging,
    disk: BulkDisk,
    links: BTreeMap<u64, Link>,
    requests: BTreeMap<u64, AbortHandle>,
    inputs: mpsc::Sender<Input>,
    events: mpsc::Sender<BulkEvent>,
    outbox: VecDeque<BulkEvent>,
    status: Arc<Mutex<Option<TransferStatus>>>,
    status_due_ms: u64,
    /// Something may have changed since the status was last renewed.
    status_is_old: bool,
    logger: Logger,
}

impl Driver {
    async fn run(
        mut self,
        found: Option<Found>,
        mut commands: mpsc::Receiver<Input>,
        mut answers: mpsc::Receiver<(u64, DiskResult)>,
        mut inputs: mpsc::Receiver<Input>,
    ) {
        let (dialled, mut dials) = mpsc::channel(BULK_QUEUE_MAX);
        let events = self.events.clone();
        if let Some(found) = found {
            info!(self.logger, "going on with a staged snapshot";
                "snapshot" => %found.record.reference.id, "durable" => found.durable);
            self.handle(Input::Resume(Box::new(found)), &dialled);
        }
        loop {
            let now = self.clock.now();
            let reads_at_ms = self.machine.reads_at_ms(now);
            let may_read = reads_at_ms.is_some_and(|at| at <= now.monotonic_ms);
            let timers = [
                self.machine.next_timer_ms(now),
                reads_at_ms.filter(|_| !may_read),
                self.status_is_old.then_some(self.status_due_ms),
            ];
            let due_ms = timers.into_iter().flatten().min();
            let wake = self.clock.instant(due_ms.unwrap_or(now.monotonic_ms + 60_000));
            select! {
                biased;
                command = commands.recv() => match command {
                    Some(input) => self.handle(input, &dialled),
                    // The last handle is gone: the node is shutting down.
                    None => return self.close(),
                },
                Some((ticket, result)) = answers.recv() => {
                    self.handle(Input::Disk { ticket, result }, &dialled);
                }
                Some(from) = dials.recv() => match from {
                    FromNet::Up(attempt, connection) => self.link_up(attempt, connection, &dialled),
                    FromNet::Machine(input) => self.handle(input, &dialled),
                },
                Ok(permit) = events.reserve(), if !self.outbox.is_empty() => {
                    if let Some(event) = self.outbox.pop_front() {
                        permit.send(event);
                    }
                }
                () = sleep_until(wake) => self.handle_timer(&dialled),
                Some(input) = inputs.recv(), if may_read => self.handle(input, &dialled),
            }
        }
    }

    fn handle(&mut self, input: Input, dialled: &mpsc::Sender<FromNet>) {
        if let Input::RequestEnded { request, failure } = &input {
            self.requests.remove(request);
            if let Some(failure) = failure {
                debug!(self.logger, "a pull request broke"; "reason" => failure);
            }
        }
        if let Input::Disconnected { attempt, .. } = &input {
            self.links.remove(attempt);
        }
        let now = self.clock.now();
        self.machine.handle(now, input);
        self.carry_out(now, dialled);
    }

    fn handle_timer(&mut self, dialled: &mpsc::Sender<FromNet>) {
        let now = self.clock.now();
        self.machine.handle_timer(now);
        self.carry_out(now, dialled);
    }

    fn carry_out(&mut self, now: Now, dialled: &mpsc::Sender<FromNet>) {
        let mut told = false;
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Connect { attempt, source } => self.connect(attempt, source, dialled),
                Output::Disconnect { attempt } => self.disconnect(attempt),
                Output::Request { attempt, request, body } => {
                    let link = self.links.get(&attempt);
                    let Some((link, connection)) =
                        link.and_then(|link| Some((link, link.connection.clone()?)))
                    else {
                        continue;
                    };
                    let inputs = self.inputs.clone();
                    let task = bulk_request::run(connection, request, body, inputs);
                    let handle = link.readers.spawn(task).abort_handle();
                    self.requests.insert(request, handle);
                }
                Output::Abandon { request } => {
                    if let Some(task) = self.requests.remove(&request) {
                        task.abort();
                    }
                }
                Output::Disk { ticket, operation } => self.disk.execute(ticket, operation),
                Output::RetryDisk { ticket } => self.disk.retry(ticket),
                Output::DropDisk { ticket } => self.disk.drop_operation(ticket),
                Output::Event(event) => {
                    told = true;
                    self.tell_node(event);
                }
            }
        }
        // A change that falls into the pause is shown at its end, not at the next change.
        self.status_is_old = !told && self.status_due_ms > now.monotonic_ms;
        if !self.status_is_old {
            self.status_due_ms = now.monotonic_ms + STATUS_MS;
            let status = self.machine.status(now);
            *self.status.lock().expect("nobody panics with the status in hand") = status;
        }
    }

    fn connect(&mut self, attempt: u64, source: SnapshotSource, dialled: &mpsc::Sender<FromNet>) {
        let (endpoint, dialled) = (self.endpoint.clone(), dialled.clone());
        let task = tokio::spawn(async move {
            let result = endpoint.connect(source.node, &source.bulk_address).await;
            let word = match result {
                Ok(connection) => FromNet::Up(attempt, connection),
                Err(error) => {
                    FromNet::Machine(Input::Disconnected { attempt, reason: error.to_string() })
                }
            };
            // The driver is gone when the node is shutting down.
            let _ = dialled.send(word).await;
        });
        let dialling = Some(task.abort_handle());
        self.links
            .insert(attempt, Link { connection: None, dialling, readers: TaskTracker::new() });
    }

    fn link_up(&mut self, attempt: u64, connection: Connection, dialled: &mpsc::Sender<FromNet>) {
        let Some(link) = self.links.get_mut(&attempt) else {
            return connection.close("not needed any more");
        };
        link.connection = Some(connection.clone());
        link.dialling = None;
        let (readers, inputs) = (link.readers.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let error = connection.closed().await;
            // What was read before the end is told before the end.
            readers.close();
            readers.wait().await;
            // The driver is gone when the node is shutting down.
            let _ = inputs.send(Input::Disconnected { attempt, reason: error.to_string() }).await;
        });
        self.handle(Input::Connected { attempt }, dialled);
    }

    fn disconnect(&mut self, attempt: u64) {
        let Some(link) = self.links.remove(&attempt) else { return };
        if let Some(connection) = link.connection {
            connection.close("the receiver needs it no more");
        }
        if let Some(task) = link.dialling {
            task.abort();
        }
    }

    fn tell_node(&mut self, event: Event) {
        let event = match event {
            Event::Progress(status) => {
                if self.outbox.len() >= EVENTS_MAX {
                    return;
                }
                BulkEvent::Progress(status)
            }
            Event::Durable { id, index, manifest } => {
                info!(self.logger, "a pulled snapshot is durable"; "snapshot" => %id);
                let parts = self.staging.durable_parts(id);
                BulkEvent::Durable { id, index, manifest, parts }
            }
            Event::Failed { id, index, reason } => {
                warn!(self.logger, "a pull failed"; "snapshot" => %id, "reason" => &reason);
                BulkEvent::Failed { id, index, reason }
            }
            Event::WantsNewOffer { id, index, reason } => {
                warn!(self.logger, "a pull needs another offer";
                    "snapshot" => %id, "reason" => &reason);
                BulkEvent::WantsNewOffer { id, index, reason }
            }
        };
        self.outbox.push_back(event);
    }

    fn close(&mut self) {
        for task in self.requests.values() {
            task.abort();
        }
        let attempts: Vec<u64> = self.links.keys().copied().collect();
        for attempt in attempts {
            self.disconnect(attempt);
        }
    }
}
