//! Asking every broker: each knows what it coordinates.

use std::time::Duration;

use futures::future;
use kafka_client::{Client, RequestError, Target};
use kafka_wire::Request;

use crate::driver::Refusal;

/// Each broker's number and its answer, with metadata that is new; a refusal of one is a refusal of all, because what it
/// knows would be missing.
pub(crate) async fn ask_all_brokers<R>(
    client: Client,
    request: R,
    timeout: Duration,
    check: impl Fn(&R::Response) -> Result<(), Refusal>,
) -> Result<Result<Vec<(i32, R::Response)>, Refusal>, RequestError>
where
    R: Request + Clone + Send + Sync + 'static,
    R::Response: Send,
{
    let refresh = client.refresh_topics(std::iter::empty::<&str>());
    let cluster = match tokio::time::timeout(timeout, refresh).await {
        Ok(cluster) => cluster?,
        Err(_) => return Err(RequestError::Timeout { waited: timeout, last: None }),
    };
    let requests = cluster.brokers().map(|broker| {
        let id = broker.id;
        let answer = client.request(request.clone()).to(Target::Broker(id)).timeout(timeout);
        async move { Ok::<_, RequestError>((id, answer.await?)) }
    });
    let answers = future::try_join_all(requests).await?;
    let refusal = answers.iter().find_map(|(_, answer)| check(answer).err());
    Ok(refusal.map_or(Ok(answers), Err))
}
