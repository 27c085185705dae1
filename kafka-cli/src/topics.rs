//! `kafka topics list|create|delete|describe`

use clap::{Args, Subcommand};
use kafka_admin::configs::ConfigEntry;
use kafka_admin::topics::{PartitionDescription, TopicListing};
use kafka_admin::{ConfigResource, NewTopic, TopicDescription};
use kafka_client::wire::ErrorCode;
use serde::Serialize;

use crate::args::key_value;
use crate::connection::AdminOptions;
use crate::failure::{Failure, with_causes};
use crate::outcome::{Outcome, report};
use crate::output::{Table, list, note, print_json};

/// List, create, delete and describe topics
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    List(List),
    Create(Create),
    Delete(Delete),
    Describe(Describe),
}

/// List the cluster's topics
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kafka topics list
  kafka topics list --internal --json")]
pub(crate) struct List {
    /// List Kafka's own topics too, such as __consumer_offsets
    #[arg(long)]
    internal: bool,

    #[command(flatten)]
    common: AdminOptions,
}

/// Create topics
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kafka topics create orders --partitions 6
  kafka topics create users --config cleanup.policy=compact --config segment.ms=60000
  kafka topics create orders payments --replication-factor 3 --if-not-exists")]
pub(crate) struct Create {
    /// The topics' names
    #[arg(value_name = "TOPIC", required = true)]
    names: Vec<String>,

    /// How many partitions each has; default: the cluster's num.partitions
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,

    /// On how many brokers each partition is kept; default: the cluster's default.replication.factor
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i16).range(1..))]
    replication_factor: Option<i16>,

    /// A configuration of the topics, such as retention.ms=3600000; repeatable
    #[arg(long = "config", value_name = "KEY=VALUE", value_parser = key_value)]
    configs: Vec<(String, String)>,

    /// A topic that exists already is no error
    #[arg(long)]
    if_not_exists: bool,

    /// Only ask whether the topics could be created
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    common: AdminOptions,
}

/// Delete topics with all their records
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kafka topics delete orders
  kafka topics delete orders payments --if-exists")]
pub(crate) struct Delete {
    /// The topics' names
    #[arg(value_name = "TOPIC", required = true)]
    names: Vec<String>,

    /// A topic that does not exist is no error
    #[arg(long)]
    if_exists: bool,

    #[command(flatten)]
    common: AdminOptions,
}

/// Show topics with their partitions and what is configured
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kafka topics describe orders
  kafka topics describe --json          every topic")]
pub(crate) struct Describe {
    /// The topics' names; default: every topic but Kafka's own
    #[arg(value_name = "TOPIC")]
    names: Vec<String>,

    #[command(flatten)]
    common: AdminOptions,
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::List(args) => args.run().await,
        Command::Create(args) => args.run().await,
        Command::Delete(args) => args.run().await,
        Command::Describe(args) => args.run().await,
    }
}

#[derive(Debug, Serialize)]
struct Listed<'a> {
    name: &'a str,
    id: Option<String>,
    partitions: usize,
    replication_factor: usize,
    internal: bool,
}

impl<'a> From<&'a TopicListing> for Listed<'a> {
    fn from(topic: &'a TopicListing) -> Self {
        Self {
            name: &topic.name,
            id: topic.id.map(topic_id),
            partitions: topic.partitions,
            replication_factor: topic.replication_factor,
            internal: topic.is_internal,
        }
    }
}

impl List {
    async fn run(self) -> Result<(), Failure> {
        let admin = self.common.admin().await?;
        let topics = admin.list_topics().include_internal(self.internal).await?;
        if self.common.json {
            return topics.iter().try_for_each(|topic| print_json(&Listed::from(topic)));
        }
        if topics.is_empty() {
            note("no topics");
            return Ok(());
        }
        let mut table = Table::new(&["topic", "#partitions", "#replicas"]);
        for topic in topics {
            table.row([topic.name, topic.partitions.to_string(), topic.replication_factor.to_string()]);
        }
        table.print()
    }
}

impl Create {
    async fn run(self) -> Result<(), Failure> {
        let admin = self.common.admin().await?;
        let topics = self.names.iter().map(|name| {
            NewTopic::new(name, self.partitions.unwrap_or(-1), self.replication_factor.unwrap_or(-1))
                .configs(self.configs.clone())
        });
        let results = admin.create_topics(topics).validate_only(self.dry_run).await?;
        let done = if self.dry_run { "valid" } else { "created" };
        report(
            results.iter().map(|(name, result)| (name.as_str(), result)),
            self.common.json,
            |name, result| match result {
                Ok(created) => Outcome {
                    id: created.id.map(topic_id),
                    partitions: created.partitions,
                    replication_factor: created.replication_factor,
                    ..Outcome::new(name, done)
                },
                Err(error) if self.if_not_exists && error.code() == Some(ErrorCode::TopicAlreadyExists) => {
                    Outcome::new(name, "exists")
                }
                Err(error) => Outcome::failed(name, error),
            },
        )
    }
}

impl Delete {
    async fn run(self) -> Result<(), Failure> {
        let admin = self.common.admin().await?;
        let results = admin.delete_topics(self.names).await?;
        report(
            results.iter().map(|(name, result)| (name.as_str(), result)),
            self.common.json,
            |name, result| match result {
                Ok(()) => Outcome::new(name, "deleted"),
                Err(error) if self.if_exists && error.code() == Some(ErrorCode::UnknownTopicOrPartition) => {
                    Outcome::new(name, "missing")
                }
                Err(error) => Outcome::failed(name, error),
            },
        )
    }
}

#[derive(Debug, Serialize)]
struct Described<'a> {
    name: &'a str,
    id: Option<String>,
    internal: bool,
    partitions: Vec<DescribedPartition<'a>>,
    /// What is not Kafka's default.
    configs: std::collections::BTreeMap<&'a str, Option<&'a str>>,
}

#[derive(Debug, Serialize)]
struct DescribedPartition<'a> {
    partition: i32,
    leader: Option<i32>,
    leader_epoch: i32,
    replicas: &'a [i32],
    isr: &'a [i32],
    offline_replicas: &'a [i32],
}

impl<'a> From<&'a PartitionDescription> for DescribedPartition<'a> {
    fn from(partition: &'a PartitionDescription) -> Self {
        Self {
            partition: partition.partition,
            leader: partition.leader,
            leader_epoch: partition.leader_epoch,
            replicas: &partition.replicas,
            isr: &partition.isr,
            offline_replicas: &partition.offline_replicas,
        }
    }
}

impl Describe {
    async fn run(self) -> Result<(), Failure> {
        let admin = self.common.admin().await?;
        let names = match self.names.is_empty() {
            true => admin.list_topics().await?.into_iter().map(|topic| topic.name).collect(),
            false => self.names,
        };
        let mut failures = Vec::new();
        let mut topics = Vec::new();
        for (_, result) in admin.describe_topics(names).await? {
            match result {
                Ok(topic) => topics.push(topic),
                Err(error) => failures.push(with_causes(&error)),
            }
        }
        let resources = topics.iter().map(|topic| ConfigResource::Topic(topic.name.clone()));
        let configs = admin.describe_configs(resources).await?;
        for (at, topic) in topics.iter().enumerate() {
            let configs = match configs.get(&ConfigResource::Topic(topic.name.clone())) {
                Some(Ok(entries)) => entries.as_slice(),
                // Describing a topic needs less permission than describing its configuration.
                _ => &[],
            };
            match self.common.json {
                true => print_json(&as_json(topic, configs))?,
                false => print_described(topic, configs, at > 0)?,
            }
        }
        Failure::all(failures)
    }
}

fn as_json<'a>(topic: &'a TopicDescription, configs: &'a [ConfigEntry]) -> Described<'a> {
    Described {
        name: &topic.name,
        id: topic.id.map(topic_id),
        internal: topic.is_internal,
        partitions: topic.partitions.iter().map(Into::into).collect(),
        configs: configs
            .iter()
            .filter(|entry| !entry.is_default())
            .map(|entry| (entry.name.as_str(), entry.value.as_deref()))
            .collect(),
    }
}

fn print_described(topic: &TopicDescription, configs: &[ConfigEntry], gap: bool) -> Result<(), Failure> {
    use std::io::Write;
    let mut text = if gap { "\n".to_owned() } else { String::new() };
    let internal = if topic.is_internal { ", one of Kafka's own" } else { "" };
    let id = topic.id.map(|id| format!(", id {}", topic_id(id))).unwrap_or_default();
    text.push_str(&format!("{}: {} partitions{id}{internal}\n", topic.name, topic.partitions.len()));
    for entry in configs.iter().filter(|entry| !entry.is_default()) {
        let value = entry.value.as_deref().unwrap_or("(hidden)");
        text.push_str(&format!("  {}={value}\n", entry.name));
    }
    std::io::stdout().lock().write_all(text.as_bytes())?;
    let mut table = Table::new(&["#partition", "#leader", "#epoch", "replicas", "in sync", "offline"]);
    for partition in &topic.partitions {
        table.row([
            partition.partition.to_string(),
            partition.leader.map_or_else(|| "none".to_owned(), |id| id.to_string()),
            partition.leader_epoch.to_string(),
            list(&partition.replicas),
            list(&partition.isr),
            list(&partition.offline_replicas),
        ]);
    }
    table.print()
}

/// A topic's id as Kafka's tools print it: URL-safe base64 without padding.
fn topic_id(id: kafka_client::wire::Uuid) -> String {
    crate::format::base64(id.as_bytes(), crate::format::URL_SAFE).trim_end_matches('=').to_owned()
}

#[cfg(test)]
mod tests {
    use kafka_client::wire::Uuid;

    use super::*;

    #[test]
    fn ids_look_like_kafkas() {
        // Kafka's Uuid.ZERO_UUID and Uuid.ONE_UUID.
        assert_eq!(topic_id(Uuid::nil()), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(topic_id(Uuid::from_u128(1)), "AAAAAAAAAAAAAAAAAAAAAQ");
    }
}
