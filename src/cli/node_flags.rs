//! Flags that say how a node runs; `init`, `start` and `join` take the same.
//!
//! Each is a setting of the configuration by another name; `--set` reaches the others. What a value
//! means and whether it is right, the configuration judges.

use std::path::PathBuf;

use clap::Args;

use super::failure::CliError;
use super::parse;
use crate::config::{Config, ConfigError, FILE_NAME};

/// Where a node lives and how it is reached.
#[derive(Debug, Args)]
#[command(next_help_heading = "Node options")]
pub struct NodeFlags {
    /// Directory of the node's data; its ratoon.toml holds the settings.
    #[arg(long, value_name = "DIR", env = "RATOON_DATA", hide_env_values = true)]
    data: PathBuf,
    /// Raft between nodes, UDP [default: 0.0.0.0:7400].
    #[arg(long, value_name = "IP:PORT")]
    listen_raft: Option<String>,
    /// Bulk data between nodes, UDP [default: 0.0.0.0:7401].
    #[arg(long, value_name = "IP:PORT")]
    listen_bulk: Option<String>,
    /// gRPC for clients, TCP [default: 0.0.0.0:7402].
    #[arg(long, value_name = "IP:PORT")]
    listen_api: Option<String>,
    /// Metrics and health, TCP, unprotected [default: 127.0.0.1:7403].
    #[arg(long, value_name = "IP:PORT")]
    listen_http: Option<String>,
    /// Where other nodes reach --listen-raft.
    #[arg(long, value_name = "HOST:PORT")]
    advertise_raft: Option<String>,
    /// Where other nodes reach --listen-bulk.
    #[arg(long, value_name = "HOST:PORT")]
    advertise_bulk: Option<String>,
    /// Where clients reach --listen-api; its host stands in the node's certificate.
    #[arg(long, value_name = "HOST:PORT")]
    advertise_api: Option<String>,
    /// critical, error, warning, info, debug or trace [default: info].
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// text or json [default: text].
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Limit of the node's bulk data, bytes a second, for example 20MiB [default: none].
    #[arg(long, value_name = "RATE", value_parser = parse::byte_rate)]
    bulk_rate: Option<u64>,
    /// Any setting of ratoon.toml, for example raft.tick_ms=100; repeat it for several.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is no setting; write KEY=VALUE")),
    }
}

impl NodeFlags {
    /// The flags as settings; `--set` comes last and wins.
    fn settings(&self) -> Vec<(String, String)> {
        let bulk_rate = self.bulk_rate.map(|rate| rate.to_string());
        let named = [
            ("listen.raft", &self.listen_raft),
            ("listen.bulk", &self.listen_bulk),
            ("listen.api", &self.listen_api),
            ("listen.http", &self.listen_http),
            ("advertise.raft", &self.advertise_raft),
            ("advertise.bulk", &self.advertise_bulk),
            ("advertise.api", &self.advertise_api),
            ("log.level", &self.log_level),
            ("log.format", &self.log_format),
            ("bulk.bytes_per_second_max", &bulk_rate),
        ];
        let given = named
            .into_iter()
            .filter_map(|(key, value)| value.as_ref().map(|value| (key.to_owned(), value.clone())));
        given.chain(self.settings.iter().cloned()).collect()
    }

    /// The whole configuration: flags, environment, DATA/ratoon.toml, defaults.
    pub fn config(&self) -> Result<Config, CliError> {
        // What is no UTF-8 cannot be the name or value of a setting.
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Config::load(&self.data, environment, &self.settings()).map_err(config_error)
    }
}

fn config_error(error: ConfigError) -> CliError {
    let hint = match &error {
        ConfigError::Unreadable { .. } => "check the file's owner and permissions".to_owned(),
        ConfigError::Malformed { .. } => "correct the line named".to_owned(),
        _ => format!("correct the flag, the RATOON_ variable or the line of {FILE_NAME}"),
    };
    CliError::usage(error.to_string(), hint)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: NodeFlags,
    }

    fn flags(words: &[&str]) -> NodeFlags {
        Line::try_parse_from([&["x"], words].concat()).unwrap().flags
    }

    #[test]
    fn every_flag_is_a_setting_that_the_configuration_knows() {
        let words = [
            "--data=d",
            "--listen-raft=127.0.0.1:1",
            "--listen-bulk=127.0.0.1:2",
            "--listen-api=127.0.0.1:3",
            "--listen-http=127.0.0.1:4",
            "--advertise-raft=h:1",
            "--advertise-bulk=h:2",
            "--advertise-api=h:3",
            "--log-level=debug",
            "--log-format=json",
            "--bulk-rate=20MiB",
        ];
        let flags = flags(&words);
        assert_eq!(flags.settings().len(), words.len() - 1);
        let config = Config::load(&flags.data, [], &flags.settings()).unwrap();
        assert_eq!(config.advertise.bulk, "h:2");
        assert_eq!(config.bulk.bytes_per_second_max, 20 << 20);
        assert_eq!(config.log.level, slog::Level::Debug);
    }

    #[test]
    fn set_reaches_every_setting_and_wins() {
        let flags = flags(&["--data=d", "--set=log.level=trace", "--log-level=error"]);
        let config = Config::load(&flags.data, [], &flags.settings()).unwrap();
        assert_eq!(config.log.level, slog::Level::Trace);
        assert!(setting("=1").is_err() && setting("raft.tick_ms").is_err());
    }

    #[test]
    fn a_mistyped_setting_is_a_usage_error() {
        let flags = flags(&["--data=d", "--set=raft.tik_ms=3"]);
        let error = Config::load(&flags.data, [], &flags.settings()).map_err(config_error);
        assert_eq!(error.unwrap_err().report().exit, 2);
    }
}
