//! One run: a phase of faults in which nothing wrong may happen, then calm in which the cluster has
//! to recover by itself.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow, bail};
use slog::Logger;

use crate::cluster::World;
use crate::figures::Figures;
use crate::trace::Trace;

/// Events of the phase of faults unless asked otherwise.
const STEPS_DEFAULT: u64 = 15_000;
/// The calm phase ends at the latest after so many more events.
const CALM_STEPS_MAX: u64 = 4_000_000;

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Says everything.
    pub seed: u64,
    /// Events of the phase of faults; 0: the default.
    pub steps: u64,
    /// Tell every event on stderr.
    pub trace: bool,
}

/// How a run went.
#[derive(Debug)]
pub struct Report {
    /// What happened.
    pub figures: Figures,
    /// Equal for equal runs.
    pub trace_hash: u64,
    /// None: all was well. Else what was violated.
    pub violation: Option<String>,
}

/// Runs one seed. A panic inside the cluster is a violation like any other.
pub fn run(options: &Options) -> Report {
    let logger = match options.trace {
        true => crate::trace::logger(),
        false => Logger::root(slog::Discard, slog::o!()),
    };
    let mut world = World::new(options.seed, Trace::new(options.trace), logger);
    let steps = if options.steps == 0 { STEPS_DEFAULT } else { options.steps };
    let result = catch(|| play(&mut world, steps));
    let mut figures = world.figures.clone();
    figures.simulated_ms = world.now_us() / 1000;
    figures.digests_compared = world.checks.digests_compared();
    let violation = result.err().map(|error| format!("{error:#}"));
    Report { figures, trace_hash: world.trace.hash(), violation }
}

fn play(world: &mut World, steps: u64) -> Result<()> {
    for _ in 0..steps {
        step(world)?;
    }
    world.calm_down();
    let calm_since_us = world.now_us();
    let mut steps = 0;
    loop {
        step(world)?;
        steps += 1;
        if steps % 256 != 0 {
            continue;
        }
        let Err(missing) = world.is_recovered() else { break };
        let waited_ms = (world.now_us() - calm_since_us) / 1000;
        if waited_ms > world.recovery_ms_max() || steps > CALM_STEPS_MAX {
            bail!("after {waited_ms} ms of calm {missing}");
        }
    }
    world.judge()
}

fn step(world: &mut World) -> Result<()> {
    match world.step().and_then(|more| world.checks.complain().map(|()| more)) {
        Ok(true) => Ok(()),
        Ok(false) => bail!("nothing happens any more"),
        Err(error) => Err(error),
    }
}

static LAST_PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Turns a panic into an error that says where it happened.
fn catch(play: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(|info| {
        let mut last = LAST_PANIC.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Empty unless RUST_BACKTRACE asks for it.
        *last = Some(format!("{info}\n{}", std::backtrace::Backtrace::capture()));
    }));
    let result = catch_unwind(AssertUnwindSafe(play));
    std::panic::set_hook(before);
    match result {
        Ok(result) => result,
        Err(_) => {
            let mut last = LAST_PANIC.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            Err(anyhow!(last.take().unwrap_or_default())).context("panicked")
        }
    }
}
