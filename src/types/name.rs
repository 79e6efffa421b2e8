//! Names of namespaces and collections.

use std::fmt;
use std::str::FromStr;

use super::{Code, Failure};

/// Longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 63;

/// A validated name: `[a-z0-9][a-z0-9._-]{0,62}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Name(String);

impl Name {
    /// Validates `text`; `what` says in the error which name was wrong ("namespace", "collection").
    pub fn parse(what: &str, text: &str) -> Result<Self, Failure> {
        let invalid = |problem: &str| {
            Failure::new(Code::InvalidName, format!("{what} name {text:?} {problem}")).hint(
                "names start with a-z or 0-9, go on with a-z 0-9 . _ - and have at most 63 characters",
            )
        };
        if text.is_empty() {
            return Err(invalid("is empty"));
        }
        if text.len() > NAME_BYTES_MAX {
            let shown: String = text.chars().take(20).collect();
            return Err(Failure::new(
                Code::InvalidName,
                format!(
                    "{what} name {shown:?}... has {} bytes, the limit is {NAME_BYTES_MAX}",
                    text.len()
                ),
            ));
        }
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if !text.starts_with(plain) {
            return Err(invalid("does not start with a-z or 0-9"));
        }
        if !text.chars().all(|c| plain(c) || matches!(c, '.' | '_' | '-')) {
            return Err(invalid("has a character that is not allowed"));
        }
        Ok(Name(text.to_owned()))
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `NAMESPACE/NAME`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CollectionName {
    /// The namespace the collection lives in.
    pub namespace: Name,
    /// The collection's own name, unique in its namespace.
    pub name: Name,
}

impl CollectionName {
    /// Validates both parts.
    pub fn parse(namespace: &str, name: &str) -> Result<Self, Failure> {
        Ok(CollectionName {
            namespace: Name::parse("namespace", namespace)?,
            name: Name::parse("collection", name)?,
        })
    }
}

impl FromStr for CollectionName {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        match text.split_once('/') {
            Some((namespace, name)) => CollectionName::parse(namespace, name),
            None => Err(Failure::new(Code::InvalidName, format!("{text:?} is not NAMESPACE/NAME"))
                .hint("write the namespace, a slash and the collection, for example prod/users")),
        }
    }
}

impl fmt::Display for CollectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
