//! Our metadata records to and from Kafka's (`kafka_wire::records`), as they rest in `__cluster_metadata-0`.

use bytes::Bytes;
use kafka_wire::StrBytes;
use kafka_wire::records::register_broker_record::{BrokerEndpoint, BrokerFeature};
use kafka_wire::records::{
    self, BrokerRegistrationChangeRecord, ConfigRecord, FeatureLevelRecord, MetadataRecord as Stored,
    PartitionRecord, ProducerIdsRecord, RecordError, RegisterBrokerRecord, RemoveTopicRecord, TopicRecord,
};
use uuid::Uuid;

use super::FEATURES;
use super::record::{ConfigResource, MetadataRecord, PartitionState};

/// `DirectoryId.UNASSIGNED`-style placeholder: which folder of a node holds a replica is not tracked.
const UNASSIGNED: Uuid = Uuid::nil();
/// `BrokerRegistrationFencingChange`; 0 would change nothing.
const FENCE: i8 = 1;
const UNFENCE: i8 = -1;
/// `SecurityProtocol.PLAINTEXT`.
const PLAINTEXT: i16 = 0;

fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

/// Encodes one record's value. `node_id` goes where Kafka names the broker that acts.
pub(super) fn encode(record: &MetadataRecord, node_id: i32) -> Result<Bytes, RecordError> {
    let (stored, version) = match record {
        MetadataRecord::Topic { name, id } => {
            (Stored::Topic(TopicRecord::default().with_name(text(name)).with_topic_id(*id)), 0)
        }
        MetadataRecord::Partition { topic_id, index, state } => {
            let partition = PartitionRecord::default()
                .with_partition_id(*index)
                .with_topic_id(*topic_id)
                .with_replicas(state.replicas.clone())
                .with_isr(state.isr.clone())
                .with_adding_replicas(state.adding.clone())
                .with_removing_replicas(state.removing.clone())
                .with_leader(state.leader)
                .with_leader_epoch(state.leader_epoch)
                .with_partition_epoch(state.partition_epoch)
                .with_directories(vec![UNASSIGNED; state.replicas.len()]);
            (Stored::Partition(partition), 1)
        }
        MetadataRecord::RemoveTopic { id } => {
            (Stored::RemoveTopic(RemoveTopicRecord::default().with_topic_id(*id)), 0)
        }
        MetadataRecord::Config { resource, key, value } => {
            let (kind, name) = resource.parts();
            let config = ConfigRecord::default()
                .with_resource_type(kind)
                .with_resource_name(text(name))
                .with_name(text(key))
                .with_value(value.as_deref().map(text));
            (Stored::Config(config), 0)
        }
        MetadataRecord::FeatureLevel { name, level } => {
            let feature = FeatureLevelRecord::default().with_name(text(name)).with_feature_level(*level);
            (Stored::FeatureLevel(feature), 0)
        }
        MetadataRecord::ProducerIds { next } => {
            let ids = ProducerIdsRecord::default().with_broker_id(node_id).with_next_producer_id(*next);
            (Stored::ProducerIds(ids), 0)
        }
        MetadataRecord::RegisterBroker { node_id, incarnation, epoch, host, port, rack } => {
            let endpoint = BrokerEndpoint::default()
                .with_name(text("PLAINTEXT"))
                .with_host(text(host))
                .with_port(*port)
                .with_security_protocol(PLAINTEXT);
            let features = FEATURES.iter().map(|feature| {
                BrokerFeature::default()
                    .with_name(text(feature.name))
                    .with_min_supported_version(feature.min_level)
                    .with_max_supported_version(feature.max_level)
            });
            let broker = RegisterBrokerRecord::default()
                .with_broker_id(*node_id)
                .with_incarnation_id(*incarnation)
                .with_broker_epoch(*epoch)
                .with_end_points(vec![endpoint])
                .with_features(features.collect())
                .with_rack(rack.as_deref().map(text))
                .with_fenced(false);
            (Stored::RegisterBroker(broker), 1)
        }
        MetadataRecord::BrokerRegistrationChange { node_id, epoch, fenced } => {
            let change = BrokerRegistrationChangeRecord::default()
                .with_broker_id(*node_id)
                .with_broker_epoch(*epoch)
                .with_fenced(if *fenced { FENCE } else { UNFENCE });
            (Stored::BrokerRegistrationChange(change), 0)
        }
    };
    records::encode_metadata(&stored, version)
}

/// Decodes one record's value. `None`: a record of Kafka's that nothing here acts on.
pub(super) fn decode(value: Bytes) -> Result<Option<MetadataRecord>, RecordError> {
    Ok(Some(match records::decode_metadata(value)? {
        Stored::Topic(topic) => MetadataRecord::Topic { name: topic.name.to_string(), id: topic.topic_id },
        Stored::Partition(partition) => MetadataRecord::Partition {
            topic_id: partition.topic_id,
            index: partition.partition_id,
            state: PartitionState {
                replicas: partition.replicas,
                isr: partition.isr,
                leader: partition.leader,
                leader_epoch: partition.leader_epoch,
                partition_epoch: partition.partition_epoch,
                adding: partition.adding_replicas,
                removing: partition.removing_replicas,
            },
        },
        Stored::RemoveTopic(topic) => MetadataRecord::RemoveTopic { id: topic.topic_id },
        Stored::Config(config) => MetadataRecord::Config {
            resource: ConfigResource::new(config.resource_type, config.resource_name.to_string()),
            key: config.name.to_string(),
            value: config.value.map(|value| value.to_string()),
        },
        Stored::FeatureLevel(feature) => {
            MetadataRecord::FeatureLevel { name: feature.name.to_string(), level: feature.feature_level }
        }
        Stored::ProducerIds(ids) => MetadataRecord::ProducerIds { next: ids.next_producer_id },
        Stored::RegisterBroker(broker) => {
            let (host, port) =
                broker.end_points.first().map(|it| (it.host.to_string(), it.port)).unwrap_or_default();
            MetadataRecord::RegisterBroker {
                node_id: broker.broker_id,
                incarnation: broker.incarnation_id,
                epoch: broker.broker_epoch,
                host,
                port,
                rack: broker.rack.map(|rack| rack.to_string()),
            }
        }
        Stored::BrokerRegistrationChange(change) => match change.fenced {
            FENCE | UNFENCE => MetadataRecord::BrokerRegistrationChange {
                node_id: change.broker_id,
                epoch: change.broker_epoch,
                fenced: change.fenced == FENCE,
            },
            _ => return Ok(None),
        },
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::image::Image;
    use crate::cluster::topics::{self, Limits, NewTopic};

    /// What an administrator might do; names come from a small set so that operations meet.
    #[derive(Debug, Clone)]
    enum Operation {
        Create { name: u8, partitions: i32, retention: Option<u32> },
        Grow { name: u8, count: i32 },
        Delete { name: u8 },
        SetConfig { name: u8, value: Option<u32> },
        TakeProducerIds,
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let name = 0u8..4;
        prop_oneof![
            (name.clone(), -1i32..5, proptest::option::of(any::<u32>()))
                .prop_map(|(name, partitions, retention)| Operation::Create { name, partitions, retention }),
            (name.clone(), 0i32..8).prop_map(|(name, count)| Operation::Grow { name, count }),
            name.clone().prop_map(|name| Operation::Delete { name }),
            (name, proptest::option::of(any::<u32>()))
                .prop_map(|(name, value)| Operation::SetConfig { name, value }),
            Just(Operation::TakeProducerIds),
        ]
    }

    fn registered() -> MetadataRecord {
        MetadataRecord::RegisterBroker {
            node_id: 1,
            incarnation: Uuid::from_u128(7),
            epoch: 3,
            host: "localhost".to_owned(),
            port: 9092,
            rack: Some("r1".to_owned()),
        }
    }

    /// What the controller would write for an operation, given the image it sees.
    fn decide(image: &Image, operation: &Operation, id: Uuid) -> Vec<MetadataRecord> {
        let topic = |name: &u8| format!("t{name}");
        match operation {
            Operation::Create { name, partitions, retention } => {
                let new = NewTopic {
                    name: topic(name),
                    partitions: *partitions,
                    replication_factor: -1,
                    assignments: Vec::new(),
                    configs: retention
                        .iter()
                        .map(|it| ("retention.ms".to_owned(), Some(it.to_string())))
                        .collect(),
                };
                let limits = Limits { max_partitions: 100, partitions: 2, replication_factor: 1 };
                topics::create(image, &new, limits, id).map(|(records, _)| records).unwrap_or_default()
            }
            Operation::Grow { name, count } => {
                topics::grow(image, &topic(name), *count, None).unwrap_or_default()
            }
            Operation::Delete { name } => image
                .topic(&topic(name))
                .map(|topic| vec![MetadataRecord::RemoveTopic { id: topic.id }])
                .unwrap_or_default(),
            Operation::SetConfig { name, value } => vec![MetadataRecord::Config {
                resource: ConfigResource::Topic(topic(name)),
                key: "segment.ms".to_owned(),
                value: value.map(|value| value.to_string()),
            }],
            Operation::TakeProducerIds => {
                vec![MetadataRecord::ProducerIds { next: image.next_producer_id() + 1000 }]
            }
        }
    }

    proptest! {
        #[test]
        fn replaying_what_was_stored_gives_the_same_image(
            operations in proptest::collection::vec(operation(), 0..40),
        ) {
            let level = MetadataRecord::FeatureLevel { name: "metadata.version".to_owned(), level: crate::cluster::METADATA_VERSION };
            let mut image = Image::default();
            let mut stored = Vec::new();
            let mut write = |image: &mut Image, records: Vec<MetadataRecord>| {
                for record in records {
                    stored.push(encode(&record, 1).unwrap());
                    image.replay(&record);
                }
            };
            write(&mut image, vec![level, registered()]);
            for (number, operation) in operations.iter().enumerate() {
                let records = decide(&image, operation, Uuid::from_u128(number as u128 + 1));
                write(&mut image, records);
            }
            let mut replayed = Image::default();
            for value in stored {
                replayed.replay(&decode(value).unwrap().unwrap());
            }
            prop_assert_eq!(replayed, image);
        }

        #[test]
        fn stored_bytes_of_any_kind_decode_or_fail_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let _ = decode(Bytes::from(bytes));
        }
    }
}
