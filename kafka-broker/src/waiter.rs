//! Long polls: who waits for how many bytes on which partitions. Appends wake; nobody polls.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;

/// One waiting fetch.
#[derive(Debug)]
pub(crate) struct Waiter {
    id: u64,
    missing_bytes: AtomicI64,
    notify: Notify,
}

impl Waiter {
    pub(crate) fn new() -> Arc<Self> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { id, missing_bytes: AtomicI64::new(0), notify: Notify::new() })
    }

    /// Starts counting towards `bytes`. Call it before looking at what is there already, then take that off with
    /// [`found`](Self::found): an append in between is counted twice at worst, which wakes too early, never too late.
    pub(crate) fn expect(&self, bytes: usize) {
        self.missing_bytes.store(i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    /// Takes off what was found. `true`: appends have brought the rest already.
    pub(crate) fn found(&self, bytes: usize) -> bool {
        self.take(bytes) <= 0
    }

    /// Waits until enough bytes were appended, or something else happened to one of the partitions.
    pub(crate) async fn woken(&self) {
        self.notify.notified().await;
    }

    fn appended(&self, bytes: usize) {
        if self.take(bytes) <= 0 {
            self.wake();
        }
    }

    fn wake(&self) {
        // The permit of `notify_one` is kept for a waiter that is not waiting yet.
        self.notify.notify_one();
    }

    fn take(&self, bytes: usize) -> i64 {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.missing_bytes.fetch_sub(bytes, Ordering::SeqCst).saturating_sub(bytes)
    }
}

/// The waiters of one partition.
#[derive(Debug, Default)]
pub(crate) struct WaitList {
    waiters: Mutex<FxHashMap<u64, Arc<Waiter>>>,
}

impl WaitList {
    pub(crate) fn add(&self, waiter: &Arc<Waiter>) {
        self.waiters.lock().insert(waiter.id, Arc::clone(waiter));
    }

    pub(crate) fn remove(&self, waiter: &Waiter) {
        self.waiters.lock().remove(&waiter.id);
    }

    /// Tells everyone that `bytes` more can be read.
    pub(crate) fn appended(&self, bytes: usize) {
        self.waiters.lock().values().for_each(|waiter| waiter.appended(bytes));
    }

    /// Tells everyone to look again, whatever they wait for.
    pub(crate) fn wake_all(&self) {
        self.waiters.lock().values().for_each(|waiter| waiter.wake());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_woken(waiter: &Waiter) -> bool {
        tokio::time::timeout(std::time::Duration::from_secs(1), waiter.woken()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_is_woken_once_enough_bytes_came_from_all_its_partitions() {
        let (a, b) = (WaitList::default(), WaitList::default());
        let waiter = Waiter::new();
        waiter.expect(100);
        a.add(&waiter);
        b.add(&waiter);
        assert!(!waiter.found(30));
        a.appended(40);
        assert!(!is_woken(&waiter).await);
        b.appended(30);
        assert!(is_woken(&waiter).await);
    }

    #[tokio::test(start_paused = true)]
    async fn an_append_between_looking_and_waiting_is_not_lost() {
        let list = WaitList::default();
        let waiter = Waiter::new();
        waiter.expect(10);
        list.add(&waiter);
        list.appended(10);
        assert!(waiter.found(0));
        assert!(is_woken(&waiter).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_removed_waiter_is_left_alone() {
        let list = WaitList::default();
        let waiter = Waiter::new();
        waiter.expect(1);
        list.add(&waiter);
        list.remove(&waiter);
        list.appended(5);
        list.wake_all();
        assert!(!is_woken(&waiter).await);
    }
}
