//! Stories of the state machine, one file a subject.
#![allow(clippy::unwrap_used)]

mod collections;
mod damage;
mod entries;
mod membership;
mod model;
mod records;
mod scans;
mod sessions;
mod tokens;
