//! One run: a phase of faults in which nothing wrong may happen, then calm in which the cluster has
//! to recover by itself.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use anyhow::{Context, Result, anyhow, bail};

use crate::cluster::World;
use crate::figures::Figures;
use crate::trace::{Listener, Trace};

/// Events of the phase of faults unless asked otherwise.
pub const STEPS_DEFAULT: u64 = 15_000;
/// The calm phase ends at the latest after so many more events.
const CALM_STEPS_MAX: u64 = 4_000_000;
/// So many events of the calm phase pass between two looks at the whole cluster.
const CALM_STEPS_BETWEEN_LOOKS: u64 = 256;

/// What to run.
#[derive(Clone, Default)]
pub struct Options {
    /// Says everything.
    pub seed: u64,
    /// Events of the phase of faults; 0: the default.
    pub steps: u64,
    /// Who is told of every event.
    pub listener: Listener,
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
    let (listener, trace) = (&options.listener, Trace::new(options.listener.clone()));
    let mut world = World::new(options.seed, trace, listener.logger());
    let steps = if options.steps == 0 { STEPS_DEFAULT } else { options.steps };
    let result = catch(|| play(&mut world, steps));
    let violation = result.err().map(|error| format!("{error:#}"));
    Report { figures: world.count(), trace_hash: world.trace.hash(), violation }
}

/// The fewest events of the phase of faults with which a seed that fails after `steps` still fails,
/// as far as halving finds it, and what is violated then.
pub fn minimise(seed: u64, steps: u64) -> Option<(u64, String)> {
    let fails = |steps: u64| {
        let report = run(&Options { seed, steps, ..Options::default() });
        // What fails before the calm fails after no more events than it took.
        report.violation.map(|violation| (steps.min(report.figures.steps), violation))
    };
    let mut least = fails(if steps == 0 { STEPS_DEFAULT } else { steps })?;
    let mut low = 1;
    while low < least.0 {
        let middle = low.midpoint(least.0);
        match fails(middle) {
            Some(smaller) => least = smaller,
            None => low = middle + 1,
        }
    }
    Some(least)
}

fn play(world: &mut World, steps: u64) -> Result<()> {
    for _ in 0..steps {
        step(world)?;
    }
    world.calm_down();
    let calm_since_us = world.now_us();
    for steps in 1.. {
        step(world)?;
        if steps % CALM_STEPS_BETWEEN_LOOKS != 0 {
            continue;
        }
        world.look()?;
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

thread_local! {
    /// What a panic of this thread said last; None: nobody on it catches panics now.
    static CAUGHT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Turns a panic into an error that says where it happened. Other threads may do the same meanwhile.
fn catch(play: impl FnOnce() -> Result<()>) -> Result<()> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let is_caught = CAUGHT.with_borrow_mut(|caught| match caught {
                Some(words) => {
                    // Empty unless RUST_BACKTRACE asks for it.
                    *words = format!("{info}\n{}", std::backtrace::Backtrace::capture());
                    true
                }
                None => false,
            });
            if !is_caught {
                before(info);
            }
        }));
    });
    CAUGHT.set(Some(String::new()));
    let result = catch_unwind(AssertUnwindSafe(play));
    let words = CAUGHT.take().unwrap_or_default();
    match result {
        Ok(result) => result,
        Err(_) => Err(anyhow!(words)).context("panicked"),
    }
}
