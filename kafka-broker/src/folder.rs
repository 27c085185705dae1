//! Where the logs of this node lie. In memory, until logs can lie on disk.

use std::collections::BTreeMap;
use std::path::Path;

use uuid::Uuid;

use crate::StartError;
use crate::config::broker::BrokerConfig;
use crate::config::topic::TopicConfig;
use crate::ids;
use crate::log::PartitionLog;

/// The logs of this node.
#[derive(Debug)]
pub(crate) struct Logs {
    cluster_id: String,
    directory_id: Uuid,
    metadata: TopicConfig,
}

impl Logs {
    /// Opens the folder, or memory. A folder is refused rather than quietly not written to.
    pub(crate) fn open(
        data_dir: Option<&Path>,
        _node_id: i32,
        config: &BrokerConfig,
    ) -> Result<Self, StartError> {
        if let Some(path) = data_dir {
            let reason = "logs on disk are not supported yet".to_owned();
            return Err(StartError::Folder { path: path.to_owned(), reason });
        }
        let forever = BTreeMap::from([("retention.ms".to_owned(), "-1".to_owned())]);
        Ok(Self {
            cluster_id: ids::to_text(ids::random()),
            directory_id: ids::random(),
            metadata: TopicConfig::new(&forever, config),
        })
    }

    pub(crate) fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    pub(crate) fn directory_id(&self) -> Uuid {
        self.directory_id
    }

    /// The log of `__cluster_metadata-0`.
    pub(crate) fn metadata_log(&self, _now_ms: i64) -> Result<PartitionLog, StartError> {
        Ok(PartitionLog::new(self.metadata.clone()))
    }

    /// Opens or creates the log of a partition.
    pub(crate) fn open_partition(
        &self,
        _topic: &str,
        _topic_id: Uuid,
        _index: i32,
        config: &TopicConfig,
        _now_ms: i64,
    ) -> Result<PartitionLog, std::io::Error> {
        Ok(PartitionLog::new(config.clone()))
    }

    /// Removes what a deleted partition leaves.
    pub(crate) fn remove(&self, _topic: &str, _index: i32) -> Result<(), std::io::Error> {
        Ok(())
    }
}
