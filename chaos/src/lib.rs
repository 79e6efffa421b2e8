//! Deterministic simulation of whole clusters, on the pure core, from a seed; and storms, and
//! a death at every failpoint, on real processes.
//!
//! One thread runs several nodes, each the real core, state machine and transfer machines on the
//! adversarial twins of the storage; clock, network, disk and faults come from the seed, so a run
//! can be had again. `checks` holds one invariant a file. Nothing here is part of the product.

pub mod campaign;
mod checks;
mod cluster;
pub mod corpus;
pub mod faults;
mod figures;
pub mod power;
mod random;
mod run;
mod settings;
pub mod storm;
mod trace;

#[cfg(test)]
mod tests;

pub use figures::Figures;
pub use run::{Options, Report, STEPS_DEFAULT, minimise, run};
pub use trace::Listener;
