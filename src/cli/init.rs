//! `init`: makes a cluster of one node.

use clap::Args;
use serde_json::json;

use super::context::Context;
use super::failure::CliError;
use super::node_flags::NodeFlags;
use crate::server;

const EXAMPLES: &str = "\
Makes the data directory with the node's identity, the cluster's CA, an empty state and
ratoon.toml, and a profile with a client certificate, so that commands on this machine reach the
cluster. --profile names the profile, --config-dir (or --profile-dir) says where it goes.
Refused if the directory holds a node already, or there is a profile of that name.

Examples:
  ratoon init --data /var/lib/ratoon --advertise-raft node1:7400 \\
      --advertise-bulk node1:7401 --advertise-api node1:7402
  ratoon init --data /tmp/one --profile test";

/// What `init` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    node: NodeFlags,
}

/// Runs it.
pub async fn run(context: &Context, arguments: Arguments) -> Result<(), CliError> {
    let config = arguments.node.config()?;
    let options = server::InitOptions {
        profile: context.global.profile.clone(),
        config_directory: context.config_directory()?,
    };
    let made = server::init(&config, &options).await?;
    let data = config.data.display().to_string();
    let next = format!("ratoon start --data {}", quoted(&data));
    let document = json!({
        "cluster_id": made.cluster.to_string(),
        "node": made.node.0,
        "data": data,
        "profile": context.global.profile,
        "profile_path": made.profile_path.display().to_string(),
        "endpoints": [config.advertise.api],
        "next_command": next,
    });
    let text = format!(
        "made cluster {} with node {}\n  data     {data}\n  profile  {} ({})\n\nstart it:\n\n  {next}",
        made.cluster,
        made.node,
        context.global.profile,
        made.profile_path.display(),
    );
    context.output.result(document, &text)
}

/// A word that a shell takes as one.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:,@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_commands_survive_a_shell() {
        assert_eq!(quoted("/var/lib/ratoon"), "/var/lib/ratoon");
        assert_eq!(quoted("it's here"), r"'it'\''s here'");
        assert_eq!(quoted(""), "''");
    }
}
