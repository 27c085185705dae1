//! ConsumerGroupDescribe.

use std::collections::BTreeMap;

use kafka_wire::messages::TopicName;
use kafka_wire::messages::consumer_group_describe_response::{
    Assignment, DescribedGroup, Member as DescribedMember, TopicPartitions,
};
use kafka_wire::{StrBytes, Uuid};

use super::super::GroupConfig;
use super::super::record::text;
use super::member::each;
use super::{ConsumerGroup, Member};
use crate::cluster::image::Image;

/// `MemberType`: how a member speaks, shown from version 1 on.
const CLASSIC: i8 = 0;
const CONSUMER: i8 = 1;

impl ConsumerGroup {
    /// The group as ConsumerGroupDescribe shows it. Topics that are gone are left out.
    pub(in crate::groups) fn describe(
        &self,
        config: &GroupConfig,
        version: i16,
        image: &Image,
    ) -> DescribedGroup {
        let members =
            self.members.iter().map(|(id, member)| self.describe_member(id, member, version, image));
        DescribedGroup::default()
            .with_group_state(StrBytes::from_static_str(self.state().name()))
            .with_group_epoch(self.epoch.epoch)
            .with_assignment_epoch(self.target_epoch.epoch)
            .with_assignor_name(StrBytes::from_static_str(self.assignor(config).name()))
            .with_members(members.collect())
    }

    fn describe_member(&self, id: &str, member: &Member, version: i16, image: &Image) -> DescribedMember {
        let metadata = &member.metadata;
        let target = self.targets.get(id);
        let target = target.into_iter().flat_map(|target| target.iter());
        let target = target.flat_map(|(topic, partitions)| partitions.iter().map(move |p| (*topic, *p)));
        let member_type = if metadata.classic.is_some() { CLASSIC } else { CONSUMER };
        DescribedMember::default()
            .with_member_id(text(id))
            .with_instance_id(metadata.instance_id.as_deref().map(text))
            .with_rack_id(metadata.rack_id.as_deref().map(text))
            .with_member_epoch(member.current.epoch)
            .with_client_id(text(&metadata.client_id))
            .with_client_host(text(&metadata.client_host))
            .with_subscribed_topic_names(metadata.topics.iter().map(|topic| TopicName(text(topic))).collect())
            .with_subscribed_topic_regex(metadata.regex.as_deref().map(text))
            .with_assignment(assignment(each(&member.current.assigned), image))
            .with_target_assignment(assignment(target, image))
            .with_member_type(if version >= 1 { member_type } else { -1 })
    }
}

fn assignment(partitions: impl Iterator<Item = (Uuid, i32)>, image: &Image) -> Assignment {
    let mut topics: BTreeMap<Uuid, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in partitions {
        topics.entry(topic).or_default().push(partition);
    }
    let topics = topics.into_iter().filter_map(|(id, partitions)| {
        let (name, _) = image.topic_by_id(id)?;
        let topic = TopicPartitions::default().with_topic_id(id).with_topic_name(TopicName(text(name)));
        Some(topic.with_partitions(partitions))
    });
    Assignment::default().with_topic_partitions(topics.collect())
}
