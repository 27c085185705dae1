//! The tables against `kafka-protocol`'s decoders: frames drawn from a shape, in every API and version, must be exactly
//! what the decoder reads; damaged frames must fail the check or decode without harm.

use crate::messages::*;
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::{Decodable, Encodable, Message, Request};
use proptest::prelude::*;

use super::*;

/// A message type with its table, in a form that loops can go through.
struct Api {
    key: i16,
    name: &'static str,
    versions: (i16, i16),
    shape: &'static Shape,
    check: fn(i16, i16, &[u8]) -> Result<(), ShapeError>,
    /// The default message's bytes; `None` if that version cannot express it.
    encode_default: fn(i16) -> Option<Bytes>,
    /// Decodes; the bytes that are left and what the message encodes to again.
    decode: fn(Bytes, i16) -> Result<(usize, Bytes), String>,
}

fn encode_default<M: Default + Encodable>(version: i16) -> Option<Bytes> {
    let mut buf = BytesMut::new();
    M::default().encode(&mut buf, version).ok().map(|()| buf.freeze())
}

fn decode<M: Encodable + Decodable>(mut bytes: Bytes, version: i16) -> Result<(usize, Bytes), String> {
    let message = M::decode(&mut bytes, version).map_err(|error| error.to_string())?;
    let mut again = BytesMut::new();
    message.encode(&mut again, version).map_err(|error| error.to_string())?;
    Ok((bytes.len(), again.freeze()))
}

fn request<R: Request + Default>(name: &'static str) -> Api {
    Api {
        key: R::KEY,
        name,
        versions: (R::VERSIONS.min, R::VERSIONS.max),
        shape: find(tables::REQUESTS, R::KEY).unwrap(),
        check: check_request,
        encode_default: encode_default::<R>,
        decode: decode::<R>,
    }
}

fn response<R: Request>(name: &'static str) -> Api
where
    R::Response: Default,
{
    Api {
        key: R::KEY,
        name,
        versions: (<R::Response as Message>::VERSIONS.min, <R::Response as Message>::VERSIONS.max),
        shape: find(tables::RESPONSES, R::KEY).unwrap(),
        check: check_response,
        encode_default: encode_default::<R::Response>,
        decode: decode::<R::Response>,
    }
}

macro_rules! apis {
    ($($request:ident)*) => { vec![$(
        request::<$request>(stringify!($request)),
        response::<$request>(concat!("response to ", stringify!($request))),
    )*] };
}

fn all_apis() -> Vec<Api> {
    apis! {
        ProduceRequest FetchRequest ListOffsetsRequest MetadataRequest OffsetCommitRequest
        OffsetFetchRequest FindCoordinatorRequest JoinGroupRequest HeartbeatRequest
        LeaveGroupRequest SyncGroupRequest DescribeGroupsRequest ListGroupsRequest
        SaslHandshakeRequest ApiVersionsRequest CreateTopicsRequest DeleteTopicsRequest
        DeleteRecordsRequest InitProducerIdRequest OffsetForLeaderEpochRequest
        AddPartitionsToTxnRequest AddOffsetsToTxnRequest EndTxnRequest WriteTxnMarkersRequest
        TxnOffsetCommitRequest DescribeAclsRequest CreateAclsRequest DeleteAclsRequest
        DescribeConfigsRequest AlterConfigsRequest AlterReplicaLogDirsRequest DescribeLogDirsRequest
        SaslAuthenticateRequest CreatePartitionsRequest CreateDelegationTokenRequest
        RenewDelegationTokenRequest ExpireDelegationTokenRequest DescribeDelegationTokenRequest
        DeleteGroupsRequest ElectLeadersRequest IncrementalAlterConfigsRequest
        AlterPartitionReassignmentsRequest ListPartitionReassignmentsRequest OffsetDeleteRequest
        DescribeClientQuotasRequest AlterClientQuotasRequest DescribeUserScramCredentialsRequest
        AlterUserScramCredentialsRequest VoteRequest BeginQuorumEpochRequest EndQuorumEpochRequest
        DescribeQuorumRequest AlterPartitionRequest UpdateFeaturesRequest EnvelopeRequest
        FetchSnapshotRequest DescribeClusterRequest DescribeProducersRequest
        BrokerRegistrationRequest BrokerHeartbeatRequest UnregisterBrokerRequest
        DescribeTransactionsRequest ListTransactionsRequest AllocateProducerIdsRequest
        ConsumerGroupHeartbeatRequest ConsumerGroupDescribeRequest ControllerRegistrationRequest
        GetTelemetrySubscriptionsRequest PushTelemetryRequest AssignReplicasToDirsRequest
        ListConfigResourcesRequest DescribeTopicPartitionsRequest ShareGroupHeartbeatRequest
        ShareGroupDescribeRequest ShareFetchRequest ShareAcknowledgeRequest AddRaftVoterRequest
        RemoveRaftVoterRequest UpdateRaftVoterRequest InitializeShareGroupStateRequest
        ReadShareGroupStateRequest WriteShareGroupStateRequest DeleteShareGroupStateRequest
        ReadShareGroupStateSummaryRequest DescribeShareGroupOffsetsRequest
        AlterShareGroupOffsetsRequest DeleteShareGroupOffsetsRequest
    }
}

/// Draws a message's bytes from its shape, and notes where nothing but a non-null, valid value would do.
struct Draw<'a> {
    dice: &'a mut Dice,
    version: i16,
    flexible: bool,
    depth: usize,
    tags: bool,
}

/// A small generator (xorshift64*), so that a frame follows from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }
}

impl Draw<'_> {
    fn message(shape: &Shape, version: i16, dice: &mut Dice, tags: bool) -> Bytes {
        let flexible = shape.flexible.contains(version);
        let mut buf = BytesMut::new();
        Draw { dice, version, flexible, depth: 0, tags }.fields(shape.fields, &mut buf);
        buf.freeze()
    }

    fn fields(&mut self, fields: &[Field], out: &mut BytesMut) {
        let present = |field: &&Field| field.versions.contains(self.version);
        let (tagged, plain): (Vec<&Field>, Vec<&Field>) =
            fields.iter().filter(present).partition(|field| field.tag.is_some());
        for field in plain {
            self.value(&field.kind, field.nullable.contains(self.version), out);
        }
        if !self.flexible {
            return;
        }
        let mut values = Vec::new();
        for field in tagged {
            if self.tags && self.dice.roll(2) == 0 {
                let mut value = BytesMut::new();
                self.value(&field.kind, field.nullable.contains(self.version), &mut value);
                values.push((field.tag.unwrap(), value));
            }
        }
        if self.tags && self.dice.roll(8) == 0 {
            values.push((9_999, BytesMut::from(&b"unknown"[..])));
        }
        values.sort_by_key(|&(tag, _)| tag);
        varint::put_unsigned_varint(out, values.len() as u32);
        for (tag, value) in values {
            varint::put_unsigned_varint(out, tag);
            varint::put_unsigned_varint(out, value.len() as u32);
            out.put_slice(&value);
        }
    }

    fn value(&mut self, kind: &Kind, nullable: bool, out: &mut BytesMut) {
        let null = nullable && self.dice.roll(3) == 0;
        match kind {
            // One byte may be a boolean, whose other values are written back as 1.
            Kind::Fixed(1) => out.put_u8(self.dice.roll(2) as u8),
            Kind::Fixed(size) => (0..*size).for_each(|_| out.put_u8(self.dice.roll(256) as u8)),
            Kind::String | Kind::RigidString => {
                let text = ["", "t", "a topic", "ünï"][self.dice.roll(4) as usize];
                let compact = self.flexible && matches!(kind, Kind::String);
                self.length((!null).then_some(text.len()), compact, 2, out);
                out.put_slice(if null { b"" } else { text.as_bytes() });
            }
            Kind::Bytes => {
                let bytes = vec![7; self.dice.roll(20) as usize];
                self.length((!null).then_some(bytes.len()), self.flexible, 4, out);
                out.put_slice(if null { &[] } else { &bytes });
            }
            Kind::Struct(fields) => {
                if nullable {
                    out.put_i8(if null { -1 } else { 1 });
                }
                if !null {
                    self.fields(fields, out);
                }
            }
            Kind::Array(element) => {
                let count = if self.depth > 4 { 0 } else { self.dice.roll(4) };
                self.length((!null).then_some(count as usize), self.flexible, 4, out);
                self.depth += 1;
                if !null {
                    (0..count).for_each(|_| self.value(element, false, out));
                }
                self.depth -= 1;
            }
        }
    }

    fn length(&self, length: Option<usize>, compact: bool, width: usize, out: &mut BytesMut) {
        match (compact, width) {
            (true, _) => varint::put_unsigned_varint(out, length.map_or(0, |length| length as u32 + 1)),
            (false, 2) => out.put_i16(length.map_or(-1, |length| length as i16)),
            (false, _) => out.put_i32(length.map_or(-1, |length| length as i32)),
        }
    }
}

#[test]
fn every_version_that_messages_have_is_in_the_tables() {
    for api in all_apis() {
        let (first, last) = api.versions;
        assert!(api.shape.versions.first <= first && last <= api.shape.versions.last, "{}", api.name);
    }
}

#[test]
fn every_version_that_kafka_serves_is_in_the_tables() {
    for key in crate::versions::kafka_4_3_keys() {
        let served = crate::versions::kafka_4_3(key).unwrap();
        for shapes in [tables::REQUESTS, tables::RESPONSES] {
            let known = find(shapes, key).unwrap().versions;
            assert!(known.first <= served.min && served.max <= known.last, "API key {key}");
        }
    }
}

#[test]
fn the_default_message_of_every_version_passes() {
    for api in all_apis() {
        for version in api.versions.0..=api.versions.1 {
            let Some(bytes) = (api.encode_default)(version) else { continue };
            assert_eq!((api.check)(api.key, version, &bytes), Ok(()), "{} version {version}", api.name);
        }
    }
}

#[test]
fn the_tables_are_sorted_for_their_binary_search() {
    assert!(tables::REQUESTS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    assert!(tables::RESPONSES.windows(2).all(|pair| pair[0].0 < pair[1].0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// If a table had a field too many, too few, out of order or of another size than the decoder, this would fail.
    #[test]
    fn what_a_table_describes_is_what_the_decoder_reads(seed in 1u64..) {
        let mut dice = Dice(seed);
        for api in all_apis() {
            for version in api.versions.0..=api.versions.1 {
                let tags = dice.roll(2) == 0;
                let bytes = Draw::message(api.shape, version, &mut dice, tags);
                let name = format!("{} version {version}", api.name);
                prop_assert_eq!((api.check)(api.key, version, &bytes), Ok(()), "{}", name);
                match (api.decode)(bytes.clone(), version) {
                    Ok((left, again)) => {
                        prop_assert_eq!(left, 0, "{} leaves bytes", name);
                        // With tags, a field that was sent with its default is not written again.
                        if !tags {
                            prop_assert_eq!(again, bytes, "{}", name);
                        }
                    }
                    Err(error) => prop_assert!(false, "{}: {}", name, error),
                }
            }
        }
    }

    #[test]
    fn damaged_frames_fail_the_check_or_decode_without_harm(seed in 1u64..) {
        let mut dice = Dice(seed);
        for api in all_apis() {
            let (first, last) = api.versions;
            let version = first + dice.roll((last - first + 1) as u64) as i16;
            let mut bytes = BytesMut::from(&Draw::message(api.shape, version, &mut dice, true)[..]);
            match dice.roll(3) {
                0 => bytes.truncate(dice.roll(bytes.len() as u64 + 1) as usize),
                _ if bytes.is_empty() => {}
                1 => {
                    let at = dice.roll(bytes.len() as u64) as usize;
                    bytes[at] = dice.roll(256) as u8;
                }
                _ => {
                    let at = dice.roll(bytes.len() as u64) as usize;
                    let end = bytes.len().min(at + 5);
                    bytes[at..end].fill(0x7f);
                }
            }
            if (api.check)(api.key, version, &bytes).is_ok() {
                let _ = (api.decode)(bytes.freeze(), version);
            }
        }
    }

    #[test]
    fn random_bytes_fail_the_check_or_decode_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        for api in all_apis() {
            for version in api.versions.0..=api.versions.1 {
                if (api.check)(api.key, version, &bytes).is_ok() {
                    let _ = (api.decode)(Bytes::from(bytes.clone()), version);
                }
            }
        }
    }
}

#[test]
fn headers_of_every_version_pass_with_a_body_behind_them() {
    for version in 1..=2 {
        let header = RequestHeader::default()
            .with_request_api_key(3)
            .with_request_api_version(12)
            .with_client_id(Some("client".into()));
        let mut buf = BytesMut::new();
        header.encode(&mut buf, version).unwrap();
        buf.put_slice(b"body");
        assert_eq!(check_request_header(version, &buf), Ok(()));
    }
    for version in 0..=1 {
        let mut buf = BytesMut::new();
        ResponseHeader::default().encode(&mut buf, version).unwrap();
        buf.put_slice(b"body");
        assert_eq!(check_response_header(version, &buf), Ok(()));
    }
}

#[test]
fn a_count_that_the_frame_cannot_hold_is_named() {
    // Metadata version 1: an array of topics whose count is two billion.
    let error = check_request(3, 1, &[0x7f, 0xff, 0xff, 0xff]).unwrap_err();
    assert_eq!(error, ShapeError::ImpossibleCount { field: "Topics", count: i32::MAX as usize, left: 0 });
    assert_eq!(error.to_string(), "Topics claims 2147483647 elements, 0 bytes are left");
    // Version 12, compact: the same.
    let error = check_request(3, 12, &[0xff, 0xff, 0xff, 0xff, 0x0f]).unwrap_err();
    assert!(matches!(error, ShapeError::ImpossibleCount { field: "Topics", .. }), "{error}");
}

#[test]
fn a_frame_of_a_million_tiny_elements_is_refused() {
    // DeleteGroups version 0: an array of strings, each of two bytes.
    let names = MAX_ELEMENTS + 1;
    let mut frame = (names as i32).to_be_bytes().to_vec();
    frame.resize(4 + names * 2, 0);
    assert_eq!(check_request(42, 0, &frame), Err(ShapeError::TooManyElements { field: "GroupsNames" }));
}

#[test]
fn unknown_apis_and_versions_are_refused() {
    assert_eq!(check_request(4, 0, &[]), Err(ShapeError::UnknownApi { api_key: 4 }));
    assert_eq!(check_request(3, 99, &[]), Err(ShapeError::UnknownVersion { version: 99 }));
}
