//! `import`: writes a directory tree or JSON lines into a collection.
//!
//! First all of the input is checked, then it is written in batches, several on their way at once.
//! Records that the collection holds already, value and content type alike, are not written again:
//! that comparison, and not a note of how far an earlier run came, makes an import resumable, so
//! that it is right whatever has happened to input or collection in between. Nothing is deleted.

mod batch;
mod duplicates;
mod input;
pub(super) mod lines;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod tree;
mod write;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use serde_json::{Value, json};

use self::input::{Input, Plan, Wanted};
use self::lines::KeyPath;
use self::write::{Counts, Writer};
use super::context::Context;
use super::failure::CliError;
use super::format::Format;
use super::parse::{self, Address};
use super::progress::Progress;
use super::text;
use crate::client::Client;
use crate::types::{Code, CollectionName, Consistency, Failure};

const EXAMPLES: &str = "\
A directory becomes one record a file: the key is the relative path (with several directories, it
starts with the directory's own name), the value is the file. Names keep their bytes. Not kept:
modes, times, empty directories. Links, pipes, sockets and devices are left out and listed.

A file of JSON lines becomes one record a line: the key is the text or integer in the field --key,
the value is the line. Blank lines are left out.

The input is checked first: if a value is over 4 MiB, a line has no key or two have the same one,
all of them are named and nothing is written. Interrupted or failed, run the same command again:
what is equal already is not written twice. Records that are not in the input stay.

Examples:
  ratoon import photos/ lab/photos --create
  ratoon import users.jsonl prod/users --key id
  ratoon import events.jsonl lab/events --key meta.event_id --prefix 2026/
  ratoon import backup.jsonl lab/copy --format jsonl --create";

/// What `import` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Directories, or files of JSON lines.
    #[arg(value_name = "PATH", required = true, num_args = 1..)]
    pub paths: Vec<PathBuf>,
    /// The collection.
    #[arg(value_name = "NS/NAME", value_parser = parse::address)]
    pub target: Address,
    /// The field that holds a line's key; dots lead into objects.
    #[arg(long, value_name = "FIELD")]
    key: Option<KeyPath>,
    /// Form of the input, if it is not plain from the paths and --key.
    #[arg(long)]
    format: Option<Format>,
    /// Put this before every key.
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: OsString,
    /// Make the namespace and the collection if they are missing.
    #[arg(long)]
    create: bool,
    /// Leave out values over 4 MiB and keys over 4 KiB instead of refusing to start.
    #[arg(long)]
    skip_too_large: bool,
}

/// Runs it.
pub async fn run(context: &Context, arguments: Arguments) -> Result<(), CliError> {
    let input = Arc::new(Input::choose(Wanted {
        paths: &arguments.paths,
        format: arguments.format,
        key: arguments.key.as_ref(),
        prefix: &arguments.prefix,
    })?);
    let collection = &arguments.target.collection;
    let client = context.client(&arguments.target)?;
    let records_before = records_in(&client, collection, arguments.create).await?;
    let plan = plan(context, &input, arguments.skip_too_large).await?;
    if records_before.is_none() {
        create(&client, collection).await?;
    }
    let started = Instant::now();
    let writer = Writer {
        client: context.patient(&client),
        collection: collection.clone(),
        compare: records_before.is_some_and(|records| records > 0),
        progress: Progress::bytes(context.output, "importing", plan.bytes),
    };
    let (counts, ended) = writer.run(input, arguments.skip_too_large).await;
    let seconds = started.elapsed().as_secs_f64();
    if let Err(error) = ended {
        let done = counts.written_records + counts.unchanged_records;
        context.output.note(&format!("{done} of {} records are in the collection", plan.records));
        return Err(error);
    }
    let document = summary(collection, &plan, &counts, seconds);
    context.output.result(document, &summary_text(collection, &plan, &counts, seconds))
}

/// How many records the collection holds; None if it must be created first, and may be.
async fn records_in(
    client: &Client,
    collection: &CollectionName,
    create: bool,
) -> Result<Option<u64>, CliError> {
    match client.describe_collection(collection, Consistency::Linearizable).await {
        Ok(found) => Ok(Some(found.records)),
        Err(failure) if !is_missing(&failure) => Err(failure.into()),
        Err(_) if create => Ok(None),
        Err(failure) => Err(failure.hint("--create makes the namespace and the collection").into()),
    }
}

fn is_missing(failure: &Failure) -> bool {
    matches!(failure.code, Code::NamespaceNotFound | Code::CollectionNotFound)
}

/// Makes namespace and collection; that somebody else was faster is fine.
async fn create(client: &Client, collection: &CollectionName) -> Result<(), CliError> {
    let there = |failure: &Failure| failure.code == Code::AlreadyExists;
    if let Err(failure) = client.create_namespace(&collection.namespace).await
        && !there(&failure)
    {
        return Err(failure.into());
    }
    match client.create_collection(collection).await {
        Err(failure) if !there(&failure) => Err(failure.into()),
        _ => Ok(()),
    }
}

/// Checks the whole input, off the threads that talk to the cluster.
async fn plan(context: &Context, input: &Arc<Input>, skip: bool) -> Result<Plan, CliError> {
    let input = input.clone();
    let progress = Progress::unbounded(context.output, "checking the input");
    let checking =
        tokio::task::spawn_blocking(move || input.plan(skip, &mut |bytes| progress.set(bytes)));
    // Checking writes nothing, so that Ctrl-C may end the process in the midst of it.
    let plan = checking.await.map_err(|error| CliError::Defect(error.to_string()))??;
    if !context.output.json {
        for (listing, what) in
            [(&plan.too_large, "over the limits"), (&plan.special, "neither files nor directories")]
        {
            if listing.count > 0 {
                let (count, names) = (listing.count, listing.text());
                context.output.note(&format!("left out, {what}: {count}\n{names}"));
            }
        }
    }
    Ok(plan)
}

fn summary(collection: &CollectionName, plan: &Plan, counts: &Counts, seconds: f64) -> Value {
    json!({
        "collection": collection.to_string(),
        "records": counts.written_records + counts.unchanged_records,
        "bytes": counts.written_bytes + counts.unchanged_bytes,
        "written_records": counts.written_records,
        "written_bytes": counts.written_bytes,
        "unchanged_records": counts.unchanged_records,
        "unchanged_bytes": counts.unchanged_bytes,
        "skipped_too_large_records": plan.too_large.count,
        "skipped_too_large": plan.too_large.names,
        "skipped_special_files": plan.special.count,
        "skipped_special": plan.special.names,
        "seconds": seconds,
    })
}

fn summary_text(collection: &CollectionName, plan: &Plan, counts: &Counts, seconds: f64) -> String {
    // Below a millisecond a rate says nothing.
    let rate = (counts.written_bytes as f64 / seconds.max(0.001)) as u64;
    let mut text = format!(
        "imported into {collection}: {} records, {} in {seconds:.1} s ({})",
        counts.written_records,
        text::size(counts.written_bytes),
        text::rate(rate),
    );
    if counts.unchanged_records > 0 {
        text.push_str(&format!("; {} were there already", counts.unchanged_records));
    }
    let skipped = plan.too_large.count + plan.special.count;
    if skipped > 0 {
        text.push_str(&format!("; {skipped} left out"));
    }
    text
}
