//! How many partitions each topic has (`CopartitionedTopicsEnforcer`, `RepartitionTopics`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::error::StreamsError;
use crate::topology::{NodeId, TopicRef, TopologyInner};

/// Topics whose partitions of one number meet in one task, and where they do.
struct Group {
    topics: BTreeSet<TopicRef>,
    nodes: BTreeSet<NodeId>,
}

/// Adds the repartition topics to what is known: each is as wide as the user said, as what it is joined with, or else as
/// the widest topic that its writers read.
///
/// # Errors
/// [`StreamsError::NotCopartitioned`] with every group of topics that cannot be joined.
pub(super) fn widths(
    inner: &TopologyInner,
    mut counts: BTreeMap<TopicRef, i32>,
) -> Result<BTreeMap<TopicRef, i32>, StreamsError> {
    for spec in &inner.graph.repartitions {
        if let Some(partitions) = spec.partitions {
            counts.insert(TopicRef::Internal(Arc::clone(&spec.name)), partitions);
        }
    }
    let fixed: BTreeSet<TopicRef> = counts.keys().cloned().collect();
    let groups = groups(inner);
    let mut joined = BTreeMap::<TopicRef, i32>::new();
    // Each round settles the topics behind those of the round before.
    for _ in 0..=inner.subtopologies.len() {
        for spec in inner.graph.repartitions.iter().filter(|spec| spec.partitions.is_none()) {
            let topic = TopicRef::Internal(Arc::clone(&spec.name));
            let writers = inner.subtopologies.iter().filter(|sub| sub.sink_topics.contains(&topic));
            let upstream = writers.flat_map(|sub| &sub.source_topics).filter_map(|source| counts.get(source));
            if let Some(width) = joined.get(&topic).or(upstream.max()).copied() {
                counts.insert(topic, width);
            }
        }
        for Group { topics, .. } in &groups {
            let (told, free): (Vec<_>, Vec<_>) = topics.iter().partition(|topic| fixed.contains(*topic));
            let widest =
                |topics: &[&TopicRef]| topics.iter().filter_map(|topic| counts.get(*topic)).max().copied();
            let Some(width) = widest(&told).or_else(|| widest(&free)) else { continue };
            for topic in free {
                counts.insert(topic.clone(), width);
                joined.insert(topic.clone(), width);
            }
        }
    }
    let problems: Vec<String> =
        groups.iter().filter_map(|group| describe_if_unequal(inner, group, &counts)).collect();
    if problems.is_empty() { Ok(counts) } else { Err(StreamsError::NotCopartitioned { problems }) }
}

/// Joins that have a topic in common are one group.
fn groups(inner: &TopologyInner) -> Vec<Group> {
    let mut groups = Vec::<Group>::new();
    for join in &inner.graph.copartitioned {
        let topics = join.sides.iter().flat_map(|side| inner.graph.topics_upstream(*side)).collect();
        let mut merged = Group { topics, nodes: BTreeSet::from([join.node]) };
        let touching = groups.extract_if(.., |group| !group.topics.is_disjoint(&merged.topics));
        let touching: Vec<Group> = touching.collect();
        for group in touching {
            merged.topics.extend(group.topics);
            merged.nodes.extend(group.nodes);
        }
        groups.push(merged);
    }
    groups
}

fn describe_if_unequal(
    inner: &TopologyInner,
    group: &Group,
    counts: &BTreeMap<TopicRef, i32>,
) -> Option<String> {
    let widths: Vec<_> = group.topics.iter().filter_map(|topic| Some((topic, *counts.get(topic)?))).collect();
    let (_, first) = *widths.first()?;
    if widths.iter().all(|(_, width)| *width == first) {
        return None;
    }
    let names = group.nodes.iter().filter_map(|node| inner.graph.nodes.get(*node));
    let names: Vec<&str> = names.map(|node| node.name.as_str()).collect();
    let widths: Vec<_> =
        widths.iter().map(|(topic, width)| format!("{} has {width}", topic.name())).collect();
    Some(format!("at {} {}", names.join(" and "), widths.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ForeignKeyJoined, Grouped, Store, StreamsBuilder};

    fn text(builder: &StreamsBuilder, topic: &str) -> crate::KStream<String, String> {
        builder.stream(topic)
    }

    fn widths_of(
        build: impl Fn(&StreamsBuilder),
        counts: &[(&str, i32)],
    ) -> Result<BTreeMap<String, i32>, StreamsError> {
        let builder = StreamsBuilder::new();
        build(&builder);
        let counts = counts.iter().map(|(topic, width)| (TopicRef::External(Arc::from(*topic)), *width));
        let found = widths(&builder.build().unwrap().inner, counts.collect())?;
        Ok(found.into_iter().map(|(topic, width)| (topic.name().to_owned(), width)).collect())
    }

    /// `in` by a new key joins a table; `other`, by its own key, joins one too.
    fn joins(builder: &StreamsBuilder) {
        let table = builder.table::<String, String>("table");
        let rekeyed = text(builder, "in").select_key(|_, v| v.clone());
        rekeyed.join_table(&table, |_, v, _| v, "first").to("out");
        text(builder, "other").join_table(&table, |_, v, _| v, "second").to("out");
    }

    #[test]
    fn a_repartition_topic_is_as_wide_as_what_it_is_joined_with() {
        let widths = widths_of(joins, &[("in", 2), ("table", 5), ("other", 5)]).unwrap();
        assert_eq!(widths.get("first-repartition"), Some(&5));
        let widths = widths_of(joins, &[("in", 9), ("table", 5), ("other", 5)]).unwrap();
        assert_eq!(widths.get("first-repartition"), Some(&5));
    }

    #[test]
    fn repartition_topics_of_one_join_are_as_wide_as_the_widest() {
        let cogroup = |builder: &StreamsBuilder| {
            let by_value = |topic: &str| text(builder, topic).group_by(topic, |_, v| v.clone());
            let both = by_value("a").cogroup(|_, v, all: &mut String| all.push_str(v));
            let both = both.cogroup(by_value("b"), |_, v, all: &mut String| all.push_str(v));
            let _ = both.aggregate(String::new, Store::kv("all"));
        };
        let widths = widths_of(cogroup, &[("a", 2), ("b", 5)]).unwrap();
        assert_eq!((widths.get("a-repartition"), widths.get("b-repartition")), (Some(&5), Some(&5)));
    }

    #[test]
    fn questions_and_answers_of_a_foreign_key_join_are_as_wide_as_the_tables_they_go_to() {
        let join = |builder: &StreamsBuilder| {
            let users = builder.table::<String, String>("users");
            let orders = builder.table::<String, String>("orders");
            let billed: ForeignKeyJoined<String, String, String, String, String> = "billed".into();
            let bills =
                orders.join_by_foreign_key(users, |_, v| Some(v.clone()), |_, l, _| l.clone(), billed);
            bills.to_stream().to("out");
        };
        let widths = widths_of(join, &[("orders", 2), ("users", 5)]).unwrap();
        let of = |part: &str| widths.iter().find(|(topic, _)| topic.contains(part)).map(|(_, width)| *width);
        assert_eq!((of("registration"), of("response")), (Some(5), Some(2)));
    }

    #[test]
    fn every_group_of_joined_topics_that_differ_is_named() {
        let both = |builder: &StreamsBuilder| {
            joins(builder);
            let c = builder.table::<String, String>("c");
            let d = builder.table::<String, String>("d");
            let _ = c
                .join(d, |_, l, _| l.clone(), "third")
                .to_stream()
                .group_by_key(Grouped::auto())
                .count(Store::auto());
        };
        let widths = [("in", 2), ("table", 5), ("other", 3), ("c", 1), ("d", 2)];
        let error = widths_of(both, &widths).unwrap_err();
        assert_eq!(
            error.to_string(),
            "joined topics need the same number of partitions: \
             at first and second other has 3, table has 5, first-repartition has 5; at third c has 1, d has 2"
        );
    }
}
