//! One socket, one task: requests go out in vectored writes, whole frames come in.

mod handshake;
mod task;

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use kafka_wire::Request;
use kafka_wire::frame::{FrameMemory, decode_response, encode_request};
use kafka_wire::versions::ApiVersions;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use self::task::{MAX_IN_FLIGHT, Task};
use super::metrics::{Labels, Meters};
use super::{Address, BoxStream, ConnectionError, Node, Purpose, RequestError};

/// A handle to a connection. The connection ends when its last handle and its last open request are gone.
#[derive(Debug, Clone)]
pub(crate) struct Connection(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    address: Address,
    client_id: Option<Arc<str>>,
    outgoing: mpsc::Sender<Outgoing>,
    next_correlation_id: AtomicI32,
    versions: OnceLock<ApiVersions>,
    status: Arc<Status>,
}

/// What a task tells of itself.
#[derive(Debug, Default)]
struct Status {
    /// Why and when the task ended, set before it lets go of its channel.
    ended: OnceLock<(ConnectionError, Instant)>,
    /// The broker asked for a pause until then (KIP-219).
    muted_until: Mutex<Option<Instant>>,
}

/// What all connections of a client have in common.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionConfig {
    pub(crate) client_id: Option<Arc<str>>,
    pub(crate) max_frame_bytes: usize,
    /// For large frames; else each connection has its own.
    pub(crate) memory: Option<Arc<FrameMemory>>,
    /// `connections.max.idle.ms`: a connection that nobody uses for this long is closed.
    pub(crate) max_idle: Option<Duration>,
}

#[derive(Debug)]
struct Outgoing {
    segments: Vec<Bytes>,
    size_bytes: usize,
    correlation_id: i32,
    api_key: i16,
    version: i16,
    timeout: Duration,
    /// `None` for requests that have no answer (Produce with `acks=0`).
    reply: Option<oneshot::Sender<Result<Bytes, RequestError>>>,
}

/// How a request is to be sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    /// The connection is given up when no answer comes within this time.
    pub(crate) timeout: Duration,
    /// The highest version whose meaning the caller knows.
    pub(crate) max_version: i16,
    /// The record batches inside the request, in its order; they are not copied.
    pub(crate) payloads: &'a [Bytes],
}

impl Call<'_> {
    /// Any version, no payloads.
    pub(crate) fn within(timeout: Duration) -> Self {
        Self { timeout, max_version: i16::MAX, payloads: &[] }
    }
}

/// The answer that a sent request waits for. Dropping it does not take the request back.
#[derive(Debug)]
pub(crate) struct Answer<R> {
    reply: oneshot::Receiver<Result<Bytes, RequestError>>,
    version: i16,
    connection: Arc<Shared>,
    request: PhantomData<fn() -> R>,
}

impl<R: Request> Future for Answer<R> {
    type Output = Result<R::Response, RequestError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let frame = match ready!(Pin::new(&mut self.reply).poll(cx)) {
            Ok(frame) => frame?,
            // The runtime dropped the task, as it does at shutdown.
            Err(_) => return Poll::Ready(Err(RequestError::Unanswered(self.connection.end()))),
        };
        Poll::Ready(
            decode_response::<R>(frame, self.version)
                .map_err(|source| RequestError::Decode { address: self.connection.address.clone(), source }),
        )
    }
}

impl Shared {
    fn end(&self) -> ConnectionError {
        match self.status.ended.get() {
            Some((cause, _)) => cause.clone(),
            None => ConnectionError::Closed { address: self.address.clone() },
        }
    }
}

impl Connection {
    /// Starts the task of a fresh stream and agrees on versions with the peer (KIP-35, KIP-511).
    ///
    /// Bound it by a time-out; dropping it closes the stream.
    pub(crate) async fn open(
        stream: BoxStream,
        node: &Node,
        purpose: Purpose,
        config: &ConnectionConfig,
        timeout: Duration,
    ) -> Result<Self, ConnectionError> {
        let (outgoing, incoming) = mpsc::channel(MAX_IN_FLIGHT);
        let status = Arc::new(Status::default());
        let address = node.address.clone();
        let meters = Meters::opened(Labels::new(config.client_id.as_ref(), node, purpose));
        let task = Task::new(stream, address.clone(), incoming, config, status.clone(), meters);
        let span = tracing::debug_span!("connection", broker = node.id, %address, purpose = purpose.name());
        tokio::spawn(tracing::Instrument::instrument(task.run(), span));
        let connection = Self(Arc::new(Shared {
            address,
            client_id: config.client_id.clone(),
            outgoing,
            next_correlation_id: AtomicI32::new(0),
            versions: OnceLock::new(),
            status,
        }));
        let versions = connection.handshake(timeout).await?;
        // Nobody else has the handle yet, so this is the only writer.
        let _ = connection.0.versions.set(versions);
        Ok(connection)
    }

    /// Whether new requests would fail at once.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.outgoing.is_closed()
    }

    /// When it failed; `None` while it has not, or if it was only let go.
    pub(super) fn failed_at(&self) -> Option<Instant> {
        let (cause, at) = self.0.status.ended.get()?;
        (!matches!(cause, ConnectionError::Idle { .. })).then_some(*at)
    }

    /// Until when the broker wants to be left in peace (KIP-219), if that is later than `now`.
    pub(crate) fn muted_until(&self, now: Instant) -> Option<Instant> {
        self.0.status.muted_until.lock().filter(|&until| until > now)
    }

    /// The version in which `R` would be sent.
    pub(crate) fn version_of<R: Request>(&self, max_version: i16) -> Result<i16, RequestError> {
        match self.0.versions.get() {
            Some(versions) => Ok(versions.negotiate_up_to::<R>(max_version)?),
            None => Ok(R::VERSIONS.max.min(max_version)),
        }
    }

    /// The level at which the broker's cluster had finalized a feature when the connection was opened (KIP-584).
    pub(crate) fn feature(&self, name: &str) -> i16 {
        self.0.versions.get().map_or(0, |versions| versions.feature(name))
    }

    /// Sends a request and waits for its answer. Dropping the future does not take the request back.
    pub(crate) async fn request<R: Request>(
        &self,
        request: &R,
        call: Call<'_>,
    ) -> Result<R::Response, RequestError> {
        self.start(request, call).await?.await
    }

    /// Puts a request in line and returns its answer to wait for. Requests leave in the order of these calls.
    pub(crate) async fn start<R: Request>(
        &self,
        request: &R,
        call: Call<'_>,
    ) -> Result<Answer<R>, RequestError> {
        let version = self.version_of::<R>(call.max_version)?;
        let (sender, reply) = oneshot::channel();
        self.enqueue(request, version, call, Some(sender)).await?;
        Ok(Answer { reply, version, connection: self.0.clone(), request: PhantomData })
    }

    /// [`start`](Self::start) without waiting: fails when the line is full.
    pub(crate) fn try_start<R: Request>(
        &self,
        request: &R,
        call: Call<'_>,
    ) -> Result<Answer<R>, RequestError> {
        let version = self.version_of::<R>(call.max_version)?;
        let (sender, reply) = oneshot::channel();
        self.push(self.try_reserve()?, request, version, call, Some(sender))?;
        Ok(Answer { reply, version, connection: self.0.clone(), request: PhantomData })
    }

    /// Puts a request in line that the broker does not answer, without waiting.
    pub(crate) fn try_send_only<R: Request>(&self, request: &R, call: Call<'_>) -> Result<(), RequestError> {
        let version = self.version_of::<R>(call.max_version)?;
        self.push(self.try_reserve()?, request, version, call, None)
    }

    fn try_reserve(&self) -> Result<mpsc::Permit<'_, Outgoing>, RequestError> {
        self.0.outgoing.try_reserve().map_err(|error| {
            RequestError::NotSent(match error {
                mpsc::error::TrySendError::Full(()) => {
                    ConnectionError::Busy { address: self.0.address.clone() }
                }
                mpsc::error::TrySendError::Closed(()) => self.0.end(),
            })
        })
    }

    async fn enqueue<R: Request>(
        &self,
        request: &R,
        version: i16,
        call: Call<'_>,
        reply: Option<oneshot::Sender<Result<Bytes, RequestError>>>,
    ) -> Result<(), RequestError> {
        let not_sent = |_| RequestError::NotSent(self.0.end());
        let permit = self.0.outgoing.reserve().await.map_err(not_sent)?;
        self.push(permit, request, version, call, reply)
    }

    fn push<R: Request>(
        &self,
        permit: mpsc::Permit<'_, Outgoing>,
        request: &R,
        version: i16,
        call: Call<'_>,
        reply: Option<oneshot::Sender<Result<Bytes, RequestError>>>,
    ) -> Result<(), RequestError> {
        let correlation_id = self.0.next_correlation_id.fetch_add(1, Ordering::Relaxed);
        let frame =
            encode_request(request, version, correlation_id, self.0.client_id.as_deref(), call.payloads)
                .map_err(RequestError::Encode)?;
        let size_bytes = frame.size_bytes();
        let segments = frame.into_segments();
        let (api_key, timeout) = (R::KEY, call.timeout);
        permit.send(Outgoing { segments, size_bytes, correlation_id, api_key, version, timeout, reply });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Peer;
    use kafka_wire::messages::MetadataRequest;

    #[tokio::test(start_paused = true)]
    async fn a_request_that_comes_while_the_connection_ends_is_not_sent_and_says_so() {
        let (stream, mut peer) = Peer::pair();
        let node = Node { id: 1, address: Address::new("peer", 1) };
        let config =
            ConnectionConfig { client_id: None, max_frame_bytes: 1 << 20, memory: None, max_idle: None };
        let timeout = Duration::from_secs(30);
        let open = Connection::open(Box::new(stream), &node, Purpose::Control, &config, timeout);
        let (connection, ()) = tokio::join!(open, peer.shake_hands());
        let connection = connection.unwrap();
        let permit = connection.try_reserve().unwrap();
        drop(peer);
        while !connection.is_closed() {
            tokio::task::yield_now().await;
        }
        let (sender, reply) = oneshot::channel();
        connection.push(permit, &MetadataRequest::default(), 1, Call::within(timeout), Some(sender)).unwrap();
        let error = reply.await.unwrap().unwrap_err();
        assert!(matches!(error, RequestError::NotSent(_)) && !error.possibly_written(), "{error}");
    }
}
