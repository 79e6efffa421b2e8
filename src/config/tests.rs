//! Precedence, refusals and the way through the file and back.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use super::*;

fn load(
    file: &str,
    environment: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Result<Config, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    if !file.is_empty() {
        fs::write(directory.path().join(FILE_NAME), file).unwrap();
    }
    load_in(directory.path(), environment, flags)
}

fn load_in(
    data: &Path,
    environment: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Result<Config, ConfigError> {
    let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    };
    Config::load(data, owned(environment), &owned(flags))
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let file = "[raft]\ntick_ms = 60\n";
    let environment = [("RATOON_RAFT_TICK_MS", "70")];
    let flags = [("raft.tick_ms", "80")];
    assert_eq!(load("", &[], &[]).unwrap().raft.tick_ms, 50);
    assert_eq!(load(file, &[], &[]).unwrap().raft.tick_ms, 60);
    assert_eq!(load(file, &environment, &[]).unwrap().raft.tick_ms, 70);
    assert_eq!(load(file, &environment, &flags).unwrap().raft.tick_ms, 80);
}

#[test]
fn every_setting_is_reached_from_the_environment_and_from_flags() {
    let directory = tempfile::tempdir().unwrap();
    let load = |environment: &[(&str, &str)], flags: &[(&str, &str)]| {
        load_in(directory.path(), environment, flags)
    };
    let defaults = load(&[], &[]).unwrap();
    for setting in settings() {
        let value = (setting.get)(&defaults);
        let name = setting.environment_name();
        assert_eq!(load(&[(&name, &value)], &[]).unwrap(), defaults, "{name}");
        assert_eq!(load(&[], &[(setting.key, &value)]).unwrap(), defaults, "{name}");
        // A wrong value is noticed, so the setting was really read.
        if !setting.key.starts_with("advertise") {
            assert!(load(&[(&name, "bad value")], &[]).is_err(), "{name}");
        }
    }
}

#[test]
fn unknown_keys_are_named_with_what_was_probably_meant() {
    let cases = [
        ("[raft]\ntick_msec = 1\n", "raft.tick_msec", Some("raft.tick_ms")),
        ("[rafts]\ntick_ms = 1\n", "rafts.tick_ms", Some("raft.tick_ms")),
        (
            "[snapshot]\nmemtable_bytes = 1\n",
            "snapshot.memtable_bytes",
            Some("storage.memtable_bytes"),
        ),
        ("[raft]\nqqqqqqqqqqqq = 1\n", "raft.qqqqqqqqqqqq", None),
        ("tick_ms = 1\n", "tick_ms", Some("raft.tick_ms")),
    ];
    for (file, key, meant) in cases {
        match load(file, &[], &[]).unwrap_err() {
            ConfigError::UnknownKey { key: found, suggestion, origin } => {
                assert_eq!((found.as_str(), suggestion.as_deref()), (key, meant));
                assert!(origin.ends_with(FILE_NAME));
            }
            other => panic!("{other}"),
        }
    }
    let error = load("", &[("RATOON_RAFT_TICKMS", "1")], &[]).unwrap_err();
    assert!(error.to_string().contains("did you mean RATOON_RAFT_TICK_MS?"), "{error}");
}

#[test]
fn names_that_a_platform_injects_do_no_harm_but_are_told() {
    let names = ["RATOON_PORT_7402_TCP", "RATOON_SERVICE_HOST", "RATOON_PROFILE", "HOME"];
    let environment: Vec<_> = names.iter().map(|name| (*name, "x")).collect();
    assert!(load("", &environment, &[]).is_ok());
    assert_eq!(unknown_environment(names), ["RATOON_PORT_7402_TCP", "RATOON_SERVICE_HOST"]);
}

#[test]
fn values_of_the_wrong_form_or_out_of_bounds_are_refused_with_their_place() {
    let cases = [
        "[raft]\ntick_ms = \"50\"\n",
        "[raft]\ntick_ms = 0\n",
        "[raft]\ntick_ms = -1\n",
        "[raft]\ntick_ms = 1.5\n",
        "[listen]\napi = 7402\n",
        "[listen]\napi = \"7402\"\n",
        "[advertise]\nraft = \"nohost\"\n",
        "[log]\nlevel = \"loud\"\n",
        "[snapshot]\nchunk_bytes = 5000000\n",
        "[snapshot]\nchunk_bytes = 99999999999\n",
        "[snapshot]\nstreams = 1000\n",
        "[membership]\npromote = 1\n",
        "[raft.tick_ms]\nx = 1\n",
    ];
    for file in cases {
        let error = load(file, &[], &[]).unwrap_err();
        assert!(matches!(error, ConfigError::BadValue { .. }), "{file}: {error}");
    }
    let error = load("[raft\n", &[], &[]).unwrap_err();
    assert!(matches!(error, ConfigError::Malformed { .. }), "{error}");
}

#[test]
fn settings_that_do_not_go_together_are_refused() {
    let cases: [&[(&str, &str)]; 5] = [
        &[("raft.election_ticks", "6")],
        &[("listen.raft", "0.0.0.0:1"), ("listen.bulk", "0.0.0.0:1")],
        &[("listen.api", "0.0.0.0:1"), ("listen.http", "0.0.0.0:1")],
        &[("advertise.api", "0.0.0.0:7402")],
        &[("bulk.bytes_per_second_max", "1000")],
    ];
    for flags in cases {
        let error = load("", &[], flags).unwrap_err();
        assert!(matches!(error, ConfigError::Conflict(_)), "{error}");
    }
}

#[test]
fn the_rendered_file_says_the_whole_configuration_again() {
    let directory = tempfile::tempdir().unwrap();
    let flags = [
        ("listen.api", "[::1]:9000"),
        ("advertise.raft", "node-1.example.com:7400"),
        ("log.format", "json"),
        ("log.level", "debug"),
        ("snapshot.mode", "embedded"),
        ("membership.promote", "false"),
        ("bulk.bytes_per_second_max", "1000000"),
    ];
    let config = load_in(directory.path(), &[], &flags).unwrap();
    fs::write(directory.path().join(FILE_NAME), config.render_toml()).unwrap();
    assert_eq!(load_in(directory.path(), &[], &[]).unwrap(), config);
    assert_eq!(config.advertise.api, "[::1]:9000");
    assert_eq!(config.advertise.hosts()[0], "::1");
    assert!(config.advertise.hosts().contains(&"node-1.example.com".to_owned()));
}

#[test]
fn a_node_that_listens_everywhere_advertises_an_address_somebody_can_reach() {
    let config = load("", &[], &[]).unwrap();
    for address in [&config.advertise.raft, &config.advertise.bulk, &config.advertise.api] {
        let address: SocketAddr = address.parse().unwrap();
        assert!(!address.ip().is_unspecified());
    }
    assert!(config.advertise.raft.ends_with(":7400"));
}

#[test]
fn what_a_container_platform_injects_for_a_service_of_ours_keeps_no_node_from_starting() {
    let injected = [
        "RATOON_RAFT_SERVICE_HOST",
        "RATOON_RAFT_SERVICE_PORT",
        "RATOON_RAFT_SERVICE_PORT_BULK",
        "RATOON_RAFT_PORT",
        "RATOON_RAFT_PORT_7400_UDP",
        "RATOON_LISTEN_PORT_7402_TCP_ADDR",
        "RATOON_SERVICE_HOST",
        "RATOON_PORT_7402_TCP",
    ];
    for name in injected {
        load("", &[(name, "tcp://10.0.0.1:7400")], &[]).unwrap();
        assert_eq!(unknown_environment([name]), [name]);
    }
    assert!(settings().iter().all(|setting| {
        let name = setting.environment_name();
        !name.contains("_PORT") && !name.contains("_SERVICE")
    }));
    assert!(load("", &[("RATOON_RAFT_SERVICE", "x")], &[]).is_err());
}

#[test]
fn every_setting_has_one_name_and_a_meaning() {
    let mut names: Vec<String> = settings().iter().map(Setting::environment_name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), settings().len());
    assert!(settings().iter().all(|setting| setting.meaning.ends_with('.')));
}
