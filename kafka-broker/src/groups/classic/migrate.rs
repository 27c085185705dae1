//! A classic group that becomes a consumer group while it lives, and back (KIP-848).

use std::collections::BTreeMap;

use bytes::Bytes;

use super::super::consumer::member::Metadata;
use super::super::{Decision, Now};
use super::{ClassicGroup, Cx, Member, State};
use kafka_wire::ErrorCode;

/// What a consumer group takes over of a classic member.
pub(in crate::groups) struct Migrant<'a> {
    pub(in crate::groups) id: &'a str,
    pub(in crate::groups) instance_id: Option<&'a str>,
    pub(in crate::groups) client_id: &'a str,
    pub(in crate::groups) client_host: &'a str,
    pub(in crate::groups) rebalance_timeout_ms: i32,
    pub(in crate::groups) session_timeout_ms: i32,
    pub(in crate::groups) protocols: &'a [(String, Bytes)],
    /// Of the protocol that the group chose, or the member's first.
    pub(in crate::groups) subscription: Bytes,
    pub(in crate::groups) assignment: &'a Bytes,
}

impl ClassicGroup {
    pub(in crate::groups) fn generation_id(&self) -> i32 {
        self.generation
    }

    pub(in crate::groups) fn member_count(&self) -> usize {
        self.members.len()
    }

    /// Whether it could be a consumer group as well.
    pub(in crate::groups) fn is_of_consumers(&self) -> bool {
        self.uses_consumer_protocol()
    }

    pub(in crate::groups) fn migrants(&self) -> impl Iterator<Item = Migrant<'_>> {
        self.members.iter().map(|(id, member)| Migrant {
            id,
            instance_id: member.instance_id.as_deref(),
            client_id: &member.client_id,
            client_host: &member.client_host,
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            session_timeout_ms: member.session_timeout_ms,
            protocols: &member.protocols,
            subscription: match &self.protocol {
                Some(protocol) => member.metadata(protocol),
                None => member.protocols.first().map(|(_, metadata)| metadata.clone()).unwrap_or_default(),
            },
            assignment: &member.assignment,
        })
    }

    /// Sends away who waits: the group is about to be another one, in which they are to join again.
    pub(in crate::groups) fn give_way(&mut self, out: &mut Decision) {
        self.refuse_all(ErrorCode::RebalanceInProgress, out);
    }

    /// The classic group of members that all speak its protocol. They are to join it anew, so their assignments matter no
    /// longer.
    pub(in crate::groups) fn of_members<'a>(
        generation: i32,
        members: impl Iterator<Item = (&'a str, &'a Metadata)>,
        now: Now,
    ) -> Self {
        let mut group = Self {
            generation,
            protocol_type: Some(super::CONSUMER_PROTOCOL_TYPE.to_owned()),
            state: State::Stable(None),
            ..Self::new(now)
        };
        let mut found = BTreeMap::new();
        for (id, metadata) in members {
            let classic = metadata.classic.clone().unwrap_or_default();
            let mut member = Member {
                instance_id: metadata.instance_id.clone(),
                client_id: metadata.client_id.clone(),
                client_host: metadata.client_host.clone(),
                rebalance_timeout_ms: metadata.rebalance_timeout_ms,
                session_timeout_ms: classic.session_timeout_ms,
                protocols: classic.protocols,
                assignment: Bytes::new(),
                expires_at: None,
                is_new: false,
                awaiting_join: None,
                awaiting_sync: None,
            };
            member.reset_session(now);
            found.insert(id.to_owned(), member);
        }
        found.into_iter().for_each(|(id, member)| group.insert(id, member));
        group.protocol = group.select_protocol();
        group.subscribed_topics = group.read_subscribed_topics();
        group
    }

    /// Asks all members to join again.
    pub(in crate::groups) fn rebalance(&mut self, cx: &mut Cx<'_>) {
        self.prepare_rebalance(cx);
    }
}
