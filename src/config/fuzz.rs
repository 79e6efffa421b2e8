//! Fuzz targets of this room: the file, the environment and flags of a node's configuration.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::fuzz::{Target, Verdict, bounded};

const WORDS: &[&str] = &[
    "[raft]\n",
    "[listen]\n",
    "[",
    "]",
    "=",
    "\"",
    "'",
    "\n",
    "\"\"\"",
    ".",
    "tick_ms",
    "raft",
    "true",
    "0x",
    "1_000",
    "-",
    "nan",
    "1979-05-27T07:32:00Z",
    "{",
    "}",
    "\\u0000",
    "#",
];

#[test]
fn configuration_files() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join(FILE_NAME);
    let defaults = Config::defaults(PathBuf::new()).render_toml();
    let examples = vec![
        ("defaults", defaults.into_bytes()),
        ("small", b"[raft]\ntick_ms = 60\n\n[membership]\npromote = false\n".to_vec()),
        ("inline", b"bulk = { bytes_per_second_max = 1000000 }\nlog.level = 'debug'\n".to_vec()),
        ("empty", b"".to_vec()),
    ];
    let target = Target { words: WORDS, ..Target::new("config-file", examples) };
    target.run(|input| {
        fs::write(&path, input).unwrap();
        let load = || Config::load(root.path(), [], &[]);
        let result = bounded(input, load);
        if let Ok(config) = &result {
            fs::write(&path, config.render_toml()).unwrap();
            assert_eq!(&load().unwrap(), config);
        }
        if let Err(error) = &result {
            // People read it; it quotes no more than a line or a value.
            assert!(error.to_string().len() < 2 * input.len() + 2_000, "{error}");
        }
        Verdict::of(&result)
    });
}

#[test]
fn settings_of_the_environment_and_of_flags() {
    let root = tempfile::tempdir().unwrap();
    // Not loaded: that fills in this machine's address.
    let defaults = Config::defaults(PathBuf::new());
    let examples = settings().iter().map(|setting| {
        let line = format!("{}={}", setting.key, (setting.get)(&defaults));
        (setting.key, line.into_bytes())
    });
    let target = Target {
        words: &["=", ".", "_", "RATOON_", ":", "[", "]", "-", "999999999999999999999"],
        ..Target::new("setting", examples.collect())
    };
    target.run(|input| {
        let Some((key, value)) =
            std::str::from_utf8(input).ok().and_then(|line| line.split_once('='))
        else {
            return Verdict::Refused;
        };
        let flag = [(key.to_owned(), value.to_owned())];
        let name = format!("RATOON_{}", key.replace('.', "_").to_uppercase());
        let by_flag = bounded(input, || Config::load(root.path(), [], &flag));
        let by_environment =
            bounded(input, || Config::load(root.path(), [(name, value.to_owned())], &[]));
        if let Ok(config) = &by_flag
            && settings().iter().any(|setting| setting.key == key)
        {
            assert_eq!(by_environment.as_ref(), Ok(config));
        }
        Verdict::of(&by_flag)
    });
}
