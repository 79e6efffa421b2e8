//! The thread that owns the core: takes what waits, advances once, carries out what comes out.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::carry::Carrier;
use super::inbox::{Clock, Item};
use crate::raft::{Core, Halt, Input};

/// Inputs taken before raft's Ready cycle runs once for all of them.
const BATCH_MAX: usize = 1024;

/// Runs until told to stop or until the node must halt.
pub(super) fn run(
    mut core: Core,
    inbox: &Receiver<Item>,
    carrier: &mut Carrier,
    clock: Clock,
    tick: Duration,
) -> Result<(), Halt> {
    let mut next_tick = Instant::now() + tick;
    carry_all(&mut core, carrier);
    loop {
        let mut stop = false;
        let wait = next_tick.saturating_duration_since(Instant::now());
        let mut first = match inbox.recv_timeout(wait) {
            Ok(item) => Some(item),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        let now = clock.now();
        for _ in 0..BATCH_MAX {
            match first.take().or_else(|| inbox.try_recv().ok()) {
                Some(Item::Input(input, _permit)) => core.handle(now, input)?,
                Some(Item::Stop) => stop = true,
                None => break,
            }
        }
        if Instant::now() >= next_tick {
            core.handle(now, Input::Tick)?;
            // A process that was stopped for a while owes no ticks: others' clocks went on.
            next_tick = (next_tick + tick).max(Instant::now());
            carrier.publish(&core);
        }
        core.advance(now)?;
        carry_all(&mut core, carrier);
        if stop {
            return Ok(());
        }
    }
}

fn carry_all(core: &mut Core, carrier: &mut Carrier) {
    let mut changed = false;
    while let Some(output) = core.poll_output() {
        changed |= carrier.carry(output);
    }
    if changed {
        carrier.publish(core);
    }
}
