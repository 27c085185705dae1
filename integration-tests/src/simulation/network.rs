//! The network between clients and the nodes: it carries frames, late or not at all, as the seed says.
//!
//! Every connection is two pipes in memory with a task for each direction between them. A task takes whole frames out
//! of one pipe, draws what happens to each, and puts them into the other pipe when their time has come. Order within a
//! connection holds, as it does with TCP.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use kafka_client::net::{BoxStream, Connecting, Connector, Endpoint};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::budget::FaultBudget;
use super::plan::Plan;
use super::random::Random;
use super::site::Site;
use super::tamper::{Passing, Tamper};
use super::trace::{Trace, lock};

/// A network with a few nodes. Clones are the same network.
#[derive(Debug, Clone)]
pub struct Network(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    plan: Plan,
    site: Site,
    trace: Trace,
    random: Mutex<Random>,
    /// Cleared when the faults are over.
    faulty: AtomicBool,
    budget: FaultBudget,
    connections: AtomicU32,
    /// Everything that is connected to a node hears of its end.
    severed: BTreeMap<i32, Signal>,
}

/// Something that happens now and then. Whoever waits for it is woken in the order of waiting: tokio's `watch` draws
/// lots, which no seed decides.
#[derive(Debug, Default)]
struct Signal {
    count: AtomicU32,
    news: Notify,
}

impl Signal {
    fn raise(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.news.notify_waiters();
    }

    fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    async fn raised_after(&self, count: u32) {
        let mut news = pin!(self.news.notified());
        news.as_mut().enable();
        if self.count() == count {
            news.await;
        }
    }
}

/// What happens to a frame.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    /// It arrives after a while.
    Arrives(Duration),
    /// That many of its bytes arrive, then the connection is cut.
    Cut(usize),
    /// Neither it nor anything after it arrives.
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Answer,
}

impl Network {
    /// A network to the nodes of a site that does what the plan's seed decides, once [`begin_faults`](Self::begin_faults) was
    /// called.
    pub fn new(plan: &Plan, site: Site, budget: FaultBudget, trace: Trace) -> Self {
        Self(Arc::new(Inner {
            random: Mutex::new(Random::stream(plan.seed, 2)),
            plan: plan.clone(),
            trace,
            faulty: AtomicBool::new(false),
            budget,
            connections: AtomicU32::new(0),
            severed: site.nodes().map(|node| (node, Signal::default())).collect(),
            site,
        }))
    }

    /// Faults happen from now on.
    pub fn begin_faults(&self) {
        self.0.faulty.store(true, Ordering::Relaxed);
    }

    /// No more faults. What was lost stays lost, and what is late stays late.
    pub fn end_faults(&self) {
        self.0.faulty.store(false, Ordering::Relaxed);
    }

    /// Cuts every connection, as the end of the nodes' process does.
    pub fn sever_all(&self) {
        self.0.severed.values().for_each(Signal::raise);
    }

    /// Cuts every connection to a node, as its crash does.
    pub fn sever(&self, node: i32) {
        self.0.severed.get(&node).into_iter().for_each(Signal::raise);
    }

    /// A way into the network for one client, which can be cut off without the others.
    pub(super) fn line(&self) -> Line {
        Line { network: self.clone(), links: Arc::new(Mutex::new(Some(Vec::new()))) }
    }

    async fn open(&self, port: u16, line: Option<&Line>) -> io::Result<DuplexStream> {
        let inner = &self.0;
        let Some(node) = inner.site.node_at(port) else { return Err(io::ErrorKind::AddrNotAvailable.into()) };
        let id = inner.connections.fetch_add(1, Ordering::Relaxed);
        // Before anything that waits: a broker that is killed meanwhile takes this connection with it.
        let severed = inner.severed.get(&node).map_or(0, Signal::count);
        let (refused, hangs, delay) = {
            let mut random = lock(&inner.random);
            let refused = inner.strikes(&mut random, "connect refused", inner.plan.faults.refuse_connect);
            let hangs =
                !refused && inner.strikes(&mut random, "connect hangs", inner.plan.faults.hang_connect);
            (refused, hangs, inner.latency(&mut random))
        };
        if hangs {
            inner.trace.note(format_args!("c{id} connect hangs"));
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(delay).await;
        if refused {
            inner.trace.note(format_args!("c{id} connect refused"));
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let Some(broker) = inner.site.connect(node).await else {
            inner.trace.note(format_args!("c{id} connect refused: no node {node}"));
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        inner.trace.note(format_args!("c{id} connected to node {node}"));
        let (near, far) = tokio::io::duplex(inner.plan.pipe_bytes);
        let (from_client, to_client) = tokio::io::split(far);
        let (from_broker, to_broker) = tokio::io::split(broker);
        let cut = Signal::default();
        let link = Arc::new(Link {
            id,
            node,
            network: self.clone(),
            cut,
            tamper: Mutex::new(Tamper::new(&inner.plan)),
        });
        if let Some(line) = line {
            let mut links = lock(&line.links);
            let links = links.as_mut().ok_or(io::ErrorKind::NetworkDown)?;
            links.retain(|link| link.strong_count() > 0);
            links.push(Arc::downgrade(&link));
        }
        let carry = |direction, from, to| Carrier {
            link: link.clone(),
            direction,
            from,
            to,
            severed,
            buffer: BytesMut::new(),
            queue: VecDeque::new(),
            stalled: false,
        };
        tokio::spawn(carry(Direction::Request, from_client, to_broker).run());
        tokio::spawn(carry(Direction::Answer, from_broker, to_client).run());
        Ok(near)
    }
}

impl Connector for Network {
    fn connect<'a>(&'a self, to: &'a Endpoint) -> Connecting<'a> {
        Box::pin(async move { Ok(Box::new(self.open(to.address.port, None).await?) as BoxStream) })
    }
}

/// One client's connections. Clones are the same line.
#[derive(Debug, Clone)]
pub(super) struct Line {
    network: Network,
    links: Arc<Mutex<Option<Vec<Weak<Link>>>>>,
}

impl Line {
    /// Cuts all of its connections, for good: the end of the client's process.
    pub(super) fn cut_off(&self) {
        let links = lock(&self.links).take().unwrap_or_default();
        links.iter().filter_map(Weak::upgrade).for_each(|link| link.cut.raise());
    }
}

impl Connector for Line {
    fn connect<'a>(&'a self, to: &'a Endpoint) -> Connecting<'a> {
        Box::pin(
            async move { Ok(Box::new(self.network.open(to.address.port, Some(self)).await?) as BoxStream) },
        )
    }
}

impl Inner {
    /// Whether a fault of this frequency happens now.
    fn strikes(&self, random: &mut Random, kind: &'static str, share: f64) -> bool {
        // Drawn in any case, so that a smaller budget changes nothing before it is used up.
        let struck = share > 0.0 && random.chance(share);
        struck && self.faulty.load(Ordering::Relaxed) && self.budget.take(kind)
    }

    fn latency(&self, random: &mut Random) -> Duration {
        random.millis(0, self.plan.latency.as_millis() as u64)
    }

    fn fate(&self, direction: Direction, passing: &Passing, size: usize) -> Fate {
        let mut random = lock(&self.random);
        let faults = &self.plan.faults;
        let (mut cut, mut lose, mut late, kinds) = match direction {
            Direction::Request => (
                faults.cut_request,
                faults.lose_request,
                faults.late_request,
                ["request cut", "request lost", "request late"],
            ),
            Direction::Answer => (
                faults.cut_answer,
                faults.lose_answer,
                faults.late_answer,
                ["answer cut", "answer lost", "answer late"],
            ),
        };
        if faults.only.is_some_and(|only| passing.api != Some(only)) {
            (cut, lose, late) = (0.0, 0.0, 0.0);
        }
        let at = random.between(0, size as u64) as usize;
        if self.strikes(&mut random, kinds[0], cut) {
            return Fate::Cut(at);
        }
        if self.strikes(&mut random, kinds[1], lose) {
            return Fate::Lost;
        }
        let mut delay = self.latency(&mut random);
        if self.strikes(&mut random, kinds[2], late) {
            delay += random.millis(0, self.plan.lateness.as_millis() as u64);
        }
        Fate::Arrives(delay)
    }
}

/// What the two directions of a connection share.
#[derive(Debug)]
struct Link {
    id: u32,
    node: i32,
    network: Network,
    cut: Signal,
    tamper: Mutex<Tamper>,
}

impl Link {
    async fn severed_after(&self, count: u32) {
        match self.network.0.severed.get(&self.node) {
            Some(severed) => severed.raised_after(count).await,
            None => std::future::pending().await,
        }
    }
}

struct Carrier {
    link: Arc<Link>,
    direction: Direction,
    from: ReadHalf<DuplexStream>,
    to: WriteHalf<DuplexStream>,
    /// How often all connections to the node had been cut when this one was made.
    severed: u32,
    buffer: BytesMut,
    /// Frames on their way. `None` at the end: the connection is cut then.
    queue: VecDeque<(Instant, Option<Bytes>)>,
    stalled: bool,
}

enum Step {
    Cut,
    Due,
    Read(io::Result<usize>),
}

impl Carrier {
    async fn run(mut self) {
        let mut open = true;
        loop {
            let due = self.queue.front().map(|(at, _)| *at);
            let room = open && !self.stalled;
            let step = tokio::select! {
                biased;
                () = self.link.cut.raised_after(0) => Step::Cut,
                () = self.link.severed_after(self.severed) => Step::Cut,
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Step::Due,
                read = self.from.read_buf(&mut self.buffer), if open => Step::Read(read),
            };
            match step {
                Step::Cut => break,
                Step::Due => match self.queue.pop_front() {
                    Some((_, Some(bytes))) => {
                        let written = tokio::select! {
                            biased;
                            () = self.link.cut.raised_after(0) => break,
                            () = self.link.severed_after(self.severed) => break,
                            written = self.to.write_all(&bytes) => written,
                        };
                        if written.is_err() {
                            break;
                        }
                    }
                    _ => break,
                },
                Step::Read(Ok(1..)) if !room => self.buffer.clear(),
                Step::Read(Ok(1..)) => self.take_frames(),
                // The other end hung up: what is on its way still arrives.
                Step::Read(_) => {
                    open = false;
                    let last = self.queue.back().map_or_else(Instant::now, |(at, _)| *at);
                    if !self.stalled {
                        let rest = self.buffer.split().freeze();
                        self.queue.push_back((last, Some(rest)));
                    }
                    self.queue.push_back((last, None));
                }
            }
        }
        self.link.cut.raise();
    }

    /// Takes whole frames and draws what happens to them.
    fn take_frames(&mut self) {
        while !self.stalled {
            let Some(length) = self.buffer.first_chunk().map(|bytes| u32::from_be_bytes(*bytes) as usize)
            else {
                return;
            };
            if self.buffer.len() < 4 + length {
                return;
            }
            let frame = self.buffer.split_to(4 + length);
            self.forward(frame);
        }
        self.buffer.clear();
    }

    fn forward(&mut self, frame: BytesMut) {
        let link = self.link.clone();
        let inner = &link.network.0;
        let mut body = frame.freeze();
        body.advance(4);
        let (passing, frames) = {
            let mut tamper = lock(&link.tamper);
            let mut random = lock(&inner.random);
            let mut strikes = |kind, share| inner.strikes(&mut random, kind, share);
            match self.direction {
                Direction::Request => tamper.request(body, &mut strikes),
                Direction::Answer => tamper.answer(body, &mut strikes),
            }
        };
        for body in frames {
            let mut bytes = BytesMut::with_capacity(4 + body.len());
            bytes.extend_from_slice(&(body.len() as u32).to_be_bytes());
            bytes.extend_from_slice(&body);
            let fate = inner.fate(self.direction, &passing, bytes.len());
            let (id, size, direction) = (link.id, bytes.len(), self.direction);
            inner.trace.note(format_args!("c{id} {direction:?} {passing} of {size} bytes: {fate:?}"));
            let now = Instant::now();
            let earliest = self.queue.back().map_or(now, |(at, _)| *at);
            match fate {
                Fate::Arrives(delay) => {
                    self.queue.push_back((earliest.max(now + delay), Some(bytes.freeze())));
                }
                Fate::Cut(at) => {
                    self.queue.push_back((earliest, Some(bytes.freeze().slice(..at.min(size)))));
                    self.queue.push_back((earliest, None));
                    self.stalled = true;
                }
                Fate::Lost => self.stalled = true,
            }
            if self.stalled {
                return;
            }
        }
    }
}
