//! A consumer's futures, dropped at each of their awaits: no record is skipped or comes twice, no commit is half done, and what is
//! called next works. In memory and on a paused clock, so on our broker only.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use integration_tests::TestResult;
use kafka_admin::{Admin, NewTopic};
use kafka_broker::Broker;
use kafka_client::consumer::{CloseOptions, Consumer, ConsumerBuilder, OffsetAndMetadata};
use kafka_client::{Client, OffsetReset, Record, TopicPartition};
use tokio::time::{Instant, timeout};

pub(crate) const TOPIC: &str = "t";
pub(crate) const RECORDS: usize = 120;
/// Of virtual time. More than any time-out of the client's.
pub(crate) const FOREVER: Duration = Duration::from_secs(3600);
/// After which a member that vanished is out of the group (`group.consumer.session.timeout.ms`), also of virtual time.
const SESSION: Duration = Duration::from_secs(45);
/// No call waits more often than that.
const MAX_AWAITS: usize = 500;

/// Polls `future` until it is done, or was found waiting `times` times: then it is dropped there.
pub(crate) async fn drop_at<F: Future>(times: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut waited = 0;
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => {
            waited += 1;
            if waited >= times { Poll::Ready(None) } else { Poll::Pending }
        }
    })
    .await
}

/// Makes the call anew, dropped at its first await, its second, and so on, until it is done before it is dropped.
pub(crate) async fn at_every_await<T>(
    what: &str,
    mut call: impl AsyncFnMut() -> T,
    mut dropped: impl AsyncFnMut(usize) -> TestResult,
) -> TestResult<T> {
    for times in 1..=MAX_AWAITS {
        if let Some(output) = timeout(FOREVER, drop_at(times, call())).await? {
            return Ok(output);
        }
        dropped(times).await?;
    }
    Err(format!("{what} is not done after {MAX_AWAITS} awaits").into())
}

pub(crate) async fn client_with_records() -> TestResult<Client> {
    let broker = Arc::new(Broker::builder().start().await?);
    let connector = move |_host: String, _port: u16| {
        let broker = broker.clone();
        async move { Ok::<_, std::io::Error>(broker.connect().await) }
    };
    let client = Client::builder("broker:9092").connector(connector).build()?;
    Admin::new(client.clone()).create_topics([NewTopic::new(TOPIC, 1, 1)]).await?.all()?;
    let producer = client.producer().batch_size(100).build()?;
    for value in 0..RECORDS {
        producer
            .send(Record::to(TOPIC).value(value.to_string()).timestamp(1000 + value as i64))
            .await?
            .await?;
    }
    Ok(client)
}

fn partition() -> TopicPartition {
    TopicPartition::new(TOPIC, 0)
}

fn group(client: &Client, name: &str) -> ConsumerBuilder {
    client.consumer().group(name).topics([TOPIC]).auto_offset_reset(OffsetReset::Earliest)
}

async fn next_offset(consumer: &Consumer) -> TestResult<i64> {
    Ok(timeout(FOREVER, consumer.next()).await??.ok_or("the consumer ended")?.offset)
}

#[tokio::test(start_paused = true)]
async fn calls_for_records_that_are_dropped_at_any_await_lose_and_double_none() -> TestResult {
    let client = client_with_records().await?;
    let (mut offsets, mut drops) = (Vec::new(), 0);
    let consumer = group(&client, "records").build()?;
    let mut call = 0;
    while offsets.len() < RECORDS {
        call += 1;
        // Calls of all kinds take turns, and so do the awaits at which they are dropped.
        let times = 1 + call % 4;
        let came = match call % 3 {
            0 => match timeout(FOREVER, drop_at(times, consumer.next())).await? {
                Some(record) => vec![record?.ok_or("the consumer ended")?.offset],
                None => Vec::new(),
            },
            kind => {
                let batch = match kind {
                    1 => timeout(FOREVER, drop_at(times, consumer.next_batch())).await?,
                    _ => {
                        let within = Duration::from_secs(5);
                        timeout(FOREVER, drop_at(times, consumer.poll_timeout(within))).await?
                    }
                };
                let mut came = Vec::new();
                for record in batch.transpose()?.flatten().into_iter().flatten() {
                    came.push(record?.offset);
                }
                came
            }
        };
        drops += usize::from(came.is_empty());
        offsets.extend(came);
        if call % 7 == 0 {
            // To where it is: what is buffered is void then.
            consumer.seek(&partition(), offsets.last().map_or(0, |last| last + 1)).ok();
        }
    }
    assert_eq!(offsets, (0..RECORDS as i64).collect::<Vec<_>>());
    assert!(drops > 0);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_is_dropped_at_any_await_is_whole_or_was_not() -> TestResult {
    let client = client_with_records().await?;
    let consumer = group(&client, "commits").enable_auto_commit(false).build()?;
    next_offset(&consumer).await?;
    let committed = async || -> TestResult<Option<i64>> {
        let all = timeout(FOREVER, consumer.committed([partition()])).await??;
        Ok(all.into_values().next().map(|of| of.offset))
    };
    let mut next = 10;
    let mut known = None;
    for times in 1..=MAX_AWAITS {
        next += 1;
        let given = [(partition(), OffsetAndMetadata::new(next))];
        let done = timeout(FOREVER, drop_at(times, consumer.commit_offsets(given))).await?;
        let is = committed().await?;
        assert!(is == known || is == Some(next), "{is:?}, but {known:?} was there and {next} was to come");
        known = is;
        if let Some(result) = done {
            result?;
            assert_eq!(is, Some(next));
            break;
        }
    }
    assert_eq!(known, Some(next));
    let read = next_offset(&consumer).await?;
    at_every_await(
        "commit",
        async || consumer.commit().await,
        async |_| {
            let is = committed().await?;
            assert!(is == Some(next) || is.is_some_and(|is| is <= read + 1), "{is:?}");
            Ok(())
        },
    )
    .await??;
    assert!(committed().await?.is_some_and(|is| is <= read + 1));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn questions_that_are_dropped_at_any_await_are_answered_when_they_are_asked_again() -> TestResult {
    let client = client_with_records().await?;
    let ready = || group(&client, "questions").enable_auto_commit(false).build();
    let consumer = ready()?;
    let nothing = async |_| Ok(());
    let of = || [partition()];
    let position = at_every_await("position", async || consumer.position(&partition()).await, nothing).await;
    // Asked before the group settled, it may be refused; what counts is that it ends and that it is right later.
    drop(position?);
    assert_eq!(next_offset(&consumer).await?, 0);
    assert_eq!(consumer.position(&partition()).await?, 1);
    let begin =
        at_every_await("begin_offsets", async || consumer.begin_offsets(of()).await, nothing).await??;
    assert_eq!(begin, BTreeMap::from([(partition(), 0)]));
    let end = at_every_await("end_offsets", async || consumer.end_offsets(of()).await, nothing).await??;
    assert_eq!(end, BTreeMap::from([(partition(), RECORDS as i64)]));
    let times = || [(partition(), 1007)];
    let at = at_every_await("offsets_for_times", async || consumer.offsets_for_times(times()).await, nothing);
    let found = at.await??.remove(&partition()).flatten().ok_or("no record of that time")?;
    assert_eq!(found.offset, 7);
    let committed = at_every_await("committed", async || consumer.committed(of()).await, nothing).await??;
    assert!(committed.is_empty(), "{committed:?}");
    Ok(())
}

/// What is left of closing goes on in the background: whoever comes next waits for no session to end, and skips nothing.
#[tokio::test(start_paused = true)]
async fn closing_that_is_dropped_at_any_await_goes_on_and_the_next_member_skips_nothing() -> TestResult {
    let client = client_with_records().await?;
    let mut seen = -1;
    for times in 1..=MAX_AWAITS {
        let consumer = group(&client, "closing").build()?;
        let began = Instant::now();
        let first = next_offset(&consumer).await?;
        assert!(began.elapsed() < SESSION, "the last member did not leave at await {times}");
        assert!(first <= seen + 1, "{} to {first} were skipped at await {times}", seen + 1);
        seen = seen.max(first);
        let closed = timeout(FOREVER, drop_at(times, consumer.close_with(CloseOptions::default()))).await?;
        drop(consumer);
        if let Some(closed) = closed {
            closed?;
            return Ok(());
        }
    }
    Err("closing never ends".into())
}

#[tokio::test(start_paused = true)]
async fn streams_of_partitions_that_are_dropped_at_any_await_lose_and_double_none() -> TestResult {
    let client = client_with_records().await?;
    let consumer = group(&client, "streams").build()?;
    let mut streams = consumer.partition_streams();
    let nothing = async |_| Ok(());
    let stream = at_every_await("streams.next", async || streams.next().await, nothing).await?;
    let mut stream = stream.ok_or("the consumer ended")??;
    let (mut offsets, mut drops) = (Vec::new(), 0);
    let mut call = 0;
    while offsets.len() < RECORDS {
        call += 1;
        assert!(drop_at(1, stream.revoking()).await.is_none());
        match timeout(FOREVER, drop_at(1 + call % 3, stream.next())).await? {
            Some(record) => offsets.push(record.ok_or("the stream ended")??.offset),
            None => drops += 1,
        }
        if call % 7 == 0 {
            // To where it is: what is buffered is void then.
            consumer.seek(&partition(), offsets.last().map_or(0, |last| last + 1))?;
        }
    }
    assert_eq!(offsets, (0..RECORDS as i64).collect::<Vec<_>>());
    assert!(drops > 0);

    let closing = tokio::spawn({
        let consumer = consumer.clone();
        async move { consumer.close().await }
    });
    let end = at_every_await("revoking", async || stream.revoking().await, nothing).await?;
    assert_eq!(Some(end), stream.end_reason());
    assert!(at_every_await("stream.next", async || stream.next().await, nothing).await?.is_none());
    stream.release();
    timeout(FOREVER, closing).await???;
    let next = group(&client, "streams").build()?;
    let committed = timeout(FOREVER, next.committed([partition()])).await??;
    assert_eq!(committed.into_values().next().map(|of| of.offset), Some(RECORDS as i64));
    Ok(())
}
