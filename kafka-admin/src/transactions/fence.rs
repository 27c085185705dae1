use std::time::Duration;

use kafka_client::Client;
use kafka_wire::messages::{InitProducerIdRequest, ProducerId};

use super::transactional_id;
use crate::coordinator::{Coordinates, ask_each};
use crate::driver::{Effect, Refusal};
use crate::operation::operation;
use crate::{AdminError, ItemResults};

/// The time-out that the id is left with: its next producer sets its own, and until then nothing is begun.
const TRANSACTION_TIMEOUT_MS: i32 = 1;

/// What a transactional id has after its producers were fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FencedProducer {
    /// The producer id.
    pub producer_id: i64,
    /// The epoch, above that of every producer before.
    pub producer_epoch: i16,
}

/// See [`Admin::fence_producers`](crate::Admin::fence_producers).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct FenceProducers {
    client: Client,
    timeout: Duration,
    ids: Vec<String>,
}

operation!(FenceProducers => ItemResults<String, FencedProducer>);

impl FenceProducers {
    pub(crate) fn new(client: Client, timeout: Duration, ids: Vec<String>) -> Self {
        Self { client, timeout, ids }
    }

    async fn run(self) -> Result<ItemResults<String, FencedProducer>, AdminError> {
        let kind = Coordinates::Transaction;
        ask_each(&self.client, kind, self.ids, Effect::Write, self.timeout, async |coordinator, id| {
            let request = InitProducerIdRequest::default()
                .with_transactional_id(Some(transactional_id(&id)))
                .with_transaction_timeout_ms(TRANSACTION_TIMEOUT_MS)
                .with_producer_id(ProducerId(-1))
                .with_producer_epoch(-1);
            let answer = coordinator.ask(request).await?;
            Ok(Refusal::check(answer.error_code, None).map(|()| FencedProducer {
                producer_id: answer.producer_id.0,
                producer_epoch: answer.producer_epoch,
            }))
        })
        .await
    }
}
