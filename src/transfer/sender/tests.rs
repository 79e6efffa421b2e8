//! Golden scripts of the source (`testscripts/sender/`), and what no error path may leave behind.

use std::collections::BTreeMap;
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
                    format!("{stream}: read {}:{}+{}", range.part, range.offset, range.bytes)
                }
                Output::SendPiece { stream, bytes } => format!("{stream}: send {bytes} B"),
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

    fn wait(&mut self, ms: u64) -> String {
        self.now_ms += ms;
        self.machine.handle_timer(self.now_ms);
        self.drain()
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
            "ready" => {
                let bytes = words.get(1).ok_or("how many bytes?")?.parse()?;
                self.tell(Input::PieceReady { stream: number()?, bytes })
            }
            "sent" => self.tell(Input::FrameSent { stream: number()? }),
            "limit" => self.tell(Input::Limit(number()?)),
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
            "wait" => self.wait(number()?),
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
            let input = match random.below(13) {
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
                10 => Input::PieceReady { stream: stream * 100, bytes: 700 },
                11 => Input::PartChecked { snapshot, part, result: Ok(true) },
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
            sent += text.matches(": read ").count();
        }
    }
    let result = Ok(Arc::new(OpenSnapshot { manifest, encoded }));
    sent += script.tell(Input::Opened { snapshot, result }).matches(": read ").count();
    // Three in all, of the first receiver, and one for each that would have none.
    assert_eq!(sent, 3 + 3);
    let mut read = |stream| script.tell(Input::FrameSent { stream }).matches(": read ").count();
    assert_eq!([read(10), read(11)], [0, 0], "what was beyond the bound leaves first");
    assert_eq!(read(12), 1, "the first receiver has none any more");
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
fn a_limit_holds_over_all_receivers_and_none_waits_long_for_its_next_bytes() {
    let mut script = Script::new();
    let content = script.contents[0].1.clone();
    let (snapshot, manifest, encoded) = (content.id, content.manifest, content.encoded);
    let rate = 20_000;
    script.tell(Input::Limit(rate));
    for node in 1..=4 {
        script.tell(Input::Connected { connection: node, receiver: NodeId(node) });
        for lane in 0..4 {
            let ranges = vec![ByteRange { part: 0, offset: 0, bytes: CHUNK as u64 }];
            let request = Ok(PullRequest::Ranges { snapshot, ranges });
            let stream = 10 * node + lane;
            script.tell(Input::Request { connection: node, stream, request });
        }
    }
    let result = Ok(Arc::new(OpenSnapshot { manifest, encoded }));
    script.machine.handle(0, Input::Opened { snapshot, result });
    let mut left: BTreeMap<u64, u64> = BTreeMap::new();
    let mut heard_ms = [0; 5];
    let mut sent = 0;
    while script.now_ms < 600_000 {
        let mut said = Vec::new();
        while let Some(output) = script.machine.poll_output() {
            match output {
                Output::SendFrame { stream, range, .. } => {
                    left.insert(stream, range.bytes);
                    said.push(Input::PieceReady { stream, bytes: range.bytes });
                }
                Output::SendPiece { stream, bytes } => {
                    let receiver = stream as usize / 10;
                    let silence_ms = script.now_ms - heard_ms[receiver];
                    assert!(silence_ms < PULL_NO_PROGRESS_MS / 2, "{silence_ms}");
                    heard_ms[receiver] = script.now_ms;
                    sent += bytes;
                    let left = left.get_mut(&stream).expect("it was read");
                    *left -= bytes;
                    said.push(Input::PieceReady { stream, bytes: *left });
                }
                Output::Answer { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        for input in said {
            script.machine.handle(script.now_ms, input);
        }
        script.now_ms = script.machine.next_timer_ms(script.now_ms).expect("more is to be sent");
        script.machine.handle_timer(script.now_ms);
    }
    assert!((590 * rate..610 * rate).contains(&sent), "{sent} B in 600 s");
}
