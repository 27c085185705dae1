//! The task of a connection: what it writes, reads and waits for.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use kafka_wire::frame::{FrameDecoder, FrameError, peek_correlation_id, peek_throttle_time_ms};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Sleep};

use super::super::metrics::Meters;
use super::super::{Address, BoxStream, ConnectionError, RequestError};
use super::{ConnectionConfig, Outgoing, Status};

/// Requests that may wait for an answer on one connection. A broker answers in order, so more only queue there.
pub(super) const MAX_IN_FLIGHT: usize = 128;
/// Segments of one `writev`; the system takes up to 1024 (`IOV_MAX`), and more than this gains nothing.
const MAX_WRITE_SEGMENTS: usize = 64;
/// While a peer leaves this much unread, further requests stay in their channel, whose bound their senders feel.
const MAX_WRITE_BACKLOG_BYTES: u64 = 8 * 1024 * 1024;
/// A broker's pauses last as long as a window of its quotas, some seconds; one that asks for more gets this.
const MAX_THROTTLE: Duration = Duration::from_secs(10 * 60);

/// A poll function over the socket, the queue of requests and one timer.
pub(super) struct Task {
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
    /// Not later than anything that is to happen at a time of its own; may be earlier, since what happened meanwhile
    /// leaves it alone.
    alarm_at: Option<Instant>,
    /// The broker asked for a pause (KIP-219): until then requests stay in their channel.
    muted_until: Option<Instant>,
    max_idle: Option<Duration>,
    /// When a request was taken or answered last.
    used_at: Instant,
    status: Arc<Status>,
    meters: Meters,
}

struct InFlight {
    correlation_id: i32,
    api_key: i16,
    version: i16,
    taken_at: Instant,
    /// Where the request starts in the stream of outgoing bytes.
    starts_at: u64,
    deadline: Instant,
    timeout: Duration,
    reply: oneshot::Sender<Result<Bytes, RequestError>>,
}

impl Task {
    pub(super) fn new(
        stream: BoxStream,
        address: Address,
        incoming: mpsc::Receiver<Outgoing>,
        config: &ConnectionConfig,
        status: Arc<Status>,
        meters: Meters,
    ) -> Self {
        Self {
            stream,
            address,
            incoming,
            incoming_open: true,
            write_queue: VecDeque::new(),
            bytes_queued: 0,
            bytes_written: 0,
            needs_flush: false,
            in_flight: VecDeque::new(),
            decoder: FrameDecoder::with_memory(
                config.max_frame_bytes,
                config.memory.clone().unwrap_or_default(),
            ),
            alarm: Box::pin(tokio::time::sleep(Duration::ZERO)),
            alarm_at: None,
            muted_until: None,
            max_idle: config.max_idle,
            used_at: Instant::now(),
            status,
            meters,
        }
    }

    pub(super) async fn run(mut self) {
        if let Some(span) = self.max_idle {
            self.set_alarm(self.used_at + span);
        }
        let end = std::future::poll_fn(|cx| self.poll(cx)).await;
        self.meters.closed(end.as_ref().err());
        match end {
            Ok(()) => tracing::debug!("connection let go"),
            Err(cause) => self.fail(cause).await,
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
            let unmuted = self.poll_alarm(cx)?;
            // Each of them lets `take_requests` take what it left in the channel.
            if !received && !wrote && !unmuted {
                return Poll::Pending;
            }
        }
    }

    fn take_requests(&mut self, cx: &mut Context<'_>) {
        while self.incoming_open
            && self.muted_until.is_none()
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
        self.meters.request_size.record(request.size_bytes as f64);
        self.used_at = Instant::now();
        if let Some(reply) = request.reply {
            let deadline = self.used_at + request.timeout;
            self.in_flight.push_back(InFlight {
                correlation_id: request.correlation_id,
                api_key: request.api_key,
                version: request.version,
                taken_at: self.used_at,
                starts_at,
                deadline,
                timeout: request.timeout,
                reply,
            });
            self.alarm_by(deadline);
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
        self.meters.outgoing_bytes.increment(written as u64);
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
                Poll::Ready(Ok(read)) => {
                    self.meters.incoming_bytes.increment(read as u64);
                    received |= self.take_frames()?;
                }
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
                    self.used_at = Instant::now();
                    self.meters.latency.record(self.used_at.saturating_duration_since(oldest.taken_at));
                    self.heed_throttle(&oldest, &frame);
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

    /// Nothing new is written before the pause is over that any answer may ask for (KIP-219).
    fn heed_throttle(&mut self, answered: &InFlight, frame: &[u8]) {
        let millis = peek_throttle_time_ms(answered.api_key, answered.version, frame);
        let Some(pause) = millis.and_then(|millis| u64::try_from(millis).ok()).map(Duration::from_millis)
        else {
            return;
        };
        tracing::debug!(?pause, api_key = answered.api_key, "throttled");
        self.meters.throttle.record(pause);
        let until = self.used_at + pause.min(MAX_THROTTLE);
        self.muted_until = self.muted_until.max(Some(until));
        *self.status.muted_until.lock() = self.muted_until;
        self.alarm_by(until);
    }

    fn set_alarm(&mut self, at: Instant) {
        self.alarm.as_mut().reset(at);
        self.alarm_at = Some(at);
    }

    fn alarm_by(&mut self, at: Instant) {
        if self.alarm_at.is_none_or(|alarm| at < alarm) {
            self.set_alarm(at);
        }
    }

    /// Whether a pause ended.
    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Result<bool, ConnectionError> {
        let mut unmuted = false;
        while self.alarm_at.is_some() && self.alarm.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if let Some(late) = self.in_flight.iter().find(|request| request.deadline <= now) {
                let (address, waited) = (self.address.clone(), late.timeout);
                return Err(ConnectionError::RequestTimeout { address, waited });
            }
            if self.muted_until.is_some_and(|until| until <= now) {
                self.muted_until = None;
                unmuted = true;
            }
            let idle_at = self.max_idle.map(|span| (span, self.idle_at(now, span)));
            if let Some((idle, _)) = idle_at.filter(|&(_, at)| at <= now) {
                return Err(ConnectionError::Idle { address: self.address.clone(), idle });
            }
            self.alarm_at = None;
            let deadlines = self.in_flight.iter().map(|request| request.deadline);
            let idle_at = idle_at.map(|(_, at)| at);
            if let Some(next) = deadlines.chain(self.muted_until).chain(idle_at).min() {
                self.set_alarm(next);
            }
        }
        Ok(unmuted)
    }

    /// When the connection will have been idle for `span`, if nothing happens from now on.
    fn idle_at(&self, now: Instant, span: Duration) -> Instant {
        let open = !self.in_flight.is_empty() || !self.write_queue.is_empty() || self.muted_until.is_some();
        if open { now + span } else { self.used_at + span }
    }

    /// Tells everybody who waits, each whether its request had left.
    async fn fail(mut self, cause: ConnectionError) {
        tracing::debug!(error = %cause, open = self.in_flight.len(), "connection ended");
        let _ = self.status.ended.set((cause.clone(), Instant::now()));
        self.incoming.close();
        for request in self.in_flight.drain(..) {
            let sent = request.starts_at < self.bytes_written;
            let error = if sent { RequestError::Unanswered } else { RequestError::NotSent };
            let _ = request.reply.send(Err(error(cause.clone())));
        }
        // Who found room before the end may still be encoding: such a request is not sent either.
        while let Some(request) = self.incoming.recv().await {
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
