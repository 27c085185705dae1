//! Our metadata records to and from Kafka's (`kafka_wire::records`), as they rest in `__cluster_metadata-0`.

use bytes::Bytes;
use kafka_wire::StrBytes;
use kafka_wire::records::register_broker_record::{BrokerEndpoint, BrokerFeature};
use kafka_wire::records::{
    self, ConfigRecord, FeatureLevelRecord, MetadataRecord as Stored, PartitionRecord, ProducerIdsRecord,
    RecordError, RegisterBrokerRecord, RemoveTopicRecord, TopicRecord,
};
use uuid::Uuid;

use super::record::{ConfigResource, MetadataRecord, PartitionState};
use super::{METADATA_VERSION, MIN_METADATA_VERSION};

/// `DirectoryId.UNASSIGNED`-style placeholder: which folder of a node holds a replica is not tracked.
const UNASSIGNED: Uuid = Uuid::nil();
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
            let feature = BrokerFeature::default()
                .with_name(text("metadata.version"))
                .with_min_supported_version(MIN_METADATA_VERSION)
                .with_max_supported_version(METADATA_VERSION);
            let broker = RegisterBrokerRecord::default()
                .with_broker_id(*node_id)
                .with_incarnation_id(*incarnation)
                .with_broker_epoch(*epoch)
                .with_end_points(vec![endpoint])
                .with_features(vec![feature])
                .with_rack(rack.as_deref().map(text))
                .with_fenced(false);
            (Stored::RegisterBroker(broker), 1)
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
        _ => return Ok(None),
    }))
}
