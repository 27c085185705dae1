//! The client's connections, by broker and purpose.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::connector::Endpoint;
use super::dial::{DialPolicy, Dialer, Step, Verdict};
use super::metrics::Labels;
use super::{Address, BoxStream, Connection, ConnectionConfig, ConnectionError, Connector, Purpose};
use crate::backoff::random_unit;

/// A broker to connect to. Bootstrap servers have negative numbers, as in Java: who they are is not known yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub(crate) id: i32,
    pub(crate) address: Address,
}

#[derive(Debug)]
pub(crate) struct Pool {
    connector: Arc<dyn Connector>,
    config: ConnectionConfig,
    policy: DialPolicy,
    slots: Mutex<HashMap<(i32, Purpose), Arc<Slot>>>,
}

#[derive(Debug)]
struct Slot {
    address: Address,
    current: Mutex<Current>,
    /// Held by the one caller that connects; others wait for it in line and then use its connection.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Current {
    connection: Option<Connection>,
    dialer: Dialer,
}

impl Slot {
    fn new(policy: DialPolicy, node: &Node) -> Self {
        let current = Current { connection: None, dialer: Dialer::new(policy) };
        Self {
            address: node.address.clone(),
            current: Mutex::new(current),
            connecting: tokio::sync::Mutex::default(),
        }
    }
}

impl Current {
    /// The connection that is up. One that was lost counts for the back-off, once.
    fn live(&mut self) -> Option<Connection> {
        if let Some(gone) = self.connection.take_if(|connection| connection.is_closed())
            && let Some(at) = gone.failed_at()
        {
            self.dialer.lost(at, random_unit());
        }
        self.connection.clone()
    }
}

impl Pool {
    pub(crate) fn new(connector: Arc<dyn Connector>, config: ConnectionConfig, policy: DialPolicy) -> Self {
        Self { connector, config, policy, slots: Mutex::default() }
    }

    pub(crate) fn connector(&self) -> &dyn Connector {
        &*self.connector
    }

    /// Forgets every connection, and what is known of how to get at brokers. Connections end when their users are done.
    pub(crate) fn let_go(&self) {
        self.slots.lock().clear();
    }

    /// The connection to `node`, opened if there is none. Waits out the back-off after failures.
    ///
    /// Dropping the future gives up an attempt that it made itself; the next caller starts a new one.
    pub(crate) async fn connection(
        &self,
        node: &Node,
        purpose: Purpose,
    ) -> Result<Connection, ConnectionError> {
        let slot = self.slot(node, purpose);
        if let Some(connection) = slot.current.lock().live() {
            return Ok(connection);
        }
        let _turn = slot.connecting.lock().await;
        if let Some(connection) = slot.current.lock().live() {
            return Ok(connection);
        }
        self.dial(&slot, node, purpose).await
    }

    /// How soon a request to `node` could leave: the rank of a candidate when any broker will do.
    pub(crate) fn readiness(&self, node: &Node, purpose: Purpose, now: Instant) -> Readiness {
        let slot = self.slots.lock().get(&(node.id, purpose)).cloned();
        let Some(slot) = slot.filter(|slot| slot.address == node.address) else {
            return Readiness::Untried;
        };
        let mut current = slot.current.lock();
        match current.live() {
            Some(connection) => connection.muted_until(now).map_or(Readiness::Connected, Readiness::Muted),
            None => current.dialer.doubted(now).map_or(Readiness::Untried, Readiness::Doubted),
        }
    }

    /// What there is, by broker.
    pub(crate) fn show(&self, now: Instant) -> Vec<ConnectionSnapshot> {
        let slots: Vec<_> = self.slots.lock().iter().map(|(&key, slot)| (key, slot.clone())).collect();
        let show = |((broker, purpose), slot): ((i32, Purpose), Arc<Slot>)| {
            let mut current = slot.current.lock();
            let connection = current.live();
            ConnectionSnapshot {
                broker,
                purpose: purpose.name(),
                address: slot.address.clone(),
                is_connected: connection.is_some(),
                failures: current.dialer.failures(),
                muted_for: connection
                    .map_or_else(|| current.dialer.backing_off(now), |connection| connection.muted_until(now))
                    .map(|until| until.saturating_duration_since(now)),
            }
        };
        let mut shown: Vec<_> = slots.into_iter().map(show).collect();
        shown.sort_by_key(|connection| (connection.broker, connection.purpose));
        shown
    }

    fn slot(&self, node: &Node, purpose: Purpose) -> Arc<Slot> {
        let mut slots = self.slots.lock();
        let slot = slots
            .entry((node.id, purpose))
            // A broker that moved is another peer; who still waits for the old one gets its answer or its end.
            .and_modify(|slot| {
                if slot.address != node.address {
                    *slot = Arc::new(Slot::new(self.policy, node));
                }
            })
            .or_insert_with(|| Arc::new(Slot::new(self.policy, node)));
        slot.clone()
    }

    /// Does what the slot's dialer says until there is a connection or it gives up. Each lock is held for one question:
    /// the future may be dropped anywhere, and the next caller goes on from there.
    async fn dial(&self, slot: &Slot, node: &Node, purpose: Purpose) -> Result<Connection, ConnectionError> {
        let mut opening = FuturesUnordered::new();
        loop {
            let step = slot.current.lock().dialer.step(Instant::now(), opening.len(), random_unit());
            let attempt = match step {
                Step::Wait { until } => {
                    sleep_until(until).await;
                    continue;
                }
                Step::Resolve { within } => match self.resolve(&node.address, within).await {
                    Ok(addresses) => {
                        slot.current.lock().dialer.resolved(addresses);
                        continue;
                    }
                    Err(error) => Err(error),
                },
                Step::Connect { to, within } => {
                    opening.push(self.open(Endpoint::new(node.address.clone(), to), within));
                    continue;
                }
                Step::Hold { until } => {
                    let next = opening.select_next_some();
                    let opened = match until {
                        Some(until) => timeout_at(until, next).await.ok(),
                        None => Some(next.await),
                    };
                    match opened {
                        Some(Ok((stream, setup))) => self.shake_hands(stream, setup, node, purpose).await,
                        Some(Err(error)) => Err(error),
                        None => continue,
                    }
                }
            };
            let mut current = slot.current.lock();
            match attempt {
                Ok(connection) => {
                    current.dialer.connected();
                    current.connection = Some(connection.clone());
                    tracing::debug!(broker = node.id, address = %node.address, ?purpose, "connected");
                    return Ok(connection);
                }
                Err(error) => {
                    let timed_out = matches!(error, ConnectionError::SetupTimeout { .. });
                    let (now, open) = (Instant::now(), opening.len());
                    let verdict = current.dialer.failed(now, open, timed_out, random_unit());
                    Labels::new(self.config.client_id.as_ref(), node, purpose).failed();
                    tracing::debug!(broker = node.id, %error, ?verdict, "could not connect");
                    if verdict == Verdict::GiveUp {
                        return Err(error);
                    }
                }
            }
        }
    }

    async fn resolve(&self, address: &Address, within: Duration) -> Result<Vec<SocketAddr>, ConnectionError> {
        let setup = Setup::begin(within);
        let failed = |source| ConnectionError::Resolve { address: address.clone(), source: Arc::new(source) };
        let mut addresses = setup.bound(address, self.connector.resolve(address)).await?.map_err(failed)?;
        let any = !addresses.is_empty();
        addresses.retain(|address| self.policy.address_family.includes(address));
        if any && addresses.is_empty() {
            let why = format!("no address of family {:?}", self.policy.address_family);
            return Err(failed(io::Error::new(io::ErrorKind::NotFound, why)));
        }
        Ok(addresses)
    }

    async fn open(&self, to: Endpoint, within: Duration) -> Result<(BoxStream, Setup), ConnectionError> {
        let setup = Setup::begin(within);
        match setup.bound(&to.address, self.connector.connect(&to)).await? {
            Ok(stream) => Ok((stream, setup)),
            Err(source) => Err(ConnectionError::Connect { address: to.address, source: Arc::new(source) }),
        }
    }

    async fn shake_hands(
        &self,
        stream: BoxStream,
        setup: Setup,
        node: &Node,
        purpose: Purpose,
    ) -> Result<Connection, ConnectionError> {
        let opened = Connection::open(stream, node, purpose, &self.config, setup.within);
        setup.bound(&node.address, opened).await?
    }
}

/// The time that an attempt has.
#[derive(Debug, Clone, Copy)]
struct Setup {
    within: Duration,
    deadline: Instant,
}

impl Setup {
    fn begin(within: Duration) -> Self {
        Self { within, deadline: Instant::now() + within }
    }

    async fn bound<T>(
        self,
        address: &Address,
        future: impl Future<Output = T>,
    ) -> Result<T, ConnectionError> {
        let timed_out = |_| ConnectionError::SetupTimeout { address: address.clone(), waited: self.within };
        timeout_at(self.deadline, future).await.map_err(timed_out)
    }
}

/// One connection of a client, or what there is instead of one.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectionSnapshot {
    /// The broker's number; bootstrap servers have negative ones.
    pub broker: i32,
    /// What it is for: `produce`, `fetch`, `coordinator` or `control`.
    pub purpose: &'static str,
    /// Where the broker listens.
    pub address: Address,
    /// Whether it is up.
    pub is_connected: bool,
    /// How often in a row none of the broker's addresses took a connection.
    pub failures: u32,
    /// How long nothing will be sent: the broker asked for a pause (KIP-219), or the back-off holds.
    pub muted_for: Option<Duration>,
}

/// In order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Readiness {
    Connected,
    Untried,
    /// Connected, and asked for a pause (KIP-219).
    Muted(Instant),
    /// It failed when it was tried last, and may be tried again from then on.
    Doubted(Instant),
}
