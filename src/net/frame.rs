//! Frames on a stream: a length of four bytes, big-endian, and that many bytes.
//!
//! Pure assembly from chunks of any size. It never asks for a byte beyond its frame, so that raw
//! bytes may follow a frame on the same stream, and keeps its place between calls, so that reading
//! may be cancelled anywhere.

use bytes::{Bytes, BytesMut};

use super::NetError;

/// Bytes of the length.
pub(super) const HEADER_BYTES: usize = 4;
/// Memory set aside for a frame before its bytes arrive: a liar costs no more than this.
const RESERVED_BYTES_MAX: usize = 256 * 1024;
/// Smaller frames are copied out, because a chunk keeps the whole datagram it came in alive.
const COPIED_BYTES_MAX: usize = 16 * 1024;

/// One frame at a time, put together from chunks.
#[derive(Debug, Default)]
pub(super) struct FrameAssembler {
    header: [u8; HEADER_BYTES],
    header_bytes: usize,
    body: Body,
}

/// What has come of a frame's body.
#[derive(Debug)]
enum Body {
    /// The frame came in one piece, or has no bytes.
    Whole(Bytes),
    /// Pieces, copied together.
    Pieces(BytesMut),
}

impl Default for Body {
    fn default() -> Self {
        Body::Whole(Bytes::new())
    }
}

impl Body {
    fn len(&self) -> usize {
        match self {
            Body::Whole(bytes) => bytes.len(),
            Body::Pieces(bytes) => bytes.len(),
        }
    }
}

impl FrameAssembler {
    /// Most bytes the next chunk may have; 0 when the frame is whole and waits to be taken. An
    /// error if the frame announced is over `bytes_max`.
    pub fn wanted(&self, bytes_max: usize) -> Result<usize, NetError> {
        match self.announced() {
            None => Ok(HEADER_BYTES - self.header_bytes),
            Some(bytes) if bytes > bytes_max => Err(NetError::FrameTooLarge { bytes, bytes_max }),
            Some(bytes) => Ok(bytes - self.body.len()),
        }
    }

    /// The frame's length, once its header is whole.
    pub fn announced(&self) -> Option<usize> {
        (self.header_bytes == HEADER_BYTES).then(|| u32::from_be_bytes(self.header) as usize)
    }

    /// Takes a chunk of at most `wanted` bytes.
    pub fn push(&mut self, chunk: Bytes) {
        let Some(bytes) = self.announced() else {
            self.header[self.header_bytes..][..chunk.len()].copy_from_slice(&chunk);
            self.header_bytes += chunk.len();
            return;
        };
        assert!(self.body.len() + chunk.len() <= bytes, "a chunk reaches beyond its frame");
        if chunk.len() == bytes {
            let copied = bytes <= COPIED_BYTES_MAX;
            self.body = Body::Whole(if copied { Bytes::copy_from_slice(&chunk) } else { chunk });
            return;
        }
        if let Body::Whole(_) = self.body {
            self.body = Body::Pieces(BytesMut::with_capacity(bytes.min(RESERVED_BYTES_MAX)));
        }
        if let Body::Pieces(pieces) = &mut self.body {
            pieces.extend_from_slice(&chunk);
        }
    }

    /// The whole frame; only when nothing more is wanted.
    pub fn take(&mut self) -> Bytes {
        assert_eq!(self.announced(), Some(self.body.len()), "the frame is not whole");
        self.header_bytes = 0;
        match std::mem::take(&mut self.body) {
            Body::Whole(bytes) => bytes,
            Body::Pieces(pieces) => pieces.freeze(),
        }
    }

    /// What the stream's end means here: fine between frames, an error inside one.
    pub fn end(&self) -> Result<(), NetError> {
        let missing = match self.announced() {
            Some(bytes) => bytes - self.body.len(),
            None if self.header_bytes == 0 => return Ok(()),
            None => HEADER_BYTES - self.header_bytes,
        };
        Err(NetError::Truncated { missing })
    }
}

/// The header of a frame of `bytes` bytes.
pub(super) fn header(bytes: usize) -> Result<[u8; HEADER_BYTES], NetError> {
    let length = u32::try_from(bytes)
        .map_err(|_| NetError::FrameTooLarge { bytes, bytes_max: u32::MAX as usize })?;
    Ok(length.to_be_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `stream` in pieces of at most `pieces` bytes, in turn; gives frames and how it ended.
    fn assemble(
        stream: &[u8],
        pieces: &[usize],
        bytes_max: usize,
    ) -> (Vec<Bytes>, Result<(), NetError>) {
        let mut assembler = FrameAssembler::default();
        let mut stream = Bytes::copy_from_slice(stream);
        let mut pieces = pieces.iter().cycle();
        let mut frames = Vec::new();
        loop {
            let wanted = match assembler.wanted(bytes_max) {
                Ok(wanted) => wanted,
                Err(error) => return (frames, Err(error)),
            };
            if wanted == 0 {
                frames.push(assembler.take());
                continue;
            }
            if stream.is_empty() {
                break;
            }
            let piece = (*pieces.next().unwrap()).min(wanted).min(stream.len());
            assembler.push(stream.split_to(piece));
        }
        (frames, assembler.end())
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting_into_chunks(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40_000), 0..6),
            pieces in prop::collection::vec(1usize..20_000, 1..8),
        ) {
            let mut stream = Vec::new();
            for frame in &frames {
                stream.extend(header(frame.len()).unwrap());
                stream.extend(frame);
            }
            let (read, end) = assemble(&stream, &pieces, 40_000);
            prop_assert!(end.is_ok());
            prop_assert_eq!(read, frames.into_iter().map(Bytes::from).collect::<Vec<_>>());
        }

        #[test]
        fn a_stream_cut_inside_a_frame_is_an_error_and_yields_only_whole_frames(
            length in 1usize..5_000,
            cut in 0usize..10_000,
            pieces in prop::collection::vec(1usize..3_000, 1..4),
        ) {
            let mut frame = header(length).unwrap().to_vec();
            frame.extend(vec![7u8; length]);
            let stream = [frame.clone(), frame.clone()].concat();
            let cut = cut % stream.len();
            let (read, end) = assemble(&stream[..cut], &pieces, 5_000);
            prop_assert_eq!(read.len(), cut / frame.len());
            match end {
                Ok(()) => prop_assert_eq!(cut % frame.len(), 0),
                Err(NetError::Truncated { missing }) => prop_assert!(missing > 0),
                Err(other) => prop_assert!(false, "{other}"),
            }
        }

        #[test]
        fn any_bytes_are_frames_or_a_typed_error_and_never_over_the_limit(
            stream in prop::collection::vec(any::<u8>(), 0..4_000),
            pieces in prop::collection::vec(1usize..500, 1..4),
            bytes_max in 0usize..2_000,
        ) {
            let (read, end) = assemble(&stream, &pieces, bytes_max);
            prop_assert!(read.iter().all(|frame| frame.len() <= bytes_max));
            if let Err(error) = end {
                let expected = matches!(
                    error,
                    NetError::FrameTooLarge { .. } | NetError::Truncated { .. }
                );
                prop_assert!(expected, "{error}");
            }
        }
    }

    #[test]
    fn a_huge_length_is_refused_before_any_memory_is_taken() {
        let mut assembler = FrameAssembler::default();
        assembler.push(Bytes::from_static(&[0xff; 4]));
        let error = assembler.wanted(1000).unwrap_err();
        assert!(matches!(error, NetError::FrameTooLarge { bytes: 0xffff_ffff, bytes_max: 1000 }));
        assert!(matches!(&assembler.body, Body::Whole(bytes) if bytes.is_empty()));
    }
}
