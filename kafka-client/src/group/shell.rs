//! What the tasks of members have in common: the requests that are under way, and the word to close.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;

use super::classic::Ask;
use super::member::GroupExit;
use super::requests::{Heard, Host, Terms};

/// How long leaving may take, rebalance callbacks and retries included, also when the member was dropped and nobody waits
/// for it.
pub(crate) const LEAVE_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a member waits for, as events `E`.
pub(crate) struct UnderWay<E> {
    /// The exchange that a classic member waits for: a newer one replaces it, and its answer is not heard.
    exchange: Option<BoxFuture<E>>,
    /// Heartbeats, leaving, and whatever else is asked.
    others: FuturesUnordered<BoxFuture<E>>,
}

impl<E> Default for UnderWay<E> {
    fn default() -> Self {
        Self { exchange: None, others: FuturesUnordered::new() }
    }
}

impl<E: 'static> UnderWay<E> {
    /// Sends what a classic member asks.
    pub(crate) fn ask<H: Host + 'static>(
        &mut self,
        host: Arc<H>,
        terms: Terms,
        ask: Ask,
        event: fn(Heard) -> E,
    ) {
        let is_exchange = ask.is_exchange();
        let answer = Box::pin(async move { event(ask.send(&*host, &terms).await) });
        if is_exchange { self.exchange(answer) } else { self.push(answer) }
    }

    pub(crate) fn exchange(&mut self, exchange: BoxFuture<E>) {
        self.exchange = Some(exchange);
    }

    pub(crate) fn push(&mut self, request: BoxFuture<E>) {
        self.others.push(request);
    }

    /// Whether nothing is to be waited for before a member that has left may go.
    pub(crate) fn is_idle(&self) -> bool {
        self.others.is_empty()
    }

    /// Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> E {
        let exchange = async {
            match &mut self.exchange {
                Some(running) => running.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // In this order, so that a run on a paused clock and one thread is always the same.
            biased;
            event = exchange => {
                self.exchange = None;
                event
            }
            Some(event) = self.others.next(), if !self.others.is_empty() => event,
        }
    }
}

/// A member that is dropped leaves as its options say.
pub(crate) async fn wait_for_close(closing: &mut watch::Receiver<Option<GroupExit>>) -> GroupExit {
    match closing.wait_for(Option::is_some).await {
        Ok(exit) => exit.unwrap_or_default(),
        Err(_) => GroupExit::Default,
    }
}
