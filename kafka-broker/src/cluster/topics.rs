//! Decisions about topics: the image and a request in, records and an answer out. Nothing is written here.

use std::collections::{BTreeMap, BTreeSet};

use kafka_wire::error_code::ErrorCode;
use uuid::Uuid;

use super::image::{Image, TopicImage};
use super::record::{ConfigResource, MetadataRecord, PartitionState};
use super::topic_name;
use crate::config::topic::check_topic_config;

/// The most partitions that one request may create: `ReplicationControlManager.MAX_PARTITIONS_PER_BATCH`.
pub(crate) const MAX_PARTITIONS_PER_REQUEST: usize = 10_000;

/// Why a change was refused: the code for the wire and a sentence for a person.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
}

pub(crate) fn refuse<T>(code: ErrorCode, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { code, message: message.into() })
}

/// A topic to create. `-1` partitions or replicas ask for the defaults.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct NewTopic {
    pub(crate) name: String,
    pub(crate) partitions: i32,
    pub(crate) replication_factor: i16,
    /// Partition index to replicas; empty: the controller places them.
    pub(crate) assignments: Vec<(i32, Vec<i32>)>,
    pub(crate) configs: Vec<(String, Option<String>)>,
}

/// What a topic gets that asks for defaults, and the most that it may get.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) max_partitions: usize,
    pub(crate) partitions: i32,
    pub(crate) replication_factor: i16,
}

/// A topic that was, or would be, created.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CreatedTopic {
    pub(crate) id: Uuid,
    pub(crate) image: TopicImage,
    pub(crate) configs: BTreeMap<String, String>,
}

/// Decides on one `CreateTopics` entry. `id` is the id to give it.
pub(crate) fn create(
    image: &Image,
    topic: &NewTopic,
    limits: Limits,
    id: Uuid,
) -> Result<(Vec<MetadataRecord>, CreatedTopic), Refusal> {
    if let Err(problem) = topic_name::check(&topic.name) {
        return refuse(ErrorCode::InvalidTopicException, format!("Topic name is invalid: {problem}"));
    }
    check_free(image, &topic.name)?;
    let partitions = place(image, topic, limits)?;
    let configs = checked_configs(&topic.configs)?;

    let mut records = vec![MetadataRecord::Topic { name: topic.name.clone(), id }];
    records.extend(configs.iter().map(|(key, value)| MetadataRecord::Config {
        resource: ConfigResource::Topic(topic.name.clone()),
        key: key.clone(),
        value: Some(value.clone()),
    }));
    records.extend(partitions.iter().map(|(&index, state)| MetadataRecord::Partition {
        topic_id: id,
        index,
        state: state.clone(),
    }));
    Ok((records, CreatedTopic { id, image: TopicImage { id, partitions }, configs }))
}

fn check_free(image: &Image, name: &str) -> Result<(), Refusal> {
    if image.topic(name).is_some() {
        return refuse(ErrorCode::TopicAlreadyExists, format!("Topic '{name}' already exists."));
    }
    if topic_name::may_collide(name) {
        let key = topic_name::collision_key(name);
        let other = image.topics().keys().find(|known| topic_name::collision_key(known) == key);
        if let Some(other) = other {
            return refuse(
                ErrorCode::InvalidTopicException,
                format!("Topic '{name}' collides with existing topic: {other}"),
            );
        }
    }
    Ok(())
}

fn place(image: &Image, topic: &NewTopic, limits: Limits) -> Result<BTreeMap<i32, PartitionState>, Refusal> {
    if !topic.assignments.is_empty() {
        return place_as_told(image, topic, limits.max_partitions);
    }
    let count = match topic.partitions {
        -1 => limits.partitions,
        count if count > 0 => count,
        _ => {
            return refuse(
                ErrorCode::InvalidPartitions,
                "Number of partitions was set to an invalid non-positive value.",
            );
        }
    };
    if usize::try_from(count).unwrap_or(usize::MAX) > limits.max_partitions {
        return too_large();
    }
    let replicas = match topic.replication_factor {
        -1 => limits.replication_factor,
        replicas if replicas > 0 => replicas,
        _ => {
            return refuse(
                ErrorCode::InvalidReplicationFactor,
                "Replication factor must be larger than 0, or -1 to use the default value.",
            );
        }
    };
    Ok((0..count).zip(spread(image, image.topics().len(), count, replicas)?).collect())
}

/// Places `count` partitions on the brokers that are there, leaders taking turns from the `first` one on. Each topic
/// begins with another broker, so that topics with few partitions are spread too.
fn spread(image: &Image, first: usize, count: i32, replicas: i16) -> Result<Vec<PartitionState>, Refusal> {
    let brokers: Vec<i32> = image.live_brokers().map(|(node_id, _)| node_id).collect();
    let wanted = usize::try_from(replicas).unwrap_or(0);
    if wanted > brokers.len() {
        return refuse(
            ErrorCode::InvalidReplicationFactor,
            format!(
                "Unable to replicate the partition {replicas} time(s): The target replication factor of {replicas} \
                 cannot be reached because only {} broker(s) are registered.",
                brokers.len()
            ),
        );
    }
    Ok((first..)
        .take(usize::try_from(count).unwrap_or(0))
        .map(|index| {
            PartitionState::new(
                brokers.iter().cycle().skip(index % brokers.len().max(1)).take(wanted).copied().collect(),
            )
        })
        .collect())
}

fn too_large<T>() -> Result<T, Refusal> {
    refuse(
        ErrorCode::PolicyViolation,
        format!("Unable to create more than {MAX_PARTITIONS_PER_REQUEST} partitions in one request."),
    )
}

fn place_as_told(
    image: &Image,
    topic: &NewTopic,
    max_partitions: usize,
) -> Result<BTreeMap<i32, PartitionState>, Refusal> {
    if topic.replication_factor != -1 {
        return refuse(
            ErrorCode::InvalidRequest,
            "A manual partition assignment was specified, but replication factor was not set to -1.",
        );
    }
    if topic.partitions != -1 {
        return refuse(
            ErrorCode::InvalidRequest,
            "A manual partition assignment was specified, but numPartitions was not set to -1.",
        );
    }
    if topic.assignments.len() > max_partitions {
        return too_large();
    }
    let mut partitions = BTreeMap::new();
    let width = topic.assignments.first().map(|(_, replicas)| replicas.len());
    for (index, replicas) in &topic.assignments {
        check_assignment(image, replicas, width)?;
        if partitions.insert(*index, placed(image, replicas)?).is_some() {
            return refuse(
                ErrorCode::InvalidReplicaAssignment,
                format!("Found multiple manual partition assignments for partition {index}"),
            );
        }
    }
    if !partitions.keys().copied().eq(0..i32::try_from(partitions.len()).unwrap_or(i32::MAX)) {
        return refuse(
            ErrorCode::InvalidReplicaAssignment,
            "partitions should be a consecutive 0-based integer sequence",
        );
    }
    Ok(partitions)
}

/// A new partition on the brokers that were named; those that are not there now are not in sync.
fn placed(image: &Image, replicas: &[i32]) -> Result<PartitionState, Refusal> {
    let isr: Vec<i32> = replicas.iter().copied().filter(|&node| image.is_live(node)).collect();
    match isr.first().copied() {
        Some(leader) => Ok(PartitionState { leader, isr, ..PartitionState::new(replicas.to_vec()) }),
        None => refuse(
            ErrorCode::InvalidReplicaAssignment,
            "All brokers specified in the manual partition assignment are fenced or in controlled shutdown.",
        ),
    }
}

/// Whether replicas that somebody names can be (`validateManualPartitionAssignment`).
pub(super) fn check_assignment(image: &Image, replicas: &[i32], width: Option<usize>) -> Result<(), Refusal> {
    if replicas.is_empty() {
        return refuse(
            ErrorCode::InvalidReplicaAssignment,
            "The manual partition assignment includes an empty replica list.",
        );
    }
    if width.is_some_and(|width| width != replicas.len()) {
        return refuse(
            ErrorCode::InvalidReplicaAssignment,
            "The manual partition assignment includes partitions with different numbers of replicas.",
        );
    }
    if replicas.iter().collect::<BTreeSet<_>>().len() != replicas.len() {
        return refuse(
            ErrorCode::InvalidReplicaAssignment,
            format!("The manual partition assignment includes a duplicated broker: {replicas:?}."),
        );
    }
    match replicas.iter().find(|broker| !image.brokers().contains_key(broker)) {
        Some(broker) => refuse(
            ErrorCode::InvalidReplicaAssignment,
            format!(
                "The manual partition assignment includes broker {broker}, but no such broker is registered."
            ),
        ),
        None => Ok(()),
    }
}

fn checked_configs(configs: &[(String, Option<String>)]) -> Result<BTreeMap<String, String>, Refusal> {
    let mut checked = BTreeMap::new();
    for (key, value) in configs {
        let Some(value) = value else {
            return refuse(
                ErrorCode::InvalidConfig,
                format!("Null value not supported for topic configs: {key}"),
            );
        };
        match check_topic_config(key, value) {
            Ok((def, value)) => checked.insert(def.name.to_owned(), value),
            Err(error) => return refuse(ErrorCode::InvalidConfig, error.to_string()),
        };
    }
    Ok(checked)
}

/// Decides on one `CreatePartitions` entry: grow the topic to `count` partitions in all.
pub(crate) fn grow(
    image: &Image,
    name: &str,
    count: i32,
    assignments: Option<&[Vec<i32>]>,
) -> Result<Vec<MetadataRecord>, Refusal> {
    let Some(topic) = image.topic(name) else {
        return refuse(ErrorCode::UnknownTopicOrPartition, format!("The topic '{name}' does not exist."));
    };
    let current = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
    if count == current {
        return refuse(ErrorCode::InvalidPartitions, format!("Topic already has {count} partition(s)."));
    }
    if count < current {
        return refuse(
            ErrorCode::InvalidPartitions,
            format!(
                "The topic {name} currently has {current} partition(s); {count} would not be an increase."
            ),
        );
    }
    let added = count - current;
    if usize::try_from(added).unwrap_or(usize::MAX) > MAX_PARTITIONS_PER_REQUEST {
        return too_large();
    }
    let states = match assignments {
        None => spread(image, topic.partitions.len(), added, topic.replication_factor())?,
        Some(assignments) => {
            if i32::try_from(assignments.len()) != Ok(added) {
                return refuse(
                    ErrorCode::InvalidReplicaAssignment,
                    format!(
                        "Attempted to add {added} additional partition(s), but only {} assignment(s) were specified.",
                        assignments.len()
                    ),
                );
            }
            let width = Some(usize::try_from(topic.replication_factor()).unwrap_or(0));
            for replicas in assignments {
                check_assignment(image, replicas, width)?;
            }
            assignments.iter().map(|replicas| placed(image, replicas)).collect::<Result<_, _>>()?
        }
    };
    let topic_id = topic.id;
    Ok((current..count)
        .zip(states)
        .map(|(index, state)| MetadataRecord::Partition { topic_id, index, state })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { max_partitions: 100, partitions: 3, replication_factor: 1 };

    pub(super) fn image(brokers: &[i32]) -> Image {
        let mut image = Image::default();
        for &node_id in brokers {
            image.replay(&MetadataRecord::RegisterBroker {
                node_id,
                incarnation: Uuid::nil(),
                epoch: 1,
                host: "localhost".to_owned(),
                port: 9092,
                rack: None,
            });
        }
        image
    }

    fn topic(name: &str) -> NewTopic {
        NewTopic { name: name.to_owned(), partitions: -1, replication_factor: -1, ..NewTopic::default() }
    }

    fn created(image: &mut Image, topic: &NewTopic) -> Result<CreatedTopic, ErrorCode> {
        let id = Uuid::from_u128(image.topics().len() as u128 + 1);
        let (records, created) = create(image, topic, LIMITS, id).map_err(|refusal| refusal.code)?;
        records.iter().for_each(|record| image.replay(record));
        Ok(created)
    }

    #[test]
    fn a_topic_that_asks_for_defaults_gets_them_and_its_leaders_take_turns() {
        let mut image = image(&[1, 2]);
        created(&mut image, &NewTopic { replication_factor: 2, ..topic("orders") }).unwrap();
        let orders = image.topic("orders").unwrap();
        let leaders: Vec<i32> = orders.partitions.values().map(|partition| partition.leader).collect();
        assert_eq!(leaders, [1, 2, 1]);
        assert_eq!(orders.replication_factor(), 2);
        assert_eq!(image.topic_by_id(orders.id).unwrap().0, "orders");
    }

    #[test]
    fn names_are_checked_and_must_be_free() {
        let mut image = image(&[1]);
        assert_eq!(created(&mut image, &topic("no way")), Err(ErrorCode::InvalidTopicException));
        created(&mut image, &topic("a.b")).unwrap();
        assert_eq!(created(&mut image, &topic("a.b")), Err(ErrorCode::TopicAlreadyExists));
        assert_eq!(created(&mut image, &topic("a_b")), Err(ErrorCode::InvalidTopicException));
        created(&mut image, &topic("a-b")).unwrap();
    }

    #[test]
    fn impossible_counts_and_assignments_are_refused() {
        let mut image = image(&[1]);
        let mut refused = |new: NewTopic| created(&mut image, &new).unwrap_err();
        assert_eq!(refused(NewTopic { partitions: 0, ..topic("t") }), ErrorCode::InvalidPartitions);
        assert_eq!(refused(NewTopic { partitions: i32::MAX, ..topic("t") }), ErrorCode::PolicyViolation);
        assert_eq!(
            refused(NewTopic { replication_factor: 0, ..topic("t") }),
            ErrorCode::InvalidReplicationFactor
        );
        assert_eq!(
            refused(NewTopic { replication_factor: 2, ..topic("t") }),
            ErrorCode::InvalidReplicationFactor
        );
        let told = |assignments: &[(i32, &[i32])]| NewTopic {
            assignments: assignments.iter().map(|(index, replicas)| (*index, replicas.to_vec())).collect(),
            ..topic("t")
        };
        for assignments in [
            &[(0, &[1][..]), (2, &[1])][..],
            &[(0, &[1]), (0, &[1])],
            &[(0, &[7])],
            &[(0, &[])],
            &[(0, &[1, 1])],
        ] {
            assert_eq!(refused(told(assignments)), ErrorCode::InvalidReplicaAssignment, "{assignments:?}");
        }
        let both = NewTopic { partitions: 2, ..told(&[(0, &[1])]) };
        assert_eq!(refused(both), ErrorCode::InvalidRequest);
        let config =
            NewTopic { configs: vec![("retention.ms".to_owned(), Some("x".to_owned()))], ..topic("t") };
        assert_eq!(refused(config), ErrorCode::InvalidConfig);
    }

    #[test]
    fn a_topic_grows_but_never_shrinks() {
        let mut image = image(&[1]);
        created(&mut image, &topic("t")).unwrap();
        let code = |result: Result<Vec<MetadataRecord>, Refusal>| result.unwrap_err().code;
        assert_eq!(code(grow(&image, "t", 3, None)), ErrorCode::InvalidPartitions);
        assert_eq!(code(grow(&image, "t", 2, None)), ErrorCode::InvalidPartitions);
        assert_eq!(code(grow(&image, "u", 2, None)), ErrorCode::UnknownTopicOrPartition);
        assert_eq!(code(grow(&image, "t", 4, Some(&[]))), ErrorCode::InvalidReplicaAssignment);
        assert_eq!(code(grow(&image, "t", 4, Some(&[vec![9]]))), ErrorCode::InvalidReplicaAssignment);
        for record in grow(&image, "t", 5, None).unwrap() {
            image.replay(&record);
        }
        assert_eq!(image.topic("t").unwrap().partitions.len(), 5);
    }

    #[test]
    fn a_removed_topic_takes_its_configuration_along() {
        let mut image = image(&[1]);
        let configs = vec![("retention.ms".to_owned(), Some("5".to_owned()))];
        let id = created(&mut image, &NewTopic { configs, ..topic("t") }).unwrap().id;
        let resource = ConfigResource::Topic("t".to_owned());
        assert_eq!(image.configs(&resource).unwrap()["retention.ms"], "5");
        image.replay(&MetadataRecord::RemoveTopic { id });
        assert!(
            image.topic("t").is_none()
                && image.topic_by_id(id).is_none()
                && image.configs(&resource).is_none()
        );
    }
}
