//! `put`: writes one record.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use bytes::Bytes;
use clap::{ArgGroup, Args};
use serde_json::json;

use super::context::Context;
use super::failure::CliError;
use super::parse::{self, Address};
use crate::limits::VALUE_BYTES_MAX;
use crate::types::{Action, Condition, Write, WriteBatch};

const EXAMPLES: &str = "\
Examples:
  ratoon put prod/users alice '{\"age\": 7}' --content-type application/json
  ratoon put prod/photos cat --file cat.jpg
  date | ratoon put prod/users now -
  ratoon put prod/users alice new --if-version 41   exit code 1 if it changed since";

/// What `put` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(override_usage = "ratoon put [OPTIONS] <NS/NAME> <KEY> <VALUE|--file <PATH>>")]
#[command(group(ArgGroup::new("content").required(true).args(["value", "file"])))]
pub struct Arguments {
    /// The collection.
    #[arg(value_name = "NS/NAME", value_parser = parse::address)]
    target: Address,
    /// The key, 1 B to 4 KiB.
    key: OsString,
    /// The value, at most 4 MiB; `-` reads it from stdin.
    value: Option<OsString>,
    /// Take the value from this file.
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// KEY is hexadecimal digits.
    #[arg(long)]
    key_hex: bool,
    /// MIME type to keep with the value.
    #[arg(long, value_name = "TYPE", default_value = "", hide_default_value = true)]
    content_type: String,
    /// Write only if the key holds no value.
    #[arg(long, conflicts_with = "if_version")]
    if_absent: bool,
    /// Write only if the key holds a value of this version.
    #[arg(long, value_name = "VERSION")]
    if_version: Option<u64>,
}

/// Runs it.
pub async fn run(context: &Context, arguments: Arguments) -> Result<(), CliError> {
    let key = parse::key(&arguments.key, arguments.key_hex)?;
    let condition = match (arguments.if_absent, arguments.if_version) {
        (true, _) => Condition::Absent,
        (false, Some(version)) => Condition::Version(version),
        (false, None) => Condition::Always,
    };
    let value = match (arguments.file, arguments.value) {
        (Some(path), _) => {
            let attempted = format!("could not read {}", path.display());
            let file = File::open(&path).map_err(CliError::file(attempted.clone()))?;
            read_value(file, &attempted)?
        }
        (None, Some(value)) if value == OsStr::new("-") => {
            read_value(io::stdin().lock(), "could not read the value from stdin")?
        }
        (None, Some(value)) => Bytes::copy_from_slice(value.as_bytes()),
        (None, None) => unreachable!("clap requires a value or a file"),
    };
    let write = Write {
        collection: arguments.target.collection.clone(),
        key,
        condition,
        action: Action::Put { value, content_type: arguments.content_type },
    };
    let client = context.client(&arguments.target)?;
    let version = client.write(WriteBatch { writes: vec![write] }).await?.version;
    context.output.result(json!({"version": version}), &format!("version {version}"))
}

/// Reads a whole value, and not one byte more than a value may have.
fn read_value(input: impl Read, attempted: &str) -> Result<Bytes, CliError> {
    let mut value = Vec::new();
    let limit = VALUE_BYTES_MAX as u64;
    input.take(limit + 1).read_to_end(&mut value).map_err(CliError::file(attempted))?;
    if value.len() as u64 > limit {
        return Err(CliError::refused(
            "value_too_large",
            "the value has over 4 MiB",
            "split it over several keys",
        ));
    }
    Ok(value.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_fill_its_limit_and_no_more() {
        let endless = || io::repeat(7);
        let full = read_value(endless().take(VALUE_BYTES_MAX as u64), "read").unwrap();
        assert_eq!(full.len(), VALUE_BYTES_MAX);
        assert_eq!(read_value(endless(), "read").unwrap_err().report().code, "value_too_large");
    }
}
