use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::future::BoxFuture;

use super::accumulator::NotNow;
use super::{Delivery, Producer, Record, SendError, TopicHandle, TopicRef};

/// What [`Producer::send`] waits for: usually nothing, so that the first poll is ready.
///
/// Not an `async fn`, since a record would be moved several times on its way into one (measured: 20 ns).
#[must_use = "a record is not sent before this is awaited"]
pub struct Sending<'a> {
    /// `None` once it was polled.
    producer: Option<&'a Producer>,
    /// Where the record goes, whatever it says itself. Beside the record, since to write it there would move the record.
    topic: Option<&'a TopicHandle>,
    record: Record<'a>,
    waiting: Option<BoxFuture<'a, Result<Delivery, SendError>>>,
}

// What is larger is not moved inline.
const _: () = assert!(size_of::<Sending<'_>>() <= 128);

impl<'a> Sending<'a> {
    #[inline]
    pub(super) fn new(producer: &'a Producer, topic: Option<&'a TopicHandle>, record: Record<'a>) -> Self {
        Self { producer: Some(producer), topic, record, waiting: None }
    }

    /// The record, for its topic; another one stays in its place.
    fn take_record(&mut self) -> Record<'a> {
        let record = std::mem::replace(&mut self.record, Record::to(""));
        match self.topic.take() {
            Some(topic) => record.retarget(TopicRef::Handle(topic)),
            None => record,
        }
    }

    #[cold]
    fn wait(
        &mut self,
        producer: &'a Producer,
        why: NotNow,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Delivery, SendError>> {
        let record = self.take_record();
        self.waiting = Some(Box::pin(producer.send_slowly(record, why)));
        self.poll_waiting(cx)
    }

    #[cold]
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<Result<Delivery, SendError>> {
        // Once it has answered there is nothing more to come.
        let Some(waiting) = &mut self.waiting else { return Poll::Pending };
        let result = ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        Poll::Ready(result)
    }
}

impl Future for Sending<'_> {
    type Output = Result<Delivery, SendError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Some(producer) = this.producer.take() else { return this.poll_waiting(cx) };
        let shared = producer.shared();
        if !shared.options.interceptors.is_empty() {
            let record = this.take_record();
            this.record = shared.options.interceptors.on_send(record);
        }
        let appended = match this.topic {
            Some(topic) => shared.accumulator.append_to(topic.state(), &this.record, &mut None),
            None => shared.accumulator.append(&this.record, &mut None),
        };
        match appended {
            Ok(delivery) => Poll::Ready(Ok(delivery)),
            Err(NotNow::Failed(error)) => Poll::Ready(Err(*error)),
            Err(why) => this.wait(producer, why, cx),
        }
    }
}

impl fmt::Debug for Sending<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending").field("record", &self.record).finish_non_exhaustive()
    }
}
