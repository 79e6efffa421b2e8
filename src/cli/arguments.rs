//! The grammar of the command line: global flags and the verbs.
//!
//! Each verb's own flags stand in its file. Help texts are the doc comments.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use super::{
    chaos, collection, completions, delete, demo, export, get, import, namespace, node, parse,
    profile, put, scan, snapshot, status, token, transfer,
};
use super::{init, join, start};

const EXAMPLES: &str = "\
Examples:
  ratoon demo                               watch a cluster grow over a bad link
  ratoon init --data /var/lib/ratoon        make a cluster of one node
  ratoon start --data /var/lib/ratoon       run it
  ratoon token create                       let a machine join; prints its command
  ratoon put prod/users alice '{\"age\": 7}'  write a record
  ratoon get prod/users alice               read it back
  ratoon status --watch                     nodes and transfers, as they move

A collection is written [PROFILE:]NAMESPACE/NAME, for example prod/users or eu:prod/users.

Exit codes: 0 done, 1 negative answer, 2 usage, 3 refused, 4 unavailable (run it again),
5 outcome unknown, 70 a bug of ratoon.";

/// A replicated store of collections that grows by resumable snapshots.
#[derive(Debug, Parser)]
#[command(name = "ratoon", bin_name = "ratoon", version, after_help = EXAMPLES)]
#[command(subcommand_required = true, arg_required_else_help = true, max_term_width = 100)]
pub struct CommandLine {
    /// Flags every verb takes.
    #[command(flatten)]
    pub global: GlobalFlags,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Flags every verb takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalFlags {
    /// Cluster to talk to: a profile of the configuration directory; `init` writes it.
    #[arg(long, global = true, value_name = "NAME", default_value = "default")]
    #[arg(env = "RATOON_PROFILE", hide_env_values = true, value_parser = parse::profile_name)]
    pub profile: String,
    /// API address to use instead of the profile's; repeat it for several.
    #[arg(long = "endpoint", global = true, value_name = "HOST:PORT", value_parser = parse::endpoint)]
    #[arg(env = "RATOON_ENDPOINT", hide_env_values = true, value_delimiter = ',')]
    pub endpoints: Vec<String>,
    /// Print JSON: one document, or one a line where results stream.
    #[arg(long, global = true, env = "RATOON_JSON", hide_env_values = true)]
    pub json: bool,
    /// Give up after this long without success [default: 30s; 5m for long work].
    #[arg(long, global = true, value_name = "DURATION")]
    #[arg(env = "RATOON_TIMEOUT", hide_env_values = true, value_parser = parse::duration)]
    pub timeout: Option<Duration>,
    /// Read what the asked node has, without asking the others; it may be old.
    #[arg(long, global = true)]
    pub stale: bool,
    /// Directory that holds profiles/NAME.toml [default: ~/.config/ratoon].
    #[arg(long, global = true, value_name = "DIR", env = "RATOON_CONFIG_DIR")]
    #[arg(hide_env_values = true, visible_alias = "profile-dir")]
    pub config_dir: Option<PathBuf>,
}

/// What ratoon can be asked to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a cluster of one node.
    Init(init::Arguments),
    /// Run a node until it is told to stop.
    Start(start::Arguments),
    /// Enrol this machine in a cluster, and exit.
    Join(join::Arguments),
    /// Show nodes, roles, indexes and transfers.
    Status(status::Arguments),
    /// Run the demo: a cluster grows over a bad link, and loses nothing.
    Demo(demo::Arguments),
    /// Run `ratoon-chaos`, storms on real processes, if it lies beside this program.
    Chaos(chaos::Arguments),
    /// Write a record.
    Put(put::Arguments),
    /// Read a record; writes its raw bytes.
    Get(get::Arguments),
    /// Delete a record.
    Delete(delete::Arguments),
    /// List records in key order.
    Scan(scan::Arguments),
    /// Write a directory tree or JSON lines into a collection.
    Import(import::Arguments),
    /// Write a collection to a directory tree or a file of lines.
    Export(export::Arguments),
    /// Compare the content of all nodes at one index.
    Digest,
    /// Tokens with which machines join.
    #[command(subcommand)]
    Token(token::Verb),
    /// The nodes of the cluster.
    #[command(subcommand)]
    Node(node::Verb),
    /// Namespaces, which hold collections.
    #[command(subcommand)]
    Namespace(namespace::Verb),
    /// Collections, which hold records.
    #[command(subcommand)]
    Collection(collection::Verb),
    /// Snapshots stored on the nodes.
    #[command(subcommand)]
    Snapshot(snapshot::Verb),
    /// Transfers of snapshots between nodes.
    #[command(subcommand)]
    Transfer(transfer::Verb),
    /// The clusters this machine knows.
    #[command(subcommand)]
    Profile(profile::Verb),
    /// Print a completion script for a shell.
    Completions(completions::Arguments),
}

impl Verb {
    /// Whether `--stale` means something to it.
    pub fn reads(&self) -> bool {
        match self {
            Verb::Get(_) | Verb::Scan(_) | Verb::Export(_) => true,
            Verb::Namespace(verb) => matches!(verb, namespace::Verb::List),
            Verb::Collection(verb) => {
                matches!(verb, collection::Verb::List(_) | collection::Verb::Describe(_))
            }
            _ => false,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::types::{ClusterId, JoinToken};

    fn parse(words: &str) -> Result<CommandLine, clap::Error> {
        let token = JoinToken {
            cluster: ClusterId([1; 16]),
            ca_fingerprint: [2; 32],
            secret: [3; 32],
            endpoints: vec!["h:1".to_owned()],
        };
        let words = words.replace("TOKEN", &token.to_string());
        CommandLine::try_parse_from(std::iter::once("ratoon").chain(words.split(' ')))
    }

    #[test]
    fn the_grammar_holds_together() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_verb_is_understood() {
        for words in [
            "init --data d",
            "init --data d --listen-raft 127.0.0.1:1 --advertise-raft h:1 --listen-bulk 127.0.0.1:2 --advertise-bulk h:2 --listen-api 127.0.0.1:3 --advertise-api h:3 --listen-http 127.0.0.1:4 --profile p --profile-dir x",
            "start --data d",
            "start --data d --join TOKEN --log-level debug --log-format json",
            "join TOKEN --data d",
            "token create --ttl 1h --learner --json",
            "status --watch",
            "status --watch=500ms",
            "node list",
            "node promote 4",
            "node remove 4",
            "node transfer-leader 2",
            "namespace create prod",
            "namespace list --stale",
            "namespace drop prod",
            "collection create prod/users",
            "collection list prod",
            "collection list",
            "collection describe prod/users",
            "collection drop prod/users",
            "put prod/users key value --if-absent",
            "put prod/users key -",
            "put prod/users 00ff --key-hex --file f --content-type a/b --if-version 7",
            "get prod/users key --stale --endpoint a:1 --endpoint b:2",
            "delete prod/users key",
            "scan prod/users --prefix a --start b --end c --limit 5 --keys-only --cursor 00",
            "import dir prod/users --create --skip-too-large",
            "import a b c prod/users --key user.id --prefix p/",
            "export prod/users out --format jsonl --force",
            "digest",
            "snapshot list",
            "snapshot create --node 2",
            "snapshot verify aabb",
            "transfer list",
            "transfer cancel 4",
            "transfer limit 20MiB --node 4",
            "demo --input p --key id --rate 5MiB --cuts 3 --seed 9 --report r.json --keep",
            "chaos --scenario cuts --duration 30s",
            "chaos campaign --results r --help",
            "profile list",
            "completions bash",
        ] {
            if let Err(error) = parse(words) {
                panic!("`ratoon {words}`: {error}");
            }
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for words in [
            "put prod/users key",
            "put prod/users key value --file f",
            "put prod/users key v --if-absent --if-version 1",
            "get prod",
            "get prod/users@7 key",
            "import prod/users",
            "node promote zero",
            "node promote 0",
            "start --data d --join ratoon1.cut.off",
            "token create --ttl 0s",
            "transfer limit fast",
            "--endpoint nowhere status",
            "--timeout soon status",
            "--profile ../x status",
        ] {
            let error = parse(words).map(|_| words).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{words}");
        }
    }

    #[test]
    fn a_mistyped_verb_gets_a_suggestion() {
        let error = parse("statsu").unwrap_err().to_string();
        assert!(error.contains("status"), "{error}");
    }

    #[test]
    fn the_last_path_of_an_import_is_its_target() {
        let Verb::Import(arguments) = parse("import a b prod/users").unwrap().verb else {
            panic!("parsed as something else");
        };
        assert_eq!(arguments.paths, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!(arguments.target.collection.to_string(), "prod/users");
    }

    #[test]
    fn stale_is_for_reads() {
        assert!(parse("get a/b c").unwrap().verb.reads());
        assert!(!parse("put a/b c d").unwrap().verb.reads());
        assert!(!parse("node list").unwrap().verb.reads());
    }
}
