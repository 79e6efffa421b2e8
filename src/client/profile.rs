//! A profile: how a person's machine finds a cluster and proves who they are.
//!
//! One TOML file a profile in `~/.config/ratoon/profiles/` (`RATOON_CONFIG_DIR` replaces
//! `~/.config/ratoon`). It holds a private key, so it is written for its owner alone.

use std::env;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::fault::{self, Point};
use crate::types::{ClusterId, Code, Failure, Name};

/// Largest profile that is read, bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Endpoints of a cluster, whom to trust there, and who one is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// API endpoints, `host:port`, tried in order. The hosts stand in the nodes' certificates.
    pub endpoints: Vec<String>,
    /// Certificate of the cluster's CA, PEM.
    pub ca_pem: String,
    /// Client certificate, PEM; empty for a machine that has yet to join.
    #[serde(default)]
    pub certificate_pem: String,
    /// Private key of the client certificate, PEM; empty like the certificate.
    #[serde(default)]
    pub key_pem: String,
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key must reach no log.
        write!(f, "Profile({:?})", self.endpoints)
    }
}

fn refused(message: String, hint: &str) -> Failure {
    Failure::new(Code::InvalidArgument, message).hint(hint)
}

impl Profile {
    /// The directory all configuration of a person's machine lives in.
    pub fn config_directory() -> Result<PathBuf, Failure> {
        if let Some(directory) = env::var_os("RATOON_CONFIG_DIR").filter(|value| !value.is_empty())
        {
            return Ok(PathBuf::from(directory));
        }
        let home = env::var_os("HOME").filter(|value| !value.is_empty()).ok_or_else(|| {
            refused(
                "neither RATOON_CONFIG_DIR nor HOME is set".to_owned(),
                "set RATOON_CONFIG_DIR to the directory that holds `profiles`",
            )
        })?;
        Ok(PathBuf::from(home).join(".config/ratoon"))
    }

    /// Reads the profile `name` below `config_directory`.
    pub fn load_from(config_directory: &Path, name: &str) -> Result<Profile, Failure> {
        let path = path(config_directory, name)?;
        let shown = path.display();
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(refused(
                    format!("there is no profile {name:?} ({shown})"),
                    "`ratoon profile list` shows those there are; to reach a cluster that runs, copy \
                     the profile from the machine that ran `ratoon init`",
                ));
            }
            Err(error) => return Err(unreadable(&path, &error)),
        };
        if metadata.len() > FILE_BYTES_MAX {
            return Err(refused(
                format!("the profile {shown} has {} bytes", metadata.len()),
                "that is no profile; remove or replace the file",
            ));
        }
        let text = fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))?;
        let profile: Profile = toml::from_str(&text).map_err(|error| {
            refused(
                // Only the message: the whole error would quote the line, which may be the key.
                format!("the profile {shown} is malformed: {}", error.message()),
                "it holds endpoints, ca_pem, certificate_pem and key_pem",
            )
        })?;
        if !profile.key_pem.is_empty() && metadata.permissions().mode() & 0o077 != 0 {
            return Err(refused(
                format!("others may read the private key in {shown}"),
                "run `chmod 600` on it",
            ));
        }
        Ok(profile)
    }

    /// Writes it as `name` below `config_directory`, mode 0600, over an older one of that name;
    /// answers with the file.
    pub fn save_to(&self, config_directory: &Path, name: &str) -> Result<PathBuf, Failure> {
        let path = path(config_directory, name)?;
        write_private(&path, self.to_toml()?.as_bytes())
            .map_err(|error| unwritable(&path, &error))?;
        Ok(path)
    }

    /// Lays the first profile of a new cluster down where no command looks, until `publish_in`:
    /// whatever becomes of the making of the cluster, its only key is safe.
    pub fn stage_in(&self, config_directory: &Path, cluster: ClusterId) -> Result<(), Failure> {
        let path = staged_path(config_directory, cluster);
        write_private(&path, self.to_toml()?.as_bytes())
            .and_then(|()| fault::fail(Point::ProfileStaged))
            .map_err(|error| unwritable(&path, &error))
    }

    /// Whether a profile of `cluster` is staged.
    pub fn is_staged_in(config_directory: &Path, cluster: ClusterId) -> bool {
        fs::symlink_metadata(staged_path(config_directory, cluster)).is_ok()
    }

    /// Gives the staged profile of `cluster` its name; answers with the file. A profile of that name
    /// is left as it is, since it may hold the only key to another cluster, and `AlreadyExists` is
    /// the answer.
    pub fn publish_in(
        config_directory: &Path,
        name: &str,
        cluster: ClusterId,
    ) -> Result<PathBuf, Failure> {
        let path = path(config_directory, name)?;
        let staged = staged_path(config_directory, cluster);
        put_beside(&staged, &path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => taken(name, &path),
            _ => unwritable(&path, &error),
        })?;
        Ok(path)
    }

    /// Refuses with `AlreadyExists` if there is a profile `name` below `config_directory`.
    pub fn refuse_existing(config_directory: &Path, name: &str) -> Result<(), Failure> {
        let path = path(config_directory, name)?;
        match fs::symlink_metadata(&path) {
            Ok(_) => Err(taken(name, &path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(unreadable(&path, &error)),
        }
    }

    fn to_toml(&self) -> Result<String, Failure> {
        toml::to_string(self).map_err(|error| {
            Failure::new(Code::Internal, format!("the profile cannot be written as TOML: {error}"))
        })
    }

    /// Names of the profiles below `config_directory`, sorted.
    pub fn list_in(config_directory: &Path) -> Result<Vec<String>, Failure> {
        let directory = config_directory.join("profiles");
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(unreadable(&directory, &error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| unreadable(&directory, &error))?;
            let file = entry.file_name();
            let name = file.to_str().and_then(|file| file.strip_suffix(".toml"));
            names.extend(
                name.filter(|name| Name::parse("profile", name).is_ok()).map(str::to_owned),
            );
        }
        names.sort();
        Ok(names)
    }
}

/// A profile's name is a plain name, so that it is a safe file name too.
fn path(config_directory: &Path, name: &str) -> Result<PathBuf, Failure> {
    let name = Name::parse("profile", name)?;
    Ok(config_directory.join("profiles").join(format!("{name}.toml")))
}

/// No profile is listed or found under such a name.
fn staged_path(config_directory: &Path, cluster: ClusterId) -> PathBuf {
    config_directory.join("profiles").join(format!("{cluster}.staged"))
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    refused(format!("{} cannot be read: {error}", path.display()), "check the file's permissions")
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    refused(
        format!("the profile {} cannot be written: {error}", path.display()),
        "check the directory's permissions, or set RATOON_CONFIG_DIR to another one",
    )
}

fn taken(name: &str, path: &Path) -> Failure {
    let message = format!("there is a profile {name:?} already ({})", path.display());
    Failure::new(Code::AlreadyExists, message)
        .hint("it may hold the only key to another cluster; name a new one with --profile NAME")
}

/// Writes `path` whole or not at all: temporary file, fsync, rename, fsync of the directory.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().expect("a profile's path has a directory");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let temporary = path.with_extension(format!("toml.{}.tmp", std::process::id()));
    let written = write_durably(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The first error is the one that matters; a leftover temporary file is replaced next time.
        let _left_over = fs::remove_file(&temporary);
    }
    written?;
    fs::File::open(directory)?.sync_all()
}

fn write_durably(temporary: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(temporary)?;
    // The mode above counts only for a new file; a leftover may be open to others.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Gives a file its name only if there is nothing: unlike a rename, a link replaces no file. Done
/// again after a crash it ends the same.
fn put_beside(staged: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(staged, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let (own, there) = (fs::metadata(staged)?, fs::metadata(path)?);
            if (own.dev(), own.ino()) != (there.dev(), there.ino()) {
                return Err(error);
            }
        }
        linked => linked?,
    }
    let directory = path.parent().expect("a profile's path has a directory");
    fs::File::open(directory)?.sync_all()?;
    fault::fail(Point::ProfileNamed)?;
    fs::remove_file(staged)
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn profile() -> Profile {
        Profile {
            endpoints: vec!["10.0.0.1:7402".into(), "node-2.example.com:7402".into()],
            ca_pem: "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n".into(),
            certificate_pem: "-----BEGIN CERTIFICATE-----\nBB==\n-----END CERTIFICATE-----\n"
                .into(),
            key_pem: "-----BEGIN PRIVATE KEY-----\nCC==\n-----END PRIVATE KEY-----\n".into(),
        }
    }

    #[test]
    fn a_profile_comes_back_as_saved_and_only_its_owner_may_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = profile().save_to(directory.path(), "default").unwrap();
        assert_eq!(Profile::load_from(directory.path(), "default").unwrap(), profile());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let parent = fs::metadata(path.parent().unwrap()).unwrap();
        assert_eq!(parent.permissions().mode() & 0o777, 0o700);

        let mut changed = profile();
        changed.endpoints.pop();
        changed.save_to(directory.path(), "default").unwrap();
        assert_eq!(Profile::load_from(directory.path(), "default").unwrap(), changed);
        assert_eq!(Profile::list_in(directory.path()).unwrap(), ["default"]);
    }

    #[test]
    fn a_new_profile_never_takes_the_place_of_another() {
        let directory = tempfile::tempdir().unwrap();
        Profile::refuse_existing(directory.path(), "default").unwrap();
        let (own, other) = (ClusterId([1; 16]), ClusterId([2; 16]));
        profile().stage_in(directory.path(), own).unwrap();
        assert_eq!(Profile::list_in(directory.path()).unwrap(), [""; 0], "it has no name yet");
        let path = Profile::publish_in(directory.path(), "default", own).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "nothing is left over"
        );
        let mut another = profile();
        another.key_pem.clear();
        another.stage_in(directory.path(), other).unwrap();
        for failure in [
            Profile::refuse_existing(directory.path(), "default").unwrap_err(),
            Profile::publish_in(directory.path(), "default", other).unwrap_err(),
        ] {
            assert_eq!(failure.code, Code::AlreadyExists);
            assert!(failure.hint.contains("--profile NAME"), "{}", failure.hint);
        }
        assert_eq!(Profile::load_from(directory.path(), "default").unwrap(), profile());
        assert!(Profile::is_staged_in(directory.path(), other), "its key is not thrown away");
    }

    #[test]
    fn a_profile_that_has_its_name_already_is_published_again() {
        let directory = tempfile::tempdir().unwrap();
        let cluster = ClusterId([1; 16]);
        profile().stage_in(directory.path(), cluster).unwrap();
        let path = path(directory.path(), "default").unwrap();
        // A crash between the two steps leaves both names.
        fs::hard_link(staged_path(directory.path(), cluster), &path).unwrap();
        assert_eq!(Profile::publish_in(directory.path(), "default", cluster).unwrap(), path);
        assert!(!Profile::is_staged_in(directory.path(), cluster));
        assert_eq!(Profile::load_from(directory.path(), "default").unwrap(), profile());
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = profile().save_to(directory.path(), "default").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let failure = Profile::load_from(directory.path(), "default").unwrap_err();
        assert_eq!(failure.code, Code::InvalidArgument);
        assert!(failure.hint.contains("chmod 600"));
    }

    #[test]
    fn unknown_keys_bad_names_and_missing_profiles_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = profile().save_to(directory.path(), "default").unwrap();
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str("endpoint = \"x\"\n");
        fs::write(&path, text).unwrap();
        let failure = Profile::load_from(directory.path(), "default").unwrap_err();
        assert!(failure.message.contains("endpoint"), "{}", failure.message);

        let failure = Profile::load_from(directory.path(), "../etc/passwd").unwrap_err();
        assert_eq!(failure.code, Code::InvalidName);
        let failure = Profile::load_from(directory.path(), "lab").unwrap_err();
        assert!(failure.message.contains("lab"));
    }

    #[test]
    fn a_malformed_profile_does_not_spill_its_key_into_the_message() {
        let directory = tempfile::tempdir().unwrap();
        let path = profile().save_to(directory.path(), "default").unwrap();
        fs::write(&path, "key_pem = \"top secret\nca_pem = 3").unwrap();
        let failure = Profile::load_from(directory.path(), "default").unwrap_err();
        assert!(!failure.message.contains("secret"), "{}", failure.message);
        assert!(!format!("{:?}", profile()).contains("CC=="));
    }
}
