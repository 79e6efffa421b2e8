//! The transfer engine's brain: a receiver and a source as state machines.
//!
//! Inputs go in through `handle`, outputs come out of `poll_output`, time and seeds are arguments.
//! It decides what to ask for, what to believe, when to persist, whom to serve and when to give
//! up. It never opens a file or a socket, never reads a clock, and does not know whether it serves
//! a raft snapshot, a fetch, a push, a mirror or a repair.

pub mod receiver;
pub mod sender;
mod timing;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod simulation;

pub use receiver::Receiver;
pub use sender::Sender;
