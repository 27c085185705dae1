//! Three nodes: who leads, who follows, and what is lost when they go.

use std::time::Duration;

use kafka_broker::{Broker, Fault};
use kafka_wire::ErrorCode;
use kafka_wire::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_wire::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_wire::messages::fetch_response::PartitionData;
use kafka_wire::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_wire::messages::metadata_request::MetadataRequestTopic;
use kafka_wire::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_wire::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_wire::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use kafka_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::messages::produce_response::{PartitionProduceResponse, ProduceResponse};
use kafka_wire::messages::*;
use kafka_wire::record_batch::RecordBatch;
use tokio::time::Instant;

use crate::connection::{Connection, batch, text, topic};

const PRODUCE: i16 = 12;
const FETCH: i16 = 12;

async fn three() -> Broker {
    Broker::builder().nodes(3).start().await.unwrap()
}

async fn create(broker: &Broker, partitions: i32, replicas: i16, configs: &[(&str, &str)]) {
    let mut connection = Connection::open(broker).await;
    let configs = configs.iter().map(|(key, value)| {
        CreatableTopicConfig::default().with_name(text(key)).with_value(Some(text(value)))
    });
    let new = CreatableTopic::default()
        .with_name(topic("t"))
        .with_num_partitions(partitions)
        .with_replication_factor(replicas)
        .with_configs(configs.collect());
    let answer = connection.call(&CreateTopicsRequest::default().with_topics(vec![new]), 7).await;
    assert_eq!(answer.topics[0].error_code, 0, "{:?}", answer.topics[0].error_message);
}

fn produce_request(partition: i32, value: &str, acks: i16) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch(&[value])));
    let topic = TopicProduceData::default().with_name(topic("t")).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(acks).with_timeout_ms(1_000).with_topic_data(vec![topic])
}

async fn produce_to(broker: &Broker, node: i32, partition: i32, value: &str, acks: i16) -> ProduceResponse {
    let mut connection = Connection::open_to(broker, node).await;
    connection.call(&produce_request(partition, value, acks), PRODUCE).await
}

fn of(answer: &ProduceResponse) -> &PartitionProduceResponse {
    &answer.responses[0].partition_responses[0]
}

/// Writes to the leader and returns the code.
async fn write(broker: &Broker, partition: i32, value: &str, acks: i16) -> ErrorCode {
    let leader = leader(broker, partition);
    ErrorCode::from(of(&produce_to(broker, leader, partition, value, acks).await).error_code)
}

fn leader(broker: &Broker, partition: i32) -> i32 {
    broker.control().leader("t", partition).unwrap().leader.unwrap()
}

fn isr(broker: &Broker, partition: i32) -> Vec<i32> {
    broker.control().leader("t", partition).unwrap().isr
}

async fn fetch(broker: &Broker, node: i32, asked: FetchPartition) -> (FetchResponse, PartitionData) {
    let mut connection = Connection::open_to(broker, node).await;
    let request = FetchRequest::default().with_max_bytes(1 << 20).with_topics(vec![
        FetchTopic::default()
            .with_topic(topic("t"))
            .with_partitions(vec![asked.with_partition_max_bytes(1 << 20)]),
    ]);
    let answer = connection.call(&request, FETCH).await;
    let partition = answer.responses[0].partitions[0].clone();
    (answer, partition)
}

/// All values that a consumer of the leader sees.
async fn read(broker: &Broker, partition: i32) -> Vec<String> {
    let asked = FetchPartition::default().with_partition(partition);
    let (_, answer) = fetch(broker, leader(broker, partition), asked).await;
    assert_eq!(answer.error_code, 0);
    let mut values = Vec::new();
    for batch in RecordBatch::iter(answer.records.unwrap_or_default()) {
        for record in batch.unwrap().records(1 << 20).unwrap() {
            values.push(String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap());
        }
    }
    values
}

async fn until(mut is_so: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited in vain");
}

#[tokio::test(start_paused = true)]
async fn leaders_are_spread_and_every_node_knows_them() {
    let broker = three().await;
    create(&broker, 6, 3, &[]).await;
    for node in [1, 2, 3] {
        let mut connection = Connection::open_to(&broker, node).await;
        let request = MetadataRequest::default()
            .with_topics(Some(vec![MetadataRequestTopic::default().with_name(Some(topic("t")))]));
        let answer = connection.call(&request, 12).await;
        let brokers: Vec<i32> = answer.brokers.iter().map(|it| it.node_id.0).collect();
        assert_eq!(brokers, [1, 2, 3]);
        let leaders: Vec<i32> = answer.topics[0].partitions.iter().map(|it| it.leader_id.0).collect();
        assert_eq!(leaders, [1, 2, 3, 1, 2, 3]);
        assert!(answer.topics[0].partitions.iter().all(|it| it.isr_nodes.len() == 3));
    }
    assert_eq!(broker.bootstrap_servers().split(',').count(), 3);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_lead_names_the_leader_and_where_it_is() {
    let broker = three().await;
    create(&broker, 1, 1, &[]).await;
    let answer = produce_to(&broker, 2, 0, "v", -1).await;
    assert_eq!(of(&answer).error_code, ErrorCode::NotLeaderOrFollower.code());
    assert_eq!((of(&answer).current_leader.leader_id.0, of(&answer).current_leader.leader_epoch), (1, 0));
    assert_eq!(answer.node_endpoints.len(), 1);
    assert_eq!(i32::from(broker.addr().port()), answer.node_endpoints[0].port);
    let (_, fetched) = fetch(&broker, 3, FetchPartition::default()).await;
    assert_eq!(fetched.error_code, ErrorCode::NotLeaderOrFollower.code());
    assert_eq!(fetched.current_leader.leader_id.0, 1);
}

#[tokio::test(start_paused = true)]
async fn acks_all_waits_for_the_followers_and_consumers_see_nothing_before() {
    let broker = three().await;
    create(&broker, 1, 3, &[]).await;
    assert_eq!(write(&broker, 0, "a", -1).await, ErrorCode::None);
    broker.control().hold_replication(3);
    let start = Instant::now();
    assert_eq!(write(&broker, 0, "b", -1).await, ErrorCode::RequestTimedOut);
    assert_eq!(start.elapsed().as_millis(), 1_000);
    assert_eq!(write(&broker, 0, "c", 1).await, ErrorCode::None);
    assert_eq!(read(&broker, 0).await, ["a"]);
    let mut writer = Connection::open(&broker).await;
    let id = writer.send(&produce_request(0, "d", -1), PRODUCE).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    broker.control().release_replication(3);
    let answer = writer.receive::<ProduceRequest>(PRODUCE, id).await;
    assert_eq!((of(&answer).error_code, of(&answer).base_offset), (0, 3));
    assert_eq!(read(&broker, 0).await, ["a", "b", "c", "d"]);
}

#[tokio::test(start_paused = true)]
async fn who_lags_leaves_the_in_sync_replicas_and_comes_back() {
    let broker = three().await;
    create(&broker, 1, 3, &[("min.insync.replicas", "3")]).await;
    broker.control().hold_replication(2);
    assert_eq!(write(&broker, 0, "a", 1).await, ErrorCode::None);
    let start = Instant::now();
    until(|| isr(&broker, 0) == [1, 3]).await;
    // Looked at every half of replica.lag.time.max.ms.
    assert!((30..=46).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert_eq!(write(&broker, 0, "b", -1).await, ErrorCode::NotEnoughReplicas);
    assert_eq!(read(&broker, 0).await, [""; 0], "nothing is committed below min.insync.replicas");
    broker.control().release_replication(2);
    until(|| isr(&broker, 0) == [1, 2, 3]).await;
    assert_eq!(write(&broker, 0, "c", -1).await, ErrorCode::None);
    assert_eq!(read(&broker, 0).await, ["a", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_or_crashed_leader_is_followed_by_one_that_has_everything() {
    let broker = three().await;
    create(&broker, 1, 3, &[]).await;
    let mut expected = Vec::new();
    for (round, crash) in [(0, false), (1, true), (2, false), (3, true)] {
        let value = format!("v{round}");
        assert_eq!(write(&broker, 0, &value, -1).await, ErrorCode::None);
        expected.push(value);
        let old = leader(&broker, 0);
        match crash {
            true => broker.control().crash(old).await.unwrap(),
            false => broker.control().stop(old).await.unwrap(),
        }
        assert_ne!(leader(&broker, 0), old);
        assert_eq!(isr(&broker, 0).len(), 2);
        let value = format!("w{round}");
        assert_eq!(write(&broker, 0, &value, -1).await, ErrorCode::None);
        expected.push(value);
        broker.control().start(old).await.unwrap();
        until(|| isr(&broker, 0).len() == 3).await;
        assert_eq!(read(&broker, 0).await, expected);
    }
    let now = broker.control().leader("t", 0).unwrap();
    assert_eq!(now.leader_epoch, 4);
}

#[tokio::test(start_paused = true)]
async fn a_reader_with_an_old_or_future_epoch_is_told_so() {
    let broker = three().await;
    create(&broker, 1, 3, &[]).await;
    assert_eq!(write(&broker, 0, "a", -1).await, ErrorCode::None);
    broker.control().move_leader("t", 0, 2).await.unwrap();
    assert_eq!(write(&broker, 0, "b", -1).await, ErrorCode::None);
    let in_epoch = |epoch| FetchPartition::default().with_current_leader_epoch(epoch);
    let (_, old) = fetch(&broker, 2, in_epoch(0)).await;
    assert_eq!(old.error_code, ErrorCode::FencedLeaderEpoch.code());
    assert_eq!((old.current_leader.leader_id.0, old.current_leader.leader_epoch), (2, 1));
    let (_, future) = fetch(&broker, 2, in_epoch(2)).await;
    assert_eq!(future.error_code, ErrorCode::UnknownLeaderEpoch.code());
    let (_, now) = fetch(&broker, 2, in_epoch(1)).await;
    assert_eq!(now.error_code, 0);

    let mut connection = Connection::open_to(&broker, 2).await;
    let ends = [0, 1, 7].map(|epoch| {
        OffsetForLeaderPartition::default().with_current_leader_epoch(-1).with_leader_epoch(epoch)
    });
    for (asked, expected) in ends.into_iter().zip([(0, 1), (1, 2), (1, 2)]) {
        let request = OffsetForLeaderEpochRequest::default().with_replica_id(BrokerId(-2)).with_topics(vec![
            OffsetForLeaderTopic::default().with_topic(topic("t")).with_partitions(vec![asked]),
        ]);
        let answer = connection.call(&request, 4).await;
        let found = &answer.topics[0].partitions[0];
        assert_eq!((found.leader_epoch, found.end_offset), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn an_unclean_leader_loses_records_and_the_old_one_is_truncated() {
    let broker = three().await;
    create(&broker, 1, 2, &[]).await;
    assert_eq!(write(&broker, 0, "kept", -1).await, ErrorCode::None);
    broker.control().hold_replication(2);
    assert_eq!(write(&broker, 0, "lost", 1).await, ErrorCode::None);
    until(|| isr(&broker, 0) == [1]).await;
    broker.control().crash(1).await.unwrap();
    assert_eq!(broker.control().leader("t", 0).unwrap().leader, None, "2 misses a record");

    let mut connection = Connection::open_to(&broker, 3).await;
    let asked =
        elect_leaders_request::TopicPartitions::default().with_topic(topic("t")).with_partitions(vec![0]);
    let elect = ElectLeadersRequest::default()
        .with_election_type(1)
        .with_timeout_ms(1_000)
        .with_topic_partitions(Some(vec![asked]));
    let answer = connection.call(&elect, 2).await;
    assert_eq!(answer.replica_election_results[0].partition_result[0].error_code, 0);
    assert_eq!(leader(&broker, 0), 2);
    assert_eq!(write(&broker, 0, "new", -1).await, ErrorCode::None);

    broker.control().release_replication(2);
    broker.control().start(1).await.unwrap();
    until(|| isr(&broker, 0) == [1, 2]).await;
    broker.control().move_leader("t", 0, 1).await.unwrap();
    assert_eq!(read(&broker, 0).await, ["kept", "new"]);

    // Who read the lost record is told where the histories part.
    let reader = FetchPartition::default().with_fetch_offset(2).with_last_fetched_epoch(0);
    let (_, answer) = fetch(&broker, 1, reader).await;
    assert_eq!((answer.diverging_epoch.epoch, answer.diverging_epoch.end_offset), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_single_replica_moves_with_its_records() {
    let broker = three().await;
    create(&broker, 1, 1, &[]).await;
    for (node, value) in [(1, "a"), (2, "b"), (3, "c"), (1, "d")] {
        broker.control().move_leader("t", 0, node).await.unwrap();
        assert_eq!(leader(&broker, 0), node);
        assert_eq!(broker.control().leader("t", 0).unwrap().replicas, [node]);
        assert_eq!(write(&broker, 0, value, -1).await, ErrorCode::None);
    }
    assert_eq!(read(&broker, 0).await, ["a", "b", "c", "d"]);
    broker.control().stop(1).await.unwrap();
    assert_eq!(broker.control().leader("t", 0).unwrap().leader, None);
    broker.control().start(1).await.unwrap();
    assert_eq!(read(&broker, 0).await, ["a", "b", "c", "d"]);
}

#[tokio::test(start_paused = true)]
async fn the_last_in_sync_replica_leads_with_everything_after_a_crash() {
    let broker = three().await;
    create(&broker, 1, 2, &[]).await;
    assert_eq!(write(&broker, 0, "a", -1).await, ErrorCode::None);
    // The high watermark of a crashed node is not known when it leads again.
    broker.control().hold_replication(2);
    broker.control().crash(1).await.unwrap();
    broker.control().crash(2).await.unwrap();
    broker.control().start(2).await.unwrap();
    let mut connection = Connection::open_to(&broker, 2).await;
    let asked = ListOffsetsPartition::default().with_current_leader_epoch(-1).with_timestamp(-1);
    let request = ListOffsetsRequest::default()
        .with_topics(vec![ListOffsetsTopic::default().with_name(topic("t")).with_partitions(vec![asked])]);
    // Only 2 is in sync: what it has is committed.
    let answer = connection.call(&request, 9).await;
    assert_eq!((answer.topics[0].partitions[0].error_code, answer.topics[0].partitions[0].offset), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn committed_offsets_follow_the_coordinator_to_another_node() {
    let broker = three().await;
    create(&broker, 1, 3, &[]).await;
    let mut any = Connection::open(&broker).await;
    let find = FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g")]);
    let commit = |offset: i64| {
        let partition = OffsetCommitRequestPartition::default().with_committed_offset(offset);
        let topic =
            OffsetCommitRequestTopic::default().with_name(topic("t")).with_partitions(vec![partition]);
        OffsetCommitRequest::default()
            .with_group_id(GroupId(text("g")))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic])
    };
    let fetch = {
        let topic = OffsetFetchRequestTopics::default().with_name(topic("t")).with_partition_indexes(vec![0]);
        let group = OffsetFetchRequestGroup::default()
            .with_group_id(GroupId(text("g")))
            .with_topics(Some(vec![topic]));
        OffsetFetchRequest::default().with_groups(vec![group])
    };
    for offset in 1..4 {
        let found = any.call(&find, 4).await;
        let coordinator = found.coordinators[0].node_id.0;
        let mut connection = Connection::open_to(&broker, coordinator).await;
        if offset > 1 {
            let answer = connection.call(&fetch, 8).await;
            assert_eq!(answer.groups[0].topics[0].partitions[0].committed_offset, offset - 1);
        }
        let answer = connection.call(&commit(offset), 8).await;
        assert_eq!(answer.topics[0].partitions[0].error_code, 0);
        // Every coordinator's partition goes to another node.
        for ((name, partition), state) in broker.control().leaders() {
            let next = state.isr.iter().find(|&&node| Some(node) != state.leader).copied().unwrap();
            if name == "__consumer_offsets" {
                broker.control().move_leader(&name, partition, next).await.unwrap();
            }
        }
        let answer = connection.call(&commit(99), 8).await;
        assert_eq!(answer.topics[0].partitions[0].error_code, ErrorCode::NotCoordinator.code());
    }
}

#[tokio::test(start_paused = true)]
async fn faults_happen_as_they_are_asked_for() {
    let broker = three().await;
    create(&broker, 1, 3, &[]).await;
    let control = broker.control();
    control.fault(1, 0, Fault::LostRequest, 1).unwrap();
    control.fault(1, 0, Fault::LostAnswer, 1).unwrap();
    control.fault(1, 0, Fault::LateAnswer(Duration::from_secs(3)), 1).unwrap();
    for value in ["never arrived", "arrived"] {
        let mut connection = Connection::open_to(&broker, 1).await;
        connection.send(&produce_request(0, value, -1), PRODUCE).await;
        assert!(connection.receive_frame().await.is_none(), "the connection is closed");
    }
    let start = Instant::now();
    assert_eq!(write(&broker, 0, "late", -1).await, ErrorCode::None);
    assert_eq!(start.elapsed().as_secs(), 3);
    assert_eq!(read(&broker, 0).await, ["arrived", "late"]);
    let mut connection = Connection::open_to(&broker, 1).await;
    connection.api_versions().await;
    control.cut_connections(1).unwrap();
    assert!(connection.receive_frame().await.is_none());
    Connection::open_to(&broker, 1).await.api_versions().await;
    assert!(control.stop(9).await.is_err() && control.start(1).await.is_err());
}

#[tokio::test]
async fn nodes_keep_their_folders_and_their_part_in_the_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let start = || Broker::builder().nodes(3).data_dir(dir.path()).start();
    let broker = start().await.unwrap();
    create(&broker, 3, 3, &[]).await;
    for partition in 0..3 {
        assert_eq!(write(&broker, partition, "before", -1).await, ErrorCode::None);
    }
    broker.control().stop(2).await.unwrap();
    assert_eq!(write(&broker, 1, "while 2 was away", -1).await, ErrorCode::None);
    broker.shutdown().await;
    for node in ["node-1", "node-2", "node-3"] {
        assert!(dir.path().join(node).join("meta.properties").is_file());
    }
    let broker = start().await.unwrap();
    for partition in 0..3 {
        until(|| isr(&broker, partition).len() == 3).await;
    }
    assert_eq!(read(&broker, 1).await, ["before", "while 2 was away"]);
    broker.control().move_leader("t", 1, 2).await.unwrap();
    assert_eq!(read(&broker, 1).await, ["before", "while 2 was away"]);
    broker.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn followers_delete_what_the_leader_deletes_and_nothing_uncommitted_is_deleted() {
    let broker = three().await;
    create(&broker, 1, 2, &[]).await;
    for value in ["a", "b", "c"] {
        assert_eq!(write(&broker, 0, value, -1).await, ErrorCode::None);
    }
    let delete = |offset: i64| {
        let partition = delete_records_request::DeleteRecordsPartition::default().with_offset(offset);
        let topic = delete_records_request::DeleteRecordsTopic::default()
            .with_name(topic("t"))
            .with_partitions(vec![partition]);
        DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(1_000)
    };
    let mut connection = Connection::open_to(&broker, 1).await;
    let answer = connection.call(&delete(2), 2).await;
    assert_eq!(
        (answer.topics[0].partitions[0].error_code, answer.topics[0].partitions[0].low_watermark),
        (0, 2)
    );
    tokio::time::sleep(Duration::from_millis(10)).await;
    broker.control().hold_replication(2);
    assert_eq!(write(&broker, 0, "d", 1).await, ErrorCode::None);
    let answer = connection.call(&delete(4), 2).await;
    assert_eq!(answer.topics[0].partitions[0].error_code, ErrorCode::OffsetOutOfRange.code());
    let mut follower = Connection::open_to(&broker, 2).await;
    let answer = follower.call(&delete(3), 2).await;
    assert_eq!(answer.topics[0].partitions[0].error_code, ErrorCode::NotLeaderOrFollower.code());
    broker.control().release_replication(2);
    broker.control().stop(1).await.unwrap();
    let (_, first) = fetch(&broker, 2, FetchPartition::default()).await;
    assert_eq!(first.error_code, ErrorCode::OffsetOutOfRange.code());
    let (_, third) = fetch(&broker, 2, FetchPartition::default().with_fetch_offset(2)).await;
    assert_eq!((third.error_code, third.log_start_offset), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_tells_no_end_before_it_knows_what_was_committed() {
    let broker = three().await;
    create(&broker, 1, 3, &[]).await;
    broker.control().hold_replication(3);
    assert_eq!(write(&broker, 0, "a", 1).await, ErrorCode::None);
    tokio::time::sleep(Duration::from_millis(10)).await;
    broker.control().crash(1).await.unwrap();
    assert_eq!(leader(&broker, 0), 2);
    let asked = ListOffsetsPartition::default().with_current_leader_epoch(-1).with_timestamp(-1);
    let request = ListOffsetsRequest::default()
        .with_topics(vec![ListOffsetsTopic::default().with_name(topic("t")).with_partitions(vec![asked])]);
    let mut connection = Connection::open_to(&broker, 2).await;
    let answer = connection.call(&request, 9).await;
    assert_eq!(answer.topics[0].partitions[0].error_code, ErrorCode::OffsetNotAvailable.code());
    broker.control().release_replication(3);
    tokio::time::sleep(Duration::from_millis(10)).await;
    let answer = connection.call(&request, 9).await;
    assert_eq!((answer.topics[0].partitions[0].error_code, answer.topics[0].partitions[0].offset), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_stopped_node_is_offline_for_clients_and_leads_again_when_it_is_preferred() {
    let broker = three().await;
    create(&broker, 1, 3, &[]).await;
    broker.control().stop(1).await.unwrap();
    let mut connection = Connection::open_to(&broker, 3).await;
    let request = MetadataRequest::default()
        .with_topics(Some(vec![MetadataRequestTopic::default().with_name(Some(topic("t")))]));
    let answer = connection.call(&request, 12).await;
    assert_eq!(answer.brokers.iter().map(|it| it.node_id.0).collect::<Vec<_>>(), [2, 3]);
    let partition = &answer.topics[0].partitions[0];
    assert_eq!((partition.leader_id.0, partition.leader_epoch), (2, 1));
    assert_eq!(partition.offline_replicas, [BrokerId(1)]);
    assert_eq!(partition.isr_nodes, [BrokerId(2), BrokerId(3)]);
    let request = DescribeClusterRequest::default().with_include_fenced_brokers(true);
    let answer = connection.call(&request, 2).await;
    let fenced: Vec<_> = answer.brokers.iter().map(|it| (it.broker_id.0, it.is_fenced)).collect();
    assert_eq!(fenced, [(1, true), (2, false), (3, false)]);

    let elect = ElectLeadersRequest::default().with_timeout_ms(1_000).with_topic_partitions(None);
    let answer = connection.call(&elect, 2).await;
    let code = answer.replica_election_results[0].partition_result[0].error_code;
    assert_eq!(code, ErrorCode::PreferredLeaderNotAvailable.code());
    broker.control().start(1).await.unwrap();
    until(|| isr(&broker, 0).len() == 3).await;
    let answer = connection.call(&elect, 2).await;
    assert_eq!(answer.replica_election_results[0].partition_result[0].error_code, 0);
    assert_eq!(leader(&broker, 0), 1);
    assert!(connection.call(&elect, 2).await.replica_election_results.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_partition_is_reassigned_while_it_is_served_and_a_reassignment_can_be_taken_back() {
    use kafka_wire::messages::alter_partition_reassignments_request::{
        ReassignablePartition, ReassignableTopic,
    };
    let broker = three().await;
    create(&broker, 1, 1, &[]).await;
    assert_eq!(write(&broker, 0, "a", -1).await, ErrorCode::None);
    let from = leader(&broker, 0);
    let target = if from == 3 { 2 } else { 3 };
    let mut connection = Connection::open_to(&broker, from).await;
    let alter = |replicas: Option<Vec<i32>>| {
        let replicas = replicas.map(|nodes| nodes.into_iter().map(BrokerId).collect());
        let partition = ReassignablePartition::default().with_replicas(replicas);
        let topic = ReassignableTopic::default().with_name(topic("t")).with_partitions(vec![partition]);
        AlterPartitionReassignmentsRequest::default().with_topics(vec![topic])
    };
    let none = ErrorCode::NoReassignmentInProgress.code();
    let code = |answer: AlterPartitionReassignmentsResponse| answer.responses[0].partitions[0].error_code;
    assert_eq!(code(connection.call(&alter(None), 0).await), none);

    broker.control().hold_replication(target);
    assert_eq!(code(connection.call(&alter(Some(vec![target])), 0).await), 0);
    let list = ListPartitionReassignmentsRequest::default().with_topics(None);
    let ongoing = connection.call(&list, 0).await.topics[0].partitions[0].clone();
    assert_eq!(ongoing.replicas, [BrokerId(target), BrokerId(from)]);
    assert_eq!(
        (ongoing.adding_replicas, ongoing.removing_replicas),
        (vec![BrokerId(target)], vec![BrokerId(from)])
    );
    assert_eq!(write(&broker, 0, "b", 1).await, ErrorCode::None, "it is served meanwhile");
    assert_eq!(code(connection.call(&alter(None), 0).await), 0);
    assert!(connection.call(&list, 0).await.topics.is_empty());
    assert_eq!(leader(&broker, 0), from);

    assert_eq!(code(connection.call(&alter(Some(vec![target])), 0).await), 0);
    broker.control().release_replication(target);
    until(|| broker.control().leader("t", 0).unwrap().leader == Some(target)).await;
    assert!(connection.call(&list, 0).await.topics.is_empty());
    assert_eq!(isr(&broker, 0), [target]);
    assert_eq!(read(&broker, 0).await, ["a", "b"]);
}
