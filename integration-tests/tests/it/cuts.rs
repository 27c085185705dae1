//! Connections that are cut at every byte of every request and of every answer: ApiVersions, Metadata, InitProducerId and
//! Produce. In memory and on a paused clock, so on our broker only.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use integration_tests::TestResult;
use kafka_admin::{Admin, NewTopic};
use kafka_broker::Broker;
use kafka_client::net::{BoxStream, Connecting, Connector, Endpoint};
use kafka_client::wire::messages::MetadataRequest;
use kafka_client::{Client, OffsetReset, Record, TopicPartition, seed_randomness};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::time::timeout;

const TOPIC: &str = "t";
const RECORDS: usize = 3;
/// Connections of one run without a cut: one for everything, one for Produce.
const CONNECTIONS: usize = 2;
/// Of virtual time. More than any time-out of the client's: whoever waits longer waits for what never comes.
const FOREVER: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Answer,
}

/// Where a run's network fails: after so many bytes of a direction of the connection that was opened so and so many-th.
#[derive(Debug, Clone, Copy)]
struct Cut {
    connection: usize,
    direction: Direction,
    at: usize,
}

/// Connections to the broker, one of them cut.
struct Network {
    broker: Arc<Broker>,
    cut: Option<Cut>,
    opened: AtomicUsize,
    /// How much each connection carried, for the cuts of later runs.
    carried: Arc<Mutex<BTreeMap<usize, [usize; 2]>>>,
}

impl Connector for Network {
    fn connect<'a>(&'a self, _to: &'a Endpoint) -> Connecting<'a> {
        Box::pin(async move {
            let number = self.opened.fetch_add(1, Ordering::Relaxed);
            let limit = |direction| {
                self.cut.filter(|cut| (cut.connection, cut.direction) == (number, direction)).map(|c| c.at)
            };
            let line = Line {
                number,
                stream: Some(self.broker.connect().await),
                limits: [limit(Direction::Request), limit(Direction::Answer)],
                passed: [0, 0],
                carried: self.carried.clone(),
            };
            Ok(Box::new(line) as BoxStream)
        })
    }
}

/// The client's end of a connection, until it is cut.
struct Line {
    number: usize,
    stream: Option<DuplexStream>,
    limits: [Option<usize>; 2],
    passed: [usize; 2],
    carried: Arc<Mutex<BTreeMap<usize, [usize; 2]>>>,
}

impl Line {
    /// How many bytes may still pass; 0 once the line is cut.
    fn left(&mut self, direction: Direction) -> usize {
        let at = direction as usize;
        let left = |limit: usize| limit.saturating_sub(self.passed[at]);
        let left = self.limits[at].map_or(usize::MAX, left);
        // The other end still reads what was sent, and then sees the end.
        if left == 0 {
            self.stream = None;
        }
        left
    }

    fn pass(&mut self, direction: Direction, bytes: usize) {
        self.passed[direction as usize] += bytes;
        self.carried.lock().unwrap_or_else(PoisonError::into_inner).insert(self.number, self.passed);
        self.left(direction);
    }
}

fn cut<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let line = self.get_mut();
        let left = line.left(Direction::Answer).min(buffer.remaining());
        let Some(stream) = &mut line.stream else { return cut() };
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(left));
        let Poll::Ready(read) = Pin::new(stream).poll_read(cx, &mut part) else { return Poll::Pending };
        let count = part.filled().len();
        buffer.advance(count);
        line.pass(Direction::Answer, count);
        Poll::Ready(read)
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let line = self.get_mut();
        let left = line.left(Direction::Request).min(bytes.len());
        let Some(stream) = &mut line.stream else { return cut() };
        let written = std::task::ready!(Pin::new(stream).poll_write(cx, &bytes[..left]));
        if let Ok(count) = written {
            line.pass(Direction::Request, count);
        }
        Poll::Ready(written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Some(stream) => Pin::new(stream).poll_flush(cx),
            None => cut(),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Some(stream) => Pin::new(stream).poll_shutdown(cx),
            None => cut(),
        }
    }
}

/// One run: everything is asked for and sent, and everybody gets an answer. Returns what each connection carried.
async fn run(
    broker: &Arc<Broker>,
    number: usize,
    cut: Option<Cut>,
) -> TestResult<BTreeMap<usize, [usize; 2]>> {
    seed_randomness(number as u64);
    let carried = Arc::new(Mutex::new(BTreeMap::new()));
    let network =
        Network { broker: broker.clone(), cut, opened: AtomicUsize::new(0), carried: carried.clone() };
    let client = Client::builder("broker:9092").connector(network).build()?;
    // What is repeated succeeds; what is sent once succeeds or says why not.
    let cluster = timeout(FOREVER, client.refresh_topics([TOPIC])).await??;
    assert_eq!(cluster.partition_count(TOPIC), Some(1), "{cut:?}");
    let asked = timeout(FOREVER, client.request(MetadataRequest::default())).await?;
    if let Err(error) = asked {
        assert!(cut.is_some() && error.is_retriable(), "{cut:?}: {error}");
    }
    let producer = client.producer().linger(Duration::ZERO).build()?;
    let mut deliveries = Vec::new();
    for record in 0..RECORDS {
        let value = format!("{number} {record}");
        deliveries.push(timeout(FOREVER, producer.send(Record::to(TOPIC).value(&value))).await??);
    }
    for delivery in deliveries {
        timeout(FOREVER, delivery).await?.map_err(|error| format!("{cut:?}: {error}"))?;
    }
    timeout(FOREVER, producer.close(FOREVER)).await??;
    let carried = carried.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(carried)
}

#[tokio::test(start_paused = true)]
async fn a_connection_cut_at_any_byte_leaves_nobody_waiting_and_no_record_lost_or_doubled() -> TestResult {
    let broker = Arc::new(Broker::builder().start().await?);
    let straight = || Network {
        broker: broker.clone(),
        cut: None,
        opened: AtomicUsize::new(0),
        carried: Arc::default(),
    };
    let client = Client::builder("broker:9092").connector(straight()).build()?;
    Admin::new(client.clone()).create_topics([NewTopic::new(TOPIC, 1, 1)]).await?.all()?;

    let totals = run(&broker, 0, None).await?;
    assert_eq!(totals.len(), CONNECTIONS, "{totals:?}");
    let mut runs = 1;
    for (&connection, total) in &totals {
        for direction in [Direction::Request, Direction::Answer] {
            // At the very end too: everything was sent, and nothing more can be.
            for at in 0..=total[direction as usize] {
                run(&broker, runs, Some(Cut { connection, direction, at })).await?;
                runs += 1;
            }
        }
    }
    assert!(runs > 1000, "{totals:?}");

    let partition = TopicPartition::new(TOPIC, 0);
    let consumer = client.consumer().assign([partition]).auto_offset_reset(OffsetReset::Earliest).build()?;
    for number in 0..runs {
        for record in 0..RECORDS {
            let read = timeout(FOREVER, consumer.next()).await??.ok_or("no more records")?;
            let value = String::from_utf8(read.value.map(Vec::from).unwrap_or_default())?;
            assert_eq!(value, format!("{number} {record}"));
        }
    }
    let more = timeout(Duration::from_secs(5), consumer.next()).await;
    assert!(more.is_err(), "{more:?}");
    Ok(())
}
