//! Share groups (KIP-932), frame by frame: sessions and their epochs, acknowledgements, and the share coordinator's APIs.

use kafka_broker::Broker;
use kafka_wire::messages::alter_share_group_offsets_request::{
    AlterShareGroupOffsetsRequestPartition, AlterShareGroupOffsetsRequestTopic,
};
use kafka_wire::messages::create_topics_request::CreatableTopic;
use kafka_wire::messages::describe_share_group_offsets_request::DescribeShareGroupOffsetsRequestGroup;
use kafka_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::messages::share_acknowledge_request::{
    AcknowledgePartition, AcknowledgeTopic, AcknowledgementBatch,
};
use kafka_wire::messages::share_fetch_request::{FetchPartition, FetchTopic};
use kafka_wire::messages::*;
use kafka_wire::{ErrorCode, Uuid};

use crate::connection::{Connection, batch, text, topic};

struct Member {
    _broker: Broker,
    connection: Connection,
    topic_id: Uuid,
}

impl Member {
    /// A topic with ten records, and a group that begins at its beginning.
    async fn open() -> Self {
        let broker = Broker::builder().start().await.unwrap();
        let mut connection = Connection::open(&broker).await;
        let new =
            CreatableTopic::default().with_name(topic("t")).with_num_partitions(1).with_replication_factor(1);
        let created = connection.call(&CreateTopicsRequest::default().with_topics(vec![new]), 7).await;
        let topic_id = created.topics[0].topic_id;
        let find = FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g")]);
        connection.call(&find, 6).await;
        let values: Vec<String> = (0..10).map(|value| value.to_string()).collect();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let data = PartitionProduceData::default().with_records(Some(batch(&values)));
        let produced = TopicProduceData::default().with_name(topic("t")).with_partition_data(vec![data]);
        let produce =
            ProduceRequest::default().with_acks(-1).with_timeout_ms(9000).with_topic_data(vec![produced]);
        connection.call(&produce, 9).await;
        let start = AlterShareGroupOffsetsRequestPartition::default().with_start_offset(0);
        let altered = AlterShareGroupOffsetsRequestTopic::default()
            .with_topic_name(topic("t"))
            .with_partitions(vec![start]);
        let alter = AlterShareGroupOffsetsRequest::default()
            .with_group_id(GroupId(text("g")))
            .with_topics(vec![altered]);
        let altered = connection.call(&alter, 0).await;
        assert_eq!((altered.error_code, altered.responses[0].partitions[0].error_code), (0, 0));
        Self { _broker: broker, connection, topic_id }
    }

    async fn fetch(&mut self, epoch: i32, max_records: i32, version: i16) -> ShareFetchResponse {
        let mut request = ShareFetchRequest::default()
            .with_group_id(Some(text("g")))
            .with_member_id(Some(text("m")))
            .with_share_session_epoch(epoch)
            .with_max_records(max_records)
            .with_batch_size(max_records);
        if version >= 2 {
            request.share_acquire_mode = 1;
        }
        if epoch == 0 {
            let partitions = vec![FetchPartition::default()];
            request.topics =
                vec![FetchTopic::default().with_topic_id(self.topic_id).with_partitions(partitions)];
        }
        self.connection.call(&request, version).await
    }

    async fn acknowledge(&mut self, epoch: i32, first: i64, last: i64, kind: i8) -> ShareAcknowledgeResponse {
        let said = AcknowledgementBatch::default()
            .with_first_offset(first)
            .with_last_offset(last)
            .with_acknowledge_types(vec![kind]);
        let partition = AcknowledgePartition::default().with_acknowledgement_batches(vec![said]);
        let topic = AcknowledgeTopic::default().with_topic_id(self.topic_id).with_partitions(vec![partition]);
        let request = ShareAcknowledgeRequest::default()
            .with_group_id(Some(text("g")))
            .with_member_id(Some(text("m")))
            .with_share_session_epoch(epoch)
            .with_is_renew_ack(kind == 4)
            .with_topics(vec![topic]);
        self.connection.call(&request, 2).await
    }

    async fn lag(&mut self) -> (i64, i64) {
        let group =
            DescribeShareGroupOffsetsRequestGroup::default().with_group_id(text("g")).with_topics(None);
        let request = DescribeShareGroupOffsetsRequest::default().with_groups(vec![group]);
        self.connection.call(&request, 0).await;
        let described = self.connection.call(&request, 1).await;
        let partition = &described.groups[0].topics[0].partitions[0];
        (partition.start_offset, partition.lag)
    }
}

fn acquired(response: &ShareFetchResponse) -> Vec<(i64, i64, i16)> {
    let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
    let runs = partitions.flat_map(|partition| &partition.acquired_records);
    runs.map(|run| (run.first_offset, run.last_offset, run.delivery_count)).collect()
}

#[tokio::test]
async fn records_are_acquired_acknowledged_released_and_given_back_when_the_session_ends() {
    let mut member = Member::open().await;
    let fetched = member.fetch(0, 4, 2).await;
    assert_eq!((fetched.acquisition_lock_timeout_ms, acquired(&fetched)), (30_000, vec![(0, 3, 1)]));
    assert!(!fetched.responses[0].partitions[0].records.is_empty());
    // In version 1 a batch of the log is acquired whole.
    assert_eq!(acquired(&member.fetch(1, 1, 1).await), [(4, 9, 1)]);
    assert!(member.fetch(2, 1, 2).await.responses.is_empty());
    let outcome = |answer: &ShareAcknowledgeResponse| answer.responses[0].partitions[0].error_code;
    assert_eq!(outcome(&member.acknowledge(3, 0, 1, 1).await), 0);
    assert_eq!(member.lag().await, (2, 8));
    // Done in the middle counts as well.
    assert_eq!(outcome(&member.acknowledge(4, 5, 5, 3).await), 0);
    assert_eq!(member.lag().await, (2, 7));
    assert_eq!(outcome(&member.acknowledge(5, 5, 6, 1).await), ErrorCode::InvalidRecordState.code());
    assert_eq!(outcome(&member.acknowledge(6, 6, 99, 1).await), ErrorCode::InvalidRequest.code());
    assert_eq!(outcome(&member.acknowledge(7, 7, 7, 4).await), 0);
    assert_eq!(outcome(&member.acknowledge(8, 3, 3, 2).await), 0);
    assert_eq!(acquired(&member.fetch(9, 9, 2).await), [(3, 3, 2)]);
    assert_eq!(outcome(&member.acknowledge(-1, 2, 2, 1).await), 0);
    assert_eq!(acquired(&member.fetch(0, 9, 2).await), [(3, 3, 3), (4, 4, 2), (6, 9, 2)]);
}

#[tokio::test]
async fn a_session_has_its_epochs_and_its_beginning() {
    let mut member = Member::open().await;
    let code = |code: ErrorCode| code.code();
    assert_eq!(member.fetch(1, 1, 2).await.error_code, code(ErrorCode::ShareSessionNotFound));
    assert_eq!(member.acknowledge(0, 0, 0, 1).await.error_code, code(ErrorCode::InvalidShareSessionEpoch));
    assert_eq!(member.acknowledge(-1, 0, 0, 1).await.error_code, code(ErrorCode::ShareSessionNotFound));
    assert_eq!(member.fetch(0, 1, 2).await.error_code, 0);
    assert_eq!(member.fetch(2, 1, 2).await.error_code, code(ErrorCode::InvalidShareSessionEpoch));
    assert_eq!(member.fetch(1, 1, 2).await.error_code, 0);
    // Nobody's group and nobody's topic.
    let mut nobody = ShareFetchRequest::default().with_group_id(None).with_max_records(1);
    assert_eq!(member.connection.call(&nobody, 2).await.error_code, code(ErrorCode::InvalidRequest));
    nobody = nobody.with_group_id(Some(text("h"))).with_member_id(Some(text("m")));
    let ids = [member.topic_id, Uuid::from_u128(9)];
    let asked = |id| FetchTopic::default().with_topic_id(id).with_partitions(vec![FetchPartition::default()]);
    let answer = member.connection.call(&nobody.with_topics(ids.map(asked).to_vec()), 2).await;
    for topic in &answer.responses {
        let known = topic.topic_id == member.topic_id;
        let expected = if known { ErrorCode::UnknownTopicOrPartition } else { ErrorCode::UnknownTopicId };
        assert_eq!(topic.partitions[0].error_code, expected.code());
    }
    assert_eq!(answer.responses.len(), 2);
}

#[tokio::test]
async fn brokers_elsewhere_initialize_write_read_and_delete_state() {
    let mut member = Member::open().await;
    let (group, topic_id) = (text("other"), member.topic_id);
    let connection = &mut member.connection;

    use initialize_share_group_state_request as init;
    let partition = init::PartitionData::default().with_state_epoch(3).with_start_offset(5);
    let data = init::InitializeStateData::default().with_topic_id(topic_id).with_partitions(vec![partition]);
    let initialize =
        InitializeShareGroupStateRequest::default().with_group_id(group.clone()).with_topics(vec![data]);
    assert_eq!(connection.call(&initialize, 0).await.results[0].partitions[0].error_code, 0);

    use write_share_group_state_request as written;
    for (version, leader_epoch, expected) in
        [(0, 2, ErrorCode::None), (1, 2, ErrorCode::None), (1, 1, ErrorCode::FencedLeaderEpoch)]
    {
        let batch = written::StateBatch::default()
            .with_first_offset(8)
            .with_last_offset(9)
            .with_delivery_state(2)
            .with_delivery_count(1);
        let mut partition = written::PartitionData::default()
            .with_state_epoch(3)
            .with_leader_epoch(leader_epoch)
            .with_start_offset(6)
            .with_state_batches(vec![batch]);
        if version >= 1 {
            partition.delivery_complete_count = 2;
        }
        let data =
            written::WriteStateData::default().with_topic_id(topic_id).with_partitions(vec![partition]);
        let write =
            WriteShareGroupStateRequest::default().with_group_id(group.clone()).with_topics(vec![data]);
        let answer = connection.call(&write, version).await;
        assert_eq!(answer.results[0].partitions[0].error_code, expected.code());
    }

    use read_share_group_state_summary_request as summary;
    let partition = summary::PartitionData::default().with_leader_epoch(2);
    let data =
        summary::ReadStateSummaryData::default().with_topic_id(topic_id).with_partitions(vec![partition]);
    let summarize =
        ReadShareGroupStateSummaryRequest::default().with_group_id(group.clone()).with_topics(vec![data]);
    for version in 0..=1 {
        let answer = connection.call(&summarize, version).await;
        let partition = &answer.results[0].partitions[0];
        assert_eq!((partition.state_epoch, partition.start_offset), (3, 6));
        assert_eq!(partition.delivery_complete_count, if version >= 1 { 2 } else { -1 });
    }

    use read_share_group_state_request as state;
    let partition = state::PartitionData::default().with_leader_epoch(4);
    let data = state::ReadStateData::default().with_topic_id(topic_id).with_partitions(vec![partition]);
    let read = ReadShareGroupStateRequest::default().with_group_id(group.clone()).with_topics(vec![data]);
    let answer = connection.call(&read, 0).await;
    let batches = &answer.results[0].partitions[0].state_batches;
    assert_eq!((batches[0].first_offset, batches[0].last_offset, batches[0].delivery_state), (8, 9, 2));

    use delete_share_group_state_request as gone;
    let partition = vec![gone::PartitionData::default()];
    let data = gone::DeleteStateData::default().with_topic_id(topic_id).with_partitions(partition);
    let delete = DeleteShareGroupStateRequest::default().with_group_id(group).with_topics(vec![data]);
    assert_eq!(connection.call(&delete, 0).await.results[0].partitions[0].error_code, 0);
    let answer = connection.call(&read, 0).await;
    assert_eq!(answer.results[0].partitions[0].error_code, ErrorCode::InvalidRequest.code());
}
