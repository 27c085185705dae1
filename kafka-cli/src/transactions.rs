//! `kafka transactions list|describe|describe-producers|find-hanging|abort|fence`

use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use kafka_admin::transactions::{
    ActiveProducer, HangingTransaction, TransactionDescription, TransactionListing, TransactionState,
    TransactionToAbort,
};
use kafka_admin::{Admin, ItemResults};
use kafka_client::TopicPartition;
use serde::Serialize;

use crate::args::duration;
use crate::connection::AdminOptions;
use crate::failure::{Failure, with_causes};
use crate::groups::{partitions, plan};
use crate::outcome::{Outcome, report};
use crate::output::{Table, note, print_json, print_line};

/// List and describe transactions and their producers, and end what nobody else ends
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    List(List),
    Describe(Describe),
    DescribeProducers(DescribeProducers),
    FindHanging(FindHanging),
    Abort(Abort),
    Fence(Fence),
}

/// List the cluster's transactional ids
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kafka transactions list
  kafka transactions list --state ongoing --running-longer 5m
  kafka transactions list --pattern 'payments-.*' --json")]
pub(crate) struct List {
    /// Only ids in this state, such as ongoing or empty; repeatable
    #[arg(long = "state", value_name = "STATE")]
    states: Vec<TransactionState>,

    /// Only ids with this producer id; repeatable
    #[arg(long = "producer-id", value_name = "ID")]
    producer_ids: Vec<i64>,

    /// Only transactions that were begun longer ago, such as 30s or 5m
    #[arg(long, value_name = "TIME", value_parser = duration)]
    running_longer: Option<Duration>,

    /// Only ids that this regular expression matches as a whole
    #[arg(long, value_name = "REGEX")]
    pattern: Option<String>,

    #[command(flatten)]
    common: AdminOptions,
}

/// Show what coordinators know of transactional ids
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kafka transactions describe payments-1
  kafka transactions describe payments-1 payments-2 --json")]
pub(crate) struct Describe {
    /// The transactional ids
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,

    #[command(flatten)]
    common: AdminOptions,
}

/// Show the producers that partitions remember, with their open transactions
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kafka transactions describe-producers --topic orders
  kafka transactions describe-producers --topic orders:0,2 --broker 1")]
pub(crate) struct DescribeProducers {
    /// A topic, or some of its partitions as TOPIC:0,1; repeatable
    #[arg(long = "topic", value_name = "TOPIC", required = true, value_parser = plan::scope)]
    topics: Vec<plan::Scope>,

    /// Ask this broker's replicas; default: each partition's leader
    #[arg(long, value_name = "ID")]
    broker: Option<i32>,

    #[command(flatten)]
    common: AdminOptions,
}

/// Find transactions that are open in partitions and that no coordinator will end
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kafka transactions find-hanging
  kafka transactions find-hanging --topic orders --older-than 1h

Readers of committed records wait at such a transaction. `kafka transactions abort` ends it.")]
pub(crate) struct FindHanging {
    /// A topic, or some of its partitions as TOPIC:0,1; repeatable; default: every topic
    #[arg(long = "topic", value_name = "TOPIC", value_parser = plan::scope)]
    topics: Vec<plan::Scope>,

    /// Ask this broker's replicas; default: each partition's leader
    #[arg(long, value_name = "ID")]
    broker: Option<i32>,

    /// Only transactions without a record for so long; at least the cluster's transaction.max.timeout.ms
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = duration)]
    older_than: Duration,

    #[command(flatten)]
    common: AdminOptions,
}

/// Abort a hanging transaction in one partition, past its coordinator
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kafka transactions abort --topic orders --partition 0 --start-offset 1234
  kafka transactions abort --topic orders --partition 0 --producer-id 7 --producer-epoch 2

A transaction that its coordinator still knows would be half done: see `find-hanging`, and `fence`
for what is merely unwanted.")]
pub(crate) struct Abort {
    /// The topic
    #[arg(long)]
    topic: String,

    /// The partition's number
    #[arg(long, value_name = "N")]
    partition: i32,

    /// Where the transaction begins; its producer is looked up
    #[arg(
        long,
        value_name = "OFFSET",
        required_unless_present = "producer_id",
        conflicts_with = "producer_id"
    )]
    start_offset: Option<i64>,

    /// The producer's id
    #[arg(long, value_name = "ID", requires = "producer_epoch")]
    producer_id: Option<i64>,

    /// The producer's epoch
    #[arg(long, value_name = "EPOCH", requires = "producer_id")]
    producer_epoch: Option<i16>,

    /// The epoch of the transaction's coordinator
    #[arg(long, value_name = "EPOCH", default_value_t = 0, conflicts_with = "start_offset")]
    coordinator_epoch: i32,

    #[command(flatten)]
    common: AdminOptions,
}

/// Fence the producers of transactional ids and abort what they have open
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  kafka transactions fence payments-1 payments-2")]
pub(crate) struct Fence {
    /// The transactional ids
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,

    #[command(flatten)]
    common: AdminOptions,
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::List(args) => args.run().await,
        Command::Describe(args) => args.run().await,
        Command::DescribeProducers(args) => args.run().await,
        Command::FindHanging(args) => args.run().await,
        Command::Abort(args) => args.run().await,
        Command::Fence(args) => args.run().await,
    }
}

#[derive(Debug, Serialize)]
struct Listed<'a> {
    transactional_id: &'a str,
    coordinator: i32,
    producer_id: i64,
    state: &'a str,
}

impl<'a> From<&'a TransactionListing> for Listed<'a> {
    fn from(listing: &'a TransactionListing) -> Self {
        Self {
            transactional_id: &listing.transactional_id,
            coordinator: listing.coordinator,
            producer_id: listing.producer_id,
            state: listing.state.name(),
        }
    }
}

impl List {
    async fn run(self) -> Result<(), Failure> {
        let admin = self.common.admin().await?;
        let mut listed = admin.list_transactions().in_states(self.states).of_producers(self.producer_ids);
        if let Some(age) = self.running_longer {
            listed = listed.running_longer_than(age);
        }
        if let Some(pattern) = self.pattern {
            listed = listed.matching(pattern);
        }
        let listings = listed.await?;
        if self.common.json {
            return listings.iter().try_for_each(|listing| print_json(&Listed::from(listing)));
        }
        if listings.is_empty() {
            note("no transactions");
            return Ok(());
        }
        let mut table = Table::new(&["transactional id", "#coordinator", "#producer id", "state"]);
        for listing in listings {
            let TransactionListing { transactional_id, coordinator, producer_id, state, .. } = listing;
            table.row([
                transactional_id,
                coordinator.to_string(),
                producer_id.to_string(),
                state.to_string(),
            ]);
        }
        table.print()
    }
}

#[derive(Debug, Serialize)]
struct Described<'a> {
    transactional_id: &'a str,
    coordinator: i32,
    state: &'a str,
    producer_id: i64,
    producer_epoch: i16,
    transaction_timeout_ms: u128,
    started_ms: Option<u128>,
    partitions: Vec<String>,
}

impl<'a> Described<'a> {
    fn new(id: &'a str, it: &TransactionDescription) -> Self {
        let since_1970 = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).ok();
        Self {
            transactional_id: id,
            coordinator: it.coordinator,
            state: it.state.name(),
            producer_id: it.producer_id,
            producer_epoch: it.producer_epoch,
            transaction_timeout_ms: it.transaction_timeout.as_millis(),
            started_ms: it.started.and_then(since_1970).map(|since| since.as_millis()),
            partitions: it.partitions.iter().map(ToString::to_string).collect(),
        }
    }
}

impl Describe {
    async fn run(self) -> Result<(), Failure> {
        let admin = self.common.admin().await?;
        let mut failures = Vec::new();
        let mut gap = "";
        for (id, result) in admin.describe_transactions(self.ids).await? {
            match result {
                Err(error) => failures.push(with_causes(&error)),
                Ok(description) if self.common.json => print_json(&Described::new(&id, &description))?,
                Ok(description) => {
                    print_line(format!("{gap}{}", described(&id, &description, SystemTime::now())))?;
                    gap = "\n";
                }
            }
        }
        Failure::all(failures)
    }
}

fn described(id: &str, it: &TransactionDescription, now: SystemTime) -> String {
    let mut text = format!(
        "{id}: {}, coordinator {}, producer {} epoch {}, time-out {:?}",
        it.state, it.coordinator, it.producer_id, it.producer_epoch, it.transaction_timeout,
    );
    if let Some(age) = it.started.and_then(|started| now.duration_since(started).ok()) {
        text.push_str(&format!("\n  begun {} ago", age_text(age)));
    }
    for partition in &it.partitions {
        text.push_str(&format!("\n  {partition}"));
    }
    text
}

/// Whole seconds: nobody reads the rest.
fn age_text(age: Duration) -> String {
    format!("{:?}", Duration::from_secs(age.as_secs()))
}

/// A producer in a partition, for both commands that show some.
#[derive(Debug, Serialize)]
struct Producing<'a> {
    topic: &'a str,
    partition: i32,
    producer_id: i64,
    producer_epoch: i32,
    coordinator_epoch: Option<i32>,
    last_sequence: i32,
    last_timestamp_ms: i64,
    transaction_start_offset: Option<i64>,
}

impl<'a> Producing<'a> {
    fn new(partition: &'a TopicPartition, producer: &ActiveProducer) -> Self {
        Self {
            topic: partition.topic(),
            partition: partition.partition,
            producer_id: producer.producer_id,
            producer_epoch: producer.producer_epoch,
            coordinator_epoch: producer.coordinator_epoch,
            last_sequence: producer.last_sequence,
            last_timestamp_ms: producer.last_timestamp_ms,
            transaction_start_offset: producer.transaction_start_offset,
        }
    }

    fn row(&self) -> [String; 8] {
        let known = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        [
            self.topic.to_owned(),
            self.partition.to_string(),
            self.producer_id.to_string(),
            self.producer_epoch.to_string(),
            known(self.coordinator_epoch.map(i64::from)),
            self.last_sequence.to_string(),
            self.last_timestamp_ms.to_string(),
            known(self.transaction_start_offset),
        ]
    }
}

/// Prints producers, if there are any.
fn print_producers(producers: &[Producing<'_>], json: bool, none: &str) -> Result<(), Failure> {
    if json {
        return producers.iter().try_for_each(print_json);
    }
    if producers.is_empty() {
        note(none);
        return Ok(());
    }
    let mut table = Table::new(&[
        "topic",
        "#partition",
        "#producer id",
        "#epoch",
        "#coordinator epoch",
        "#last sequence",
        "#last timestamp",
        "#start offset",
    ]);
    producers.iter().for_each(|producer| table.row(producer.row()));
    table.print()
}

impl DescribeProducers {
    async fn run(self) -> Result<(), Failure> {
        let admin = self.common.admin().await?;
        let operation = admin.describe_producers(partitions(&admin, self.topics).await?);
        let results = match self.broker {
            Some(id) => operation.on_broker(id).await?,
            None => operation.await?,
        };
        let producers: Vec<Producing<'_>> = results
            .iter()
            .filter_map(|(partition, result)| Some((partition, result.as_ref().ok()?)))
            .flat_map(|(partition, found)| found.iter().map(|it| Producing::new(partition, it)))
            .collect();
        print_producers(&producers, self.common.json, "no producers")?;
        Failure::all(failures(&results))
    }
}

impl FindHanging {
    async fn run(self) -> Result<(), Failure> {
        let admin = self.common.admin().await?;
        let scope = match self.topics.is_empty() {
            true => every_partition(&admin).await?,
            false => partitions(&admin, self.topics).await?,
        };
        let operation = admin.find_hanging_transactions(scope).older_than(self.older_than);
        let results = match self.broker {
            Some(id) => operation.on_broker(id).await?,
            None => operation.await?,
        };
        let hanging: Vec<Producing<'_>> = results
            .iter()
            .filter_map(|(_, result)| result.as_ref().ok())
            .flatten()
            .map(|HangingTransaction { partition, producer, .. }| Producing::new(partition, producer))
            .collect();
        print_producers(&hanging, self.common.json, "no hanging transactions")?;
        Failure::all(failures(&results))
    }
}

/// Why partitions could not be described.
fn failures<V>(results: &ItemResults<TopicPartition, V>) -> Vec<String> {
    results.iter().filter_map(|(_, result)| result.as_ref().err()).map(|error| with_causes(error)).collect()
}

async fn every_partition(admin: &Admin) -> Result<Vec<TopicPartition>, Failure> {
    let topics = admin.list_topics().include_internal(true).await?;
    let partitions = topics.iter().flat_map(|topic| {
        let count = i32::try_from(topic.partitions).unwrap_or(i32::MAX);
        (0..count).map(|number| TopicPartition::new(topic.name.as_str(), number))
    });
    Ok(partitions.collect())
}

impl Abort {
    async fn run(self) -> Result<(), Failure> {
        let admin = self.common.admin().await?;
        let partition = TopicPartition::new(self.topic.as_str(), self.partition);
        let transaction = match (self.start_offset, self.producer_id, self.producer_epoch) {
            (Some(offset), _, _) => at_offset(&admin, partition.clone(), offset).await?,
            (None, Some(id), Some(epoch)) => TransactionToAbort::new(partition.clone(), id, epoch)
                .coordinator_epoch(self.coordinator_epoch),
            (None, _, _) => {
                return Err(Failure::usage("name --start-offset, or --producer-id and its epoch"));
            }
        };
        let aborted = admin.abort_transaction(transaction).await;
        let name = partition.to_string();
        report([(name.as_str(), &aborted)], self.common.json, Outcome::or_failed("aborted"))
    }
}

/// The transaction that begins at an offset.
async fn at_offset(
    admin: &Admin,
    partition: TopicPartition,
    offset: i64,
) -> Result<TransactionToAbort, Failure> {
    let described = admin.describe_producers([partition.clone()]).await?.all()?;
    let mut producers = described.iter().flat_map(|(_, producers)| producers);
    let found = producers.find(|producer| producer.transaction_start_offset == Some(offset));
    found.and_then(|producer| TransactionToAbort::of(partition.clone(), producer)).ok_or_else(|| {
        Failure::failed(format!(
            "no transaction that begins at offset {offset} is open in {partition}\n  `kafka transactions describe-producers --topic {}:{}` shows those that are.",
            partition.topic(),
            partition.partition,
        ))
    })
}

impl Fence {
    async fn run(self) -> Result<(), Failure> {
        let admin = self.common.admin().await?;
        let results = admin.fence_producers(self.ids).await?;
        let results = results.iter().map(|(id, result)| (id.as_str(), result));
        report(results, self.common.json, Outcome::or_failed("fenced"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn producers_without_a_transaction_or_an_ended_one_have_dashes() {
        let at = TopicPartition::new("orders", 2);
        let producing = Producing {
            topic: at.topic(),
            partition: at.partition,
            producer_id: 7,
            producer_epoch: 1,
            coordinator_epoch: None,
            last_sequence: 9,
            last_timestamp_ms: 1000,
            transaction_start_offset: Some(5),
        };
        assert_eq!(producing.row(), ["orders", "2", "7", "1", "-", "9", "1000", "5"]);
    }

    #[test]
    fn ages_are_whole_seconds() {
        assert_eq!(age_text(Duration::from_millis(61_999)), "61s");
    }
}
