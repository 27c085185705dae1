//! Files in memory: lists of the pieces that were appended. Reading hands out the pieces, not copies.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::{File, Storage, SyncHandle, UnsyncedTail};

/// A storage that is gone with its process.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    tree: Mutex<Tree>,
}

#[derive(Debug, Default)]
struct Tree {
    folders: BTreeSet<String>,
    files: BTreeMap<String, Arc<RwLock<Pieces>>>,
    small: BTreeMap<String, Vec<u8>>,
}

impl Memory {
    /// What a power cut does to files: of what was not synced, `left_of` says how much survives, file by file in the order
    /// of their paths. Names and small files are on disk at once, as with a file system's journal.
    pub(crate) fn lose_power(&self, left_of: &mut dyn FnMut(u64) -> UnsyncedTail) {
        for file in self.tree.lock().files.values() {
            let mut pieces = file.write();
            let (synced, unsynced) = (pieces.synced, pieces.end.saturating_sub(pieces.synced));
            if unsynced > 0 {
                let tail = left_of(unsynced);
                let kept = tail.kept.min(unsynced);
                pieces.truncate(synced + kept);
                // One piece, because whoever reads takes a piece's end for a batch's.
                let mut left = pieces.slices(0, usize::MAX).concat();
                left.resize(left.len() + tail.zeros.min(unsynced - kept) as usize, 0);
                *pieces = Pieces::default();
                pieces.push(left.into());
                pieces.synced = pieces.end;
            }
        }
    }
}

impl Storage for Memory {
    fn create_folder(&self, folder: &str) -> io::Result<()> {
        self.tree.lock().folders.insert(folder.to_owned());
        Ok(())
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let tree = self.tree.lock();
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let names: BTreeSet<&str> = tree
            .files
            .keys()
            .chain(tree.small.keys())
            .chain(&tree.folders)
            .filter_map(|path| path.strip_prefix(&prefix)?.split('/').next())
            .filter(|name| !name.is_empty())
            .collect();
        Ok(names.into_iter().map(str::to_owned).collect())
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn File>> {
        let pieces = Arc::clone(self.tree.lock().files.entry(path.to_owned()).or_default());
        Ok(Box::new(MemoryFile { pieces }))
    }

    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.tree.lock().small.get(path).cloned())
    }

    fn replace(&self, path: &str, content: &[u8]) -> io::Result<()> {
        self.tree.lock().small.insert(path.to_owned(), content.to_vec());
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut tree = self.tree.lock();
        let (file, small) = (tree.files.remove(from), tree.small.remove(from));
        if file.is_none() && small.is_none() {
            return Err(io::Error::new(io::ErrorKind::NotFound, from.to_owned()));
        }
        tree.files.remove(to);
        tree.small.remove(to);
        if let Some(file) = file {
            tree.files.insert(to.to_owned(), file);
        }
        if let Some(small) = small {
            tree.small.insert(to.to_owned(), small);
        }
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut tree = self.tree.lock();
        tree.files.remove(path);
        tree.small.remove(path);
        Ok(())
    }

    fn remove_folder(&self, folder: &str) -> io::Result<()> {
        let mut tree = self.tree.lock();
        let below = format!("{folder}/");
        tree.folders.remove(folder);
        tree.files.retain(|path, _| !path.starts_with(&below));
        tree.small.retain(|path, _| !path.starts_with(&below));
        Ok(())
    }

    fn is_durable(&self) -> bool {
        false
    }

    fn may_block(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct MemoryFile {
    pieces: Arc<RwLock<Pieces>>,
}

impl File for MemoryFile {
    fn append(&mut self, bytes: Bytes) -> io::Result<()> {
        self.pieces.write().push(bytes);
        Ok(())
    }

    fn read_at(&self, at: u64, len: usize) -> io::Result<Vec<Bytes>> {
        Ok(self.pieces.read().slices(at, len))
    }

    fn len(&self) -> u64 {
        self.pieces.read().end
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.pieces.write().truncate(len);
        Ok(())
    }

    fn reader(&self) -> Box<dyn File> {
        Box::new(MemoryFile { pieces: Arc::clone(&self.pieces) })
    }

    fn sync_handle(&self) -> Arc<dyn SyncHandle> {
        Arc::new(MemorySync(Arc::clone(&self.pieces)))
    }

    fn seal(&mut self) {}
}

/// Remembers how much of a file was synced, for memory that plays a disk which may lose its power.
#[derive(Debug)]
struct MemorySync(Arc<RwLock<Pieces>>);

impl SyncHandle for MemorySync {
    fn sync(&self) -> io::Result<()> {
        let mut pieces = self.0.write();
        pieces.synced = pieces.end;
        Ok(())
    }
}

/// Consecutive pieces of a file, each with its position. They need not begin at 0: a disk's file keeps only its tail.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    pieces: std::collections::VecDeque<(u64, Bytes)>,
    end: u64,
    /// Everything before it would survive a power cut.
    synced: u64,
}

impl Pieces {
    /// No pieces of a file that is `end` bytes long.
    pub(super) fn starting_at(end: u64) -> Self {
        Self { pieces: Default::default(), end, synced: end }
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            let at = self.end;
            self.end += bytes.len() as u64;
            self.pieces.push_back((at, bytes));
        }
    }

    /// The position of the first piece, or the end where there is none.
    pub(super) fn start(&self) -> u64 {
        self.pieces.front().map_or(self.end, |&(at, _)| at)
    }

    /// Lets go of pieces from the front until at most `bytes` are kept.
    pub(super) fn keep_last(&mut self, bytes: u64) {
        while self.pieces.len() > 1 && self.end - self.start() > bytes {
            self.pieces.pop_front();
        }
    }

    pub(super) fn truncate(&mut self, len: u64) {
        while let Some((at, piece)) = self.pieces.back_mut() {
            if *at >= len {
                self.pieces.pop_back();
            } else {
                piece.truncate((len - *at) as usize);
                break;
            }
        }
        self.end = self.end.min(len);
        self.synced = self.synced.min(len);
    }

    /// What there is of the `len` bytes from `at` on.
    pub(super) fn slices(&self, at: u64, len: usize) -> Vec<Bytes> {
        let end = at.saturating_add(len as u64).min(self.end);
        let first = self.pieces.partition_point(|(start, piece)| start + piece.len() as u64 <= at);
        let mut found = Vec::new();
        for (start, piece) in self.pieces.range(first..) {
            if *start >= end {
                break;
            }
            let from = at.saturating_sub(*start) as usize;
            let to = ((end - start) as usize).min(piece.len());
            found.push(piece.slice(from..to));
        }
        found
    }
}
