//! Messages of the public API to bytes and back, as gRPC's transport asks for it.
//!
//! Counts a message's fields before it decodes them: a request may be 16 MiB long, and two bytes
//! each are enough for an empty item of a list. Knows no message.

use std::marker::PhantomData;

use prost::Message;
use prost::bytes::Buf;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic_prost::ProstCodec;

use super::fields::Fields;
use super::status::failure_to_status;
use crate::limits::MESSAGE_FIELDS_MAX;
use crate::types::{Code, Failure};

/// Sends `Sent` and receives `Received`, of which it decodes none with too many fields.
#[derive(Debug, Clone)]
pub struct BoundedCodec<Sent, Received> {
    of: PhantomData<(Sent, Received)>,
}

impl<Sent, Received> Default for BoundedCodec<Sent, Received> {
    fn default() -> Self {
        BoundedCodec { of: PhantomData }
    }
}

impl<Sent, Received> Codec for BoundedCodec<Sent, Received>
where
    Sent: Message + Send + 'static,
    Received: Message + Default + Send + 'static,
{
    type Encode = Sent;
    type Decode = Received;
    type Encoder = <ProstCodec<Sent, Received> as Codec>::Encoder;
    type Decoder = BoundedDecoder<<ProstCodec<Sent, Received> as Codec>::Decoder>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<Sent, Received>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder { inner: ProstCodec::<Sent, Received>::default().decoder() }
    }
}

/// Counts, then lets another decode.
#[derive(Debug, Clone)]
pub struct BoundedDecoder<Inner> {
    inner: Inner,
}

impl<Inner: Decoder<Error = Status>> Decoder for BoundedDecoder<Inner> {
    type Item = Inner::Item;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Inner::Item>, Status> {
        // The transport hands a message over in one piece.
        debug_assert_eq!(buffer.chunk().len(), buffer.remaining());
        check_fields(buffer.chunk()).map_err(|failure| failure_to_status(&failure))?;
        self.inner.decode(buffer)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.inner.buffer_settings()
    }
}

/// Refuses a message that is cut off, holds a group, or has more fields than any of ours.
pub fn check_fields(bytes: &[u8]) -> Result<(), Failure> {
    let mut fields = 0;
    for field in Fields::of(bytes) {
        field.map_err(|problem| {
            Failure::new(Code::InvalidArgument, format!("the message is malformed: {problem}"))
                .hint("the request is no message of this method; check the client")
        })?;
        fields += 1;
        if fields > MESSAGE_FIELDS_MAX {
            let message = format!("the message has more than {MESSAGE_FIELDS_MAX} fields");
            return Err(
                Failure::new(Code::BatchTooLarge, message).hint("send several smaller requests")
            );
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::limits::GRPC_MESSAGE_BYTES_MAX;

    #[test]
    fn a_message_of_millions_of_empty_items_is_refused_before_it_is_decoded() {
        let items = [0x0a, 0x00].repeat(GRPC_MESSAGE_BYTES_MAX / 2);
        assert_eq!(check_fields(&items).unwrap_err().code, Code::BatchTooLarge);
        assert!(check_fields(&items[..2 * MESSAGE_FIELDS_MAX]).is_ok());
    }

    #[test]
    fn groups_and_what_is_cut_off_are_refused() {
        for bytes in [&[0x0b, 0x0c][..], &[0x0a, 0x05], &[0xff; 11]] {
            assert_eq!(check_fields(bytes).unwrap_err().code, Code::InvalidArgument, "{bytes:?}");
        }
    }
}
