//! `token create`: lets one machine join.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use super::context::Context;
use super::failure::CliError;
use super::{parse, text};

const EXAMPLES: &str = "\
The token is good for one machine and says where the cluster is. Keep it as you keep a password.
The nodes that the cluster has by now are added to the profile's endpoints.

Examples:
  ratoon token create
  ratoon token create --ttl 10m --learner";

/// What can be done to tokens.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a single-use token; prints the whole command for the new machine.
    Create(CreateArguments),
}

/// What `token create` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CreateArguments {
    /// How long it can be used; at most 7 days.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse::duration)]
    ttl: Duration,
    /// The node stays a learner until `ratoon node promote`.
    #[arg(long)]
    learner: bool,
}

/// Runs it.
pub async fn run(context: &Context, verb: Verb) -> Result<(), CliError> {
    let Verb::Create(arguments) = verb;
    let ttl_ms = u64::try_from(arguments.ttl.as_millis()).unwrap_or(u64::MAX);
    let created = context.default_client()?.create_token(ttl_ms, arguments.learner).await?;
    if let Err(error) = context.learn_endpoints(&created.endpoints) {
        // The token is good whatever becomes of the profile.
        context.output.note(&format!("the profile's endpoints stay as they were: {error}"));
    }
    let command = join_command(&created.token);
    let document = json!({
        "token": created.token,
        "command": command,
        "expires_unix_ms": created.expires_unix_ms,
        "learner": arguments.learner,
        "ca_fingerprint": created.ca_fingerprint,
        "endpoints": created.endpoints,
    });
    let expires = text::time(created.expires_unix_ms);
    let shown = format!(
        "token    {}\nexpires  {expires}\n\nrun on the new machine (where others reach it by a name, add \
         --advertise-raft NAME:7400 --advertise-bulk NAME:7401 --advertise-api NAME:7402):\n\n  {command}",
        created.token
    );
    context.output.result(document, &shown)
}

/// The whole command that brings a new machine into the cluster. It runs as it is: addresses that
/// are not given are found out on the machine.
fn join_command(token: &str) -> String {
    format!("ratoon start --data /var/lib/ratoon --join {token}")
}
