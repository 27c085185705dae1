use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::{ArgGroup, Args};
use kafka_admin::groups::GroupType;
use kafka_admin::{Admin, AdminError, OffsetSpec};
use kafka_client::TopicPartition;
use kafka_client::consumer::OffsetAndMetadata;
use kafka_client::wire::ErrorCode;
use serde::Serialize;

use super::plan::{self, Known, Scope, To};
use super::{group_type, partitions};
use crate::connection::AdminOptions;
use crate::failure::{Failure, with_causes};
use crate::output::{Table, note, print_json, print_line};

/// Move a group's offsets; without --execute, only show where to
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("to").required(true), after_help = "\
Examples:
  kafka groups reset-offsets billing --topic orders --to-earliest
  kafka groups reset-offsets billing --topic orders:0,2 --shift-by -100 --execute
  kafka groups reset-offsets billing --all-topics --to-datetime 2026-11-23T08:30:00Z --execute
  kafka groups reset-offsets billing --all-topics --by-duration 2h --execute
  kafka groups reset-offsets billing --all-topics --to-current --csv > offsets.csv
  kafka groups reset-offsets billing --from-file offsets.csv --execute

The group must have no members. Offsets outside of a partition's log are moved to its nearest end.
For share groups it is the start of what they share out that is moved: to the earliest or latest
offset, to an offset, or to a time.")]
pub(crate) struct ResetOffsets {
    /// The group's id
    group: String,

    /// A topic, or some of its partitions as TOPIC:0,1; repeatable
    #[arg(long = "topic", value_name = "TOPIC", value_parser = plan::scope)]
    topics: Vec<Scope>,

    /// Every partition that the group has committed offsets in
    #[arg(long, conflicts_with = "topics")]
    all_topics: bool,

    /// To the first offset that is still there
    #[arg(long, group = "to")]
    to_earliest: bool,

    /// To the end: what is there already is skipped
    #[arg(long, group = "to")]
    to_latest: bool,

    /// To where the group is; with --csv, to keep it
    #[arg(long, group = "to")]
    to_current: bool,

    /// To this offset
    #[arg(long, group = "to", value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    to_offset: Option<i64>,

    /// By so many records, back if negative
    #[arg(long, group = "to", value_name = "N", allow_negative_numbers = true)]
    shift_by: Option<i64>,

    /// To the first record of this time or later, such as 2026-11-23T08:30:00.000+01:00; UTC without a zone
    #[arg(long, group = "to", value_name = "TIME", value_parser = plan::datetime)]
    to_datetime: Option<i64>,

    /// To the first record of this long ago or later, such as 2h, 30m or P7D
    #[arg(long, group = "to", value_name = "SPAN", value_parser = plan::span)]
    by_duration: Option<std::time::Duration>,

    /// To the offsets in a file of lines topic,partition,offset
    #[arg(long, group = "to", value_name = "FILE", conflicts_with_all = ["topics", "all_topics"])]
    from_file: Option<PathBuf>,

    /// Do it
    #[arg(long)]
    execute: bool,

    /// Print lines topic,partition,offset, as --from-file reads them
    #[arg(long, conflicts_with = "json")]
    csv: bool,

    #[command(flatten)]
    common: AdminOptions,
}

#[derive(Debug, Serialize)]
struct Moved<'a> {
    group: &'a str,
    topic: &'a str,
    partition: i32,
    current_offset: Option<i64>,
    new_offset: i64,
    executed: bool,
}

type Committed = BTreeMap<TopicPartition, i64>;

impl ResetOffsets {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let to = self.to()?;
        let admin = self.common.admin().await?;
        let is_share = group_type(&admin, &self.group).await? == Some(GroupType::Share);
        if is_share && matches!(to, To::Current | To::ShiftBy(_)) {
            return Err(Failure::usage("a share group has no committed offset to begin from"));
        }
        let committed = committed(&admin, &self.group, is_share).await?;
        let partitions = match &to {
            To::File(offsets) => offsets.keys().cloned().collect(),
            _ if self.all_topics => committed.keys().cloned().collect(),
            _ if self.topics.is_empty() => {
                return Err(Failure::usage("which offsets? Name them with --topic or --all-topics"));
            }
            _ => partitions(&admin, self.topics.clone()).await?,
        };
        if partitions.is_empty() {
            note("there is no offset to move");
            return Ok(());
        }
        let known = known(&admin, &to, &partitions, &committed).await?;
        let targets =
            known.iter().map(|(partition, known)| Ok((partition.clone(), to.target(partition, *known)?)));
        let targets = targets.collect::<Result<BTreeMap<_, _>, String>>().map_err(Failure::failed)?;
        let failures = match self.execute {
            true => execute(&admin, &self.group, is_share, &targets).await?,
            false => BTreeMap::new(),
        };
        self.print(&committed, &targets, &failures)?;
        Failure::all(failures.into_values().collect())
    }

    fn to(&self) -> Result<To, Failure> {
        let span_ago = |span: std::time::Duration| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            i64::try_from(now.saturating_sub(span).as_millis()).unwrap_or(i64::MAX)
        };
        let file = match &self.from_file {
            Some(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?;
                let offsets = plan::from_csv(&text, &self.group);
                Some(offsets.map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?)
            }
            None => None,
        };
        let to = [
            self.to_earliest.then_some(To::Earliest),
            self.to_latest.then_some(To::Latest),
            self.to_current.then_some(To::Current),
            self.to_offset.map(To::Offset),
            self.shift_by.map(To::ShiftBy),
            self.to_datetime.map(To::Timestamp),
            self.by_duration.map(|span| To::Timestamp(span_ago(span))),
            file.map(To::File),
        ];
        to.into_iter().flatten().next().ok_or_else(|| Failure::usage("where to?"))
    }

    fn print(
        &self,
        committed: &Committed,
        targets: &BTreeMap<TopicPartition, i64>,
        failures: &BTreeMap<TopicPartition, String>,
    ) -> Result<(), Failure> {
        let moved = targets.iter().filter(|(partition, _)| !failures.contains_key(*partition));
        if self.csv {
            return moved.into_iter().try_for_each(|(partition, offset)| {
                print_line(format!("{},{},{offset}", partition.topic(), partition.partition))
            });
        }
        if self.common.json {
            return moved.into_iter().try_for_each(|(partition, &new_offset)| {
                print_json(&Moved {
                    group: &self.group,
                    topic: partition.topic(),
                    partition: partition.partition,
                    current_offset: committed.get(partition).copied(),
                    new_offset,
                    executed: self.execute,
                })
            });
        }
        if failures.len() == targets.len() {
            return Ok(());
        }
        let mut table = Table::new(&["topic", "#partition", "#current", "#new"]);
        for (partition, offset) in moved {
            table.row([
                partition.topic().to_owned(),
                partition.partition.to_string(),
                committed.get(partition).map_or_else(|| "-".to_owned(), i64::to_string),
                offset.to_string(),
            ]);
        }
        table.print()?;
        if !self.execute {
            note("nothing was changed; do it with --execute");
        }
        Ok(())
    }
}

/// Where the group is. Of partitions whose offset nobody can tell, it is unknown.
async fn committed(admin: &Admin, group: &str, is_share: bool) -> Result<Committed, Failure> {
    if is_share {
        let offsets = admin.list_share_group_offsets(group).await?.all()?;
        return Ok(offsets.into_iter().map(|(partition, at)| (partition, at.start_offset)).collect());
    }
    let offsets = admin.list_group_offsets(group).await?.all()?;
    Ok(offsets.into_iter().map(|(partition, at)| (partition, at.offset)).collect())
}

async fn known(
    admin: &Admin,
    to: &To,
    partitions: &[TopicPartition],
    committed: &Committed,
) -> Result<BTreeMap<TopicPartition, Known>, Failure> {
    let earliest = offsets(admin, partitions, OffsetSpec::Earliest).await?;
    let latest = offsets(admin, partitions, OffsetSpec::Latest).await?;
    let at_time = match to {
        To::Timestamp(timestamp) => offsets(admin, partitions, OffsetSpec::Timestamp(*timestamp)).await?,
        _ => BTreeMap::new(),
    };
    let known = partitions.iter().map(|partition| {
        let of = |offsets: &Committed| offsets.get(partition).copied();
        let known = Known {
            committed: of(committed),
            earliest: of(&earliest).unwrap_or_default(),
            latest: of(&latest).unwrap_or_default(),
            at_time: of(&at_time),
        };
        (partition.clone(), known)
    });
    Ok(known.collect())
}

async fn offsets(
    admin: &Admin,
    partitions: &[TopicPartition],
    spec: OffsetSpec,
) -> Result<Committed, Failure> {
    let specs = partitions.iter().map(|partition| (partition.clone(), spec));
    let listed = admin.list_offsets(specs).await?;
    Ok(listed.all()?.into_iter().filter_map(|(partition, it)| Some((partition, it.offset?))).collect())
}

/// What could not be moved, and why.
async fn execute(
    admin: &Admin,
    group: &str,
    is_share: bool,
    targets: &BTreeMap<TopicPartition, i64>,
) -> Result<BTreeMap<TopicPartition, String>, Failure> {
    let results = match is_share {
        true => {
            let offsets = targets.iter().map(|(partition, &offset)| (partition.clone(), offset));
            admin.alter_share_group_offsets(group, offsets).await?
        }
        false => {
            let offsets = targets
                .iter()
                .map(|(partition, &offset)| (partition.clone(), OffsetAndMetadata::new(offset)));
            admin.alter_group_offsets(group, offsets).await?
        }
    };
    let failed = results.into_iter().filter_map(|(partition, result)| Some((partition, why(&result.err()?))));
    Ok(failed.collect())
}

/// Coordinators refuse whoever is no member while there are members, in words that do not say so.
fn why(error: &AdminError) -> String {
    let hint = match error.code() {
        Some(ErrorCode::UnknownMemberId | ErrorCode::NonEmptyGroup) => {
            "\n  The group has members; stop them first."
        }
        _ => "",
    };
    with_causes(error) + hint
}
