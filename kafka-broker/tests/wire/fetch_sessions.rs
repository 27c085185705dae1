//! Fetch sessions (KIP-227) and reading from followers (KIP-392), frame by frame.

use kafka_broker::Broker;
use kafka_wire::ErrorCode;
use kafka_wire::Uuid;
use kafka_wire::messages::create_topics_request::CreatableTopic;
use kafka_wire::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kafka_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::messages::{BrokerId, CreateTopicsRequest, FetchRequest, FetchResponse, ProduceRequest};
use kafka_wire::record_batch::RecordBatch;

use crate::connection::{Connection, batch, text, topic};

const VERSIONS: [i16; 4] = [7, 12, 13, 18];

async fn produce(connection: &mut Connection, partition: i32, value: &str) {
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch(&[value])));
    let topic = TopicProduceData::default().with_name(topic("t")).with_partition_data(vec![data]);
    let request =
        ProduceRequest::default().with_acks(-1).with_timeout_ms(10_000).with_topic_data(vec![topic]);
    let answer = connection.call(&request, 9).await;
    assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
}

struct Reader {
    connection: Connection,
    version: i16,
    topic_id: Uuid,
    session: (i32, i32),
}

impl Reader {
    async fn fetch(&mut self, partitions: &[(i32, i64)], forgotten: &[i32]) -> FetchResponse {
        let asked = |&(index, offset)| {
            FetchPartition::default()
                .with_partition(index)
                .with_fetch_offset(offset)
                .with_partition_max_bytes(1 << 20)
        };
        let with_name = self.version < 13;
        let mut request = FetchRequest::default()
            .with_max_bytes(1 << 20)
            .with_session_id(self.session.0)
            .with_session_epoch(self.session.1);
        if !partitions.is_empty() {
            let mut named = FetchTopic::default().with_partitions(partitions.iter().map(asked).collect());
            match with_name {
                true => named.topic = topic("t"),
                false => named.topic_id = self.topic_id,
            }
            request.topics = vec![named];
        }
        if !forgotten.is_empty() {
            let mut named = ForgottenTopic::default().with_partitions(forgotten.to_vec());
            match with_name {
                true => named.topic = topic("t"),
                false => named.topic_id = self.topic_id,
            }
            request.forgotten_topics_data = vec![named];
        }
        self.connection.call(&request, self.version).await
    }

    /// Partitions in the answer and how many records each brought.
    async fn told(&mut self, partitions: &[(i32, i64)], forgotten: &[i32]) -> Vec<(i32, usize)> {
        let answer = self.fetch(partitions, forgotten).await;
        assert_eq!(answer.error_code, 0);
        self.session = (answer.session_id, self.session.1 + 1);
        let told = answer.responses.iter().flat_map(|topic| &topic.partitions);
        told.map(|it| {
            assert_eq!(it.error_code, 0);
            let records = it.records.clone().unwrap_or_default();
            (it.partition_index, RecordBatch::iter(records).count())
        })
        .collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_is_told_changes_only_in_every_version_that_has_sessions() {
    for version in VERSIONS {
        let broker = Broker::builder().start().await.unwrap();
        let mut writer = Connection::open(&broker).await;
        let topic_id = writer.create_topic("t", 3).await;
        produce(&mut writer, 1, "a").await;
        let connection = Connection::open(&broker).await;
        let mut reader = Reader { connection, version, topic_id, session: (0, 0) };
        assert_eq!(reader.told(&[(0, 0), (1, 0), (2, 0)], &[]).await, [(0, 0), (1, 1), (2, 0)], "v{version}");
        assert_ne!(reader.session.0, 0);
        assert_eq!(reader.told(&[(1, 1)], &[]).await, [], "v{version}");
        produce(&mut writer, 2, "b").await;
        produce(&mut writer, 0, "c").await;
        assert_eq!(reader.told(&[], &[0]).await, [(2, 1)], "v{version}");
        // Not moved on, so it comes again; but what was forgotten does not.
        assert_eq!(reader.told(&[], &[]).await, [(2, 1)], "v{version}");
        let good = reader.session;
        reader.session = (good.0, good.1 + 5);
        let refused = reader.fetch(&[], &[]).await;
        assert_eq!(refused.error_code, ErrorCode::InvalidFetchSessionEpoch.code());
        reader.session = (good.0, -1);
        assert_eq!(reader.fetch(&[], &[]).await.session_id, 0);
        reader.session = good;
        let refused = reader.fetch(&[], &[]).await;
        assert_eq!(refused.error_code, ErrorCode::FetchSessionIdNotFound.code());
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_hears_that_its_topic_was_made_anew() {
    let broker = Broker::builder().start().await.unwrap();
    let mut writer = Connection::open(&broker).await;
    let topic_id = writer.create_topic("t", 1).await;
    let connection = Connection::open(&broker).await;
    let mut reader = Reader { connection, version: 17, topic_id, session: (0, 0) };
    reader.told(&[(0, 0)], &[]).await;
    let delete = kafka_wire::messages::DeleteTopicsRequest::default().with_topic_names(vec![topic("t")]);
    writer.call(&delete, 5).await;
    writer.create_topic("t", 1).await;
    let answer = reader.fetch(&[], &[]).await;
    assert_eq!(answer.error_code, 0);
    let told = &answer.responses[0].partitions[0];
    assert_eq!(told.error_code, ErrorCode::UnknownTopicId.code());
}

#[tokio::test(start_paused = true)]
async fn a_consumer_in_a_followers_rack_is_sent_there_and_served_there() {
    let selector = "org.apache.kafka.common.replica.RackAwareReplicaSelector";
    let mut builder = Broker::builder().nodes(3).config("replica.selector.class", selector);
    for (node, rack) in [(1, "a"), (2, "b"), (3, "c")] {
        builder = builder.node_config(node, "broker.rack", rack);
    }
    let broker = builder.start().await.unwrap();
    let mut writer = Connection::open_to(&broker, 1).await;
    let new =
        CreatableTopic::default().with_name(topic("t")).with_num_partitions(1).with_replication_factor(2);
    writer.call(&CreateTopicsRequest::default().with_topics(vec![new]), 7).await;
    assert_eq!(broker.control().leader("t", 0).unwrap().replicas, [1, 2]);
    produce(&mut writer, 0, "a").await;
    produce(&mut writer, 0, "b").await;

    let fetch = async |node: i32, rack: &str, version: i16, offset: i64, wait_ms: i32| {
        let mut connection = Connection::open_to(&broker, node).await;
        let asked = FetchPartition::default()
            .with_fetch_offset(offset)
            .with_current_leader_epoch(0)
            .with_partition_max_bytes(1 << 20);
        let mut request = FetchRequest::default()
            .with_max_bytes(1 << 20)
            .with_min_bytes(1)
            .with_max_wait_ms(wait_ms)
            .with_topics(vec![FetchTopic::default().with_topic(topic("t")).with_partitions(vec![asked])]);
        if version >= 11 {
            request.rack_id = text(rack);
        }
        let answer = connection.call(&request, version).await;
        answer.responses[0].partitions[0].clone()
    };
    let sent = fetch(1, "b", 12, 0, 60_000).await;
    assert_eq!((sent.error_code, sent.preferred_read_replica), (0, BrokerId(2)));
    assert!(sent.records.is_none_or(|records| records.is_empty()));
    for (rack, why) in [("a", "the leader is near"), ("c", "no replica is near"), ("", "no rack")] {
        let served = fetch(1, rack, 12, 0, 0).await;
        assert_eq!(served.preferred_read_replica, BrokerId(-1), "{why}");
        assert!(!served.records.unwrap().is_empty(), "{why}");
    }
    // A follower serves what it knows to be committed, waits for more, and refuses clients that are too old.
    let (served, ()) = tokio::join!(fetch(2, "b", 12, 2, 60_000), async {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        produce(&mut writer, 0, "c").await;
    });
    assert_eq!((served.error_code, served.high_watermark), (0, 3));
    assert_eq!(RecordBatch::iter(served.records.unwrap()).count(), 1);
    assert_eq!(fetch(2, "b", 12, 9, 0).await.error_code, ErrorCode::OffsetOutOfRange.code());
    assert_eq!(fetch(2, "b", 10, 0, 0).await.error_code, ErrorCode::NotLeaderOrFollower.code());
    assert_eq!(fetch(3, "b", 12, 0, 0).await.error_code, ErrorCode::NotLeaderOrFollower.code());
}
