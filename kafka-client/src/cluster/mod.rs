//! What the client knows of the cluster: an immutable snapshot, refreshed on demand and every `metadata.max.age`.

mod coordinator;
mod metadata;
mod refresh;
mod snapshot;
mod update;

pub use refresh::MetadataRecovery;
pub use snapshot::{Broker, Cluster, Partition, Topic};

pub(crate) use coordinator::{CoordinatorKind, Coordinators, answer, question};
pub(crate) use metadata::{Metadata, Source, run};
pub(crate) use refresh::{MetadataConfig, Sources};
pub(crate) use snapshot::Asked;
