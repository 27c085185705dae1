use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_client::wire::ErrorCode;
use kafka_client::wire::StrBytes;
use kafka_client::wire::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_client::wire::messages::{CreateTopicsRequest, TopicName};
use kafka_client::{Client, Target, TopicPartition};

use super::widths::widths;
use crate::config::StreamsConfig;
use crate::error::{StreamsError, TaskId};
use crate::topology::{StoreKind, TopicRef, Topology, changelog_topic};

/// How often the cluster is asked whether new topics have leaders, and how long between.
const LEADER_CHECKS: usize = 100;
const LEADER_CHECK_PAUSE: Duration = Duration::from_millis(100);
const CREATE_TIMEOUT_MS: i32 = 30_000;

/// Repartition topics lose records by DeleteRecords, never by time; small segments make that prompt.
const REPARTITION_CONFIG: &[(&str, &str)] =
    &[("cleanup.policy", "delete"), ("retention.ms", "-1"), ("segment.bytes", "52428800")];
/// Clocks differ: changelogs of windows keep records longer than stores do
/// (`windowstore.changelog.additional.retention.ms`, 1 day).
const ADDITIONAL_RETENTION_MS: i64 = 24 * 60 * 60 * 1000;

/// As Java configures changelogs (`InternalTopicConfig`): windows expire, and the rows of joins have no latest one.
fn changelog_config(kind: StoreKind) -> Vec<(&'static str, String)> {
    let expiring = |policy: &str, retention: i64| {
        let retention = retention.saturating_add(ADDITIONAL_RETENTION_MS);
        vec![("cleanup.policy", policy.to_owned()), ("retention.ms", retention.to_string())]
    };
    match kind {
        StoreKind::KeyValue => vec![("cleanup.policy", "compact".to_owned())],
        // What the history needs must not be compacted.
        StoreKind::Versioned { history_ms } => {
            let lag = history_ms.saturating_add(ADDITIONAL_RETENTION_MS);
            vec![("cleanup.policy", "compact".to_owned()), ("min.compaction.lag.ms", lag.to_string())]
        }
        StoreKind::Window { retention_ms, retain_duplicates: true, .. } => expiring("delete", retention_ms),
        StoreKind::Window { retention_ms, .. } | StoreKind::Session { retention_ms } => {
            expiring("compact,delete", retention_ms)
        }
    }
}

/// Which topics the topology has on the cluster, and whose they are.
pub(super) struct Layout {
    /// Every source topic and the sub-topology that reads it.
    sources: BTreeMap<Arc<str>, usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct InternalTopic {
    name: Arc<str>,
    partitions: i32,
    configs: Vec<(&'static str, String)>,
}

impl Layout {
    pub(super) fn source_topics(&self) -> Vec<Arc<str>> {
        self.sources.keys().cloned().collect()
    }

    pub(super) fn task_of(&self, partition: &TopicPartition) -> Option<TaskId> {
        let subtopology = *self.sources.get(&partition.topic)?;
        Some(TaskId { subtopology, partition: partition.partition })
    }

    fn new(topology: &Topology, application_id: &str) -> Self {
        let subtopologies = &topology.inner.subtopologies;
        let sources = subtopologies
            .iter()
            .flat_map(|sub| sub.source_topics.iter().map(|topic| (topic.resolve(application_id), sub.id)))
            .collect();
        Self { sources }
    }

    /// Checks the source topics, and creates the internal ones that do not exist.
    pub(super) async fn prepare(
        client: &Client,
        topology: &Topology,
        config: &StreamsConfig,
    ) -> Result<Self, StreamsError> {
        let sources = topology.source_topics();
        let cluster =
            client.refresh_topics(&sources).await.map_err(|error| failed("reading metadata", &error))?;
        let mut counts = BTreeMap::new();
        for topic in sources {
            match cluster.partition_count(&topic).and_then(|count| i32::try_from(count).ok()) {
                Some(count) if count > 0 => counts.insert(TopicRef::External(topic), count),
                _ => return Err(StreamsError::MissingSourceTopic { topic }),
            };
        }
        let wanted = internal_topics(topology, &config.application_id, counts)?;
        let names: Vec<_> = wanted.iter().map(|topic| Arc::clone(&topic.name)).collect();
        if names.is_empty() {
            return Ok(Self::new(topology, &config.application_id));
        }
        let cluster =
            client.refresh_topics(&names).await.map_err(|error| failed("reading metadata", &error))?;
        let missing: Vec<_> =
            wanted.iter().filter(|topic| cluster.partition_count(&topic.name).is_none()).collect();
        if !missing.is_empty() {
            create(client, &missing, config.replication_factor).await?;
        }
        await_leaders(client, &wanted, &names).await?;
        Ok(Self::new(topology, &config.application_id))
    }
}

/// What the topology needs beside the user's topics.
fn internal_topics(
    topology: &Topology,
    application_id: &str,
    counts: BTreeMap<TopicRef, i32>,
) -> Result<Vec<InternalTopic>, StreamsError> {
    let inner = &topology.inner;
    let counts = widths(inner, counts)?;
    let repartitions = inner.graph.repartitions.iter().map(|spec| {
        let topic = TopicRef::Internal(Arc::clone(&spec.name));
        let partitions = counts.get(&topic).copied().unwrap_or(1);
        let configs = REPARTITION_CONFIG.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        InternalTopic { name: topic.resolve(application_id), partitions, configs }
    });
    let logged = |name: &String| {
        let mut stores = inner.graph.stores.iter();
        stores.find(|store| store.name == **name && store.logged && store.changelog.is_none())
    };
    let changelogs = inner.subtopologies.iter().flat_map(|sub| {
        let partitions =
            sub.source_topics.iter().filter_map(|topic| counts.get(topic)).max().copied().unwrap_or(1);
        sub.stores.iter().filter_map(logged).map(move |store| InternalTopic {
            name: changelog_topic(application_id, &store.name),
            partitions,
            configs: changelog_config(store.kind),
        })
    });
    Ok(repartitions.chain(changelogs).collect())
}

fn failed(operation: &str, error: &dyn std::fmt::Display) -> StreamsError {
    StreamsError::Cluster { operation: operation.to_owned(), reason: error.to_string() }
}

async fn create(
    client: &Client,
    topics: &[&InternalTopic],
    replication_factor: i16,
) -> Result<(), StreamsError> {
    let text = |text: &str| StrBytes::from_string(text.to_owned());
    let creatable = topics.iter().map(|topic| {
        let configs = topic.configs.iter().map(|(name, value)| {
            CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
        });
        CreatableTopic::default()
            .with_name(TopicName(text(&topic.name)))
            .with_num_partitions(topic.partitions)
            .with_replication_factor(replication_factor)
            .with_configs(configs.collect())
    });
    let request =
        CreateTopicsRequest::default().with_topics(creatable.collect()).with_timeout_ms(CREATE_TIMEOUT_MS);
    let response = client
        .request(request)
        .to(Target::Controller)
        .await
        .map_err(|error| failed("creating internal topics", &error))?;
    for topic in response.topics {
        let code = ErrorCode::from(topic.error_code);
        // Another member of the group was first.
        if code != ErrorCode::None && code != ErrorCode::TopicAlreadyExists {
            let detail = topic.error_message.as_deref().unwrap_or_default();
            return Err(failed(
                &format!("creating topic {}", topic.name.as_str()),
                &format!("{code}: {detail}"),
            ));
        }
    }
    Ok(())
}

async fn await_leaders(
    client: &Client,
    wanted: &[InternalTopic],
    names: &[Arc<str>],
) -> Result<(), StreamsError> {
    for _ in 0..LEADER_CHECKS {
        let cluster =
            client.refresh_topics(names).await.map_err(|error| failed("reading metadata", &error))?;
        let mut ready = true;
        for topic in wanted {
            let Some(known) = cluster.topic(&topic.name) else {
                ready = false;
                continue;
            };
            let actual = i32::try_from(known.partitions.len()).unwrap_or(i32::MAX);
            if actual != topic.partitions {
                let (topic, expected) = (Arc::clone(&topic.name), topic.partitions);
                return Err(StreamsError::InternalTopicPartitions { topic, expected, actual });
            }
            ready &= known.partitions.iter().all(|partition| partition.leader.is_some());
        }
        if ready {
            return Ok(());
        }
        tokio::time::sleep(LEADER_CHECK_PAUSE).await;
    }
    Err(failed("creating internal topics", &"no leader for some of their partitions"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Grouped, Store, StreamsBuilder};

    #[test]
    fn a_repartition_topic_is_as_wide_as_was_asked() {
        let builder = StreamsBuilder::new();
        let wide = crate::Repartitioned::<String, String>::auto().named("wide").partitions(7);
        let _ =
            builder.stream("in").repartition(wide).group_by_key(Grouped::auto()).count(Store::kv("counts"));
        let counts = [(TopicRef::External(Arc::from("in")), 2)];
        let topics = internal_topics(&builder.build().unwrap(), "app", counts.into()).unwrap();
        let topics: Vec<_> = topics.iter().map(|topic| (&*topic.name, topic.partitions)).collect();
        assert_eq!(topics, [("app-wide-repartition", 7), ("app-counts-changelog", 7)]);
    }

    #[test]
    fn internal_topics_are_as_wide_as_what_feeds_them() {
        let builder = StreamsBuilder::new();
        let lines = builder.stream::<String, String>("narrow").merge(builder.stream("wide"));
        let counts = lines.group_by("first", |_, v| v.clone()).count(Store::kv("counts"));
        let again = counts.to_stream().map(|k, _| (k.len() as i64, k)).group_by_key(Grouped::auto());
        let _ = again.count(Store::kv("lengths").without_changelog());
        let topology = builder.build().unwrap();
        let counts = [("narrow", 2), ("wide", 5)];
        let counts = counts.map(|(topic, count)| (TopicRef::External(Arc::from(topic)), count));
        let topics: Vec<_> = internal_topics(&topology, "app", counts.into())
            .unwrap()
            .into_iter()
            .map(|topic| (topic.name.to_string(), topic.partitions))
            .collect();
        let expected = ["app-first-repartition", "app-lengths-repartition", "app-counts-changelog"];
        assert_eq!(topics, expected.map(|name| (name.to_owned(), 5)));
    }
}
