//! The shell of transactions: carries requests to the coordinators, and what becomes of a transaction to those who wait.

use std::collections::{BTreeMap, HashMap, VecDeque};

use kafka_wire::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_wire::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_wire::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, DescribeTransactionsRequest, EndTxnRequest, GroupId,
    InitProducerIdRequest, ProducerId, TransactionalId, TxnOffsetCommitRequest,
};
use kafka_wire::{ErrorCode, Request};
use tokio::sync::oneshot;

use super::super::batch::Identity;
use super::super::sender::Sender;
use super::super::transaction::core::{Ask, OffsetsJob, Previous, Reply, Told, Version};
use super::super::transaction::error::code_of;
use super::super::transaction::{CommitError, CommitOffsetsError, FatalError, GroupMetadata, Open, Outcome};
use super::{Commands, Event, Task};
use crate::TopicPartition;
use crate::client::Client;
use crate::cluster::CoordinatorKind;
use crate::consumer::OffsetAndMetadata;
use crate::net::{Call, Connection, RequestError};
use crate::topic_partition::{by_topic, string, topic_name};

/// The feature whose second level is KIP-890's protocol.
const TRANSACTION_VERSION: &str = "transaction.version";
/// The last versions of before KIP-890; the next ones add partitions by themselves, or bump the epoch.
const LAST_PRODUCE_V1: i16 = 11;
const LAST_END_V1: i16 = 4;
const LAST_OFFSETS_V1: i16 = 4;
/// From version 4 on one request may be of many transactions, as brokers send it to each other.
const LAST_ADD_PARTITIONS: i16 = 3;

type Ended = Result<Outcome, CommitError>;
type Offsets = Result<(), CommitOffsetsError>;

/// A transaction that begins.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) open: Open,
    pub(crate) serial: u64,
    pub(crate) previous: Option<Previous>,
}

#[derive(Debug)]
pub(super) enum TransactionCommand {
    Begin(oneshot::Sender<Result<Begun, FatalError>>),
    Offsets(GroupMetadata, BTreeMap<TopicPartition, OffsetAndMetadata>, oneshot::Sender<Offsets>),
    /// `counts`: not one of which nobody ever heard that it had begun.
    End {
        commit: bool,
        counts: bool,
        ended: oneshot::Sender<Ended>,
    },
}

impl TransactionCommand {
    pub(super) fn is_end(&self) -> bool {
        matches!(self, Self::End { .. })
    }
}

/// Who waits for what.
#[derive(Debug, Default)]
pub(super) struct Desk {
    begins: VecDeque<oneshot::Sender<Result<Begun, FatalError>>>,
    ends: Vec<oneshot::Sender<Ended>>,
    offsets: HashMap<u64, oneshot::Sender<Offsets>>,
    next_job: u64,
}

impl Commands {
    pub(in super::super) fn begin_transaction(&self) -> oneshot::Receiver<Result<Begun, FatalError>> {
        let (sender, receiver) = oneshot::channel();
        self.push(TransactionCommand::Begin(sender));
        receiver
    }

    pub(in super::super) fn commit_offsets(
        &self,
        group: GroupMetadata,
        offsets: BTreeMap<TopicPartition, OffsetAndMetadata>,
    ) -> oneshot::Receiver<Offsets> {
        let (sender, receiver) = oneshot::channel();
        self.push(TransactionCommand::Offsets(group, offsets, sender));
        receiver
    }

    pub(in super::super) fn end_transaction(&self, commit: bool, counts: bool) -> oneshot::Receiver<Ended> {
        let (ended, receiver) = oneshot::channel();
        self.push(TransactionCommand::End { commit, counts, ended });
        receiver
    }

    fn push(&self, command: TransactionCommand) {
        let mut transactions = self.transactions.lock();
        // Looked at under the lock, which `end` takes afterwards.
        if !self.ended.load(std::sync::atomic::Ordering::SeqCst) {
            transactions.push(command);
        }
    }

    pub(super) fn take_transactions(&self) -> Vec<TransactionCommand> {
        std::mem::take(&mut *self.transactions.lock())
    }
}

impl Sender {
    /// The latest version of Produce whose meaning for partitions of the transaction is the one that holds.
    pub(super) fn max_produce_version(&mut self) -> i16 {
        match self.transactions().map(|transactions| transactions.version()) {
            Some(Version::V1) => LAST_PRODUCE_V1,
            _ => i16::MAX,
        }
    }

    pub(super) fn speaks(&mut self, version: Option<Version>) {
        if let (Some(transactions), Some(version)) = (self.transactions(), version) {
            transactions.speaks(version);
        }
    }
}

impl Task {
    /// Takes what handles want. The batches of before are with the sender by now.
    pub(super) fn take_transactions(&mut self, commands: Vec<TransactionCommand>) {
        for command in commands {
            let Some(transactions) = self.sender.transactions() else { continue };
            match command {
                TransactionCommand::Begin(begun) => self.desk.begins.push_back(begun),
                TransactionCommand::Offsets(group, offsets, committed) => {
                    let number = self.desk.next_job;
                    self.desk.next_job += 1;
                    self.desk.offsets.insert(number, committed);
                    transactions.commit_offsets(OffsetsJob { number, group, offsets });
                }
                TransactionCommand::End { commit, counts, ended } => {
                    self.desk.ends.push(ended);
                    transactions.close(commit, counts);
                }
            }
        }
        self.next_transaction();
    }

    fn next_transaction(&mut self) {
        let Some(transactions) = self.sender.transactions() else { return };
        self.desk.begins.retain(|begun| !begun.is_closed());
        if self.desk.begins.is_empty() {
            transactions.not_wanted();
        } else if transactions.is_idle() {
            transactions.begin();
        }
    }

    /// Tells those who wait what became of it. Whether there was anything to tell.
    pub(super) fn tell_transactions(&mut self) -> bool {
        let Some(transactions) = self.sender.transactions() else { return false };
        let told: Vec<Told> = transactions.take_told().collect();
        let any = !told.is_empty();
        for told in told {
            match told {
                Told::Begun { serial, previous } => {
                    // Whoever stopped waiting drops the transaction, which aborts it.
                    let begun = Begun { open: Open::new(self.shared.clone()), serial, previous };
                    if let Some(waiting) = self.desk.begins.pop_front() {
                        drop(waiting.send(Ok(begun)));
                    }
                }
                Told::NotBegun(fatal) => {
                    self.desk.begins.drain(..).for_each(|begun| drop(begun.send(Err(fatal.clone()))));
                }
                Told::Offsets { number, result } => {
                    if let Some(committed) = self.desk.offsets.remove(&number) {
                        drop(committed.send(result));
                    }
                }
                Told::Ended(result) => {
                    self.desk.ends.drain(..).for_each(|ended| drop(ended.send(result.clone())));
                }
            }
        }
        if any {
            self.next_transaction();
        }
        any
    }

    pub(super) fn init_producer_id(&self, expected: Option<Identity>) {
        let (client, options) = (self.shared.client.clone(), &self.shared.options);
        let id = options.sender.transactional_id.clone();
        let timeout_ms = match id {
            Some(_) => i32::try_from(options.transaction_timeout.as_millis()).unwrap_or(i32::MAX),
            None => i32::MAX,
        };
        let (producer_id, epoch) = expected.map_or((-1, -1), |it| (it.producer_id, it.epoch));
        let request = InitProducerIdRequest::default()
            .with_transactional_id(id.as_deref().map(transactional_id))
            .with_transaction_timeout_ms(timeout_ms)
            .with_producer_id(ProducerId(producer_id))
            .with_producer_epoch(epoch);
        self.events.push(Box::pin(async move {
            let mut speaks = None;
            let answer = match &id {
                None => client.request(request).await,
                Some(id) => match client.coordinator_connection(CoordinatorKind::Transaction, id).await {
                    Ok(connection) => {
                        speaks = Some(version_of(&connection));
                        connection.request(&request, Call::within(client.request_timeout())).await
                    }
                    Err(error) => Err(error),
                },
            };
            let identity = match answer {
                Ok(answer) => ErrorCode::from(answer.error_code)
                    .into_result()
                    .map(|()| Identity { producer_id: answer.producer_id.0, epoch: answer.producer_epoch }),
                Err(error) => {
                    tracing::warn!(%error, "no producer id yet");
                    Err(refusal_of(&error).unwrap_or(ErrorCode::NetworkException))
                }
            };
            if let (Some(id), Err(code)) = (&id, &identity) {
                distrust(&client, CoordinatorKind::Transaction, id, *code);
            }
            Event::Identity(identity, speaks)
        }));
    }

    pub(super) fn coordinate(&self, ask: Ask, identity: Identity, version: Version) {
        let Some(id) = self.shared.options.sender.transactional_id.clone() else { return };
        let client = self.shared.client.clone();
        tracing::debug!(transactional_id = &*id, ?ask, ?identity, "transaction");
        self.events.push(Box::pin(async move {
            let (kind, key) = match &ask {
                Ask::CommitOffsets(job) => (CoordinatorKind::Group, job.group.group_id.clone()),
                _ => (CoordinatorKind::Transaction, id.to_string()),
            };
            let connection = match client.coordinator_connection(kind, &key).await {
                Ok(connection) => connection,
                Err(error) => {
                    tracing::debug!(%error, "no coordinator for the transaction");
                    let reply = match refusal_of(&error) {
                        Some(code) => Reply::Refused(code),
                        None => Reply::Unanswered,
                    };
                    client.forget_coordinator(kind, &key);
                    return Event::Coordinated(reply, None);
                }
            };
            let talk = Talk { connection, client: &client, id: &id, identity, version };
            let reply = match talk.put(ask).await {
                Ok(reply) => reply,
                Err(error) => {
                    tracing::debug!(%error, "the transaction's request has no answer");
                    match code_of(&error) {
                        Some(code) => Reply::Refused(code),
                        None => Reply::Unanswered,
                    }
                }
            };
            match reply {
                Reply::Refused(code) => distrust(&client, kind, &key, code),
                Reply::Unanswered => client.forget_coordinator(kind, &key),
                Reply::Done | Reply::Ended(_) => {}
            }
            // Only the transaction's own coordinator says what the next one speaks.
            let speaks = (kind == CoordinatorKind::Transaction).then(|| version_of(&talk.connection));
            Event::Coordinated(reply, speaks)
        }));
    }
}

/// One request to a coordinator.
struct Talk<'a> {
    connection: Connection,
    client: &'a Client,
    id: &'a str,
    identity: Identity,
    version: Version,
}

impl Talk<'_> {
    async fn call<R: Request>(&self, request: &R, last_v1: i16) -> Result<R::Response, RequestError> {
        let mut call = Call::within(self.client.request_timeout());
        if self.version == Version::V1 {
            call.max_version = last_v1;
        }
        self.connection.request(request, call).await
    }

    async fn put(&self, ask: Ask) -> Result<Reply, RequestError> {
        let Identity { producer_id, epoch } = self.identity;
        let (id, producer_id) = (transactional_id(self.id), ProducerId(producer_id));
        match ask {
            Ask::IsOver => {
                let request = DescribeTransactionsRequest::default().with_transactional_ids(vec![id]);
                let answer = self.call(&request, i16::MAX).await?;
                let Some(state) = answer.transaction_states.first() else { return Ok(Reply::Done) };
                Ok(match ErrorCode::from(state.error_code) {
                    ErrorCode::None if state.transaction_state.starts_with("Prepare") => {
                        Reply::Refused(ErrorCode::ConcurrentTransactions)
                    }
                    ErrorCode::None => Reply::Done,
                    code => Reply::Refused(code),
                })
            }
            Ask::AddPartitions(partitions) => {
                let topics = by_topic(partitions.into_iter().map(|it| (it, ())));
                let topics = topics.into_iter().map(|(name, partitions)| {
                    let partitions = partitions.into_iter().map(|(partition, ())| partition).collect();
                    AddPartitionsToTxnTopic::default()
                        .with_name(topic_name(&name))
                        .with_partitions(partitions)
                });
                let request = AddPartitionsToTxnRequest::default()
                    .with_v3_and_below_transactional_id(id)
                    .with_v3_and_below_producer_id(producer_id)
                    .with_v3_and_below_producer_epoch(epoch)
                    .with_v3_and_below_topics(topics.collect());
                let answer = self.call(&request, LAST_ADD_PARTITIONS).await?;
                let topics = answer.results_by_topic_v3_and_below.iter();
                let codes = topics.flat_map(|topic| {
                    topic.results_by_partition.iter().map(|partition| partition.partition_error_code)
                });
                Ok(worst(codes))
            }
            Ask::AddGroup(group) => {
                let request = AddOffsetsToTxnRequest::default()
                    .with_transactional_id(id)
                    .with_producer_id(producer_id)
                    .with_producer_epoch(epoch)
                    .with_group_id(GroupId(string(&group)));
                Ok(worst([self.call(&request, i16::MAX).await?.error_code]))
            }
            Ask::CommitOffsets(OffsetsJob { group, offsets, .. }) => {
                let topics = by_topic(offsets).into_iter().map(|(name, partitions)| {
                    let partitions = partitions.into_iter().map(|(index, at)| {
                        TxnOffsetCommitRequestPartition::default()
                            .with_partition_index(index)
                            .with_committed_offset(at.offset)
                            .with_committed_leader_epoch(at.leader_epoch.unwrap_or(-1))
                            .with_committed_metadata(Some(string(&at.metadata)))
                    });
                    TxnOffsetCommitRequestTopic::default()
                        .with_name(topic_name(&name))
                        .with_partitions(partitions.collect())
                });
                let request = TxnOffsetCommitRequest::default()
                    .with_transactional_id(id)
                    .with_group_id(GroupId(string(&group.group_id)))
                    .with_producer_id(producer_id)
                    .with_producer_epoch(epoch)
                    .with_generation_id(group.generation)
                    .with_member_id(string(&group.member_id))
                    .with_group_instance_id(group.instance_id.as_deref().map(string))
                    .with_topics(topics.collect());
                let answer = self.call(&request, LAST_OFFSETS_V1).await?;
                let topics = answer.topics.iter();
                let codes =
                    topics.flat_map(|topic| topic.partitions.iter().map(|partition| partition.error_code));
                Ok(worst(codes))
            }
            Ask::End { commit } => {
                let request = EndTxnRequest::default()
                    .with_transactional_id(id)
                    .with_producer_id(producer_id)
                    .with_producer_epoch(epoch)
                    .with_committed(commit);
                let answer = self.call(&request, LAST_END_V1).await?;
                let next = Identity { producer_id: answer.producer_id.0, epoch: answer.producer_epoch };
                Ok(match ErrorCode::from(answer.error_code) {
                    ErrorCode::None => {
                        Reply::Ended(Some(next).filter(|next| next.producer_id >= 0 && next.epoch >= 0))
                    }
                    code => Reply::Refused(code),
                })
            }
        }
    }
}

/// What an answer of many parts comes to. That a part was not looked at because of another one says nothing.
fn worst(codes: impl IntoIterator<Item = i16>) -> Reply {
    let refused = codes.into_iter().map(ErrorCode::from).filter(|code| !code.is_ok());
    let rank = |code: &ErrorCode| match code {
        ErrorCode::OperationNotAttempted => 0,
        code if code.is_retriable() => 1,
        _ => 2,
    };
    refused.max_by_key(rank).map_or(Reply::Done, Reply::Refused)
}

/// The protocol that the cluster speaks, as far as this coordinator has said.
fn version_of(connection: &Connection) -> Version {
    let speaks_v2 = connection.feature(TRANSACTION_VERSION) >= 2
        && connection.version_of::<EndTxnRequest>(i16::MAX).is_ok_and(|version| version > LAST_END_V1);
    if speaks_v2 { Version::V2 } else { Version::V1 }
}

/// Why there will be no answer, whoever is asked again.
fn refusal_of(error: &RequestError) -> Option<ErrorCode> {
    match error {
        RequestError::NoCoordinator { code, .. } if !code.is_retriable() => Some(*code),
        error => code_of(error),
    }
}

fn distrust(client: &Client, kind: CoordinatorKind, key: &str, code: ErrorCode) {
    if matches!(
        code,
        ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable | ErrorCode::NetworkException
    ) {
        client.forget_coordinator(kind, key);
    }
}

pub(super) fn transactional_id(id: &str) -> TransactionalId {
    TransactionalId(string(id))
}
