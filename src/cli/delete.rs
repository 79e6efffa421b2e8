//! `delete`: removes one record.

use std::ffi::OsString;

use clap::Args;
use serde_json::json;

use super::context::Context;
use super::failure::CliError;
use super::get::record_not_found;
use super::parse::{self, Address};
use crate::types::{Action, Condition, Write, WriteBatch};

/// What `delete` takes.
#[derive(Debug, Args)]
#[command(after_help = "Exit code 1: there was no such record, or it has another version.")]
pub struct Arguments {
    /// The collection.
    #[arg(value_name = "NS/NAME", value_parser = parse::address)]
    target: Address,
    /// The key.
    key: OsString,
    /// KEY is hexadecimal digits.
    #[arg(long)]
    key_hex: bool,
    /// Delete only if the key holds a value of this version.
    #[arg(long, value_name = "VERSION")]
    if_version: Option<u64>,
}

/// Runs it.
pub async fn run(context: &Context, arguments: Arguments) -> Result<(), CliError> {
    let key = parse::key(&arguments.key, arguments.key_hex)?;
    let condition = arguments.if_version.map_or(Condition::Always, Condition::Version);
    let collection = &arguments.target.collection;
    let write = Write {
        collection: collection.clone(),
        key: key.clone(),
        condition,
        action: Action::Delete,
    };
    let client = context.client(&arguments.target)?;
    let written = client.write(WriteBatch { writes: vec![write] }).await?;
    if written.existed != [true] {
        return Err(record_not_found(collection, &key));
    }
    context.output.result(json!({"existed": true, "index": written.version}), "deleted")
}
