//! `profile list`: the clusters this machine knows. Never shows keys.

use clap::Subcommand;
use serde_json::json;

use super::context::Context;
use super::failure::CliError;
use super::text;
use crate::client::Profile;

/// What can be done to profiles.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List the profiles with their endpoints.
    List,
}

/// Runs it.
pub fn run(context: &Context, verb: &Verb) -> Result<(), CliError> {
    let Verb::List = verb;
    let directory = context.config_directory()?;
    let (mut documents, mut rows) = (Vec::new(), Vec::new());
    for name in Profile::list_in(&directory)? {
        // A damaged profile must not hide the others: it is listed with what is wrong.
        let (endpoints, problem) = match Profile::load_from(&directory, &name) {
            Ok(profile) => (profile.endpoints, String::new()),
            Err(failure) => (Vec::new(), failure.message),
        };
        let shown = if problem.is_empty() { endpoints.join(", ") } else { problem.clone() };
        rows.push(vec![name.clone(), shown]);
        documents.push(json!({"name": name, "endpoints": endpoints, "problem": problem}));
    }
    if rows.is_empty() {
        let at = directory.join("profiles");
        context.output.note(&format!("no profiles in {}; `ratoon init` writes one", at.display()));
    }
    let text = match rows.is_empty() {
        true => String::new(),
        false => text::table(&["PROFILE", "ENDPOINTS"], &[], rows),
    };
    context.output.result(json!({"profiles": documents}), &text)
}
