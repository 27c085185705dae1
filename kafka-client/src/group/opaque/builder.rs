//! The options of a group member.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{GroupMember, GroupToAssign};
use crate::client::Client;
use crate::config::{ConfigError, invalid};
use crate::group::classic::MembershipConfig;
use crate::group::requests::Terms;

/// Assigns, if this member leads: bytes for each member id.
type Assign =
    dyn Fn(&GroupToAssign) -> Result<BTreeMap<String, Bytes>, Box<dyn StdError + Send + Sync>> + Send + Sync;

#[derive(Clone)]
pub(super) struct Options {
    pub(super) group: String,
    pub(super) protocol_type: String,
    pub(super) protocols: Vec<(String, Bytes)>,
    pub(super) assign: Option<Arc<Assign>>,
    instance_id: Option<String>,
    pub(super) session_timeout: Duration,
    heartbeat_interval: Duration,
    pub(super) rebalance_timeout: Duration,
}

impl Options {
    pub(super) fn membership(&self) -> MembershipConfig {
        MembershipConfig {
            group: self.group.clone(),
            instance_id: self.instance_id.clone(),
            session_timeout: self.session_timeout,
            heartbeat_interval: self.heartbeat_interval,
            max_poll_interval: None,
        }
    }

    pub(super) fn terms(&self) -> Terms {
        Terms {
            instance_id: self.instance_id.clone(),
            session_timeout: self.session_timeout,
            rebalance_timeout: self.rebalance_timeout,
        }
    }
}

/// Options of a [`GroupMember`]; made by [`Client::group_member`].
#[derive(Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct GroupMemberBuilder {
    client: Client,
    options: Options,
}

impl fmt::Debug for GroupMemberBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupMemberBuilder")
            .field("group", &self.options.group)
            .field("protocol_type", &self.options.protocol_type)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Options for a member of a classic group that divides something else than partitions among its members, such as
    /// Kafka Connect's workers (`connect`) or Schema Registries (`sr`) do.
    ///
    /// All members of a group must be of one protocol type.
    pub fn group_member(
        &self,
        group: impl Into<String>,
        protocol_type: impl Into<String>,
    ) -> GroupMemberBuilder {
        let options = Options {
            group: group.into(),
            protocol_type: protocol_type.into(),
            protocols: Vec::new(),
            assign: None,
            instance_id: None,
            session_timeout: Duration::from_secs(45),
            heartbeat_interval: Duration::from_secs(3),
            rebalance_timeout: Duration::from_secs(60),
        };
        GroupMemberBuilder { client: self.clone(), options }
    }
}

impl GroupMemberBuilder {
    /// Offers a way to assign, after those that were offered before, with what the leader must know of this member for
    /// it. The coordinator chooses one that all members offer. At least one is needed.
    pub fn protocol(mut self, name: impl Into<String>, metadata: impl Into<Bytes>) -> Self {
        self.options.protocols.push((name.into(), metadata.into()));
        self
    }

    /// Assigns whenever this member leads its group: answers with the bytes for each member id. Who is left out gets
    /// none. It may take as long as [`rebalance_timeout`](Self::rebalance_timeout); heartbeats go on. Needed.
    ///
    /// An error, a panic or the id of nobody ends this membership ([`GroupError::Assign`](crate::group::GroupError)), and
    /// another member leads.
    pub fn assignor<F, E>(mut self, assign: F) -> Self
    where
        F: Fn(&GroupToAssign) -> Result<BTreeMap<String, Bytes>, E> + Send + Sync + 'static,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        self.options.assign = Some(Arc::new(move |group| assign(group).map_err(Into::into)));
        self
    }

    /// Makes this a static member (`group.instance.id`, KIP-345): whoever comes back under this id within the session
    /// time-out gets its assignment back without a rebalance. Closing does not leave the group. Default none.
    pub fn instance_id(mut self, id: impl Into<String>) -> Self {
        self.options.instance_id = Some(id.into());
        self
    }

    /// How long the coordinator waits for a sign of life (`session.timeout.ms`). Default 45 s.
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.options.session_timeout = timeout;
        self
    }

    /// How often the coordinator is told that this member lives (`heartbeat.interval.ms`). Default 3 s.
    pub fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.options.heartbeat_interval = interval;
        self
    }

    /// How long members have to give up what they work on when the group rebalances (`rebalance.timeout.ms`). Default
    /// 60 s, as Connect's workers.
    pub fn rebalance_timeout(mut self, timeout: Duration) -> Self {
        self.options.rebalance_timeout = timeout;
        self
    }

    /// Starts the member, in the current tokio runtime. It joins the group in the background.
    ///
    /// # Errors
    /// An option is missing or makes no sense.
    pub fn build(self) -> Result<GroupMember, ConfigError> {
        let options = &self.options;
        for (key, is_missing) in [
            ("group.id", options.group.is_empty()),
            ("protocol type", options.protocol_type.is_empty()),
            ("protocol", options.protocols.is_empty()),
            ("assignor", options.assign.is_none()),
        ] {
            if is_missing {
                return Err(ConfigError::Missing { key });
            }
        }
        if options.heartbeat_interval >= options.session_timeout {
            let given = format!("{:?}", options.heartbeat_interval);
            return Err(invalid("heartbeat.interval.ms", given, "less than session.timeout.ms"));
        }
        Ok(GroupMember::start(self.client, self.options))
    }
}
