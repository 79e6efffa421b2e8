//! import
pub mod batch;
pub mod duplicates;
pub mod input;
pub mod lines;
pub mod tree;
