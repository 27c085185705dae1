//! The client's connections, by broker and purpose.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Address, Connection, ConnectionError, Connector, Purpose};
use crate::backoff::Backoff;

/// A broker to connect to. Bootstrap servers have negative numbers, as in Java: who they are is not known yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub(crate) id: i32,
    pub(crate) address: Address,
}

#[derive(Debug, Clone)]
pub(crate) struct PoolConfig {
    pub(crate) client_id: Option<Arc<str>>,
    pub(crate) max_frame_bytes: usize,
    /// `socket.connection.setup.timeout`: connecting and agreeing on versions.
    pub(crate) setup_timeout: Duration,
    pub(crate) reconnect_backoff: Backoff,
}

#[derive(Debug)]
pub(crate) struct Pool {
    connector: Arc<dyn Connector>,
    config: PoolConfig,
    slots: Mutex<HashMap<(i32, Purpose), Arc<Slot>>>,
}

#[derive(Debug, Default)]
struct Slot {
    current: Mutex<Current>,
    /// Held by the one caller that connects; others wait for it in line and then use its connection.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Current {
    connection: Option<Connection>,
    failures: u32,
    retry_at: Option<Instant>,
}

impl Slot {
    fn live(&self, address: &Address) -> Option<Connection> {
        let current = self.current.lock();
        current.connection.clone().filter(|c| !c.is_closed() && c.address() == address)
    }
}

impl Pool {
    pub(crate) fn new(connector: Arc<dyn Connector>, config: PoolConfig) -> Self {
        Self { connector, config, slots: Mutex::default() }
    }

    /// The connection to `node`, opened if there is none. Waits out the back-off after failures.
    ///
    /// Dropping the future gives up an attempt that it made itself; the next caller starts a new one.
    pub(crate) async fn connection(
        &self,
        node: &Node,
        purpose: Purpose,
    ) -> Result<Connection, ConnectionError> {
        let slot = self.slots.lock().entry((node.id, purpose)).or_default().clone();
        if let Some(connection) = slot.live(&node.address) {
            return Ok(connection);
        }
        let _turn = slot.connecting.lock().await;
        if let Some(connection) = slot.live(&node.address) {
            return Ok(connection);
        }
        let retry_at = slot.current.lock().retry_at;
        if let Some(at) = retry_at {
            tokio::time::sleep_until(at).await;
        }
        let opened = self.open(&node.address).await;
        let mut current = slot.current.lock();
        match opened {
            Ok(connection) => {
                *current = Current { connection: Some(connection.clone()), failures: 0, retry_at: None };
                tracing::debug!(broker = node.id, address = %node.address, ?purpose, "connected");
                Ok(connection)
            }
            Err(error) => {
                let failures = current.failures.saturating_add(1);
                let delay = self.config.reconnect_backoff.random_delay(failures);
                *current = Current { connection: None, failures, retry_at: Some(Instant::now() + delay) };
                tracing::debug!(broker = node.id, %error, failures, ?delay, "could not connect");
                Err(error)
            }
        }
    }

    /// How soon a request to `node` could leave: the rank of a candidate when any broker will do.
    pub(crate) fn readiness(&self, node: &Node, purpose: Purpose, now: Instant) -> Readiness {
        let slot = self.slots.lock().get(&(node.id, purpose)).cloned();
        let Some(slot) = slot else {
            return Readiness::Untried;
        };
        if slot.live(&node.address).is_some() {
            return Readiness::Connected;
        }
        match slot.current.lock().retry_at {
            Some(at) if at > now => Readiness::BackingOff(at),
            _ => Readiness::Untried,
        }
    }

    async fn open(&self, address: &Address) -> Result<Connection, ConnectionError> {
        let setup = async {
            let stream = self.connector.connect(&address.host, address.port).await.map_err(|source| {
                ConnectionError::Connect { address: address.clone(), source: Arc::new(source) }
            })?;
            let PoolConfig { client_id, max_frame_bytes, setup_timeout, .. } = &self.config;
            Connection::open(stream, address.clone(), client_id.clone(), *max_frame_bytes, *setup_timeout)
                .await
        };
        let waited = self.config.setup_timeout;
        tokio::time::timeout(waited, setup)
            .await
            .unwrap_or_else(|_| Err(ConnectionError::SetupTimeout { address: address.clone(), waited }))
    }
}

/// In order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Readiness {
    Connected,
    Untried,
    BackingOff(Instant),
}
