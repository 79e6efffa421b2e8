//! Golden scripts of the receiver (`testscripts/receiver/`), and its table of states.
//!
//! A script says what happens and shows what the machine wants done. `UPDATE_GOLDENFILES=1` writes
//! the outputs anew; read the difference before you commit it.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::fmt::Write as _;

use bytes::Bytes;
use goldenscript::{Command, Context, Runner};

use super::*;
use crate::limits::CHUNK_BYTES_MIN;
use crate::transfer::simulation::{CLUSTER, Content};
use crate::types::{ByteRange, Now, TransferState};

const CHUNK: usize = CHUNK_BYTES_MIN as usize;

/// The machine, and what a runtime would remember.
struct Script {
    machine: Receiver,
    now_ms: u64,
    contents: Vec<(&'static str, Content)>,
    attempt: u64,
    /// Requests for bytes, oldest first, with what they still lack.
    asked: VecDeque<(u64, SnapshotId, VecDeque<ByteRange>)>,
    /// Any other request, the newest last.
    other: Vec<u64>,
    disk: VecDeque<(u64, DiskOperation)>,
    /// Numbers as the machine gave them, shown by order of appearance.
    seen: Vec<u64>,
}

impl Script {
    fn new() -> Self {
        let options = Options { streams: 2, ..Options::new(NodeId(9), CLUSTER, 1) };
        let contents = vec![
            ("s1", Content::random(40, &[2 * CHUNK + 100, 600], 1)),
            ("s2", Content::random(50, &[CHUNK, 600], 2)),
        ];
        Script {
            machine: Receiver::new(options, None, Now { monotonic_ms: 0, unix_ms: 0 }),
            now_ms: 0,
            contents,
            attempt: 0,
            asked: VecDeque::new(),
            other: Vec::new(),
            disk: VecDeque::new(),
            seen: Vec::new(),
        }
    }

    fn now(&self) -> Now {
        Now { monotonic_ms: self.now_ms, unix_ms: self.now_ms }
    }

    fn content(&self, name: &str) -> Result<Content, Box<dyn StdError>> {
        let found = self.contents.iter().find(|(other, _)| *other == name);
        found.map(|(_, content)| content.clone()).ok_or_else(|| format!("no {name}").into())
    }

    fn by_id(&self, id: SnapshotId) -> &(&'static str, Content) {
        self.contents.iter().find(|(_, content)| content.id == id).expect("a known snapshot")
    }

    fn nick(&mut self, name: u64) -> usize {
        if !self.seen.contains(&name) {
            self.seen.push(name);
        }
        self.seen.iter().position(|seen| *seen == name).unwrap_or_default() + 1
    }

    fn tell(&mut self, input: Input) -> String {
        let now = self.now();
        self.machine.handle(now, input);
        self.drain()
    }

    /// Takes the outputs in and shows them.
    fn drain(&mut self) -> String {
        let mut text = String::new();
        while let Some(output) = self.machine.poll_output() {
            let line = match output {
                Output::Connect { attempt, source } => {
                    self.attempt = attempt;
                    format!("connect #{} to node {}", self.nick(attempt), source.node)
                }
                Output::Disconnect { attempt } => format!("disconnect #{}", self.nick(attempt)),
                Output::Request { request, body, .. } => self.show_request(request, body),
                Output::Abandon { request } => {
                    self.asked.retain(|(other, ..)| *other != request);
                    format!("abandon #{}", self.nick(request))
                }
                Output::Disk { ticket, operation } => {
                    let line = self.show_disk(&operation);
                    self.disk.push_back((ticket, operation));
                    line
                }
                Output::RetryDisk { .. } => {
                    "retry the disk operation that found no room".to_owned()
                }
                Output::DropDisk { .. } => "drop the disk operation that found no room".to_owned(),
                Output::Event(event) => self.show_event(&event),
            };
            writeln!(text, "{line}").expect("text takes text");
        }
        text
    }

    fn show_request(&mut self, request: u64, body: PullRequest) -> String {
        let nick = self.nick(request);
        match body {
            PullRequest::Manifest { snapshot } => {
                self.other.push(request);
                format!("request #{nick}: manifest of {}", self.by_id(snapshot).0)
            }
            PullRequest::Suspect { snapshot, part, chunk } => {
                self.other.push(request);
                let name = self.by_id(snapshot).0;
                format!("request #{nick}: check part {part} of {name}, chunk {chunk} is bad")
            }
            PullRequest::Ranges { snapshot, ranges } => {
                let shown: Vec<String> = ranges
                    .iter()
                    .map(|range| format!("{}:{}+{}", range.part, range.offset, range.bytes))
                    .collect();
                self.asked.push_back((request, snapshot, ranges.into()));
                format!("request #{nick}: {}", shown.join(" "))
            }
        }
    }

    fn show_disk(&self, operation: &DiskOperation) -> String {
        match operation {
            DiskOperation::Open { snapshot, .. } => {
                format!("disk: open {}", self.by_id(*snapshot).0)
            }
            DiskOperation::Inspect { part, .. } => format!("disk: inspect part {part}"),
            DiskOperation::CheckSpace { bytes } => format!("disk: room for {bytes}?"),
            DiskOperation::Write { part, offset, bytes, .. } => {
                format!("disk: write {part}:{offset}+{}", bytes.len())
            }
            DiskOperation::Persist { parts, record, .. } => {
                format!("disk: sync parts {parts:?}, record {}", record.state.name())
            }
            DiskOperation::Verify { part, .. } => format!("disk: check part {part}"),
            DiskOperation::Finish { .. } => "disk: finish".to_owned(),
            DiskOperation::Remove { snapshot } => {
                format!("disk: remove {}", self.by_id(*snapshot).0)
            }
            DiskOperation::RemoveOthers { keep: Some(_) } => "disk: remove others".to_owned(),
            DiskOperation::RemoveOthers { keep: None } => "disk: remove all".to_owned(),
            DiskOperation::SaveStatus(status) => {
                format!("disk: remember that it ended {}", status.state.name())
            }
        }
    }

    fn show_event(&self, event: &Event) -> String {
        match event {
            Event::Progress(status) => {
                format!(
                    "event: {} {} of {}",
                    status.state.name(),
                    status.done_bytes,
                    status.total_bytes
                )
            }
            Event::Durable { id, index, .. } => {
                format!("event: {} at {index} is durable", self.by_id(*id).0)
            }
            Event::Failed { id, reason, .. } => {
                format!("event: {} failed: {reason}", self.by_id(*id).0)
            }
            Event::WantsNewOffer { id, reason, .. } => {
                format!("event: a new offer is wanted for {}: {reason}", self.by_id(*id).0)
            }
        }
    }

    /// Answers disk operations as a healthy disk would, until none is left; or the first otherwise.
    fn run_disk(&mut self, how: Option<&str>) -> String {
        let mut text = String::new();
        while let Some((ticket, operation)) = self.disk.pop_front() {
            // Rot shows only when a part is read.
            let how = how.filter(|how| {
                *how != "rotten" || matches!(operation, DiskOperation::Verify { .. })
            });
            let result = match how {
                Some("full") => {
                    let result = DiskResult::Full { reason: "no room".to_owned() };
                    self.disk.push_front((ticket, operation));
                    result
                }
                Some("failed") => DiskResult::Failed { reason: "EIO".to_owned() },
                Some("rotten") => {
                    let digest = Digest([0; 32]);
                    DiskResult::Checked(PartCheck { digest, bad_chunks: vec![0] })
                }
                _ => self.healthy(&operation),
            };
            text += &self.tell(Input::Disk { ticket, result });
            if how.is_some() {
                break;
            }
        }
        text
    }

    fn healthy(&self, operation: &DiskOperation) -> DiskResult {
        match operation {
            DiskOperation::Open { .. } => DiskResult::Opened { record: None },
            DiskOperation::Inspect { snapshot, part, .. } => {
                let chunks = ChunkSet::new(self.by_id(*snapshot).1.manifest.chunks(*part));
                DiskResult::Inspected(Finding::Staged { chunks, prefixes: Vec::new() })
            }
            DiskOperation::Verify { snapshot, part } => {
                let manifest = &self.by_id(*snapshot).1.manifest;
                let digest = manifest.parts[*part as usize].digest;
                DiskResult::Checked(PartCheck { digest, bad_chunks: Vec::new() })
            }
            _ => DiskResult::Done,
        }
    }

    /// Delivers the next chunk of the oldest request, or its first bytes, or spoiled.
    fn chunk(&mut self, bytes: Option<usize>, is_bad: bool) -> Result<String, Box<dyn StdError>> {
        let (request, snapshot, ranges) = self.asked.front_mut().ok_or("nothing was asked for")?;
        let (request, snapshot) = (*request, *snapshot);
        let front = ranges.front_mut().ok_or("all was delivered")?;
        let (part, offset) = (front.part, front.offset);
        let content = self.contents.iter().find(|(_, content)| content.id == snapshot);
        let content = &content.expect("a known snapshot").1;
        let manifest = &content.manifest;
        let (start, length) = manifest.chunk_bounds(part, manifest.chunk_at(offset));
        let end = start + u64::from(length);
        front.bytes -= end - offset;
        front.offset = end;
        if front.bytes == 0 {
            ranges.pop_front();
        }
        let is_done = ranges.is_empty();
        let mut data = content.parts[part as usize][offset as usize..end as usize].to_vec();
        let crc32c = crc32c::crc32c(&data);
        if is_bad {
            data[0] ^= 1;
        }
        let header = ChunkHeader { part, offset, bytes: data.len() as u32, crc32c };
        data.truncate(bytes.unwrap_or(data.len()));
        if is_done && bytes.is_none() {
            self.asked.pop_front();
        }
        let mut text = self.tell(Input::Frame { request, header });
        text += &self.tell(Input::Data { request, bytes: Bytes::from(data) });
        Ok(text)
    }

    fn status(&self) -> String {
        let Some(status) = self.machine.status(self.now()) else { return "idle".to_owned() };
        let s = &status;
        format!(
            "{} {} of {} from node {}; received {} resent {} discarded {} resumes {}{}{}",
            s.state.name(),
            s.done_bytes,
            s.total_bytes,
            s.source,
            s.received_bytes,
            s.resent_bytes,
            s.discarded_bytes,
            s.resumes,
            if s.stall_reason.is_empty() { "" } else { "; " },
            s.stall_reason
        )
    }
}

impl Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn StdError>> {
        let mut args = command.consume_args();
        let word = args.next_pos().map(str::to_owned);
        let name = word.as_deref();
        let number = |key: Option<&str>| key.map(str::parse::<u64>).transpose();
        let output = match command.name.as_str() {
            "offer" => {
                let content = self.content(name.ok_or("which?")?)?;
                let nodes: Result<Vec<u64>, _> =
                    args.take_key("from").unwrap_or("1").split(',').map(str::parse).collect();
                let (reference, index) = (content.reference(&nodes?), content.manifest.index);
                self.tell(Input::Offer { reference, index, message_bytes: 300 })
            }
            "up" => self.tell(Input::Connected { attempt: self.attempt }),
            "down" => {
                self.asked.clear();
                let (attempt, reason) = (self.attempt, "cut".to_owned());
                self.tell(Input::Disconnected { attempt, reason })
            }
            "manifest" => {
                let content = self.content(name.ok_or("which?")?)?;
                let mut bytes = content.encoded.to_vec();
                if args.next_pos() == Some("bad") {
                    bytes[9] ^= 1;
                }
                let request = self.other.pop().ok_or("nobody asked")?;
                self.tell(Input::Manifest { request, bytes: bytes.into() })
            }
            "chunk" => {
                let bytes = number(args.take_key("bytes"))?.map(|bytes| bytes as usize);
                self.chunk(bytes, name == Some("bad"))?
            }
            "disk" => self.run_disk(name),
            "queued" => {
                let request = self.asked.front().ok_or("nothing was asked for")?.0;
                self.tell(Input::Queued { request, ahead: name.ok_or("how many?")?.parse()? })
            }
            "refuse" => {
                let request = match self.asked.pop_front() {
                    Some((request, ..)) => request,
                    None => self.other.pop().ok_or("nothing was asked for")?,
                };
                let reason = refusal(name)?;
                self.tell(Input::Refused { request, reason, message: "so it is".to_owned() })
            }
            "verdict" => {
                let request = self.other.pop().ok_or("nobody asked")?;
                self.tell(Input::Verdict { request, part_is_good: name == Some("good") })
            }
            "ended" => {
                let request = self.asked.pop_front().ok_or("nothing was asked for")?.0;
                self.tell(Input::RequestEnded { request, failure: Some("reset".to_owned()) })
            }
            "wait" => {
                self.now_ms += name.ok_or("how long?")?.parse::<u64>()?;
                let now = self.now();
                self.machine.handle_timer(now);
                self.drain()
            }
            "pause" => self.tell(Input::Pause(name != Some("off"))),
            "cancel" => self.tell(Input::Cancel),
            "stepped" => self.tell(Input::Stepped(self.content(name.ok_or("which?")?)?.id)),
            "installed" => self.tell(Input::Installed(self.content(name.ok_or("which?")?)?.id)),
            "superseded" => self.tell(Input::Superseded(self.content(name.ok_or("which?")?)?.id)),
            "status" => self.status(),
            other => return Err(format!("no command {other}").into()),
        };
        args.reject_next()?;
        Ok(output)
    }
}

fn refusal(name: Option<&str>) -> Result<RefusalReason, String> {
    match name {
        Some("unknown") => Ok(RefusalReason::UnknownSnapshot),
        Some("fenced") => Ok(RefusalReason::Fenced),
        Some("shutdown") => Ok(RefusalReason::ShuttingDown),
        other => Err(format!("reason {other:?}?")),
    }
}

fn run(name: &str) {
    let path = format!("{}/src/transfer/testscripts/receiver/{name}", env!("CARGO_MANIFEST_DIR"));
    goldenscript::run(&mut Script::new(), path).expect("the script runs");
}

#[test]
fn script_clean() {
    run("clean");
}

#[test]
fn script_cut() {
    run("cut");
}

#[test]
fn script_silence() {
    run("silence");
}

#[test]
fn script_bad_chunk() {
    run("bad_chunk");
}

#[test]
fn script_disk() {
    run("disk");
}

#[test]
fn script_offers() {
    run("offers");
}

#[test]
fn script_ends() {
    run("ends");
}

#[test]
fn every_state_but_the_last_can_end_and_none_goes_back_to_the_start() {
    use TransferState::*;
    let states = [
        Offered,
        FetchingManifest,
        Planning,
        Pulling,
        Verifying,
        Durable,
        Stepped,
        Installed,
        Superseded,
        Failed(String::new()),
    ];
    for from in &states {
        assert!(!may_follow(from, &Offered));
        assert_eq!(may_follow(from, &Superseded), !from.is_final(), "{}", from.name());
        assert_eq!(may_follow(from, &Failed("x".to_owned())), !from.is_final());
        let next = states.iter().filter(|to| may_follow(from, to)).count();
        assert_eq!(next == 0, from.is_final(), "{}", from.name());
    }
    for (from, to, _) in TRANSITIONS {
        let known = |name: &str| states.iter().any(|state| state.name() == name);
        assert!(known(from) && known(to), "{from} to {to}");
    }
}

#[test]
fn an_offer_of_another_cluster_or_without_a_source_disturbs_nothing() {
    let mut script = Script::new();
    let content = script.content("s1").expect("known");
    let mut reference = content.reference(&[1]);
    reference.cluster = crate::types::ClusterId([0; 16]);
    let text = script.tell(Input::Offer { reference, index: 40, message_bytes: 1 });
    assert!(text.contains("failed: it is of cluster"), "{text}");
    let reference = content.reference(&[]);
    let text = script.tell(Input::Offer { reference, index: 40, message_bytes: 1 });
    assert!(text.contains("names no source"), "{text}");
    assert_eq!(script.status(), "idle");
}

#[test]
fn a_manifest_that_does_not_say_what_was_offered_is_refused() {
    let mut script = Script::new();
    let content = script.content("s1").expect("known");
    // The right digest, but of an older state than the leader's message promises.
    let reference = content.reference(&[1]);
    script.tell(Input::Offer { reference, index: 41, message_bytes: 1 });
    script.tell(Input::Connected { attempt: script.attempt });
    let request = script.other.pop().expect("asked");
    script.tell(Input::Manifest { request, bytes: content.encoded.clone() });
    let request = script.other.pop().expect("asked again");
    let text = script.tell(Input::Manifest { request, bytes: content.encoded });
    assert!(text.contains("wrong manifest"), "{text}");
}

#[test]
fn late_answers_of_an_ended_pull_are_ignored() {
    let mut script = Script::new();
    let content = script.content("s1").expect("known");
    let reference = content.reference(&[1]);
    script.tell(Input::Offer { reference, index: 40, message_bytes: 1 });
    let attempt = script.attempt;
    script.tell(Input::Cancel);
    for input in [
        Input::Connected { attempt },
        Input::Disconnected { attempt, reason: String::new() },
        Input::Manifest { request: 1, bytes: Bytes::from_static(b"x") },
        Input::Data { request: 1, bytes: Bytes::from_static(b"x") },
        Input::Verdict { request: 1, part_is_good: true },
        Input::Disk { ticket: 1, result: DiskResult::Done },
        Input::Installed(content.id),
        Input::Cancel,
    ] {
        assert_eq!(script.tell(input.clone()), "", "{input:?}");
    }
    // But a disk thread that waits for a word gets it.
    let full = DiskResult::Full { reason: String::new() };
    let text = script.tell(Input::Disk { ticket: 77, result: full });
    assert_eq!(text, "drop the disk operation that found no room\n");
}
