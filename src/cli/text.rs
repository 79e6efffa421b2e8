//! How values look to a person and in JSON: bytes, sizes, times, tables, key and value fields.
//!
//! Pure. No byte string is ever put through lossy UTF-8: what is not text is escaped or encoded.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use comfy_table::{CellAlignment, Table};
use data_encoding::{BASE64, HEXLOWER};
use serde_json::{Map, Value};

/// How bytes that are no UTF-8 appear in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Binary {
    /// As `NAME_hex`.
    Hex,
    /// As `NAME_base64`.
    Base64,
}

/// Sets `name` to the bytes' text, or `name_hex` / `name_base64` if they are no UTF-8.
pub fn set_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8], binary: Binary) {
    match (std::str::from_utf8(bytes), binary) {
        (Ok(text), _) => object.insert(name.to_owned(), text.into()),
        (Err(_), Binary::Hex) => {
            object.insert(format!("{name}_hex"), HEXLOWER.encode(bytes).into())
        }
        (Err(_), Binary::Base64) => {
            object.insert(format!("{name}_base64"), BASE64.encode(bytes).into())
        }
    };
}

/// Bytes on one line of text: printable UTF-8 as it is, everything else as `\xNN`, `\` doubled.
pub fn shown(bytes: &[u8]) -> String {
    let mut line = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => line.push_str("\\\\"),
                c if c.is_control() => {
                    let mut buffer = [0; 4];
                    push_hex(&mut line, c.encode_utf8(&mut buffer).as_bytes());
                }
                c => line.push(c),
            }
        }
        push_hex(&mut line, chunk.invalid());
    }
    line
}

fn push_hex(line: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(line, "\\x{byte:02x}");
    }
}

/// `12.3 MiB`.
pub fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// `12.3 MiB/s`.
pub fn rate(bytes_per_second: u64) -> String {
    format!("{}/s", size(bytes_per_second))
}

/// `1h 2m 3s`, whole seconds.
pub fn seconds(milliseconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(milliseconds.div_ceil(1000))).to_string()
}

/// RFC 3339 in UTC.
pub fn time(unix_ms: u64) -> String {
    // Years beyond what the format can write appear only if a node's clock is absurd.
    let latest = Duration::from_secs(253_402_300_799);
    let since = Duration::from_millis(unix_ms).min(latest);
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

/// `1 line`, `2 lines`; `one` is the word for one.
pub fn counted(count: u64, one: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        _ => format!("{count} {one}s"),
    }
}

/// `done / total` in percent, for people.
pub fn percent(done: u64, total: u64) -> String {
    match total {
        0 => "-".to_owned(),
        _ => format!("{:.1} %", done as f64 * 100.0 / total as f64),
    }
}

/// A table without lines; the columns named in `numbers` are right-aligned.
pub fn table(header: &[&str], numbers: &[usize], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if numbers.contains(&at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines: Vec<String> =
        table.to_string().lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_is_shown_as_it_is_and_the_rest_escaped() {
        assert_eq!(shown("grün/a b".as_bytes()), "grün/a b");
        assert_eq!(shown(b"a\tb\n\xff\\"), "a\\x09b\\x0a\\xff\\\\");
    }

    #[test]
    fn binary_fields_say_how_they_are_encoded() {
        let mut object = Map::new();
        set_bytes(&mut object, "key", b"plain", Binary::Hex);
        set_bytes(&mut object, "value", b"\xff\x00", Binary::Base64);
        set_bytes(&mut object, "other", b"\xff\x00", Binary::Hex);
        let text = Value::Object(object).to_string();
        assert_eq!(text, r#"{"key":"plain","other_hex":"ff00","value_base64":"/wA="}"#);
    }

    #[test]
    fn a_table_aligns_numbers_and_leaves_no_blanks_at_the_end() {
        let rows = vec![vec!["a".into(), "1".into()], vec!["bb".into(), "100".into()]];
        let text = table(&["NAME", "SIZE"], &[1], rows);
        assert_eq!(text, "NAME  SIZE\na        1\nbb     100");
    }

    #[test]
    fn absurd_times_are_shown_without_a_panic() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert!(time(u64::MAX).starts_with("9999-12-31"));
    }

    proptest! {
        #[test]
        fn shown_keys_are_one_line_and_distinct(
            a in proptest::collection::vec(any::<u8>(), 0..12),
            b in proptest::collection::vec(any::<u8>(), 0..12),
        ) {
            prop_assert!(!shown(&a).contains(['\n', '\t', '\r']));
            prop_assert_eq!(a == b, shown(&a) == shown(&b));
        }
    }
}
