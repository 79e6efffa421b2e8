//! Congestion control of the bulk lane: Cubic that tolerates a little loss and keeps queues short.
//!
//! Cubic alone takes every lost packet for a full queue: at 1 % of random loss and 50 ms it sends
//! 1.5 MB/s over any link. And it fills the queue of a slow link, seconds deep, in which the raft
//! lane's heartbeats then wait. So here a loss counts only when more than 2 % is lost, and a round
//! trip much longer than the shortest one counts as much as a loss: over 1 Mbit/s with a queue of
//! 1 MB, round trips stay at 0.2 s instead of 3.4 s. quinn's BBR was measured too: it sent twice
//! the bytes that arrived over a link of 100 Mbit/s.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, CubicConfig};
use quinn_proto::RttEstimator;

/// First window, bytes. Larger than a browser's, because a pull resumed after a cut starts anew.
const INITIAL_WINDOW_BYTES: u64 = 32 * 1200;
/// A loss counts if more than one byte in so many is lost.
const TOLERATED_LOSS_DIVISOR: u64 = 50;
/// The share of lost bytes is taken over about so many of the latest bytes.
const LOSS_MEMORY_BYTES: u64 = 1 << 20;
/// Longest time in queues on the path; or the path's own round trip, if that is longer.
const QUEUE_MAX: Duration = Duration::from_millis(100);
/// The shortest round trip is sought among those of this long, and of as long before.
const SHORTEST_MEMORY: Duration = Duration::from_secs(10);

/// Makes controllers for the bulk lane.
pub(super) struct BulkCongestion;

impl ControllerFactory for BulkCongestion {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(BulkController::new(now, current_mtu))
    }
}

/// The controller of one connection.
struct BulkController {
    /// Decides the window; hears of less than happens.
    cubic: Box<dyn Controller>,
    /// Bytes delivered, of the latest ones.
    acked_bytes: u64,
    /// Bytes lost, of the latest ones.
    lost_bytes: u64,
    shortest: Shortest,
    /// One long round trip is one event: the next counts after it has had an effect.
    next_queue_check: Instant,
}

/// The shortest round trip lately. An old one is forgotten, because paths change.
#[derive(Clone)]
struct Shortest {
    current: Duration,
    before: Duration,
    since: Instant,
}

impl Shortest {
    fn update(&mut self, now: Instant, round_trip: Duration) -> Duration {
        if now.saturating_duration_since(self.since) > SHORTEST_MEMORY {
            self.before = self.current;
            self.current = round_trip;
            self.since = now;
        }
        self.current = self.current.min(round_trip);
        self.current.min(self.before)
    }
}

impl BulkController {
    fn new(now: Instant, current_mtu: u16) -> Self {
        let mut cubic = CubicConfig::default();
        cubic.initial_window(INITIAL_WINDOW_BYTES);
        BulkController {
            cubic: Arc::new(cubic).build(now, current_mtu),
            acked_bytes: 0,
            lost_bytes: 0,
            shortest: Shortest { current: Duration::MAX, before: Duration::MAX, since: now },
            next_queue_check: now,
        }
    }

    /// Halves what is remembered once it is enough, so that the share follows the path.
    fn forget_old(&mut self) {
        if self.acked_bytes + self.lost_bytes > LOSS_MEMORY_BYTES {
            self.acked_bytes /= 2;
            self.lost_bytes /= 2;
        }
    }

    /// Takes a long wait in queues for a loss.
    fn judge_queue(&mut self, now: Instant, round_trip: Duration) {
        let shortest = self.shortest.update(now, round_trip);
        let queued = round_trip - shortest;
        if queued > QUEUE_MAX.max(shortest) && now >= self.next_queue_check {
            self.cubic.on_congestion_event(now, now, false, 0);
            self.next_queue_check = now + round_trip;
        }
    }

    fn loss_is_tolerable(&self) -> bool {
        self.lost_bytes * TOLERATED_LOSS_DIVISOR <= self.acked_bytes + self.lost_bytes
    }
}

impl Controller for BulkController {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.acked_bytes += bytes;
        self.forget_old();
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
        self.judge_queue(now, rtt.get());
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.cubic.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.lost_bytes += lost_bytes;
        self.forget_old();
        // No bytes lost: the network itself has marked packets, which is no accident.
        if is_persistent_congestion || lost_bytes == 0 || !self.loss_is_tolerable() {
            self.cubic.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.cubic.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.cubic.window()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(BulkController {
            cubic: self.cubic.clone_box(),
            acked_bytes: self.acked_bytes,
            lost_bytes: self.lost_bytes,
            shortest: self.shortest.clone(),
            next_queue_check: self.next_queue_check,
        })
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: u64 = 1200;

    /// Loses every `nth` packet of a long transfer; says how far the window fell.
    fn window_after_losing_every(nth: u64) -> u64 {
        let start = Instant::now();
        let mut controller = BulkController::new(start, 1200);
        for number in 1..5_000u64 {
            let now = start + Duration::from_millis(number);
            controller.acked_bytes += PACKET;
            if number % nth == 0 && number > 200 {
                controller.on_congestion_event(now, now, false, PACKET);
            }
            controller.forget_old();
        }
        controller.window()
    }

    #[test]
    fn a_little_loss_is_tolerated_and_more_is_not() {
        assert_eq!(window_after_losing_every(100), INITIAL_WINDOW_BYTES);
        assert!(window_after_losing_every(20) < INITIAL_WINDOW_BYTES / 4);
    }

    #[test]
    fn marks_of_the_network_and_persistent_loss_always_count() {
        let now = Instant::now();
        for (persistent, lost_bytes) in [(false, 0), (true, PACKET)] {
            let mut controller = BulkController::new(now, 1200);
            controller.acked_bytes = LOSS_MEMORY_BYTES;
            controller.on_congestion_event(now, now, persistent, lost_bytes);
            assert!(controller.window() < INITIAL_WINDOW_BYTES);
        }
    }

    #[test]
    fn a_long_queue_counts_once_a_round_trip() {
        let start = Instant::now();
        let mut controller = BulkController::new(start, 1200);
        let at = |ms| start + Duration::from_millis(ms);
        controller.judge_queue(at(0), Duration::from_millis(50));
        controller.judge_queue(at(10), Duration::from_millis(140));
        assert_eq!(controller.window(), INITIAL_WINDOW_BYTES);
        controller.judge_queue(at(20), Duration::from_millis(160));
        let once = controller.window();
        assert!(once < INITIAL_WINDOW_BYTES);
        controller.judge_queue(at(100), Duration::from_millis(160));
        assert_eq!(controller.window(), once);
        controller.judge_queue(at(200), Duration::from_millis(160));
        assert!(controller.window() < once);
    }

    #[test]
    fn a_path_that_became_longer_is_accepted_after_a_while() {
        let start = Instant::now();
        let mut controller = BulkController::new(start, 1200);
        for second in 0..60 {
            let round_trip = Duration::from_millis(if second < 5 { 10 } else { 300 });
            controller.judge_queue(start + Duration::from_secs(second), round_trip);
            if second == 30 {
                controller.cubic = BulkController::new(start, 1200).cubic;
            }
        }
        assert_eq!(controller.window(), INITIAL_WINDOW_BYTES, "no cuts in the second half");
    }
}
