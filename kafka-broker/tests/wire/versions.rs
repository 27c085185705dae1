//! Every API in every version that is advertised: the request is encoded, served, and its answer decoded.

use kafka_broker::Broker;
use kafka_wire::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_wire::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_wire::messages::delete_topics_request::DeleteTopicState;
use kafka_wire::messages::describe_configs_request::DescribeConfigsResource;
use kafka_wire::messages::describe_topic_partitions_request::TopicRequest;
use kafka_wire::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_wire::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_wire::messages::metadata_request::MetadataRequestTopic;
use kafka_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::messages::*;
use kafka_wire::{Request, Uuid, VersionRange};

use crate::connection::{Connection, batch, first_timestamp, text, topic};

/// The range that the broker advertises for an API.
async fn advertised<R: Request>(connection: &mut Connection) -> VersionRange {
    let answer = connection.api_versions().await;
    let api = answer.api_keys.iter().find(|api| api.api_key == R::KEY).expect("an advertised API");
    VersionRange { min: api.min_version, max: api.max_version }
}

async fn versions<R: Request>(connection: &mut Connection) -> impl Iterator<Item = i16> + use<R> {
    let range = advertised::<R>(connection).await;
    range.min.max(R::VERSIONS.min)..=range.max
}

async fn open() -> (Broker, Connection) {
    let broker = Broker::builder().start().await.unwrap();
    let connection = Connection::open(&broker).await;
    (broker, connection)
}

#[tokio::test]
async fn api_versions_answers_every_version_and_a_future_one_in_v0() {
    let (_broker, mut connection) = open().await;
    for version in 0..=4 {
        let mut request = ApiVersionsRequest::default();
        if version >= 3 {
            request = request.with_client_software_name(text("me")).with_client_software_version(text("1"));
        }
        let answer = connection.call(&request, version).await;
        assert_eq!(answer.error_code, 0);
        let produce = answer.api_keys.iter().find(|api| api.api_key == 0).unwrap();
        assert_eq!((produce.min_version, produce.max_version), (0, 13));
        if version >= 3 {
            // Features that may be off are not for clients of before version 4.
            let supported =
                if version >= 4 { &["metadata.version", "group.version"][..] } else { &["metadata.version"] };
            for name in supported {
                let finalized =
                    answer.finalized_features.iter().find(|feature| feature.name.as_str() == *name).unwrap();
                let supported =
                    answer.supported_features.iter().find(|feature| feature.name.as_str() == *name).unwrap();
                assert!(supported.min_version <= finalized.max_version_level);
                assert_eq!(supported.max_version, finalized.max_version_level);
            }
            assert!(answer.finalized_features_epoch >= 0);
        }
    }
    let future = [&[0, 0, 0, 17, 0, 18, 0, 99, 0, 0, 0, 5, 0, 1, b'x', 0][..], &[0; 5]].concat();
    connection.send_bytes(&future).await;
    let frame = connection.receive_frame().await.unwrap();
    let answer = kafka_wire::frame::decode_response::<ApiVersionsRequest>(frame, 0).unwrap();
    assert_eq!(answer.error_code, 35);
    assert_eq!(answer.api_keys.len(), 1);
    assert_eq!((answer.api_keys[0].api_key, answer.api_keys[0].max_version), (18, 4));
}

#[tokio::test]
async fn software_names_that_no_metric_could_carry_are_refused() {
    let (_broker, mut connection) = open().await;
    let request = ApiVersionsRequest::default()
        .with_client_software_name(text("bad name"))
        .with_client_software_version(text("1"));
    assert_eq!(connection.call(&request, 3).await.error_code, 42);
}

#[tokio::test]
async fn topics_are_created_and_deleted_in_every_version() {
    let (_broker, mut connection) = open().await;
    let creates: Vec<i16> = versions::<CreateTopicsRequest>(&mut connection).await.collect();
    for version in creates {
        let name = format!("created-in-{version}");
        let config =
            CreatableTopicConfig::default().with_name(text("retention.ms")).with_value(Some(text("5000")));
        let new = CreatableTopic::default()
            .with_name(topic(&name))
            .with_num_partitions(2)
            .with_replication_factor(1)
            .with_configs(vec![config]);
        let dry = CreateTopicsRequest::default().with_topics(vec![new.clone()]).with_validate_only(true);
        assert_eq!(connection.call(&dry, version).await.topics[0].error_code, 0);
        let request = CreateTopicsRequest::default().with_topics(vec![new]);
        let answer = connection.call(&request, version).await;
        let created = &answer.topics[0];
        assert_eq!(created.error_code, 0, "{created:?}");
        if version >= 5 {
            let configs = created.configs.as_ref().expect("configs that are not null");
            let retention = configs.iter().find(|config| config.name.as_str() == "retention.ms").unwrap();
            assert_eq!(retention.value.as_ref().unwrap().as_str(), "5000");
            assert_eq!((created.num_partitions, created.replication_factor), (2, 1));
        }
        if version >= 7 {
            assert!(!created.topic_id.is_nil());
        }
        assert_eq!(connection.call(&request, version).await.topics[0].error_code, 36);
    }
    let deletes: Vec<i16> = versions::<DeleteTopicsRequest>(&mut connection).await.collect();
    for version in deletes {
        let name = format!("deleted-in-{version}");
        let id = connection.create_topic(&name, 1).await;
        let request = match version {
            0..=5 => DeleteTopicsRequest::default().with_topic_names(vec![topic(&name)]),
            _ => DeleteTopicsRequest::default().with_topics(vec![
                DeleteTopicState::default().with_topic_id(id),
                DeleteTopicState::default().with_name(Some(topic("created-in-7"))),
                DeleteTopicState::default().with_topic_id(Uuid::from_u128(9)),
            ]),
        };
        let codes: Vec<i16> =
            connection.call(&request, version).await.responses.iter().map(|topic| topic.error_code).collect();
        assert_eq!(codes, if version >= 6 { vec![0, 0, 100] } else { vec![0] });
        let again = connection.call(&request, version).await;
        assert_eq!(again.responses[0].error_code, if version >= 6 { 100 } else { 3 });
    }
}

#[tokio::test]
async fn partitions_are_added_in_every_version() {
    let (_broker, mut connection) = open().await;
    connection.create_topic("t", 1).await;
    let all: Vec<i16> = versions::<CreatePartitionsRequest>(&mut connection).await.collect();
    for (version, count) in all.into_iter().zip(2..) {
        let grow =
            CreatePartitionsTopic::default().with_name(topic("t")).with_count(count).with_assignments(None);
        let request = CreatePartitionsRequest::default().with_topics(vec![grow]);
        assert_eq!(connection.call(&request, version).await.results[0].error_code, 0);
        assert_eq!(connection.call(&request, version).await.results[0].error_code, 37);
    }
}

#[tokio::test]
async fn metadata_tells_null_from_empty_in_every_version() {
    let (_broker, mut connection) = open().await;
    let id = connection.create_topic("t", 3).await;
    let all: Vec<i16> = versions::<MetadataRequest>(&mut connection).await.collect();
    for version in all {
        let base = MetadataRequest::default().with_allow_auto_topic_creation(version < 4);
        let asks_all = base.clone().with_topics(if version == 0 { Some(Vec::new()) } else { None });
        let answer = connection.call(&asks_all, version).await;
        assert_eq!(answer.brokers.len(), 1, "v{version}");
        assert_eq!(answer.topics.len(), 1);
        assert_eq!(answer.topics[0].partitions.len(), 3);
        assert_eq!(answer.topics[0].partitions[2].leader_id.0, 1);
        if version >= 1 {
            assert_eq!(answer.controller_id.0, 1);
            assert!(
                connection.call(&base.clone().with_topics(Some(Vec::new())), version).await.topics.is_empty()
            );
        }
        if version >= 2 {
            assert_eq!(answer.cluster_id.as_ref().unwrap().len(), 22);
        }
        if version >= 10 {
            assert_eq!(answer.topics[0].topic_id, id);
        }
        if version >= 8 {
            assert_eq!(answer.topics[0].topic_authorized_operations, i32::MIN);
        }
        if version >= 12 {
            let by_id = |topic_id| MetadataRequestTopic::default().with_name(None).with_topic_id(topic_id);
            let request = base.clone().with_topics(Some(vec![by_id(id), by_id(Uuid::from_u128(5))]));
            let answer = connection.call(&request, version).await;
            assert_eq!(answer.topics[0].name.as_ref().unwrap().as_str(), "t");
            assert_eq!((answer.topics[1].error_code, &answer.topics[1].name), (100, &None));
        }
    }
}

#[tokio::test]
async fn asking_creates_a_topic_only_where_everyone_agrees() {
    let broker = Broker::builder().config("num.partitions", "4").start().await.unwrap();
    let mut connection = Connection::open(&broker).await;
    let ask = |name: &str, allow| {
        let asked = MetadataRequestTopic::default().with_name(Some(topic(name)));
        MetadataRequest::default().with_topics(Some(vec![asked])).with_allow_auto_topic_creation(allow)
    };
    assert_eq!(connection.call(&ask("new", false), 12).await.topics[0].error_code, 3);
    let created = connection.call(&ask("new", true), 12).await;
    assert_eq!((created.topics[0].error_code, created.topics[0].partitions.len()), (0, 4));
    assert_eq!(connection.call(&ask("not a name", true), 12).await.topics[0].error_code, 17);

    let strict = Broker::builder().config("auto.create.topics.enable", "false").start().await.unwrap();
    let mut connection = Connection::open(&strict).await;
    assert_eq!(connection.call(&ask("new", true), 12).await.topics[0].error_code, 3);
}

#[tokio::test]
async fn records_are_produced_and_fetched_in_every_version() {
    let (_broker, mut connection) = open().await;
    let id = connection.create_topic("t", 1).await;
    let produces: Vec<i16> = versions::<ProduceRequest>(&mut connection).await.collect();
    let fetches: Vec<i16> = versions::<FetchRequest>(&mut connection).await.collect();
    for (version, offset) in produces.iter().copied().zip((0..).step_by(2)) {
        let data = PartitionProduceData::default().with_records(Some(batch(&["a", "b"])));
        let named = match version {
            13.. => TopicProduceData::default().with_topic_id(id),
            _ => TopicProduceData::default().with_name(topic("t")),
        };
        let request = ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(1000)
            .with_topic_data(vec![named.with_partition_data(vec![data])]);
        let answer = connection.call(&request, version).await;
        let partition = &answer.responses[0].partition_responses[0];
        assert_eq!((partition.error_code, partition.base_offset), (0, offset), "v{version}");
    }
    for version in fetches {
        let partition = FetchPartition::default().with_fetch_offset(2).with_partition_max_bytes(1 << 20);
        let named = match version {
            13.. => FetchTopic::default().with_topic_id(id),
            _ => FetchTopic::default().with_topic(topic("t")),
        };
        let request = FetchRequest::default()
            .with_max_bytes(1 << 20)
            .with_topics(vec![named.with_partitions(vec![partition])]);
        let answer = connection.call(&request, version).await;
        assert_eq!((answer.error_code, answer.session_id), (0, 0), "v{version}");
        let partition = &answer.responses[0].partitions[0];
        assert_eq!(partition.error_code, 0);
        assert_eq!(partition.high_watermark, 2 * i64::try_from(produces.len()).unwrap());
        assert_eq!(
            partition.records.as_ref().unwrap().len(),
            (produces.len() - 1) * batch(&["a", "b"]).len()
        );
    }
}

#[tokio::test]
async fn offsets_are_listed_in_every_version() {
    let (_broker, mut connection) = open().await;
    connection.create_topic("t", 1).await;
    let data = PartitionProduceData::default().with_records(Some(batch(&["a", "b", "c"])));
    let produce = TopicProduceData::default().with_name(topic("t")).with_partition_data(vec![data]);
    connection.call(&ProduceRequest::default().with_acks(1).with_topic_data(vec![produce]), 9).await;
    let all: Vec<i16> = versions::<ListOffsetsRequest>(&mut connection).await.collect();
    for version in all {
        for (timestamp, offset) in [
            (-1, 3),
            (-2, 0),
            (first_timestamp() + 1, 1),
            (first_timestamp() + 1_000_000, -1),
            (-3, 2),
            (-4, 0),
            (-5, -1),
        ] {
            if (timestamp == -3 && version < 7)
                || (timestamp == -4 && version < 8)
                || (timestamp == -5 && version < 9)
            {
                continue;
            }
            let partition =
                ListOffsetsPartition::default().with_timestamp(timestamp).with_current_leader_epoch(-1);
            let asked = ListOffsetsTopic::default().with_name(topic("t")).with_partitions(vec![partition]);
            let request =
                ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![asked]);
            let answer = connection.call(&request, version).await;
            let partition = &answer.topics[0].partitions[0];
            assert_eq!((partition.error_code, partition.offset), (0, offset), "v{version} {timestamp}");
        }
    }
}

#[tokio::test]
async fn coordinators_are_found_in_every_version() {
    let (broker, mut connection) = open().await;
    let all: Vec<i16> = versions::<FindCoordinatorRequest>(&mut connection).await.collect();
    for version in all {
        let (node, port) = if version >= 4 {
            let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![text("a"), text("b")]);
            let answer = connection.call(&request, version).await;
            assert_eq!(answer.coordinators.len(), 2);
            assert_eq!(answer.coordinators[1].key.as_str(), "b");
            assert_eq!(answer.coordinators[1].error_code, 0);
            (answer.coordinators[0].node_id, answer.coordinators[0].port)
        } else {
            let answer =
                connection.call(&FindCoordinatorRequest::default().with_key(text("a")), version).await;
            assert_eq!(answer.error_code, 0);
            (answer.node_id, answer.port)
        };
        assert_eq!((node.0, port), (1, i32::from(broker.addr().port())));
    }
}

#[tokio::test]
async fn producer_ids_are_never_given_twice() {
    let (_broker, mut connection) = open().await;
    let all: Vec<i16> = versions::<InitProducerIdRequest>(&mut connection).await.collect();
    let find = FindCoordinatorRequest::default().with_key_type(1).with_coordinator_keys(vec![text("tx")]);
    connection.call(&find, 4).await;
    let mut seen = std::collections::BTreeSet::new();
    for version in all {
        let request = InitProducerIdRequest::default().with_transactional_id(None);
        for _ in 0..300 {
            let answer = connection.call(&request, version).await;
            assert_eq!((answer.error_code, answer.producer_epoch), (0, 0));
            assert!(seen.insert(answer.producer_id.0), "v{version}: {} twice", answer.producer_id.0);
        }
        let transactional = request
            .with_transactional_id(Some(TransactionalId(text(&format!("tx-{version}")))))
            .with_transaction_timeout_ms(1000);
        let answer = connection.call(&transactional, version).await;
        assert_eq!((answer.error_code, answer.producer_epoch), (0, 0));
        assert!(seen.insert(answer.producer_id.0), "v{version}: {} twice", answer.producer_id.0);
    }
    assert_eq!(seen.len(), usize::try_from(*seen.last().unwrap() + 1).unwrap());
}

#[tokio::test]
async fn configurations_are_described_in_every_version() {
    let (_broker, mut connection) = open().await;
    connection.create_topic("t", 1).await;
    let resource = |kind, name| {
        DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(name))
            .with_configuration_keys(None)
    };
    let all: Vec<i16> = versions::<DescribeConfigsRequest>(&mut connection).await.collect();
    for version in all {
        let request = DescribeConfigsRequest::default()
            .with_include_synonyms(true)
            .with_include_documentation(version >= 3)
            .with_resources(vec![
                resource(2, "t"),
                resource(4, "1"),
                resource(2, "missing"),
                resource(4, "7"),
            ]);
        let answer = connection.call(&request, version).await;
        let codes: Vec<i16> = answer.results.iter().map(|result| result.error_code).collect();
        assert_eq!(codes, [0, 0, 3, 42]);
        let retention =
            answer.results[0].configs.iter().find(|config| config.name.as_str() == "retention.ms").unwrap();
        assert_eq!(retention.value.as_ref().unwrap().as_str(), "604800000");
        assert_eq!(retention.config_source, 5);
        assert_eq!(retention.synonyms[0].name.as_str(), "log.retention.hours");
        if version >= 3 {
            assert_eq!(retention.config_type, 5);
            assert!(retention.documentation.is_some());
        }
        let given = answer.results[1].configs.iter().find(|config| config.config_source == 4).unwrap();
        assert!(given.read_only);
    }
}

#[tokio::test]
async fn the_cluster_is_described_in_every_version() {
    let (_broker, mut connection) = open().await;
    connection.create_topic("t", 2).await;
    let all: Vec<i16> = versions::<DescribeClusterRequest>(&mut connection).await.collect();
    for version in all {
        let request = DescribeClusterRequest::default().with_include_cluster_authorized_operations(true);
        let answer = connection.call(&request, version).await;
        assert_eq!((answer.error_code, answer.brokers.len(), answer.controller_id.0), (0, 1, 1));
        assert_eq!(answer.cluster_authorized_operations, 8096);
        if version >= 1 {
            let controllers = DescribeClusterRequest::default().with_endpoint_type(2);
            assert_eq!(connection.call(&controllers, version).await.error_code, 114);
        }
    }
    let request = DescribeTopicPartitionsRequest::default()
        .with_topics(vec![
            TopicRequest::default().with_name(topic("t")),
            TopicRequest::default().with_name(topic("u")),
        ])
        .with_response_partition_limit(2000);
    let answer = connection.call(&request, 0).await;
    assert_eq!(answer.topics[0].topic_authorized_operations, 3576);
    assert_eq!(answer.topics[0].partitions[1].eligible_leader_replicas, Some(Vec::new()));
    assert_eq!(answer.topics[0].partitions[1].last_known_elr, Some(Vec::new()));
    assert_eq!(answer.topics[1].error_code, 3);
    let all: Vec<i16> = versions::<DescribeQuorumRequest>(&mut connection).await.collect();
    for version in all {
        let partition = describe_quorum_request::PartitionData::default();
        let asked = describe_quorum_request::TopicData::default()
            .with_topic_name(topic("__cluster_metadata"))
            .with_partitions(vec![partition]);
        let answer =
            connection.call(&DescribeQuorumRequest::default().with_topics(vec![asked]), version).await;
        let partition = &answer.topics[0].partitions[0];
        assert_eq!((partition.error_code, partition.leader_id.0, partition.current_voters.len()), (0, 1, 1));
    }
}
