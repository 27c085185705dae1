//! Where connections come from: TCP by default, anything that reads and writes in tests.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, lookup_host};

use super::Address;

/// What a connection runs over: a socket, a TLS session or an in-memory pipe.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A boxed [`Stream`].
pub type BoxStream = Box<dyn Stream>;

/// The future of [`Connector::connect`].
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<BoxStream>> + Send + 'a>>;

/// The future of [`Connector::resolve`].
pub type Resolving<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>>;

/// The future of [`Connector::canonical_names`].
pub type Naming<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<String>>> + Send + 'a>>;

/// Where a stream is to lead.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Endpoint {
    /// The broker's name and port.
    pub address: Address,
    /// Which of the name's addresses to use; `None` where [`Connector::resolve`] gave none.
    pub socket_address: Option<SocketAddr>,
}

impl Endpoint {
    pub(super) fn new(address: Address, socket_address: Option<SocketAddr>) -> Self {
        Self { address, socket_address }
    }
}

/// Opens streams to brokers: a proxy, a tunnel, a pipe in memory.
///
/// A function from a host and a port to a stream is one.
///
/// ```no_run
/// # async fn f() -> Result<(), kafka_client::Error> {
/// use tokio::net::TcpStream;
/// // Every broker is reached through one forwarded port.
/// let client = kafka_client::Client::builder("kafka.internal:9092")
///     .connector(|_host: String, _port: u16| TcpStream::connect("127.0.0.1:19092"))
///     .connect()
///     .await?;
/// # Ok(()) }
/// ```
///
/// The client bounds each attempt by `socket.connection.setup.timeout` and drops the future when that is over.
pub trait Connector: Send + Sync + 'static {
    /// The addresses behind a broker's name. The client tries them one after the other, and asks again once none is left
    /// (KIP-302). The default is none: [`connect`](Self::connect) is then given the name alone.
    fn resolve<'a>(&'a self, _address: &'a Address) -> Resolving<'a> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// The full names of the hosts behind a bootstrap server's name, for
    /// [`DnsLookup::CanonicalBootstrapOnly`](super::DnsLookup). The default is that name.
    fn canonical_names<'a>(&'a self, address: &'a Address) -> Naming<'a> {
        Box::pin(std::future::ready(Ok(vec![address.host.to_string()])))
    }

    /// Opens a stream.
    fn connect<'a>(&'a self, to: &'a Endpoint) -> Connecting<'a>;
}

/// A function from a host and a port to a stream.
impl<F, Fut, S> Connector for F
where
    F: Fn(String, u16) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = io::Result<S>> + Send + 'static,
    S: Stream + 'static,
{
    fn connect<'a>(&'a self, to: &'a Endpoint) -> Connecting<'a> {
        let opening = self(to.address.host.to_string(), to.address.port);
        Box::pin(async move { Ok(Box::new(opening.await?) as BoxStream) })
    }
}

/// Plain TCP with `TCP_NODELAY` and keep-alive. Names are resolved by the system.
#[derive(Debug, Clone, Default)]
pub struct TcpConnector {
    send_buffer_bytes: Option<u32>,
    receive_buffer_bytes: Option<u32>,
}

/// A broker behind a silent middlebox is noticed after about this long without traffic.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);

impl TcpConnector {
    /// Sockets with buffers of these sizes, in bytes (`SO_SNDBUF`, `SO_RCVBUF`); the system sizes those that are `None`
    /// by the connection's speed, which is nearly always better.
    pub fn with_buffers(send: Option<u32>, receive: Option<u32>) -> Self {
        Self { send_buffer_bytes: send, receive_buffer_bytes: receive }
    }

    async fn open(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // Before connecting: the window that a handshake announces follows from the buffer.
        if let Some(bytes) = self.send_buffer_bytes {
            socket.set_send_buffer_size(bytes)?;
        }
        if let Some(bytes) = self.receive_buffer_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        let stream = socket.connect(to).await?;
        stream.set_nodelay(true)?;
        let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE_AFTER);
        socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        Ok(stream)
    }
}

impl Connector for TcpConnector {
    fn resolve<'a>(&'a self, address: &'a Address) -> Resolving<'a> {
        Box::pin(async move {
            let found: Vec<SocketAddr> = lookup_host((&*address.host, address.port)).await?.collect();
            if found.is_empty() {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
            }
            Ok(found)
        })
    }

    /// What the system's resolver calls each of the name's addresses; the address itself where that has no name.
    fn canonical_names<'a>(&'a self, address: &'a Address) -> Naming<'a> {
        Box::pin(async move {
            let addresses = self.resolve(address).await?;
            let name = |address: &SocketAddr| dns_lookup::lookup_addr(&address.ip()).map_err(io::Error::from);
            let name_all = move || addresses.iter().map(name).collect();
            tokio::task::spawn_blocking(name_all).await.map_err(io::Error::other)?
        })
    }

    fn connect<'a>(&'a self, to: &'a Endpoint) -> Connecting<'a> {
        Box::pin(async move {
            let first = match to.socket_address {
                Some(address) => address,
                // For wrappers that do not resolve themselves.
                None => self.resolve(&to.address).await?.into_iter().next().ok_or(io::ErrorKind::NotFound)?,
            };
            Ok(Box::new(self.open(first).await?) as BoxStream)
        })
    }
}

impl fmt::Debug for dyn Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_have_the_buffers_that_were_asked_for() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let stream = TcpConnector::with_buffers(Some(40_000), Some(50_000)).open(to).await.unwrap();
        let socket = socket2::SockRef::from(&stream);
        // Linux doubles what it is asked for, to keep its own books in.
        assert!((40_000..=80_000).contains(&socket.send_buffer_size().unwrap()));
        assert!((50_000..=100_000).contains(&socket.recv_buffer_size().unwrap()));
        assert!(stream.nodelay().unwrap());
    }

    #[tokio::test]
    async fn localhost_has_addresses_and_a_canonical_name() {
        let address = Address::new("localhost", 9092);
        let connector = TcpConnector::default();
        let addresses = connector.resolve(&address).await.unwrap();
        assert!(addresses.iter().all(|a| a.ip().is_loopback() && a.port() == 9092), "{addresses:?}");
        let names = connector.canonical_names(&address).await.unwrap();
        assert_eq!(names.len(), addresses.len());
    }
}
