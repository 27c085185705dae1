//! Where offsets are to be moved: what is asked for, as text and as offsets. Nothing here talks to a broker.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_client::TopicPartition;

use crate::args::duration;

/// A topic, or some of its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) topic: String,
    /// Empty: all of them.
    pub(crate) partitions: Vec<i32>,
}

/// `orders` or `orders:0,2`.
pub(crate) fn scope(text: &str) -> Result<Scope, String> {
    let (topic, numbers) = match text.split_once(':') {
        Some((topic, numbers)) => (topic, Some(numbers)),
        None => (text, None),
    };
    let number = |text: &str| partition_number(text.trim()).ok_or_else(|| text.to_owned());
    let partitions: Result<Vec<i32>, String> =
        numbers.into_iter().flat_map(|it| it.split(',')).map(number).collect();
    match partitions {
        Ok(partitions) if !topic.is_empty() => Ok(Scope { topic: topic.to_owned(), partitions }),
        Ok(_) => Err("expected TOPIC or TOPIC:0,1".to_owned()),
        Err(wrong) => Err(format!("{wrong:?} is no partition's number; expected TOPIC or TOPIC:0,1")),
    }
}

fn partition_number(text: &str) -> Option<i32> {
    text.parse().ok().filter(|&number| number >= 0)
}

/// A span of time: `2h`, `30m`, or ISO 8601 as Kafka's own tool takes it: `PT2H`, `P7D`, `P1DT12H30M`.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    if !text.starts_with(['P', 'p']) {
        return duration(text);
    }
    iso_span(&text.to_ascii_uppercase())
        .ok_or_else(|| "expected a span such as 2h, PT2H, P7D or P1DT12H".to_owned())
}

fn iso_span(text: &str) -> Option<Duration> {
    let text = text.strip_prefix('P')?;
    let (days, time) = text.split_once('T').map_or((text, None), |(days, time)| (days, Some(time)));
    let mut seconds = match days {
        "" if time.is_none() => return None,
        "" => 0.0,
        days => days.strip_suffix('D')?.parse::<u32>().ok().map(|days| f64::from(days) * 86_400.0)?,
    };
    let mut rest = time.unwrap_or_default();
    if time.is_some() && rest.is_empty() {
        return None;
    }
    for (unit, length) in [('H', 3600.0), ('M', 60.0), ('S', 1.0)] {
        if let Some((number, after)) = rest.split_once(unit) {
            if !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
                return None;
            }
            seconds += number.parse::<f64>().ok()? * length;
            rest = after;
        }
    }
    if rest.is_empty() { Duration::try_from_secs_f64(seconds).ok() } else { None }
}

/// A point in time as milliseconds since 1970: `2026-11-23T08:30:00.000`, with or without milliseconds, seconds, and a
/// zone (`Z`, `+01:00`, `-0800`); without one it is UTC, as for Kafka's own tool.
pub(crate) fn datetime(text: &str) -> Result<i64, String> {
    parse_datetime(text).ok_or_else(|| "expected a time such as 2026-11-23T08:30:00.000+01:00".to_owned())
}

fn parse_datetime(text: &str) -> Option<i64> {
    let (date, time) = text.split_once('T')?;
    let mut date = date.split('-');
    let (year, month, day) = (digits(date.next()?, 4)?, digits(date.next()?, 2)?, digits(date.next()?, 2)?);
    let days_in_month = match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if date.next().is_some() || !(1..=days_in_month).contains(&day) || year < 1970 {
        return None;
    }
    let (clock, zone_minutes) = match time.find(['Z', '+', '-']) {
        Some(at) => (time.get(..at)?, zone(time.get(at..)?)?),
        None => (time, 0),
    };
    let mut clock = clock.split(':');
    let (hour, minute) = (digits(clock.next()?, 2)?, digits(clock.next()?, 2)?);
    let (second, milli) = match clock.next().map(|second| second.split_once('.').unwrap_or((second, "0"))) {
        None => (0, 0),
        Some((second, fraction)) => {
            let milli = digits(fraction, fraction.len()).filter(|_| fraction.len() <= 3)?;
            (digits(second, 2)?, milli * 10i64.pow(3 - u32::try_from(fraction.len()).ok()?))
        }
    };
    if clock.next().is_some() || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let seconds =
        ((days_since_1970(year, month, day) * 24 + hour) * 60 + minute - zone_minutes) * 60 + second;
    Some(seconds * 1000 + milli)
}

/// So many digits and nothing else.
fn digits(text: &str, count: usize) -> Option<i64> {
    let is_number = text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

/// Minutes east of Greenwich.
fn zone(text: &str) -> Option<i64> {
    if text == "Z" {
        return Some(0);
    }
    let (sign, rest) = text.split_at_checked(1)?;
    let (hours, minutes) = match rest.split_once(':') {
        Some(parts) => parts,
        None => rest.split_at_checked(2)?,
    };
    let minutes = if minutes.is_empty() { 0 } else { digits(minutes, 2)? };
    let east = digits(hours, 2)? * 60 + minutes;
    Some(if sign == "-" { -east } else { east })
}

/// Howard Hinnant's `days_from_civil`, for years from 1970 on.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Offsets from lines `topic,partition,offset`, or `group,topic,partition,offset` as Kafka's own tool exports them for
/// several groups: other groups' lines are left out.
pub(crate) fn from_csv(text: &str, group: &str) -> Result<BTreeMap<TopicPartition, i64>, String> {
    let mut offsets = BTreeMap::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let cells: Vec<&str> = line.split(',').map(|cell| cell.trim().trim_matches('"')).collect();
        let (owner, topic, partition, offset) = match cells.as_slice() {
            [topic, partition, offset] => (group, *topic, *partition, *offset),
            [owner, topic, partition, offset] => (*owner, *topic, *partition, *offset),
            _ => return Err(format!("line {}: expected topic,partition,offset", at + 1)),
        };
        let offset = offset.parse().ok().filter(|&offset: &i64| offset >= 0);
        let Some((partition, offset)) = partition_number(partition).zip(offset) else {
            return Err(format!("line {}: {line:?} has no partition and offset", at + 1));
        };
        if owner == group {
            offsets.insert(TopicPartition::new(topic, partition), offset);
        }
    }
    Ok(offsets)
}

/// What is known of a partition before its offset is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) committed: Option<i64>,
    pub(crate) earliest: i64,
    pub(crate) latest: i64,
    /// The first offset at the time that was asked for; `None` if no record is that late, or none was asked for.
    pub(crate) at_time: Option<i64>,
}

/// Where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum To {
    Earliest,
    Latest,
    /// What is committed; where nothing is, the end.
    Current,
    Offset(i64),
    ShiftBy(i64),
    /// Milliseconds since 1970; the end, where no record is that late.
    Timestamp(i64),
    File(BTreeMap<TopicPartition, i64>),
}

impl To {
    /// The new offset, always one that the log has. `Err`: why there is none.
    pub(crate) fn target(&self, partition: &TopicPartition, known: Known) -> Result<i64, String> {
        let wanted = match self {
            Self::Earliest => known.earliest,
            Self::Latest => known.latest,
            Self::Current => known.committed.unwrap_or(known.latest),
            Self::Offset(offset) => *offset,
            Self::ShiftBy(by) => {
                let committed = known.committed;
                let committed =
                    committed.ok_or_else(|| format!("{partition} has no committed offset to shift"))?;
                committed.saturating_add(*by)
            }
            Self::Timestamp(_) => known.at_time.unwrap_or(known.latest),
            Self::File(offsets) => {
                *offsets.get(partition).ok_or_else(|| format!("the file has no offset for {partition}"))?
            }
        };
        Ok(wanted.clamp(known.earliest, known.latest.max(known.earliest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_may_be_narrowed_to_partitions() {
        assert_eq!(scope("t"), Ok(Scope { topic: "t".to_owned(), partitions: vec![] }));
        assert_eq!(scope("t:0, 2"), Ok(Scope { topic: "t".to_owned(), partitions: vec![0, 2] }));
        for bad in ["", ":0", "t:", "t:x", "t:-1"] {
            assert!(scope(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn spans_are_written_as_everywhere_or_as_in_kafkas_tool() {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        assert_eq!(span("2h"), Ok(hours(2)));
        assert_eq!(span("PT2H"), Ok(hours(2)));
        assert_eq!(span("P7D"), Ok(hours(7 * 24)));
        assert_eq!(span("P0DT0H0M0S"), Ok(Duration::ZERO));
        assert_eq!(span("p1dt12h30m1.5s"), Ok(hours(36) + Duration::from_millis(1_801_500)));
        for bad in ["P", "PT", "P1", "PT1", "P1H", "PT1S1H", "PTinfS", "P-1D", ""] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_utc_unless_they_have_a_zone() {
        assert_eq!(datetime("1970-01-01T00:00:00.000"), Ok(0));
        assert_eq!(datetime("2000-02-29T12:00"), Ok(951_825_600_000));
        assert_eq!(datetime("2026-11-23T08:30:01.250Z"), Ok(1_795_422_601_250));
        assert_eq!(datetime("2026-11-23T08:30:01.25+01:00"), Ok(1_795_419_001_250));
        assert_eq!(datetime("2026-11-23T08:30:01-0130"), Ok(1_795_428_001_000));
        for bad in [
            "",
            "2026-11-23",
            "2026-02-29T00:00",
            "2026-13-01T00:00",
            "2026-11-23T24:00",
            "2026-11-23T08",
            "2026-11-23T08:30:01.",
            "2026-11-23T08:30:01.1234",
            "2026-11-23T08:30:01+1",
            "+026-11-23T08:30",
            "1969-01-01T00:00",
        ] {
            assert!(datetime(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_of_offsets_may_name_groups() {
        let text = "t,0,5\n\"g\",\"t\",1,6\nother,t,2,7\n\n";
        let offsets: Vec<_> = from_csv(text, "g").unwrap().into_iter().collect();
        assert_eq!(offsets, [(TopicPartition::new("t", 0), 5), (TopicPartition::new("t", 1), 6)]);
        for bad in ["t,0", "t,x,1", "t,0,-1", "a,b,c,d,e"] {
            assert!(from_csv(bad, "g").is_err(), "{bad}");
        }
    }

    #[test]
    fn an_offset_is_never_moved_to_where_there_is_no_log() {
        let partition = TopicPartition::new("t", 0);
        let known = Known { committed: Some(50), earliest: 10, latest: 100, at_time: None };
        let to = |to: To, known| to.target(&partition, known);
        assert_eq!(to(To::Earliest, known), Ok(10));
        assert_eq!(to(To::Latest, known), Ok(100));
        assert_eq!(to(To::Offset(3), known), Ok(10));
        assert_eq!(to(To::Offset(300), known), Ok(100));
        assert_eq!(to(To::ShiftBy(-7), known), Ok(43));
        assert_eq!(to(To::ShiftBy(i64::MAX), known), Ok(100));
        assert_eq!(to(To::Timestamp(1), known), Ok(100));
        assert_eq!(to(To::Timestamp(1), Known { at_time: Some(70), ..known }), Ok(70));
        let uncommitted = Known { committed: None, ..known };
        assert_eq!(to(To::Current, uncommitted), Ok(100));
        assert!(to(To::ShiftBy(1), uncommitted).is_err());
        let file = To::File([(partition.clone(), 60)].into_iter().collect());
        assert_eq!(to(file, known), Ok(60));
        assert!(to(To::File(BTreeMap::new()), known).is_err());
    }
}
