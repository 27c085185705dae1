//! The data folder: whose it is, and where each partition's log lies in it.

use std::path::Path;

use uuid::Uuid;

use crate::StartError;
use crate::config::broker::BrokerConfig;
use crate::config::topic::TopicConfig;
use crate::ids;
use crate::log::PartitionLog;

#[derive(Debug)]
pub(crate) struct Logs {
    cluster_id: String,
    directory_id: Uuid,
}

impl Logs {
    pub(crate) fn open(
        data_dir: Option<&Path>,
        _node_id: i32,
        _config: &BrokerConfig,
    ) -> Result<Self, StartError> {
        if let Some(path) = data_dir {
            let reason = "logs on disk are not there yet".to_owned();
            return Err(StartError::Folder { path: path.to_owned(), reason });
        }
        Ok(Self { cluster_id: ids::to_text(ids::random()), directory_id: ids::random() })
    }
    pub(crate) fn cluster_id(&self) -> &str {
        &self.cluster_id
    }
    pub(crate) fn directory_id(&self) -> Uuid {
        self.directory_id
    }
    pub(crate) fn metadata_log(&self, _now_ms: i64) -> Result<PartitionLog, StartError> {
        Ok(PartitionLog::default())
    }
    pub(crate) fn open_partition(
        &self,
        _t: &str,
        _id: Uuid,
        _i: i32,
        _c: &TopicConfig,
        _now: i64,
    ) -> Result<PartitionLog, std::io::Error> {
        Ok(PartitionLog::default())
    }
    pub(crate) fn remove(&self, _t: &str, _i: i32) -> Result<(), std::io::Error> {
        Ok(())
    }
}
