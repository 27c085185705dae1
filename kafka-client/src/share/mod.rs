//! The share consumer: a member of a share group (KIP-932), which takes records from partitions as workers take jobs from
//! a queue.
//!
//! ```no_run
//! # async fn run(job: &kafka_client::ConsumerRecord) -> Result<(), Failure> { Ok(()) }
//! # struct Failure { is_poison: bool }
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! let client = kafka_client::Client::connect("localhost:9092").await?;
//! let share = client.share_consumer("jobs").topics(["tasks"]).build()?;
//! while let Some(job) = share.next().await? {
//!     match run(&job).await {
//!         Ok(()) => drop(job.accept()),
//!         Err(error) if error.is_poison => job.reject(),
//!         // As dropping it would.
//!         Err(_) => job.release(),
//!     }
//! }
//! # Ok(()) }
//! ```
//!
//! Every record is locked for the member that has it, for 30 s unless the group is configured otherwise. It is
//! delivered again, to anybody, if it is released or its lock ends, and given up after five deliveries. Members need not
//! have partitions of their own: there may be more of them than partitions, and the order of records is not kept.
//!
//! All brokers are fetched from at once, and only while somebody waits for records, so that no locks run out in a buffer.
//! Acknowledgements go to the broker that gave the records, together with the next fetch.

mod acknowledgements;
mod answer;
mod builder;
mod error;
mod membership;
mod record;
mod session;
mod shared;
mod task;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use builder::ShareConsumerBuilder;
pub use error::{AcknowledgeError, AcknowledgeOutcome, AcknowledgeType, ShareError};
pub use record::ShareRecord;

use crate::TopicPartition;
use crate::client::Client;
use builder::Options;
use membership::Membership;
use session::Member;
use shared::Shared;

/// A member of a share group; made by [`Client::share_consumer`].
///
/// Cheap to clone: clones are the same member, and each record goes to one of them. All methods take `&self` and are
/// cancel-safe: dropping a call for records loses none. Dropping the last clone never blocks; what was said is told
/// to the brokers and the group is left in the background. [`close`](Self::close) waits for both.
#[derive(Clone)]
pub struct ShareConsumer {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    closed: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
        self.closed.send_replace(true);
    }
}

impl ShareConsumer {
    fn start(client: Client, options: Options) -> Self {
        let rack = options.rack.as_deref();
        let membership = Membership::new(&options.group, &options.topics, rack, Instant::now());
        let group = kafka_wire::StrBytes::from_string(options.group.clone());
        let member = Member { group, id: membership.member_id().clone() };
        let shared = Arc::new(Shared::new(client, options, member));
        let (closed, is_closed) = watch::channel(false);
        let task = tokio::spawn(task::run(Arc::clone(&shared), membership, is_closed));
        Self { handle: Arc::new(Handle { shared, closed, task: Mutex::new(Some(task)) }) }
    }

    /// The next record, as soon as there is one; `None` after [`close`](Self::close).
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// The group is not for this member: final.
    pub async fn next(&self) -> Result<Option<ShareRecord>, ShareError> {
        let shared = &self.handle.shared;
        Ok(shared.next().await?.map(|ready| ShareRecord::new(shared, ready)))
    }

    /// The records that are there, at most `max`, as soon as there is one; empty after [`close`](Self::close).
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn next_batch(&self, max: usize) -> Result<Vec<ShareRecord>, ShareError> {
        let mut records = Vec::new();
        if max > 0 {
            records.extend(self.next().await?);
        }
        let shared = &self.handle.shared;
        while !records.is_empty()
            && records.len() < max
            && let Ok(ready) = shared.take(Instant::now())
        {
            records.push(ShareRecord::new(shared, ready));
        }
        Ok(records)
    }

    /// The records as a stream; it ends when the consumer is closed, and after an error.
    pub fn stream(&self) -> impl Stream<Item = Result<ShareRecord, ShareError>> + Send + '_ {
        futures::stream::try_unfold(self, |consumer| async move {
            Ok(consumer.next().await?.map(|record| (record, consumer)))
        })
    }

    /// Waits until the brokers have answered to all that was said so far of records, and tells what became of it.
    ///
    /// Dropping the future takes nothing back.
    pub async fn commit(&self) -> Vec<AcknowledgeOutcome> {
        self.handle.shared.commit().await.unwrap_or_default()
    }

    /// What becomes of acknowledgements, as brokers answer. A listener that is slow misses some.
    pub fn acknowledgements(&self) -> broadcast::Receiver<AcknowledgeOutcome> {
        self.handle.shared.outcomes.subscribe()
    }

    /// The partitions that this member fetches; others may fetch them too.
    pub fn assignment(&self) -> BTreeSet<TopicPartition> {
        self.handle.shared.assignment()
    }

    /// Says to the brokers what was said so far, releases the rest, and leaves the group. Records that are still in
    /// somebody's hands are released.
    ///
    /// Dropping the future closes in the background.
    pub async fn close(&self, deadline: Duration) {
        self.handle.shared.close();
        self.handle.closed.send_replace(true);
        let task = self.handle.task.lock().take();
        if let Some(task) = task
            && tokio::time::timeout(deadline, task).await.is_err()
        {
            tracing::warn!(group = self.handle.shared.options.group, "share consumer not closed in time");
        }
    }
}

impl fmt::Debug for ShareConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShareConsumer")
            .field("group", &self.handle.shared.options.group)
            .finish_non_exhaustive()
    }
}
