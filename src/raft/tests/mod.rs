//! What raft-rs does that its documentation does not say, and what others got wrong around it, each
//! told as a story. `docs/testing.md` lists them.

#![allow(clippy::unwrap_used)]

mod cluster;
mod disk;

mod boot;
mod fuzz;
mod hostile;
mod installs;
mod messages;
mod offers;
mod pins;
