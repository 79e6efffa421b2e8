//! JSON lines as records: bounded reading of lines, and the key inside a line.
//!
//! A line is never held beyond its limit, and a document is searched without being built.

use std::fmt;
use std::io::{self, BufRead};
use std::str::FromStr;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A line of a file, without its newline.
#[derive(PartialEq, Eq, Debug)]
pub enum Line<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// It has this many bytes, over the limit; its content is gone.
    TooLong(u64),
}

/// Reads lines of at most `limit` bytes; longer ones are counted and passed over.
pub struct LineReader<R> {
    input: R,
    limit: usize,
    buffer: Vec<u8>,
    number: u64,
}

impl<R: BufRead> LineReader<R> {
    /// Reads from `input`.
    pub fn new(input: R, limit: usize) -> Self {
        LineReader { input, limit, buffer: Vec::new(), number: 0 }
    }

    /// Number of the line read last; the first is 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The next line; None at the end. A newline at the very end starts no further line.
    pub fn next_line(&mut self) -> io::Result<Option<Line<'_>>> {
        self.buffer.clear();
        let mut length: u64 = 0;
        let mut any = false;
        loop {
            let available = match self.input.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if available.is_empty() {
                break;
            }
            any = true;
            let newline = available.iter().position(|&byte| byte == b'\n');
            let part = &available[..newline.unwrap_or(available.len())];
            let room = self.limit.saturating_sub(self.buffer.len()).min(part.len());
            self.buffer.extend_from_slice(&part[..room]);
            length += part.len() as u64;
            let used = part.len() + usize::from(newline.is_some());
            self.input.consume(used);
            if newline.is_some() {
                break;
            }
        }
        if !any {
            return Ok(None);
        }
        self.number += 1;
        Ok(Some(match length > self.limit as u64 {
            true => Line::TooLong(length),
            false => Line::Whole(&self.buffer),
        }))
    }
}

/// Where the key lies in a document: field names, outermost first; written with dots between.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyPath(Vec<String>);

impl FromStr for KeyPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fields: Vec<String> = text.split('.').map(str::to_owned).collect();
        match fields.iter().any(String::is_empty) {
            true => Err(format!("{text:?} is no field; write for example id or user.id")),
            false => Ok(KeyPath(fields)),
        }
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

impl KeyPath {
    /// The key of a line: its text, or an integer's digits. The error says what the line lacks.
    pub fn key_of(&self, line: &[u8]) -> Result<Vec<u8>, String> {
        let mut document = serde_json::Deserializer::from_slice(line);
        let found = Descend { path: &self.0 }
            .deserialize(&mut document)
            .and_then(|found| document.end().map(|()| found))
            .map_err(|error| format!("is no JSON: {error}"))?;
        match found {
            Found::Key(key) if key.is_empty() => Err(format!("has an empty {self}")),
            Found::Key(key) => Ok(key),
            Found::Missing => Err(format!("has no field {self}")),
            Found::Twice => Err(format!("has the field {self} twice")),
            Found::Other(kind) => {
                Err(format!("holds {kind} in {self}, which must be text or an integer"))
            }
        }
    }
}

/// What lies at a path.
enum Found {
    Key(Vec<u8>),
    Missing,
    Twice,
    Other(&'static str),
}

/// Looks for a path in a document and skips everything beside it.
#[derive(Clone, Copy)]
struct Descend<'p> {
    path: &'p [String],
}

impl Descend<'_> {
    fn leaf(self, found: Found) -> Found {
        match self.path.is_empty() {
            true => found,
            false => Found::Missing,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Descend<'_> {
    type Value = Found;

    fn deserialize<D: serde::Deserializer<'de>>(self, input: D) -> Result<Found, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Descend<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E>(self, text: &str) -> Result<Found, E> {
        Ok(self.leaf(Found::Key(text.as_bytes().to_vec())))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Found, E> {
        Ok(self.leaf(Found::Key(number.to_string().into_bytes())))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Found, E> {
        Ok(self.leaf(Found::Key(number.to_string().into_bytes())))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Found, E> {
        Ok(self.leaf(Found::Other("a number that is no 64-bit integer")))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Found, E> {
        Ok(self.leaf(Found::Other("a truth value")))
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(self.leaf(Found::Other("null")))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Found, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(self.leaf(Found::Other("a list")))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let Some((field, rest)) = self.path.split_first() else {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Found::Other("an object"));
        };
        let mut found = Found::Missing;
        let mut seen = false;
        while let Some(name) = map.next_key::<String>()? {
            if name != *field {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let inner = map.next_value_seed(Descend { path: rest })?;
            found = match seen {
                true => Found::Twice,
                false => inner,
            };
            seen = true;
        }
        Ok(found)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(path: &str, line: &str) -> Result<String, String> {
        let path: KeyPath = path.parse().unwrap();
        path.key_of(line.as_bytes()).map(|key| String::from_utf8(key).unwrap())
    }

    #[test]
    fn the_key_is_a_text_or_an_integer_at_the_path() {
        assert_eq!(key("id", r#"{"a":[1,{"id":2}],"id":"x/y"}"#).unwrap(), "x/y");
        assert_eq!(key("id", r#"{"id":18446744073709551615}"#).unwrap(), "18446744073709551615");
        assert_eq!(key("user.id", r#"{"id":1,"user":{"id":-7}}"#).unwrap(), "-7");
        assert_eq!(key("id", " {\"id\":\"\\u00e9\"}\r").unwrap(), "é");
    }

    #[test]
    fn a_line_without_a_usable_key_says_why() {
        let cases = [
            (r#"{"a":1}"#, "no field id"),
            (r#"["id"]"#, "no field id"),
            (r#"{"id":1.5}"#, "no 64-bit integer"),
            (r#"{"id":99999999999999999999}"#, "no 64-bit integer"),
            (r#"{"id":null}"#, "null"),
            (r#"{"id":{"x":1}}"#, "an object"),
            (r#"{"id":[1]}"#, "a list"),
            (r#"{"id":true}"#, "truth"),
            (r#"{"id":""}"#, "empty"),
            (r#"{"id":1,"id":1}"#, "twice"),
            (r#"{"id":1"#, "no JSON"),
            (r#"{"id":1} {"id":2}"#, "no JSON"),
            ("\u{feff}{}", "no JSON"),
        ];
        for (line, expected) in cases {
            let error = key("id", line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }

    #[test]
    fn paths_with_empty_fields_are_refused() {
        for text in ["", ".", "a.", ".a", "a..b"] {
            assert!(text.parse::<KeyPath>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn long_lines_are_counted_and_passed_over() {
        let input = format!("ab\n{}\n\ncd\r\nlast", "x".repeat(50));
        let mut reader = LineReader::new(io::BufReader::with_capacity(7, input.as_bytes()), 10);
        let mut seen = Vec::new();
        while let Some(line) = reader.next_line().unwrap() {
            seen.push(match line {
                Line::Whole(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
                Line::TooLong(length) => format!("<{length}>"),
            });
        }
        assert_eq!(seen, ["ab", "<50>", "", "cd\r", "last"]);
        assert_eq!(reader.number(), 5);
    }

    proptest! {
        #[test]
        fn lines_put_together_again_are_the_input(
            input in "[ab\n]{0,60}", capacity in 1usize..9, limit in 0usize..12,
        ) {
            let mut reader =
                LineReader::new(io::BufReader::with_capacity(capacity, input.as_bytes()), limit);
            for expected in input.lines() {
                let line = reader.next_line().unwrap().unwrap();
                match expected.len() > limit {
                    true => prop_assert_eq!(line, Line::TooLong(expected.len() as u64)),
                    false => prop_assert_eq!(line, Line::Whole(expected.as_bytes())),
                }
            }
            prop_assert!(reader.next_line().unwrap().is_none());
        }
    }
}
