use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use kafka_wire::Request;
use tokio::time::Instant;

use super::Client;
use crate::cluster::CoordinatorKind;
use crate::config::bounded;
use crate::net::{Call, Connection, Purpose, RequestError};

/// Which broker a request goes to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Target {
    /// Any broker: a connected one if there is one.
    Any,
    /// The broker that takes administrative requests.
    Controller,
    /// The broker with this number.
    Broker(i32),
    /// The coordinator of this group.
    GroupCoordinator(String),
    /// The coordinator of this transactional id.
    TransactionCoordinator(String),
}

/// A request that is sent when awaited; made by [`Client::request`].
///
/// Finding the broker and connecting are tried again until the time is over. The request itself is sent once: when its
/// answer is lost, the error says [`possibly_written`](RequestError::possibly_written). Error codes inside the answer
/// are the caller's to read.
#[derive(Debug, Clone)]
#[must_use = "a request is sent when it is awaited"]
pub struct ClientRequest<R> {
    client: Client,
    request: R,
    target: Target,
    timeout: Option<Duration>,
    max_version: i16,
}

impl<R: Request> ClientRequest<R> {
    pub(super) fn new(client: Client, request: R) -> Self {
        Self { client, request, target: Target::Any, timeout: None, max_version: i16::MAX }
    }

    /// Which broker it goes to. Default [`Target::Any`].
    pub fn to(mut self, target: Target) -> Self {
        self.target = target;
        self
    }

    /// How long to try as a whole and to wait for the answer. Default: the client's `api_timeout` to find and reach the
    /// broker, its `request_timeout` for the answer.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(bounded(timeout));
        self
    }

    /// The highest version to use, for callers that know the meaning of older versions only.
    pub fn max_version(mut self, version: i16) -> Self {
        self.max_version = version;
        self
    }

    async fn run(self) -> Result<R::Response, RequestError> {
        let config = self.client.config();
        let waited = self.timeout.unwrap_or(config.api_timeout);
        let deadline = Instant::now() + waited;
        let call = Call {
            timeout: self.timeout.unwrap_or(config.request_timeout),
            max_version: self.max_version,
            payloads: &[],
        };
        let mut failures = 0;
        loop {
            let attempt = async {
                let connection = self.client.connect_to(&self.target).await?;
                connection.request(&self.request, call).await
            };
            let error = match tokio::time::timeout_at(deadline, attempt).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => error,
                Err(_) => return Err(RequestError::Timeout { waited, last: None }),
            };
            if error.possibly_written() || !error.is_retriable() {
                return Err(error);
            }
            failures += 1;
            self.client.distrust(&self.target);
            let retry_at = Instant::now() + self.client.retry_backoff().random_delay(failures);
            if retry_at >= deadline {
                return Err(RequestError::Timeout { waited, last: Some(Box::new(error)) });
            }
            tokio::time::sleep_until(retry_at).await;
        }
    }
}

impl<R> IntoFuture for ClientRequest<R>
where
    R: Request + Send + Sync + 'static,
    R::Response: Send,
{
    type Output = Result<R::Response, RequestError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl Client {
    async fn connect_to(&self, target: &Target) -> Result<Connection, RequestError> {
        match target {
            Target::Any => self.any_connection(Purpose::Control).await,
            Target::Broker(id) => self.broker_connection(*id, Purpose::Control).await,
            Target::Controller => {
                let controller = self.cluster().controller().map(|broker| broker.id);
                match controller {
                    Some(id) => self.broker_connection(id, Purpose::Control).await,
                    None => {
                        self.refresh_once(Some(&[])).await?;
                        let controller = self.cluster().controller().map(|broker| broker.id);
                        let id = controller.ok_or(RequestError::NoController)?;
                        self.broker_connection(id, Purpose::Control).await
                    }
                }
            }
            Target::GroupCoordinator(group) => {
                self.coordinator_connection(CoordinatorKind::Group, group).await
            }
            Target::TransactionCoordinator(id) => {
                self.coordinator_connection(CoordinatorKind::Transaction, id).await
            }
        }
    }

    /// What was believed of the target may be why it could not be reached.
    fn distrust(&self, target: &Target) {
        match target {
            Target::GroupCoordinator(group) => self.forget_coordinator(CoordinatorKind::Group, group),
            Target::TransactionCoordinator(id) => self.forget_coordinator(CoordinatorKind::Transaction, id),
            Target::Any | Target::Controller | Target::Broker(_) => self.want_refresh([]),
        }
    }
}
