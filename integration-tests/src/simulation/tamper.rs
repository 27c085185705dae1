//! What happens to frames on their way beyond time and loss: bits that flip, and answers that a broker under strain
//! would give.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use kafka_client::wire::frame::{
    decode_request, decode_request_header, decode_response, encode_request, encode_response, peek_api,
    peek_correlation_id,
};
use kafka_client::wire::messages::produce_response::PartitionProduceResponse;
use kafka_client::wire::messages::{ApiKey, ProduceRequest, ProduceResponse};
use kafka_client::wire::record_batch::reseal_for_producer;
use kafka_client::wire::{ErrorCode, StrBytes};

use super::plan::{Faults, Plan, Sabotage};

/// Bytes at the end of a produce request that are no records: a handful of empty tag sections. A bit that flips before
/// them lies in a record, where only the CRC can notice.
const AFTER_RECORDS: usize = 12;
/// How often sabotage strikes.
const SABOTAGED: f64 = 0.3;

/// One connection's tampering.
#[derive(Debug)]
pub(super) struct Tamper {
    faults: Faults,
    sabotage: Option<Sabotage>,
    /// Produce requests that wait for their answer: their version, and whether they were spoilt in secret.
    open: BTreeMap<i32, (i16, bool)>,
    /// What is drawn for answers alternates between the two errors.
    drawn: u32,
}

impl Tamper {
    pub(super) fn new(plan: &Plan) -> Self {
        Self { faults: plan.faults.clone(), sabotage: plan.sabotage, open: BTreeMap::new(), drawn: 0 }
    }

    /// A request's name, and what is sent in its place.
    pub(super) fn request(
        &mut self,
        body: Bytes,
        strikes: &mut dyn FnMut(f64) -> bool,
    ) -> (String, Vec<Bytes>) {
        let (Ok((api, version)), Ok(correlation_id)) = (peek_api(&body), correlation_id_of_request(&body))
        else {
            return ("unreadable".to_owned(), vec![body]);
        };
        let name = ApiKey::try_from(api).map_or_else(|()| api.to_string(), |api| format!("{api:?}"));
        let name = format!("{name}#{correlation_id}");
        if api != ApiKey::Produce as i16 {
            return (name, vec![body]);
        }
        let spoilt = self.sabotage == Some(Sabotage::AcknowledgeLost) && strikes(SABOTAGED);
        self.open.insert(correlation_id, (version, spoilt));
        if spoilt || strikes(self.faults.corrupt_request) {
            return (format!("corrupted {name}"), vec![flip_a_bit(&body)]);
        }
        if self.sabotage == Some(Sabotage::DuplicateBatches) && strikes(SABOTAGED) {
            let copy = without_producer(body.clone());
            return (format!("duplicated {name}"), copy.into_iter().chain([body]).collect());
        }
        (name, vec![body])
    }

    /// What is sent in an answer's place.
    pub(super) fn answer(&mut self, body: Bytes, strikes: &mut dyn FnMut(f64) -> bool) -> Bytes {
        let Ok(correlation_id) = peek_correlation_id(&body) else { return body };
        let Some((version, spoilt)) = self.open.remove(&correlation_id) else { return body };
        let refuse = strikes(self.faults.error_after_append);
        let throttle = strikes(self.faults.throttle);
        let shift = self.sabotage == Some(Sabotage::WrongOffsets) && strikes(SABOTAGED);
        if !(refuse || throttle || shift || spoilt) {
            return body;
        }
        let Ok(mut answer) = decode_response::<ProduceRequest>(body.clone(), version) else { return body };
        self.drawn += 1;
        if throttle {
            answer.throttle_time_ms = 1 + (self.drawn % 7 * 100) as i32;
        }
        // A replica that is slow, or gone: the leader has the batch and says that it cannot promise it.
        let code = match self.drawn % 2 {
            0 => ErrorCode::RequestTimedOut,
            _ => ErrorCode::NotEnoughReplicasAfterAppend,
        };
        for part in parts(&mut answer) {
            if refuse && part.error_code == 0 {
                part.error_code = code.code();
                part.base_offset = -1;
            }
            if shift && part.error_code == 0 {
                part.base_offset += 1;
            }
            if spoilt {
                part.error_code = 0;
                part.base_offset = 0;
            }
        }
        match encode_response::<ProduceRequest>(&answer, version, correlation_id, &[]) {
            Ok(frame) => Bytes::from(frame.segments().concat()).slice(4..),
            Err(_) => body,
        }
    }
}

fn parts(answer: &mut ProduceResponse) -> impl Iterator<Item = &mut PartitionProduceResponse> {
    answer.responses.iter_mut().flat_map(|topic| topic.partition_responses.iter_mut())
}

/// It follows the API's key and version.
fn correlation_id_of_request(body: &Bytes) -> Result<i32, ()> {
    body.get(4..8).and_then(|bytes| bytes.first_chunk().copied()).map(i32::from_be_bytes).ok_or(())
}

fn flip_a_bit(body: &Bytes) -> Bytes {
    let mut spoilt = BytesMut::from(&body[..]);
    let at = spoilt.len().saturating_sub(AFTER_RECORDS);
    if let Some(byte) = spoilt.get_mut(at) {
        *byte ^= 1;
    }
    spoilt.freeze()
}

/// The same records as no idempotent producer's, which the broker writes without asking whether it has them.
fn without_producer(mut body: Bytes) -> Option<Bytes> {
    let header = decode_request_header(&mut body).ok()?;
    let version = header.request_api_version;
    let mut request = decode_request::<ProduceRequest>(body, version).ok()?;
    // Nobody waits for an answer to it.
    request.acks = 0;
    let mut payloads = Vec::new();
    for part in request.topic_data.iter_mut().flat_map(|topic| topic.partition_data.iter_mut()) {
        let records = reseal_for_producer(part.records.take()?, -1, -1, -1);
        payloads.push(records.clone());
        part.records = Some(records);
    }
    let client_id = header.client_id.as_ref().map(StrBytes::as_str);
    let frame = encode_request(&request, version, header.correlation_id, client_id, &payloads).ok()?;
    Some(Bytes::from(frame.segments().concat()).slice(4..))
}
