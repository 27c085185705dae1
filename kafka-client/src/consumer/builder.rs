use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::fetch::FetchConfig;
use super::fetch::request::FetchOptions;
use super::listener::RebalanceListener;
use super::{Consumer, IsolationLevel, OffsetReset, TopicRecreation};
use crate::TopicPartition;
use crate::client::Client;
use crate::config::{ConfigError, Properties, invalid};
use crate::group::classic::MembershipConfig;
use crate::group::member::Topics;
use crate::group::requests::Terms;
use crate::group::{Assignor, CooperativeStickyAssignor, GroupProtocol, RangeAssignor, assignor};

/// Options of a [`Consumer`]; made by [`Client::consumer`]. Defaults are the Java consumer's unless said otherwise.
#[derive(Clone)]
#[must_use = "nothing happens before `build`"]
pub struct ConsumerBuilder {
    client: Client,
    pub(super) options: Options,
    /// Holds where positions are committed in the background at all.
    auto_commit_interval: Duration,
    topics: Option<Topics>,
    partitions: Vec<TopicPartition>,
    invalid: Option<ConfigError>,
}

#[derive(Clone)]
pub(super) struct Options {
    pub group: Option<String>,
    pub instance_id: Option<String>,
    pub rack: Option<String>,
    pub reset: OffsetReset,
    pub recreation: TopicRecreation,
    pub isolation: IsolationLevel,
    pub protocol: GroupProtocol,
    /// The key of an option that was given and has no meaning in KIP-848.
    pub classic_only: Option<&'static str>,
    pub remote_assignor: Option<String>,
    pub exclude_internal_topics: bool,
    pub assignors: Vec<Arc<dyn Assignor>>,
    pub listener: Option<Arc<dyn RebalanceListener>>,
    pub auto_commit: Option<Duration>,
    pub session_timeout: Duration,
    pub heartbeat_interval: Duration,
    pub max_poll_interval: Duration,
    pub max_buffered_bytes: usize,
    pub fetch_max_bytes: usize,
    pub max_partition_bytes: usize,
    pub fetch_min_bytes: i32,
    pub fetch_max_wait: Duration,
    pub check_crcs: bool,
    pub acknowledgements: bool,
    pub max_unacknowledged: usize,
}

const DEFAULT_AUTO_COMMIT: Duration = Duration::from_secs(5);
const DEFAULT_MAX_UNACKNOWLEDGED: usize = 100_000;

impl Options {
    pub(super) fn fetch_config(&self, preferred_replica_lifetime: Duration) -> FetchConfig {
        FetchConfig {
            max_buffered_bytes: self.max_buffered_bytes,
            max_bytes: self.fetch_max_bytes,
            max_partition_bytes: self.max_partition_bytes,
            isolation: self.isolation,
            reset: self.reset,
            recreation: self.recreation,
            preferred_replica_lifetime,
        }
    }

    pub(super) fn fetch_options(&self) -> FetchOptions {
        FetchOptions {
            max_wait: self.fetch_max_wait,
            min_bytes: self.fetch_min_bytes,
            isolation: self.isolation,
            rack: self.rack.clone(),
        }
    }

    /// The protocol to begin with.
    pub(super) fn group_protocol(&self) -> GroupProtocol {
        match (self.protocol, self.classic_only) {
            (GroupProtocol::Auto, Some(_)) => GroupProtocol::Classic,
            (protocol, _) => protocol,
        }
    }

    pub(super) fn membership(&self, group: String) -> MembershipConfig {
        MembershipConfig {
            group,
            instance_id: self.instance_id.clone(),
            session_timeout: self.session_timeout,
            heartbeat_interval: self.heartbeat_interval,
            max_poll_interval: Some(self.max_poll_interval),
        }
    }

    /// The rebalance time-out is the poll interval, as in Java.
    pub(super) fn terms(&self) -> Terms {
        Terms {
            instance_id: self.instance_id.clone(),
            session_timeout: self.session_timeout,
            rebalance_timeout: self.max_poll_interval,
        }
    }
}

impl fmt::Debug for ConsumerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerBuilder")
            .field("group", &self.options.group)
            .field("topics", &self.topics)
            .field("partitions", &self.partitions)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Options for a consumer. Each consumer opens connections of its own for fetching and for its group.
    pub fn consumer(&self) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone())
    }
}

impl ConsumerBuilder {
    fn new(client: Client) -> Self {
        let options = Options {
            group: None,
            instance_id: None,
            rack: None,
            reset: OffsetReset::default(),
            recreation: TopicRecreation::default(),
            isolation: IsolationLevel::default(),
            protocol: GroupProtocol::Auto,
            classic_only: None,
            remote_assignor: None,
            exclude_internal_topics: true,
            assignors: vec![Arc::new(RangeAssignor), Arc::new(CooperativeStickyAssignor)],
            listener: None,
            auto_commit: Some(DEFAULT_AUTO_COMMIT),
            session_timeout: Duration::from_secs(45),
            heartbeat_interval: Duration::from_secs(3),
            max_poll_interval: Duration::from_secs(300),
            max_buffered_bytes: 64 * 1024 * 1024,
            fetch_max_bytes: 50 * 1024 * 1024,
            max_partition_bytes: 1024 * 1024,
            fetch_min_bytes: 1,
            fetch_max_wait: Duration::from_millis(500),
            check_crcs: true,
            acknowledgements: false,
            max_unacknowledged: DEFAULT_MAX_UNACKNOWLEDGED,
        };
        let mut builder = Self {
            client,
            options,
            auto_commit_interval: DEFAULT_AUTO_COMMIT,
            topics: None,
            partitions: Vec::new(),
            invalid: None,
        };
        let properties = builder.client.properties().clone();
        builder.invalid = builder.options.read(&properties).err();
        builder.auto_commit_interval = builder.options.auto_commit.unwrap_or(DEFAULT_AUTO_COMMIT);
        builder
    }

    /// The group to join, or to commit offsets to (`group.id`). Default none.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.options.group = Some(group.into());
        self
    }

    /// Subscribes to topics; the group's members share their partitions.
    pub fn topics<T: AsRef<str>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        let names: Vec<Arc<str>> = topics.into_iter().map(|topic| Arc::from(topic.as_ref())).collect();
        self.topics = (!names.is_empty()).then_some(Topics::Named(names));
        self
    }

    /// Subscribes to every topic whose whole name matches, also those that are created later. The syntax is RE2's.
    ///
    /// The coordinator does the matching (KIP-1082); under the classic protocol this client does, at least every
    /// `metadata.max.age`.
    pub fn pattern(mut self, pattern: impl AsRef<str>) -> Self {
        self.topics = Some(Topics::Matching(Arc::from(pattern.as_ref())));
        self
    }

    /// Which protocol the group speaks (`group.protocol`). Default [`GroupProtocol::Auto`].
    pub fn protocol(mut self, protocol: GroupProtocol) -> Self {
        self.options.protocol = protocol;
        self
    }

    /// The coordinator's assignor (`group.remote.assignor`, KIP-848), such as `uniform` or `range`. Default: the
    /// coordinator's choice.
    pub fn remote_assignor(mut self, name: impl Into<String>) -> Self {
        self.options.remote_assignor = Some(name.into());
        self
    }

    /// Reads exactly these partitions, whoever else reads them.
    pub fn assign(mut self, partitions: impl IntoIterator<Item = TopicPartition>) -> Self {
        self.partitions = partitions.into_iter().collect();
        self
    }

    /// Where to start without a committed offset (`auto.offset.reset`). Default [`OffsetReset::Latest`].
    pub fn auto_offset_reset(mut self, reset: OffsetReset) -> Self {
        self.options.reset = reset;
        self
    }

    /// What to do about a topic that was deleted and created again. Default [`TopicRecreation::Reset`].
    pub fn on_topic_recreation(mut self, policy: TopicRecreation) -> Self {
        self.options.recreation = policy;
        self
    }

    /// Whether records of unfinished and aborted transactions are read (`isolation.level`).
    /// Default [`IsolationLevel::ReadUncommitted`].
    pub fn isolation_level(mut self, isolation: IsolationLevel) -> Self {
        self.options.isolation = isolation;
        self
    }

    /// The only assignor to offer (`partition.assignment.strategy`). Default: range, then cooperative-sticky, as
    /// Java, which makes rebalances eager; cooperative-sticky alone makes them cooperative.
    pub fn assignor(self, assignor: impl Assignor + 'static) -> Self {
        self.assignors([Arc::new(assignor) as Arc<dyn Assignor>])
    }

    /// The assignors to offer, best first.
    pub fn assignors(mut self, assignors: impl IntoIterator<Item = Arc<dyn Assignor>>) -> Self {
        self.options.assignors = assignors.into_iter().collect();
        self.options.classic_only = Some("partition.assignment.strategy");
        self
    }

    /// Told about partitions that come and go, while the rebalance waits for it.
    pub fn rebalance_listener(mut self, listener: impl RebalanceListener + 'static) -> Self {
        self.options.listener = Some(Arc::new(listener));
        self
    }

    /// Whether positions are committed in the background and on close (`enable.auto.commit`). Only records of
    /// earlier calls count: a record is committed once the next one was asked for. Default yes, every 5 s, if
    /// there is a group.
    pub fn enable_auto_commit(mut self, enable: bool) -> Self {
        self.options.auto_commit = enable.then_some(self.auto_commit_interval);
        self
    }

    /// Commits in the background this often (`auto.commit.interval.ms`), unless [`enable_auto_commit`] says no. Default 5 s.
    ///
    /// [`enable_auto_commit`]: Self::enable_auto_commit
    pub fn auto_commit_interval(mut self, interval: Duration) -> Self {
        self.auto_commit_interval = interval;
        if let Some(every) = &mut self.options.auto_commit {
            *every = interval;
        }
        self
    }

    /// Commits only what was acknowledged by [`Consumer::ack`], in any order: up to the first record that was not.
    /// Auto-commit, [`Consumer::commit`], rebalances and closing follow it; a rebalance waits for what is out, at most
    /// `max.poll.interval`. Default no: a record counts as processed once the next one is asked for.
    pub fn acknowledgements(mut self, enable: bool) -> Self {
        self.options.acknowledgements = enable;
        self
    }

    /// With acknowledgements: how many records (or batches) may be out at a time; calls for more wait. Default
    /// 100,000.
    pub fn max_unacknowledged(mut self, records: usize) -> Self {
        self.options.max_unacknowledged = records.max(1);
        self
    }

    /// Makes this a static member of its group, which may restart without a rebalance (`group.instance.id`,
    /// KIP-345). Closing it does not leave the group. Default none.
    pub fn group_instance_id(mut self, id: impl Into<String>) -> Self {
        self.options.instance_id = Some(id.into());
        self
    }

    /// How long the coordinator waits for a sign of life (`session.timeout.ms`). Default 45 s. A matter of the classic
    /// protocol; with KIP-848 the cluster decides.
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.options.session_timeout = timeout;
        self.options.classic_only = Some("session.timeout.ms");
        self
    }

    /// How often the coordinator is told that this member lives (`heartbeat.interval.ms`). Default 3 s. A matter of the
    /// classic protocol; with KIP-848 the cluster decides.
    pub fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.options.heartbeat_interval = interval;
        self.options.classic_only = Some("heartbeat.interval.ms");
        self
    }

    /// How long the application may take between two calls for records before its partitions go to others
    /// (`max.poll.interval.ms`); a call that waits counts all the time, and so does [`Consumer::in_progress`]. Default 5
    /// minutes.
    pub fn max_poll_interval(mut self, interval: Duration) -> Self {
        self.options.max_poll_interval = interval;
        self
    }

    /// How many bytes of batches may be fetched ahead of the reader, over all brokers and partitions; requests
    /// under way count in full. Default 64 MiB.
    ///
    /// Kafka's protocol lets a broker exceed a request's limit by one batch, so that large ones get through.
    pub fn max_buffered_bytes(mut self, bytes: usize) -> Self {
        self.options.max_buffered_bytes = bytes;
        self
    }

    /// The most that one request asks for, in bytes (`fetch.max.bytes`). Default 50 MiB.
    pub fn fetch_max_bytes(mut self, bytes: usize) -> Self {
        self.options.fetch_max_bytes = bytes;
        self
    }

    /// The most that one request asks for of one partition, in bytes (`max.partition.fetch.bytes`). Default 1 MiB.
    pub fn max_partition_fetch_bytes(mut self, bytes: usize) -> Self {
        self.options.max_partition_bytes = bytes;
        self
    }

    /// How many bytes the broker waits for before it answers (`fetch.min.bytes`). Default 1.
    pub fn fetch_min_bytes(mut self, bytes: i32) -> Self {
        self.options.fetch_min_bytes = bytes;
        self
    }

    /// How long the broker waits for them (`fetch.max.wait.ms`). Default 500 ms.
    pub fn fetch_max_wait(mut self, wait: Duration) -> Self {
        self.options.fetch_max_wait = wait;
        self
    }

    /// The rack this consumer runs in (`client.rack`): for assignors that look at it (KIP-881), and for brokers that
    /// send consumers to a follower in their rack (`replica.selector.class`, KIP-392). Default none.
    pub fn rack(mut self, rack: impl Into<String>) -> Self {
        self.options.rack = Some(rack.into());
        self
    }

    /// The consumer. It starts to fetch, and to join its group, in the background.
    ///
    /// # Errors
    /// An option that cannot be used: both topics and partitions, topics without a group, a limit of zero.
    pub fn build(self) -> Result<Consumer, ConfigError> {
        if let Some(error) = self.invalid {
            return Err(error);
        }
        let options = &self.options;
        if self.topics.is_some() {
            if options.group.is_none() {
                return Err(ConfigError::Missing { key: "group.id" });
            }
            if !self.partitions.is_empty() {
                return Err(invalid("topics", "and partitions", "either topics or partitions"));
            }
        }
        if options.group.as_deref() == Some("") {
            return Err(invalid("group.id", "", "a name"));
        }
        if options.assignors.is_empty() {
            return Err(invalid("partition.assignment.strategy", "", "at least one assignor"));
        }
        match (options.protocol, options.classic_only, &options.remote_assignor) {
            (GroupProtocol::Consumer, Some(key), _) => {
                return Err(invalid("group.protocol", "consumer", &format!("no {key} with it, or classic")));
            }
            (GroupProtocol::Classic, _, Some(name)) => {
                return Err(invalid("group.remote.assignor", name, "nothing, or group.protocol=consumer"));
            }
            _ => {}
        }
        if options.heartbeat_interval >= options.session_timeout {
            let given = format!("{:?}", options.heartbeat_interval);
            return Err(invalid("heartbeat.interval.ms", given, "less than session.timeout.ms"));
        }
        for (key, bytes) in [
            ("fetch.max.bytes", options.fetch_max_bytes),
            ("max.partition.fetch.bytes", options.max_partition_bytes),
            ("max.buffered.bytes", options.max_buffered_bytes),
        ] {
            if bytes == 0 {
                return Err(invalid(key, 0, "more than 0"));
            }
        }
        Ok(Consumer::start(self.client, self.options, self.topics, self.partitions))
    }
}

impl Options {
    fn read(&mut self, properties: &Properties) -> Result<(), ConfigError> {
        let text = |key: &str| properties.get(key).map(str::to_owned);
        self.group = text("group.id").or(self.group.take());
        self.instance_id = text("group.instance.id").or(self.instance_id.take());
        self.rack = text("client.rack").filter(|rack| !rack.is_empty()).or(self.rack.take());
        for (key, place) in [
            ("session.timeout.ms", &mut self.session_timeout),
            ("heartbeat.interval.ms", &mut self.heartbeat_interval),
            ("max.poll.interval.ms", &mut self.max_poll_interval),
            ("fetch.max.wait.ms", &mut self.fetch_max_wait),
        ] {
            if let Some(span) = properties.millis(key)? {
                *place = span;
            }
        }
        for key in ["session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy"] {
            if properties.get(key).is_some() {
                self.classic_only = Some(key);
            }
        }
        match properties.get("group.protocol") {
            None => {}
            Some("consumer") => self.protocol = GroupProtocol::Consumer,
            Some(_) => self.protocol = GroupProtocol::Classic,
        }
        self.remote_assignor = text("group.remote.assignor").filter(|name| !name.is_empty());
        if let Some(exclude) = properties.flag("exclude.internal.topics")? {
            self.exclude_internal_topics = exclude;
        }
        if let Some(interval) = properties.millis("auto.commit.interval.ms")? {
            self.auto_commit = Some(interval);
        }
        if properties.flag("enable.auto.commit")? == Some(false) {
            self.auto_commit = None;
        }
        if let Some(check) = properties.flag("check.crcs")? {
            self.check_crcs = check;
        }
        for (key, place) in [
            ("fetch.max.bytes", &mut self.fetch_max_bytes),
            ("max.partition.fetch.bytes", &mut self.max_partition_bytes),
            ("max.buffered.bytes", &mut self.max_buffered_bytes),
        ] {
            if let Some(bytes) = properties.bytes(key)? {
                *place = bytes;
            }
        }
        if let Some(bytes) = properties.parsed("fetch.min.bytes", "a number of bytes")? {
            self.fetch_min_bytes = bytes;
        }
        match properties.get("auto.offset.reset") {
            None => {}
            Some("earliest") => self.reset = OffsetReset::Earliest,
            Some("latest") => self.reset = OffsetReset::Latest,
            Some("none") => self.reset = OffsetReset::None,
            Some(other) if other.starts_with("by_duration:") => {
                let span = other.strip_prefix("by_duration:").and_then(iso_8601_duration);
                let wanted = "by_duration: and an ISO 8601 duration such as PT1H or P7D";
                let span = span.ok_or_else(|| invalid("auto.offset.reset", other, wanted))?;
                self.reset = OffsetReset::ByDuration(span);
            }
            Some(other) => {
                return Err(invalid("auto.offset.reset", other, "earliest, latest, none or by_duration:..."));
            }
        }
        match properties.get("isolation.level") {
            None => {}
            Some("read_uncommitted") => self.isolation = IsolationLevel::ReadUncommitted,
            Some("read_committed") => self.isolation = IsolationLevel::ReadCommitted,
            Some(other) => {
                return Err(invalid("isolation.level", other, "read_uncommitted or read_committed"));
            }
        }
        if let Some(list) = properties.get("partition.assignment.strategy") {
            self.assignors =
                list.split(',').map(|name| assignor_by_name(name.trim())).collect::<Result<_, _>>()?;
        }
        Ok(())
    }
}

fn assignor_by_name(name: &str) -> Result<Arc<dyn Assignor>, ConfigError> {
    assignor::by_name(name).ok_or_else(|| {
        invalid("partition.assignment.strategy", name, "range, roundrobin, sticky or cooperative-sticky")
    })
}

/// As `java.time.Duration.parse`, without signs: `P2DT3H4M5.6S`.
fn iso_8601_duration(text: &str) -> Option<Duration> {
    let rest = text.strip_prefix(['P', 'p'])?;
    let (days, time) = match rest.split_once(['T', 't']) {
        Some((_, "")) => return None,
        Some((days, time)) => (days, time),
        None => (rest, ""),
    };
    let (mut seconds, mut found) = (0.0, false);
    for (mut part, units) in
        [(days, &[('D', 86_400.0)][..]), (time, &[('H', 3_600.0), ('M', 60.0), ('S', 1.0)])]
    {
        for (unit, scale) in units {
            if let Some((number, after)) = part.split_once([*unit, unit.to_ascii_lowercase()]) {
                let is_plain =
                    number.bytes().all(|byte| byte.is_ascii_digit() || (*unit == 'S' && byte == b'.'));
                seconds += number.parse::<f64>().ok().filter(|_| is_plain)? * scale;
                part = after;
                found = true;
            }
        }
        if !part.is_empty() {
            return None;
        }
    }
    Duration::try_from_secs_f64(seconds).ok().filter(|_| found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by the simulation: the interval, set afterwards, switched it on again.
    #[test]
    fn an_interval_does_not_switch_commits_in_the_background_on() {
        let client = Client::builder("localhost:9092").build().unwrap();
        let interval = Duration::from_millis(20);
        let off = client.consumer().enable_auto_commit(false).auto_commit_interval(interval);
        assert_eq!(off.options.auto_commit, None);
        assert_eq!(off.enable_auto_commit(true).options.auto_commit, Some(interval));
    }

    #[test]
    fn durations_are_read_as_java_reads_them() {
        let seconds = |text| iso_8601_duration(text).map(|span| span.as_secs_f64());
        assert_eq!(seconds("PT1H"), Some(3600.0));
        assert_eq!(seconds("P7D"), Some(7.0 * 86_400.0));
        assert_eq!(seconds("P1DT2H3M4.5S"), Some(93_784.5));
        for wrong in ["", "P", "PT", "1H", "PT-1H", "PT1X", "P1H", "PT1M2H", "PTS"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }
}
