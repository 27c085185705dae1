//! The servers a client begins with, and begins with again.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::timeout;

use crate::cluster::{Cluster, Sources};
use crate::net::{Address, ConnectionError, Connector, DnsLookup, Node, Readiness};

#[derive(Debug)]
pub(super) struct Bootstrap {
    given: Vec<Address>,
    lookup: DnsLookup,
    /// What the given names stand for, once that was looked up.
    nodes: Mutex<Option<Arc<[Node]>>>,
}

impl Bootstrap {
    pub(super) fn new(given: Vec<Address>, lookup: DnsLookup) -> Self {
        let nodes = (lookup == DnsLookup::UseAllDnsIps).then(|| numbered(given.iter().cloned()));
        Self { given, lookup, nodes: Mutex::new(nodes) }
    }

    /// Looks names up again before they are used next.
    pub(super) fn forget(&self) {
        if self.lookup == DnsLookup::CanonicalBootstrapOnly {
            *self.nodes.lock() = None;
        }
    }

    /// The servers; an error if not one of the given names could be looked up.
    pub(super) async fn nodes(
        &self,
        connector: &dyn Connector,
        within: Duration,
    ) -> Result<Arc<[Node]>, ConnectionError> {
        if let Some(nodes) = self.nodes.lock().clone() {
            return Ok(nodes);
        }
        let mut found: Vec<Address> = Vec::new();
        let mut failed = None;
        for address in &self.given {
            match timeout(within, connector.canonical_names(address)).await {
                Ok(Ok(names)) => {
                    let addresses = names.into_iter().map(|name| Address::new(name, address.port));
                    found.extend(addresses);
                }
                Ok(Err(source)) => {
                    let (address, source) = (address.clone(), Arc::new(source));
                    failed = Some(ConnectionError::Resolve { address, source });
                }
                Err(_) => {
                    failed = Some(ConnectionError::SetupTimeout { address: address.clone(), waited: within });
                }
            }
        }
        found.sort_by(|a, b| (&a.host, a.port).cmp(&(&b.host, b.port)));
        found.dedup();
        if let (true, Some(error)) = (found.is_empty(), failed) {
            return Err(error);
        }
        let nodes = numbered(found);
        *self.nodes.lock() = Some(nodes.clone());
        Ok(nodes)
    }
}

/// Negative numbers, as in Java: who they are is not known yet.
fn numbered(addresses: impl IntoIterator<Item = Address>) -> Arc<[Node]> {
    addresses.into_iter().zip(1..).map(|(address, number)| Node { id: -number, address }).collect()
}

/// The servers that may be asked, the cluster's brokers first.
pub(super) fn candidates(sources: Sources, cluster: &Cluster, bootstrap: &[Node]) -> Vec<Node> {
    let brokers = cluster.brokers().map(|broker| Node { id: broker.id, address: broker.address.clone() });
    match sources {
        Sources::Brokers if brokers.len() > 0 => brokers.collect(),
        Sources::All => brokers.chain(bootstrap.iter().cloned()).collect(),
        Sources::Brokers | Sources::Bootstrap => bootstrap.to_vec(),
    }
}

/// The one that can be asked soonest; among equals a broker before a bootstrap server, and which of them is drawn by
/// `unit` in `0.0..1.0`.
pub(super) fn choose(candidates: Vec<(Node, Readiness)>, unit: f64) -> Option<(Node, Readiness)> {
    let rank = |(node, readiness): &(Node, Readiness)| (*readiness, node.id < 0);
    let best = candidates.iter().map(rank).min()?;
    let mut equals: Vec<_> = candidates.into_iter().filter(|one| rank(one) == best).collect();
    let at = (unit * equals.len() as f64) as usize;
    Some(equals.swap_remove(at.min(equals.len() - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Asked;
    use crate::net::{BoxStream, Connecting, Endpoint, Naming};
    use kafka_wire::StrBytes;
    use kafka_wire::messages::metadata_response::MetadataResponseBroker;
    use kafka_wire::messages::{BrokerId, MetadataResponse};
    use tokio::time::Instant;

    const SECOND: Duration = Duration::from_secs(1);

    fn cluster(ids: &[i32]) -> Cluster {
        let brokers = ids.iter().map(|&id| {
            MetadataResponseBroker::default()
                .with_node_id(BrokerId(id))
                .with_host(StrBytes::from_string(format!("b{id}")))
                .with_port(9092)
        });
        let response = MetadataResponse::default().with_brokers(brokers.collect());
        Cluster::default().updated(response, &Asked::Topics(Vec::new()))
    }

    fn bootstrap() -> Arc<[Node]> {
        numbered([Address::new("boot", 9092), Address::new("boot2", 9092)])
    }

    fn ids(nodes: &[Node]) -> Vec<i32> {
        nodes.iter().map(|node| node.id).collect()
    }

    #[test]
    fn bootstrap_servers_are_for_the_beginning_and_as_the_strategy_says() {
        let (empty, known) = (cluster(&[]), cluster(&[1, 2]));
        let of = |sources, cluster| ids(&candidates(sources, cluster, &bootstrap()));
        for sources in [Sources::All, Sources::Brokers, Sources::Bootstrap] {
            assert_eq!(of(sources, &empty), [-1, -2]);
        }
        assert_eq!(of(Sources::Brokers, &known), [1, 2]);
        assert_eq!(of(Sources::All, &known), [1, 2, -1, -2]);
        assert_eq!(of(Sources::Bootstrap, &known), [-1, -2]);
    }

    #[test]
    fn whoever_can_be_asked_soonest_is_asked_and_brokers_before_bootstrap_servers() {
        let now = Instant::now();
        let chosen = |readiness: &[(i32, Readiness)], unit| {
            let node = |id| Node { id, address: Address::new("b", 1) };
            choose(readiness.iter().map(|&(id, r)| (node(id), r)).collect(), unit).unwrap().0.id
        };
        let (soon, late) = (Readiness::Doubted(now), Readiness::Doubted(now + SECOND));
        let muted = Readiness::Muted(now);
        assert_eq!(chosen(&[(1, Readiness::Untried), (-1, Readiness::Connected)], 0.5), -1);
        assert_eq!(chosen(&[(-1, Readiness::Untried), (1, Readiness::Untried)], 0.5), 1);
        // Every broker is down: the bootstrap servers are asked (KIP-899).
        assert_eq!(chosen(&[(1, soon), (2, late), (-1, Readiness::Untried)], 0.5), -1);
        assert_eq!(chosen(&[(1, late), (2, soon), (-1, late)], 0.5), 2);
        // A broker that asked for a pause is left in peace while there is another one.
        assert_eq!(chosen(&[(1, muted), (2, Readiness::Untried)], 0.5), 2);
        assert_eq!(chosen(&[(1, muted), (2, late)], 0.5), 1);
        let equals = [(1, Readiness::Untried), (2, Readiness::Untried), (3, Readiness::Untried)];
        assert_eq!([0.0, 0.4, 0.99].map(|unit| chosen(&equals, unit)), [1, 2, 3]);
    }

    /// A name server for one alias.
    struct Aliases(Mutex<Vec<&'static str>>);

    impl Connector for Aliases {
        fn canonical_names<'a>(&'a self, address: &'a Address) -> Naming<'a> {
            let names = self.0.lock().iter().map(|name| (*name).to_owned()).collect();
            let known = &*address.host == "alias";
            Box::pin(async move { if known { Ok(names) } else { Err(std::io::ErrorKind::NotFound.into()) } })
        }

        fn connect<'a>(&'a self, _to: &'a Endpoint) -> Connecting<'a> {
            Box::pin(std::future::pending::<std::io::Result<BoxStream>>())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_alias_stands_for_the_full_names_behind_it_until_they_are_looked_up_again() {
        let aliases = Aliases(Mutex::new(vec!["k2.example", "k1.example", "k2.example"]));
        let given = vec![Address::new("alias", 9092), Address::new("unknown", 9092)];
        let bootstrap = Bootstrap::new(given.clone(), DnsLookup::CanonicalBootstrapOnly);
        let hosts = async || {
            let nodes = bootstrap.nodes(&aliases, SECOND).await.unwrap();
            nodes.iter().map(|node| node.address.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(hosts().await, ["k1.example:9092", "k2.example:9092"]);
        *aliases.0.lock() = vec!["k3.example"];
        assert_eq!(hosts().await.len(), 2);
        bootstrap.forget();
        assert_eq!(hosts().await, ["k3.example:9092"]);

        let unknown = Bootstrap::new(given[1..].to_vec(), DnsLookup::CanonicalBootstrapOnly);
        let error = unknown.nodes(&aliases, SECOND).await.unwrap_err();
        assert!(matches!(&error, ConnectionError::Resolve { .. }) && error.is_retriable(), "{error}");
        let plain = Bootstrap::new(given, DnsLookup::UseAllDnsIps);
        assert_eq!(plain.nodes(&aliases, SECOND).await.unwrap()[0].address.to_string(), "alias:9092");
    }
}
