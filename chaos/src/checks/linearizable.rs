//! Linearizability of each key, judged by what clients saw alone: there is an order of all
//! operations that keeps to the times of calls and answers and explains every answer.
//!
//! All possible states are carried through the history. An operation takes effect between its call
//! and its answer; one without an answer may take effect at any time after its call, or never. It
//! knows nothing of logs and indexes, only that a version names a value.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use ratoon::types::{Action, Condition, Reply};

use super::history::{Effect, History, Operation, Outcome};

/// Over so many possibilities a history counts as undecided.
const POSSIBILITIES_MAX: usize = 20_000;

/// A value by number; 0: none.
type Value = u64;

/// What one operation means for one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Saw this value.
    Read(Value),
    /// Stored a value (0: deleted), and found a value before, or not.
    Wrote { after: Value, expects: Expects, existed: bool },
    /// Found its condition false.
    Refused { expects: Expects },
    /// Nobody knows whether it stored a value.
    Perhaps { after: Value, expects: Expects },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expects {
    Anything,
    Exactly(Value),
}

impl Expects {
    fn holds(self, value: Value) -> bool {
        self == Expects::Anything || self == Expects::Exactly(value)
    }
}

impl Step {
    /// The value after this takes effect on `value`; None: it cannot.
    fn take(self, value: Value) -> Option<Value> {
        match self {
            Step::Read(seen) => (seen == value).then_some(value),
            Step::Wrote { after, expects, existed } => {
                (expects.holds(value) && existed == (value != 0)).then_some(after)
            }
            Step::Refused { expects } => (!expects.holds(value)).then_some(value),
            Step::Perhaps { after, expects } => {
                (expects.holds(value) && after != value).then_some(after)
            }
        }
    }
}

/// One way things may have gone so far: the value, and which open operations took effect.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Possibility {
    value: Value,
    /// Operations that will be answered.
    known: Places,
    /// Operations that never are.
    unknown: Places,
}

/// A few operations by their place in the history, ascending: compared and copied all the time.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Places(Vec<u32>);

impl Places {
    fn contains(&self, place: usize) -> bool {
        self.0.binary_search(&(place as u32)).is_ok()
    }

    fn insert(&mut self, place: usize) {
        if let Err(at) = self.0.binary_search(&(place as u32)) {
            self.0.insert(at, place as u32);
        }
    }

    fn remove(&mut self, place: usize) {
        self.0.retain(|known| *known != place as u32);
    }

    fn is_subset(&self, other: &Places) -> bool {
        self.0.iter().all(|place| other.0.binary_search(place).is_ok())
    }
}

/// Judges every key. Answers how many histories were too tangled.
pub fn check(history: &History) -> Result<u64> {
    let numbers = Numbers::of(history);
    let mut undecided = 0;
    // By key: when each step began, when it ended if it did, and what it was.
    type Steps = Vec<(u64, Option<u64>, Step)>;
    let mut keys: BTreeMap<Vec<u8>, Steps> = BTreeMap::new();
    for operation in &history.operations {
        for (key, step) in numbers.steps(operation) {
            let ended = match step {
                Step::Perhaps { .. } => None,
                _ => operation.ended.as_ref().map(|(at, _)| *at),
            };
            keys.entry(key).or_default().push((operation.called_us, ended, step));
        }
    }
    for (key, steps) in keys {
        match explain(&steps) {
            Some(true) => {}
            Some(false) => {
                let key = String::from_utf8_lossy(&key).into_owned();
                ensure!(false, "the history of {key} is not linearizable: {steps:?}");
            }
            None => undecided += 1,
        }
    }
    Ok(undecided)
}

/// Whether some order explains all steps; None: too many to try.
fn explain(steps: &[(u64, Option<u64>, Step)]) -> Option<bool> {
    let mut moments: Vec<(u64, bool, usize)> = Vec::new();
    for (at, (called, ended, _)) in steps.iter().enumerate() {
        moments.push((*called, false, at));
        moments.extend(ended.map(|ended| (ended, true, at)));
    }
    // At one time, calls come first: that allows more, never less.
    moments.sort_unstable();
    let start = Possibility { value: 0, known: Places::default(), unknown: Places::default() };
    let mut possible = BTreeSet::from([start]);
    let mut open: BTreeSet<usize> = BTreeSet::new();
    for (_, is_end, at) in moments {
        if !is_end {
            open.insert(at);
            continue;
        }
        possible = after_answer(steps, &open, possible, at)?;
        open.remove(&at);
        if possible.is_empty() {
            return Some(false);
        }
    }
    Some(true)
}

/// Every way in which operation `at` can have taken effect by the time of its answer.
fn after_answer(
    steps: &[(u64, Option<u64>, Step)],
    open: &BTreeSet<usize>,
    possible: BTreeSet<Possibility>,
    at: usize,
) -> Option<BTreeSet<Possibility>> {
    let mut visited = possible.clone();
    let mut pending: Vec<Possibility> = possible.into_iter().collect();
    let mut found = BTreeSet::new();
    while let Some(now) = pending.pop() {
        if now.known.contains(at) {
            let mut now = now;
            now.known.remove(at);
            found.insert(now);
            continue;
        }
        for &next in open {
            if now.known.contains(next) || now.unknown.contains(next) {
                continue;
            }
            let Some(value) = steps[next].2.take(now.value) else { continue };
            let mut then = now.clone();
            then.value = value;
            match steps[next].1 {
                Some(_) => then.known.insert(next),
                None => then.unknown.insert(next),
            };
            if visited.insert(then.clone()) {
                pending.push(then);
            }
        }
        if visited.len() > POSSIBILITIES_MAX {
            return None;
        }
    }
    Some(without_dominated(found))
}

/// What has used fewer of the unanswered operations can do all that the others can.
fn without_dominated(found: BTreeSet<Possibility>) -> BTreeSet<Possibility> {
    let mut kept: BTreeMap<(Value, Places), Vec<Places>> = BTreeMap::new();
    let mut sorted: Vec<Possibility> = found.into_iter().collect();
    sorted.sort_by_key(|possibility| possibility.unknown.0.len());
    for Possibility { value, known, unknown } in sorted {
        let list = kept.entry((value, known)).or_default();
        if !list.iter().any(|smaller| smaller.is_subset(&unknown)) {
            list.push(unknown);
        }
    }
    let unfold = |((value, known), list): ((Value, Places), Vec<Places>)| {
        list.into_iter().map(move |unknown| Possibility { value, known: known.clone(), unknown })
    };
    kept.into_iter().flat_map(unfold).collect()
}

/// Numbers for values, and what clients learned of versions.
struct Numbers {
    values: BTreeMap<Vec<u8>, Value>,
    versions: BTreeMap<(Vec<u8>, u64), Value>,
}

impl Numbers {
    fn of(history: &History) -> Self {
        let mut numbers = Numbers { values: BTreeMap::new(), versions: BTreeMap::new() };
        for operation in &history.operations {
            let Effect::Write(batch) = &operation.effect else { continue };
            for write in &batch.writes {
                let Action::Put { value, .. } = &write.action else { continue };
                let number = numbers.values.len() as u64 + 1;
                let number = *numbers.values.entry(value.to_vec()).or_insert(number);
                if let Some((_, Outcome::Applied(index, _))) = &operation.ended {
                    numbers.versions.insert((write.key.to_vec(), *index), number);
                }
            }
        }
        for operation in &history.operations {
            if let (Effect::Get(key), Some((_, Outcome::Read(_, Some((version, value)))))) =
                (&operation.effect, &operation.ended)
            {
                let number = numbers.number(value);
                numbers.versions.insert((key.clone(), *version), number);
            }
        }
        numbers
    }

    /// A value that nobody wrote gets a number that no step produces.
    fn number(&self, value: &[u8]) -> Value {
        self.values.get(value).copied().unwrap_or(u64::MAX)
    }

    /// What an operation means for each key it names.
    fn steps(&self, operation: &Operation) -> Vec<(Vec<u8>, Step)> {
        let outcome = operation.ended.as_ref().map(|(_, outcome)| outcome);
        match (&operation.effect, outcome) {
            (Effect::Get(key), Some(Outcome::Read(_, seen))) => {
                let seen = seen.as_ref().map_or(0, |(_, value)| self.number(value));
                vec![(key.clone(), Step::Read(seen))]
            }
            (Effect::Get(_), _) | (_, Some(Outcome::NotDone)) => Vec::new(),
            // Which key's condition was false is not said.
            (Effect::Write(batch), Some(Outcome::ConditionFailed)) if batch.writes.len() > 1 => {
                Vec::new()
            }
            (Effect::Write(batch), _) => {
                let write = |(place, write): (usize, &ratoon::types::Write)| {
                    let after = match &write.action {
                        Action::Put { value, .. } => self.number(value),
                        _ => 0,
                    };
                    let expects = self.expects(&write.key, write.condition);
                    let step = match outcome {
                        Some(Outcome::Applied(_, Reply::Written { existed })) => {
                            Step::Wrote { after, expects, existed: existed[place] }
                        }
                        Some(Outcome::ConditionFailed) => Step::Refused { expects },
                        _ => Step::Perhaps { after, expects },
                    };
                    (write.key.to_vec(), step)
                };
                batch.writes.iter().enumerate().map(write).collect()
            }
        }
    }

    fn expects(&self, key: &[u8], condition: Condition) -> Expects {
        match condition {
            Condition::Always => Expects::Anything,
            Condition::Absent => Expects::Exactly(0),
            Condition::Version(version) => {
                let known = self.versions.get(&(key.to_vec(), version));
                Expects::Exactly(known.copied().unwrap_or(u64::MAX))
            }
        }
    }
}
