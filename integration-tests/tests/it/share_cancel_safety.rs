//! A share consumer's futures, dropped at each of their awaits: each record is done once, and what is called next works. In
//! memory and on a paused clock, so on our broker only.

use std::pin::pin;

use futures::StreamExt;
use integration_tests::TestResult;
use kafka_admin::{Admin, ConfigChange, ConfigResource};
use kafka_client::Client;
use kafka_client::share::{ShareConsumer, ShareRecord};
use tokio::time::timeout;

use crate::cancel_safety::{FOREVER, RECORDS, TOPIC, at_every_await, client_with_records, drop_at};

async fn member(client: &Client, group: &str) -> TestResult<ShareConsumer> {
    let from_the_beginning = vec![ConfigChange::set("share.auto.offset.reset", "earliest")];
    let admin = Admin::new(client.clone());
    let group = group.to_owned();
    let configs = [(ConfigResource::Group(group.clone()), from_the_beginning)];
    admin.incremental_alter_configs(configs).await?.all()?;
    Ok(client.share_consumer(group).topics([TOPIC]).record_limit(10).build()?)
}

async fn next(consumer: &ShareConsumer) -> TestResult<ShareRecord> {
    Ok(timeout(FOREVER, consumer.next()).await??.ok_or("the consumer ended")?)
}

#[tokio::test(start_paused = true)]
async fn calls_for_shared_records_that_are_dropped_at_any_await_lose_and_double_none() -> TestResult {
    let client = client_with_records().await?;
    let consumer = member(&client, "records").await?;
    let (mut offsets, mut drops, mut call) = (Vec::new(), 0, 0);
    while offsets.len() < RECORDS {
        call += 1;
        // Calls of all kinds take turns, and so do the awaits at which they are dropped.
        let times = 1 + call % 5 / 3;
        let came = match call % 3 {
            0 => timeout(FOREVER, drop_at(times, consumer.next()))
                .await?
                .transpose()?
                .flatten()
                .into_iter()
                .collect(),
            1 => timeout(FOREVER, drop_at(times, consumer.next_batch(3)))
                .await?
                .transpose()?
                .unwrap_or_default(),
            _ => {
                let mut stream = pin!(consumer.stream());
                let next = timeout(FOREVER, drop_at(times, stream.next())).await?;
                next.flatten().transpose()?.into_iter().collect::<Vec<_>>()
            }
        };
        drops += usize::from(came.is_empty());
        for record in came {
            assert_eq!(record.delivery_count(), 1, "offset {}", record.offset);
            offsets.push(record.accept().offset);
        }
    }
    offsets.sort_unstable();
    assert_eq!(offsets, (0..RECORDS as i64).collect::<Vec<_>>());
    assert!(drops > 0);
    let outcomes = timeout(FOREVER, consumer.commit()).await?;
    assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()), "{outcomes:?}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_was_said_is_told_though_the_call_that_waits_for_it_is_dropped() -> TestResult {
    let client = client_with_records().await?;
    let consumer = member(&client, "commits").await?;
    let mut told = consumer.acknowledgements();
    let mut done = 0;
    let accept_one = async || -> TestResult {
        next(&consumer).await?.accept();
        Ok(())
    };
    accept_one().await?;
    at_every_await(
        "commit",
        async || consumer.commit().await,
        async |_| {
            done += 1;
            accept_one().await
        },
    )
    .await?;
    let rest = timeout(FOREVER, consumer.commit()).await?;
    assert!(rest.iter().all(|outcome| outcome.result.is_ok()), "{rest:?}");
    let mut offsets = Vec::new();
    while let Ok(outcome) = told.try_recv() {
        assert!(outcome.result.is_ok(), "{outcome:?}");
        offsets.extend(outcome.first..=outcome.last);
    }
    assert_eq!(offsets, (0..=done).collect::<Vec<i64>>());
    timeout(FOREVER, consumer.close(FOREVER)).await?;
    // None of these comes again, whatever else it was given and lost with it.
    let second = member(&client, "commits").await?;
    assert_eq!(next(&second).await?.offset, done + 1);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_dropped_at_any_await_may_be_asked_for_again() -> TestResult {
    let client = client_with_records().await?;
    let consumer = member(&client, "renewals").await?;
    let mut record = next(&consumer).await?;
    let mut times = 0;
    loop {
        times += 1;
        if let Some(renewed) = timeout(FOREVER, drop_at(times, record.renew())).await? {
            renewed?;
            break;
        }
    }
    let offset = record.accept().offset;
    let outcomes = timeout(FOREVER, consumer.commit()).await?;
    let last = outcomes.iter().rfind(|outcome| outcome.first == offset).ok_or("nothing was told")?;
    assert!(last.result.is_ok() && times > 1, "{outcomes:?}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_close_that_is_dropped_at_any_await_goes_on_in_the_background() -> TestResult {
    let client = client_with_records().await?;
    for times in 1..50 {
        let group = format!("closes-{times}");
        let consumer = member(&client, &group).await?;
        let accepted = next(&consumer).await?.accept().offset;
        let held = next(&consumer).await?;
        let closed = timeout(FOREVER, drop_at(times, consumer.close(FOREVER))).await?;
        assert!(timeout(FOREVER, consumer.next()).await??.is_none());
        // What was accepted does not come again, and what is held does, long before its lock would have ended.
        let second = member(&client, &group).await?;
        let began = tokio::time::Instant::now();
        let again = next(&second).await?;
        assert_eq!((again.offset, again.delivery_count()), (accepted + 1, 2));
        assert!(began.elapsed().as_secs() < 15, "{:?}", began.elapsed());
        drop((held, again));
        if closed.is_some() {
            return Ok(());
        }
    }
    Err("closing is never done".into())
}
