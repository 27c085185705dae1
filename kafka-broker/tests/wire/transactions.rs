//! Transactions over the wire: what is aborted is told, what is open is not readable, offsets count with the marker.

use std::path::Path;
use std::time::Duration;

use kafka_broker::Broker;
use kafka_wire::ErrorCode;
use kafka_wire::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use kafka_wire::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_wire::messages::fetch_response::PartitionData;
use kafka_wire::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_wire::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_wire::messages::*;
use kafka_wire::record_batch::{RecordBatch, Seal};

use crate::connection::{Connection, sealed, text, topic};

/// The last version of Produce that adds no partition by itself, and the first that does.
const EXPLICIT: i16 = 11;
const IMPLICIT: i16 = 12;
/// The last version of EndTxn that leaves the epoch alone, and the first that bumps it.
const END_V1: i16 = 4;
const END_V2: i16 = 5;

/// A transactional producer by hand.
struct Txn {
    connection: Connection,
    id: &'static str,
    producer_id: i64,
    epoch: i16,
    sequence: i32,
}

impl Txn {
    async fn open(broker: &Broker, id: &'static str) -> Self {
        let mut txn =
            Self { connection: Connection::open(broker).await, id, producer_id: -1, epoch: -1, sequence: 0 };
        txn.find().await;
        txn.init(60_000).await;
        txn
    }

    /// Makes the coordinators' topic if need be.
    async fn find(&mut self) {
        let request =
            FindCoordinatorRequest::default().with_key_type(1).with_coordinator_keys(vec![text(self.id)]);
        assert_eq!(self.connection.call(&request, 4).await.coordinators[0].error_code, 0);
    }

    fn transactional_id(&self) -> TransactionalId {
        TransactionalId(text(self.id))
    }

    async fn try_init(&mut self, timeout_ms: i32) -> InitProducerIdResponse {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(self.transactional_id()))
            .with_transaction_timeout_ms(timeout_ms)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        self.connection.call(&request, 5).await
    }

    /// Comes back for as long as an earlier transaction is being ended.
    async fn init(&mut self, timeout_ms: i32) {
        loop {
            let answer = self.try_init(timeout_ms).await;
            match ErrorCode::from(answer.error_code) {
                ErrorCode::None => {
                    (self.producer_id, self.epoch) = (answer.producer_id.0, answer.producer_epoch);
                    self.sequence = 0;
                    return;
                }
                ErrorCode::ConcurrentTransactions => tokio::time::sleep(Duration::from_millis(1)).await,
                other => panic!("{other}"),
            }
        }
    }

    async fn add(&mut self, name: &str, partitions: &[i32]) -> ErrorCode {
        let added =
            AddPartitionsToTxnTopic::default().with_name(topic(name)).with_partitions(partitions.to_vec());
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(self.transactional_id())
            .with_v3_and_below_producer_id(ProducerId(self.producer_id))
            .with_v3_and_below_producer_epoch(self.epoch)
            .with_v3_and_below_topics(vec![added]);
        loop {
            let answer = self.connection.call(&request, 3).await;
            let code = answer.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code;
            match ErrorCode::from(code) {
                ErrorCode::ConcurrentTransactions => tokio::time::sleep(Duration::from_millis(1)).await,
                code => return code,
            }
        }
    }

    /// Writes; comes back for as long as an earlier transaction is being ended.
    async fn produce(&mut self, name: &str, values: &[&str], version: i16) -> ErrorCode {
        let mut seal = Seal::idempotent(self.producer_id, self.epoch, self.sequence);
        seal.transactional = true;
        let data = PartitionProduceData::default().with_records(Some(sealed(values, &seal)));
        let data = TopicProduceData::default().with_name(topic(name)).with_partition_data(vec![data]);
        let request = ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(5000)
            .with_transactional_id(Some(self.transactional_id()))
            .with_topic_data(vec![data]);
        loop {
            let answer = self.connection.call(&request, version).await;
            match ErrorCode::from(answer.responses[0].partition_responses[0].error_code) {
                ErrorCode::ConcurrentTransactions | ErrorCode::NotEnoughReplicas => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                ErrorCode::None => {
                    self.sequence += values.len() as i32;
                    return ErrorCode::None;
                }
                code => return code,
            }
        }
    }

    async fn try_end(&mut self, is_commit: bool, version: i16) -> EndTxnResponse {
        let request = EndTxnRequest::default()
            .with_transactional_id(self.transactional_id())
            .with_producer_id(ProducerId(self.producer_id))
            .with_producer_epoch(self.epoch)
            .with_committed(is_commit);
        loop {
            let answer = self.connection.call(&request, version).await;
            match ErrorCode::from(answer.error_code) {
                ErrorCode::ConcurrentTransactions => tokio::time::sleep(Duration::from_millis(1)).await,
                _ => return answer,
            }
        }
    }

    async fn end(&mut self, is_commit: bool, version: i16) -> ErrorCode {
        let answer = self.try_end(is_commit, version).await;
        if answer.error_code == 0 && version >= END_V2 {
            (self.producer_id, self.epoch) = (answer.producer_id.0, answer.producer_epoch);
            self.sequence = 0;
        }
        ErrorCode::from(answer.error_code)
    }

    async fn commit_offset(&mut self, group: &str, name: &str, offset: i64) -> ErrorCode {
        let partition = TxnOffsetCommitRequestPartition::default().with_committed_offset(offset);
        let topic =
            TxnOffsetCommitRequestTopic::default().with_name(topic(name)).with_partitions(vec![partition]);
        let request = TxnOffsetCommitRequest::default()
            .with_transactional_id(self.transactional_id())
            .with_group_id(GroupId(text(group)))
            .with_producer_id(ProducerId(self.producer_id))
            .with_producer_epoch(self.epoch)
            .with_generation_id(-1)
            .with_topics(vec![topic]);
        loop {
            let answer = self.connection.call(&request, 5).await;
            match ErrorCode::from(answer.topics[0].partitions[0].error_code) {
                ErrorCode::ConcurrentTransactions => tokio::time::sleep(Duration::from_millis(1)).await,
                code => return code,
            }
        }
    }

    /// The offset of partition 0 that the group has on record, or why it is not told.
    async fn committed_offset(&mut self, group: &str, name: &str, stable: bool) -> Result<i64, ErrorCode> {
        let topics =
            OffsetFetchRequestTopics::default().with_name(topic(name)).with_partition_indexes(vec![0]);
        let group = OffsetFetchRequestGroup::default()
            .with_group_id(GroupId(text(group)))
            .with_topics(Some(vec![topics]));
        let request = OffsetFetchRequest::default().with_groups(vec![group]).with_require_stable(stable);
        let answer = self.connection.call(&request, 8).await;
        let partition = &answer.groups[0].topics[0].partitions[0];
        match ErrorCode::from(partition.error_code) {
            ErrorCode::None => Ok(partition.committed_offset),
            code => Err(code),
        }
    }

    async fn read(&mut self, name: &str, is_committed: bool) -> PartitionData {
        let partition = FetchPartition::default().with_partition_max_bytes(1 << 20);
        let topic = FetchTopic::default().with_topic(topic(name)).with_partitions(vec![partition]);
        let request = FetchRequest::default()
            .with_max_bytes(i32::MAX)
            .with_isolation_level(is_committed.into())
            .with_topics(vec![topic]);
        self.connection.call(&request, 12).await.responses[0].partitions[0].clone()
    }

    /// What a reader of committed records sees, once the last stable offset is `end`.
    async fn committed(&mut self, name: &str, end: i64) -> Vec<String> {
        loop {
            let read = self.read(name, true).await;
            if read.last_stable_offset == end {
                return visible(&read);
            }
            assert!(read.last_stable_offset < end, "{read:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn latest(&mut self, name: &str, is_committed: bool) -> i64 {
        let partition = ListOffsetsPartition::default().with_current_leader_epoch(-1).with_timestamp(-1);
        let topic = ListOffsetsTopic::default().with_name(topic(name)).with_partitions(vec![partition]);
        let request = ListOffsetsRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_isolation_level(is_committed.into())
            .with_topics(vec![topic]);
        self.connection.call(&request, 7).await.topics[0].partitions[0].offset
    }

    async fn state(&mut self) -> String {
        let request =
            DescribeTransactionsRequest::default().with_transactional_ids(vec![self.transactional_id()]);
        let answer = self.connection.call(&request, 0).await;
        assert_eq!(answer.transaction_states[0].error_code, 0);
        answer.transaction_states[0].transaction_state.to_string()
    }
}

/// The values of a fetch without what is aborted, as a consumer filters them.
fn visible(data: &PartitionData) -> Vec<String> {
    let aborted = data.aborted_transactions.clone().unwrap_or_default();
    let mut open = std::collections::BTreeSet::new();
    let mut values = Vec::new();
    for batch in RecordBatch::iter(data.records.clone().unwrap_or_default()) {
        let batch = batch.unwrap();
        for txn in aborted.iter().filter(|txn| txn.first_offset <= batch.last_offset()) {
            if txn.first_offset >= batch.base_offset() {
                open.insert(txn.producer_id.0);
            }
        }
        if batch.is_control() {
            open.remove(&batch.producer_id());
        } else if !open.contains(&batch.producer_id()) {
            let records = batch.records(1 << 20).unwrap();
            values.extend(records.map(|it| String::from_utf8(it.unwrap().value.unwrap().to_vec()).unwrap()));
        }
    }
    values
}

async fn start(partitions: i32) -> Broker {
    let broker = Broker::builder().start().await.unwrap();
    Connection::open(&broker).await.create_topic("t", partitions).await;
    broker
}

#[tokio::test]
async fn readers_of_committed_records_see_a_transaction_once_it_is_committed_and_never_an_aborted_one() {
    let broker = start(1).await;
    let mut txn = Txn::open(&broker, "a").await;
    assert_eq!(txn.add("t", &[0]).await, ErrorCode::None);
    assert_eq!(txn.produce("t", &["one", "two"], EXPLICIT).await, ErrorCode::None);
    let open = txn.read("t", true).await;
    assert_eq!((open.last_stable_offset, open.high_watermark), (0, 2));
    assert!(visible(&open).is_empty());
    assert_eq!(visible(&txn.read("t", false).await), ["one", "two"]);
    assert_eq!((txn.latest("t", true).await, txn.latest("t", false).await), (0, 2));
    assert_eq!(txn.end(true, END_V1).await, ErrorCode::None);
    assert_eq!(txn.committed("t", 3).await, ["one", "two"]);

    assert_eq!(txn.add("t", &[0]).await, ErrorCode::None);
    assert_eq!(txn.produce("t", &["three"], EXPLICIT).await, ErrorCode::None);
    assert_eq!(txn.end(false, END_V1).await, ErrorCode::None);
    assert_eq!(txn.committed("t", 5).await, ["one", "two"]);
    let aborted = txn.read("t", true).await.aborted_transactions.unwrap();
    assert_eq!(aborted.iter().map(|txn| txn.first_offset).collect::<Vec<_>>(), [3]);
    assert!(txn.read("t", false).await.aborted_transactions.is_none_or(|aborted| aborted.is_empty()));
    assert_eq!(txn.state().await, "CompleteAbort");
}

#[tokio::test]
async fn with_version_2_the_first_write_adds_its_partition_and_each_end_bumps_the_epoch() {
    let broker = start(1).await;
    let mut txn = Txn::open(&broker, "b").await;
    let first_epoch = txn.epoch;
    for (round, is_commit) in [(1, true), (2, false), (3, true)] {
        assert_eq!(txn.produce("t", &["x"], IMPLICIT).await, ErrorCode::None);
        let before = (txn.producer_id, txn.epoch);
        assert_eq!(txn.end(is_commit, END_V2).await, ErrorCode::None);
        assert_eq!(txn.epoch, first_epoch + round);
        // The answer was lost, the client asks again.
        let after = (txn.producer_id, txn.epoch);
        (txn.producer_id, txn.epoch) = before;
        assert_eq!(txn.end(is_commit, END_V2).await, ErrorCode::None);
        assert_eq!((txn.producer_id, txn.epoch), after);
    }
    assert_eq!(txn.committed("t", 6).await, ["x", "x"]);
    // An abort of nothing is an end as well; a commit of nothing is not.
    assert_eq!(txn.end(false, END_V2).await, ErrorCode::None);
    assert_eq!(txn.epoch, first_epoch + 4);
    assert_eq!(txn.end(true, END_V2).await, ErrorCode::InvalidTxnState);
}

#[tokio::test]
async fn a_write_to_a_partition_that_its_coordinator_does_not_know_of_is_refused() {
    let broker = start(2).await;
    let mut txn = Txn::open(&broker, "c").await;
    assert_eq!(txn.add("t", &[1]).await, ErrorCode::None);
    assert_eq!(txn.produce("t", &["x"], EXPLICIT).await, ErrorCode::TransactionAbortable);
    assert_eq!(txn.produce("t", &["x"], 9).await, ErrorCode::InvalidTxnState);
    assert_eq!(txn.add("t", &[7]).await, ErrorCode::UnknownTopicOrPartition);
    assert_eq!(txn.read("t", false).await.high_watermark, 0);
    let epoch = std::mem::replace(&mut txn.epoch, 9);
    assert_eq!(txn.add("t", &[0]).await, ErrorCode::ProducerFenced);
    txn.epoch = epoch;
    txn.producer_id += 1000;
    assert_eq!(txn.add("t", &[0]).await, ErrorCode::InvalidProducerIdMapping);
    assert_eq!(txn.end(true, END_V1).await, ErrorCode::InvalidProducerIdMapping);
    for timeout_ms in [0, -1, i32::MAX] {
        let answer = txn.try_init(timeout_ms).await;
        assert_eq!(ErrorCode::from(answer.error_code), ErrorCode::InvalidTransactionTimeout);
    }
}

#[tokio::test]
async fn verification_asks_for_many_transactions_at_once_and_adds_nothing() {
    let broker = start(2).await;
    let mut txn = Txn::open(&broker, "d").await;
    assert_eq!(txn.add("t", &[1]).await, ErrorCode::None);
    let asked = AddPartitionsToTxnTopic::default().with_name(topic("t")).with_partitions(vec![0, 1]);
    let transaction = AddPartitionsToTxnTransaction::default()
        .with_transactional_id(txn.transactional_id())
        .with_producer_id(ProducerId(txn.producer_id))
        .with_producer_epoch(txn.epoch)
        .with_verify_only(true)
        .with_topics(vec![asked]);
    let request = AddPartitionsToTxnRequest::default().with_transactions(vec![transaction]);
    let answer = txn.connection.call(&request, 4).await;
    let codes: Vec<_> = answer.results_by_transaction[0].topic_results[0]
        .results_by_partition
        .iter()
        .map(|result| ErrorCode::from(result.partition_error_code))
        .collect();
    assert_eq!(codes, [ErrorCode::TransactionAbortable, ErrorCode::None]);
}

#[tokio::test]
async fn a_new_holder_of_the_id_fences_the_old_one_and_aborts_what_it_left_open() {
    let broker = start(1).await;
    let mut old = Txn::open(&broker, "e").await;
    assert_eq!(old.produce("t", &["lost"], IMPLICIT).await, ErrorCode::None);
    let mut new = Txn::open(&broker, "e").await;
    assert_eq!(new.producer_id, old.producer_id);
    assert!(new.epoch > old.epoch);
    assert_eq!(new.committed("t", 2).await, Vec::<String>::new());
    assert_eq!(old.produce("t", &["late"], IMPLICIT).await, ErrorCode::InvalidProducerEpoch);
    assert_eq!(old.end(true, END_V2).await, ErrorCode::ProducerFenced);
    assert_eq!(new.produce("t", &["kept"], IMPLICIT).await, ErrorCode::None);
    assert_eq!(new.end(true, END_V2).await, ErrorCode::None);
    assert_eq!(new.committed("t", 4).await, ["kept"]);
}

#[tokio::test]
async fn offsets_that_a_transaction_commits_count_with_its_marker() {
    let broker = start(1).await;
    let mut txn = Txn::open(&broker, "f").await;
    let find = FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g")]);
    assert_eq!(txn.connection.call(&find, 4).await.coordinators[0].error_code, 0);
    for (is_commit, offset, expected) in [(false, 5, -1), (true, 7, 7), (false, 9, 7)] {
        assert_eq!(txn.commit_offset("g", "t", offset).await, ErrorCode::None);
        assert_eq!(txn.committed_offset("g", "t", true).await, Err(ErrorCode::UnstableOffsetCommit));
        assert_ne!(txn.committed_offset("g", "t", false).await, Ok(offset));
        assert_eq!(txn.end(is_commit, END_V2).await, ErrorCode::None);
        let settled = loop {
            match txn.committed_offset("g", "t", true).await {
                Err(ErrorCode::UnstableOffsetCommit) => tokio::time::sleep(Duration::from_millis(1)).await,
                settled => break settled,
            }
        };
        assert_eq!(settled, Ok(expected));
    }
}

#[tokio::test]
async fn a_transaction_that_is_open_for_too_long_is_aborted_and_its_producer_fenced() {
    let interval = "transaction.abort.timed.out.transaction.cleanup.interval.ms";
    let broker = Broker::builder().config(interval, "5").start().await.unwrap();
    Connection::open(&broker).await.create_topic("t", 1).await;
    let mut txn = Txn::open(&broker, "slow").await;
    txn.init(1).await;
    assert_eq!(txn.produce("t", &["lost"], IMPLICIT).await, ErrorCode::None);
    assert_eq!(txn.committed("t", 2).await, Vec::<String>::new());
    // As in Kafka: the epoch is the next one, so this could be the answer to an end that was lost, but not to this one.
    assert_eq!(txn.end(true, END_V2).await, ErrorCode::InvalidTxnState);
    assert_eq!(txn.produce("t", &["late"], IMPLICIT).await, ErrorCode::InvalidProducerEpoch);
    txn.init(60_000).await;
    assert_eq!(txn.produce("t", &["kept"], IMPLICIT).await, ErrorCode::None);
    assert_eq!(txn.end(true, END_V2).await, ErrorCode::None);
    assert_eq!(txn.committed("t", 4).await, ["kept"]);
}

async fn start_in(path: &Path) -> Broker {
    Broker::builder().data_dir(path).start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn open_transactions_and_pending_offsets_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start_in(dir.path()).await;
    Connection::open(&broker).await.create_topic("t", 1).await;
    let mut txn = Txn::open(&broker, "r").await;
    let find = FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g")]);
    txn.connection.call(&find, 4).await;
    assert_eq!(txn.produce("t", &["aborted"], IMPLICIT).await, ErrorCode::None);
    assert_eq!(txn.end(false, END_V2).await, ErrorCode::None);
    assert_eq!(txn.produce("t", &["before"], IMPLICIT).await, ErrorCode::None);
    assert_eq!(txn.commit_offset("g", "t", 3).await, ErrorCode::None);
    broker.shutdown().await;

    let broker = start_in(dir.path()).await;
    txn.connection = Connection::open(&broker).await;
    assert_eq!(txn.state().await, "Ongoing");
    let open = txn.read("t", true).await;
    assert_eq!((open.last_stable_offset, open.high_watermark), (2, 3));
    assert_eq!(txn.committed_offset("g", "t", true).await, Err(ErrorCode::UnstableOffsetCommit));
    assert_eq!(txn.produce("t", &["after"], IMPLICIT).await, ErrorCode::None);
    assert_eq!(txn.end(true, END_V2).await, ErrorCode::None);
    assert_eq!(txn.committed("t", 5).await, ["before", "after"]);
    broker.shutdown().await;

    let broker = start_in(dir.path()).await;
    txn.connection = Connection::open(&broker).await;
    assert_eq!(txn.committed("t", 5).await, ["before", "after"]);
    assert_eq!(txn.committed_offset("g", "t", true).await, Ok(3));
    assert_eq!(txn.state().await, "CompleteCommit");
    broker.shutdown().await;
}

#[tokio::test]
async fn transactions_are_listed_by_state_producer_duration_and_pattern() {
    let broker = start(1).await;
    let mut open = Txn::open(&broker, "open-1").await;
    assert_eq!(open.produce("t", &["x"], IMPLICIT).await, ErrorCode::None);
    let mut idle = Txn::open(&broker, "idle-1").await;
    let ids = |answer: ListTransactionsResponse| {
        let mut ids: Vec<_> =
            answer.transaction_states.iter().map(|it| it.transactional_id.0.to_string()).collect();
        ids.sort();
        ids
    };
    let all = ListTransactionsRequest::default().with_duration_filter(-1);
    let (open_id, idle_id) = (open.producer_id, idle.producer_id);
    for (request, expected) in [
        (all.clone(), &["idle-1", "open-1"][..]),
        (all.clone().with_state_filters(vec![text("Ongoing"), text("Nonsense")]), &["open-1"]),
        (all.clone().with_producer_id_filters(vec![ProducerId(idle_id)]), &["idle-1"]),
        (all.clone().with_duration_filter(3_600_000), &[]),
        (all.clone().with_transactional_id_pattern(Some(text("open-.*"))), &["open-1"]),
        (all.clone().with_transactional_id_pattern(Some(text("open"))), &[]),
    ] {
        assert_eq!(ids(idle.connection.call(&request, 2).await), expected, "{request:?}");
    }
    let unknown = idle.connection.call(&all.clone().with_state_filters(vec![text("Nonsense")]), 0).await;
    assert_eq!(unknown.unknown_state_filters, [text("Nonsense")]);
    let broken = all.with_transactional_id_pattern(Some(text("(")));
    let refused = idle.connection.call(&broken, 2).await;
    assert_eq!(ErrorCode::from(refused.error_code), ErrorCode::InvalidRegularExpression);

    let topics = describe_producers_request::TopicRequest::default()
        .with_name(topic("t"))
        .with_partition_indexes(vec![0]);
    let described =
        idle.connection.call(&DescribeProducersRequest::default().with_topics(vec![topics]), 0).await;
    let active = &described.topics[0].partitions[0].active_producers;
    assert_eq!(active.len(), 1);
    assert_eq!((active[0].producer_id.0, active[0].current_txn_start_offset), (open_id, 0));
}

#[tokio::test]
async fn a_hanging_transaction_is_ended_by_a_marker_from_outside() {
    let broker = start(1).await;
    let mut txn = Txn::open(&broker, "h").await;
    assert_eq!(txn.produce("t", &["x"], IMPLICIT).await, ErrorCode::None);
    let topics = write_txn_markers_request::WritableTxnMarkerTopic::default()
        .with_name(topic("t"))
        .with_partition_indexes(vec![0, 5]);
    let marker = write_txn_markers_request::WritableTxnMarker::default()
        .with_producer_id(ProducerId(txn.producer_id))
        .with_producer_epoch(txn.epoch)
        .with_coordinator_epoch(0)
        .with_topics(vec![topics]);
    let request = WriteTxnMarkersRequest::default().with_markers(vec![marker]);
    let answer = txn.connection.call(&request, 1).await;
    let codes: Vec<_> =
        answer.markers[0].topics[0].partitions.iter().map(|it| ErrorCode::from(it.error_code)).collect();
    assert_eq!(codes, [ErrorCode::None, ErrorCode::UnknownTopicOrPartition]);
    assert_eq!(txn.committed("t", 2).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_transaction_over_several_nodes_ends_on_all_of_them() {
    let broker = Broker::builder().nodes(3).start().await.unwrap();
    let mut control = Connection::open(&broker).await;
    control.create_topic("t", 3).await;
    let mut txn = Txn::open(&broker, "n").await;
    let find = FindCoordinatorRequest::default().with_key_type(1).with_coordinator_keys(vec![text("n")]);
    let coordinator = txn.connection.call(&find, 4).await.coordinators[0].node_id.0;
    txn.connection = Connection::open_to(&broker, coordinator).await;
    txn.init(60_000).await;
    assert_eq!(txn.add("t", &[0, 1, 2]).await, ErrorCode::None);
    let metadata = MetadataRequest::default().with_topics(Some(vec![
        metadata_request::MetadataRequestTopic::default().with_name(Some(topic("t"))),
    ]));
    let answer = control.call(&metadata, 12).await;
    let leader = answer.topics[0].partitions.iter().find(|it| it.partition_index == 0).unwrap().leader_id.0;
    let to_coordinator = std::mem::replace(&mut txn.connection, Connection::open_to(&broker, leader).await);
    assert_eq!(txn.produce("t", &["x"], EXPLICIT).await, ErrorCode::None);
    let to_leader = std::mem::replace(&mut txn.connection, to_coordinator);
    assert_eq!(txn.end(true, END_V1).await, ErrorCode::None);
    txn.connection = to_leader;
    assert_eq!(txn.committed("t", 2).await, ["x"]);
}
