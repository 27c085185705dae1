use std::time::Duration;

use kafka_client::Client;
use kafka_wire::StrBytes;
use kafka_wire::messages::{ListTransactionsRequest, ListTransactionsResponse, ProducerId};

use super::TransactionState;
use crate::AdminError;
use crate::brokers::ask_all_brokers;
use crate::driver::{Effect, Refusal, drive_one};
use crate::operation::operation;

/// A transactional id as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionListing {
    /// The id.
    pub transactional_id: String,
    /// The broker that coordinates it.
    pub coordinator: i32,
    /// The producer id that its producer writes with.
    pub producer_id: i64,
    /// Its state.
    pub state: TransactionState,
}

/// See [`Admin::list_transactions`](crate::Admin::list_transactions).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct ListTransactions {
    client: Client,
    timeout: Duration,
    states: Vec<TransactionState>,
    producer_ids: Vec<i64>,
    running_longer_than: Option<Duration>,
    pattern: Option<String>,
}

operation!(ListTransactions => Vec<TransactionListing>);

impl ListTransactions {
    pub(crate) fn new(client: Client, timeout: Duration) -> Self {
        Self {
            client,
            timeout,
            states: Vec::new(),
            producer_ids: Vec::new(),
            running_longer_than: None,
            pattern: None,
        }
    }

    /// Only ids in these states. Default: any.
    pub fn in_states(mut self, states: impl IntoIterator<Item = TransactionState>) -> Self {
        self.states = states.into_iter().collect();
        self
    }

    /// Only ids with one of these producer ids. Default: any.
    pub fn of_producers(mut self, producer_ids: impl IntoIterator<Item = i64>) -> Self {
        self.producer_ids = producer_ids.into_iter().collect();
        self
    }

    /// Only transactions that were begun longer ago (KIP-994, Kafka 3.8). Default: any.
    pub fn running_longer_than(mut self, duration: Duration) -> Self {
        self.running_longer_than = Some(duration);
        self
    }

    /// Only ids that this regular expression matches as a whole (KIP-1152, Kafka 4.1). Default: any.
    pub fn matching(mut self, pattern: impl Into<String>) -> Self {
        self.pattern = Some(pattern.into());
        self
    }

    fn request(&self) -> ListTransactionsRequest {
        let longer = self.running_longer_than.map(|it| i64::try_from(it.as_millis()).unwrap_or(i64::MAX));
        ListTransactionsRequest::default()
            .with_state_filters(self.states.iter().map(|it| StrBytes::from_static_str(it.name())).collect())
            .with_producer_id_filters(self.producer_ids.iter().copied().map(ProducerId).collect())
            .with_duration_filter(longer.unwrap_or(-1))
            .with_transactional_id_pattern(self.pattern.clone().map(StrBytes::from_string))
    }

    /// Sorted by id.
    async fn run(self) -> Result<Vec<TransactionListing>, AdminError> {
        let request = self.request();
        let answers = drive_one(&self.client, Effect::Read, self.timeout, |remaining| {
            ask_all_brokers(
                self.client.clone(),
                request.clone(),
                remaining,
                |answer: &ListTransactionsResponse| Refusal::check(answer.error_code, None),
            )
        });
        Ok(merged(answers.await?))
    }
}

/// An id that has just moved is known to two coordinators; it is listed once.
fn merged(answers: Vec<(i32, ListTransactionsResponse)>) -> Vec<TransactionListing> {
    let listings = answers.into_iter().flat_map(|(coordinator, answer)| {
        answer.transaction_states.into_iter().map(move |listed| TransactionListing {
            transactional_id: listed.transactional_id.to_string(),
            coordinator,
            producer_id: listed.producer_id.0,
            state: TransactionState::parse(&listed.transaction_state),
        })
    });
    let mut listings: Vec<_> = listings.collect();
    listings.sort_by(|a, b| a.transactional_id.cmp(&b.transactional_id));
    listings.dedup_by(|a, b| a.transactional_id == b.transactional_id);
    listings
}

#[cfg(test)]
mod tests {
    use kafka_wire::messages::list_transactions_response::TransactionState as Listed;

    use super::super::transactional_id;
    use super::*;

    #[test]
    fn ids_of_all_coordinators_are_listed_once_in_order() {
        let listed = |id: &str| {
            Listed::default()
                .with_transactional_id(transactional_id(id))
                .with_producer_id(ProducerId(7))
                .with_transaction_state(StrBytes::from_static_str("Ongoing"))
        };
        let answer = |ids: &[&str]| {
            ListTransactionsResponse::default()
                .with_transaction_states(ids.iter().map(|id| listed(id)).collect())
        };
        let listings = merged(vec![(1, answer(&["c", "b"])), (2, answer(&["a", "b"]))]);
        let ids: Vec<_> = listings.iter().map(|it| it.transactional_id.as_str()).collect();
        assert_eq!(ids, ["a", "b", "c"]);
        assert_eq!(
            listings[0],
            TransactionListing {
                transactional_id: "a".to_owned(),
                coordinator: 2,
                producer_id: 7,
                state: TransactionState::Ongoing,
            }
        );
    }
}
