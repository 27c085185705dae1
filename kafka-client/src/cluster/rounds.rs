//! News of finished metadata rounds, for whoever follows them.
//!
//! Tokio's `watch` would do, but wakes who waits in an order that it draws by lot; here the longest wait ends first, so
//! that a run on one thread and a paused clock is always the same.

use std::pin::pin;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::metadata::Round;

/// Where rounds are told.
#[derive(Debug, Default)]
pub(crate) struct Rounds(Arc<Told>);

#[derive(Debug, Default)]
struct Told {
    last: Mutex<Last>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Last {
    round: Round,
    /// Counts what was told.
    number: u64,
    ended: bool,
}

/// Follows the rounds from when it was made.
#[derive(Debug)]
pub(crate) struct Follower {
    told: Arc<Told>,
    seen: u64,
}

/// No round follows: the client is gone.
#[derive(Debug)]
pub(crate) struct Ended;

impl Rounds {
    pub(crate) fn tell(&self, round: Round) {
        let mut last = self.0.last.lock();
        last.round = round;
        last.number += 1;
        drop(last);
        self.0.news.notify_waiters();
    }

    pub(crate) fn follow(&self) -> Follower {
        Follower { told: self.0.clone(), seen: self.0.last.lock().number }
    }
}

impl Drop for Rounds {
    fn drop(&mut self) {
        self.0.last.lock().ended = true;
        self.0.news.notify_waiters();
    }
}

impl Follower {
    /// Waits for a round that this follower has not seen. Dropping the future misses none.
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

    /// Waits for a round that `is_it`; the last one that was told may be it.
    pub(crate) async fn wait_for(&mut self, is_it: impl Fn(&Round) -> bool) -> Result<Round, Ended> {
        loop {
            {
                let last = self.told.last.lock();
                if is_it(&last.round) {
                    return Ok(last.round.clone());
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
    async fn a_round_is_seen_once_by_everybody_who_follows() {
        let rounds = Rounds::default();
        let (mut one, mut other) = (rounds.follow(), rounds.follow());
        rounds.tell(Round::default());
        one.changed().await.unwrap();
        other.catch_up();
        for follower in [&mut one, &mut other] {
            assert!(tokio::time::timeout(Duration::from_secs(1), follower.changed()).await.is_err());
        }
        drop(rounds);
        assert!(one.changed().await.is_err());
    }

    #[tokio::test]
    async fn whoever_waits_longest_is_woken_first() {
        let rounds = Rounds::default();
        let woken = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..20 {
            let (mut follower, woken) = (rounds.follow(), woken.clone());
            tasks.spawn(async move {
                follower.changed().await.unwrap();
                woken.lock().push(number);
            });
        }
        tokio::task::yield_now().await;
        rounds.tell(Round::default());
        tasks.join_all().await;
        assert!(woken.lock().is_sorted());
    }
}
