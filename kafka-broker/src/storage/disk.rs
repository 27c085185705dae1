//! Files on disk, with the last bytes of each kept in memory for the consumers at the end.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::memory::Pieces;
use super::{File, Storage, SyncHandle};

/// How much of a file's end stays in memory while it is written. Consumers that keep up read from here.
const TAIL_BYTES: u64 = 1 << 20;

/// A folder on disk. Whoever makes one has made sure that no other broker uses the folder.
#[derive(Debug)]
pub(crate) struct Disk {
    root: PathBuf,
}

impl Disk {
    /// Files below `root`, which exists.
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

impl Storage for Disk {
    fn create_folder(&self, folder: &str) -> io::Result<()> {
        fs::create_dir_all(self.path(folder))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(self.path(folder))?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn File>> {
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(self.path(path))?;
        let len = file.metadata()?.len();
        Ok(Box::new(DiskFile { file: Arc::new(file), tail: Pieces::starting_at(len), len }))
    }

    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            result => result.map(Some),
        }
    }

    fn replace(&self, path: &str, content: &[u8]) -> io::Result<()> {
        let path = self.path(path);
        let temporary = with_suffix(&path, ".tmp");
        let file = fs::File::create(&temporary)?;
        file.write_all_at(content, 0)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        match path.parent() {
            // The rename itself lies in the folder.
            Some(folder) => fs::File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        missing_is_fine(fs::remove_file(self.path(path)))
    }

    fn remove_folder(&self, folder: &str) -> io::Result<()> {
        missing_is_fine(fs::remove_dir_all(self.path(folder)))
    }

    fn is_durable(&self) -> bool {
        true
    }

    fn may_block(&self) -> bool {
        true
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn missing_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[derive(Debug)]
struct DiskFile {
    file: Arc<fs::File>,
    tail: Pieces,
    len: u64,
}

impl File for DiskFile {
    fn append(&mut self, bytes: Bytes) -> io::Result<()> {
        self.file.write_all_at(&bytes, self.len)?;
        self.len += bytes.len() as u64;
        self.tail.push(bytes);
        self.tail.keep_last(TAIL_BYTES);
        Ok(())
    }

    fn read_at(&self, at: u64, len: usize) -> io::Result<Vec<Bytes>> {
        if at >= self.tail.start() {
            return Ok(self.tail.slices(at, len));
        }
        let mut buffer = vec![0; (len as u64).min(self.len.saturating_sub(at)) as usize];
        self.file.read_exact_at(&mut buffer, at)?;
        Ok(vec![buffer.into()])
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        if len > self.len {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a truncation cannot grow a file"));
        }
        self.file.set_len(len)?;
        self.len = len;
        self.tail.truncate(len);
        Ok(())
    }

    fn reader(&self) -> Box<dyn File> {
        let (file, len) = (Arc::clone(&self.file), self.len);
        Box::new(DiskFile { file, tail: Pieces::starting_at(len), len })
    }

    fn sync_handle(&self) -> Arc<dyn SyncHandle> {
        Arc::new(DiskSync(Arc::clone(&self.file)))
    }

    fn reserve(&self, bytes: u64) {
        if let Err(error) = preallocate(&self.file, bytes) {
            tracing::debug!(%error, bytes, "no room is reserved");
        }
    }

    fn seal(&mut self) {
        self.tail = Pieces::starting_at(self.len);
        // What lies beyond the end is given back, also if it was reserved before a crash.
        if let Err(error) = self.file.set_len(self.len) {
            tracing::debug!(%error, "room that was reserved stays taken");
        }
    }
}

/// Leaves the file's length as it is, so that recovery finds no zeros at its end: Kafka's preallocated files have them.
#[cfg(target_os = "linux")]
fn preallocate(file: &fs::File, bytes: u64) -> io::Result<()> {
    Ok(rustix::fs::fallocate(file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, bytes)?)
}

/// Elsewhere files grow as they are written.
#[cfg(not(target_os = "linux"))]
fn preallocate(_: &fs::File, _: u64) -> io::Result<()> {
    Ok(())
}

#[derive(Debug)]
struct DiskSync(Arc<fs::File>);

impl SyncHandle for DiskSync {
    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
