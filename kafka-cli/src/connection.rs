//! The options by which every command finds its cluster.

use std::time::Duration;

use clap::Args;
use kafka_admin::{Admin, TopicDescription};
use kafka_client::{Client, ClientBuilder, ConfigError, config::Properties, wire::ErrorCode};

use crate::args::{key_value, positive_duration};
use crate::failure::{Failure, with_causes};

/// Where the cluster is.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    /// Some of the cluster's brokers, separated by commas
    #[arg(short, long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092")]
    pub(crate) bootstrap_server: String,

    /// How long to look for a broker that answers, such as 10s or 500ms
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = positive_duration)]
    pub(crate) connect_timeout: Duration,

    /// A configuration of the client by Kafka's own key, such as client.id=me; repeatable
    #[arg(short = 'X', long = "property", value_name = "KEY=VALUE", value_parser = key_value)]
    properties: Vec<(String, String)>,
}

/// What every administrative command takes.
#[derive(Debug, Args)]
pub(crate) struct AdminOptions {
    /// Print JSON objects, one a line
    #[arg(long)]
    pub(crate) json: bool,

    /// How long the operation may take
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = positive_duration)]
    timeout: Duration,

    #[command(flatten)]
    connection: Connection,
}

impl AdminOptions {
    pub(crate) async fn admin(&self) -> Result<Admin, Failure> {
        Ok(Admin::new(self.connection.connect().await?).with_timeout(self.timeout))
    }
}

impl Connection {
    /// A client, after a broker answered.
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        let timeout = self.connect_timeout.as_millis().to_string();
        let defaults = Properties::new([
            ("bootstrap.servers", self.bootstrap_server.clone()),
            ("client.id", "kafka-cli".to_owned()),
            // How long the first question may take. Operations that take longer have time-outs of their own.
            ("default.api.timeout.ms", timeout.clone()),
            ("socket.connection.setup.timeout.ms", timeout),
        ]);
        let given = Properties::new(self.properties.iter().map(|(key, value)| (key, value.as_str())));
        let properties = given.map_err(bad_property)?.or(defaults.map_err(bad_property)?);
        let client = ClientBuilder::from_properties(properties)
            .and_then(ClientBuilder::build)
            .map_err(bad_property)?;
        match client.refresh_topics(std::iter::empty::<&str>()).await {
            Ok(_) => Ok(client),
            Err(error) => Err(Failure::failed(format!(
                "no Kafka broker answers at {}: {}\n  Start one with `kafka broker`, or name another with --bootstrap-server.",
                self.bootstrap_server,
                with_causes(&error),
            ))),
        }
    }
}

fn bad_property(error: ConfigError) -> Failure {
    match error {
        ConfigError::Address(error) => Failure::usage(format!("--bootstrap-server: {error}")),
        error => Failure::usage(format!("--property: {}", with_causes(&error))),
    }
}

/// A topic that must exist, or an error that says how to make it.
pub(crate) async fn existing_topic(admin: &Admin, topic: &str) -> Result<TopicDescription, Failure> {
    match find_topic(admin, topic).await? {
        Some(description) => Ok(description),
        None => Err(no_such_topic(topic)),
    }
}

pub(crate) fn no_such_topic(topic: &str) -> Failure {
    Failure::failed(format!(
        "topic {topic:?} does not exist\n  Create it with `kafka topics create {topic}`, or see `kafka topics list`."
    ))
}

/// A topic, if it exists.
pub(crate) async fn find_topic(admin: &Admin, topic: &str) -> Result<Option<TopicDescription>, Failure> {
    match admin.describe_topics([topic]).await?.into_iter().next() {
        Some((_, Ok(description))) => Ok(Some(description)),
        Some((_, Err(error))) if error.code() == Some(ErrorCode::UnknownTopicOrPartition) => Ok(None),
        Some((_, Err(error))) => Err(error.into()),
        None => Ok(None),
    }
}
