//! A UDP proxy that makes the link between two QUIC endpoints as bad as wanted, at run time.
//!
//! Clients send to the proxy, which keeps one upstream socket for each client address, so that the
//! target tells them apart. Each direction has its own condition ([`Link`]) and its own counters; a single
//! client may be given a condition of its own.
//! It never looks inside a datagram: QUIC is encrypted, and what it carries is estimated from sizes.

mod link;

use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use crate::limits::{PROXY_FLOWS_MAX, PROXY_QUEUE_DATAGRAMS_MAX, PROXY_SOCKET_BUFFER_BYTES};

pub use link::{BACKLOG_MAX, Link};
use link::{Gate, Verdict};

/// What a short-header QUIC packet with one STREAM frame carries besides payload: flags (1),
/// connection id (8), packet number (2), frame type, stream id, offset and length (11), AEAD tag
/// (16).
const QUIC_OVERHEAD_BYTES: u64 = 38;
/// Largest UDP datagram.
const DATAGRAM_BYTES_MAX: usize = 65_535;
/// Pause after a socket error, so that a socket that errs without end does not eat a core.
const ERROR_PAUSE: Duration = Duration::from_millis(1);

/// One way through the proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the clients to the target.
    ToTarget,
    /// From the target to the clients.
    ToClient,
}

impl Direction {
    /// Both ways.
    pub const BOTH: [Direction; 2] = [Direction::ToTarget, Direction::ToClient];
}

/// What one direction has seen since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Datagrams passed on, duplicates included.
    pub datagrams: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Estimate of the QUIC payload in them: each datagram less the overhead of a full data packet
    /// (38 bytes). Packets that only acknowledge are about that size and count as nearly nothing.
    /// The true overhead of a data packet is 31 to 41 bytes of some 1200 to 1452, so that the
    /// estimate is within 1 %, on the high side where packets are coalesced.
    pub payload_bytes: u64,
    /// Datagrams dropped by a cut.
    pub dropped_by_cut: u64,
    /// Datagrams dropped by loss.
    pub dropped_by_loss: u64,
    /// Datagrams dropped because a queue was full.
    pub dropped_by_queue: u64,
    /// Datagrams the operating system refused to take.
    pub refused: u64,
}

/// How a proxy is set up.
#[derive(Clone, Debug)]
pub struct ProxyOptions {
    /// Where clients reach it; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Where it sends to.
    pub target: SocketAddr,
    /// All its randomness follows from this.
    pub seed: u64,
}

/// A running proxy; dropping it ends it.
pub struct Proxy {
    shared: Arc<Shared>,
    local: SocketAddr,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Proxy {
    /// Binds the socket and starts to forward. Runs on the calling tokio runtime.
    pub async fn start(options: ProxyOptions) -> io::Result<Proxy> {
        let listen = bind(options.listen)?;
        let local = listen.local_addr()?;
        let shared = Arc::new(Shared {
            listen,
            target: options.target,
            started: Instant::now(),
            to_target: Way::new(options.seed),
            to_client: Way::new(options.seed.wrapping_add(1)),
            flows: Mutex::new(BTreeMap::new()),
        });
        let spawn = |task: tokio::task::JoinHandle<()>| AbortOnDropHandle::new(task);
        let tasks = vec![
            spawn(tokio::spawn(read_clients(shared.clone()))),
            spawn(tokio::spawn(send_waiting(shared.clone(), Direction::ToTarget))),
            spawn(tokio::spawn(send_waiting(shared.clone(), Direction::ToClient))),
        ];
        Ok(Proxy { shared, local, _tasks: tasks })
    }

    /// Where clients reach it.
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// The present condition of a direction.
    pub fn link(&self, direction: Direction) -> Link {
        lock(&self.shared.way(direction).judge).link.clone()
    }

    /// Changes the condition of a direction, from the next datagram on. Returns the one before.
    pub fn set_link(&self, direction: Direction, link: Link) -> Link {
        std::mem::replace(&mut lock(&self.shared.way(direction).judge).link, link)
    }

    /// The condition of a direction for one client, if it has one of its own.
    pub fn link_of(&self, client: SocketAddr, direction: Direction) -> Option<Link> {
        let judge = lock(&self.shared.way(direction).judge);
        judge.of_clients.get(&client).map(|(link, _)| link.clone())
    }

    /// Gives one client a condition of its own in a direction, in place of the common one, from the
    /// next datagram on. Cuts and heals of the whole proxy do not touch it.
    pub fn set_link_of(&self, client: SocketAddr, direction: Direction, link: Link) {
        lock(&self.shared.way(direction).judge).set_link_of(client, link);
    }

    /// Blackholes both directions. Held for longer than QUIC's idle timeout it kills connections.
    pub fn cut(&self) {
        Direction::BOTH.into_iter().for_each(|direction| self.cut_one_way(direction));
    }

    /// Blackholes one direction.
    pub fn cut_one_way(&self, direction: Direction) {
        lock(&self.shared.way(direction).judge).link.cut = true;
    }

    /// Ends cuts; delay, loss and the like stay as they are.
    pub fn heal(&self) {
        for direction in Direction::BOTH {
            lock(&self.shared.way(direction).judge).link.cut = false;
        }
    }

    /// What a direction has seen since the start.
    pub fn counters(&self, direction: Direction) -> Counters {
        self.shared.way(direction).tally.read()
    }

    /// Clients known at present.
    pub fn flows(&self) -> usize {
        lock(&self.shared.flows).len()
    }
}

struct Shared {
    listen: UdpSocket,
    target: SocketAddr,
    started: Instant,
    to_target: Way,
    to_client: Way,
    flows: Mutex<BTreeMap<SocketAddr, Arc<Flow>>>,
}

/// One direction: its condition and judge, what waits for its time, what was counted.
struct Way {
    judge: Mutex<Judge>,
    waiting: Mutex<Waiting>,
    /// Rung when something is put into `waiting`.
    added: Notify,
    tally: Tally,
}

/// The conditions of one direction and what decides by them.
struct Judge {
    link: Link,
    gate: Gate,
    /// Clients with a condition of their own.
    of_clients: BTreeMap<SocketAddr, (Link, Gate)>,
    seed: u64,
}

impl Judge {
    fn judge(&mut self, client: SocketAddr, now: Duration, bytes: usize) -> Verdict {
        let (link, gate) = match self.of_clients.get_mut(&client) {
            Some((link, gate)) => (link, gate),
            None => (&mut self.link, &mut self.gate),
        };
        link.spend(bytes as u64);
        gate.judge(link, now, bytes)
    }

    fn set_link_of(&mut self, client: SocketAddr, link: Link) {
        let seed = self.seed ^ (u64::from(client.port()) << 16);
        match self.of_clients.entry(client) {
            Entry::Occupied(mut own) => own.get_mut().0 = link,
            Entry::Vacant(none) => {
                none.insert((link, Gate::new(seed)));
            }
        }
    }

    fn is_cut(&self, client: SocketAddr) -> bool {
        self.of_clients.get(&client).map_or(self.link.cut, |(link, _)| link.cut)
    }
}

/// Datagrams that leave later, soonest first.
#[derive(Default)]
struct Waiting {
    heap: BinaryHeap<Reverse<Parcel>>,
    /// Numbers parcels, so that equal times keep their order.
    next: u64,
}

/// One client address and the socket that speaks for it to the target.
struct Flow {
    client: SocketAddr,
    upstream: Arc<UdpSocket>,
    /// Milliseconds since the proxy's start at which the client was last heard.
    heard_ms: AtomicU64,
    /// Carries the target's answers back; ends with the flow.
    _answers: AbortOnDropHandle<()>,
}

/// Where a datagram goes.
#[derive(Clone)]
enum Exit {
    /// To the target, through the socket that speaks for this client.
    Target(SocketAddr, Arc<UdpSocket>),
    /// To this client.
    Client(SocketAddr),
}

impl Exit {
    /// Whose datagram it is, whichever way it goes.
    fn client(&self) -> SocketAddr {
        match self {
            Exit::Target(client, _) | Exit::Client(client) => *client,
        }
    }
}

/// A datagram that waits for its time.
struct Parcel {
    due: Duration,
    number: u64,
    exit: Exit,
    data: Bytes,
}

impl PartialEq for Parcel {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Parcel {}

impl PartialOrd for Parcel {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Parcel {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

impl Way {
    fn new(seed: u64) -> Self {
        Way {
            judge: Mutex::new(Judge {
                link: Link::default(),
                gate: Gate::new(seed),
                of_clients: BTreeMap::new(),
                seed,
            }),
            waiting: Mutex::new(Waiting::default()),
            added: Notify::new(),
            tally: Tally::default(),
        }
    }

    /// Whether what waits must be dropped rather than sent.
    fn is_cut(&self, client: SocketAddr) -> bool {
        lock(&self.judge).is_cut(client)
    }

    /// Puts a datagram aside until `due`; a full queue drops it.
    fn keep(&self, due: Duration, exit: Exit, data: Bytes) {
        let mut waiting = lock(&self.waiting);
        if waiting.heap.len() >= PROXY_QUEUE_DATAGRAMS_MAX {
            add(&self.tally.dropped_by_queue, 1);
            return;
        }
        let number = waiting.next;
        waiting.next += 1;
        waiting.heap.push(Reverse(Parcel { due, number, exit, data }));
        drop(waiting);
        self.added.notify_one();
    }

    /// The next datagram whose time has come, else the time of the next one.
    fn take_due(&self, now: Duration) -> Result<Parcel, Option<Duration>> {
        let mut waiting = lock(&self.waiting);
        match waiting.heap.peek() {
            Some(Reverse(parcel)) if parcel.due <= now => {}
            Some(Reverse(parcel)) => return Err(Some(parcel.due)),
            None => return Err(None),
        }
        let Reverse(parcel) = waiting.heap.pop().expect("just peeked under the same lock");
        Ok(parcel)
    }
}

impl Shared {
    fn way(&self, direction: Direction) -> &Way {
        match direction {
            Direction::ToTarget => &self.to_target,
            Direction::ToClient => &self.to_client,
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.now().as_millis()).unwrap_or(u64::MAX)
    }

    /// The client's flow, made on its first datagram; the longest silent one makes room if need be.
    async fn flow(self: &Arc<Self>, client: SocketAddr) -> io::Result<Arc<Flow>> {
        if let Some(flow) = lock(&self.flows).get(&client) {
            flow.heard_ms.store(self.now_ms(), Ordering::Relaxed);
            return Ok(flow.clone());
        }
        let any: SocketAddr = match self.target {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let upstream = Arc::new(bind(any)?);
        upstream.connect(self.target).await?;
        let answers = tokio::spawn(read_target(Arc::downgrade(self), upstream.clone(), client));
        let flow = Arc::new(Flow {
            client,
            upstream,
            heard_ms: AtomicU64::new(self.now_ms()),
            _answers: AbortOnDropHandle::new(answers),
        });
        let mut flows = lock(&self.flows);
        if flows.len() >= PROXY_FLOWS_MAX {
            let silent = flows.values().min_by_key(|flow| flow.heard_ms.load(Ordering::Relaxed));
            let silent = silent.map(|flow| flow.client).expect("the table is full, so not empty");
            flows.remove(&silent);
        }
        flows.insert(client, flow.clone());
        Ok(flow)
    }

    /// Judges one datagram and sends it, keeps it for later or drops it.
    async fn pass(&self, direction: Direction, exit: Exit, data: &[u8]) {
        let way = self.way(direction);
        let now = self.now();
        let verdict = lock(&way.judge).judge(exit.client(), now, data.len());
        match verdict {
            Verdict::Cut => add(&way.tally.dropped_by_cut, 1),
            Verdict::Lost => add(&way.tally.dropped_by_loss, 1),
            Verdict::Full => add(&way.tally.dropped_by_queue, 1),
            Verdict::Pass { due, again } => {
                if let Some(again) = again {
                    way.keep(again, exit.clone(), Bytes::copy_from_slice(data));
                }
                if due > now {
                    way.keep(due, exit, Bytes::copy_from_slice(data));
                } else {
                    self.send(direction, &exit, data).await;
                }
            }
        }
    }

    async fn send(&self, direction: Direction, exit: &Exit, data: &[u8]) {
        let tally = &self.way(direction).tally;
        let sent = match exit {
            Exit::Target(_, upstream) => upstream.send(data).await,
            Exit::Client(client) => self.listen.send_to(data, client).await,
        };
        match sent {
            Ok(_) => tally.count(data.len() as u64),
            // The other side is down (a killed process): to the sender that is loss, no error.
            Err(_) => add(&tally.refused, 1),
        }
    }
}

/// A socket with room for a sender's burst: what the system drops for want of it would be loss that
/// nobody asked for.
fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    let options = socket2::SockRef::from(&socket);
    // The system cuts both down to what it allows.
    options.set_recv_buffer_size(PROXY_SOCKET_BUFFER_BYTES)?;
    options.set_send_buffer_size(PROXY_SOCKET_BUFFER_BYTES)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// Reads what clients send, for ever.
async fn read_clients(shared: Arc<Shared>) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let received = shared.listen.recv_from(&mut buffer).await;
        let flow = match received {
            Ok((_, client)) => shared.flow(client).await,
            Err(ref error) => Err(io::Error::from(error.kind())),
        };
        match (received, flow) {
            (Ok((length, _)), Ok(flow)) => {
                let exit = Exit::Target(flow.client, flow.upstream.clone());
                shared.pass(Direction::ToTarget, exit, &buffer[..length]).await;
            }
            _ => {
                add(&shared.to_target.tally.refused, 1);
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
}

/// Reads what the target answers to one client, until the proxy is gone. The reference is weak,
/// because the proxy owns this task through its table of flows.
async fn read_target(proxy: Weak<Shared>, upstream: Arc<UdpSocket>, client: SocketAddr) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        match upstream.recv(&mut buffer).await {
            Ok(length) => {
                let Some(shared) = proxy.upgrade() else { return };
                let exit = Exit::Client(client);
                shared.pass(Direction::ToClient, exit, &buffer[..length]).await;
            }
            // Connection refused: the target is down. It may come back on the same port.
            Err(_) => tokio::time::sleep(ERROR_PAUSE).await,
        }
    }
}

/// Sends datagrams that were put aside, each at its time, for ever.
async fn send_waiting(shared: Arc<Shared>, direction: Direction) {
    let way = shared.way(direction);
    loop {
        match way.take_due(shared.now()) {
            Ok(parcel) if way.is_cut(parcel.exit.client()) => add(&way.tally.dropped_by_cut, 1),
            Ok(parcel) => shared.send(direction, &parcel.exit, &parcel.data).await,
            Err(Some(due)) => {
                let wait = due.saturating_sub(shared.now());
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    // Something sooner may have come.
                    () = way.added.notified() => {}
                }
            }
            Err(None) => way.added.notified().await,
        }
    }
}

/// Counters that many tasks add to.
#[derive(Default)]
struct Tally {
    datagrams: AtomicU64,
    bytes: AtomicU64,
    payload_bytes: AtomicU64,
    dropped_by_cut: AtomicU64,
    dropped_by_loss: AtomicU64,
    dropped_by_queue: AtomicU64,
    refused: AtomicU64,
}

impl Tally {
    fn count(&self, bytes: u64) {
        add(&self.datagrams, 1);
        add(&self.bytes, bytes);
        add(&self.payload_bytes, bytes.saturating_sub(QUIC_OVERHEAD_BYTES));
    }

    fn read(&self) -> Counters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            datagrams: get(&self.datagrams),
            bytes: get(&self.bytes),
            payload_bytes: get(&self.payload_bytes),
            dropped_by_cut: get(&self.dropped_by_cut),
            dropped_by_loss: get(&self.dropped_by_loss),
            dropped_by_queue: get(&self.dropped_by_queue),
            refused: get(&self.refused),
        }
    }
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

/// A panic elsewhere must not stop the link: the guarded values are whole between statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod quic_tests;
#[cfg(test)]
mod tests;
