//! A data folder: held by one broker at a time, and marked with whose it is (`meta.properties`, as Kafka writes it).

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::{StartError, ids};

const LOCK_FILE: &str = ".lock";
const META_FILE: &str = "meta.properties";
/// The version of `meta.properties` since KIP-858; version 0 has no directory id and names the node `broker.id`.
const META_VERSION: &str = "1";

/// A data folder in use. Dropping it lets the next broker have it.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    cluster_id: String,
    directory_id: Uuid,
    _lock: File,
}

impl DataDir {
    /// Takes hold of the folder, which is created and marked if it is new. `cluster_id`: the cluster that it must belong
    /// to; `None`: whichever it does.
    pub(crate) fn open(path: &Path, node_id: i32, cluster_id: Option<&str>) -> Result<Self, StartError> {
        let failed = |what: &str, error: io::Error| StartError::Folder {
            path: path.to_owned(),
            reason: format!("{what}: {error}"),
        };
        fs::create_dir_all(path).map_err(|error| failed("it cannot be created", error))?;
        let lock = match lock(&path.join(LOCK_FILE)) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(StartError::FolderInUse { path: path.to_owned() });
            }
            Err(error) => return Err(failed("it cannot be locked", error)),
        };
        let meta_path = path.join(META_FILE);
        let meta = match fs::read_to_string(&meta_path) {
            Ok(text) => read_meta(&text).map_err(|reason| StartError::Folder {
                path: path.to_owned(),
                reason: format!("{META_FILE}: {reason}"),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let cluster_id = cluster_id.map_or_else(|| ids::to_text(ids::random()), str::to_owned);
                let meta = Meta { cluster_id, node_id, directory_id: ids::random() };
                write_meta(path, &meta)
                    .map_err(|error| failed("meta.properties cannot be written", error))?;
                meta
            }
            Err(error) => return Err(failed("meta.properties cannot be read", error)),
        };
        if meta.node_id != node_id {
            return Err(StartError::OtherNode {
                path: path.to_owned(),
                stored: meta.node_id,
                given: node_id,
            });
        }
        if let Some(expected) = cluster_id
            && expected != meta.cluster_id
        {
            let reason = format!("it belongs to cluster {}, not to {expected}", meta.cluster_id);
            return Err(StartError::Folder { path: path.to_owned(), reason });
        }
        Ok(Self {
            path: path.to_owned(),
            cluster_id: meta.cluster_id,
            directory_id: meta.directory_id,
            _lock: lock,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    pub(crate) fn directory_id(&self) -> Uuid {
        self.directory_id
    }
}

/// Opens the lock file and locks it, or fails with `WouldBlock`.
#[cfg(unix)]
fn lock(path: &Path) -> io::Result<File> {
    use rustix::fs::{FlockOperation, fcntl_lock, flock};
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    // `flock` holds off a second broker of this process, which a POSIX lock does not; the POSIX lock holds off Kafka
    // itself, which takes one through `FileChannel.tryLock`.
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
        match io::Error::from(error) {
            // POSIX lets a system say either for a lock that is held.
            error if error.kind() == io::ErrorKind::PermissionDenied => io::ErrorKind::WouldBlock.into(),
            error => error,
        }
    })?;
    Ok(file)
}

/// Opens the lock file for this process alone.
#[cfg(windows)]
fn lock(path: &Path) -> io::Result<File> {
    use std::os::windows::fs::OpenOptionsExt;
    const SHARING_VIOLATION: i32 = 32;
    let opened =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).share_mode(0).open(path);
    opened.map_err(|error| match error.raw_os_error() {
        Some(SHARING_VIOLATION) => io::ErrorKind::WouldBlock.into(),
        _ => error,
    })
}

struct Meta {
    cluster_id: String,
    node_id: i32,
    directory_id: Uuid,
}

fn read_meta(text: &str) -> Result<Meta, String> {
    let properties: BTreeMap<&str, &str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with(['#', '!']))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim(), value.trim()))
        .collect();
    let get = |key: &str| properties.get(key).copied().ok_or_else(|| format!("{key} is missing"));
    match get("version")? {
        META_VERSION => {}
        other => return Err(format!("version {other} is not supported")),
    }
    Ok(Meta {
        cluster_id: get("cluster.id")?.to_owned(),
        node_id: get("node.id")?.parse().map_err(|_| "node.id is not a number".to_owned())?,
        directory_id: match properties.get("directory.id") {
            Some(id) => ids::from_text(id).ok_or("directory.id is not an id")?,
            None => Uuid::nil(),
        },
    })
}

/// Writes the file whole or not at all.
fn write_meta(folder: &Path, meta: &Meta) -> io::Result<()> {
    let text = format!(
        "cluster.id={}\ndirectory.id={}\nnode.id={}\nversion={META_VERSION}\n",
        meta.cluster_id,
        ids::to_text(meta.directory_id),
        meta.node_id
    );
    let new = folder.join(format!("{META_FILE}.tmp"));
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, folder.join(META_FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_keeps_its_ids_and_belongs_to_one_node() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new");
        let first = DataDir::open(&path, 3, None).unwrap();
        let (cluster, directory) = (first.cluster_id().to_owned(), first.directory_id());
        assert!(matches!(DataDir::open(&path, 3, None), Err(StartError::FolderInUse { .. })));
        drop(first);
        let again = DataDir::open(&path, 3, None).unwrap();
        assert_eq!((again.cluster_id(), again.directory_id()), (cluster.as_str(), directory));
        drop(again);
        assert!(matches!(
            DataDir::open(&path, 4, None),
            Err(StartError::OtherNode { stored: 3, given: 4, .. })
        ));
    }

    #[test]
    fn what_kafka_writes_is_read() {
        let text = "#\n#Mon Jun 01 10:00:00 UTC 2026\ncluster.id=4L6g3nShT-eMCtK--X86sw\n\
                    directory.id=AAAAAAAAAAAAAAAAAAAAAQ\nnode.id=1\nversion=1\n";
        let meta = read_meta(text).unwrap();
        assert_eq!((meta.cluster_id.as_str(), meta.node_id), ("4L6g3nShT-eMCtK--X86sw", 1));
        assert_eq!(meta.directory_id, Uuid::from_u128(1));
        for text in ["", "version=0\nbroker.id=1\n", "version=1\ncluster.id=x\nnode.id=one\n"] {
            assert!(read_meta(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_folder_that_is_a_file_is_a_clear_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = DataDir::open(file.path(), 1, None).unwrap_err();
        assert!(error.to_string().contains("cannot be created"), "{error}");
    }
}
