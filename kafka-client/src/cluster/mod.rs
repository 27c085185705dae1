//! What the client knows of the cluster: an immutable snapshot, refreshed on demand and every `metadata.max.age`.

mod coordinator;
mod metadata;
mod rounds;
mod snapshot;

pub use snapshot::{Broker, Cluster, Partition, Topic};

pub(crate) use coordinator::{CoordinatorKind, Coordinators, answer, question};
pub(crate) use metadata::{Metadata, MetadataConfig, run};
pub(crate) use snapshot::Asked;
