//! `scan`: lists records in key order, page by page, all at one index.

use std::ffi::OsString;

use clap::Args;
use data_encoding::HEXLOWER;
use serde_json::json;

use super::context::Context;
use super::failure::CliError;
use super::get::record_document;
use super::parse::{self, Address};
use super::text;
use crate::types::{Record, ScanOptions};

const EXAMPLES: &str = "\
Prints KEY, bytes of the value, version and content type, a tab between; what is no plain text in
a key is written \\xNN. With --json a record a line, values included, and if --limit left some out
a last line {\"cursor\": ...}.

Examples:
  ratoon scan prod/users --prefix a
  ratoon scan prod/users --start alice --end bob --keys-only
  ratoon scan prod/users --limit 100 --json";

/// What `scan` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The collection.
    #[arg(value_name = "NS/NAME", value_parser = parse::address)]
    target: Address,
    /// Only keys that start with this.
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: OsString,
    /// First key.
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    start: OsString,
    /// The key to stop before.
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    end: OsString,
    /// Print at most this many records, then a cursor.
    #[arg(long, value_name = "RECORDS", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Print keys alone.
    #[arg(long)]
    keys_only: bool,
    /// Go on where the scan that printed this stopped, at the same index.
    #[arg(long)]
    cursor: Option<String>,
    /// --prefix, --start and --end are hexadecimal digits.
    #[arg(long)]
    key_hex: bool,
}

/// Runs it.
pub async fn run(context: &Context, arguments: Arguments) -> Result<(), CliError> {
    let bound = |text| parse::key_bound(text, arguments.key_hex);
    let options = ScanOptions {
        prefix: bound(&arguments.prefix)?,
        start: bound(&arguments.start)?,
        end: bound(&arguments.end)?,
        cursor: arguments.cursor.as_deref().map(parse::cursor).transpose()?.unwrap_or_default(),
        keys_only: arguments.keys_only,
        limit: 0,
    };
    let client = context.client(&arguments.target)?;
    let collection = &arguments.target.collection;
    let mut pages = client.scan_pages(collection, options, context.consistency());
    let mut left = arguments.limit.unwrap_or(u64::MAX);
    while let Some(page) = pages.next(left).await? {
        let mut lines = String::new();
        for record in &page.records {
            lines.push_str(&line(context.output.json, record, arguments.keys_only));
            lines.push('\n');
        }
        context.output.bytes(lines.as_bytes())?;
        left = left.saturating_sub(page.records.len() as u64);
        if left == 0 && !page.cursor.is_empty() {
            let cursor = HEXLOWER.encode(&page.cursor);
            context.output.note(&format!("more: --cursor {cursor}"));
            return match context.output.json {
                true => {
                    let document = json!({"cursor": cursor, "index": page.index});
                    context.output.line(&document.to_string())
                }
                false => Ok(()),
            };
        }
    }
    Ok(())
}

fn line(json: bool, record: &Record, keys_only: bool) -> String {
    let key = || text::shown(&record.key);
    match (json, keys_only) {
        (true, _) => record_document(record, !keys_only).to_string(),
        (false, true) => key(),
        (false, false) => {
            let (bytes, version) = (record.value.len(), record.version);
            format!(
                "{}\t{bytes}\t{version}\t{}",
                key(),
                text::shown(record.content_type.as_bytes())
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_in_every_form() {
        let record = Record {
            key: b"a\n\xff".to_vec().into(),
            value: b"xy".to_vec().into(),
            version: 7,
            content_type: String::new(),
        };
        assert_eq!(line(false, &record, false), "a\\x0a\\xff\t2\t7\t");
        assert_eq!(line(false, &record, true), "a\\x0a\\xff");
        let json =
            r#"{"content_type":"","key_hex":"610aff","value":"xy","value_bytes":2,"version":7}"#;
        assert_eq!(line(true, &record, false), json);
        assert!(!line(true, &record, true).contains("value"));
    }
}
