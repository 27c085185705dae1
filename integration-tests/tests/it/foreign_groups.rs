//! Members of one consumer group that are different clients: ours beside kcat (librdkafka), kafkajs, kafka-python and
//! Apache Kafka's own.
//!
//! They are ignored where nobody says that the programs are there: `cargo xtask foreign` builds and runs them and fails
//! where one is missing; `cargo xtask peers` names them to whoever runs these tests alone.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use integration_tests::{Cluster, PATIENCE, TestResult, eventually, unique};
use kafka_admin::Admin;
use kafka_admin::groups::GroupState;
use kafka_client::Client;
use kafka_client::consumer::{Consumer, OffsetReset};
use kafka_client::group::GroupProtocol;
use kafka_client::group::assignor::RangeAssignor;
use kafka_client::producer::Record;
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::interop::{described, kafka_tool, run};

/// As many as there are members in the largest of these groups, and one more.
const PARTITIONS: i32 = 6;

/// The partition and offset of every record a member has read, in the order it read them.
type Places = Arc<Mutex<Vec<(i32, i64)>>>;

/// A foreign client that is told to join a group: server, group and topic.
type Start = fn(&str, &str, &str) -> TestResult<Command>;

fn kcat(server: &str, group: &str, topic: &str) -> TestResult<Command> {
    let mut command = Command::new("kcat");
    command.args(["-b", server, "-u", "-q", "-f", "%p %o\n", "-X", "auto.offset.reset=earliest"]);
    command.args(["-X", "heartbeat.interval.ms=500", "-G", group, topic]);
    Ok(command)
}

/// One of the programs in `integration-tests/peers`.
fn program(variable: &str, arguments: [&str; 3]) -> TestResult<Command> {
    let program = std::env::var_os(variable);
    let program = program.ok_or_else(|| format!("{variable} is not set (`cargo xtask peers` prints it)"))?;
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}

fn kafkajs(server: &str, group: &str, topic: &str) -> TestResult<Command> {
    program("KAFKAJS_MEMBER", [server, group, topic])
}

fn kafka_python(server: &str, group: &str, topic: &str) -> TestResult<Command> {
    program("KAFKA_PYTHON_MEMBER", [server, group, topic])
}

fn java(server: &str, group: &str, topic: &str, protocol: &str) -> TestResult<Command> {
    let mut command = kafka_tool("org.apache.kafka.tools.VerifiableConsumer")?;
    command.args(["--bootstrap-server", server, "--topic", topic, "--group-id", group, "--verbose"]);
    command.args(["--group-protocol", protocol, "--reset-policy", "earliest"]);
    command.args(["--assignment-strategy", "org.apache.kafka.clients.consumer.RangeAssignor"]);
    Ok(command)
}

fn java_classic(server: &str, group: &str, topic: &str) -> TestResult<Command> {
    java(server, group, topic, "classic")
}

fn java_consumer(server: &str, group: &str, topic: &str) -> TestResult<Command> {
    java(server, group, topic, "consumer")
}

/// "partition offset", or what `VerifiableConsumer` says of a record.
fn place(line: &str) -> Option<(i32, i64)> {
    if let Some((partition, offset)) = line.split_once(' ') {
        return Some((partition.parse().ok()?, offset.trim().parse().ok()?));
    }
    let field = |name: &str| {
        let after = line.split_once(&format!("\"{name}\":"))?.1;
        after.split([',', '}']).next()?.parse::<i64>().ok()
    };
    let partition = field("partition").filter(|_| line.contains(r#""name":"record_data""#))?;
    Some((partition.try_into().ok()?, field("offset")?))
}

struct Foreign {
    child: Child,
    read: Places,
    lines: JoinHandle<()>,
}

impl Foreign {
    fn start(mut command: Command) -> TestResult<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{:?}: {error}", command.as_std().get_program()))?;
        let read = Places::default();
        let mut stdout = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
        let places = Arc::clone(&read);
        let lines = tokio::spawn(async move {
            while let Ok(Some(line)) = stdout.next_line().await {
                places.lock().extend(place(&line));
            }
        });
        Ok(Self { child, read, lines })
    }

    /// As a service is stopped: it commits and leaves.
    async fn stop(mut self) -> TestResult {
        let id = self.child.id().ok_or("the foreign member ended by itself")?;
        run(Command::new("kill").args(["-TERM", &id.to_string()]), "").await?;
        timeout(PATIENCE, self.child.wait()).await??;
        Ok(timeout(PATIENCE, self.lines).await??)
    }
}

struct Ours {
    consumer: Consumer,
    read: Places,
    reader: JoinHandle<TestResult>,
}

impl Ours {
    fn start(client: &Client, group: &str, topic: &str, protocol: GroupProtocol) -> TestResult<Self> {
        let builder = client.consumer().group(group).topics([topic]).protocol(protocol);
        let builder = builder.auto_offset_reset(OffsetReset::Earliest);
        let consumer = match protocol {
            GroupProtocol::Classic => builder.assignor(RangeAssignor).build()?,
            _ => builder.build()?,
        };
        let read = Places::default();
        let reader = tokio::spawn({
            let (consumer, places) = (consumer.clone(), Arc::clone(&read));
            async move {
                while let Some(record) = consumer.next().await? {
                    places.lock().push((record.partition, record.offset));
                }
                Ok(())
            }
        });
        Ok(Self { consumer, read, reader })
    }

    async fn close(self) -> TestResult {
        self.consumer.close().await?;
        timeout(PATIENCE, self.reader).await??
    }
}

/// A topic, the group that reads it, and everything its members have read.
struct Group {
    cluster: Cluster,
    client: Client,
    topic: String,
    id: String,
    /// Who ever was a member.
    reads: Vec<Places>,
    written: usize,
}

impl Group {
    async fn new() -> TestResult<Self> {
        let cluster = Cluster::start().await?;
        let client = cluster.client().await?;
        let topic = cluster.topic("foreign-group", PARTITIONS).await?;
        Ok(Self { cluster, client, topic, id: unique("foreign"), reads: Vec::new(), written: 0 })
    }

    fn foreign(&mut self, start: Start) -> TestResult<Foreign> {
        let member = Foreign::start(start(self.cluster.bootstrap_servers(), &self.id, &self.topic)?)?;
        self.reads.push(Arc::clone(&member.read));
        Ok(member)
    }

    fn ours(&mut self, protocol: GroupProtocol) -> TestResult<Ours> {
        let member = Ours::start(&self.client, &self.id, &self.topic, protocol)?;
        self.reads.push(Arc::clone(&member.read));
        Ok(member)
    }

    /// Until so many members have all partitions among them, each at least one.
    async fn settled(&self, members: usize) -> TestResult {
        let admin = Admin::new(self.client.clone());
        eventually("the group is assigned", async || {
            let Ok(described) = admin.describe_consumer_groups([&self.id]).await?.all() else {
                return Ok(false);
            };
            Ok(described.iter().all(|(_, group)| {
                let counts: Vec<usize> = group.members.iter().map(|member| member.assignment.len()).collect();
                let is_shared = counts.len() == members && counts.iter().all(|&count| count > 0);
                let is_moved = group
                    .members
                    .iter()
                    .all(|it| it.target_assignment.as_ref().is_none_or(|to| *to == it.assignment));
                let total = usize::try_from(PARTITIONS).unwrap_or_default();
                group.state == GroupState::Stable
                    && is_shared
                    && is_moved
                    && counts.iter().sum::<usize>() == total
            }))
        })
        .await
    }

    /// Writes so many records into each partition, and waits until each record that was ever written was read once.
    async fn every_record_is_read_once(&mut self, more: usize) -> TestResult {
        let producer = self.client.producer().build()?;
        for partition in 0..PARTITIONS {
            for value in 0..more {
                let record = Record::to(&*self.topic).partition(partition).value(value.to_string());
                drop(producer.send(record).await?);
            }
            self.written += more;
        }
        producer.close(PATIENCE).await?;
        let read = || self.reads.iter().map(|places| places.lock().len()).sum::<usize>();
        let all = eventually("everything is read", async || Ok(read() >= self.written)).await;
        let each: Vec<usize> = self.reads.iter().map(|places| places.lock().len()).collect();
        all.map_err(|error| format!("{error}: {each:?} of {}", self.written))?;
        // Time for a record that somebody reads again.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let places: Vec<_> = self.reads.iter().flat_map(|places| places.lock().clone()).collect();
        let distinct: BTreeSet<_> = places.iter().copied().collect();
        assert_eq!((places.len(), distinct.len()), (self.written, self.written), "{each:?}");
        Ok(())
    }
}

/// A foreign member joins ours, leaves, comes again, and goes on when ours leaves.
async fn shares_a_group_with(start: Start, protocol: GroupProtocol) -> TestResult {
    let mut group = Group::new().await?;
    let ours = group.ours(protocol)?;
    group.settled(1).await?;
    group.every_record_is_read_once(20).await?;

    let first = group.foreign(start)?;
    group.settled(2).await?;
    group.every_record_is_read_once(50).await?;
    assert!(!first.read.lock().is_empty(), "nothing was read by the foreign member");
    first.stop().await?;
    group.settled(1).await?;
    group.every_record_is_read_once(20).await?;

    let second = group.foreign(start)?;
    group.settled(2).await?;
    ours.close().await?;
    group.settled(1).await?;
    group.every_record_is_read_once(20).await?;
    second.stop().await?;
    group.cluster.shutdown().await;
    Ok(())
}

#[tokio::test]
#[ignore = "needs kcat"]
async fn kcat_shares_a_group_with_our_consumer() -> TestResult {
    shares_a_group_with(kcat, GroupProtocol::Classic).await
}

#[tokio::test]
#[ignore = "needs kafkajs"]
async fn kafkajs_shares_a_group_with_our_consumer() -> TestResult {
    shares_a_group_with(kafkajs, GroupProtocol::Classic).await
}

#[tokio::test]
#[ignore = "needs kafka-python"]
async fn kafka_python_shares_a_group_with_our_consumer() -> TestResult {
    shares_a_group_with(kafka_python, GroupProtocol::Classic).await
}

#[tokio::test]
#[ignore = "needs java and Kafka's jars"]
async fn javas_verifiable_consumer_shares_a_classic_group_with_our_consumer() -> TestResult {
    shares_a_group_with(java_classic, GroupProtocol::Classic).await
}

#[tokio::test]
#[ignore = "needs java and Kafka's jars"]
async fn javas_verifiable_consumer_shares_a_consumer_group_with_our_consumer() -> TestResult {
    shares_a_group_with(java_consumer, GroupProtocol::Consumer).await
}

/// It says only how much it read, so that is what is added to what ours read.
#[tokio::test]
#[ignore = "needs java and Kafka's jars"]
async fn javas_consumer_performance_reads_in_a_group_with_our_consumer() -> TestResult {
    let mut group = Group::new().await?;
    let ours = group.ours(GroupProtocol::Classic)?;
    let mut measure = kafka_tool("org.apache.kafka.tools.ConsumerPerformance")?;
    measure.args(["--bootstrap-server", group.cluster.bootstrap_servers(), "--topic", &group.topic]);
    measure.args(["--group", &group.id, "--num-records", "600", "--timeout", "60000", "--hide-header"]);
    let (measured, filled) = tokio::join!(run(&mut measure, ""), async {
        group.settled(2).await?;
        // Three partitions are its own, so that it has more than the number it ends with.
        let producer = group.client.producer().build()?;
        for value in 0..6000 {
            let record = Record::to(&*group.topic).partition(value % PARTITIONS).value(value.to_string());
            drop(producer.send(record).await?);
        }
        producer.close(PATIENCE).await?;
        TestResult::Ok(())
    });
    filled?;
    let measured = measured?;
    // start.time, end.time, data.consumed.in.MB, MB.sec, data.consumed.in.nMsg, ...
    let line = measured.lines().last().ok_or("ConsumerPerformance said nothing")?;
    let theirs: usize = line.split(", ").nth(4).ok_or_else(|| measured.clone())?.parse()?;
    assert!(theirs >= 600, "{measured}");
    group.settled(1).await?;
    eventually("the rest is read", async || Ok(ours.read.lock().len() >= 6000 - theirs)).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let read = ours.read.lock().clone();
    assert_eq!(read.len(), 6000 - theirs);
    assert_eq!(read.iter().collect::<BTreeSet<_>>().len(), read.len());
    ours.close().await?;
    group.cluster.shutdown().await;
    Ok(())
}

/// All of them at once, and then one after the other leaves; Kafka's tool describes the group before and after.
#[tokio::test]
#[ignore = "needs kcat, kafkajs, kafka-python, java and Kafka's jars"]
async fn everybody_shares_one_group_and_leaves_it_one_by_one() -> TestResult {
    let mut group = Group::new().await?;
    let server = group.cluster.bootstrap_servers().to_owned();
    let ours = group.ours(GroupProtocol::Classic)?;
    let starts: [Start; 4] = [kcat, kafkajs, kafka_python, java_classic];
    let mut others = Vec::new();
    for start in starts {
        others.push(group.foreign(start)?);
    }
    group.settled(5).await?;
    group.every_record_is_read_once(100).await?;
    for (at, member) in others.iter().enumerate() {
        assert!(!member.read.lock().is_empty(), "member {at} read nothing");
    }
    let state = described(&server, &group.id, &["--state"]).await?;
    assert!(state.contains("range") && state.contains("Stable"), "{state}");
    let members = described(&server, &group.id, &["--members", "--verbose"]).await?;
    let topic = &group.topic;
    assert!(["kafkajs", "kafka-python", "rdkafka"].iter().all(|it| members.contains(it)), "{members}");
    let assigned = members.lines().filter(|line| line.contains(&format!("{topic}:"))).count();
    assert_eq!(assigned, 5, "{members}");
    for (left, member) in others.into_iter().enumerate() {
        member.stop().await?;
        group.settled(4 - left).await?;
        group.every_record_is_read_once(20).await?;
    }
    ours.close().await?;
    let offsets = described(&server, &group.id, &["--offsets"]).await?;
    let lags: Vec<&str> = offsets
        .lines()
        .filter(|line| line.contains(&group.topic))
        .filter_map(|line| line.split_whitespace().nth(5))
        .collect();
    assert_eq!(lags, ["0"; 6], "{offsets}");
    group.cluster.shutdown().await;
    Ok(())
}
