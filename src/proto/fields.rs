//! The outermost fields of an encoded message, read without decoding or allocating anything.
//!
//! Two bytes of a message can become an item of a list that takes a hundred bytes of memory, so
//! whoever decodes what others sent counts first. Knows no message; refuses groups, which no message
//! of ours has.

use prost::bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint};

/// Iterates over the outermost fields: each one's number and, of those that have one, its content.
/// Ends after the first error, which says what is wrong with the bytes.
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The fields of the message that `bytes` encode.
    pub fn of(bytes: &'a [u8]) -> Self {
        Fields { rest: bytes }
    }

    fn read(&mut self) -> Result<(u32, &'a [u8]), String> {
        let text = |error: prost::DecodeError| error.to_string();
        let (number, wire_type) = decode_key(&mut self.rest).map_err(text)?;
        let bytes = match wire_type {
            WireType::Varint => {
                decode_varint(&mut self.rest).map_err(text)?;
                return Ok((number, &[]));
            }
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => decode_varint(&mut self.rest).map_err(text)?,
            WireType::StartGroup | WireType::EndGroup => {
                return Err("it holds a group".to_owned());
            }
        };
        if bytes > self.rest.len() as u64 {
            return Err("it is cut off".to_owned());
        }
        let (content, rest) = self.rest.split_at(bytes as usize);
        self.rest = rest;
        match wire_type {
            WireType::LengthDelimited => Ok((number, content)),
            _ => Ok((number, &[])),
        }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, &'a [u8]), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.rest.has_remaining() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// How many fields with this number the message has, inside all its fields with the numbers of
/// `path`, outermost first. Counts no further than one beyond `count_max`.
pub fn count_nested(
    bytes: &[u8],
    path: &[u32],
    number: u32,
    count_max: usize,
) -> Result<usize, String> {
    let mut count = 0;
    for field in Fields::of(bytes) {
        let (found, content) = field?;
        match path.split_first() {
            Some((outer, inner)) if found == *outer => {
                count += count_nested(content, inner, number, count_max - count)?;
            }
            None if found == number => count += 1,
            Some(_) | None => {}
        }
        if count > count_max {
            break;
        }
    }
    Ok(count)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::proto::{internal, v1};

    #[test]
    fn writes_are_counted_in_all_the_pieces_that_a_parser_would_put_together() {
        let batch = internal::v1::WriteBatch { writes: vec![internal::v1::WriteOp::default(); 3] };
        let command = internal::v1::request::Command::Write(batch);
        let request = internal::v1::Request { session: None, command: Some(command) };
        let twice = request.encode_to_vec().repeat(2);
        assert_eq!(count_nested(&twice, &[6], 1, 100), Ok(6));
        assert_eq!(count_nested(&twice, &[6], 1, 4), Ok(5), "it stops one beyond the bound");
        assert_eq!(count_nested(&twice, &[5], 1, 100), Ok(0));
    }

    #[test]
    fn what_is_cut_off_and_what_holds_a_group_is_an_error_and_the_end() {
        let mut cut = Fields::of(&[0x0a, 5, 1, 2]);
        assert!(cut.next().unwrap().is_err());
        assert!(cut.next().is_none());
        assert_eq!(Fields::of(&[0x0b, 0x0c]).next(), Some(Err("it holds a group".to_owned())));
    }

    proptest! {
        #[test]
        fn the_fields_of_a_message_are_found_with_their_content(
            name in "[a-z]{0,40}",
            namespace in "[a-z]{0,40}",
        ) {
            let message = v1::CollectionName { namespace: namespace.clone(), name: name.clone() };
            let bytes = message.encode_to_vec();
            let found: Vec<(u32, Vec<u8>)> =
                Fields::of(&bytes).map(|field| field.map(|(n, c)| (n, c.to_vec())).unwrap()).collect();
            // Proto3 leaves empty fields out.
            let expected: Vec<(u32, Vec<u8>)> = [(1, namespace), (2, name)]
                .into_iter()
                .filter(|(_, text)| !text.is_empty())
                .map(|(number, text)| (number, text.into_bytes()))
                .collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn any_bytes_are_walked_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let walked = Fields::of(&bytes).count();
            prop_assert!(walked <= bytes.len());
            prop_assert!(count_nested(&bytes, &[1, 2], 3, 10).is_ok_and(|count| count <= 11)
                || Fields::of(&bytes).any(|field| field.is_err())
                || walked > 0);
        }
    }
}
