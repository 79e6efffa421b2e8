//! One pull request on one stream: asks, reads the answer, and tells the driver piece by piece.
//!
//! What arrived before a stream broke is told before the break, so that a chunk keeps its
//! beginning. Knows nothing of plans; the driver's machine judges what it is told.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::codec::bulk::{
    BulkError, CHUNK_HEADER_BYTES, decode_chunk_header, decode_pull_response, encode_pull_request,
};
use crate::limits::{BULK_FRAME_BYTES_MAX, BULK_PIECE_BYTES_MAX};
use crate::net::{Connection, NetError, RecvStream};
use crate::transfer::receiver::Input;
use crate::types::{PullRequest, PullResponse};

/// A piece that does not fill is told after this long, so that a slow link loses little at a crash.
const PIECE_WAIT: Duration = Duration::from_millis(250);

/// Why a request ended before its time. Retry: the machine asks again for what is missing.
#[derive(Debug, thiserror::Error)]
enum RequestError {
    /// The stream or its connection broke. Retry.
    #[error("{0}")]
    Net(#[from] NetError),
    /// The source broke the protocol. Retry, perhaps elsewhere.
    #[error("{0}")]
    Protocol(#[from] BulkError),
    /// The driver is gone: the node is shutting down.
    #[error("shutting down")]
    Closing,
}

/// Runs a request to its end and tells how it ended. Cancellation safe: dropping it stops the
/// stream.
pub(super) async fn run(
    connection: Connection,
    request: u64,
    body: PullRequest,
    inputs: mpsc::Sender<Input>,
) {
    let result = Answer { request, inputs: &inputs }.receive(&connection, &body).await;
    let failure = result.err().map(|error| error.to_string());
    // The driver is gone when the node is shutting down.
    let _ = inputs.send(Input::RequestEnded { request, failure }).await;
}

struct Answer<'a> {
    request: u64,
    inputs: &'a mpsc::Sender<Input>,
}

impl Answer<'_> {
    async fn receive(
        &self,
        connection: &Connection,
        body: &PullRequest,
    ) -> Result<(), RequestError> {
        let (mut send, mut stream) = connection.open_bi().await?;
        send.write_frame(&encode_pull_request(body)).await?;
        send.finish()?;
        let request = self.request;
        while let Some(frame) = stream.read_frame(BULK_FRAME_BYTES_MAX).await? {
            match decode_pull_response(&frame)? {
                PullResponse::Queued { ahead } => {
                    self.tell(Input::Queued { request, ahead }).await?;
                }
                PullResponse::Refused { reason, message } => {
                    return self.tell(Input::Refused { request, reason, message }).await;
                }
                PullResponse::Verdict { part_is_good } => {
                    return self.tell(Input::Verdict { request, part_is_good }).await;
                }
                PullResponse::ManifestFollows { bytes } => {
                    // The length was checked against its limit; memory grows with what arrives.
                    let bytes = self.receive_manifest(&mut stream, bytes as usize).await?;
                    return self.tell(Input::Manifest { request, bytes }).await;
                }
                PullResponse::RangesFollow { .. } => return self.receive_frames(&mut stream).await,
            }
        }
        Err(NetError::Truncated { missing: 1 }.into())
    }

    async fn receive_frames(&self, stream: &mut RecvStream) -> Result<(), RequestError> {
        let request = self.request;
        let mut encoded = [0; CHUNK_HEADER_BYTES];
        while stream.read_exact_or_end(&mut encoded).await? {
            let header = decode_chunk_header(&encoded)?;
            self.tell(Input::Frame { request, header }).await?;
            let mut left = header.bytes as usize;
            while left > 0 {
                let wanted = left.min(BULK_PIECE_BYTES_MAX);
                let mut piece = BytesMut::with_capacity(wanted);
                let result = fill_piece(stream, &mut piece, wanted).await;
                left -= piece.len();
                if !piece.is_empty() {
                    self.tell(Input::Data { request, bytes: piece.freeze() }).await?;
                }
                result?;
            }
        }
        Ok(())
    }

    /// A manifest may take as long as it takes, while it comes at all.
    async fn receive_manifest(
        &self,
        stream: &mut RecvStream,
        bytes: usize,
    ) -> Result<Bytes, RequestError> {
        let mut content = BytesMut::new();
        while content.len() < bytes {
            let missing = bytes - content.len();
            let chunk = stream.read_chunk(missing).await?;
            content.extend_from_slice(&chunk.ok_or(NetError::Truncated { missing })?);
            self.tell(Input::Heard { request: self.request }).await?;
        }
        Ok(content.freeze())
    }

    async fn tell(&self, input: Input) -> Result<(), RequestError> {
        self.inputs.send(input).await.map_err(|_| RequestError::Closing)
    }
}

/// Reads until the piece has `wanted` bytes, or some and nothing more for a while. On an error the
/// piece holds what came before it.
async fn fill_piece(
    stream: &mut RecvStream,
    piece: &mut BytesMut,
    wanted: usize,
) -> Result<(), NetError> {
    let mut deadline = None;
    while piece.len() < wanted {
        let next = stream.read_chunk(wanted - piece.len());
        let chunk = match deadline {
            None => next.await?,
            Some(deadline) => match timeout_at(deadline, next).await {
                Ok(chunk) => chunk?,
                Err(_) => return Ok(()),
            },
        };
        let chunk = chunk.ok_or(NetError::Truncated { missing: wanted - piece.len() })?;
        piece.extend_from_slice(&chunk);
        deadline.get_or_insert_with(|| Instant::now() + PIECE_WAIT);
    }
    Ok(())
}
