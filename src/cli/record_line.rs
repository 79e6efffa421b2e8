//! One record as one line of JSON: what `export --format jsonl` writes and `import --format jsonl` reads.
//!
//! Any key and any value survives: bytes that are no UTF-8 travel in base64.

use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::text::{Binary, set_bytes};
use crate::types::Record;

/// The line's fields; exactly one form of key and of value. `version` informs and is not restored.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    key: Option<String>,
    key_hex: Option<String>,
    key_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
    #[serde(default)]
    content_type: String,
    #[serde(rename = "version")]
    _version: Option<u64>,
}

/// The record as a line, without the newline.
pub fn encode(record: &Record) -> String {
    let mut line = Map::new();
    set_bytes(&mut line, "key", &record.key, Binary::Base64);
    set_bytes(&mut line, "value", &record.value, Binary::Base64);
    line.insert("version".to_owned(), record.version.into());
    line.insert("content_type".to_owned(), record.content_type.clone().into());
    Value::Object(line).to_string()
}

/// The record of a line; its version is 0. The error says what is wrong with the line.
pub fn decode(line: &[u8]) -> Result<Record, String> {
    let fields: Fields = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let base64 = |text: String| {
        BASE64.decode(text.as_bytes()).map_err(|error| format!("bad base64: {error}"))
    };
    let key = match (fields.key, fields.key_hex, fields.key_base64) {
        (Some(text), None, None) => text.into_bytes(),
        (None, Some(text), None) => HEXLOWER_PERMISSIVE
            .decode(text.as_bytes())
            .map_err(|error| format!("bad key_hex: {error}"))?,
        (None, None, Some(text)) => base64(text)?,
        _ => return Err("needs exactly one of key, key_hex, key_base64".to_owned()),
    };
    let value = match (fields.value, fields.value_base64) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(text)) => base64(text)?,
        _ => return Err("needs exactly one of value, value_base64".to_owned()),
    };
    Ok(Record {
        key: Bytes::from(key),
        value: Bytes::from(value),
        version: 0,
        content_type: fields.content_type,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_must_name_one_key_and_one_value() {
        let error = |line: &str| decode(line.as_bytes()).unwrap_err();
        assert!(error(r#"{"value":"x"}"#).contains("exactly one of key"));
        assert!(error(r#"{"key":"a","key_hex":"61","value":"x"}"#).contains("exactly one of key"));
        assert!(error(r#"{"key":"a"}"#).contains("exactly one of value"));
        assert!(error(r#"{"key":"a","value":"x","colour":1}"#).contains("colour"));
        assert!(error(r#"{"key_base64":"*","value":"x"}"#).contains("base64"));
        assert!(error("[]").contains("invalid"));
    }

    proptest! {
        #[test]
        fn every_record_survives_its_line(
            key in proptest::collection::vec(any::<u8>(), 1..20),
            value in proptest::collection::vec(any::<u8>(), 0..50),
            content_type in "[a-z/]{0,10}",
        ) {
            let record =
                Record { key: key.into(), value: value.into(), version: 0, content_type };
            let line = encode(&record);
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(decode(line.as_bytes()).unwrap(), record);
        }
    }
}
