//! Short programs to copy from: `cargo run -p examples --bin 01_produce`, and so on in the order of their numbers.
//!
//! Each runs on an embedded broker of its own, or on the cluster that `KAFKA_BOOTSTRAP=host:port` names, and cleans up
//! behind itself. This file is the part that is not worth copying.

use std::error::Error;
use std::time::{SystemTime, UNIX_EPOCH};

use kafka_admin::{Admin, NewTopic};
use kafka_broker::Broker;
use kafka_client::Client;

/// Somewhere to run an example.
#[derive(Debug)]
pub struct Cluster {
    bootstrap_servers: String,
    broker: Option<Broker>,
    /// Distinguishes this run's topics and groups from those of other runs on the same cluster.
    suffix: String,
}

impl Cluster {
    /// The cluster at `KAFKA_BOOTSTRAP`; without it, a broker in this process that keeps its records in memory.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start() -> Result<Self, Box<dyn Error>> {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let suffix = format!("{:x}", since_1970.as_nanos());
        if let Ok(bootstrap_servers) = std::env::var("KAFKA_BOOTSTRAP") {
            return Ok(Self { bootstrap_servers, broker: None, suffix });
        }
        let broker = Broker::builder().start().await?;
        let bootstrap_servers = broker.bootstrap_servers();
        Ok(Self { bootstrap_servers, broker: Some(broker), suffix })
    }

    /// `host:port`: what your own program would have in its configuration.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// A name for a topic, a group or an application that no other run uses.
    pub fn unique(&self, name: &str) -> String {
        format!("{name}-{}", self.suffix)
    }

    /// Creates a topic with a [unique](Self::unique) name.
    ///
    /// # Errors
    /// The cluster cannot be reached or refuses.
    pub async fn topic(&self, name: &str, partitions: i32) -> Result<String, Box<dyn Error>> {
        let name = self.unique(name);
        let admin = Admin::new(Client::connect(&self.bootstrap_servers).await?);
        admin.create_topics([NewTopic::new(&name, partitions, 1)]).await?.all()?;
        Ok(name)
    }

    /// Stops the embedded broker; on any other cluster, deletes the topics whose names this run made unique.
    ///
    /// # Errors
    /// The cluster cannot be reached or refuses.
    pub async fn shutdown(self) -> Result<(), Box<dyn Error>> {
        if let Some(broker) = self.broker {
            broker.shutdown().await;
            return Ok(());
        }
        let admin = Admin::new(Client::connect(&self.bootstrap_servers).await?);
        let topics = admin.list_topics().await?.into_iter().map(|topic| topic.name);
        admin.delete_topics(topics.filter(|name| name.contains(&self.suffix))).await?.all()?;
        Ok(())
    }
}
