//! What `RATOON_FAULT` asks for, and the count of how often each point was passed.
//!
//! `POINT[:NTH][=ACTION]`, several with commas. Pure: whoever is armed with a plan carries it out.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Point;

/// What happens at a point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// The process dies as by kill -9.
    Kill,
    /// The step fails with an error.
    Error,
    /// The step takes this much longer, ms.
    Sleep(u64),
    /// The thread panics.
    Panic,
}

/// One order: at the `nth` passing of `point`, counted from 1, `action`.
struct Order {
    point: Point,
    nth: u64,
    action: Action,
    passed: AtomicU64,
}

/// All orders of one process. Threads share it.
pub struct Plan {
    orders: Vec<Order>,
}

impl Plan {
    /// Parses the text; what is wrong with it is said in one sentence, with a hint.
    pub fn parse(text: &str) -> Result<Plan, String> {
        let orders: Result<Vec<Order>, String> = text.split(',').map(parse_order).collect();
        Ok(Plan { orders: orders? })
    }

    /// Counts that `point` is passed, and says what is to happen now; the earliest order counts.
    pub fn pass(&self, point: Point) -> Option<Action> {
        let orders = self.orders.iter().filter(|order| order.point == point);
        // Each order counts for itself, so every one of them sees every passing.
        let due: Vec<Action> = orders
            .filter(|order| order.passed.fetch_add(1, Ordering::Relaxed) + 1 == order.nth)
            .map(|order| order.action)
            .collect();
        due.first().copied()
    }
}

fn parse_order(text: &str) -> Result<Order, String> {
    let text = text.trim();
    let (place, action) = text.split_once('=').unwrap_or((text, "kill"));
    let (name, nth) = place.split_once(':').unwrap_or((place, "1"));
    let point = Point::ALL.iter().copied().find(|point| point.name() == name).ok_or_else(|| {
        format!(
            "there is no failpoint {name:?}; `ratoon-faulty --list-faults` prints those there are"
        )
    })?;
    let nth = nth.parse::<u64>().ok().filter(|nth| *nth > 0);
    let nth =
        nth.ok_or_else(|| format!("{text:?} does not say which time it means: 1 is the first"))?;
    let action = parse_action(action)
        .ok_or_else(|| format!("{text:?} names none of kill, error, sleep=MILLISECONDS, panic"))?;
    if action == Action::Error && !point.can_fail() {
        return Err(format!(
            "nothing can fail at {name}; kill, sleep=MILLISECONDS and panic are possible"
        ));
    }
    Ok(Order { point, nth, action, passed: AtomicU64::new(0) })
}

fn parse_action(text: &str) -> Option<Action> {
    match text {
        "kill" => Some(Action::Kill),
        "error" => Some(Action::Error),
        "panic" => Some(Action::Panic),
        _ => text.strip_prefix("sleep=")?.parse().ok().map(Action::Sleep),
    }
}
