//! Asking groups' coordinators.

use std::collections::HashSet;
use std::future::Future;
use std::time::Duration;

use futures::{StreamExt, stream};
use kafka_client::{Client, RequestError, Target, TopicPartition};
use kafka_wire::messages::{BrokerId, FindCoordinatorRequest, GroupId, TopicName};
use kafka_wire::{ErrorCode, Request, StrBytes};
use tokio::time::Instant;

use crate::driver::{Answers, Effect, Key, Refusal, drive};
use crate::{AdminError, ItemResults, Resource};

/// How many groups are asked about at the same time, each with requests of its own: enough to hide round trips, and
/// thousands of groups do not flood a connection.
const GROUPS_AT_ONCE: usize = 32;

/// From version 4 one request may ask about several groups; up to here it has one key at its top.
const ONE_KEY: i16 = 3;

/// A group's id as a key of results.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Group(String);

impl Key for Group {
    fn resource(&self) -> Resource {
        Resource::Group(self.0.clone())
    }
}

/// A group's coordinator, and the time left to ask it.
#[derive(Debug)]
pub(super) struct Coordinator {
    client: Client,
    pub(super) node: i32,
    deadline: Instant,
}

impl Coordinator {
    pub(super) async fn ask<R>(&self, request: R) -> Result<R::Response, RequestError>
    where
        R: Request + Send + Sync + 'static,
        R::Response: Send,
    {
        self.ask_up_to(request, i16::MAX).await
    }

    /// As [`ask`](Self::ask), in no version above the given one.
    pub(super) async fn ask_up_to<R>(&self, request: R, version: i16) -> Result<R::Response, RequestError>
    where
        R: Request + Send + Sync + 'static,
        R::Response: Send,
    {
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        let request = self.client.request(request).to(Target::Broker(self.node));
        request.max_version(version).timeout(remaining).await
    }
}

/// Who coordinates a group, asked anew each time: an administrator asks rarely.
async fn find(
    client: &Client,
    group: &str,
    timeout: Duration,
) -> Result<Result<Coordinator, Refusal>, RequestError> {
    let deadline = Instant::now() + timeout;
    let request = FindCoordinatorRequest::default().with_key(StrBytes::from_string(group.to_owned()));
    let request = client.request(request).to(Target::Any).timeout(timeout).max_version(ONE_KEY);
    let answer = match request.await {
        Ok(answer) => answer,
        // Nothing has been changed yet, whatever the operation is.
        Err(error) if error.is_retriable() && error.possibly_written() => {
            return Ok(Err(ErrorCode::CoordinatorNotAvailable.into()));
        }
        Err(error) => return Err(error),
    };
    let BrokerId(node) = answer.node_id;
    let found = Refusal::check(answer.error_code, answer.error_message);
    Ok(found.map(|()| Coordinator { client: client.clone(), node, deadline }))
}

/// Asks a group's coordinator until it gives an answer that lasts.
pub(super) async fn ask_coordinator<V, F, Fut>(
    client: &Client,
    group: &str,
    effect: Effect,
    timeout: Duration,
    ask: F,
) -> Result<V, AdminError>
where
    F: Fn(Coordinator) -> Fut,
    Fut: Future<Output = Result<Result<V, Refusal>, RequestError>>,
{
    let ask = &ask;
    let results = drive(client, [Group(group.to_owned())], effect, timeout, |groups, remaining| async move {
        let result = match find(client, group, remaining).await? {
            Ok(coordinator) => ask(coordinator).await?,
            Err(refusal) => Err(refusal),
        };
        Ok(groups.into_iter().zip([result]).collect())
    });
    match results.await?.into_iter().next() {
        Some((_, result)) => result,
        None => Err(AdminError::Missing { resource: Resource::Group(group.to_owned()) }),
    }
}

/// Asks each group's coordinator about its group.
pub(super) async fn ask_each<V, F, Fut>(
    client: &Client,
    groups: Vec<String>,
    effect: Effect,
    timeout: Duration,
    ask: F,
) -> Result<ItemResults<String, V>, AdminError>
where
    F: Fn(Coordinator, String) -> Fut,
    Fut: Future<Output = Result<Result<V, Refusal>, RequestError>>,
{
    let deadline = Instant::now() + timeout;
    let mut seen = HashSet::new();
    let distinct = groups.into_iter().filter(|group| seen.insert(group.clone()));
    let ask = &ask;
    let results = stream::iter(distinct).map(|group| async move {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let ask = |coordinator| ask(coordinator, group.clone());
        let result = ask_coordinator(client, &group, effect, remaining, ask).await;
        (group, result)
    });
    ItemResults::if_anybody_answered(results.buffered(GROUPS_AT_ONCE).collect().await)
}

/// Asks a group's coordinator about items of the group, with one request for those that are open.
pub(super) async fn ask_about<K, V, R>(
    client: &Client,
    group: &str,
    items: impl IntoIterator<Item = K>,
    effect: Effect,
    timeout: Duration,
    request: impl Fn(&[K]) -> R,
    read: impl Fn(R::Response) -> Result<Answers<K, V>, Refusal>,
) -> Result<ItemResults<K, V>, AdminError>
where
    K: Key,
    R: Request + Send + Sync + 'static,
    R::Response: Send,
{
    let (request, read) = (&request, &read);
    drive(client, items, effect, timeout, |open, remaining| async move {
        let answers = match find(client, group, remaining).await? {
            Ok(coordinator) => read(coordinator.ask(request(&open)).await?),
            Err(refusal) => Err(refusal),
        };
        answers.or_else(|refusal| {
            let refusal = refusal.of(Resource::Group(group.to_owned()));
            Ok(open.into_iter().map(|item| (item, Err(refusal.clone()))).collect())
        })
    })
    .await
}

pub(super) fn group_id(id: &str) -> GroupId {
    GroupId(StrBytes::from_string(id.to_owned()))
}

/// The partitions of one topic, as descriptions list them.
pub(super) fn partitions_of(name: &TopicName, partitions: &[i32]) -> impl Iterator<Item = TopicPartition> {
    let name: std::sync::Arc<str> = std::sync::Arc::from(name.as_str());
    partitions.iter().map(move |&partition| TopicPartition::new(name.clone(), partition))
}
