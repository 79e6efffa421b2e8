//! Words of the command line turned into values: addresses, keys, sizes, endpoints, cursors.
//!
//! Pure, and strict: what is not understood is refused with the form that would be.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use bytes::Bytes;
use data_encoding::HEXLOWER_PERMISSIVE;

use super::failure::CliError;
use crate::limits::{ADDRESS_BYTES_MAX, BULK_RATE_MIN, KEY_BYTES_MAX, SCAN_BOUND_BYTES_MAX};
use crate::types::{CollectionName, Name};

/// `[PROFILE:]NAMESPACE/NAME`: a collection, and the cluster it lives in if that is named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    /// Overrides `--profile`.
    pub profile: Option<String>,
    /// The collection.
    pub collection: CollectionName,
}

/// Parses an address; the text form of errors is what clap shows.
pub fn address(text: &str) -> Result<Address, String> {
    let (profile, rest) = match text.split_once(':') {
        Some((profile, rest)) => (Some(profile_name(profile)?), rest),
        None => (None, text),
    };
    if let Some((name, _)) = rest.split_once('@') {
        return Err(format!(
            "reading at an index or a time is not possible yet; write {name} for the present"
        ));
    }
    let collection = rest.parse().map_err(|failure: crate::types::Failure| match failure.hint {
        hint if hint.is_empty() => failure.message,
        hint => format!("{}; {hint}", failure.message),
    })?;
    Ok(Address { profile, collection })
}

/// A profile's name: a plain name, because it is a file name too.
pub fn profile_name(text: &str) -> Result<String, String> {
    match Name::parse("profile", text) {
        Ok(name) => Ok(name.as_str().to_owned()),
        Err(failure) => Err(failure.message),
    }
}

/// A `host:port` that can be dialled.
pub fn endpoint(text: &str) -> Result<String, String> {
    let wrong = |problem: &str| Err(format!("{text:?} {problem}; write host:port"));
    if text.len() > ADDRESS_BYTES_MAX {
        return Err(format!("the endpoint has over {ADDRESS_BYTES_MAX} bytes"));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return wrong("has no port");
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || host.contains(['/', '@']) || (host.contains(':') && !bracketed) {
        return wrong("has no plain host");
    }
    match port.parse::<u16>() {
        Ok(1..) if port.bytes().all(|b| b.is_ascii_digit()) => Ok(text.to_owned()),
        _ => wrong("has a bad port"),
    }
}

/// The key named by an argument: its bytes as given, or hexadecimal digits with `--key-hex`.
pub fn key(text: &OsStr, hex: bool) -> Result<Bytes, CliError> {
    let bytes = key_bound(text, hex)?;
    if bytes.is_empty() {
        return Err(CliError::usage("the key is empty", "keys have 1 to 4096 bytes"));
    }
    if bytes.len() > KEY_BYTES_MAX {
        return Err(CliError::usage(
            format!("the key has {} bytes", bytes.len()),
            format!("keys have 1 to {KEY_BYTES_MAX} bytes"),
        ));
    }
    Ok(bytes)
}

/// A prefix or bound of keys: like a key, but may be empty.
pub fn key_bound(text: &OsStr, hex: bool) -> Result<Bytes, CliError> {
    let bytes = match hex {
        false => Bytes::copy_from_slice(text.as_bytes()),
        true => decode_hex(text.as_bytes(), "the key")?,
    };
    if bytes.len() > SCAN_BOUND_BYTES_MAX {
        return Err(CliError::usage(
            format!("the bound has {} bytes", bytes.len()),
            format!("keys have at most {KEY_BYTES_MAX} bytes"),
        ));
    }
    Ok(bytes)
}

/// A cursor as `scan` printed it.
pub fn cursor(text: &str) -> Result<Bytes, CliError> {
    let bytes = decode_hex(text.as_bytes(), "the cursor")?;
    if bytes.is_empty() || bytes.len() > SCAN_BOUND_BYTES_MAX {
        return Err(CliError::usage(
            "the cursor is none that a scan printed",
            "copy it from the scan before, or scan without --cursor",
        ));
    }
    Ok(bytes)
}

fn decode_hex(text: &[u8], what: &str) -> Result<Bytes, CliError> {
    HEXLOWER_PERMISSIVE.decode(text).map(Bytes::from).map_err(|error| {
        CliError::usage(
            format!("{what} is not hexadecimal: {error}"),
            "write two digits 0-9 a-f a byte, without 0x or spaces",
        )
    })
}

/// Bytes with a unit: `500000`, `64KiB`, `20MiB`, `1GiB`, `10MB`; a `/s` at the end is allowed.
pub fn byte_count(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size; write for example 20MiB, 500KB or 1000000");
    let plain = text.trim().strip_suffix("/s").unwrap_or(text.trim());
    let digits = plain.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = plain.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).ok_or_else(wrong)
}

/// A byte rate; `none` and `0` lift the limit.
pub fn byte_rate(text: &str) -> Result<u64, String> {
    match text {
        "none" => Ok(0),
        _ => match byte_count(text)? {
            rate @ 1..BULK_RATE_MIN => {
                Err(format!("{rate} bytes a second; the smallest limit is {BULK_RATE_MIN}"))
            }
            rate => Ok(rate),
        },
    }
}

/// A duration of at least one millisecond: `30s`, `1h`, `2m 30s`.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write for example 30s, 10m or 1h"))?;
    match duration.as_millis() {
        0 => Err("a duration of nothing; write for example 30s".to_owned()),
        _ => Ok(duration),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_names_a_collection_and_perhaps_a_cluster() {
        let plain = address("prod/users").unwrap();
        assert_eq!((plain.profile, plain.collection.to_string()), (None, "prod/users".into()));
        let remote = address("eu:prod/users").unwrap();
        assert_eq!(remote.profile.as_deref(), Some("eu"));
    }

    #[test]
    fn an_address_in_the_past_is_refused_with_the_form_that_works() {
        let error = address("prod/users@-10m").unwrap_err();
        assert!(error.contains("write prod/users"), "{error}");
    }

    #[test]
    fn addresses_that_are_none_are_refused() {
        for text in ["", "users", "prod/", "/users", "Prod/users", "a/b/c", ":a/b", "../x:a/b"] {
            assert!(address(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn endpoints_need_a_host_and_a_port() {
        for text in ["127.0.0.1:7402", "node-1.example:1", "[::1]:7402"] {
            assert_eq!(endpoint(text).unwrap(), text);
        }
        for text in [
            "",
            "host",
            "host:",
            ":7402",
            "host:0",
            "host:70000",
            "::1:7402",
            "https://h:1",
            "h:+1",
        ] {
            assert!(endpoint(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn sizes_carry_units_of_both_kinds() {
        assert_eq!(byte_count("20MiB").unwrap(), 20 << 20);
        assert_eq!(byte_count("20 MB/s").unwrap(), 20_000_000);
        assert_eq!(byte_count("7").unwrap(), 7);
        assert_eq!(byte_rate("none").unwrap(), 0);
        assert_eq!(byte_rate("0").unwrap(), 0);
        assert!(byte_rate("10KiB").is_err());
        for text in [
            "",
            "MiB",
            "1.5MiB",
            "-1",
            "5 parsecs",
            "99999999999999999999",
            "18446744073709551615GiB",
        ] {
            assert!(byte_count(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn keys_are_raw_bytes_or_hex_digits() {
        assert_eq!(key(OsStr::from_bytes(b"a\xff"), false).unwrap(), &b"a\xff"[..]);
        assert_eq!(key(OsStr::new("00fF"), true).unwrap(), &b"\x00\xff"[..]);
        assert!(key(OsStr::new("0"), true).is_err());
        assert!(key(OsStr::new(""), false).is_err());
        assert!(key(OsStr::new(&"k".repeat(4097)), false).is_err());
        assert!(key_bound(OsStr::new(""), false).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn any_key_survives_its_hex_form(bytes in proptest::collection::vec(any::<u8>(), 1..64)) {
            let text = data_encoding::HEXLOWER.encode(&bytes);
            prop_assert_eq!(key(OsStr::new(&text), true).unwrap(), bytes);
        }
    }
}
