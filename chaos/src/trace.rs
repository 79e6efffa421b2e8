//! The trace of a run: a hash over everything that happened, and the words of it if asked for.
//!
//! Two runs of one seed have equal hashes, or something read a clock or a random number it should
//! not know. raft-rs's own log lines are no part of it: they are neither hashed nor told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use ratoon::types::NodeId;

/// Lines that a tail holds.
pub const TAIL_LINES: usize = 60;

/// Who is told what happens.
#[derive(Clone, Default)]
pub enum Listener {
    /// Nobody: quickest.
    #[default]
    Nobody,
    /// Whoever reads stderr, at once.
    Stderr,
    /// The last lines are kept for later.
    Tail(Arc<Mutex<VecDeque<String>>>),
}

impl Listener {
    /// One that keeps the last lines.
    pub fn tail() -> Self {
        Listener::Tail(Arc::default())
    }

    /// A logger whose lines stand between those of the trace.
    pub fn logger(&self) -> slog::Logger {
        match self {
            Listener::Nobody => slog::Logger::root(slog::Discard, slog::o!()),
            _ => slog::Logger::root(Lines(self.clone()), slog::o!()),
        }
    }

    /// The lines kept, oldest first.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Listener::Tail(lines) => {
                let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                lines.iter().cloned().collect()
            }
            Listener::Nobody | Listener::Stderr => Vec::new(),
        }
    }

    fn is_there(&self) -> bool {
        !matches!(self, Listener::Nobody)
    }

    #[allow(clippy::print_stderr)]
    fn hear(&self, line: String) {
        match self {
            Listener::Nobody => {}
            Listener::Stderr => eprintln!("{line}"),
            Listener::Tail(lines) => {
                // A run that panicked is still to be told of.
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                if lines.len() == TAIL_LINES {
                    lines.pop_front();
                }
                lines.push_back(line);
            }
        }
    }
}

/// See the module.
pub struct Trace {
    hash: u64,
    listener: Listener,
}

impl Trace {
    /// An empty trace.
    pub fn new(listener: Listener) -> Self {
        Trace { hash: 0xcbf2_9ce4_8422_2325, listener }
    }

    /// Something happened at a node (0: at none), with numbers that describe it.
    pub fn note<const N: usize>(
        &mut self,
        at_us: u64,
        node: NodeId,
        what: &str,
        numbers: [u64; N],
    ) {
        self.mix(at_us);
        self.mix(node.0);
        for chunk in what.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
        numbers.iter().for_each(|number| self.mix(*number));
        self.say(at_us, node, || format!("{what} {numbers:?}"));
    }

    /// Words for people; no part of the hash.
    pub fn say(&self, at_us: u64, node: NodeId, words: impl FnOnce() -> String) {
        if self.listener.is_there() {
            let at_ms = at_us as f64 / 1000.0;
            self.listener.hear(format!("{at_ms:>12.3} n{:<3} {}", node.0, words()));
        }
    }

    /// The hash so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    fn mix(&mut self, word: u64) {
        let mixed = (self.hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.hash = mixed ^ (mixed >> 29);
    }
}

/// Takes the log lines of the nodes in, but none of raft-rs.
struct Lines(Listener);

impl slog::Drain for Lines {
    type Ok = ();
    type Err = slog::Never;

    fn log(
        &self,
        record: &slog::Record<'_>,
        context: &slog::OwnedKVList,
    ) -> Result<(), slog::Never> {
        if is_of_raft_rs(record.module()) {
            return Ok(());
        }
        let mut words = Words(format!("{:>16} {}", "", record.msg()));
        // Writing to a string does not fail.
        slog::KV::serialize(&record.kv(), record, &mut words).unwrap_or_default();
        slog::KV::serialize(context, record, &mut words).unwrap_or_default();
        self.0.hear(words.0);
        Ok(())
    }
}

/// Whether a module path lies in the crate raft; ours begin with `ratoon`.
fn is_of_raft_rs(module: &str) -> bool {
    module == "raft" || module.starts_with("raft::")
}

struct Words(String);

impl slog::Serializer for Words {
    fn emit_arguments(&mut self, key: slog::Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
        self.0.push_str(&format!(" {key}={value}"));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_of_raft_rs_are_left_out_and_ours_are_told() {
        assert!(is_of_raft_rs("raft::raft"));
        assert!(!is_of_raft_rs("ratoon::raft::core"));
        let listener = Listener::tail();
        // This module is none of raft-rs.
        slog::info!(listener.logger(), "offered"; "receiver" => 3);
        assert_eq!(listener.lines().len(), 1);
    }

    #[test]
    fn a_tail_keeps_the_last_lines_and_words_change_no_hash() {
        let listener = Listener::tail();
        let mut trace = Trace::new(listener.clone());
        let before = trace.hash();
        for line in 0..=TAIL_LINES {
            trace.say(line as u64, NodeId(1), || format!("line {line}"));
        }
        assert_eq!(trace.hash(), before);
        assert_eq!(listener.lines().len(), TAIL_LINES);
        assert!(listener.lines()[0].ends_with("line 1"));
        trace.note(1, NodeId(1), "boot", [1]);
        assert_ne!(trace.hash(), before);
    }
}
