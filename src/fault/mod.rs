//! Failpoints: the named places at which a process may be made to die, to wait or to fail, between
//! any two steps that put something on disk.
//!
//! A place is reached by `point` or, where a failed step is an error like any other, by `fail`.
//! Without the feature `faults` both are empty and no name of a point is compiled in; with it they
//! ask whoever was armed, which is `ratoon-faulty` alone. Never decides what happens at a point, and
//! reads neither environment nor clock.

#[cfg(any(test, feature = "faults"))]
mod plan;
mod points;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::io;
#[cfg(feature = "faults")]
use std::sync::OnceLock;

#[cfg(any(test, feature = "faults"))]
pub use self::plan::{Action, Plan};
pub use self::points::Point;

/// What is to be done at a point. An error counts only where the point can fail.
#[cfg(feature = "faults")]
type Hook = Box<dyn Fn(Point) -> io::Result<()> + Send + Sync>;

#[cfg(feature = "faults")]
static HOOK: OnceLock<Hook> = OnceLock::new();

/// Lets `hook` decide from now on what happens at each point. For the start of a process: only the
/// first call counts.
#[cfg(feature = "faults")]
pub fn arm(hook: impl Fn(Point) -> io::Result<()> + Send + Sync + 'static) {
    HOOK.get_or_init(|| Box::new(hook));
}

/// Passes a point at which nothing can fail.
#[inline(always)]
pub fn point(point: Point) {
    // A plan that would fail here was refused when it was parsed.
    let _cannot_fail = fail(point);
}

/// Passes a point at which a step may fail: the error is to be handled like the step's own.
#[inline(always)]
pub fn fail(point: Point) -> io::Result<()> {
    #[cfg(feature = "faults")]
    if let Some(hook) = HOOK.get() {
        return hook(point);
    }
    #[cfg(not(feature = "faults"))]
    // The feature is off: a point is nothing but its place in the source.
    let _nothing = point;
    Ok(())
}
