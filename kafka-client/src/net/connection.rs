//! One socket, one task: requests go out in vectored writes, whole frames come in.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use kafka_wire::Request;
use kafka_wire::frame::{FrameDecoder, FrameError, decode_response, encode_request, peek_correlation_id};
use kafka_wire::messages::{ApiVersionsRequest, ApiVersionsResponse};
use kafka_wire::versions::ApiVersions;
use kafka_wire::{ErrorCode, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Sleep};

use super::{Address, BoxStream, ConnectionError, RequestError};

/// Requests that may wait for an answer on one connection. A broker answers in order, so more only queue there.
const MAX_IN_FLIGHT: usize = 128;
/// Segments of one `writev`; the system takes up to 1024 (`IOV_MAX`), and more than this gains nothing.
const MAX_WRITE_SEGMENTS: usize = 64;
/// While a peer leaves this much unread, further requests stay in their channel, whose bound their senders feel.
const MAX_WRITE_BACKLOG_BYTES: u64 = 8 * 1024 * 1024;

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
    /// Why the task ended, set before it lets go of its channel.
    ended: Arc<OnceLock<ConnectionError>>,
}

#[derive(Debug)]
struct Outgoing {
    segments: Vec<Bytes>,
    size_bytes: usize,
    correlation_id: i32,
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
        self.ended.get().cloned().unwrap_or_else(|| ConnectionError::Closed { address: self.address.clone() })
    }
}

impl Connection {
    /// Starts the task of a fresh stream and agrees on versions with the peer (KIP-35, KIP-511).
    ///
    /// Bound it by a time-out; dropping it closes the stream.
    pub(crate) async fn open(
        stream: BoxStream,
        address: Address,
        client_id: Option<Arc<str>>,
        max_frame_bytes: usize,
        timeout: Duration,
    ) -> Result<Self, ConnectionError> {
        let (outgoing, incoming) = mpsc::channel(MAX_IN_FLIGHT);
        let ended = Arc::new(OnceLock::new());
        let task = Task {
            stream,
            address: address.clone(),
            incoming,
            incoming_open: true,
            write_queue: VecDeque::new(),
            bytes_queued: 0,
            bytes_written: 0,
            needs_flush: false,
            in_flight: VecDeque::new(),
            decoder: FrameDecoder::new(max_frame_bytes),
            alarm: Box::pin(tokio::time::sleep(Duration::ZERO)),
            alarm_at: None,
            ended: ended.clone(),
        };
        tokio::spawn(task.run());
        let connection = Self(Arc::new(Shared {
            address,
            client_id,
            outgoing,
            next_correlation_id: AtomicI32::new(0),
            versions: OnceLock::new(),
            ended,
        }));
        let versions = connection.handshake(timeout).await?;
        // Nobody else has the handle yet, so this is the only writer.
        let _ = connection.0.versions.set(versions);
        Ok(connection)
    }

    pub(crate) fn address(&self) -> &Address {
        &self.0.address
    }

    /// Whether new requests would fail at once.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.outgoing.is_closed()
    }

    /// The version in which `R` would be sent.
    pub(crate) fn version_of<R: Request>(&self, max_version: i16) -> Result<i16, RequestError> {
        match self.0.versions.get() {
            Some(versions) => Ok(versions.negotiate_up_to::<R>(max_version)?),
            None => Ok(R::VERSIONS.max.min(max_version)),
        }
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
        permit.send(Outgoing { segments, size_bytes, correlation_id, timeout: call.timeout, reply });
        Ok(())
    }

    async fn handshake(&self, timeout: Duration) -> Result<ApiVersions, ConnectionError> {
        let mut version = <ApiVersionsRequest as kafka_wire::Message>::VERSIONS.max;
        loop {
            let request = ApiVersionsRequest::default()
                .with_client_software_name(StrBytes::from_static_str("kafka-client-rust"))
                .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
            let response = self.ask_versions(&request, version, timeout).await?;
            let versions = ApiVersions::from_response(&response);
            match ErrorCode::from(response.error_code) {
                ErrorCode::None => return Ok(versions),
                // The peer is older: it answers in version 0, and says which it knows (KIP-511).
                ErrorCode::UnsupportedVersion if version > 0 => {
                    let known = versions.negotiate_up_to::<ApiVersionsRequest>(version - 1);
                    version = known.unwrap_or(0);
                }
                code => return Err(ConnectionError::Handshake { address: self.0.address.clone(), code }),
            }
        }
    }

    async fn ask_versions(
        &self,
        request: &ApiVersionsRequest,
        version: i16,
        timeout: Duration,
    ) -> Result<ApiVersionsResponse, ConnectionError> {
        let address = &self.0.address;
        let invalid = |source| ConnectionError::InvalidFrame { address: address.clone(), source };
        let (sender, reply) = oneshot::channel();
        self.enqueue(request, version, Call::within(timeout), Some(sender)).await.map_err(
            |error| match error {
                RequestError::NotSent(cause) | RequestError::Unanswered(cause) => cause,
                RequestError::Encode(source) => invalid(source),
                _ => ConnectionError::Closed { address: address.clone() },
            },
        )?;
        let frame = match reply.await {
            Ok(Ok(frame)) => frame,
            Ok(Err(RequestError::NotSent(cause) | RequestError::Unanswered(cause))) => return Err(cause),
            _ => return Err(self.0.end()),
        };
        // The error code stands before everything else, in every version; with it the answer is in version 0.
        let code = frame.get(4..6).and_then(|code| Some(i16::from_be_bytes(*code.first_chunk()?)));
        let answered_in = if code == Some(ErrorCode::UnsupportedVersion.code()) { 0 } else { version };
        decode_response::<ApiVersionsRequest>(frame, answered_in).map_err(invalid)
    }
}

/// The task of a connection: a poll function over the socket, the queue of requests and one timer.
struct Task {
    stream: BoxStream,
    address: Address,
    incoming: mpsc::Receiver<Outgoing>,
    incoming_open: bool,
    write_queue: VecDeque<Bytes>,
    /// Positions in the stream of outgoing bytes: what was queued, what the socket took.
    bytes_queued: u64,
    bytes_written: u64,
    needs_flush: bool,
    in_flight: VecDeque<InFlight>,
    decoder: FrameDecoder,
    alarm: Pin<Box<Sleep>>,
    /// Not later than the earliest deadline in flight; may be earlier, since answered requests leave it alone.
    alarm_at: Option<Instant>,
    ended: Arc<OnceLock<ConnectionError>>,
}

struct InFlight {
    correlation_id: i32,
    /// Where the request starts in the stream of outgoing bytes.
    starts_at: u64,
    deadline: Instant,
    timeout: Duration,
    reply: oneshot::Sender<Result<Bytes, RequestError>>,
}

impl Task {
    async fn run(mut self) {
        let end = std::future::poll_fn(|cx| self.poll(cx)).await;
        match end {
            Ok(()) => tracing::debug!(address = %self.address, "connection let go"),
            Err(cause) => self.fail(cause),
        }
    }

    /// Ready when nobody can use the connection any more (`Ok`) or it failed.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        loop {
            self.take_requests(cx);
            let wrote = self.poll_write(cx)?;
            let received = self.poll_read(cx)?;
            if !self.incoming_open && self.in_flight.is_empty() && self.write_queue.is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.poll_alarm(cx)?;
            // Both make room for requests that `take_requests` left in the queue.
            if !received && !wrote {
                return Poll::Pending;
            }
        }
    }

    fn take_requests(&mut self, cx: &mut Context<'_>) {
        while self.incoming_open
            && self.in_flight.len() < MAX_IN_FLIGHT
            && self.bytes_queued - self.bytes_written < MAX_WRITE_BACKLOG_BYTES
        {
            match self.incoming.poll_recv(cx) {
                Poll::Ready(Some(request)) => self.queue(request),
                Poll::Ready(None) => self.incoming_open = false,
                Poll::Pending => return,
            }
        }
    }

    fn queue(&mut self, request: Outgoing) {
        let starts_at = self.bytes_queued;
        self.bytes_queued += request.size_bytes as u64;
        self.write_queue.extend(request.segments);
        if let Some(reply) = request.reply {
            let deadline = Instant::now() + request.timeout;
            self.in_flight.push_back(InFlight {
                correlation_id: request.correlation_id,
                starts_at,
                deadline,
                timeout: request.timeout,
                reply,
            });
            if self.alarm_at.is_none_or(|at| deadline < at) {
                self.set_alarm(deadline);
            }
        }
    }

    /// Whether the socket took any byte.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<bool, ConnectionError> {
        let mut wrote = false;
        while !self.write_queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_WRITE_SEGMENTS];
            let mut count = 0;
            for (slice, segment) in slices.iter_mut().zip(&self.write_queue) {
                *slice = IoSlice::new(segment);
                count += 1;
            }
            let slices = slices.get(..count).unwrap_or_default();
            match Pin::new(&mut self.stream).poll_write_vectored(cx, slices) {
                Poll::Ready(Ok(0)) => return Err(self.io_error(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => {
                    self.advance(written);
                    wrote = true;
                }
                Poll::Ready(Err(error)) => return Err(self.io_error(error)),
                Poll::Pending => return Ok(wrote),
            }
        }
        if self.needs_flush {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.needs_flush = false,
                Poll::Ready(Err(error)) => return Err(self.io_error(error)),
                Poll::Pending => {}
            }
        }
        Ok(wrote)
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes_written += written as u64;
        self.needs_flush = true;
        while let Some(front) = self.write_queue.front_mut() {
            if written < front.len() {
                front.advance(written);
                return;
            }
            written -= front.len();
            self.write_queue.pop_front();
        }
    }

    /// Whether any frame was taken; reads until the socket has no more.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<bool, ConnectionError> {
        let mut received = false;
        loop {
            let read = pin!(self.stream.read_buf(self.decoder.read_buffer())).poll(cx);
            match read {
                Poll::Ready(Ok(0)) => return Err(ConnectionError::Closed { address: self.address.clone() }),
                Poll::Ready(Ok(_)) => received |= self.take_frames()?,
                Poll::Ready(Err(error)) => return Err(self.io_error(error)),
                Poll::Pending => return Ok(received),
            }
        }
    }

    fn take_frames(&mut self) -> Result<bool, ConnectionError> {
        let mut received = false;
        while let Some(frame) = self.decoder.next_frame().map_err(|e| self.invalid(e))? {
            let correlation_id = peek_correlation_id(&frame).map_err(|e| self.invalid(e))?;
            let expected = self.in_flight.front().map(|oldest| oldest.correlation_id);
            match self.in_flight.pop_front() {
                Some(oldest) if oldest.correlation_id == correlation_id => {
                    // The caller may have stopped waiting; the answer is then of no use to anybody.
                    let _ = oldest.reply.send(Ok(frame));
                    received = true;
                }
                other => {
                    if let Some(oldest) = other {
                        self.in_flight.push_front(oldest);
                    }
                    let address = self.address.clone();
                    return Err(ConnectionError::OutOfTurn { address, received: correlation_id, expected });
                }
            }
        }
        Ok(received)
    }

    fn set_alarm(&mut self, at: Instant) {
        self.alarm.as_mut().reset(at);
        self.alarm_at = Some(at);
    }

    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Result<(), ConnectionError> {
        while self.alarm_at.is_some() && self.alarm.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if let Some(late) = self.in_flight.iter().find(|request| request.deadline <= now) {
                return Err(ConnectionError::RequestTimeout {
                    address: self.address.clone(),
                    waited: late.timeout,
                });
            }
            self.alarm_at = None;
            if let Some(next) = self.in_flight.iter().map(|request| request.deadline).min() {
                self.set_alarm(next);
            }
        }
        Ok(())
    }

    /// Tells everybody who waits, each whether its request had left.
    fn fail(mut self, cause: ConnectionError) {
        tracing::debug!(address = %self.address, error = %cause, open = self.in_flight.len(), "connection ended");
        let _ = self.ended.set(cause.clone());
        self.incoming.close();
        for request in self.in_flight.drain(..) {
            let sent = request.starts_at < self.bytes_written;
            let error = if sent { RequestError::Unanswered } else { RequestError::NotSent };
            let _ = request.reply.send(Err(error(cause.clone())));
        }
        while let Ok(request) = self.incoming.try_recv() {
            if let Some(reply) = request.reply {
                let _ = reply.send(Err(RequestError::NotSent(cause.clone())));
            }
        }
    }

    fn io_error(&self, source: io::Error) -> ConnectionError {
        ConnectionError::Io { address: self.address.clone(), source: Arc::new(source) }
    }

    fn invalid(&self, source: FrameError) -> ConnectionError {
        ConnectionError::InvalidFrame { address: self.address.clone(), source }
    }
}
