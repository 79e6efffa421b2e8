//! export
pub mod path;
pub mod tree;
