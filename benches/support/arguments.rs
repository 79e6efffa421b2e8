//! The flags of a benchmark: `--name value`, each with a default.
//!
//! Knows nothing of clap, which only the command line may use; what cargo adds by itself is passed
//! over.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use super::Failed;

/// A flag that takes a value.
pub struct Flag {
    /// Without the dashes.
    pub name: &'static str,
    /// Its value unless given.
    pub default: &'static str,
    /// What it means, with its unit.
    pub meaning: &'static str,
}

/// Flags of every benchmark, so that one command line serves all of them.
const COMMON: &[Flag] = &[
    Flag { name: "runs", default: "3", meaning: "times everything is measured, taking turns" },
    Flag { name: "json", default: "", meaning: "file whose member for this benchmark is replaced" },
    Flag {
        name: "program",
        default: env!("CARGO_BIN_EXE_ratoon"),
        meaning: "the ratoon that is measured",
    },
    Flag {
        name: "directory",
        default: env!("CARGO_TARGET_TMPDIR"),
        meaning: "where the data directories are made and removed; decides which disk is measured",
    },
];

/// What was asked for.
pub struct Arguments {
    values: BTreeMap<&'static str, String>,
}

impl Arguments {
    /// The arguments of this process. None: help was asked for, and is the text.
    pub fn parse(own: &[Flag]) -> Result<Result<Arguments, String>, Failed> {
        let mut given = std::env::args().skip(1);
        let flags = || COMMON.iter().chain(own);
        let mut values: BTreeMap<_, _> =
            flags().map(|flag| (flag.name, flag.default.to_owned())).collect();
        while let Some(argument) = given.next() {
            // cargo adds this one for harnesses of its own kind.
            if argument == "--bench" {
                continue;
            }
            if argument == "--help" || argument == "-h" {
                return Ok(Err(help(flags())));
            }
            let known = argument.strip_prefix("--").and_then(|name| values.get_mut(name));
            let Some(value) = known else {
                return Err(format!("unknown argument {argument:?}\n{}", help(flags())).into());
            };
            *value = given.next().ok_or_else(|| format!("{argument} takes a value"))?;
        }
        Ok(Ok(Arguments { values }))
    }

    /// The text of a flag.
    pub fn text(&self, name: &str) -> &str {
        self.values.get(name).expect("only flags that were declared are asked for")
    }

    /// A flag that is a number, at least `least`.
    pub fn number<T>(&self, name: &str, least: T) -> Result<T, Failed>
    where
        T: FromStr + PartialOrd + std::fmt::Display,
    {
        let text = self.text(name);
        let number: T = text.parse().map_err(|_| format!("--{name} {text}: not a number"))?;
        if number < least {
            return Err(format!("--{name} {text}: at least {least}").into());
        }
        Ok(number)
    }

    /// Times everything is measured.
    pub fn runs(&self) -> Result<usize, Failed> {
        self.number("runs", 1)
    }

    /// Where to write figures as JSON.
    pub fn json(&self) -> Option<PathBuf> {
        Some(self.text("json")).filter(|text| !text.is_empty()).map(PathBuf::from)
    }

    /// A new directory for all files of this process, removed when it is dropped.
    pub fn directory(&self) -> Result<tempfile::TempDir, Failed> {
        let parent = self.text("directory");
        let failed = |error| format!("cannot make a directory in {parent}: {error}");
        std::fs::create_dir_all(parent).map_err(failed)?;
        let made = tempfile::Builder::new().prefix("ratoon-bench-").tempdir_in(parent);
        Ok(made.map_err(failed)?)
    }
}

fn help<'a>(flags: impl Iterator<Item = &'a Flag>) -> String {
    let mut text = String::from("arguments, after `--`:\n");
    for Flag { name, default, meaning } in flags {
        text += &format!("  --{name:<12} {meaning} [{default}]\n");
    }
    text
}
