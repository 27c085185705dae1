//! What keeps a member in its group while the application is slow. In memory and on a paused clock, so on our broker only.

use std::sync::Arc;
use std::time::Duration;

use integration_tests::TestResult;
use kafka_admin::{Admin, NewTopic};
use kafka_broker::Broker;
use kafka_client::consumer::{Consumer, RebalanceEvent};
use kafka_client::group::GroupProtocol;
use kafka_client::{Client, OffsetReset, Record};
use tokio::sync::broadcast::Receiver;
use tokio::time::{sleep, timeout};

const TOPIC: &str = "t";
const MAX_POLL: Duration = Duration::from_secs(60);
/// Of virtual time.
const FOREVER: Duration = Duration::from_secs(3600);

async fn has_lost(events: &mut Receiver<RebalanceEvent>, within: Duration) -> bool {
    let lost = async {
        loop {
            match events.recv().await {
                Ok(RebalanceEvent::Lost(_)) => return,
                Ok(_) => {}
                Err(_) => std::future::pending().await,
            }
        }
    };
    timeout(within, lost).await.is_ok()
}

async fn next(consumer: &Consumer) -> TestResult<String> {
    let record = timeout(FOREVER, consumer.next()).await??.ok_or("the consumer ended")?;
    Ok(String::from_utf8(record.value.map(Vec::from).unwrap_or_default())?)
}

#[tokio::test(start_paused = true)]
async fn slow_work_that_is_in_progress_does_not_cost_the_membership_and_silence_does() -> TestResult {
    let broker = Arc::new(Broker::builder().start().await?);
    let dialed = broker.clone();
    let connector = move |_host: String, _port: u16| {
        let broker = dialed.clone();
        async move { Ok::<_, std::io::Error>(broker.connect().await) }
    };
    let client = Client::builder("broker:9092").connector(connector).build()?;
    Admin::new(client.clone()).create_topics([NewTopic::new(TOPIC, 1, 1)]).await?.all()?;
    let producer = client.producer().build()?;
    for value in ["first", "second"] {
        producer.send(Record::to(TOPIC).value(value)).await?.await?;
    }
    for protocol in [GroupProtocol::Classic, GroupProtocol::Consumer] {
        let consumer = client
            .consumer()
            .group(format!("{protocol:?}"))
            .topics([TOPIC])
            .protocol(protocol)
            .auto_offset_reset(OffsetReset::Earliest)
            .max_poll_interval(MAX_POLL)
            .build()?;
        let mut events = consumer.rebalances();
        assert_eq!(next(&consumer).await?, "first");
        let member = consumer.member_id();
        let (one, other) = (consumer.in_progress(), consumer.in_progress());
        assert!(!has_lost(&mut events, MAX_POLL * 3).await, "{protocol:?}");
        drop(one);
        assert!(!has_lost(&mut events, MAX_POLL * 3).await, "{protocol:?}: one guard is left");
        assert_eq!(consumer.member_id(), member);
        drop(other);
        // The interval begins anew with the end of the work.
        sleep(MAX_POLL / 2).await;
        assert!(!has_lost(&mut events, Duration::ZERO).await, "{protocol:?}");
        assert!(has_lost(&mut events, MAX_POLL).await, "{protocol:?}: silence is noticed again");
        drop(consumer);
    }
    Ok(())
}
