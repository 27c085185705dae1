use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::future::BoxFuture;

use super::accumulator::NotNow;
use super::{Delivery, Producer, Record, SendError};

/// What [`Producer::send`] waits for: usually nothing, so that the first poll is ready.
///
/// Not an `async fn`, since a record would be moved several times on its way into one (measured: 20 ns).
#[must_use = "a record is not sent before this is awaited"]
pub struct Sending<'a> {
    producer: &'a Producer,
    record: Record<'a>,
    state: State<'a>,
}

enum State<'a> {
    New,
    Waiting(BoxFuture<'a, Result<Delivery, SendError>>),
    Done,
}

impl<'a> Sending<'a> {
    #[inline]
    pub(super) fn new(producer: &'a Producer, record: Record<'a>) -> Self {
        Self { producer, record, state: State::New }
    }

    #[cold]
    fn wait(&mut self, why: NotNow, cx: &mut Context<'_>) -> Poll<Result<Delivery, SendError>> {
        let record = std::mem::replace(&mut self.record, Record::to(""));
        self.state = State::Waiting(Box::pin(self.producer.send_slowly(record, why)));
        self.poll_waiting(cx)
    }

    #[cold]
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<Result<Delivery, SendError>> {
        // Once it has answered there is nothing more to come.
        let State::Waiting(waiting) = &mut self.state else { return Poll::Pending };
        let result = ready!(waiting.as_mut().poll(cx));
        self.state = State::Done;
        Poll::Ready(result)
    }
}

impl Future for Sending<'_> {
    type Output = Result<Delivery, SendError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if !matches!(this.state, State::New) {
            return this.poll_waiting(cx);
        }
        let shared = this.producer.shared();
        if !shared.options.interceptors.is_empty() {
            let record = std::mem::replace(&mut this.record, Record::to(""));
            this.record = shared.options.interceptors.on_send(record);
        }
        match shared.accumulator.append(&this.record, &mut None) {
            Ok(delivery) => {
                this.state = State::Done;
                Poll::Ready(Ok(delivery))
            }
            Err(NotNow::Failed(error)) => {
                this.state = State::Done;
                Poll::Ready(Err(error))
            }
            Err(why) => this.wait(why, cx),
        }
    }
}

impl fmt::Debug for Sending<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending").field("record", &self.record).finish_non_exhaustive()
    }
}
