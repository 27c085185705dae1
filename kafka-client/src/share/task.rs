//! The tasks of a share consumer: one for the membership, one for each broker that gives records. They decide nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kafka_wire::messages::{ShareFetchRequest, ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse};
use kafka_wire::{ErrorCode, Request};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::ShareError;
use super::membership::{Membership, News};
use super::session::Plan;
use super::shared::Shared;
use crate::cluster::CoordinatorKind;
use crate::consumer::sleep_until;
use crate::net::{Call, Pool, Purpose, RequestError};

/// How long closing may take when nobody waits for it.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs until the consumer is closed: then the sessions are, and the member leaves.
pub(super) async fn run(shared: Arc<Shared>, mut membership: Membership, mut closed: watch::Receiver<bool>) {
    let pool = Arc::new(shared.client.own_connections());
    let topics: Vec<Arc<str>> = shared.options.topics.iter().map(|topic| Arc::from(topic.as_str())).collect();
    let mut rounds = shared.client.metadata().subscribe();
    let mut brokers: JoinSet<()> = JoinSet::new();
    let mut served = BTreeSet::new();
    let mut failures = 0;
    shared.client.want_refresh(&topics);
    loop {
        rounds.catch_up();
        let (leaders, is_unknown) = shared.brokers(&shared.client.cluster());
        for broker in leaders {
            if served.insert(broker) {
                brokers.spawn(serve(Arc::clone(&shared), Arc::clone(&pool), broker, closed.clone()));
            }
        }
        shared.work.tell(());
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => break,
            () = tokio::time::sleep_until(membership.due_at()) => {}
            changed = rounds.changed() => match changed {
                Ok(()) => continue,
                Err(_) => break,
            },
        }
        if is_unknown {
            shared.client.want_refresh(&topics);
        }
        let request = membership.heartbeat();
        let answered = tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => break,
            answered = heartbeat(&shared, &pool, &request) => answered,
        };
        let pause = shared.client.retry_backoff().random_delay(failures + 1);
        let now = Instant::now();
        let news = match answered {
            Ok(response) => membership.answered(&response, now, pause),
            Err(RequestError::Unsupported(reason)) => {
                shared.fail(ShareError::Unsupported { reason: reason.to_string() });
                break;
            }
            Err(error) => {
                tracing::debug!(%error, "share group heartbeat failed");
                membership.failed(now, pause);
                failures += 1;
                shared.client.forget_coordinator(CoordinatorKind::Group, &shared.options.group);
                continue;
            }
        };
        match news {
            News::Nothing => failures = 0,
            News::Assigned => {
                failures = 0;
                shared.assign(membership.assigned());
                shared.client.want_refresh(&topics);
            }
            News::OtherCoordinator => {
                failures += 1;
                shared.client.forget_coordinator(CoordinatorKind::Group, &shared.options.group);
            }
            News::Refused { code, message } => {
                let group = shared.options.group.clone();
                shared.assign(membership.assigned());
                shared.fail(match code {
                    ErrorCode::UnsupportedVersion => ShareError::Unsupported { reason: message },
                    code => ShareError::Refused { group, code, message },
                });
                break;
            }
        }
    }
    let _ = closed.wait_for(|closed| *closed).await;
    // Each of them closes its session.
    while brokers.join_next().await.is_some() {}
    if let Some(leave) = membership.leave()
        && let Err(error) = heartbeat(&shared, &pool, &leave).await
    {
        tracing::debug!(%error, "share group not left: the member expires");
    }
    shared.give_up();
    pool.let_go();
}

async fn heartbeat(
    shared: &Shared,
    pool: &Pool,
    request: &ShareGroupHeartbeatRequest,
) -> Result<ShareGroupHeartbeatResponse, RequestError> {
    let node = shared.client.coordinator(CoordinatorKind::Group, &shared.options.group).await?;
    let connection = pool.connection(&node, Purpose::Coordinator).await.map_err(RequestError::NotSent)?;
    connection.request(request, Call::within(shared.client.request_timeout())).await
}

/// Fetches from one broker and tells it what became of its records, one request at a time.
async fn serve(shared: Arc<Shared>, pool: Arc<Pool>, broker: i32, mut closed: watch::Receiver<bool>) {
    let mut work = shared.work.follow();
    let mut failures = 0;
    loop {
        work.catch_up();
        if *closed.borrow() {
            break;
        }
        let plan = shared.plan(broker, Instant::now());
        let done = match plan {
            Plan::Wait(until) => {
                tokio::select! {
                    biased;
                    changed = work.changed() => if changed.is_err() { break },
                    _ = closed.wait_for(|closed| *closed) => break,
                    () = sleep_until(until) => {}
                }
                continue;
            }
            Plan::Fetch(request) => fetch(&shared, &pool, broker, &request).await,
            Plan::Acknowledge(request) => {
                let timeout = shared.client.request_timeout();
                match send(&shared, &pool, broker, &request, timeout).await {
                    Ok(response) => shared.acknowledged(broker, &response, Instant::now()),
                    Err(error) => Err(lost(&shared, broker, &error)),
                }
            }
        };
        let Err(code) = done else {
            failures = 0;
            continue;
        };
        tracing::debug!(broker, %code, "share session interrupted");
        failures += 1;
        let topics: Vec<Arc<str>> =
            shared.options.topics.iter().map(|topic| Arc::from(topic.as_str())).collect();
        shared.client.want_refresh(&topics);
        let pause = shared.client.retry_backoff().random_delay(failures);
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
    if let Some(request) = shared.plan_close(broker, Instant::now()) {
        match send(&shared, &pool, broker, &request, CLOSE_TIMEOUT).await {
            // The session is gone with it, whatever it says.
            Ok(response) => drop(shared.acknowledged(broker, &response, Instant::now())),
            Err(error) => drop(lost(&shared, broker, &error)),
        }
    }
}

async fn fetch(
    shared: &Shared,
    pool: &Pool,
    broker: i32,
    request: &ShareFetchRequest,
) -> Result<(), ErrorCode> {
    let timeout = shared.client.request_timeout() + shared.options.fetch_max_wait;
    match send(shared, pool, broker, request, timeout).await {
        Ok(response) => shared.fetched(broker, response, Instant::now()),
        Err(error) => Err(lost(shared, broker, &error)),
    }
}

fn lost(shared: &Shared, broker: i32, error: &RequestError) -> ErrorCode {
    tracing::debug!(broker, %error, "share session lost");
    shared.lost(broker, &error.to_string());
    ErrorCode::NetworkException
}

async fn send<R: Request>(
    shared: &Shared,
    pool: &Pool,
    broker: i32,
    request: &R,
    timeout: Duration,
) -> Result<R::Response, RequestError> {
    let node = shared.client.node(broker).ok_or(RequestError::UnknownBroker { broker_id: broker })?;
    let connection = pool.connection(&node, Purpose::Fetch).await.map_err(RequestError::NotSent)?;
    connection.request(request, Call::within(timeout)).await
}
