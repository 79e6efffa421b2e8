//! The runtime of one node: carries out what the core says, and nothing else.

mod handle;

pub use handle::{Handle, Health, StateView};
