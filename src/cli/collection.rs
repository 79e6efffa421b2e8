//! `collection create|list|describe|drop`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::context::Context;
use super::failure::CliError;
use super::parse::{self, Address};
use super::text;
use crate::proto::v1;
use crate::types::{Failure, Name};

/// What can be done to collections.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Create an empty collection in an existing namespace.
    Create(Target),
    /// List collections with their records and bytes.
    List(ListArguments),
    /// Show one collection.
    Describe(Target),
    /// Drop a collection with all its records.
    Drop(Target),
}

/// One collection.
#[derive(Debug, Args)]
pub struct Target {
    /// The collection.
    #[arg(value_name = "NS/NAME", value_parser = parse::address)]
    target: Address,
}

/// What `collection list` takes.
#[derive(Debug, Args)]
pub struct ListArguments {
    /// Only those of this namespace.
    #[arg(value_name = "NAMESPACE", value_parser = namespace)]
    namespace: Option<Name>,
}

fn namespace(text: &str) -> Result<Name, String> {
    Name::parse("namespace", text).map_err(|failure: Failure| failure.message)
}

/// Runs it.
pub async fn run(context: &Context, verb: Verb) -> Result<(), CliError> {
    let output = context.output;
    match verb {
        Verb::Create(Target { target }) => {
            let created = context.client(&target)?.create_collection(&target.collection).await?;
            output.result(document(&created), &format!("created collection {}", target.collection))
        }
        Verb::Drop(Target { target }) => {
            let index = context.client(&target)?.drop_collection(&target.collection).await?;
            let document = json!({"collection": target.collection.to_string(), "index": index});
            output.result(document, &format!("dropped collection {}", target.collection))
        }
        Verb::Describe(Target { target }) => {
            let client = context.client(&target)?;
            let found =
                client.describe_collection(&target.collection, context.consistency()).await?;
            output.result(document(&found), &table(&[found]))
        }
        Verb::List(ListArguments { namespace }) => {
            let client = context.default_client()?;
            let found = client.list_collections(namespace.as_ref(), context.consistency()).await?;
            let documents: Vec<Value> = found.iter().map(document).collect();
            output.result(json!({"collections": documents}), &table(&found))
        }
    }
}

fn full_name(collection: &v1::Collection) -> String {
    let name = collection.name.clone().unwrap_or_default();
    format!("{}/{}", name.namespace, name.name)
}

fn document(collection: &v1::Collection) -> Value {
    json!({
        "collection": full_name(collection),
        "incarnation": collection.incarnation,
        "created_index": collection.created_index,
        "created_unix_ms": collection.created_unix_ms,
        "records": collection.records,
        "bytes": collection.bytes,
    })
}

fn table(collections: &[v1::Collection]) -> String {
    let rows = collections.iter().map(|collection| {
        vec![
            full_name(collection),
            collection.records.to_string(),
            text::size(collection.bytes),
            text::time(collection.created_unix_ms),
        ]
    });
    text::table(&["COLLECTION", "RECORDS", "SIZE", "CREATED"], &[1, 2], rows.collect())
}
