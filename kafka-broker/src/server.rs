//! Sockets: the listener and one task for each connection. A connection serves its requests in order, in its own task,
//! because a hand-over to another task would cost more than most requests do.

use std::future::Future;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes};
use kafka_wire::frame::{FrameDecoder, FrameError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::dispatch::{Answer, ConnectionId, Hangup, dispatch};
use crate::state::BrokerState;

/// Answers to pipelined requests are gathered up to this size before they are written.
const COALESCE_BYTES: usize = 256 * 1024;
/// While a long poll waits, this much of what the client sends next is read ahead; the rest waits in the socket.
const READ_AHEAD_BYTES: usize = 1024 * 1024;
/// Segments of one vectored write; the kernel takes at most 1024.
const MAX_SEGMENTS: usize = 256;
/// After a failed accept (out of file descriptors, say) the listener pauses instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a connection ended, other than by the client closing it between two requests.
#[derive(Debug, thiserror::Error)]
enum Closed {
    #[error(transparent)]
    Hangup(#[from] Hangup),
    #[error("the client closed the connection in the middle of a request")]
    Torn,
    #[error("no request for {0:?}")]
    Idle(Duration),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl From<FrameError> for Closed {
    fn from(error: FrameError) -> Self {
        Self::Hangup(Hangup::Frame(error))
    }
}

/// What a listener is told while it serves.
#[derive(Debug)]
pub(crate) enum Command {
    /// All connections end; new ones are accepted.
    CutConnections,
}

/// Accepts connections until `commands` ends; when it returns then, no request is being served any more. Dropping it
/// ends all connections too, without waiting for those that are in the middle of a request.
pub(crate) async fn run(
    state: Arc<BrokerState>,
    listener: TcpListener,
    mut in_memory: mpsc::Receiver<DuplexStream>,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    let max_connections = state.config.max_connections();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // In this order, so that a run on a paused clock and one thread is always the same.
            biased;
            command = commands.recv() => match command {
                Some(Command::CutConnections) => connections.abort_all(),
                None => {
                    drop(listener);
                    connections.shutdown().await;
                    return;
                }
            },
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(%error, "a connection's task panicked");
                }
            }
            Some(stream) = in_memory.recv() => {
                connections.spawn(connection(Arc::clone(&state), stream, Peer::InMemory));
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    if connections.len() >= max_connections {
                        tracing::warn!(%peer, max_connections, "connection refused: max.connections are open");
                        continue;
                    }
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%peer, %error, "TCP_NODELAY not set");
                    }
                    connections.spawn(connection(Arc::clone(&state), stream, Peer::Tcp(peer)));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Peer {
    Tcp(SocketAddr),
    InMemory,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::InMemory => f.write_str("in memory"),
        }
    }
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin>(state: Arc<BrokerState>, stream: S, peer: Peer) {
    let client_host: Arc<str> = match peer {
        Peer::Tcp(addr) => format!("/{}", addr.ip()).into(),
        Peer::InMemory => "/in-memory".into(),
    };
    let max_frame_bytes = state.config.socket_request_max_bytes();
    let idle = u64::try_from(state.config.connections_max_idle_ms()).ok().map(Duration::from_millis);
    let id = ConnectionId::next();
    // Also when this task is aborted.
    let _sessions = ShareSessions { state: Arc::clone(&state), connection: id };
    let mut connection = Connection {
        state,
        id,
        client_host,
        stream,
        decoder: FrameDecoder::new(max_frame_bytes),
        answers: Answers::default(),
        idle,
    };
    match connection.serve().await {
        Ok(()) => tracing::debug!(%peer, "connection closed by the client"),
        Err(reason @ Closed::Hangup(_)) => tracing::warn!(%peer, %reason, "connection closed"),
        Err(reason) => tracing::debug!(%peer, %reason, "connection closed"),
    }
}

/// The share sessions that were opened on a connection: they end with it.
struct ShareSessions {
    state: Arc<BrokerState>,
    connection: ConnectionId,
}

impl Drop for ShareSessions {
    fn drop(&mut self) {
        self.state.shares.connection_lost(&self.state, self.connection);
    }
}

struct Connection<S> {
    state: Arc<BrokerState>,
    id: ConnectionId,
    client_host: Arc<str>,
    stream: S,
    decoder: FrameDecoder,
    answers: Answers,
    idle: Option<Duration>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    async fn serve(&mut self) -> Result<(), Closed> {
        loop {
            let served = self.serve_buffered().await;
            // What was answered before a bad frame still goes out.
            self.answers.write(&mut self.stream, self.idle).await?;
            if !served? {
                return Ok(());
            }
            let read = self.stream.read_buf(self.decoder.read_buffer());
            let read = match self.idle {
                Some(idle) => tokio::time::timeout(idle, read).await.map_err(|_| Closed::Idle(idle))??,
                None => read.await?,
            };
            if read == 0 {
                return if self.decoder.is_empty() { Ok(()) } else { Err(Closed::Torn) };
            }
        }
    }

    /// Serves the whole frames that have arrived. `false`: the client went away while one waited.
    async fn serve_buffered(&mut self) -> Result<bool, Closed> {
        while let Some(frame) = self.decoder.next_frame()? {
            let mut handler = pin!(dispatch(&self.state, &self.client_host, self.id, frame));
            let answer = match poll_once(handler.as_mut()).await {
                Poll::Ready(answer) => answer,
                Poll::Pending => {
                    self.answers.write(&mut self.stream, self.idle).await?;
                    tokio::select! {
                        biased;
                        answer = &mut handler => answer,
                        () = gone(&mut self.stream, &mut self.decoder) => return Ok(false),
                    }
                }
            };
            if let Some(answer) = answer? {
                self.answers.push(answer);
            }
            if self.answers.size_bytes >= COALESCE_BYTES {
                self.answers.write(&mut self.stream, self.idle).await?;
            }
        }
        Ok(true)
    }
}

/// Polls a future once with the task's own waker.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}

/// Reads ahead until the client closes the connection; never ends once the read-ahead is full.
async fn gone<S: AsyncRead + Unpin>(stream: &mut S, decoder: &mut FrameDecoder) {
    loop {
        let buffer = decoder.read_buffer();
        if buffer.len() >= READ_AHEAD_BYTES {
            return std::future::pending().await;
        }
        match stream.read_buf(buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// Answers that wait to be written, in order.
#[derive(Default)]
struct Answers {
    segments: Vec<Bytes>,
    size_bytes: usize,
}

impl Answers {
    fn push(&mut self, answer: Answer) {
        self.size_bytes += answer.size_bytes;
        self.segments.extend(answer.segments);
    }

    /// Writes everything. A client that takes nothing for `idle` is given up.
    async fn write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        idle: Option<Duration>,
    ) -> Result<(), Closed> {
        let mut first = 0;
        while first < self.segments.len() {
            let pending = self.segments.get(first..).unwrap_or_default();
            let slices: Vec<IoSlice<'_>> =
                pending.iter().take(MAX_SEGMENTS).map(|segment| IoSlice::new(segment)).collect();
            let write = stream.write_vectored(&slices);
            let mut written = match idle {
                Some(idle) => tokio::time::timeout(idle, write).await.map_err(|_| Closed::Idle(idle))??,
                None => write.await?,
            };
            if written == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::WriteZero).into());
            }
            while let Some(segment) = self.segments.get_mut(first) {
                if written < segment.len() {
                    segment.advance(written);
                    break;
                }
                written -= segment.len();
                *segment = Bytes::new();
                first += 1;
            }
        }
        self.segments.clear();
        self.size_bytes = 0;
        Ok(())
    }
}
