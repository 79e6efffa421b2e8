//! Inputs that are nearly right: one of the known ones with a few things done to it.
//!
//! Flipped bits, wrong lengths, pieces cut out, repeated, put in or taken from another input. Places
//! are fractions of whatever length the input has by then, so that a failure shrinks.

use std::fmt;
use std::rc::Rc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// Longest input made, bytes.
const INPUT_BYTES_MAX: usize = 64 * 1024;
/// Numbers at which programs go wrong.
const EDGES: &[u64] = &[
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0xffff,
    0x1_0000,
    0x10_0000,
    0x40_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX - 1,
    u64::MAX,
];

/// A mutated input, shown the way it can be read.
#[derive(Clone)]
pub(super) struct Input(pub(super) Vec<u8>);

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// One thing done to an input.
#[derive(Clone, Debug)]
enum Mutation {
    /// Turns one bit.
    Flip(Index, u8),
    /// Writes over what is there.
    Overwrite(Index, Vec<u8>),
    /// Puts something in.
    Insert(Index, Vec<u8>),
    /// Takes so many bytes out.
    Remove(Index, usize),
    /// Leaves the rest out.
    Cut(Index),
    /// Has so many bytes again, so many times.
    Repeat(Index, usize, usize),
    /// Goes on like another input from a place of that.
    Splice(Index, Index, Index),
    /// Puts in a word of the grammar.
    Word(Index, Index),
}

/// One of `seeds`, or nothing, mutated up to eight times.
pub(super) fn mutated(
    seeds: Rc<[Vec<u8>]>,
    words: &'static [&'static str],
) -> impl Strategy<Value = Input> {
    (any::<Index>(), vec(mutation(), 0..8)).prop_map(move |(seed, mutations)| {
        let mut input = seeds.get(seed.index(seeds.len() + 1)).cloned().unwrap_or_default();
        for mutation in mutations {
            apply(&mut input, mutation, &seeds, words);
            input.truncate(INPUT_BYTES_MAX);
        }
        Input(input)
    })
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    prop_oneof![
        4 => (at(), 0..8_u8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        4 => (at(), piece()).prop_map(|(at, piece)| Mutation::Overwrite(at, piece)),
        3 => (at(), piece()).prop_map(|(at, piece)| Mutation::Insert(at, piece)),
        3 => (at(), 1..32_usize).prop_map(|(at, bytes)| Mutation::Remove(at, bytes)),
        1 => at().prop_map(Mutation::Cut),
        2 => (at(), 1..64_usize, prop_oneof![4 => 1..4_usize, 1 => 1..4096_usize])
            .prop_map(|(at, bytes, times)| Mutation::Repeat(at, bytes, times)),
        2 => (at(), at(), at()).prop_map(|(at, seed, from)| Mutation::Splice(at, seed, from)),
        3 => (at(), at()).prop_map(|(at, word)| Mutation::Word(at, word)),
    ]
}

/// Noise, or a number at an edge in one of the spellings that formats use.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let edge = (proptest::sample::select(EDGES), 0..8_u8);
    prop_oneof![
        vec(any::<u8>(), 1..9),
        any::<u8>().prop_map(|byte| vec![byte]),
        edge.prop_map(|(number, spelling)| match spelling {
            0 => number.to_le_bytes()[..2].to_vec(),
            1 => number.to_le_bytes()[..4].to_vec(),
            2 => number.to_le_bytes().to_vec(),
            3 => number.to_be_bytes()[4..].to_vec(),
            4 => number.to_be_bytes().to_vec(),
            // As bincode marks longer integers.
            5 => [&[252], &number.to_le_bytes()[..4]].concat(),
            6 => [&[253][..], &number.to_le_bytes()].concat(),
            _ => varint(number),
        }),
    ]
}

/// As protobuf writes numbers and lengths.
fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn apply(input: &mut Vec<u8>, mutation: Mutation, seeds: &[Vec<u8>], words: &[&str]) {
    let place = |at: Index, input: &[u8]| at.index(input.len() + 1);
    match mutation {
        Mutation::Flip(at, bit) => {
            if !input.is_empty() {
                let at = at.index(input.len());
                input[at] ^= 1 << bit;
            }
        }
        Mutation::Overwrite(at, piece) => {
            let at = place(at, input);
            let end = (at + piece.len()).min(input.len());
            input.splice(at..end, piece);
        }
        Mutation::Insert(at, piece) => {
            let at = place(at, input);
            input.splice(at..at, piece);
        }
        Mutation::Remove(at, bytes) => {
            let at = place(at, input);
            let end = (at + bytes).min(input.len());
            input.drain(at..end);
        }
        Mutation::Cut(at) => {
            let at = place(at, input);
            input.truncate(at);
        }
        Mutation::Repeat(at, bytes, times) => {
            let at = place(at, input);
            let piece = input[at..(at + bytes).min(input.len())].repeat(times);
            input.splice(at..at, piece);
        }
        Mutation::Splice(at, seed, from) => {
            let Some(other) = seeds.get(seed.index(seeds.len().max(1))) else { return };
            let at = place(at, input);
            input.truncate(at);
            input.extend_from_slice(&other[place(from, other)..]);
        }
        Mutation::Word(at, word) => {
            if !words.is_empty() {
                let at = place(at, input);
                let word = words[word.index(words.len())].as_bytes();
                input.splice(at..at, word.iter().copied());
            }
        }
    }
}
