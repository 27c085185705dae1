//! Describing the cluster.

use std::time::Duration;

use kafka_client::{Client, Target};
use kafka_wire::messages::{DescribeClusterRequest, DescribeClusterResponse};

use crate::AdminError;
use crate::driver::{Effect, Refusal, drive_one};
use crate::operation::operation;

/// The cluster and its brokers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterDescription {
    /// The cluster's id.
    pub cluster_id: String,
    /// The broker that takes administrative requests; `None` while there is none. On KRaft clusters any broker may be
    /// named here: each hands such requests on.
    pub controller: Option<i32>,
    /// The brokers, by number.
    pub brokers: Vec<BrokerDescription>,
}

/// A broker of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokerDescription {
    /// Its number, `node.id`.
    pub id: i32,
    /// Where it listens for clients.
    pub host: String,
    /// The port it listens on.
    pub port: u16,
    /// Its rack, if it has one.
    pub rack: Option<String>,
    /// Whether the controller keeps it from serving (KIP-1073).
    pub is_fenced: bool,
}

/// See [`Admin::describe_cluster`](crate::Admin::describe_cluster).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct DescribeCluster {
    client: Client,
    timeout: Duration,
}

operation!(DescribeCluster => ClusterDescription);

impl DescribeCluster {
    pub(crate) fn new(client: Client, timeout: Duration) -> Self {
        Self { client, timeout }
    }

    async fn run(self) -> Result<ClusterDescription, AdminError> {
        drive_one(&self.client, Effect::Read, self.timeout, |remaining| {
            let request = DescribeClusterRequest::default();
            let answer = self.client.request(request).to(Target::Any).timeout(remaining);
            async move {
                let cluster = answer.await?;
                Ok(Refusal::check(cluster.error_code, cluster.error_message.clone()).map(|()| cluster.into()))
            }
        })
        .await
    }
}

impl From<DescribeClusterResponse> for ClusterDescription {
    fn from(cluster: DescribeClusterResponse) -> Self {
        let mut brokers: Vec<_> = cluster
            .brokers
            .into_iter()
            .map(|broker| BrokerDescription {
                id: broker.broker_id.0,
                host: broker.host.to_string(),
                port: u16::try_from(broker.port).unwrap_or_default(),
                rack: broker.rack.map(|rack| rack.to_string()),
                is_fenced: broker.is_fenced,
            })
            .collect();
        brokers.sort_by_key(|broker| broker.id);
        Self {
            cluster_id: cluster.cluster_id.to_string(),
            controller: Some(cluster.controller_id.0).filter(|&id| id >= 0),
            brokers,
        }
    }
}
