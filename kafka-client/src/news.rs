//! News for whoever follows them: that something changed, or the last of what was told.
//!
//! Tokio's `watch` would do, but wakes who waits in an order that it draws by lot; here the longest wait ends first, so
//! that a run on one thread and a paused clock is always the same.

use std::pin::pin;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Where news are told.
#[derive(Debug, Default)]
pub(crate) struct News<T>(Arc<Told<T>>);

#[derive(Debug, Default)]
struct Told<T> {
    last: Mutex<Last<T>>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Last<T> {
    told: T,
    /// Counts what was told.
    number: u64,
    ended: bool,
}

/// Follows the news from when it was made.
#[derive(Debug)]
pub(crate) struct Follower<T> {
    told: Arc<Told<T>>,
    seen: u64,
}

/// Nothing follows: whoever told is gone.
#[derive(Debug)]
pub(crate) struct Ended;

impl<T> News<T> {
    pub(crate) fn tell(&self, told: T) {
        let mut last = self.0.last.lock();
        last.told = told;
        last.number += 1;
        drop(last);
        self.0.news.notify_waiters();
    }

    pub(crate) fn follow(&self) -> Follower<T> {
        Follower { told: self.0.clone(), seen: self.0.last.lock().number }
    }
}

impl<T> Drop for News<T> {
    fn drop(&mut self) {
        self.0.last.lock().ended = true;
        self.0.news.notify_waiters();
    }
}

impl<T> Follower<T> {
    /// Waits for news that this follower has not seen. Dropping the future misses none.
    pub(crate) async fn changed(&mut self) -> Result<(), Ended> {
        loop {
            let mut news = pin!(self.told.news.notified());
            // What is told from here on wakes it; what was told before is seen by the look below.
            news.as_mut().enable();
            {
                let last = self.told.last.lock();
                if last.number != self.seen {
                    self.seen = last.number;
                    return Ok(());
                }
                if last.ended {
                    return Err(Ended);
                }
            }
            news.await;
        }
    }

    /// Counts what was told so far as seen.
    pub(crate) fn catch_up(&mut self) {
        self.seen = self.told.last.lock().number;
    }

    /// Waits for news of which `is_it` is true; the last that were told may be it.
    pub(crate) async fn wait_for(&mut self, is_it: impl Fn(&T) -> bool) -> Result<T, Ended>
    where
        T: Clone,
    {
        loop {
            {
                let last = self.told.last.lock();
                if is_it(&last.told) {
                    return Ok(last.told.clone());
                }
            }
            self.changed().await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn news_are_seen_once_by_everybody_who_follows() {
        let news = News::default();
        let (mut one, mut other) = (news.follow(), news.follow());
        news.tell(());
        one.changed().await.unwrap();
        other.catch_up();
        for follower in [&mut one, &mut other] {
            assert!(tokio::time::timeout(Duration::from_secs(1), follower.changed()).await.is_err());
        }
        drop(news);
        assert!(one.changed().await.is_err());
    }

    #[tokio::test]
    async fn whoever_waits_longest_is_woken_first() {
        let news = News::default();
        let woken = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..20 {
            let (mut follower, woken) = (news.follow(), woken.clone());
            tasks.spawn(async move {
                follower.changed().await.unwrap();
                woken.lock().push(number);
            });
        }
        tokio::task::yield_now().await;
        news.tell(());
        tasks.join_all().await;
        assert!(woken.lock().is_sorted());
    }
}
