use bytes::Bytes;
use kafka_wire::StrBytes;
use kafka_wire::error_code::ErrorCode;
use kafka_wire::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kafka_wire::messages::fetch_response::PartitionData;
use kafka_wire::messages::{FetchRequest, TopicName};

use super::{Context, EVICTION_MS, FetchSessions};

const V: i16 = 12;

fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

fn request(id: i32, epoch: i32, partitions: &[(i32, i64)]) -> FetchRequest {
    let asked = |&(index, offset)| FetchPartition::default().with_partition(index).with_fetch_offset(offset);
    let topic =
        FetchTopic::default().with_topic(name("t")).with_partitions(partitions.iter().map(asked).collect());
    FetchRequest::default().with_session_id(id).with_session_epoch(epoch).with_topics(vec![topic])
}

fn forgetting(request: FetchRequest, partitions: &[i32]) -> FetchRequest {
    let topic = ForgottenTopic::default().with_topic(name("t")).with_partitions(partitions.to_vec());
    request.with_forgotten_topics_data(vec![topic])
}

fn asked(context: &Context) -> Vec<(i32, i64)> {
    context.partitions.iter().map(|it| (it.asked.partition, it.asked.fetch_offset)).collect()
}

/// Answers with high watermarks; `records` have some.
fn finish(
    sessions: &mut FetchSessions,
    context: Context,
    high_watermark: i64,
    records: &[i32],
    now_ms: i64,
) -> Result<(i32, Vec<i32>), ErrorCode> {
    let answer = |index: i32| {
        let bytes = if records.contains(&index) { Bytes::from_static(b"batch") } else { Bytes::new() };
        PartitionData::default()
            .with_partition_index(index)
            .with_high_watermark(high_watermark)
            .with_records(Some(bytes))
    };
    let mut answers: Vec<Option<PartitionData>> =
        context.partitions.iter().map(|it| Some(answer(it.asked.partition))).collect();
    let id = sessions.finish(context, &mut answers, now_ms, || 7)?;
    Ok((id, answers.into_iter().flatten().map(|it| it.partition_index).collect()))
}

/// A session over these partitions.
fn open(sessions: &mut FetchSessions, partitions: &[(i32, i64)], now_ms: i64) -> i32 {
    let context = sessions.begin(request(0, 0, partitions), V, now_ms).unwrap();
    finish(sessions, context, 10, &[], now_ms).unwrap().0
}

#[test]
fn a_session_remembers_what_is_fetched_and_tells_only_news() {
    let mut sessions = FetchSessions::new(10);
    let context = sessions.begin(request(0, 0, &[(0, 5), (1, 6)]), V, 0).unwrap();
    let (id, told) = finish(&mut sessions, context, 10, &[], 0).unwrap();
    assert_eq!((id, told), (7, vec![0, 1]), "the first answer is whole");

    let context = sessions.begin(request(id, 1, &[]), V, 0).unwrap();
    assert_eq!(asked(&context), [(0, 5), (1, 6)]);
    assert_eq!(finish(&mut sessions, context, 10, &[], 0).unwrap(), (id, vec![]));

    let context = sessions.begin(request(id, 2, &[(1, 8)]), V, 0).unwrap();
    assert_eq!(asked(&context), [(0, 5), (1, 8)]);
    assert_eq!(finish(&mut sessions, context, 10, &[0], 0).unwrap(), (id, vec![0]));

    // Who was served goes last; a moved high watermark is news.
    let context = sessions.begin(forgetting(request(id, 3, &[(2, 0)]), &[1]), V, 0).unwrap();
    assert_eq!(asked(&context), [(0, 5), (2, 0)]);
    assert_eq!(finish(&mut sessions, context, 11, &[], 0).unwrap(), (id, vec![0, 2]));
}

#[test]
fn wrong_ids_and_epochs_are_refused_and_say_which() {
    let mut sessions = FetchSessions::new(10);
    let code = |result: Result<Context, ErrorCode>| result.unwrap_err();
    assert_eq!(code(sessions.begin(request(9, 1, &[]), V, 0)), ErrorCode::FetchSessionIdNotFound);
    let id = open(&mut sessions, &[(0, 0)], 0);
    assert_eq!(code(sessions.begin(request(id, 2, &[]), V, 0)), ErrorCode::InvalidFetchSessionEpoch);
    assert_eq!(code(sessions.begin(request(id, 1, &[]), 13, 0)), ErrorCode::FetchSessionTopicIdError);
    let first = sessions.begin(request(id, 1, &[]), V, 0).unwrap();
    // The first is under way: a second one in the same session can only be a mistake.
    assert_eq!(code(sessions.begin(request(id, 2, &[]), V, 0)), ErrorCode::InvalidFetchSessionEpoch);
    finish(&mut sessions, first, 10, &[], 0).unwrap();
    assert!(sessions.begin(request(id, 2, &[]), V, 0).is_ok());
}

#[test]
fn a_full_fetch_ends_the_session_it_names_and_the_last_epoch_opens_none() {
    let mut sessions = FetchSessions::new(10);
    let id = open(&mut sessions, &[(0, 0)], 0);
    let context = sessions.begin(request(id, -1, &[]), V, 0).unwrap();
    assert_eq!(finish(&mut sessions, context, 10, &[], 0).unwrap().0, 0);
    assert!(sessions.sessions.is_empty());
    assert_eq!(sessions.cached_partitions, 0);

    let id = open(&mut sessions, &[(0, 0)], 0);
    let running = sessions.begin(request(id, 1, &[]), V, 0).unwrap();
    let context = sessions.begin(request(id, 0, &[(0, 0)]), V, 0).unwrap();
    assert_ne!(finish(&mut sessions, context, 10, &[], 0).unwrap().0, 0);
    assert_eq!(
        finish(&mut sessions, running, 10, &[], 0).unwrap_err(),
        ErrorCode::InvalidFetchSessionEpoch,
        "its session is another one by now"
    );
}

#[test]
fn a_session_without_partitions_ends() {
    let mut sessions = FetchSessions::new(10);
    let id = open(&mut sessions, &[(0, 0)], 0);
    let context = sessions.begin(forgetting(request(id, 1, &[]), &[0]), V, 0).unwrap();
    assert_eq!(finish(&mut sessions, context, 10, &[], 0).unwrap().0, 0);
    assert!(sessions.sessions.is_empty());
}

#[test]
fn a_full_cache_evicts_the_stale_then_the_small_and_never_the_young() {
    let mut sessions = FetchSessions::new(2);
    let first = open(&mut sessions, &[(0, 0)], 0);
    let second = open(&mut sessions, &[(0, 0), (1, 0)], 0);
    assert_eq!(open(&mut sessions, &[(0, 0), (1, 0), (2, 0)], 1), 0, "both are young");
    let use_session = |sessions: &mut FetchSessions, id: i32, now_ms| {
        let context = sessions.begin(request(id, sessions.sessions[&id].epoch, &[]), V, now_ms).unwrap();
        finish(sessions, context, 10, &[], now_ms).unwrap();
    };
    let later = EVICTION_MS + 10;
    use_session(&mut sessions, first, later);
    use_session(&mut sessions, second, later);
    let third = open(&mut sessions, &[(0, 0), (1, 0), (2, 0)], later);
    assert_ne!(third, 0);
    assert_eq!(sizes(&sessions), [2, 3], "the smaller one went");
    assert_eq!(open(&mut sessions, &[(0, 0)], later), 0, "too small to push anyone out");
    let stale = later + EVICTION_MS + 1;
    use_session(&mut sessions, third, stale);
    assert_ne!(open(&mut sessions, &[(0, 0)], stale), 0);
    assert_eq!(sizes(&sessions), [1, 3], "the idle one went");
}

fn sizes(sessions: &FetchSessions) -> Vec<usize> {
    let mut sizes: Vec<usize> = sessions.sessions.values().map(|session| session.size).collect();
    sizes.sort_unstable();
    sizes
}

#[test]
fn without_slots_no_session_is_opened() {
    let mut sessions = FetchSessions::new(0);
    assert_eq!(open(&mut sessions, &[(0, 0)], 0), 0);
}
