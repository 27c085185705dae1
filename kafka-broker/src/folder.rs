//! Where the logs of this node lie: in memory, or in a data folder that is laid out as Kafka's.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::StartError;
use crate::checkpoint::{
    CLEANER_FILE, Checkpoint, HIGH_WATERMARK_FILE, LOG_START_FILE, Offsets, RECOVERY_POINT_FILE,
};
use crate::cluster::METADATA_TOPIC;
use crate::config::topic::TopicConfig;
use crate::data_dir::DataDir;
use crate::ids;
use crate::log::{LogConfig, LogError, PartitionLog, Shutdown};
use crate::storage::{Disk, Memory, MemoryDisk, Storage};

/// Present after an orderly end; its absence at start makes every log be checked (`CleanShutdownFileHandler`).
const CLEAN_SHUTDOWN_FILE: &str = ".kafka_cleanshutdown";
const CLEAN_SHUTDOWN: &[u8] = b"{\"version\":0,\"brokerEpoch\":-1}";
/// In each partition's folder: which topic it belongs to, beyond the name (KIP-516).
const PARTITION_METADATA_FILE: &str = "partition.metadata";

/// The logs of this node.
#[derive(Debug, Clone)]
pub(crate) struct Logs {
    storage: Arc<dyn Storage>,
    cluster_id: String,
    directory_id: Uuid,
    left: Shutdown,
    log_starts: Checkpoint,
    cleaned: Checkpoint,
    high_watermarks: Checkpoint,
    recovery_points: Checkpoint,
    /// Held as long as the logs are.
    data_dir: Option<Arc<DataDir>>,
}

impl Logs {
    /// Takes hold of the folder, or of memory. `cluster_id`: the cluster to belong to, `None`: the folder's, or a new one.
    pub(crate) fn open(
        data_dir: Option<&Path>,
        node_id: i32,
        cluster_id: Option<&str>,
    ) -> Result<Self, StartError> {
        let Some(path) = data_dir else {
            let storage: Arc<dyn Storage> = Arc::new(Memory::default());
            return Ok(Self {
                log_starts: Checkpoint::load(&*storage, LOG_START_FILE),
                cleaned: Checkpoint::load(&*storage, CLEANER_FILE),
                high_watermarks: Checkpoint::load(&*storage, HIGH_WATERMARK_FILE),
                recovery_points: Checkpoint::load(&*storage, RECOVERY_POINT_FILE),
                storage,
                cluster_id: cluster_id.map_or_else(|| ids::to_text(ids::random()), str::to_owned),
                directory_id: ids::random(),
                left: Shutdown::Clean,
                data_dir: None,
            });
        };
        let data_dir = DataDir::open(path, node_id, cluster_id)?;
        let storage: Arc<dyn Storage> = Arc::new(Disk::new(data_dir.path()));
        let left = how_left(&*storage).map_err(|error| {
            let reason = format!("{CLEAN_SHUTDOWN_FILE}: {error}");
            StartError::Folder { path: path.to_owned(), reason }
        })?;
        Ok(Self {
            log_starts: Checkpoint::load(&*storage, LOG_START_FILE),
            cleaned: Checkpoint::load(&*storage, CLEANER_FILE),
            high_watermarks: Checkpoint::load(&*storage, HIGH_WATERMARK_FILE),
            recovery_points: Checkpoint::load(&*storage, RECOVERY_POINT_FILE),
            storage,
            cluster_id: data_dir.cluster_id().to_owned(),
            directory_id: data_dir.directory_id(),
            left,
            data_dir: Some(Arc::new(data_dir)),
        })
    }

    /// Takes a disk in memory. `cluster_id`: the cluster to belong to, `None`: the disk's own.
    pub(crate) fn open_memory_disk(disk: &MemoryDisk, cluster_id: Option<&str>) -> Result<Self, StartError> {
        let storage = disk.storage();
        let left = how_left(&*storage).map_err(|error| {
            let reason = format!("{CLEAN_SHUTDOWN_FILE}: {error}");
            StartError::Folder { path: Default::default(), reason }
        })?;
        let cluster_id = cluster_id.map_or_else(|| disk.cluster_id.clone(), str::to_owned);
        let directory_id = disk.directory_id;
        Ok(Self {
            log_starts: Checkpoint::load(&*storage, LOG_START_FILE),
            cleaned: Checkpoint::load(&*storage, CLEANER_FILE),
            high_watermarks: Checkpoint::load(&*storage, HIGH_WATERMARK_FILE),
            recovery_points: Checkpoint::load(&*storage, RECOVERY_POINT_FILE),
            storage,
            cluster_id,
            directory_id,
            left,
            data_dir: None,
        })
    }

    /// The same logs, for the node's next start in this process. Nobody may use these any more.
    pub(crate) fn reopened(&self) -> io::Result<Self> {
        let left = match self.storage.is_durable() {
            true => how_left(&*self.storage)?,
            // In memory nothing is lost, and no index is written.
            false => Shutdown::Unclean,
        };
        Ok(Self {
            left,
            high_watermarks: Checkpoint::load(&*self.storage, HIGH_WATERMARK_FILE),
            recovery_points: Checkpoint::load(&*self.storage, RECOVERY_POINT_FILE),
            ..self.clone()
        })
    }

    /// Up to where a partition was known to be committed at the last orderly end; 0 if that is not known.
    pub(crate) fn high_watermark(&self, topic: &str, index: i32) -> i64 {
        self.high_watermarks.get(topic, index).unwrap_or(0)
    }

    /// Keeps the high watermarks for the next start.
    pub(crate) fn keep_high_watermarks(&self, all: Offsets) -> io::Result<()> {
        self.high_watermarks.replace(&*self.storage, all)
    }

    /// Writes the recovery points that logs have noted, and forgets those of partitions that are not here any more.
    pub(crate) fn keep_recovery_points(&self, is_here: impl Fn(&str, i32) -> bool) -> io::Result<()> {
        match self.storage.is_durable() {
            true => self.recovery_points.retain(&*self.storage, is_here),
            false => Ok(()),
        }
    }

    /// Whether work on many files is better done off the threads that serve connections.
    pub(crate) fn may_block(&self) -> bool {
        self.storage.may_block()
    }

    /// The data folder; empty in memory.
    pub(crate) fn path(&self) -> PathBuf {
        self.data_dir.as_ref().map(|dir| dir.path().to_owned()).unwrap_or_default()
    }

    /// What the folder is called towards clients.
    pub(crate) fn name(&self) -> String {
        match &self.data_dir {
            Some(dir) => dir.path().display().to_string(),
            None => "memory".to_owned(),
        }
    }

    /// The size of the volume that the folder is on, and what is free of it, in bytes.
    #[cfg(unix)]
    pub(crate) fn volume_bytes(&self) -> Option<(u64, u64)> {
        let volume = rustix::fs::statvfs(self.data_dir.as_ref()?.path()).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(volume.f_frsize);
        Some((bytes(volume.f_blocks), bytes(volume.f_bavail)))
    }

    /// Not known on other systems.
    #[cfg(not(unix))]
    pub(crate) fn volume_bytes(&self) -> Option<(u64, u64)> {
        None
    }

    pub(crate) fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    pub(crate) fn directory_id(&self) -> Uuid {
        self.directory_id
    }

    /// The log of `__cluster_metadata-0`: kept whole, and synced with each change as Kafka's is.
    pub(crate) fn metadata_log(&self) -> Result<PartitionLog, StartError> {
        let config = LogConfig {
            retention_ms: -1,
            segment_ms: i64::MAX,
            max_message_bytes: usize::MAX,
            flush_messages: 1,
            ..LogConfig::default()
        };
        let folder = folder_name(METADATA_TOPIC, 0);
        PartitionLog::open(Arc::clone(&self.storage), &folder, config, self.left)
            .map_err(|error| StartError::Folder { path: self.path(), reason: error.to_string() })
    }

    /// Opens or begins the log of a partition.
    ///
    /// A folder of the same name that belongs to another topic id is what a topic left that was deleted while its files
    /// could not be: it is removed first.
    pub(crate) fn open_partition(
        &self,
        topic: &str,
        topic_id: Uuid,
        index: i32,
        config: &TopicConfig,
    ) -> Result<PartitionLog, LogError> {
        let folder = folder_name(topic, index);
        let prepare = || {
            match self.topic_id_of(&folder)? {
                Some(id) if id == topic_id => return Ok(()),
                Some(_) => self.storage.remove_folder(&folder)?,
                None => {}
            }
            // Checkpoints name topics, not their ids: what they say is of a topic that is gone.
            self.log_starts.remove(&*self.storage, topic, index)?;
            self.cleaned.remove(&*self.storage, topic, index)?;
            self.recovery_points.remove(&*self.storage, topic, index)?;
            self.storage.create_folder(&folder)?;
            let text = format!("version: 0\ntopic_id: {}", ids::to_text(topic_id));
            self.storage.replace(&format!("{folder}/{PARTITION_METADATA_FILE}"), text.as_bytes())
        };
        prepare().map_err(|source| LogError { folder: folder.clone(), source })?;
        let left = match (self.left, self.recovery_points.get(topic, index)) {
            (Shutdown::Unclean, Some(point)) => Shutdown::UncleanAfter(point),
            (left, _) => left,
        };
        let mut log = PartitionLog::open(Arc::clone(&self.storage), &folder, config.log.clone(), left)?;
        if self.storage.is_durable() {
            log.keep_recovery_point_in(self.recovery_points.entry(topic, index));
        }
        let restore = |log: &mut PartitionLog| {
            if let Some(start) = self.log_starts.get(topic, index) {
                log.restore_log_start(start)?;
            }
            if let Some(offset) = self.cleaned.get(topic, index) {
                log.restore_cleaned(offset);
            }
            Ok(())
        };
        restore(&mut log).map_err(|source| LogError { folder, source })?;
        Ok(log)
    }

    /// Keeps a log's start that is not the start of its first segment.
    pub(crate) fn keep_log_start(&self, topic: &str, index: i32, offset: i64) -> io::Result<()> {
        self.log_starts.set(&*self.storage, topic, index, offset)
    }

    /// Keeps up to where a log is compacted.
    pub(crate) fn keep_cleaned(&self, topic: &str, index: i32, offset: i64) -> io::Result<()> {
        self.cleaned.set(&*self.storage, topic, index, offset)
    }

    fn topic_id_of(&self, folder: &str) -> io::Result<Option<Uuid>> {
        let text = self.storage.read(&format!("{folder}/{PARTITION_METADATA_FILE}"))?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let fields: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(": ")).collect();
        Ok(fields.get("topic_id").and_then(|id| ids::from_text(id)))
    }

    /// Removes what a deleted partition leaves, if it could not be removed with its log.
    pub(crate) fn remove(&self, topic: &str, index: i32) -> io::Result<()> {
        self.storage.remove_folder(&folder_name(topic, index))
    }

    /// Removes the folders of topics that do not exist (any more).
    pub(crate) fn remove_strays(&self, exists: impl Fn(Uuid) -> bool) -> io::Result<()> {
        if !self.storage.is_durable() {
            return Ok(());
        }
        for folder in self.storage.list("")? {
            // Only what says itself that it is a partition's folder is touched.
            if let Ok(Some(id)) = self.topic_id_of(&folder)
                && !exists(id)
            {
                tracing::info!(folder, "removing the files of a deleted partition");
                self.storage.remove_folder(&folder)?;
            }
        }
        Ok(())
    }

    /// Says that every log was closed in order.
    pub(crate) fn mark_clean(&self) -> io::Result<()> {
        match self.storage.is_durable() {
            true => self.storage.replace(CLEAN_SHUTDOWN_FILE, CLEAN_SHUTDOWN),
            false => Ok(()),
        }
    }
}

/// How the last broker ended here. From now on the folder is in use: what happens next is not an orderly end until it
/// was one.
fn how_left(storage: &dyn Storage) -> io::Result<Shutdown> {
    let marker = storage.read(CLEAN_SHUTDOWN_FILE)?;
    storage.remove(CLEAN_SHUTDOWN_FILE)?;
    Ok(if marker.is_some() { Shutdown::Clean } else { Shutdown::Unclean })
}

fn folder_name(topic: &str, index: i32) -> String {
    format!("{topic}-{index}")
}
