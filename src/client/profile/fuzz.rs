//! Fuzz target: the file of a profile.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::fuzz::{Target, Verdict, bounded};

/// Stands for the key, which no message may repeat.
const SECRET: &str = "hunter2";

#[test]
fn profiles() {
    let root = tempfile::tempdir().unwrap();
    let whole = Profile {
        endpoints: vec!["10.0.0.1:7402".into(), "node-2.example.com:7402".into()],
        ca_pem: "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n".into(),
        certificate_pem: "certificate".into(),
        key_pem: SECRET.into(),
    };
    let path = whole.save_to(root.path(), "default").unwrap();
    let example = |profile: &Profile| profile.to_toml().unwrap().into_bytes();
    let joining =
        Profile { certificate_pem: String::new(), key_pem: String::new(), ..whole.clone() };
    let examples = vec![("whole", example(&whole)), ("joining", example(&joining))];
    let words =
        &["endpoints", "ca_pem", "key_pem", "=", "[", "]", "\"", "'''", "\"\"\"", "\\", "\n"];
    Target { words, ..Target::new("profile", examples) }.run(|input| {
        fs::write(&path, input).unwrap();
        let result = bounded(input, || Profile::load_from(root.path(), "default"));
        match &result {
            Ok(profile) => {
                let path = profile.save_to(root.path(), "default").unwrap();
                assert_eq!(&Profile::load_from(root.path(), "default").unwrap(), profile);
                assert!(fs::metadata(path).unwrap().permissions().mode() & 0o077 == 0);
            }
            Err(failure) => {
                // In another place it is no key any more, but a name or value that is wrong there.
                let text = String::from_utf8_lossy(input);
                let is_key = text.matches(SECRET).count() == 1
                    && text.lines().any(|line| line == format!("key_pem = {SECRET:?}"));
                let message = format!("{failure:?}");
                assert!(!is_key || !message.contains(SECRET), "the key is shown: {message}");
            }
        }
        Verdict::of(&result)
    });
}
