//! A storage whose writes fail on command: what a full, torn or dying disk does, at an exact write.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use uuid::Uuid;

use super::{File, Memory, Storage, SyncHandle, UnsyncedTail};
use crate::ids;

/// A disk in memory that outlives the brokers that use it, one after the other, and fails on command.
///
/// For tests of restarts and of dying disks that are to be quick and repeatable: a broker on it waits for no device and
/// starts no thread. Clones are the same disk.
#[derive(Debug, Clone)]
pub struct MemoryDisk {
    files: Arc<Faulty>,
    pub(crate) cluster_id: String,
    pub(crate) directory_id: Uuid,
}

impl Default for MemoryDisk {
    fn default() -> Self {
        Self { files: Arc::default(), cluster_id: ids::to_text(ids::random()), directory_id: ids::random() }
    }
}

impl MemoryDisk {
    /// Lets `after` writes succeed and fails the next `times` of them: with nothing written, as on a full disk, or,
    /// if `torn`, with the first half written.
    pub fn fail_writes(&self, after: u32, times: u64, torn: bool) {
        self.files.plan(if torn { Fault::Torn } else { Fault::Full }, after, times);
    }

    /// Lets every sync fail from now on, or succeed again.
    pub fn fail_syncs(&self, fail: bool) {
        self.files.fail_syncs(fail);
    }

    /// Lets every sync succeed without syncing anything from now on, as disks do that call a cache durable.
    pub fn ignore_syncs(&self, ignore: bool) {
        self.files.plan.ignores_syncs.store(ignore, Ordering::Relaxed);
    }

    /// Cuts the power: of what was not synced, `left_of` says how much survives when it is told how many bytes of a file
    /// those are. Call it when the node on this disk has crashed, or its broker was dropped.
    ///
    /// Names of files, and small files that are replaced whole, survive.
    pub fn lose_power(&self, mut left_of: impl FnMut(u64) -> UnsyncedTail) {
        self.files.files.lose_power(&mut left_of);
    }

    pub(crate) fn storage(&self) -> Arc<dyn Storage> {
        Arc::clone(&self.files) as Arc<dyn Storage>
    }
}

/// How a write fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing is written: no space left.
    Full,
    /// The first half is written, then the device fails.
    Torn,
}

/// Memory that fails the nth append from now.
#[derive(Debug, Default)]
pub(crate) struct Faulty {
    files: Memory,
    plan: Arc<Plan>,
}

#[derive(Debug, Default)]
struct Plan {
    /// Appends until the fault; negative when none is planned.
    countdown: AtomicI64,
    failures_left: AtomicU64,
    fault: Mutex<Option<Fault>>,
    unsyncable: AtomicBool,
    ignores_syncs: AtomicBool,
    syncs: AtomicU64,
    /// Changes of any kind until the power goes; negative when it stays.
    changes_left: AtomicI64,
    dead: AtomicBool,
}

impl Faulty {
    /// Lets `after` appends succeed, then fails `times` of them.
    pub(crate) fn plan(&self, fault: Fault, after: u32, times: u64) {
        *self.plan.fault.lock() = Some(fault);
        self.plan.countdown.store(i64::from(after), Ordering::Relaxed);
        self.plan.failures_left.store(times, Ordering::Relaxed);
    }

    /// Lets `changes` more changes of any kind happen (appends, replacements, renames, removals, cuts), then none ever.
    #[cfg(test)]
    pub(crate) fn crash_after(&self, changes: u32) {
        self.plan.changes_left.store(i64::from(changes) + 1, Ordering::Relaxed);
    }

    /// Whether the crash has come.
    #[cfg(test)]
    pub(crate) fn crashed(&self) -> bool {
        self.plan.dead.load(Ordering::Relaxed)
    }

    /// The machine is up again, with what was written before the crash.
    #[cfg(test)]
    pub(crate) fn restart(&self) {
        self.plan.changes_left.store(0, Ordering::Relaxed);
        self.plan.dead.store(false, Ordering::Relaxed);
    }

    /// How many syncs there were.
    #[cfg(test)]
    pub(crate) fn syncs(&self) -> u64 {
        self.plan.syncs.load(Ordering::Relaxed)
    }

    /// Lets every sync fail from now on, or succeed again.
    pub(crate) fn fail_syncs(&self, fail: bool) {
        self.plan.unsyncable.store(fail, Ordering::Relaxed);
    }
}

impl Plan {
    /// Counts a change, and refuses it once the crash has come.
    fn change(&self) -> io::Result<()> {
        if self.changes_left.load(Ordering::Relaxed) > 0
            && self.changes_left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            self.dead.store(true, Ordering::Relaxed);
        }
        match self.dead.load(Ordering::Relaxed) {
            true => Err(io::Error::other("the machine lost power")),
            false => Ok(()),
        }
    }

    fn next(&self) -> Option<Fault> {
        let fault = (*self.fault.lock())?;
        if self.countdown.fetch_sub(1, Ordering::Relaxed) > 0
            || self.failures_left.load(Ordering::Relaxed) == 0
        {
            return None;
        }
        self.failures_left.fetch_sub(1, Ordering::Relaxed);
        Some(fault)
    }
}

impl Storage for Faulty {
    fn create_folder(&self, folder: &str) -> io::Result<()> {
        self.files.create_folder(folder)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.files.list(folder)
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn File>> {
        if self.plan.dead.load(Ordering::Relaxed) {
            return Err(io::Error::other("the machine lost power"));
        }
        Ok(Box::new(FaultyFile { file: self.files.open(path)?, plan: Arc::clone(&self.plan) }))
    }

    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        self.files.read(path)
    }

    fn replace(&self, path: &str, content: &[u8]) -> io::Result<()> {
        self.plan.change()?;
        self.files.replace(path, content)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.plan.change()?;
        self.files.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.plan.change()?;
        self.files.remove(path)
    }

    fn remove_folder(&self, folder: &str) -> io::Result<()> {
        self.plan.change()?;
        self.files.remove_folder(folder)
    }

    /// It plays a disk: indexes and snapshots are written.
    fn is_durable(&self) -> bool {
        true
    }

    fn may_block(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct FaultyFile {
    file: Box<dyn File>,
    plan: Arc<Plan>,
}

impl File for FaultyFile {
    fn append(&mut self, bytes: Bytes) -> io::Result<()> {
        self.plan.change()?;
        match self.plan.next() {
            None => self.file.append(bytes),
            Some(Fault::Full) => Err(io::ErrorKind::StorageFull.into()),
            Some(Fault::Torn) => {
                self.file.append(bytes.slice(..bytes.len() / 2))?;
                Err(io::Error::other("the device failed in the middle of a write"))
            }
        }
    }

    fn read_at(&self, at: u64, len: usize) -> io::Result<Vec<Bytes>> {
        self.file.read_at(at, len)
    }

    fn len(&self) -> u64 {
        self.file.len()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.plan.change()?;
        self.file.truncate(len)
    }

    fn reader(&self) -> Box<dyn File> {
        Box::new(FaultyFile { file: self.file.reader(), plan: Arc::clone(&self.plan) })
    }

    fn sync_handle(&self) -> Arc<dyn SyncHandle> {
        Arc::new(FaultySync { file: self.file.sync_handle(), plan: Arc::clone(&self.plan) })
    }

    fn reserve(&self, bytes: u64) {
        self.file.reserve(bytes);
    }

    fn seal(&mut self) {
        self.file.seal();
    }
}

#[derive(Debug)]
struct FaultySync {
    file: Arc<dyn SyncHandle>,
    plan: Arc<Plan>,
}

impl SyncHandle for FaultySync {
    fn sync(&self) -> io::Result<()> {
        self.plan.syncs.fetch_add(1, Ordering::Relaxed);
        if self.plan.unsyncable.load(Ordering::Relaxed) {
            return Err(io::Error::other("the device cannot sync"));
        }
        match self.plan.ignores_syncs.load(Ordering::Relaxed) {
            true => Ok(()),
            false => self.file.sync(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_cut_leaves_what_was_synced_and_a_part_of_the_rest() {
        let disk = MemoryDisk::default();
        let storage = disk.storage();
        let mut file = storage.open("t-0/f").unwrap();
        file.append(Bytes::from_static(b"synced")).unwrap();
        file.sync_handle().sync().unwrap();
        file.append(Bytes::from_static(b"not synced")).unwrap();
        let mut asked = Vec::new();
        disk.lose_power(|bytes| {
            asked.push(bytes);
            UnsyncedTail { kept: 3, zeros: 2 }
        });
        assert_eq!(asked, [10]);
        let file = storage.open("t-0/f").unwrap();
        assert_eq!(file.read_at(0, 100).unwrap().concat(), b"syncednot\0\0");
        disk.lose_power(|bytes| panic!("{bytes} bytes are not synced"));
        assert_eq!(storage.open("t-0/f").unwrap().len(), 11);
    }
}
