//! Asking each partition's leader: one request for each broker, whatever other leaders say.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future;
use kafka_client::{Client, Cluster, RequestError, Target, TopicPartition};
use kafka_wire::messages::TopicName;
use kafka_wire::{ErrorCode, Request, StrBytes};

use crate::driver::Answers;

/// Partitions, each with what is wanted of it.
pub(crate) type Wanted<T> = Vec<(TopicPartition, T)>;

/// Sends one request to each leader of the partitions, with metadata that is new.
///
/// Where `may_repeat` allows it, a leader that cannot be reached only makes its own partitions unavailable: another
/// broker may lead them by now, and the other leaders' answers stand.
pub(crate) async fn ask_leaders<T, R, V>(
    client: Client,
    wanted: Wanted<T>,
    timeout: Duration,
    request: impl Fn(&[(TopicPartition, T)]) -> R,
    may_repeat: impl Fn(&[(TopicPartition, T)], &RequestError) -> bool,
    read: impl Fn(R::Response) -> Answers<TopicPartition, V>,
) -> Result<Answers<TopicPartition, V>, RequestError>
where
    R: Request + Send + Sync + 'static,
    R::Response: Send,
{
    let mut topics: Vec<&str> = wanted.iter().map(|(partition, _)| partition.topic()).collect();
    topics.sort_unstable();
    topics.dedup();
    let cluster = match tokio::time::timeout(timeout, client.refresh_topics(topics)).await {
        Ok(cluster) => cluster?,
        Err(_) => return Err(RequestError::Timeout { waited: timeout, last: None }),
    };
    let (by_leader, mut answers) = route(&cluster, wanted);
    let requests = by_leader.into_iter().map(|(leader, wanted)| {
        let answer = client.request(request(&wanted)).to(Target::Broker(leader)).timeout(timeout);
        async move { (wanted, answer.await) }
    });
    for (wanted, answer) in future::join_all(requests).await {
        match answer {
            Ok(answer) => answers.extend(read(answer)),
            Err(error) if error.is_retriable() && may_repeat(&wanted, &error) => {
                let passing = |(partition, _)| (partition, Err(ErrorCode::LeaderNotAvailable.into()));
                answers.extend(wanted.into_iter().map(passing));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(answers)
}

/// Whom to ask about what; and the partitions that nobody can be asked about.
fn route<T, V>(
    cluster: &Cluster,
    wanted: Wanted<T>,
) -> (BTreeMap<i32, Wanted<T>>, Answers<TopicPartition, V>) {
    let mut by_leader: BTreeMap<i32, Wanted<T>> = BTreeMap::new();
    let mut refused = Vec::new();
    for (partition, wanted) in wanted {
        let known = cluster.partition(partition.topic(), partition.partition);
        match known.map(|known| known.leader) {
            Some(Some(leader)) => by_leader.entry(leader).or_default().push((partition, wanted)),
            Some(None) => refused.push((partition, Err(ErrorCode::LeaderNotAvailable.into()))),
            None => {
                let code = cluster.topic_error(partition.topic());
                let code = code.unwrap_or(ErrorCode::UnknownTopicOrPartition);
                refused.push((partition, Err(code.into())));
            }
        }
    }
    (by_leader, refused)
}

/// What requests ask for, by topic as they carry it: each topic once, in the order of names.
pub(crate) fn by_topic<'a, P>(
    partitions: impl IntoIterator<Item = (&'a TopicPartition, P)>,
) -> impl Iterator<Item = (TopicName, Vec<P>)> {
    let mut topics: BTreeMap<&str, Vec<P>> = BTreeMap::new();
    for (partition, asked) in partitions {
        topics.entry(partition.topic()).or_default().push(asked);
    }
    topics.into_iter().map(|(name, asked)| (TopicName(StrBytes::from_string(name.to_owned())), asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_metadata_does_not_know_is_refused_without_a_request() {
        let partition = TopicPartition::new("a", 0);
        let (by_leader, refused) = route::<_, ()>(&Cluster::default(), vec![(partition.clone(), ())]);
        assert!(by_leader.is_empty());
        assert_eq!(refused, [(partition, Err(ErrorCode::UnknownTopicOrPartition.into()))]);
    }
}
