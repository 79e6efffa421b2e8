//! Reads the sources in order of precedence, validates the whole, and renders it back.
//!
//! Nothing is guessed: an unknown key or a bad value fails with its place and name. Only empty
//! advertised addresses are filled in, from where the node listens.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;

use super::settings::{Form, Setting, settings};
use super::{Config, ConfigError};
use crate::limits;

/// The configuration file, inside the data directory.
pub const FILE_NAME: &str = "ratoon.toml";

/// Largest configuration file, bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Start of the environment's names.
const ENVIRONMENT_PREFIX: &str = "RATOON_";

/// Names that are not a node's settings: they belong to the command line and the client.
const ENVIRONMENT_OTHERS: [&str; 7] = [
    "RATOON_DATA",
    "RATOON_CONFIG_DIR",
    "RATOON_PROFILE",
    "RATOON_ENDPOINT",
    "RATOON_TIMEOUT",
    "RATOON_JSON",
    "RATOON_JOIN",
];

impl Config {
    /// The configuration of the node with its data in `data`: defaults, `DATA/ratoon.toml` if there
    /// is one, `environment` (names and values; others than `RATOON_*` are passed over), and `flags`
    /// (`section.name` and value, later ones winning).
    pub fn load(
        data: &Path,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[(String, String)],
    ) -> Result<Config, ConfigError> {
        let mut config = Config::defaults(data.to_owned());
        let path = data.join(FILE_NAME);
        if let Some(text) = read(&path)? {
            apply_file(&mut config, &path, &text)?;
        }
        for (name, value) in environment {
            apply_environment(&mut config, &name, &value)?;
        }
        for (key, value) in flags {
            apply(&mut config, "a flag", key, value)?;
        }
        fill_advertised(&mut config);
        validate(&config)?;
        Ok(config)
    }
}

fn read(path: &Path) -> Result<Option<String>, ConfigError> {
    let unreadable = |cause: String| ConfigError::Unreadable { path: path.to_owned(), cause };
    let bytes = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error.to_string())),
    };
    if bytes > FILE_BYTES_MAX {
        return Err(unreadable(format!("it has {bytes} bytes, the limit is {FILE_BYTES_MAX}")));
    }
    std::fs::read_to_string(path).map(Some).map_err(|error| unreadable(error.to_string()))
}

fn apply_file(config: &mut Config, path: &Path, text: &str) -> Result<(), ConfigError> {
    let origin = path.display().to_string();
    let table: toml::Table = toml::from_str(text).map_err(|error| ConfigError::Malformed {
        path: path.to_owned(),
        cause: error.to_string(),
    })?;
    for (section, value) in &table {
        let toml::Value::Table(entries) = value else {
            return Err(unknown(&origin, section));
        };
        for (name, value) in entries {
            apply_value(config, &origin, &format!("{section}.{name}"), value)?;
        }
    }
    Ok(())
}

fn apply_value(
    config: &mut Config,
    origin: &str,
    key: &str,
    value: &toml::Value,
) -> Result<(), ConfigError> {
    let setting = find(origin, key)?;
    let (form, text) = match value {
        toml::Value::String(text) => (Some(Form::Text), text.clone()),
        toml::Value::Integer(number) => (Some(Form::Number), number.to_string()),
        toml::Value::Boolean(switch) => (Some(Form::Switch), switch.to_string()),
        other => (None, other.to_string()),
    };
    if form != Some(setting.form) {
        let expected = match setting.form {
            Form::Text => "a string in quotes",
            Form::Number => "a whole number",
            Form::Switch => "true or false",
        };
        return Err(bad(origin, key, &text, format!("expected {expected}")));
    }
    (setting.set)(config, &text).map_err(|problem| bad(origin, key, &text, problem))
}

fn apply(config: &mut Config, origin: &str, key: &str, text: &str) -> Result<(), ConfigError> {
    let setting = find(origin, key)?;
    (setting.set)(config, text).map_err(|problem| bad(origin, key, text, problem))
}

/// Applies one variable. A name that begins like a section of ours but is no setting is an error;
/// other `RATOON_*` names are left alone.
fn apply_environment(config: &mut Config, name: &str, value: &str) -> Result<(), ConfigError> {
    match classify(name) {
        Variable::Setting(setting) => (setting.set)(config, value)
            .map_err(|problem| bad("the environment", name, value, problem)),
        Variable::Mistyped => {
            let suggestion = nearest(name, settings().iter().map(Setting::environment_name));
            let origin = "the environment".to_owned();
            Err(ConfigError::UnknownKey { origin, key: name.to_owned(), suggestion })
        }
        Variable::Foreign | Variable::Unknown => Ok(()),
    }
}

enum Variable {
    /// A setting of the node.
    Setting(&'static Setting),
    /// Begins like a setting and is none.
    Mistyped,
    /// Begins with `RATOON_`, and we do not know what it is.
    Unknown,
    /// None of ours.
    Foreign,
}

fn classify(name: &str) -> Variable {
    let Some(rest) = name.strip_prefix(ENVIRONMENT_PREFIX) else { return Variable::Foreign };
    if ENVIRONMENT_OTHERS.contains(&name) {
        return Variable::Foreign;
    }
    if let Some(setting) = settings().iter().find(|setting| setting.environment_name() == name) {
        return Variable::Setting(setting);
    }
    if is_injected(rest) {
        return Variable::Unknown;
    }
    let section = rest.split('_').next().unwrap_or_default().to_lowercase();
    let known = settings().iter().any(|setting| setting.key.split('.').next() == Some(&section));
    if known { Variable::Mistyped } else { Variable::Unknown }
}

/// Whether a name without its prefix is one that Kubernetes, and Docker's links, give to the
/// containers beside a service: `RATOON_RAFT_SERVICE_HOST`, `RATOON_PORT_7402_TCP_ADDR`,
/// `RATOON_API_PORT`. A service called ratoon-raft must not keep a node from starting, and no setting
/// looks like this.
fn is_injected(rest: &str) -> bool {
    let name = format!("_{rest}");
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.contains("_PORT_")
        || name.ends_with("_PORT")
}

/// Names among `environment` that begin with `RATOON_` and mean nothing to a node: worth a warning.
pub fn unknown_environment<'a>(environment: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    environment.into_iter().filter(|name| matches!(classify(name), Variable::Unknown)).collect()
}

fn find(origin: &str, key: &str) -> Result<&'static Setting, ConfigError> {
    settings().iter().find(|setting| setting.key == key).ok_or_else(|| unknown(origin, key))
}

fn unknown(origin: &str, key: &str) -> ConfigError {
    let suggestion = nearest(key, settings().iter().map(|setting| setting.key.to_owned()));
    ConfigError::UnknownKey { origin: origin.to_owned(), key: key.to_owned(), suggestion }
}

fn bad(origin: &str, key: &str, value: &str, problem: String) -> ConfigError {
    let value = value.chars().take(200).collect();
    ConfigError::BadValue { origin: origin.to_owned(), key: key.to_owned(), value, problem }
}

/// The candidate that differs least from `name`, if it differs by little. A last part that is right
/// under a wrong section counts as near.
fn nearest(name: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    let last = |name: &str| name.rsplit('.').next().map(str::to_owned);
    candidates
        .map(|candidate| {
            let same_last = last(name) == last(&candidate);
            (if same_last { 1 } else { distance(name, &candidate) }, candidate)
        })
        .min()
        .filter(|(distance, _)| *distance <= name.len().min(30) / 3 + 1)
        .map(|(_, candidate)| candidate)
}

/// Edits (insert, remove, replace one byte) between two short names.
fn distance(a: &str, b: &str) -> usize {
    // Names longer than this are no typing errors, and the work is bounded.
    let a = &a.as_bytes()[..a.len().min(64)];
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(*x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Fills in empty advertised addresses.
fn fill_advertised(config: &mut Config) {
    let listen = &config.listen;
    let advertise = &mut config.advertise;
    let pairs = [
        (&mut advertise.raft, listen.raft),
        (&mut advertise.bulk, listen.bulk),
        (&mut advertise.api, listen.api),
    ];
    for (advertised, listen) in pairs {
        if advertised.is_empty() {
            let host = if listen.ip().is_unspecified() { outward_host() } else { listen.ip() };
            *advertised = SocketAddr::new(host, listen.port()).to_string();
        }
    }
}

/// The address this machine would talk to others from; loopback if it has no network. Connecting a
/// UDP socket sends nothing: it only asks the routing table.
fn outward_host() -> IpAddr {
    let ask = || -> io::Result<IpAddr> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        // An address kept for documentation, so that no one is meant by it.
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        Ok(socket.local_addr()?.ip())
    };
    match ask() {
        Ok(address) if !address.is_unspecified() => address,
        // No route: then nobody but this machine reaches the node anyway.
        Ok(_) | Err(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}

/// The relations between settings.
fn validate(config: &Config) -> Result<(), ConfigError> {
    let conflict = |text: String| Err(ConfigError::Conflict(text));
    let raft = &config.raft;
    if raft.heartbeat_ticks * 2 >= raft.election_ticks {
        return conflict(format!(
            "raft.election_ticks ({}) must be over twice raft.heartbeat_ticks ({}), or one lost \
             heartbeat causes an election",
            raft.election_ticks, raft.heartbeat_ticks
        ));
    }
    let listen = &config.listen;
    if listen.raft == listen.bulk && listen.raft.port() != 0 {
        return conflict(format!(
            "listen.raft and listen.bulk are both {}: bulk data has a UDP port of its own",
            listen.raft
        ));
    }
    if listen.api == listen.http && listen.api.port() != 0 {
        return conflict(format!(
            "listen.api and listen.http are both {}: each has a TCP port of its own",
            listen.api
        ));
    }
    let rate = config.bulk.bytes_per_second_max;
    if (1..limits::BULK_RATE_MIN).contains(&rate) {
        return conflict(format!(
            "bulk.bytes_per_second_max is {rate}, the smallest limit is {}; 0 lifts it",
            limits::BULK_RATE_MIN
        ));
    }
    let advertise = &config.advertise;
    let advertised =
        [("raft", &advertise.raft), ("bulk", &advertise.bulk), ("api", &advertise.api)];
    for (name, address) in advertised {
        let unspecified =
            address.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_unspecified());
        if unspecified || address.ends_with(":0") || address.len() > limits::ADDRESS_BYTES_MAX {
            return conflict(format!(
                "advertise.{name} is {address}, which nobody can reach; set it to the host:port at \
                 which others reach this node"
            ));
        }
    }
    Ok(())
}

/// The configuration as the text of its file.
pub(super) fn render(config: &Config) -> String {
    let mut text = String::from(
        "# Configuration of a ratoon node. A flag wins over RATOON_SECTION_NAME in the environment,\n\
         # that over this file, that over the default. Unknown keys are refused.\n",
    );
    let mut section = "";
    for setting in settings() {
        let (of, name) = setting.key.split_once('.').expect("every key has a section");
        if of != section {
            section = of;
            write!(text, "\n[{section}]\n").expect("writing to a string never fails");
        }
        let value = (setting.get)(config);
        let value = match setting.form {
            Form::Text => toml::Value::String(value).to_string(),
            Form::Number | Form::Switch => value,
        };
        write!(text, "# {}\n{name} = {value}\n", setting.meaning)
            .expect("writing to a string never fails");
    }
    text
}
