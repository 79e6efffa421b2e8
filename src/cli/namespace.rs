//! `namespace create|list|drop`.

use clap::Subcommand;
use serde_json::json;

use super::context::Context;
use super::failure::CliError;
use super::text;
use crate::types::{Failure, Name};

/// What can be done to namespaces.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Create an empty namespace.
    Create {
        /// Its name: a-z 0-9 . _ -, at most 63 characters.
        #[arg(value_parser = name)]
        name: Name,
    },
    /// List all namespaces.
    List,
    /// Drop an empty namespace.
    Drop {
        /// Its name.
        #[arg(value_parser = name)]
        name: Name,
    },
}

fn name(text: &str) -> Result<Name, String> {
    Name::parse("namespace", text).map_err(|failure: Failure| failure.message)
}

/// Runs it.
pub async fn run(context: &Context, verb: Verb) -> Result<(), CliError> {
    let output = context.output;
    match verb {
        Verb::Create { name } => {
            let index = context.default_client()?.create_namespace(&name).await?;
            let document = json!({"namespace": name.as_str(), "index": index});
            output.result(document, &format!("created namespace {name}"))
        }
        Verb::Drop { name } => {
            let index = context.default_client()?.drop_namespace(&name).await?;
            let document = json!({"namespace": name.as_str(), "index": index});
            output.result(document, &format!("dropped namespace {name}"))
        }
        Verb::List => {
            let namespaces =
                context.default_client()?.list_namespaces(context.consistency()).await?;
            let documents = namespaces.iter().map(|namespace| {
                json!({
                    "name": namespace.name,
                    "created_index": namespace.created_index,
                    "created_unix_ms": namespace.created_unix_ms,
                })
            });
            let documents = json!({"namespaces": documents.collect::<Vec<_>>()});
            let rows = namespaces.iter().map(|namespace| {
                vec![namespace.name.clone(), text::time(namespace.created_unix_ms)]
            });
            output.result(documents, &text::table(&["NAMESPACE", "CREATED"], &[], rows.collect()))
        }
    }
}
