//! Fuzzing on the stable compiler: the corpus of a parser, and inputs bent out of it.
//!
//! A room that parses declares a `Target`, valid examples made by its own encoders, and a check. The
//! inputs of `chaos/corpus/fuzz/NAME/` run first, then mutations of them, shrunk when one fails. Pure
//! noise would end at the first length or checksum; what is nearly right gets further. Compiled
//! for tests only; knows no parser.
#![allow(clippy::unwrap_used)]

mod mutation;

use std::cell::{Cell, RefCell};
use std::fmt::Debug;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use proptest::test_runner::{Config, TestError, TestRunner};

/// Seconds a target is fuzzed for; without it, `CASES` inputs a target.
const SECONDS_VARIABLE: &str = "FUZZ_SECONDS";
/// Set to write the valid examples into the corpus.
const WRITE_VARIABLE: &str = "FUZZ_WRITE_CORPUS";
/// Folder in which an input that fails is kept.
const KEEP_VARIABLE: &str = "FUZZ_KEEP";
/// Random inputs of a target in a plain run of the tests.
const CASES: u32 = 200;
/// Random inputs between two looks at the clock.
const CASES_PER_ROUND: u32 = 1000;
/// Accepted inputs that are mutated further in a timed run.
const FOUND_MAX: usize = 256;
/// Memory that a parser may take whatever its input: errors, small tables.
const MEMORY_BYTES_BASE: usize = 64 * 1024;
/// Memory that a parser may take for one byte of its input: two bytes make an item of a list.
const MEMORY_BYTES_PER_BYTE: usize = 256;

/// What a parser made of an input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It has a meaning.
    Accepted,
    /// It has none, and that was said.
    Refused,
}

impl Verdict {
    /// Accepted if something came out.
    pub fn of<T, E>(result: &Result<T, E>) -> Verdict {
        match result {
            Ok(_) => Verdict::Accepted,
            Err(_) => Verdict::Refused,
        }
    }

    /// Accepted if one of both is.
    pub fn or(self, other: Verdict) -> Verdict {
        match self {
            Verdict::Accepted => self,
            Verdict::Refused => other,
        }
    }
}

/// A parser under test.
pub struct Target {
    /// Names its folder of the corpus.
    pub name: &'static str,
    /// Valid inputs by name, from the real encoders.
    pub examples: Vec<(&'static str, Vec<u8>)>,
    /// Pieces of its grammar, for texts.
    pub words: &'static [&'static str],
    /// The examples are valid in this run alone, since they hold fresh keys, and are not stored.
    pub is_fleeting: bool,
}

impl Target {
    /// A target for bytes.
    pub fn new(name: &'static str, examples: Vec<(&'static str, Vec<u8>)>) -> Self {
        Target { name, examples, words: &[], is_fleeting: false }
    }

    /// Checks every input of the corpus, then mutations of them. `check` panics over what must not
    /// be; it is told nothing but the input, so that an input alone shows a failure again.
    pub fn run(self, check: impl Fn(&[u8]) -> Verdict) {
        let seeds = self.corpus(&check);
        let run = Run { name: self.name, words: self.words, check, found: RefCell::default() };
        let started = Instant::now();
        match std::env::var(SECONDS_VARIABLE) {
            Err(_) => {
                run.round(&seeds, CASES);
            }
            Ok(seconds) => {
                let end = Duration::from_secs(seconds.parse().unwrap());
                let (mut inputs, mut accepted) = (0, 0);
                while started.elapsed() < end {
                    let mut known = seeds.clone();
                    known.extend(run.found.borrow().iter().cloned());
                    accepted += run.round(&known, CASES_PER_ROUND);
                    inputs += u64::from(CASES_PER_ROUND);
                }
                report(self.name, seeds.len(), inputs, accepted, started.elapsed());
            }
        }
    }

    /// All inputs of the corpus, checked: the valid ones must pass, the others must do no harm.
    fn corpus(&self, check: &impl Fn(&[u8]) -> Verdict) -> Vec<Vec<u8>> {
        let folder = folder(self.name);
        let mut seeds = Vec::new();
        for (name, bytes) in &self.examples {
            assert_eq!(check(bytes), Verdict::Accepted, "example {name} of {}", self.name);
            if self.is_fleeting {
                seeds.push(bytes.clone());
                continue;
            }
            let path = folder.join(format!("{VALID}{name}"));
            if std::env::var_os(WRITE_VARIABLE).is_some() {
                fs::create_dir_all(&folder).unwrap();
                fs::write(&path, bytes).unwrap();
            }
            assert!(path.exists(), "{} is missing: run `make fuzz-corpus`", path.display());
        }
        let files = fs::read_dir(&folder).into_iter().flatten();
        let mut paths: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let bytes = fs::read(&path).unwrap();
            let verdict = check(&bytes);
            // What an earlier release wrote stays readable.
            let passes = verdict == Verdict::Accepted || !name.starts_with(VALID);
            assert!(passes, "{name} of {} is refused", self.name);
            seeds.push(bytes);
        }
        seeds
    }
}

/// How the names of valid inputs begin.
const VALID: &str = "valid-";

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("chaos/corpus/fuzz").join(target)
}

/// One target under way.
struct Run<C> {
    name: &'static str,
    words: &'static [&'static str],
    check: C,
    /// Mutations that were accepted.
    found: RefCell<Vec<Vec<u8>>>,
}

impl<C: Fn(&[u8]) -> Verdict> Run<C> {
    /// Runs mutations of `seeds`; answers how many were accepted.
    fn round(&self, seeds: &[Vec<u8>], cases: u32) -> u64 {
        let mut runner = TestRunner::new(Config {
            cases,
            failure_persistence: None,
            max_shrink_iters: 2_000,
            ..Config::default()
        });
        let inputs = mutation::mutated(Rc::from(seeds), self.words);
        let accepted = Cell::new(0);
        let result = runner.run(&inputs, |input| {
            if (self.check)(&input.0) == Verdict::Accepted {
                accepted.set(accepted.get() + 1);
                self.keep(input.0);
            }
            Ok(())
        });
        match result {
            Ok(()) => accepted.get(),
            Err(TestError::Fail(reason, input)) => self.fail(&reason.to_string(), &input.0),
            Err(TestError::Abort(reason)) => panic!("{}: {reason}", self.name),
        }
    }

    /// Keeps an accepted input, now and then in the place of another.
    fn keep(&self, input: Vec<u8>) {
        let mut found = self.found.borrow_mut();
        if found.len() < FOUND_MAX {
            found.push(input);
        } else {
            let place = blake3::hash(&input).as_bytes()[0];
            found[usize::from(place)] = input;
        }
    }

    /// Shows the smallest input that fails, and keeps it where a person asked for it.
    fn fail(&self, reason: &str, input: &[u8]) -> ! {
        if let Some(folder) = std::env::var_os(KEEP_VARIABLE) {
            let name = format!("{}-{}", self.name, &blake3::hash(input).to_hex()[..12]);
            fs::create_dir_all(&folder).unwrap();
            fs::write(PathBuf::from(folder).join(name), input).unwrap();
        }
        panic!(
            "{}: {reason}\ninput: {}\nonce it is mended, add the input to {} as failed-WHAT",
            self.name,
            input.escape_ascii(),
            folder(self.name).display()
        );
    }
}

#[allow(clippy::print_stderr)]
fn report(name: &str, seeds: usize, inputs: u64, accepted: u64, elapsed: Duration) {
    eprintln!(
        "fuzz {name}: {seeds} inputs of the corpus, {inputs} random ones ({accepted} accepted) in \
         {:.1} s",
        elapsed.as_secs_f64()
    );
}

/// What `parse` makes of `input`, with its memory bounded by the length of the input.
pub fn bounded<T>(input: &[u8], parse: impl FnOnce() -> T) -> T {
    let mut result = None;
    // The counter would lose its place if a panic went through it.
    let caught = || result = Some(catch_unwind(AssertUnwindSafe(parse)));
    let memory = allocation_counter::measure(caught);
    let result = result.unwrap().unwrap_or_else(|panic| resume_unwind(panic));
    let limit = MEMORY_BYTES_BASE + MEMORY_BYTES_PER_BYTE * input.len();
    assert!(
        memory.bytes_max <= limit as u64,
        "{} bytes of memory for {} bytes of input",
        memory.bytes_max,
        input.len()
    );
    result
}

/// Parses within bounds; what comes out must survive its own encoding.
pub fn survives<T: PartialEq + Debug, E: Debug, B: AsRef<[u8]>>(
    input: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, E>,
    encode: impl Fn(&T) -> B,
) -> Verdict {
    let result = bounded(input, || decode(input));
    if let Ok(value) = &result {
        assert_eq!(&decode(encode(value).as_ref()).unwrap(), value);
    }
    Verdict::of(&result)
}

/// The same for formats with one spelling of everything: encoding gives the input again. A sealed
/// format is one, since nothing passes its checksum but what an encoder sealed.
pub fn canonical<T: PartialEq + Debug, E: Debug, B: AsRef<[u8]>>(
    input: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, E>,
    encode: impl Fn(&T) -> B,
) -> Verdict {
    let result = bounded(input, || decode(input));
    if let Ok(value) = &result {
        assert_eq!(
            encode(value).as_ref().escape_ascii().to_string(),
            input.escape_ascii().to_string()
        );
    }
    Verdict::of(&result)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "self-test";

    fn examples() -> Vec<(&'static str, Vec<u8>)> {
        vec![("plain", b"length 4: abcd".to_vec())]
    }

    fn failure(check: impl Fn(&[u8]) -> Verdict + std::panic::UnwindSafe) -> String {
        let run = || Target::new(NAME, examples()).run(check);
        *std::panic::catch_unwind(run).unwrap_err().downcast::<String>().unwrap()
    }

    #[test]
    fn a_parser_that_panics_is_found_and_its_input_is_shrunk() {
        let message = failure(|input| {
            assert!(!input.starts_with(b"length") || input.len() == 14, "wrong length");
            Verdict::Accepted
        });
        assert!(message.contains("wrong length"), "{message}");
        assert!(message.contains("input: length"), "{message}");
    }

    #[test]
    fn a_parser_that_believes_a_length_is_found() {
        let message = failure(|input| {
            let length = if input.get(7) == Some(&b'4') { 4 } else { 1 << 20 };
            bounded(input, || drop(Vec::<u8>::with_capacity(length)));
            Verdict::Accepted
        });
        assert!(message.contains("bytes of memory"), "{message}");
    }

    #[test]
    fn an_example_that_is_refused_is_found() {
        let message = failure(|_| Verdict::Refused);
        assert!(message.contains("example plain of self-test"), "{message}");
    }

    #[test]
    fn an_encoding_that_differs_is_found() {
        let parse = |input: &[u8]| Ok::<_, ()>(input.trim_ascii().to_vec());
        let message = failure(move |input| canonical(input, parse, Vec::clone));
        assert!(message.contains(NAME), "{message}");
        assert_eq!(survives(b" a ", parse, Vec::clone), Verdict::Accepted);
    }
}
