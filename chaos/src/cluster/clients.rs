//! Clients: closed loops of reads and writes of a few quarrelled-over keys, with and without
//! sessions. Every value is unique, so that a read tells which write it saw.

use anyhow::Result;
use bytes::Bytes;
use ratoon::codec;
use ratoon::raft::{Answer, ClientRequest};
use ratoon::types::{
    Action, Code, CollectionName, Command, Condition, Failure, Index, NodeId, Record, Reply,
    Request, Retry, SessionSequence, Write, WriteBatch,
};

use super::{Ask, Event, World};
use crate::checks::history::{Effect, OperationId, Outcome};

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caller {
    /// One of the clients.
    Client(usize),
    /// The operator.
    Operator,
}

/// What a caller hears.
#[derive(Clone, Debug)]
pub enum Response {
    /// The node's answer.
    Answer(Result<Answer, Failure>),
    /// A record as of an applied index.
    Value(Index, Option<Record>),
    /// The node could not be reached: nothing was done.
    NeverSent,
    /// The connection broke: who knows.
    Lost,
}

/// When a client goes on.
#[derive(Debug)]
pub enum ClientEvent {
    /// It begins, or tries again.
    Next,
    /// It waited long enough for an attempt.
    Impatient(u64),
}

/// See the module.
pub struct Client {
    uses_session: bool,
    session: Option<u64>,
    sequence: u64,
    attempt: u64,
    /// Waiting for an answer to `attempt`.
    waits: bool,
    doing: Option<Doing>,
    /// What it saw last of each key: version, for conditions.
    seen: std::collections::BTreeMap<Vec<u8>, Index>,
}

struct Doing {
    /// None: opening the session.
    operation: Option<OperationId>,
    ask: Ask,
    /// An earlier attempt may have been executed.
    in_doubt: bool,
    /// Carried out at most once, however often it is sent.
    once: bool,
}

/// The collection that clients use.
pub fn collection() -> CollectionName {
    CollectionName::parse("default", "quarrel").expect("the name keeps the rule")
}

impl Client {
    pub fn new(uses_session: bool) -> Self {
        Client {
            uses_session,
            session: None,
            sequence: 0,
            attempt: 0,
            waits: false,
            doing: None,
            seen: Default::default(),
        }
    }

    /// Whether it has nothing under way.
    pub fn is_idle(&self) -> bool {
        self.doing.is_none()
    }
}

impl World {
    /// The collection exists: all clients begin.
    pub(super) fn start_clients(&mut self) {
        for client in 0..self.clients.len() {
            self.client_goes_on(client);
        }
    }

    fn client_goes_on(&mut self, client: usize) {
        let pause = self.random.interval(self.settings.load.think_ms * 1000);
        self.push(pause, Event::Client(client, ClientEvent::Next));
    }

    pub(super) fn clients_are_idle(&self) -> bool {
        self.clients.iter().all(Client::is_idle)
    }

    pub(super) fn client_event(&mut self, client: usize, event: ClientEvent) -> Result<()> {
        match event {
            ClientEvent::Next if self.clients[client].waits => Ok(()),
            ClientEvent::Next => {
                if self.clients[client].doing.is_none() {
                    if self.calm {
                        return Ok(());
                    }
                    let doing = self.choose(client);
                    self.clients[client].doing = Some(doing);
                }
                self.try_again(client);
                Ok(())
            }
            ClientEvent::Impatient(attempt) => {
                let state = &self.clients[client];
                match state.waits && state.attempt == attempt {
                    true => self.take_response(Caller::Client(client), attempt, Response::Lost),
                    false => Ok(()),
                }
            }
        }
    }

    /// Sends what the client is doing to some node.
    fn try_again(&mut self, client: usize) {
        let node = self.some_node();
        let state = &mut self.clients[client];
        state.attempt += 1;
        state.waits = true;
        let (attempt, caller) = (state.attempt, Caller::Client(client));
        let ask = state.doing.as_ref().expect("it is doing something").ask.clone();
        let patience = self.settings.load.patience_ms * 1000;
        self.push(patience, Event::Client(client, ClientEvent::Impatient(attempt)));
        self.ask(caller, attempt, node, ask);
    }

    /// Sends a request from outside to a node.
    pub(super) fn ask(&mut self, caller: Caller, attempt: u64, node: NodeId, ask: Ask) {
        if self.calm || !self.random.chance(self.settings.network.loss) {
            let delay = self.random.interval(self.settings.network.delay_us) + 20;
            self.push(delay, Event::Arrive { caller, attempt, node, ask });
        }
    }

    /// Sends an answer to the outside.
    pub(super) fn respond(&mut self, caller: Caller, attempt: u64, response: Response) {
        if self.calm || !self.random.chance(self.settings.network.loss) {
            let delay = self.random.interval(self.settings.network.delay_us) + 20;
            self.push(delay, Event::Respond { caller, attempt, response });
        }
    }

    /// Any node that was not removed; rather one that is up.
    pub(super) fn some_node(&mut self) -> NodeId {
        let nodes: Vec<NodeId> = self
            .machines
            .iter()
            .filter(|(_, machine)| !machine.is_retired)
            .map(|(node, _)| *node)
            .collect();
        let mut node = *self.random.pick(&nodes);
        for _ in 0..2 {
            if self.machine(node).process.is_none() {
                node = *self.random.pick(&nodes);
            }
        }
        node
    }

    fn choose(&mut self, client: usize) -> Doing {
        let state = &mut self.clients[client];
        if state.uses_session && state.session.is_none() {
            let ask = Ask::Request(propose(None, Command::OpenSession));
            return Doing { operation: None, ask, in_doubt: false, once: false };
        }
        let random = &mut self.random;
        let key = |random: &mut crate::random::Random| {
            format!("key{}", random.below(self.settings.load.keys)).into_bytes()
        };
        if random.chance(self.settings.load.reads) {
            let key = key(random);
            let effect = Effect::Get(key.clone());
            let operation = Some(self.checks.history.begin(self.now_us, effect));
            return Doing { operation, ask: Ask::Get(key), in_doubt: false, once: true };
        }
        let value_bytes = random.magnitude(8, self.settings.load.value_bytes_max);
        let count = if random.chance(100) { 1 + random.below(4) } else { 1 };
        let mut keys: Vec<Vec<u8>> = (0..count).map(|_| key(random)).collect();
        keys.sort();
        keys.dedup();
        let mut writes = Vec::new();
        for key in keys {
            let condition = match random.below(10) {
                0 => Condition::Absent,
                1..4 => match state.seen.get(&key) {
                    Some(0) => Condition::Absent,
                    Some(version) => Condition::Version(*version),
                    None => Condition::Always,
                },
                _ => Condition::Always,
            };
            self.next_name += 1;
            let mut value = format!("{}.", self.next_name).into_bytes();
            value.resize((value_bytes as usize).max(value.len()), b'v');
            let action = match random.below(10) {
                0 | 1 => Action::Delete,
                _ => Action::Put { value: Bytes::from(value), content_type: String::new() },
            };
            writes.push(Write { collection: collection(), key: key.into(), condition, action });
        }
        let batch = WriteBatch { writes };
        let once = state.session.is_some();
        let place = state.session.map(|session| {
            state.sequence += 1;
            SessionSequence { session, sequence: state.sequence }
        });
        let effect = Effect::Write(batch.clone());
        let operation = Some(self.checks.history.begin(self.now_us, effect));
        let ask = Ask::Request(propose(place, Command::Write(batch)));
        Doing { operation, ask, in_doubt: false, once }
    }

    pub(super) fn take_response(
        &mut self,
        caller: Caller,
        attempt: u64,
        response: Response,
    ) -> Result<()> {
        let Caller::Client(client) = caller else {
            return self.operator_response(attempt, response);
        };
        let state = &mut self.clients[client];
        if !state.waits || state.attempt != attempt {
            return Ok(());
        }
        state.waits = false;
        let mut doing = state.doing.take().expect("it waits for something");
        self.trace.say(self.now_us, NodeId(0), || format!("client {client} hears {response:?}"));
        let Some(outcome) = judge(&doing, &response) else {
            // Nothing is decided yet: try again, elsewhere.
            doing.in_doubt |= leaves_doubt(&response);
            let gives_up = self.random.chance(if self.calm { 0 } else { 30 });
            if gives_up && let Some(operation) = doing.operation {
                let outcome = if doing.in_doubt { Outcome::Unknown } else { Outcome::NotDone };
                self.end_operation(operation, outcome)?;
            } else {
                self.clients[client].doing = Some(doing);
            }
            self.client_goes_on(client);
            return Ok(());
        };
        match (doing.operation, response) {
            (Some(operation), response) => {
                self.note_seen(client, operation, &response);
                self.end_operation(operation, outcome)?;
            }
            (None, Response::Answer(Ok(Answer::Applied(_, Reply::Session(session))))) => {
                self.clients[client].session = Some(session);
                self.clients[client].sequence = 0;
            }
            (None, _) => {}
        }
        self.client_goes_on(client);
        Ok(())
    }

    fn end_operation(&mut self, id: OperationId, outcome: Outcome) -> Result<()> {
        self.figures.operations += 1;
        self.figures.unknown += u64::from(outcome == Outcome::Unknown);
        self.checks.end_operation(id, self.now_us, outcome)
    }

    fn note_seen(&mut self, client: usize, operation: OperationId, response: &Response) {
        let seen = &mut self.clients[client].seen;
        match (self.checks.history.effect(operation), response) {
            (Effect::Get(key), Response::Value(_, record)) => {
                seen.insert(key.clone(), record.as_ref().map_or(0, |record| record.version));
            }
            (Effect::Write(batch), Response::Answer(Ok(Answer::Applied(index, _)))) => {
                for write in &batch.writes {
                    let version = if matches!(write.action, Action::Delete) { 0 } else { *index };
                    seen.insert(write.key.to_vec(), version);
                }
            }
            _ => {}
        }
    }
}

/// A proposal as clients encode it.
pub fn propose(session: Option<SessionSequence>, command: Command) -> ClientRequest {
    ClientRequest::Propose(codec::encode_request(&Request { session, command }))
}

/// Whether after this response the command may have been executed, now or later.
fn leaves_doubt(response: &Response) -> bool {
    match response {
        Response::Lost => true,
        Response::Answer(Err(failure)) => failure.retry == Retry::Unknown,
        _ => false,
    }
}

/// What came of an operation; None: it is to be tried again.
fn judge(doing: &Doing, response: &Response) -> Option<Outcome> {
    match response {
        Response::Answer(Ok(Answer::Applied(index, reply))) => {
            Some(Outcome::Applied(*index, reply.clone()))
        }
        Response::Value(index, record) => {
            let value = record.as_ref().map(|record| (record.version, record.value.clone()));
            Some(Outcome::Read(*index, value))
        }
        Response::Answer(Err(failure)) if failure.code == Code::ConditionFailed => {
            Some(Outcome::ConditionFailed)
        }
        Response::Answer(Ok(_)) => Some(Outcome::Broken(format!("{response:?}"))),
        Response::Answer(Err(failure)) if failure.retry == Retry::Never => {
            Some(Outcome::Broken(failure.to_string()))
        }
        _ if leaves_doubt(response) && !doing.once => Some(Outcome::Unknown),
        _ => None,
    }
}
