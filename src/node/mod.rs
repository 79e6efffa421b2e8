//! The runtime of one node: carries out what the core says, and nothing else.

mod handle;
mod peers;

pub use handle::{Handle, Health, StateView};
pub use peers::{CallError, Class, Inbound, Peers};
