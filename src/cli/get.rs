//! `get`: reads one record. stdout gets the value's bytes and nothing else.

use std::ffi::OsString;

use clap::Args;
use serde_json::{Map, Value};

use super::context::Context;
use super::failure::CliError;
use super::parse::{self, Address};
use super::text::{self, Binary, set_bytes};
use crate::types::{CollectionName, Record};

const EXAMPLES: &str = "\
Examples:
  ratoon get prod/users alice
  ratoon get prod/photos cat > cat.jpg
  ratoon get prod/users alice --json               with version and content type
  ratoon get prod/users alice --stale --endpoint node2:7402

Exit code 1: there is no such record.";

/// What `get` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The collection.
    #[arg(value_name = "NS/NAME", value_parser = parse::address)]
    target: Address,
    /// The key.
    key: OsString,
    /// KEY is hexadecimal digits.
    #[arg(long)]
    key_hex: bool,
}

/// Runs it.
pub async fn run(context: &Context, arguments: Arguments) -> Result<(), CliError> {
    let key = parse::key(&arguments.key, arguments.key_hex)?;
    let collection = &arguments.target.collection;
    let client = context.client(&arguments.target)?;
    let found = client.get(collection, key.clone(), context.consistency()).await?;
    let record = found.ok_or_else(|| record_not_found(collection, &key))?;
    if context.output.json {
        return context.output.line(&record_document(&record, true).to_string());
    }
    context.output.bytes(&record.value)
}

/// The answer when a key holds no value.
pub fn record_not_found(collection: &CollectionName, key: &[u8]) -> CliError {
    CliError::Negative {
        code: "record_not_found",
        message: format!("{collection} holds no record {}", text::shown(key)),
        hint: format!("`ratoon scan {collection}` shows its keys"),
    }
}

/// A record as a document; `scan` prints the same.
pub fn record_document(record: &Record, with_value: bool) -> Value {
    let mut document = Map::new();
    set_bytes(&mut document, "key", &record.key, Binary::Hex);
    if with_value {
        set_bytes(&mut document, "value", &record.value, Binary::Base64);
        document.insert("value_bytes".to_owned(), record.value.len().into());
    }
    document.insert("version".to_owned(), record.version.into());
    document.insert("content_type".to_owned(), record.content_type.clone().into());
    Value::Object(document)
}
