//! Record batches on their way into an answer's frame without being copied.
//!
//! A message holds the records of a partition as one `Bytes`, a log gives them as several. The message is encoded with
//! a stand-in of the right length, which `encode_response` keeps as a segment of its own; the segments of the log take
//! its place afterwards.

use bytes::{Bytes, BytesMut};
use kafka_wire::Request;
use kafka_wire::frame::{self, EncodedFrame, FrameError};
use kafka_wire::record_batch::RecordBatch;

use crate::dispatch::Answer;

/// Shorter batches are copied together: an own segment of a vectored write costs about as much as copying this much.
const MIN_SEGMENT_BYTES: usize = 512;

/// The longest stand-in; longer records are copied. It is never read or written, so it takes no memory.
const MAX_STAND_IN_BYTES: usize = 16 * 1024 * 1024;
static STAND_IN: [u8; MAX_STAND_IN_BYTES] = [0; MAX_STAND_IN_BYTES];

/// The records of one partition in one answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Records {
    parts: Vec<Bytes>,
    size_bytes: usize,
}

impl Records {
    /// Takes whole batches in order.
    pub(crate) fn new(batches: Vec<Bytes>) -> Self {
        let size_bytes = batches.iter().map(Bytes::len).sum();
        let mut parts: Vec<Bytes> = Vec::with_capacity(batches.len());
        let mut small = BytesMut::new();
        for batch in batches {
            if batch.len() < MIN_SEGMENT_BYTES {
                small.extend_from_slice(&batch);
                continue;
            }
            if !small.is_empty() {
                parts.push(small.split().freeze());
            }
            parts.push(batch);
        }
        if !small.is_empty() {
            parts.push(small.freeze());
        }
        if size_bytes > MAX_STAND_IN_BYTES {
            parts = vec![parts.concat().into()];
        }
        Self { parts, size_bytes }
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// The offset after the last record.
    pub(crate) fn next_offset(&self) -> Option<i64> {
        let last = RecordBatch::iter(self.parts.last()?.clone()).map_while(Result::ok).last()?;
        Some(last.next_offset())
    }

    /// What goes into the message: the records themselves if they are one piece, else the stand-in.
    pub(crate) fn for_message(&self) -> Bytes {
        match self.parts.as_slice() {
            [] => Bytes::new(),
            [one] => one.clone(),
            _ => Bytes::from_static(STAND_IN.get(..self.size_bytes).unwrap_or_default()),
        }
    }

    /// All records in one piece, for readers inside the broker.
    pub(crate) fn into_bytes(self) -> Bytes {
        match self.parts.as_slice() {
            [] => Bytes::new(),
            [one] => one.clone(),
            parts => parts.concat().into(),
        }
    }
}

/// An answer whose message holds [`Records::for_message`] of `records`, in that order.
pub(crate) fn encode<R: Request>(
    response: &R::Response,
    records: &[Records],
    version: i16,
    correlation_id: i32,
) -> Result<Answer, FrameError> {
    let payloads: Vec<Bytes> = records.iter().map(Records::for_message).collect();
    let frame = frame::encode_response::<R>(response, version, correlation_id, &payloads)?;
    Ok(Answer { size_bytes: frame.size_bytes(), segments: fill_in(frame, records) })
}

/// The frame's segments with each stand-in replaced by the records it stands for, in order.
fn fill_in(frame: EncodedFrame, records: &[Records]) -> Vec<Bytes> {
    let mut awaited = records.iter().filter(|records| records.parts.len() > 1);
    let segments = frame.into_segments();
    let mut filled = Vec::with_capacity(segments.len() + records.len());
    for segment in segments {
        if std::ptr::eq(segment.as_ptr(), STAND_IN.as_ptr())
            && let Some(records) = awaited.next()
        {
            filled.extend_from_slice(&records.parts);
        } else {
            filled.push(segment);
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    use kafka_wire::frame::encode_response;
    use kafka_wire::messages::fetch_response::{FetchableTopicResponse, PartitionData};
    use kafka_wire::messages::{FetchRequest, FetchResponse};
    use proptest::prelude::*;

    use super::*;

    fn response(records: impl Iterator<Item = Bytes>) -> FetchResponse {
        let partitions = records.map(|records| PartitionData::default().with_records(Some(records)));
        let topic = FetchableTopicResponse::default().with_partitions(partitions.collect());
        FetchResponse::default().with_responses(vec![topic])
    }

    proptest! {
        #[test]
        fn a_frame_has_the_same_bytes_as_if_everything_were_copied(
            partitions in proptest::collection::vec(proptest::collection::vec(0usize..3000, 0..6), 0..5),
            version in 4i16..=17,
        ) {
            let mut fill = 0u8;
            let partitions: Vec<Vec<Bytes>> = partitions
                .into_iter()
                .map(|sizes| {
                    let batch = |size| {
                        fill = fill.wrapping_add(1);
                        Bytes::from(vec![fill; size])
                    };
                    sizes.into_iter().map(batch).collect()
                })
                .collect();
            let records: Vec<Records> = partitions.iter().cloned().map(Records::new).collect();
            let payloads: Vec<Bytes> = records.iter().map(Records::for_message).collect();
            let message = response(payloads.iter().cloned());
            let scattered = encode_response::<FetchRequest>(&message, version, 7, &payloads).unwrap();
            let size = scattered.size_bytes();
            let copied = response(partitions.iter().map(|parts| parts.concat().into()));
            let copied = encode_response::<FetchRequest>(&copied, version, 7, &[]).unwrap();
            let filled = fill_in(scattered, &records).concat();
            prop_assert_eq!(filled.len(), size);
            prop_assert_eq!(filled, copied.segments().concat());
        }
    }

    #[test]
    fn large_batches_keep_their_memory() {
        let large = [Bytes::from(vec![1; 4096]), Bytes::from(vec![2; 4096])];
        let records = [Records::new(large.to_vec())];
        let payloads = [records[0].for_message()];
        let frame =
            encode_response::<FetchRequest>(&response(payloads.iter().cloned()), 12, 7, &payloads).unwrap();
        let filled = fill_in(frame, &records);
        for batch in &large {
            assert!(filled.iter().any(|segment| segment.as_ptr() == batch.as_ptr()));
        }
    }
}
