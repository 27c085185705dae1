//! Ways to a broker: addresses in turn, time-outs, pauses, and servers that are asked again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kafka_wire::StrBytes;
use kafka_wire::messages::metadata_response::MetadataResponseBroker;
use parking_lot::Mutex;

use super::*;
use crate::backoff::Backoff;
use crate::client::Target;
use crate::cluster::MetadataRecovery;
use crate::{Client, ClientBuilder};

const SECOND: Duration = Duration::from_secs(1);

/// What a server at some address does.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Server {
    /// Serves ApiVersions and Metadata as this broker.
    Serves(i32),
    /// As `Serves`, and sends the client away when it asks for metadata (KIP-1102).
    SendsAway(i32),
    /// Shakes hands, and closes the connection upon anything else.
    HangsUp,
    Refuses,
    /// Takes the connection and says nothing.
    Mute,
    /// Packets to it vanish.
    Vanishes,
}

/// Names, their addresses and what is there.
#[derive(Debug, Clone, Default)]
struct World(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    names: Vec<(&'static str, Vec<u8>)>,
    servers: Vec<(u8, Server)>,
    /// What Metadata says of the cluster: numbers and names of brokers.
    brokers: Vec<(i32, &'static str)>,
    tried: Vec<u8>,
    resolved: usize,
}

impl World {
    fn new(names: &[(&'static str, &[u8])], servers: &[(u8, Server)]) -> Self {
        let names = names.iter().map(|&(name, at)| (name, at.to_vec())).collect();
        Self(Arc::new(Mutex::new(State { names, servers: servers.to_vec(), ..State::default() })))
    }

    fn set_brokers(&self, brokers: &[(i32, &'static str)]) {
        self.0.lock().brokers = brokers.to_vec();
    }

    fn set_server(&self, at: u8, server: Server) {
        let state = &mut *self.0.lock();
        state.servers.retain(|(known, _)| *known != at);
        state.servers.push((at, server));
    }

    fn tried(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().tried)
    }

    fn pool(&self) -> Pool {
        self.pool_of(AddressFamily::Any)
    }

    fn pool_of(&self, address_family: AddressFamily) -> Pool {
        let policy = DialPolicy {
            setup_timeout: Backoff::new(10 * SECOND, 30 * SECOND),
            reconnect_backoff: Backoff::new(SECOND / 20, SECOND),
            address_family,
        };
        Pool::new(Arc::new(self.clone()), CONFIG, policy)
    }

    fn client(&self, bootstrap: &str) -> ClientBuilder {
        Client::builder(bootstrap).connector(self.clone())
    }

    async fn serve(self, mut peer: Peer, at: u8) {
        while let Some((header, _)) = peer.next().await {
            let server = self.at(at);
            match (server, header.request_api_key) {
                (Server::Refuses, _) => return,
                (Server::Mute | Server::Vanishes, _) => std::future::pending().await,
                (_, 18) => peer.answer::<ApiVersionsRequest>(&header, &kafka_4_3_versions()).await,
                (Server::HangsUp, _) => return,
                (Server::SendsAway(_), _) => {
                    let away = ErrorCode::RebootstrapRequired.code();
                    let response = MetadataResponse::default().with_error_code(away);
                    peer.answer::<MetadataRequest>(&header, &response).await;
                }
                (Server::Serves(id), _) => {
                    let response = self.metadata().with_controller_id(BrokerId(id));
                    peer.answer::<MetadataRequest>(&header, &response).await;
                }
            }
        }
    }

    fn at(&self, at: u8) -> Server {
        let state = self.0.lock();
        state.servers.iter().find(|(known, _)| *known == at).map_or(Server::Refuses, |&(_, server)| server)
    }

    fn metadata(&self) -> MetadataResponse {
        let broker = |&(id, host): &(i32, &'static str)| {
            MetadataResponseBroker::default()
                .with_node_id(BrokerId(id))
                .with_host(StrBytes::from_static_str(host))
                .with_port(9092)
        };
        MetadataResponse::default().with_brokers(self.0.lock().brokers.iter().map(broker).collect())
    }
}

impl Connector for World {
    fn resolve<'a>(&'a self, address: &'a Address) -> Resolving<'a> {
        let state = &mut *self.0.lock();
        state.resolved += 1;
        let found = state.names.iter().find(|(name, _)| *name == &*address.host);
        let found = found.map(|(_, at)| at.iter().map(|&at| SocketAddr::from(([10, 0, 0, at], 1))).collect());
        Box::pin(std::future::ready(found.ok_or_else(|| io::ErrorKind::NotFound.into())))
    }

    fn connect<'a>(&'a self, to: &'a Endpoint) -> Connecting<'a> {
        let Some(SocketAddr::V4(to)) = to.socket_address else { panic!("{to:?}") };
        let at = to.ip().octets()[3];
        self.0.lock().tried.push(at);
        let server = self.at(at);
        Box::pin(async move {
            if server == Server::Vanishes {
                std::future::pending::<()>().await;
            }
            if server == Server::Refuses {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (near, peer) = Peer::pair();
            tokio::spawn(self.clone().serve(peer, at));
            Ok(Box::new(near) as BoxStream)
        })
    }
}

fn node() -> Node {
    Node { id: 1, address: Address::new("b", 9092) }
}

#[tokio::test(start_paused = true)]
async fn all_addresses_of_a_name_are_tried_at_once_until_one_leads_to_a_broker() {
    let world = World::new(&[("b", &[1, 2, 3])], &[(3, Server::Serves(1))]);
    let (pool, began) = (world.pool(), Instant::now());
    pool.connection(&node(), Purpose::Control).await.unwrap();
    assert_eq!((world.tried(), began.elapsed()), (vec![1, 2, 3], Duration::ZERO));
    // The connection is shared, but not with other traffic.
    pool.connection(&node(), Purpose::Control).await.unwrap();
    assert!(world.tried().is_empty());
    pool.connection(&node(), Purpose::Fetch).await.unwrap();
    assert_eq!(world.tried(), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn an_address_without_an_answer_costs_its_time_out_and_the_next_call_goes_on_with_the_next_one() {
    let world = World::new(&[("b", &[1, 2])], &[(1, Server::Mute), (2, Server::Serves(1))]);
    let (pool, began) = (world.pool(), Instant::now());
    let error = pool.connection(&node(), Purpose::Control).await.unwrap_err();
    assert!(matches!(error, ConnectionError::SetupTimeout { .. }), "{error}");
    assert!((8..=12).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    let now = Instant::now();
    pool.connection(&node(), Purpose::Control).await.unwrap();
    assert_eq!((world.tried(), now.elapsed()), (vec![1, 2], Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn an_address_that_packets_do_not_reach_costs_a_moment_and_no_time_out() {
    let world = World::new(&[("b", &[1, 2, 3])], &[(1, Server::Vanishes), (3, Server::Serves(1))]);
    let (pool, began) = (world.pool(), Instant::now());
    pool.connection(&node(), Purpose::Control).await.unwrap();
    assert_eq!((world.tried(), began.elapsed().as_millis()), (vec![1, 2, 3], 250));
    // With none left to turn to, it is waited for in full.
    let world = World::new(&[("b", &[1, 2])], &[(1, Server::Vanishes)]);
    let (pool, began) = (world.pool(), Instant::now());
    let error = pool.connection(&node(), Purpose::Control).await.unwrap_err();
    assert!(matches!(error, ConnectionError::SetupTimeout { .. }), "{error}");
    assert!((8..=12).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn names_are_resolved_again_once_no_address_is_left_and_after_a_lost_connection() {
    let world = World::new(&[("b", &[1])], &[(2, Server::Serves(1))]);
    let pool = world.pool();
    let error = pool.connection(&node(), Purpose::Control).await.unwrap_err();
    assert!(matches!(error, ConnectionError::Connect { .. }), "{error}");
    // The broker was replaced.
    world.0.lock().names = vec![("b", vec![2])];
    let began = Instant::now();
    let connection = pool.connection(&node(), Purpose::Control).await.unwrap();
    assert!((40..=60).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    world.set_server(2, Server::HangsUp);
    connection.request(&question(), ask()).await.unwrap_err();
    world.0.lock().names = vec![("b", vec![3])];
    world.set_server(3, Server::Serves(1));
    let began = Instant::now();
    pool.connection(&node(), Purpose::Control).await.unwrap();
    assert_eq!((world.tried(), world.0.lock().resolved), (vec![1, 2, 3], 3));
    assert!((40..=60).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn addresses_of_another_family_are_left_alone() {
    let world = World::new(&[("b", &[1])], &[(1, Server::Serves(1))]);
    world.pool_of(AddressFamily::V4).connection(&node(), Purpose::Control).await.unwrap();
    let error = world.pool_of(AddressFamily::V6).connection(&node(), Purpose::Control).await.unwrap_err();
    assert!(error.to_string().contains("V6") && world.tried() == [1], "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_name_without_an_address_is_an_error_that_says_so() {
    let world = World::new(&[], &[]);
    let error = world.pool().connection(&node(), Purpose::Control).await.unwrap_err();
    assert!(matches!(error, ConnectionError::Resolve { .. }) && error.is_retriable(), "{error}");
    assert!(error.to_string().contains("b:9092"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_moved_is_another_peer() {
    let world = World::new(&[("b", &[1]), ("c", &[2])], &[(2, Server::Serves(1))]);
    let pool = world.pool();
    pool.connection(&node(), Purpose::Control).await.unwrap_err();
    let moved = Node { id: 1, address: Address::new("c", 9092) };
    let now = Instant::now();
    assert_eq!(pool.readiness(&moved, Purpose::Control, now), Readiness::Untried);
    pool.connection(&moved, Purpose::Control).await.unwrap();
    assert_eq!(now.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn callers_who_give_up_leave_the_way_open_for_the_others() {
    let world = World::new(&[("b", &[1, 2])], &[(1, Server::Mute), (2, Server::Serves(1))]);
    let pool = Arc::new(world.pool());
    let impatient = tokio::time::timeout(SECOND, async { pool.connection(&node(), Purpose::Control).await });
    let patient = async {
        tokio::time::sleep(SECOND / 2).await;
        pool.connection(&node(), Purpose::Control).await
    };
    let (impatient, patient) = tokio::join!(impatient, patient);
    assert!(impatient.is_err() && patient.is_ok());
    assert_eq!(world.tried(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn one_bootstrap_server_of_many_that_is_up_is_found_at_once() {
    let names: [(&str, &[u8]); 4] = [("a", &[1]), ("b", &[2]), ("c", &[3]), ("d", &[4, 5])];
    let world = World::new(&names, &[(5, Server::Serves(1))]);
    world.set_brokers(&[(1, "d")]);
    for _ in 0..10 {
        let began = Instant::now();
        world.client("a:1,b:1,c:1,d:1,e:1").connect().await.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert_eq!(world.tried().last(), Some(&5));
    }
}

/// A cluster of two brokers behind a name, known to the client.
async fn acquainted(recovery: MetadataRecovery) -> (World, Client) {
    let names: [(&str, &[u8]); 4] = [("boot", &[9]), ("b1", &[1]), ("b2", &[2]), ("b3", &[3])];
    let servers =
        [(9, Server::Serves(1)), (1, Server::Serves(1)), (2, Server::Serves(2)), (3, Server::Serves(3))];
    let world = World::new(&names, &servers);
    world.set_brokers(&[(1, "b1"), (2, "b2")]);
    let client = world.client("boot:9092").metadata_recovery(recovery).connect().await.unwrap();
    assert_eq!(client.cluster().brokers().len(), 2);
    (world, client)
}

#[tokio::test(start_paused = true)]
async fn when_every_broker_is_gone_the_bootstrap_servers_are_asked_again() {
    for recovery in [MetadataRecovery::Rebootstrap, MetadataRecovery::None] {
        let (world, client) = acquainted(recovery).await;
        for at in [9, 1, 2] {
            world.set_server(at, Server::HangsUp);
        }
        client.refresh_within(Some(&[]), 5 * SECOND).await.unwrap_err();
        // The whole cluster was replaced, and its alias leads to a new broker.
        [9, 1, 2].iter().for_each(|&at| world.set_server(at, Server::Refuses));
        world.0.lock().names[0].1 = vec![3];
        world.set_brokers(&[(3, "b3")]);
        world.tried();
        let refreshed = client.refresh_within(Some(&[]), 20 * SECOND).await;
        if recovery == MetadataRecovery::Rebootstrap {
            assert!(refreshed.unwrap().broker(3).is_some());
        } else {
            refreshed.unwrap_err();
            assert!(!world.tried().contains(&3));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_shows_connections_and_how_fresh_metadata_is() {
    let (world, client) = acquainted(MetadataRecovery::Rebootstrap).await;
    client.request(question()).to(Target::Broker(1)).await.unwrap();
    client.refresh_topics(["t"]).await.unwrap();
    tokio::time::sleep(7 * SECOND).await;
    let shown = client.debug_snapshot();
    let up: Vec<_> = shown.connections.iter().map(|c| (c.broker, c.purpose, c.is_connected)).collect();
    assert_eq!(up, [(-1, "control", true), (1, "control", true)]);
    assert_eq!((shown.metadata.age, shown.metadata.failures), (Some(7 * SECOND), 0));
    assert_eq!(shown.metadata.topics_in_use, [(Arc::from("t"), 7 * SECOND)]);

    [9, 1, 2].iter().for_each(|&at| world.set_server(at, Server::Refuses));
    client.refresh_within(Some(&[]), SECOND).await.unwrap_err();
    let shown = client.debug_snapshot();
    assert!(shown.connections.iter().all(|c| !c.is_connected && c.failures > 0), "{shown:?}");
    assert!(shown.metadata.failures > 0 && shown.metadata.age > Some(7 * SECOND), "{shown:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_sent_away_finds_its_new_cluster_before_anybody_notices() {
    let (world, client) = acquainted(MetadataRecovery::Rebootstrap).await;
    [9, 1, 2].iter().for_each(|&at| world.set_server(at, Server::SendsAway(1)));
    world.0.lock().names[0].1 = vec![3];
    world.set_brokers(&[(3, "b3")]);
    let began = Instant::now();
    let cluster = client.refresh_within(Some(&[]), 20 * SECOND).await.unwrap();
    assert_eq!(cluster.brokers().map(|broker| broker.id).collect::<Vec<_>>(), [3]);
    assert_eq!(began.elapsed(), Duration::ZERO);
    let answer = client.request(question()).to(Target::Broker(3)).await.unwrap();
    assert_eq!(answer.controller_id.0, 3);
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_cluster_is_an_error_within_the_time_out_and_is_not_hammered() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = attempts.clone();
    let refuse = move |_host: String, _port: u16| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Err::<tokio::io::DuplexStream, _>(io::Error::from(io::ErrorKind::ConnectionRefused)) }
    };
    let started = Instant::now();
    let error = Client::builder("nowhere:9092").connector(refuse).connect().await.unwrap_err();
    assert!(error.to_string().contains("nowhere:9092"), "{error}");
    assert_eq!(started.elapsed().as_secs(), 10);
    assert!((5..40).contains(&attempts.load(Ordering::Relaxed)), "{attempts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_accepts_and_says_nothing_times_out() {
    let mute = |_host: String, _port: u16| async {
        let (near, far) = tokio::io::duplex(1024);
        tokio::spawn(async move {
            let _open = far;
            std::future::pending::<()>().await;
        });
        Ok::<_, io::Error>(near)
    };
    let started = Instant::now();
    let timeout = Duration::from_secs(3);
    let client = Client::builder("mute:9092").connector(mute).connect_timeout(timeout);
    assert!(client.connect().await.is_err());
    assert_eq!(started.elapsed(), timeout);
}
