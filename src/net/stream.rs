//! The two halves of a stream: ordered bytes, or frames of them.
//!
//! Unlike quinn's, a sending half that is dropped before `finish` is reset, so that the receiver
//! never takes an abandoned stream for a complete one.

use std::sync::Arc;

use bytes::Bytes;
use quinn::{ReadError, ReadExactError, VarInt, WriteError};

use super::NetError;
use super::connection::{Inner, connection_error};
use super::frame::{self, FrameAssembler};

/// Code of a stream whose sender was dropped before it finished.
const RESET_ABANDONED: u32 = 0;

/// The sending half.
pub struct SendStream {
    stream: quinn::SendStream,
    ended: bool,
    connection: Arc<Inner>,
}

impl SendStream {
    pub(super) fn new(stream: quinn::SendStream, connection: Arc<Inner>) -> Self {
        SendStream { stream, ended: false, connection }
    }

    /// Hands all of `bytes` over for sending; waits while windows are full. Not cancellation safe:
    /// a part may have been taken.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), NetError> {
        let result = self.stream.write_all(bytes).await;
        result.map_err(|error| self.write_error(error))
    }

    /// As `write`, without a copy.
    pub async fn write_bytes(&mut self, bytes: Bytes) -> Result<(), NetError> {
        let result = self.stream.write_chunk(bytes).await;
        result.map_err(|error| self.write_error(error))
    }

    /// Writes one frame. Not cancellation safe: drop the stream, or the peer sees a broken frame.
    pub async fn write_frame(&mut self, frame: &[u8]) -> Result<(), NetError> {
        self.write_frame_bytes(Bytes::copy_from_slice(frame)).await
    }

    /// As `write_frame`, without a copy.
    pub async fn write_frame_bytes(&mut self, frame: Bytes) -> Result<(), NetError> {
        let header = frame::header(frame.len())?;
        let mut chunks = [Bytes::copy_from_slice(&header), frame];
        let result = self.stream.write_all_chunks(&mut chunks).await;
        result.map_err(|error| self.write_error(error))
    }

    /// Says that nothing follows. Bytes written before are still delivered.
    pub fn finish(&mut self) -> Result<(), NetError> {
        self.ended = true;
        self.stream.finish().map_err(|_| NetError::Closed)
    }

    /// Gives the stream up: what is not delivered yet never will be; the peer reads `code`.
    pub fn reset(&mut self, code: u32) {
        self.ended = true;
        // An error means that the stream has ended in another way already.
        let _ = self.stream.reset(VarInt::from_u32(code));
    }

    /// Streams of higher priority are sent first; 0 is the default.
    pub fn set_priority(&self, priority: i32) -> Result<(), NetError> {
        self.stream.set_priority(priority).map_err(|_| NetError::Closed)
    }

    fn write_error(&self, error: WriteError) -> NetError {
        match error {
            WriteError::Stopped(code) => NetError::StreamStopped(stream_code(code)),
            WriteError::ConnectionLost(error) => connection_error(error, self.connection.lane()),
            WriteError::ClosedStream => NetError::Closed,
            WriteError::ZeroRttRejected => unreachable!("early data is off"),
        }
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        if !self.ended {
            self.reset(RESET_ABANDONED);
        }
    }
}

/// The receiving half. Dropping it tells the sender to stop.
pub struct RecvStream {
    stream: quinn::RecvStream,
    assembler: FrameAssembler,
    connection: Arc<Inner>,
}

impl RecvStream {
    pub(super) fn new(stream: quinn::RecvStream, connection: Arc<Inner>) -> Self {
        RecvStream { stream, assembler: FrameAssembler::default(), connection }
    }

    /// Fills `buffer`. Not cancellation safe.
    pub async fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), NetError> {
        let missing = buffer.len();
        match self.read_exact_or_end(buffer).await? {
            true => Ok(()),
            false => Err(NetError::Truncated { missing }),
        }
    }

    /// Fills `buffer`, or says with false that the stream has ended right here. An end inside
    /// `buffer` is an error. Not cancellation safe.
    pub async fn read_exact_or_end(&mut self, buffer: &mut [u8]) -> Result<bool, NetError> {
        self.assert_between_frames();
        let bytes = buffer.len();
        match self.stream.read_exact(buffer).await {
            Ok(()) => Ok(true),
            Err(ReadExactError::FinishedEarly(0)) => Ok(false),
            Err(ReadExactError::FinishedEarly(got)) => {
                Err(NetError::Truncated { missing: bytes - got })
            }
            Err(ReadExactError::ReadError(error)) => Err(self.read_error(error)),
        }
    }

    /// The next bytes in order, at most `bytes_max` (1 or more), without a copy; None at the
    /// stream's end. Cancellation safe.
    pub async fn read_chunk(&mut self, bytes_max: usize) -> Result<Option<Bytes>, NetError> {
        self.assert_between_frames();
        self.next_chunk(bytes_max).await
    }

    /// The next frame; None if the stream ended after the one before. A frame longer than
    /// `bytes_max` is an error found before its memory is taken. Cancellation safe, as long as
    /// `bytes_max` stays the same.
    pub async fn read_frame(&mut self, bytes_max: usize) -> Result<Option<Bytes>, NetError> {
        loop {
            match self.assembler.wanted(bytes_max)? {
                0 => return Ok(Some(self.assembler.take())),
                wanted => {
                    if !self.feed_assembler(wanted).await? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// The length of the next frame, for a reader that must find room for it first; the frame
    /// itself then comes from `read_frame`. None at the stream's end. Cancellation safe.
    pub async fn next_frame_bytes(&mut self, bytes_max: usize) -> Result<Option<usize>, NetError> {
        loop {
            let wanted = self.assembler.wanted(bytes_max)?;
            if let Some(bytes) = self.assembler.announced() {
                return Ok(Some(bytes));
            }
            if !self.feed_assembler(wanted).await? {
                return Ok(None);
            }
        }
    }

    /// Tells the sender that the rest is not wanted, with a code it reads.
    pub fn stop(&mut self, code: u32) {
        // An error means that the stream has ended already.
        let _ = self.stream.stop(VarInt::from_u32(code));
    }

    /// Gives the assembler one more chunk; false at a clean end of the stream.
    async fn feed_assembler(&mut self, wanted: usize) -> Result<bool, NetError> {
        let Some(chunk) = self.next_chunk(wanted).await? else {
            self.assembler.end()?;
            return Ok(false);
        };
        self.assembler.push(chunk);
        Ok(true)
    }

    async fn next_chunk(&mut self, bytes_max: usize) -> Result<Option<Bytes>, NetError> {
        let result = self.stream.read_chunk(bytes_max, true).await;
        let chunk = result.map_err(|error| self.read_error(error))?;
        Ok(chunk.map(|chunk| chunk.bytes))
    }

    fn assert_between_frames(&self) {
        assert!(self.assembler.end().is_ok(), "a frame was begun and not read to its end");
    }

    fn read_error(&self, error: ReadError) -> NetError {
        match error {
            ReadError::Reset(code) => NetError::StreamReset(stream_code(code)),
            ReadError::ConnectionLost(error) => connection_error(error, self.connection.lane()),
            ReadError::ClosedStream => NetError::Closed,
            ReadError::IllegalOrderedRead => unreachable!("all reads are ordered"),
            ReadError::ZeroRttRejected => unreachable!("early data is off"),
        }
    }
}

/// The code a peer gave a stream; ours all fit 32 bits.
fn stream_code(code: VarInt) -> u32 {
    u32::try_from(code.into_inner()).unwrap_or(u32::MAX)
}
