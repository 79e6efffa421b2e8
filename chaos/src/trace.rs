//! The trace of a run: a hash over everything that happened, and the text of it if asked for.
//!
//! Two runs of one seed have equal hashes, or something read a clock or a random number it should
//! not know. raft-rs's own log lines are no part of it.

use ratoon::types::NodeId;

/// See the module.
pub struct Trace {
    hash: u64,
    print: bool,
}

impl Trace {
    /// An empty trace; `print` tells every event on stderr.
    pub fn new(print: bool) -> Self {
        Trace { hash: 0xcbf2_9ce4_8422_2325, print }
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
        if self.print {
            tell(at_us, node, &format!("{what} {numbers:?}"));
        }
    }

    /// Words for people; no part of the hash.
    pub fn say(&self, at_us: u64, node: NodeId, words: impl FnOnce() -> String) {
        if self.print {
            tell(at_us, node, &words());
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

#[allow(clippy::print_stderr)]
fn tell(at_us: u64, node: NodeId, words: &str) {
    eprintln!("{:>12.3} n{:<3} {words}", at_us as f64 / 1000.0, node.0);
}

/// A logger whose lines stand between those of the trace.
pub fn logger() -> slog::Logger {
    slog::Logger::root(Lines, slog::o!())
}

struct Lines;

impl slog::Drain for Lines {
    type Ok = ();
    type Err = slog::Never;

    fn log(
        &self,
        record: &slog::Record<'_>,
        context: &slog::OwnedKVList,
    ) -> Result<(), slog::Never> {
        let mut words = Words(format!("{:>16} {}", "", record.msg()));
        // Writing to a string does not fail.
        slog::KV::serialize(&record.kv(), record, &mut words).unwrap_or_default();
        slog::KV::serialize(context, record, &mut words).unwrap_or_default();
        #[allow(clippy::print_stderr)]
        {
            eprintln!("{}", words.0);
        }
        Ok(())
    }
}

struct Words(String);

impl slog::Serializer for Words {
    fn emit_arguments(&mut self, key: slog::Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
        self.0.push_str(&format!(" {key}={value}"));
        Ok(())
    }
}
