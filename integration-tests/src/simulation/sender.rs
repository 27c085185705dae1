//! A caller of a producer: it sends, tries to, drops what it waits for, and notes what it was told.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use kafka_client::producer::{Delivery, Producer, Record, SendError, TrySendError};
use tokio::time::{Instant, sleep, timeout};

use super::check::Violation;
use super::history::{History, Outcome};
use super::plan::Plan;
use super::random::Random;
use super::raw::TOPIC;
use super::trace::Trace;

/// A timer fires a moment after its time.
const SLACK: Duration = Duration::from_millis(50);
/// A partition that no topic has, however much it grows.
const NOWHERE: i32 = 1000;

/// How long a caller waits for a call.
#[derive(Debug, Clone, Copy)]
enum Patience {
    Endless,
    Time(Duration),
    /// So many times it is looked at.
    Polls(u32),
}

/// A future's output, unless it is not ready when it has been polled so many times: it is dropped then.
async fn polled_at_most<F: Future>(polls: u32, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| {
        let Some(fewer) = left.checked_sub(1) else { return Poll::Ready(None) };
        left = fewer;
        match future.as_mut().poll(context) {
            Poll::Pending if left == 0 => Poll::Ready(None),
            polled => polled.map(Some),
        }
    })
    .await
}

/// One task that sends.
#[derive(Debug)]
pub(super) struct Sender {
    /// Records of one number have an order.
    pub(super) number: u32,
    pub(super) producer: Producer,
    pub(super) history: History,
    pub(super) trace: Trace,
    pub(super) started: Instant,
    /// The wall clock at `started`, in milliseconds since 1970.
    pub(super) started_ms: i64,
    pub(super) random: Random,
}

impl Sender {
    /// Sends what the plan says. Returns what a caller may complain about at once.
    pub(super) async fn run(mut self, plan: Plan) -> Vec<Violation> {
        let mut complaints = Vec::new();
        // Some callers are in a hurry, others wait between records.
        let pace = self.random.pick(&[0, 0, 2, 20, 200], 0);
        for _ in 0..plan.records {
            match self.random.below(100) {
                0..=2 => self.flush().await,
                3 => self.send_too_large(&plan).await,
                4 => self.send_astray(&plan).await,
                5..=9 => self.try_send(&plan),
                10..=14 => {
                    let patience = self.random.millis(0, 30);
                    self.send_one(&plan, Patience::Time(patience)).await;
                }
                15..=17 => {
                    // Dropped wherever it waits for the first, the second, the third time.
                    let polls = self.random.between(0, 4) as u32;
                    self.send_one(&plan, Patience::Polls(polls)).await;
                }
                _ => {
                    let began = Instant::now();
                    self.send_one(&plan, Patience::Endless).await;
                    let took = began.elapsed();
                    if took > plan.max_block + SLACK {
                        let late = format!("send took {took:?}, max.block is {:?}", plan.max_block);
                        complaints.push(Violation::Other(late));
                    }
                }
            }
            let pause = self.random.millis(0, pace);
            if !pause.is_zero() {
                sleep(pause).await;
            }
        }
        complaints
    }

    /// A record whose value begins with its number, and the number. `None` when there are enough.
    fn record(&mut self, plan: &Plan, size: usize) -> Option<(u64, Record<'static>)> {
        let partition = self.random.chance(0.6).then(|| self.random.below(plan.partitions as u64) as i32);
        let key = self.random.chance(0.3).then(|| self.random.below(10).to_be_bytes().to_vec());
        let id = self.history.begin(self.number, partition, plan.max_records)?;
        let mut value = id.to_be_bytes().to_vec();
        value.resize(value.len() + size, 0);
        let now_ms = self.started_ms + self.started.elapsed().as_millis() as i64;
        let mut record = Record::to(TOPIC).value(value).timestamp(now_ms);
        if let Some(partition) = partition {
            record = record.partition(partition);
        }
        if let Some(key) = key {
            record = record.key(key);
        }
        Some((id, record))
    }

    fn size(&mut self) -> usize {
        let most = self.random.pick(&[0, 10, 100, 1000], 10);
        self.random.below(most + 1) as usize
    }

    /// Sends one record. When patience ends the call is dropped, which means that the record was not taken.
    async fn send_one(&mut self, plan: &Plan, patience: Patience) {
        let size = self.size();
        let Some((id, record)) = self.record(plan, size) else { return };
        let sending = self.producer.send(record);
        let sent = match patience {
            Patience::Endless => Some(sending.await),
            Patience::Time(patience) => timeout(patience, sending).await.ok(),
            Patience::Polls(polls) => polled_at_most(polls, sending).await,
        };
        match sent {
            Some(sent) => self.note(id, sent),
            None => self.told(id, Outcome::NotTaken("dropped".to_owned())),
        }
    }

    fn try_send(&mut self, plan: &Plan) {
        let size = self.size();
        let Some((id, record)) = self.record(plan, size) else { return };
        let producer = self.producer.clone();
        match producer.try_send(record) {
            Ok(delivery) => self.note(id, Ok(delivery)),
            Err(TrySendError::Failed(error)) => self.note(id, Err(error)),
            Err(_) => self.told(id, Outcome::NotTaken("no room right now".to_owned())),
        }
    }

    async fn send_too_large(&mut self, plan: &Plan) {
        let Some((id, record)) = self.record(plan, plan.max_request_size) else { return };
        let sent = self.producer.send(record).await;
        if sent.is_ok() {
            self.told(id, Outcome::NotTaken("too large, and yet it was taken".to_owned()));
        } else {
            self.note(id, sent);
        }
    }

    async fn send_astray(&mut self, plan: &Plan) {
        let Some((id, record)) = self.record(plan, 0) else { return };
        let sent = self.producer.send(record.partition(NOWHERE)).await;
        self.note(id, sent);
    }

    /// Flushes, and perhaps does not wait for it.
    async fn flush(&mut self) {
        match self.random.chance(0.5) {
            true => self.producer.flush().await,
            false => {
                let patience = self.random.millis(0, 100);
                // Dropping the flush ends the wait, and nothing else.
                let _ = timeout(patience, self.producer.flush()).await;
            }
        }
    }

    fn told(&self, id: u64, outcome: Outcome) {
        self.trace.note(format_args!("record {id}: {outcome:?}"));
        self.history.told(id, self.started.elapsed(), outcome);
    }

    fn note(&mut self, id: u64, sent: Result<Delivery, SendError>) {
        let delivery = match sent {
            Ok(delivery) => delivery,
            Err(error) => return self.told(id, Outcome::NotTaken(error.to_string())),
        };
        self.history.taken(id, self.started.elapsed());
        if self.random.chance(0.05) {
            drop(delivery);
            return self.told(id, Outcome::Ignored);
        }
        let (history, trace, started) = (self.history.clone(), self.trace.clone(), self.started);
        tokio::spawn(async move {
            let outcome = match delivery.await {
                Ok(written) => Outcome::Acknowledged { partition: written.partition, offset: written.offset },
                Err(error) if error.possibly_written() => Outcome::PossiblyWritten(error.to_string()),
                Err(error) => Outcome::Failed(error.to_string()),
            };
            trace.note(format_args!("record {id}: {outcome:?}"));
            history.told(id, started.elapsed(), outcome);
        });
    }
}
