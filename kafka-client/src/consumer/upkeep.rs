//! The background tasks that feed the fetcher: one that keeps leaders, positions and auto-commit going, and one
//! for each broker that fetches. All decisions are the fetcher's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kafka_wire::ErrorCode;
use kafka_wire::messages::FetchRequest;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::epochs;
use super::fetch::request::{self, FetchOptions};
use super::fetch::{FetchPlan, Leader, Lookup, Planned, Position};
use super::offsets::{list_offsets_once, since_1970};
use super::shared::Shared;
use super::{ConsumeError, OffsetReset, OffsetsError};
use crate::TopicPartition;
use crate::cluster::{Broker, Cluster};
use crate::net::{Call, Purpose, RequestError};

/// How long to wait before asking for metadata again that did not help.
const METADATA_BACKOFF: Duration = Duration::from_millis(200);
/// How often the gauges that tell how things stand are set.
const STOCK_INTERVAL: Duration = Duration::from_secs(10);
/// How long closing fetch sessions may take, in the background.
const CLOSE_SESSION_TIMEOUT: Duration = Duration::from_secs(5);
/// Fetch versions from here on name topics by id only (KIP-516).
const LAST_FETCH_VERSION_WITH_NAMES: i16 = 12;

/// Runs until the consumer is closed; the tasks it started end with it.
pub(super) async fn run(shared: Arc<Shared>, mut closed: watch::Receiver<bool>) {
    let mut upkeep = shared.upkeep.follow();
    let mut rounds = shared.client.metadata().subscribe();
    let mut fetchers: JoinSet<()> = JoinSet::new();
    let mut fetched_from = BTreeSet::new();
    let mut lookups: JoinSet<()> = JoinSet::new();
    let mut stale = false;
    let mut metadata_due: Option<Instant> = None;
    let mut stock_due = Instant::now();
    let mut commit_due = shared.options.auto_commit.map(|interval| Instant::now() + interval);
    loop {
        upkeep.catch_up();
        rounds.catch_up();
        let now = Instant::now();

        let leaderless = adopt_leaders(&shared);
        let sources = shared.fetcher.lock().sources();
        for broker in sources {
            if fetched_from.insert(broker) {
                fetchers.spawn(fetch_from(Arc::clone(&shared), broker));
            }
        }
        stale |= shared.fetcher.lock().take_needs_metadata() || leaderless;
        if metadata_due.is_some_and(|at| at <= now) {
            metadata_due = None;
        }
        if stale && metadata_due.is_none() {
            // The first question goes out at once, the following ones after a pause.
            let topics = shared.fetcher.lock().topics();
            shared.client.want_refresh(&topics);
            metadata_due = Some(now + METADATA_BACKOFF);
            stale = false;
        }

        start_lookups(&shared, &mut lookups, now);
        if stock_due <= now {
            shared.take_stock();
            stock_due = now + STOCK_INTERVAL;
        }

        if commit_due.is_some_and(|at| at <= now) {
            commit_due = shared.options.auto_commit.map(|interval| now + interval);
            if shared.options.group.is_some() {
                lookups.spawn(auto_commit(Arc::clone(&shared)));
            }
        }

        let lookup_due = shared.fetcher.lock().lookups_due_at();
        // Without a leader there is always reason to ask again.
        let metadata_due_if_stale = metadata_due.filter(|_| stale || leaderless);
        let wake_at =
            [metadata_due_if_stale, lookup_due, commit_due, Some(stock_due)].into_iter().flatten().min();
        tokio::select! {
            // In this order, so that a run on a paused clock and one thread is always the same.
            biased;
            _ = closed.wait_for(|closed| *closed) => break,
            _ = upkeep.changed() => {}
            changed = rounds.changed() => if changed.is_err() { return },
            () = sleep_until(wake_at) => {}
            Some(_) = lookups.join_next(), if !lookups.is_empty() => {}
        }
    }
    fetchers.shutdown().await;
    close_sessions(&shared).await;
}

/// So that brokers need not remember them until they are evicted. Nobody waits for it.
async fn close_sessions(shared: &Shared) {
    let sessions = shared.fetcher.lock().open_sessions();
    let closes = sessions.into_iter().map(|(broker, id)| async move {
        let Some(node) = shared.client.node(broker) else { return };
        let Ok(connection) = shared.pool.connection(&node, Purpose::Fetch).await else { return };
        // Versions that know topics by id only are no different where no topic is named.
        let call = Call::within(CLOSE_SESSION_TIMEOUT);
        if let Err(error) = connection.request(&request::close_session(id), call).await {
            tracing::debug!(broker, %error, "fetch session not closed");
        }
    });
    let all = futures::future::join_all(closes);
    let _ = tokio::time::timeout(CLOSE_SESSION_TIMEOUT, all).await;
}

/// Sleeps until then; for ever if there is no such time.
pub(crate) async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn auto_commit(shared: Arc<Shared>) {
    if let Err(error) = shared.commit_done().await {
        tracing::warn!(%error, "auto-commit failed; the next one is due after the interval");
    }
}

/// Takes the leaders over from the cluster's snapshot. Returns whether some partition has none.
fn adopt_leaders(shared: &Shared) -> bool {
    let cluster: Arc<Cluster> = shared.client.cluster();
    let mut fetcher = shared.fetcher.lock();
    for topic in fetcher.topics() {
        shared.client.metadata().touch(&topic);
    }
    let leaderless = fetcher.update_leaders(|partition| {
        let topic = cluster.topic(&partition.topic);
        let leader = topic.and_then(|topic| {
            let known = topic.partition(partition.partition)?;
            Some(Leader { broker: known.leader?, epoch: known.leader_epoch })
        });
        (leader, topic.and_then(|topic| topic.id))
    });
    if leaderless {
        for topic in fetcher.topics() {
            if let Some(code) = cluster.topic_error(&topic).filter(|code| !code.is_retriable()) {
                fetcher.topic_refused(&topic, code, Instant::now());
                shared.readable.tell(());
            }
        }
    }
    drop(fetcher);
    shared.fetchable.tell(());
    leaderless
}

fn start_lookups(shared: &Arc<Shared>, running: &mut JoinSet<()>, now: Instant) {
    let committed = shared.fetcher.lock().take_committed_lookups(now);
    if !committed.is_empty() {
        running.spawn(look_up_committed(Arc::clone(shared), committed));
    }
    let checks = shared.fetcher.lock().take_epoch_checks(now);
    if !checks.is_empty() {
        let shared = Arc::clone(shared);
        running.spawn(async move {
            epochs::check(Arc::clone(&shared), checks).await;
            after_lookup(&shared);
        });
    }
    let resets = shared.fetcher.lock().take_resets(now);
    if !resets.is_empty() {
        running.spawn(look_up_resets(Arc::clone(shared), resets));
    }
}

async fn look_up_committed(shared: Arc<Shared>, asked: Vec<(TopicPartition, u64)>) {
    let partitions: Vec<TopicPartition> = asked.iter().map(|(partition, _)| partition.clone()).collect();
    let result = shared.fetch_committed(&partitions).await;
    let now = Instant::now();
    {
        let mut fetcher = shared.fetcher.lock();
        for (partition, epoch) in &asked {
            match &result {
                Ok(found) => {
                    let position = found.get(partition).map(|at| Position {
                        offset: at.offset,
                        leader_epoch: at.leader_epoch.unwrap_or(-1),
                    });
                    if let Some(position) = position {
                        shared.committed.lock().insert(partition.clone(), position.offset);
                    }
                    fetcher.committed(partition, *epoch, position);
                }
                Err(error) => {
                    let group = shared.options.group.clone().unwrap_or_default();
                    let reported = reportable(error, |code| ConsumeError::CommittedOffsets { group, code });
                    fetcher.lookup_failed(partition, *epoch, now, reported);
                }
            }
        }
    }
    after_lookup(&shared);
}

async fn look_up_resets(shared: Arc<Shared>, asked: Vec<Lookup>) {
    let now = since_1970();
    let timestamps: BTreeMap<TopicPartition, i64> =
        asked.iter().map(|lookup| (lookup.partition.clone(), lookup.reset.timestamp(now))).collect();
    let isolation = shared.options.isolation;
    let mut answers: BTreeMap<_, _> =
        list_offsets_once(&shared.client, isolation, &timestamps).await.into_iter().collect();
    // A timestamp that no record has reached yet means the end.
    let beyond: BTreeMap<TopicPartition, i64> = answers
        .iter()
        .filter(|(_, answer)| matches!(answer, Ok(None)))
        .map(|(partition, _)| (partition.clone(), OffsetReset::Latest.timestamp(now)))
        .collect();
    if !beyond.is_empty() {
        answers.extend(list_offsets_once(&shared.client, isolation, &beyond).await);
    }
    let now = Instant::now();
    {
        let mut fetcher = shared.fetcher.lock();
        for lookup in &asked {
            match answers.remove(&lookup.partition) {
                Some(Ok(Some(found))) => {
                    let position = Position { offset: found.offset, leader_epoch: found.leader_epoch };
                    fetcher.reset_found(&lookup.partition, lookup.epoch, position);
                }
                Some(Err(error)) => {
                    let partition = lookup.partition.clone();
                    let reported = reportable(&error, |code| ConsumeError::Refused { partition, code });
                    fetcher.lookup_failed(&lookup.partition, lookup.epoch, now, reported);
                }
                Some(Ok(None)) | None => {
                    fetcher.lookup_failed(&lookup.partition, lookup.epoch, now, None);
                }
            }
        }
    }
    after_lookup(&shared);
}

/// Errors that will pass are tried again in silence.
fn reportable(error: &OffsetsError, refused: impl FnOnce(ErrorCode) -> ConsumeError) -> Option<ConsumeError> {
    if error.is_retriable() {
        tracing::debug!(%error, "an offset could not be looked up yet");
        return None;
    }
    match error {
        OffsetsError::Refused { code, .. } => Some(refused(*code)),
        OffsetsError::Request(error) => Some(ConsumeError::Request(error.clone())),
        _ => None,
    }
}

fn after_lookup(shared: &Shared) {
    shared.fetchable.tell(());
    shared.readable.tell(());
    shared.upkeep.tell(());
}

/// Gives the plan's share of the budget back if the task ends while its request is under way.
struct InFlight<'a> {
    shared: &'a Shared,
    plan: Option<FetchPlan>,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if let Some(plan) = self.plan.take() {
            self.shared.fetcher.lock().failed(&plan, Instant::now());
        }
    }
}

async fn fetch_from(shared: Arc<Shared>, broker: i32) {
    let options = shared.options.fetch_options();
    let mut fetchable = shared.fetchable.follow();
    loop {
        fetchable.catch_up();
        let planned = shared.fetcher.lock().plan(broker, Instant::now());
        match planned {
            Planned::Fetch(plan) => {
                let mut in_flight = InFlight { shared: &shared, plan: Some(plan) };
                let Some(plan) = &in_flight.plan else { return };
                match fetch(&shared, plan, &options).await {
                    Ok(()) => in_flight.plan = None,
                    Err(error) => {
                        tracing::debug!(broker, %error, "fetch failed");
                        drop(in_flight);
                        shared.upkeep.tell(());
                    }
                }
            }
            Planned::Wait(at) => {
                if shared.fetcher.lock().take_sources_changed() {
                    shared.fetchable.tell(());
                    shared.upkeep.tell(());
                    continue;
                }
                tokio::select! {
                    biased;
                    changed = fetchable.changed() => if changed.is_err() { return },
                    () = sleep_until(at) => {}
                }
            }
        }
    }
}

async fn fetch(shared: &Shared, plan: &FetchPlan, options: &FetchOptions) -> Result<(), RequestError> {
    let node =
        shared.client.node(plan.broker).ok_or(RequestError::UnknownBroker { broker_id: plan.broker })?;
    let connection = shared.pool.connection(&node, Purpose::Fetch).await.map_err(RequestError::NotSent)?;
    let max_version = if request::has_topic_ids(plan) { i16::MAX } else { LAST_FETCH_VERSION_WITH_NAMES };
    let version = connection.version_of::<FetchRequest>(max_version)?;
    let call = Call {
        timeout: shared.client.request_timeout() + options.max_wait,
        max_version: version,
        payloads: &[],
    };
    let sent_at = Instant::now();
    let response = connection.request(&request::request(plan, options, version), call).await?;
    let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
    let bytes = partitions.filter_map(|it| it.records.as_ref()).map(bytes::Bytes::len).sum();
    shared.metrics.fetched(plan.broker, sent_at.elapsed(), bytes, response.throttle_time_ms);
    if let Err(code) = ErrorCode::from(response.error_code).into_result() {
        tracing::debug!(broker = plan.broker, %code, "fetch refused");
        shared.fetcher.lock().refused(plan, code, Instant::now());
        return Ok(());
    }
    // Where the leaders are that the answer names (KIP-951).
    let nodes = response.node_endpoints.iter();
    let nodes: Vec<_> = nodes
        .filter_map(|node| Broker::described(node.node_id.0, &node.host, node.port, node.rack.as_deref()))
        .collect();
    let session_id = response.session_id;
    let (answers, hints) = request::answers(plan, response);
    for (part, broker, epoch) in hints {
        if let Some(part) = plan.parts.get(part) {
            let partition = &part.partition;
            shared.client.metadata().take_leader(
                &partition.topic,
                partition.partition,
                broker,
                epoch,
                &nodes,
            );
        }
    }
    let (has_news, needs_upkeep, moved) = {
        let mut fetcher = shared.fetcher.lock();
        let has_news = fetcher.answered(plan, session_id, answers, Instant::now());
        (has_news, fetcher.needs_upkeep(), fetcher.take_sources_changed())
    };
    if has_news {
        shared.readable.tell(());
    }
    if needs_upkeep || moved {
        shared.upkeep.tell(());
    }
    if moved {
        shared.fetchable.tell(());
    }
    Ok(())
}
