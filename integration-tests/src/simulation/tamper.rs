//! What happens to frames on their way beyond time and loss: bits that flip, and answers that a broker under strain
//! would give.

use std::collections::BTreeMap;
use std::fmt;

use bytes::{Bytes, BytesMut};
use kafka_client::wire::frame::{
    decode_request, decode_request_header, decode_response, encode_request, encode_response, peek_api,
    peek_correlation_id,
};
use kafka_client::wire::messages::produce_response::PartitionProduceResponse;
use kafka_client::wire::messages::{ApiKey, ProduceRequest, ProduceResponse};
use kafka_client::wire::record_batch::reseal_for_producer;
use kafka_client::wire::{ErrorCode, StrBytes};

use super::faults::Faults;
use super::plan::{Plan, Sabotage};

/// Bytes at the end of a produce request that are no records: a handful of empty tag sections. A bit that flips before
/// them lies in a record, where only the CRC can notice.
const AFTER_RECORDS: usize = 12;
/// How often sabotage strikes.
const SABOTAGED: f64 = 0.3;

/// What a frame is, for the trace and for faults of one API.
#[derive(Debug, Default)]
pub(super) struct Passing {
    pub(super) api: Option<i16>,
    correlation_id: i32,
    /// What was done to it.
    how: &'static str,
}

impl fmt::Display for Passing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.api.map(|api| (api, ApiKey::try_from(api))) {
            None => f.write_str("unreadable"),
            Some((_, Ok(api))) => write!(f, "{}{api:?}#{}", self.how, self.correlation_id),
            Some((api, Err(()))) => write!(f, "{}{api}#{}", self.how, self.correlation_id),
        }
    }
}

/// A request that waits for its answer.
#[derive(Debug, Clone, Copy)]
struct Open {
    api: i16,
    version: i16,
    /// Whether it was spoilt in secret.
    spoilt: bool,
}

/// Whether a fault of a kind and a frequency happens now.
pub(super) type Strikes<'a> = &'a mut dyn FnMut(&'static str, f64) -> bool;

/// One connection's tampering.
#[derive(Debug)]
pub(super) struct Tamper {
    faults: Faults,
    sabotage: Option<Sabotage>,
    open: BTreeMap<i32, Open>,
    /// What is drawn for answers alternates between the two errors.
    drawn: u32,
}

impl Tamper {
    pub(super) fn new(plan: &Plan) -> Self {
        Self { faults: plan.faults.clone(), sabotage: plan.sabotage, open: BTreeMap::new(), drawn: 0 }
    }

    /// What a request is, and what is sent in its place.
    pub(super) fn request(&mut self, body: Bytes, strikes: Strikes<'_>) -> (Passing, Vec<Bytes>) {
        let (Ok((api, version)), Ok(correlation_id)) = (peek_api(&body), correlation_id_of_request(&body))
        else {
            return (Passing::default(), vec![body]);
        };
        let passing = |how| Passing { api: Some(api), correlation_id, how };
        let is_produce = api == ApiKey::Produce as i16;
        let sabotage = self.sabotage.filter(|_| is_produce);
        let spoilt =
            sabotage == Some(Sabotage::AcknowledgeLost) && strikes("lost and acknowledged", SABOTAGED);
        self.open.insert(correlation_id, Open { api, version, spoilt });
        if spoilt || (is_produce && strikes("request corrupted", self.faults.corrupt_request)) {
            return (passing("corrupted "), vec![flip_a_bit(&body)]);
        }
        if sabotage == Some(Sabotage::DuplicateBatches) && strikes("duplicated", SABOTAGED) {
            let copy = without_producer(body.clone());
            return (passing("duplicated "), copy.into_iter().chain([body]).collect());
        }
        (passing(""), vec![body])
    }

    /// What an answer is, and what is sent in its place.
    pub(super) fn answer(&mut self, body: Bytes, strikes: Strikes<'_>) -> (Passing, Vec<Bytes>) {
        let open = peek_correlation_id(&body).ok().and_then(|id| Some((id, self.open.remove(&id)?)));
        let Some((correlation_id, open)) = open else { return (Passing::default(), vec![body]) };
        let passing = |how| Passing { api: Some(open.api), correlation_id, how };
        if open.api != ApiKey::Produce as i16 {
            return (passing(""), vec![body]);
        }
        let refuse = strikes("error after the append", self.faults.error_after_append);
        let throttle = strikes("throttled", self.faults.throttle);
        let shift = self.sabotage == Some(Sabotage::WrongOffsets) && strikes("wrong offset", SABOTAGED);
        if !(refuse || throttle || shift || open.spoilt) {
            return (passing(""), vec![body]);
        }
        let spoilt = self.spoil(open, correlation_id, &body, (refuse, throttle, shift)).unwrap_or(body);
        (passing("spoilt "), vec![spoilt])
    }

    fn spoil(
        &mut self,
        open: Open,
        correlation_id: i32,
        body: &Bytes,
        (refuse, throttle, shift): (bool, bool, bool),
    ) -> Option<Bytes> {
        let mut answer = decode_response::<ProduceRequest>(body.clone(), open.version).ok()?;
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
            if open.spoilt {
                part.error_code = 0;
                part.base_offset = 0;
            }
        }
        let frame = encode_response::<ProduceRequest>(&answer, open.version, correlation_id, &[]).ok()?;
        Some(Bytes::from(frame.segments().concat()).slice(4..))
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
