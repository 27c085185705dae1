//! Frames: a 4-byte length, then a header and a message. Bytes in, whole frames out; messages in, segments out.
//!
//! Nothing here owns a socket. [`FrameDecoder`] is fed by whoever reads one; [`EncodedFrame`] is a list of segments
//! for a vectored write, in which record batches are the producer's own `Bytes`, not copies.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

pub use crate::frame_memory::FrameMemory;
use crate::scatter::ScatterBuf;
use crate::shape::{self, ShapeError};

/// The largest frame accepted unless told otherwise: 100 MiB, Kafka's `socket.request.max.bytes`.
pub const DEFAULT_MAX_FRAME_BYTES: usize = 100 * 1024 * 1024;

/// How much room a reader keeps free for small frames, so that one read takes many of them.
const READ_CHUNK_BYTES: usize = 64 * 1024;

/// A frame takes this much of the buffer on the peer's word alone; beyond it, room grows only as bytes really arrive,
/// so that a peer which announces 100 MiB and sends nothing costs one chunk.
const TRUSTED_FRAME_BYTES: usize = 8 * 1024 * 1024;

const LENGTH_BYTES: usize = 4;

/// Why bytes are not a frame, or a frame is not a message.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The length prefix is negative: the peer does not speak Kafka.
    #[error("a frame announces a negative length ({length}); the peer does not speak Kafka's protocol")]
    NegativeLength {
        /// The announced length.
        length: i32,
    },
    /// The length prefix exceeds the limit. A TLS or HTTP peer shows up here too.
    #[error("a frame of {length} bytes exceeds the limit of {limit} bytes")]
    TooLarge {
        /// The announced length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The frame ends before the header does.
    #[error("a frame of {length} bytes is too short for its header")]
    TooShort {
        /// The frame's length in bytes.
        length: usize,
    },
    /// The API key is none of Kafka's.
    #[error("unknown API key {api_key}")]
    UnknownApi {
        /// The key in the header.
        api_key: i16,
    },
    /// The message has no such version.
    #[error("API key {api_key} has no version {version}")]
    UnsupportedVersion {
        /// The key in the header.
        api_key: i16,
        /// The version in the header.
        version: i16,
    },
    /// The frame's lengths and counts do not fit its schema.
    #[error("malformed {what} of API key {api_key} version {version}: {source}")]
    BadShape {
        /// "request" or "response".
        what: &'static str,
        /// The API key.
        api_key: i16,
        /// The version.
        version: i16,
        /// What does not fit, and where.
        source: ShapeError,
    },
    /// The message cannot be decoded or encoded for another reason.
    #[error("cannot {action} API key {api_key} version {version}: {reason}")]
    Message {
        /// "decode" or "encode".
        action: &'static str,
        /// The API key.
        api_key: i16,
        /// The version.
        version: i16,
        /// The codec's own words.
        reason: String,
    },
}

/// Splits a stream of bytes into frames.
///
/// Read into [`read_buffer`](Self::read_buffer), then take frames with [`next_frame`](Self::next_frame) until it
/// answers `None`. Each frame has memory of its own, no more than it needs, so that whoever keeps a slice of one keeps
/// no more than that one. The bytes of a large frame are read to where they stay.
#[derive(Debug)]
pub struct FrameDecoder {
    /// What has arrived of the frames behind `large`.
    chunk: BytesMut,
    large: Option<LargeFrame>,
    max_frame_bytes: usize,
    memory: Arc<FrameMemory>,
}

/// A frame that arrives in more than one read.
#[derive(Debug)]
struct LargeFrame {
    /// And the beginning of the next one, if there was room for it.
    bytes: BytesMut,
    length: usize,
}

impl LargeFrame {
    fn is_whole(&self) -> bool {
        self.bytes.len() >= self.length
    }
}

impl FrameDecoder {
    /// A decoder that refuses frames longer than `max_frame_bytes` (without the length prefix).
    pub fn new(max_frame_bytes: usize) -> Self {
        Self::with_memory(max_frame_bytes, Arc::default())
    }

    /// As [`new`](Self::new), with memory that other decoders of the same reader use too.
    pub fn with_memory(max_frame_bytes: usize, memory: Arc<FrameMemory>) -> Self {
        Self { chunk: BytesMut::new(), large: None, max_frame_bytes, memory }
    }

    /// The buffer to append incoming bytes to; it always has room.
    pub fn read_buffer(&mut self) -> &mut BytesMut {
        match &mut self.large {
            Some(large) if !large.is_whole() => {
                if large.bytes.len() == large.bytes.capacity() {
                    large.bytes = room_behind(&large.bytes, large.length, &self.memory);
                }
                &mut large.bytes
            }
            _ => {
                if self.chunk.is_empty() || self.chunk.len() == self.chunk.capacity() {
                    // That is most often the room of what was taken off the front.
                    self.chunk.reserve(READ_CHUNK_BYTES);
                }
                &mut self.chunk
            }
        }
    }

    /// Whether the stream stands between two frames, so that its end now is a clean one.
    pub fn is_empty(&self) -> bool {
        self.chunk.is_empty() && self.large.is_none()
    }

    /// The next whole frame without its length prefix, or `None` until more bytes arrive.
    ///
    /// After an error the stream has lost its frame boundaries: close the connection.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        if self.large.is_some() {
            let Some(mut large) = self.large.take_if(|large| large.is_whole()) else { return Ok(None) };
            self.chunk.extend_from_slice(large.bytes.get(large.length..).unwrap_or_default());
            large.bytes.truncate(large.length);
            return Ok(Some(self.memory.freeze(large.bytes)));
        }
        let Some(prefix) = self.chunk.first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = i32::from_be_bytes(*prefix);
        let Ok(length) = usize::try_from(length) else {
            return Err(FrameError::NegativeLength { length });
        };
        if length > self.max_frame_bytes {
            return Err(FrameError::TooLarge { length, limit: self.max_frame_bytes });
        }
        self.chunk.advance(LENGTH_BYTES);
        if let Some(frame) = self.chunk.get(..length) {
            let frame = Bytes::copy_from_slice(frame);
            self.chunk.advance(length);
            self.memory.pass();
            return Ok(Some(frame));
        }
        self.large = Some(LargeFrame { bytes: room_behind(&self.chunk, length, &self.memory), length });
        self.chunk.clear();
        Ok(None)
    }
}

/// The beginning of a frame with room for more behind it: for all of it, or as much as is worth the peer's word.
fn room_behind(begin: &[u8], length: usize, memory: &FrameMemory) -> BytesMut {
    let mut buffer = memory.take(length.min(TRUSTED_FRAME_BYTES.max(2 * begin.len())));
    buffer.extend_from_slice(begin);
    buffer
}

/// A frame ready for a vectored write, length prefix included.
#[derive(Debug, Clone)]
pub struct EncodedFrame {
    segments: Vec<Bytes>,
    size_bytes: usize,
}

impl EncodedFrame {
    /// The frame's bytes in order.
    pub fn segments(&self) -> &[Bytes] {
        &self.segments
    }

    /// The frame's bytes in order, owned.
    pub fn into_segments(self) -> Vec<Bytes> {
        self.segments
    }

    /// The frame's length in bytes, prefix included.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }
}

/// Encodes a request with its header.
///
/// `payloads` are the record batches inside the message, in the order in which it encodes them; they become segments
/// of their own instead of being copied. Pass `&[]` when there are none.
pub fn encode_request<R: Request>(
    request: &R,
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
    payloads: &[Bytes],
) -> Result<EncodedFrame, FrameError> {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(client_id.map(|id| StrBytes::from_string(id.to_owned())));
    encode_frame(&header, R::header_version(version), request, version, R::KEY, payloads)
}

/// Encodes the response of the request type `R` with its header. `payloads` as in [`encode_request`].
pub fn encode_response<R: Request>(
    response: &R::Response,
    version: i16,
    correlation_id: i32,
    payloads: &[Bytes],
) -> Result<EncodedFrame, FrameError> {
    let header = ResponseHeader::default().with_correlation_id(correlation_id);
    encode_frame(&header, R::Response::header_version(version), response, version, R::KEY, payloads)
}

fn encode_frame<H: Encodable, M: Encodable>(
    header: &H,
    header_version: i16,
    message: &M,
    version: i16,
    api_key: i16,
    payloads: &[Bytes],
) -> Result<EncodedFrame, FrameError> {
    let failed = |reason: String| FrameError::Message { action: "encode", api_key, version, reason };
    let mut first = BytesMut::with_capacity(256);
    first.put_i32(0);
    let mut buf = ScatterBuf::new(first, payloads);
    header.encode(&mut buf, header_version).map_err(|error| failed(error.to_string()))?;
    message.encode(&mut buf, version).map_err(|error| failed(error.to_string()))?;
    let size_bytes = buf.len();
    let length = i32::try_from(size_bytes - LENGTH_BYTES)
        .map_err(|_| failed(format!("{size_bytes} bytes do not fit a frame")))?;
    let mut segments = buf.into_segments();
    // The first segment is the inline part that starts with the prefix. Where a payload follows, it shares its buffer
    // with later inline parts and is copied here: header and topic name, some hundred bytes a request.
    if let Some(first) = segments.first_mut() {
        let mut inline = BytesMut::from(std::mem::take(first));
        if let Some(prefix) = inline.first_chunk_mut::<LENGTH_BYTES>() {
            *prefix = length.to_be_bytes();
        }
        *first = inline.freeze();
    }
    Ok(EncodedFrame { segments, size_bytes })
}

/// The API key and version of a request frame, without decoding anything else.
pub fn peek_api(frame: &[u8]) -> Result<(i16, i16), FrameError> {
    match frame {
        [k0, k1, v0, v1, ..] => Ok((i16::from_be_bytes([*k0, *k1]), i16::from_be_bytes([*v0, *v1]))),
        _ => Err(FrameError::TooShort { length: frame.len() }),
    }
}

/// The correlation id of a response frame.
pub fn peek_correlation_id(frame: &[u8]) -> Result<i32, FrameError> {
    let id = frame.first_chunk::<4>().ok_or(FrameError::TooShort { length: frame.len() })?;
    Ok(i32::from_be_bytes(*id))
}

/// For how many milliseconds the broker wants to be left in peace, as a response frame says it (KIP-219); `None` where
/// it does not. Only what stands before that field is looked at.
pub fn peek_throttle_time_ms(api_key: i16, version: i16, frame: &[u8]) -> Option<i32> {
    let header_version =
        kafka_protocol::messages::ApiKey::try_from(api_key).ok()?.response_header_version(version);
    let body = shape::skip_response_header(header_version, frame)?;
    shape::throttle_time_ms(api_key, version, body).filter(|&millis| millis > 0)
}

/// Decodes a request's header and moves `frame` to the start of its body.
///
/// ApiVersions is special: a client may send a version that this library does not know, and the broker must still
/// answer it (KIP-511). The header of such a request is read as the newest known one.
pub fn decode_request_header(frame: &mut Bytes) -> Result<RequestHeader, FrameError> {
    let (api_key, version) = peek_api(frame)?;
    let key = kafka_protocol::messages::ApiKey::try_from(api_key)
        .map_err(|()| FrameError::UnknownApi { api_key })?;
    let header_version = key.request_header_version(version);
    shape::check_request_header(header_version, frame).map_err(|source| FrameError::BadShape {
        what: "request header",
        api_key,
        version,
        source,
    })?;
    RequestHeader::decode(frame, header_version).map_err(|error| FrameError::Message {
        action: "decode",
        api_key,
        version,
        reason: error.to_string(),
    })
}

/// Decodes a request's body (what [`decode_request_header`] leaves).
pub fn decode_request<R: Request>(mut body: Bytes, version: i16) -> Result<R, FrameError> {
    if version < R::VERSIONS.min || version > R::VERSIONS.max {
        return Err(FrameError::UnsupportedVersion { api_key: R::KEY, version });
    }
    shape::check_request(R::KEY, version, &body).map_err(|source| FrameError::BadShape {
        what: "request",
        api_key: R::KEY,
        version,
        source,
    })?;
    decode_message(&mut body, R::KEY, version)
}

/// Decodes a response frame, header included.
pub fn decode_response<R: Request>(mut frame: Bytes, version: i16) -> Result<R::Response, FrameError> {
    let api_key = R::KEY;
    if version < R::VERSIONS.min || version > R::VERSIONS.max {
        return Err(FrameError::UnsupportedVersion { api_key, version });
    }
    let header_version = R::Response::header_version(version);
    let bad_shape = |what: &'static str| {
        move |source: ShapeError| FrameError::BadShape { what, api_key, version, source }
    };
    shape::check_response_header(header_version, &frame).map_err(bad_shape("response header"))?;
    let _header = ResponseHeader::decode(&mut frame, header_version).map_err(|error| {
        FrameError::Message { action: "decode", api_key, version, reason: error.to_string() }
    })?;
    shape::check_response(api_key, version, &frame).map_err(bad_shape("response"))?;
    decode_message(&mut frame, api_key, version)
}

fn decode_message<M: Decodable>(bytes: &mut Bytes, api_key: i16, version: i16) -> Result<M, FrameError> {
    M::decode(bytes, version).map_err(|error| FrameError::Message {
        action: "decode",
        api_key,
        version,
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
    use kafka_protocol::messages::{MetadataRequest, ProduceRequest, TopicName};

    fn whole(frame: &EncodedFrame) -> Vec<u8> {
        frame.segments().concat()
    }

    fn produce(batches: &[Bytes]) -> ProduceRequest {
        let partitions = batches
            .iter()
            .zip(0..)
            .map(|(batch, index)| {
                PartitionProduceData::default().with_index(index).with_records(Some(batch.clone()))
            })
            .collect();
        ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![
            TopicProduceData::default()
                .with_name(TopicName(StrBytes::from_static_str("orders")))
                .with_partition_data(partitions),
        ])
    }

    #[test]
    fn record_batches_travel_as_the_producers_own_bytes() {
        let batches =
            [Bytes::from(vec![1u8; 4096]), Bytes::from(vec![2u8; 100]), Bytes::from(vec![3u8; 4096])];
        let request = produce(&batches);
        let scattered = encode_request(&request, 9, 7, Some("me"), &batches).unwrap();
        let copied = encode_request(&request, 9, 7, Some("me"), &[]).unwrap();
        assert_eq!(whole(&scattered), whole(&copied));
        assert_eq!(scattered.size_bytes(), whole(&copied).len());
        // Large batches are segments of their own; the small one is not worth an iovec.
        let kept: Vec<_> =
            scattered.segments().iter().filter(|s| s.as_ptr() == batches[0].as_ptr()).collect();
        assert_eq!(kept.len(), 1);
        assert_eq!(scattered.segments().len(), 5);
    }

    #[test]
    fn a_request_survives_the_wire_in_one_byte_reads() {
        let batches = [Bytes::from(vec![9u8; 2000])];
        let request = produce(&batches);
        let bytes = whole(&encode_request(&request, 9, 42, Some("me"), &batches).unwrap());
        let mut decoder = FrameDecoder::new(DEFAULT_MAX_FRAME_BYTES);
        let mut frames = Vec::new();
        for _ in 0..3 {
            for &byte in &bytes {
                decoder.read_buffer().put_u8(byte);
                frames.extend(decoder.next_frame().unwrap());
            }
        }
        assert_eq!(frames.len(), 3);
        assert!(decoder.is_empty());
        for mut frame in frames {
            let header = decode_request_header(&mut frame).unwrap();
            assert_eq!((header.correlation_id, header.request_api_version), (42, 9));
            assert_eq!(decode_request::<ProduceRequest>(frame, 9).unwrap(), request);
        }
    }

    #[test]
    fn oversized_and_negative_lengths_are_refused_before_any_memory_is_taken() {
        let mut decoder = FrameDecoder::new(1000);
        decoder.read_buffer().put_i32(1001);
        assert!(matches!(decoder.next_frame(), Err(FrameError::TooLarge { length: 1001, limit: 1000 })));
        let mut decoder = FrameDecoder::new(1000);
        decoder.read_buffer().put_i32(-5);
        assert!(matches!(decoder.next_frame(), Err(FrameError::NegativeLength { length: -5 })));
    }

    #[test]
    fn an_announced_length_alone_does_not_take_memory() {
        let mut decoder = FrameDecoder::new(DEFAULT_MAX_FRAME_BYTES);
        decoder.read_buffer().put_i32(DEFAULT_MAX_FRAME_BYTES as i32);
        assert!(decoder.next_frame().unwrap().is_none());
        assert!(decoder.read_buffer().capacity() <= TRUSTED_FRAME_BYTES);
    }

    #[test]
    fn a_large_frame_is_read_to_where_it_stays_and_what_came_with_it_is_kept() {
        let (length, behind) = (3 * TRUSTED_FRAME_BYTES + 17, 5);
        let mut stream = BytesMut::new();
        for _ in 0..2 {
            stream.put_i32(length as i32);
            stream.put_bytes(7, length);
            stream.put_i32(behind);
            stream.put_bytes(8, behind as usize);
        }
        let mut stream = stream.freeze();
        let mut decoder = FrameDecoder::new(DEFAULT_MAX_FRAME_BYTES);
        let mut frames = Vec::new();
        while !stream.is_empty() {
            let buffer = decoder.read_buffer();
            let room = (buffer.capacity() - buffer.len()).min(stream.len());
            assert!(room > 0 && buffer.capacity() <= length + length / 8);
            buffer.put(stream.split_to(room));
            while let Some(frame) = decoder.next_frame().unwrap() {
                frames.push((frame.len(), frame.iter().map(|&byte| usize::from(byte)).sum::<usize>()));
            }
        }
        let (large, small) = ((length, 7 * length), (behind as usize, 8 * behind as usize));
        assert_eq!(frames, [large, small, large, small]);
        assert!(decoder.is_empty());
    }

    #[test]
    fn small_frames_do_not_keep_what_they_were_read_with() {
        let mut decoder = FrameDecoder::new(DEFAULT_MAX_FRAME_BYTES);
        let mut kept = Vec::new();
        let mut places = std::collections::HashSet::new();
        for _ in 0..10_000 {
            let buffer = decoder.read_buffer();
            places.insert(buffer.as_ptr() as usize / (4 * READ_CHUNK_BYTES));
            buffer.put_i32(30);
            buffer.put_bytes(1, 30);
            kept.extend(decoder.next_frame().unwrap());
            assert!(decoder.chunk.capacity() <= 2 * READ_CHUNK_BYTES);
        }
        assert_eq!(kept.len(), 10_000);
        assert!(places.len() <= 2, "one chunk is read into again and again");
    }

    #[test]
    fn truncated_requests_are_errors_that_name_the_api() {
        let mut frame = Bytes::from(whole(&encode_request(&produce(&[]), 9, 1, None, &[]).unwrap()));
        frame.advance(LENGTH_BYTES);
        for cut in 0..frame.len() {
            let mut short = frame.slice(..cut);
            let result =
                decode_request_header(&mut short).and_then(|_| decode_request::<ProduceRequest>(short, 9));
            assert!(result.is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_pause_is_found_wherever_a_version_has_it() {
        use kafka_protocol::messages::{
            ApiVersionsRequest, ApiVersionsResponse, FetchRequest, FetchResponse, MetadataResponse,
            ProduceResponse, SaslHandshakeRequest, SaslHandshakeResponse, produce_response as produce,
        };
        fn peek<R: Request>(response: &R::Response, version: i16) -> Option<i32> {
            let frame = whole(&encode_response::<R>(response, version, 7, &[]).unwrap());
            for cut in 0..frame.len() - LENGTH_BYTES {
                let _ = peek_throttle_time_ms(R::KEY, version, &frame[LENGTH_BYTES..LENGTH_BYTES + cut]);
            }
            peek_throttle_time_ms(R::KEY, version, &frame[LENGTH_BYTES..])
        }
        let answer = produce::PartitionProduceResponse::default().with_index(3);
        let topic = produce::TopicProduceResponse::default()
            .with_name(TopicName(StrBytes::from_static_str("t")))
            .with_partition_responses(vec![answer.clone(), answer]);
        let node = produce::NodeEndpoint::default().with_host(StrBytes::from_static_str("b")).with_port(1);
        for version in 3..=13 {
            let nodes = if version >= 10 { vec![node.clone()] } else { Vec::new() };
            let produced = ProduceResponse::default()
                .with_responses(vec![topic.clone()])
                .with_node_endpoints(nodes)
                .with_throttle_time_ms(42);
            assert_eq!(peek::<ProduceRequest>(&produced, version), Some(42), "Produce {version}");
        }
        let metadata = MetadataResponse::default().with_throttle_time_ms(9);
        assert_eq!(peek::<MetadataRequest>(&metadata.clone().with_throttle_time_ms(0), 2), None);
        for version in 3..=13 {
            assert_eq!(peek::<MetadataRequest>(&metadata, version), Some(9), "Metadata {version}");
        }
        let versions = ApiVersionsResponse::default().with_throttle_time_ms(5);
        assert_eq!(peek::<ApiVersionsRequest>(&versions, 4), Some(5));
        let fetched = FetchResponse::default().with_throttle_time_ms(6);
        assert_eq!(peek::<FetchRequest>(&fetched, 12), Some(6));
        assert_eq!(peek::<FetchRequest>(&fetched.with_throttle_time_ms(-6), 12), None);
        assert_eq!(peek::<SaslHandshakeRequest>(&SaslHandshakeResponse::default(), 1), None);
        assert_eq!(peek_throttle_time_ms(3000, 0, &[0; 8]), None);
    }

    #[test]
    fn unknown_versions_are_refused() {
        let error = decode_request::<MetadataRequest>(Bytes::new(), 99).unwrap_err();
        assert!(matches!(error, FrameError::UnsupportedVersion { api_key: 3, version: 99 }));
    }
}
