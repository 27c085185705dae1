use std::fmt;
use std::time::Duration;

use kafka_client::{RequestError, TopicPartition};
use kafka_wire::ErrorCode;

/// What an administrative operation is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resource {
    /// The cluster as a whole.
    Cluster,
    /// A broker, by number.
    Broker(i32),
    /// A topic, by name.
    Topic(String),
    /// A partition of a topic.
    Partition(TopicPartition),
    /// A group, by id.
    Group(String),
    /// A member of a group, by its `group.instance.id` or its member id.
    Member(String),
    /// A transactional id.
    Transaction(String),
    /// A set of client metrics, by name (KIP-714).
    ClientMetrics(String),
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("cluster"),
            Self::Broker(id) => write!(f, "broker {id}"),
            Self::Topic(name) => write!(f, "topic {name:?}"),
            Self::Partition(partition) => write!(f, "partition {partition}"),
            Self::Group(id) => write!(f, "group {id:?}"),
            Self::Member(id) => write!(f, "member {id:?}"),
            Self::Transaction(id) => write!(f, "transactional id {id:?}"),
            Self::ClientMetrics(name) => write!(f, "client metrics {name:?}"),
        }
    }
}

/// Why an administrative operation, or its part for one item, did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// A broker refused.
    #[error("{resource}: {code}{}", colon(message.as_deref()))]
    Refused {
        /// What it refused to act on.
        resource: Resource,
        /// The reason.
        #[source]
        code: ErrorCode,
        /// The broker's own words, if it sent any.
        message: Option<String>,
    },
    /// The brokers kept refusing for a passing reason until the time was over.
    #[error("{resource}: {code} for {waited:?}{}", colon(message.as_deref()))]
    Timeout {
        /// What they refused to act on.
        resource: Resource,
        /// The last reason.
        #[source]
        code: ErrorCode,
        /// The broker's own words, if it sent any.
        message: Option<String>,
        /// The operation's time-out.
        waited: Duration,
    },
    /// A broker answered, but not for this item.
    #[error("{resource}: the broker's answer does not mention it")]
    Missing {
        /// The item.
        resource: Resource,
    },
    /// There is no answer.
    #[error(transparent)]
    Request(#[from] RequestError),
}

fn colon(message: Option<&str>) -> String {
    message.map(|message| format!(": {message}")).unwrap_or_default()
}

impl AdminError {
    /// The broker's reason, if there is one.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } | Self::Timeout { code, .. } => Some(*code),
            Self::Missing { .. } | Self::Request(_) => None,
        }
    }

    /// Whether the same operation may succeed later without the caller changing anything.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Refused { code, .. } => code.is_retriable(),
            Self::Timeout { .. } => true,
            Self::Missing { .. } => false,
            Self::Request(error) => error.is_retriable(),
        }
    }

    /// Whether the operation may have taken effect although it failed: look before doing it again.
    pub fn possibly_written(&self) -> bool {
        match self {
            // The controller accepted the change and did not see it everywhere in time.
            Self::Refused { code, .. } => *code == ErrorCode::RequestTimedOut,
            Self::Timeout { .. } => false,
            Self::Missing { .. } => true,
            Self::Request(error) => error.possibly_written(),
        }
    }
}
