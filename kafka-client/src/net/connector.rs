//! Where connections come from: TCP by default, anything that reads and writes in tests.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// What a connection runs over: a socket, a TLS session or an in-memory pipe.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A boxed [`Stream`].
pub type BoxStream = Box<dyn Stream>;

/// The future of [`Connector::connect`].
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<BoxStream>> + Send + 'a>>;

/// Opens streams to brokers.
///
/// The client bounds each attempt by `socket.connection.setup.timeout` and drops the future when that is over.
pub trait Connector: Send + Sync + 'static {
    /// Opens a stream to `host:port`.
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> Connecting<'a>;
}

impl<F, Fut, S> Connector for F
where
    F: Fn(String, u16) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = io::Result<S>> + Send + 'static,
    S: Stream + 'static,
{
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> Connecting<'a> {
        let opening = self(host.to_owned(), port);
        Box::pin(async move { Ok(Box::new(opening.await?) as BoxStream) })
    }
}

/// Plain TCP with `TCP_NODELAY` and keep-alive. All addresses of a name are tried in turn (KIP-302).
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct TcpConnector;

/// A broker behind a silent middlebox is noticed after about this long without traffic.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);

impl Connector for TcpConnector {
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> Connecting<'a> {
        Box::pin(async move {
            let stream = TcpStream::connect((host, port)).await?;
            stream.set_nodelay(true)?;
            let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE_AFTER);
            socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
            Ok(Box::new(stream) as BoxStream)
        })
    }
}

impl fmt::Debug for dyn Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}
