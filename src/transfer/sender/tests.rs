//! Golden scripts of the source (`testscripts/sender/`), and what no error path may leave behind.

use std::error::Error as StdError;
use std::fmt::Write as _;

use goldenscript::{Command, Context, Runner};

use super::*;
use crate::limits::CHUNK_BYTES_MIN;
use crate::transfer::simulation::Content;
use crate::transfer::timing::Random;

const CHUNK: usize = CHUNK_BYTES_MIN as usize;

struct Script {
    machine: Sender,
    now_ms: u64,
    contents: Vec<(&'static str, Content)>,
}

impl Script {
    fn new() -> Self {
        let contents = vec![
            ("s1", Content::random(40, &[2 * CHUNK + 100, 600], 1)),
            ("s2", Content::random(50, &[CHUNK, 600], 2)),
        ];
        Script { machine: Sender::new(Options::default()), now_ms: 0, contents }
    }

    fn content(&self, name: &str) -> Result<&Content, Box<dyn StdError>> {
        let found = self.contents.iter().find(|(other, _)| *other == name);
        found.map(|(_, content)| content).ok_or_else(|| format!("no {name}").into())
    }

    fn show(&self, snapshot: SnapshotId) -> &'static str {
        let found = self.contents.iter().find(|(_, content)| content.id == snapshot);
        found.map_or("?", |(name, _)| name)
    }

    fn tell(&mut self, input: Input) -> String {
        self.machine.handle(self.now_ms, input);
        self.drain()
    }

    fn drain(&mut self) -> String {
        let mut text = String::new();
        while let Some(output) = self.machine.poll_output() {
            let line = match output {
                Output::Open { snapshot } => format!("open {}", self.show(snapshot)),
                Output::Release { snapshot } => format!("release {}", self.show(snapshot)),
                Output::Answer { stream, response } => format!("{stream}: {response:?}"),
                Output::SendManifest { stream, .. } => format!("{stream}: send the manifest"),
                Output::SendFrame { stream, range, .. } => {
                    format!("{stream}: send {}:{}+{}", range.part, range.offset, range.bytes)
                }
                Output::Finish { stream } => format!("{stream}: finish"),
                Output::Reset { stream } => format!("{stream}: reset"),
                Output::CheckPart { snapshot, part } => {
                    format!("check part {part} of {}", self.show(snapshot))
                }
                Output::Close { connection } => format!("close connection {connection}"),
                Output::Fenced { snapshot, reason } => {
                    format!("fenced {}: {reason}", self.show(snapshot))
                }
            };
            writeln!(text, "{line}").expect("text takes text");
        }
        text
    }

    fn leases(&self) -> String {
        let mut text = format!("{} places taken\n", self.machine.places_taken());
        for lease in self.machine.leases() {
            let Lease { receiver, snapshot, last_progress_ms, sent_bytes, .. } = lease;
            let how = match (lease.is_queued, lease.is_connected) {
                (true, _) => "waits",
                (false, true) => "connected",
                (false, false) => "gone",
            };
            let name = self.show(snapshot);
            writeln!(
                text,
                "node {receiver}: {name} {sent_bytes} B, {how}, alive at {last_progress_ms}"
            )
            .expect("text takes text");
        }
        text
    }

    fn ask(&self, words: &[String], snapshot: SnapshotId) -> Result<PullRequest, String> {
        if words.iter().any(|word| word == "malformed") {
            return Err("gibberish".to_owned());
        }
        if words.iter().any(|word| word == "manifest") {
            return Ok(PullRequest::Manifest { snapshot });
        }
        let range = |word: &String| -> Option<ByteRange> {
            let (part, rest) = word.split_once(':')?;
            let (offset, bytes) = rest.split_once('+')?;
            let [part, offset, bytes]: [u64; 3] =
                [part.parse().ok()?, offset.parse().ok()?, bytes.parse().ok()?];
            Some(ByteRange { part: part as u32, offset, bytes })
        };
        Ok(PullRequest::Ranges { snapshot, ranges: words.iter().filter_map(range).collect() })
    }
}

impl Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn StdError>> {
        let mut args = command.consume_args();
        let snapshot = self.content(args.take_key("snapshot").unwrap_or("s1"))?.id;
        let keys: Vec<(String, u64)> = ["node", "stream", "suspect"]
            .into_iter()
            .filter_map(|key| Some((key.to_owned(), args.take_key(key)?.parse().ok()?)))
            .collect();
        let key = |name: &str| keys.iter().find(|(key, _)| key == name).map(|(_, value)| *value);
        let mut words = Vec::new();
        while let Some(word) = args.next_pos() {
            words.push(word.to_owned());
        }
        args.reject_next()?;
        let first: Option<u64> = words.first().and_then(|word| word.parse().ok());
        let number = || first.ok_or("a number is missing");
        Ok(match command.name.as_str() {
            "places" => {
                let pulls_max = number()? as usize;
                self.machine = Sender::new(Options { pulls_max, ..Options::default() });
                String::new()
            }
            "connect" => {
                let receiver = NodeId(key("node").ok_or("which node?")?);
                self.tell(Input::Connected { connection: number()?, receiver })
            }
            "close" => self.tell(Input::Closed { connection: number()? }),
            "ask" => {
                let request = match key("suspect") {
                    Some(part) => {
                        Ok(PullRequest::Suspect { snapshot, part: part as u32, chunk: 0 })
                    }
                    None => self.ask(&words[1..], snapshot),
                };
                let stream = key("stream").ok_or("which stream?")?;
                self.tell(Input::Request { connection: number()?, stream, request })
            }
            "opened" => {
                let content = self.content(&words[0])?;
                let (manifest, encoded) = (content.manifest.clone(), content.encoded.clone());
                let snapshot = content.id;
                let result = Ok(Arc::new(OpenSnapshot { manifest, encoded }));
                self.tell(Input::Opened { snapshot, result })
            }
            "unknown" => {
                let snapshot = self.content(&words[0])?.id;
                self.tell(Input::Opened { snapshot, result: Err(OpenFailure::Unknown) })
            }
            "sent" => self.tell(Input::FrameSent { stream: number()? }),
            "closed" => self.tell(Input::StreamClosed { stream: number()? }),
            "failed" => {
                let is_corrupt = words.get(1).is_some_and(|word| word == "corrupt");
                let reason = "chunk 0 does not have its checksum".to_owned();
                self.tell(Input::FrameFailed { stream: number()?, is_corrupt, reason })
            }
            "checked" => {
                let result = Ok(words.get(1).is_some_and(|word| word == "good"));
                self.tell(Input::PartChecked { snapshot, part: number()? as u32, result })
            }
            "wait" => {
                self.now_ms += number()?;
                self.machine.handle_timer(self.now_ms);
                self.drain()
            }
            "shutdown" => self.tell(Input::Shutdown),
            "leases" => self.leases(),
            other => return Err(format!("no command {other}").into()),
        })
    }
}

fn run(name: &str) {
    let path = format!("{}/src/transfer/testscripts/sender/{name}", env!("CARGO_MANIFEST_DIR"));
    goldenscript::run(&mut Script::new(), path).expect("the script runs");
}

#[test]
fn script_serve() {
    run("serve");
}

#[test]
fn script_admission() {
    run("admission");
}

#[test]
fn script_refusals() {
    run("refusals");
}

#[test]
fn script_suspect() {
    run("suspect");
}

#[test]
fn no_order_of_network_faults_leaks_a_place() {
    // tikv #11157, #11341: admission counters leak on network faults.
    for seed in 0..200 {
        let mut script = Script::new();
        let mut random = Random::new(seed);
        let open = || {
            let content = &Script::new().contents[0].1;
            (content.id, content.manifest.clone(), content.encoded.clone())
        };
        let (snapshot, manifest, encoded) = open();
        let opened = Arc::new(OpenSnapshot { manifest, encoded });
        for step in 1..200_u64 {
            let [connection, stream] = [random.below(8), random.below(40)];
            let part = 0;
            let ranges = vec![ByteRange { part, offset: random.below(CHUNK as u64), bytes: 700 }];
            let input = match random.below(12) {
                0 | 1 => Input::Connected { connection: step * 100, receiver: NodeId(connection) },
                2 => Input::Closed { connection: random.below(step) * 100 },
                3..=5 => Input::Request {
                    connection: random.below(step + 1) * 100,
                    stream: step * 100,
                    request: Ok(PullRequest::Ranges { snapshot, ranges }),
                },
                6 => Input::Request {
                    connection: random.below(step) * 100,
                    stream: step * 100,
                    request: Ok(PullRequest::Suspect { snapshot, part, chunk: 0 }),
                },
                7 => Input::FrameSent { stream: stream * 100 },
                8 => Input::StreamClosed { stream: stream * 100 },
                9 => {
                    let (is_corrupt, reason) = (false, "EIO".to_owned());
                    Input::FrameFailed { stream: stream * 100, is_corrupt, reason }
                }
                10 => Input::PartChecked { snapshot, part, result: Ok(true) },
                _ => Input::Opened { snapshot, result: Ok(Arc::clone(&opened)) },
            };
            script.tell(input);
            script.now_ms += random.below(400);
            script.machine.handle_timer(script.now_ms);
            script.drain();
            assert!(script.machine.places_taken() <= Options::default().pulls_max);
        }
        // Everybody leaves, in silence: the streams and connections just end.
        for connection in 0..200 {
            script.tell(Input::Closed { connection: connection * 100 });
        }
        assert_eq!(script.machine.places_taken(), 0, "seed {seed}");
        assert!(script.machine.leases().iter().all(|lease| !lease.is_connected), "seed {seed}");
        assert_eq!(script.machine.next_timer_ms(script.now_ms), None, "seed {seed}");
    }
}

#[test]
fn what_is_read_ahead_stays_within_its_bound_whatever_is_asked_for() {
    let mut script = Script::new();
    script.machine =
        Sender::new(Options { buffer_bytes_max: 3 * CHUNK as u64, ..Options::default() });
    let content = script.contents[0].1.clone();
    let (snapshot, manifest, encoded) = (content.id, content.manifest, content.encoded);
    let mut sent = 0;
    for node in 1..=4 {
        script.tell(Input::Connected { connection: node, receiver: NodeId(node) });
        for stream in 0..4 {
            let ranges = vec![ByteRange { part: 0, offset: 0, bytes: 2 * CHUNK as u64 }];
            let request = Ok(PullRequest::Ranges { snapshot, ranges });
            let stream = node * 10 + stream;
            let text = script.tell(Input::Request { connection: node, stream, request });
            sent += text.matches(": send ").count();
        }
    }
    let result = Ok(Arc::new(OpenSnapshot { manifest, encoded }));
    sent += script.tell(Input::Opened { snapshot, result }).matches(": send ").count();
    assert_eq!(sent, 3);
    // One frame leaves, one is read.
    assert_eq!(script.tell(Input::FrameSent { stream: 10 }).matches(": send ").count(), 1);
}

#[test]
fn a_receiver_that_takes_nothing_loses_its_stream_and_its_place() {
    let mut script = Script::new();
    let content = script.contents[0].1.clone();
    let (snapshot, manifest, encoded) = (content.id, content.manifest, content.encoded);
    script.tell(Input::Connected { connection: 1, receiver: NodeId(1) });
    let ranges = vec![ByteRange { part: 0, offset: 0, bytes: 100 }];
    let request = Ok(PullRequest::Ranges { snapshot, ranges });
    script.tell(Input::Request { connection: 1, stream: 10, request });
    let result = Ok(Arc::new(OpenSnapshot { manifest, encoded }));
    script.tell(Input::Opened { snapshot, result });
    let mut text = String::new();
    while let Some(due_ms) = script.machine.next_timer_ms(script.now_ms) {
        assert!(due_ms > script.now_ms, "a timer that is due again and again");
        script.now_ms = due_ms;
        script.machine.handle_timer(due_ms);
        text += &script.drain();
    }
    assert_eq!(text, "10: reset\n");
    assert_eq!(script.machine.places_taken(), 0);
    assert!(script.now_ms < 60_000);
}

#[test]
fn a_limit_holds_over_all_receivers() {
    let mut script = Script::new();
    let content = script.contents[0].1.clone();
    let (snapshot, manifest, encoded) = (content.id, content.manifest, content.encoded);
    script.tell(Input::Limit(CHUNK as u64));
    let result = Ok(Arc::new(OpenSnapshot { manifest, encoded }));
    for node in 1..=2 {
        script.tell(Input::Connected { connection: node, receiver: NodeId(node) });
        let ranges = vec![ByteRange { part: 0, offset: 0, bytes: 2 * CHUNK as u64 }];
        let request = Ok(PullRequest::Ranges { snapshot, ranges });
        script.tell(Input::Request { connection: node, stream: node, request });
    }
    let mut sent: Vec<u64> = Vec::new();
    let mut text = script.tell(Input::Opened { snapshot, result });
    while sent.len() < 4 {
        for line in text.lines().filter(|line| line.contains(": send ")) {
            sent.push(script.now_ms);
            let stream = line.split(':').next().and_then(|name| name.parse().ok());
            script.machine.handle(script.now_ms, Input::FrameSent { stream: stream.unwrap_or(0) });
        }
        script.now_ms = script.machine.next_timer_ms(script.now_ms).expect("more is to be sent");
        script.machine.handle_timer(script.now_ms);
        text = script.drain();
    }
    assert!(sent[3] >= 2_900, "4 chunks at one chunk a second: {sent:?}");
}
