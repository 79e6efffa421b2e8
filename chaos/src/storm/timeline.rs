//! What happened when: faults with their begin and end, and what else a person reading a report
//! wants to know. One clock for all, in microseconds since the storm began, which the history of the
//! clients uses too.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// Takes one line for the person who watches.
pub type Say = Box<dyn Fn(&str) + Send + Sync>;

/// One line of the story.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Seconds since the storm began.
    pub at_seconds: f64,
    /// What happened.
    pub text: String,
}

/// A fault, from its begin to its end.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// Which sort: latencies are told apart by it.
    pub kind: String,
    /// Whom it hit, and how hard.
    pub detail: String,
    /// When it struck.
    pub began_us: u64,
    /// When it was repaired; None: not yet.
    pub ended_us: Option<u64>,
    /// When what it had disturbed was seen to work again; None: nobody waited for it, or in vain.
    pub recovered_us: Option<u64>,
}

/// Names a fault of the timeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultId(usize);

/// The story so far.
pub struct Timeline {
    began: Instant,
    events: Mutex<Vec<Event>>,
    faults: Mutex<Vec<Fault>>,
    say: Say,
}

impl Timeline {
    /// A timeline that begins now and tells each line to `say`.
    pub fn new(say: Say) -> Self {
        Timeline { began: Instant::now(), events: Mutex::default(), faults: Mutex::default(), say }
    }

    /// Microseconds since the storm began.
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Adds a line.
    pub fn note(&self, text: impl Into<String>) {
        let event = Event { at_seconds: seconds(self.now_us()), text: text.into() };
        (self.say)(&format!("{:8.1} s  {}", event.at_seconds, event.text));
        lock(&self.events).push(event);
    }

    /// A fault strikes now.
    pub fn begin(&self, kind: &str, detail: impl Into<String>) -> FaultId {
        let detail = detail.into();
        self.note(format!("{} begins: {detail}", kind.to_uppercase()));
        let mut faults = lock(&self.faults);
        faults.push(Fault {
            kind: kind.to_owned(),
            detail,
            began_us: self.now_us(),
            ended_us: None,
            recovered_us: None,
        });
        FaultId(faults.len() - 1)
    }

    /// A fault is repaired now.
    pub fn end(&self, id: FaultId) {
        let kind = {
            let fault = &mut lock(&self.faults)[id.0];
            fault.ended_us = Some(self.now_us());
            fault.kind.clone()
        };
        self.note(format!("{kind} ends"));
    }

    /// What a fault had disturbed works again.
    pub fn recovered(&self, id: FaultId) {
        let now = self.now_us();
        let (kind, took_us) = {
            let fault = &mut lock(&self.faults)[id.0];
            fault.recovered_us = Some(now);
            (fault.kind.clone(), now.saturating_sub(fault.ended_us.unwrap_or(now)))
        };
        self.note(format!("recovered from {kind} after {:.1} s", seconds(took_us)));
    }

    /// All faults that are not repaired end now.
    pub fn end_all(&self) {
        let now = self.now_us();
        for fault in lock(&self.faults).iter_mut() {
            fault.ended_us.get_or_insert(now);
        }
    }

    /// Faults so far.
    pub fn faults(&self) -> Vec<Fault> {
        lock(&self.faults).clone()
    }

    /// Lines so far.
    pub fn events(&self) -> Vec<Event> {
        lock(&self.events).clone()
    }
}

/// Microseconds as seconds.
pub fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// Every change is whole between statements, so that a panic elsewhere leaves nothing half done.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_has_a_begin_an_end_and_a_recovery_in_this_order() {
        let timeline = Timeline::new(Box::new(|_| {}));
        let (first, second) = (timeline.begin("cut", "4"), timeline.begin("kill", "2"));
        timeline.end(first);
        timeline.recovered(first);
        timeline.end_all();
        let faults = timeline.faults();
        let cut = &faults[first.0];
        assert!(cut.began_us <= cut.ended_us.unwrap() && cut.ended_us <= cut.recovered_us);
        let kill = &faults[second.0];
        assert!(kill.ended_us.is_some() && kill.recovered_us.is_none());
        assert!(timeline.events().len() >= 4);
    }
}
