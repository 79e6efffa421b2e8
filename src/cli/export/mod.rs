//! `export`: writes a collection to a directory tree or to one file, all at one index.
//!
//! The inverse of `import`, form by form. A tree is written only after every key has been found to
//! be a safe path; a file appears whole or not at all.

mod path;
mod sink;
mod tree;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bytes::Bytes;
use clap::Args;
use serde_json::json;
use tokio::sync::mpsc;

use self::path::PathChecker;
use self::sink::Sink;
use super::context::Context;
use super::failure::CliError;
use super::format::Format;
use super::parse::{self, Address};
use super::progress::Progress;
use super::text;
use crate::client::{Client, Pages};
use crate::limits::{EXPORT_PAGES_AHEAD, IMPORT_LISTED_MAX};
use crate::types::{CollectionName, Consistency, ScanOptions, ScanPage};

const EXAMPLES: &str = "\
tree   one file a record, named by its key. Keys that are no safe relative paths (absolute, with
       '..', empty components or NUL, too long, or below another key) are named before anything
       is written, with exit code 3.
lines  one value a line, as it is: the inverse of importing JSON lines.
jsonl  one record a line with key, value and content type, whatever their bytes;
       `import --format jsonl` takes it back.

PATH `-` writes lines or jsonl to stdout. A directory that holds something is refused unless
--force; then files of other names stay, and equal files are left alone.

Examples:
  ratoon export lab/photos photos/
  ratoon export prod/users users.jsonl --format lines
  ratoon export prod/users - --format jsonl | gzip > users.gz
  ratoon export lab/photos copy/ --stale --endpoint node3:7402   what that node holds";

/// What `export` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The collection.
    #[arg(value_name = "NS/NAME", value_parser = parse::address)]
    source: Address,
    /// The directory or file to write; `-` is stdout.
    path: PathBuf,
    /// Form of the output.
    #[arg(long, default_value = "tree")]
    format: Format,
    /// Only keys that start with this; it is taken off their names.
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: OsString,
    /// Write into a directory that holds something, or over a file.
    #[arg(long)]
    force: bool,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    records: u64,
    /// Of keys and values.
    bytes: u64,
    /// Files of a tree that held exactly their value already.
    unchanged: u64,
    /// The index all records were read at.
    index: u64,
}

/// A collection to read.
struct Source {
    client: Client,
    collection: CollectionName,
    prefix: Bytes,
    consistency: Consistency,
}

impl Source {
    fn pages(&self, keys_only: bool) -> Pages {
        let options =
            ScanOptions { prefix: self.prefix.clone(), keys_only, ..ScanOptions::default() };
        self.client.scan_pages(&self.collection, options, self.consistency)
    }
}

/// Runs it.
pub async fn run(context: &Context, arguments: Arguments) -> Result<(), CliError> {
    let mut source = Source {
        client: context.client(&arguments.source)?,
        collection: arguments.source.collection.clone(),
        prefix: parse::key_bound(&arguments.prefix, false)?,
        consistency: context.consistency(),
    };
    let described =
        source.client.describe_collection(&source.collection, source.consistency).await?;
    source.client = context.patient(&source.client);
    let sink = Sink::check(&arguments.path, arguments.format, arguments.force)?;
    if arguments.format == Format::Tree {
        check_keys(context, &source, &arguments.path).await?;
    }
    let started = Instant::now();
    let progress = match source.prefix.is_empty() {
        true => Progress::bytes(context.output, "exporting", described.bytes),
        false => Progress::unbounded(context.output, "exporting"),
    };
    let to_stdout = matches!(sink, Sink::Stdout(_));
    let counts = copy(&source, sink, progress).await?;
    let seconds = started.elapsed().as_secs_f64();
    if to_stdout {
        // stdout is the export itself.
        return Ok(());
    }
    let document = json!({
        "collection": source.collection.to_string(),
        "records": counts.records,
        "bytes": counts.bytes,
        "unchanged_records": counts.unchanged,
        "index": counts.index,
        "seconds": seconds,
    });
    let mut text = format!(
        "exported {} at index {}: {} records, {} in {seconds:.1} s",
        source.collection,
        counts.index,
        counts.records,
        text::size(counts.bytes)
    );
    if counts.unchanged > 0 {
        text.push_str(&format!("; {} files were equal already", counts.unchanged));
    }
    context.output.result(document, &text)
}

/// Refuses unless every key can be a file below `root`.
async fn check_keys(context: &Context, source: &Source, root: &Path) -> Result<(), CliError> {
    let progress = Progress::unbounded(context.output, "checking the keys");
    let mut checker = PathChecker::below(root)?;
    let (mut bad, mut names) = (0u64, Vec::new());
    let mut pages = source.pages(true);
    while let Some(page) = pages.next(u64::MAX).await? {
        for record in &page.records {
            progress.add(record.key.len() as u64);
            let Err(problem) = checker.check(strip(&record.key, &source.prefix)?) else { continue };
            bad += 1;
            if names.len() < IMPORT_LISTED_MAX {
                names.push(format!("  {} ({problem})", text::shown(&record.key)));
            }
        }
    }
    if bad == 0 {
        return Ok(());
    }
    let more = match bad - names.len() as u64 {
        0 => String::new(),
        more => format!("\n  and {more} more"),
    };
    Err(CliError::refused(
        "unsafe_keys",
        format!(
            "{} unfit for file names; nothing was written\n{}{more}",
            text::counted(bad, "key"),
            names.join("\n")
        ),
        "--format jsonl carries any key",
    ))
}

fn strip<'a>(key: &'a [u8], prefix: &[u8]) -> Result<&'a [u8], CliError> {
    key.strip_prefix(prefix)
        .ok_or_else(|| CliError::Defect("a scan answered with a key outside its prefix".to_owned()))
}

/// Reads pages here and writes them on a thread of its own, a few pages apart.
async fn copy(source: &Source, sink: Sink, progress: Progress) -> Result<Counts, CliError> {
    let (sender, mut receiver) = mpsc::channel(EXPORT_PAGES_AHEAD);
    let prefix = source.prefix.clone();
    let writing = tokio::task::spawn_blocking(move || -> Result<Counts, CliError> {
        let mut counts = Counts::default();
        let mut open = sink.open()?;
        // The channel ends well only with this word: a sender that is merely gone has failed, and
        // what it left must not be taken for the whole.
        let mut complete = false;
        while let Some(page) = receiver.blocking_recv() {
            let Some(page): Option<ScanPage> = page else {
                complete = true;
                break;
            };
            counts.index = page.index;
            for mut record in page.records {
                let bytes = (record.key.len() + record.value.len()) as u64;
                strip(&record.key, &prefix)?;
                record.key = record.key.slice(prefix.len()..);
                counts.unchanged += u64::from(!open.write(&record)?);
                counts.records += 1;
                counts.bytes += bytes;
                progress.add(bytes);
            }
        }
        if complete {
            open.finish()?;
        }
        Ok(counts)
    });
    let read = tokio::select! {
        read = send_pages(source, sender) => read,
        signal = tokio::signal::ctrl_c() => {
            signal.map_err(CliError::file("could not wait for Ctrl-C"))?;
            let hint = "run the same command again; a directory needs --force, and files that are equal are left alone";
            Err(CliError::Interrupted { hint: hint.to_owned() })
        }
    };
    let written = writing.await.map_err(|error| CliError::Defect(error.to_string()))?;
    match (read, written) {
        (Ok(()), written) => written,
        (Err(error), Ok(_)) => Err(error),
        // The writer's error is the cause: the reader merely found nobody to read for.
        (Err(_), Err(error)) => Err(error),
    }
}

/// Sends every page, and None after the last; stops when nobody takes them any more.
async fn send_pages(
    source: &Source,
    sender: mpsc::Sender<Option<ScanPage>>,
) -> Result<(), CliError> {
    let mut pages = source.pages(false);
    loop {
        let page = pages.next(u64::MAX).await?;
        let last = page.is_none();
        if sender.send(page).await.is_err() || last {
            return Ok(());
        }
    }
}
