//! Asking the coordinators of groups and transactions.

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

/// How many ids are asked about at the same time, each with requests of its own: enough to hide round trips, and
/// thousands of groups do not flood a connection.
const IDS_AT_ONCE: usize = 32;

/// From version 4 one request may ask about several ids; up to here it has one key at its top.
const ONE_KEY: i16 = 3;

/// What is coordinated, with its number in requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Coordinates {
    Group = 0,
    Transaction = 1,
}

impl Coordinates {
    fn resource(self, id: &str) -> Resource {
        match self {
            Self::Group => Resource::Group(id.to_owned()),
            Self::Transaction => Resource::Transaction(id.to_owned()),
        }
    }
}

/// An id as a key of results.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Id(Coordinates, String);

impl Key for Id {
    fn resource(&self) -> Resource {
        self.0.resource(&self.1)
    }
}

/// An id's coordinator, and the time left to ask it.
#[derive(Debug)]
pub(crate) struct Coordinator {
    client: Client,
    pub(crate) node: i32,
    deadline: Instant,
}

impl Coordinator {
    pub(crate) async fn ask<R>(&self, request: R) -> Result<R::Response, RequestError>
    where
        R: Request + Send + Sync + 'static,
        R::Response: Send,
    {
        self.ask_up_to(request, i16::MAX).await
    }

    /// As [`ask`](Self::ask), in no version above the given one.
    pub(crate) async fn ask_up_to<R>(&self, request: R, version: i16) -> Result<R::Response, RequestError>
    where
        R: Request + Send + Sync + 'static,
        R::Response: Send,
    {
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        let request = self.client.request(request).to(Target::Broker(self.node));
        request.max_version(version).timeout(remaining).await
    }
}

/// Who coordinates an id, asked anew each time: an administrator asks rarely.
async fn find(
    client: &Client,
    kind: Coordinates,
    id: &str,
    timeout: Duration,
) -> Result<Result<Coordinator, Refusal>, RequestError> {
    let deadline = Instant::now() + timeout;
    let request = FindCoordinatorRequest::default()
        .with_key_type(kind as i8)
        .with_key(StrBytes::from_string(id.to_owned()));
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

/// Asks an id's coordinator until it gives an answer that lasts.
pub(crate) async fn ask_coordinator<V, F, Fut>(
    client: &Client,
    kind: Coordinates,
    id: &str,
    effect: Effect,
    timeout: Duration,
    ask: F,
) -> Result<V, AdminError>
where
    F: Fn(Coordinator) -> Fut,
    Fut: Future<Output = Result<Result<V, Refusal>, RequestError>>,
{
    let ask = &ask;
    let results = drive(client, [Id(kind, id.to_owned())], effect, timeout, |ids, remaining| async move {
        let result = match find(client, kind, id, remaining).await? {
            Ok(coordinator) => ask(coordinator).await?,
            Err(refusal) => Err(refusal),
        };
        Ok(ids.into_iter().zip([result]).collect())
    });
    match results.await?.into_iter().next() {
        Some((_, result)) => result,
        None => Err(AdminError::Missing { resource: kind.resource(id) }),
    }
}

/// Asks each id's coordinator about its id.
pub(crate) async fn ask_each<V, F, Fut>(
    client: &Client,
    kind: Coordinates,
    ids: Vec<String>,
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
    let distinct = ids.into_iter().filter(|id| seen.insert(id.clone()));
    let ask = &ask;
    let results = stream::iter(distinct).map(|id| async move {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let ask = |coordinator| ask(coordinator, id.clone());
        let result = ask_coordinator(client, kind, &id, effect, remaining, ask).await;
        (id, result)
    });
    ItemResults::if_anybody_answered(results.buffered(IDS_AT_ONCE).collect().await)
}

/// Asks a group's coordinator about items of the group, with one request for those that are open.
pub(crate) async fn ask_about<K, V, R>(
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
        let answers = match find(client, Coordinates::Group, group, remaining).await? {
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

pub(crate) fn group_id(id: &str) -> GroupId {
    GroupId(StrBytes::from_string(id.to_owned()))
}

/// The partitions of one topic, as descriptions list them.
pub(crate) fn partitions_of(name: &TopicName, partitions: &[i32]) -> impl Iterator<Item = TopicPartition> {
    let name: std::sync::Arc<str> = std::sync::Arc::from(name.as_str());
    partitions.iter().map(move |&partition| TopicPartition::new(name.clone(), partition))
}
