//! The time of the bulk tasks, as their machines want it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::types::Now;

/// Milliseconds since it was made, and the time of day.
#[derive(Clone, Copy, Debug)]
pub(super) struct BulkClock {
    start: Instant,
}

impl BulkClock {
    pub fn new() -> Self {
        BulkClock { start: Instant::now() }
    }

    pub fn now(&self) -> Now {
        // A clock before 1970 reads as 1970: times of day are only shown.
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            monotonic_ms: self.start.elapsed().as_millis() as u64,
            unix_ms: unix.as_millis() as u64,
        }
    }

    /// When the clock shows `monotonic_ms`, or a little later.
    pub fn instant(&self, monotonic_ms: u64) -> Instant {
        // A timer that fires within the same millisecond would find nothing due.
        self.start + Duration::from_millis(monotonic_ms) + Duration::from_micros(200)
    }
}
