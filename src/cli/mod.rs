//! The command line: one file a verb.
pub mod export;
pub mod failure;
pub mod import;
pub mod output;
pub mod parse;
pub mod record_line;
pub mod text;
