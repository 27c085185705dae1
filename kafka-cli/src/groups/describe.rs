use std::collections::BTreeMap;

use clap::Args;
use kafka_admin::groups::{
    ClassicGroupDescription, ConsumerGroupDescription, ConsumerMember, GroupListing, GroupType,
    ShareGroupDescription, ShareMember,
};
use kafka_admin::{Admin, AdminError, ItemResults, Resource};
use kafka_client::TopicPartition;
use serde::Serialize;

use crate::connection::AdminOptions;
use crate::failure::{Failure, with_causes};
use crate::output::{Table, count, note, print_json, print_line};

/// Show where groups are in their partitions, how far behind, and who their members are
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kafka groups describe billing
  kafka groups describe billing --members
  kafka groups describe --json          every group

The lag is what is left to the end of a partition; for share groups, what is not yet acknowledged.")]
pub(crate) struct Describe {
    /// The groups' ids; default: every group
    #[arg(value_name = "GROUP")]
    ids: Vec<String>,

    /// Show the members and what they are assigned, instead of the partitions
    #[arg(long)]
    members: bool,

    /// Count lag up to the first open transaction, as read_committed consumers do
    #[arg(long)]
    read_committed: bool,

    #[command(flatten)]
    common: AdminOptions,
}

/// A group of any type.
#[derive(Debug, Serialize)]
struct Described {
    group: String,
    r#type: &'static str,
    state: &'static str,
    /// The assignor, or what its members agreed on.
    protocol: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<i32>,
    coordinator: i32,
    members: Vec<Member>,
    partitions: Vec<Partition>,
}

#[derive(Debug, Serialize)]
struct Member {
    member: String,
    instance: Option<String>,
    client_id: String,
    host: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<i32>,
    #[serde(serialize_with = "names")]
    assignment: Vec<TopicPartition>,
}

fn names<S: serde::Serializer>(partitions: &[TopicPartition], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(partitions.iter().map(ToString::to_string))
}

#[derive(Debug, Serialize)]
struct Partition {
    topic: String,
    partition: i32,
    current_offset: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_offset: Option<i64>,
    lag: Option<i64>,
    /// Who owns it; nobody owns a partition of a share group.
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<String>,
}

impl Describe {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let admin = self.common.admin().await?;
        let listed = admin.list_groups().await?;
        let mut failures = Vec::new();
        let listed: Vec<GroupListing> = match self.ids.is_empty() {
            true => listed,
            false => {
                let known: BTreeMap<_, _> = listed.into_iter().map(|it| (it.id.clone(), it)).collect();
                let missing = self.ids.iter().filter(|id| !known.contains_key(*id));
                failures.extend(
                    missing.map(|id| format!("group {id:?} does not exist; see `kafka groups list`")),
                );
                self.ids.iter().filter_map(|id| known.get(id).cloned()).collect()
            }
        };
        for (at, listing) in listed.iter().enumerate() {
            match self.describe(&admin, listing).await {
                Ok(described) if self.common.json => print_json(&described)?,
                Ok(described) => self.print(&described, at > 0)?,
                Err(error) => failures.push(with_causes(&error)),
            }
        }
        Failure::all(failures)
    }

    async fn describe(&self, admin: &Admin, listing: &GroupListing) -> Result<Described, AdminError> {
        let id = &listing.id;
        let consumers = listing.protocol_type.is_empty() || listing.protocol_type == "consumer";
        match listing.group_type {
            GroupType::Share => {
                let described = one(admin.describe_share_groups([id]).await?, id)?;
                let mut described = Described::from(described);
                for (partition, result) in admin.list_share_group_offsets(id).await? {
                    let at = result?;
                    let row = Partition { lag: at.lag, ..row(&partition, Some(at.start_offset)) };
                    described.partitions.push(row);
                }
                Ok(described)
            }
            _ if consumers => {
                let described = one(admin.describe_consumer_groups([id]).await?, id)?;
                let mut described = Described::from(described);
                let owners: BTreeMap<&TopicPartition, &str> = described
                    .members
                    .iter()
                    .flat_map(|it| it.assignment.iter().map(|partition| (partition, it.member.as_str())))
                    .collect();
                let lag = admin.group_lag(id).and_partitions(owners.keys().copied().cloned());
                let mut partitions = Vec::new();
                for (partition, result) in lag.read_committed(self.read_committed).await? {
                    let member = owners.get(&partition).map(|&owner| owner.to_owned());
                    let (committed, end_offset, lag) = match result {
                        Ok(at) => (at.committed.as_ref().map(|it| it.offset), Some(at.end_offset), at.lag()),
                        Err(error) => {
                            note(with_causes(&error));
                            (None, None, None)
                        }
                    };
                    partitions.push(Partition { end_offset, lag, member, ..row(&partition, committed) });
                }
                described.partitions = partitions;
                Ok(described)
            }
            _ => Ok(Described::from(one(admin.describe_classic_groups([id]).await?, id)?)),
        }
    }

    fn print(&self, group: &Described, gap: bool) -> Result<(), Failure> {
        if gap {
            print_line("")?;
        }
        let protocol =
            if group.protocol.is_empty() { String::new() } else { format!(", {}", group.protocol) };
        let members = count(group.members.len() as u64, "member");
        let (state, kind) = (group.state, group.r#type.to_lowercase());
        let coordinator = group.coordinator;
        print_line(format!(
            "{}: {state}, {kind}{protocol}, {members}, coordinator {coordinator}",
            group.group
        ))?;
        if self.members { print_members(&group.members) } else { print_partitions(group) }
    }
}

fn print_members(members: &[Member]) -> Result<(), Failure> {
    if members.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["member", "instance", "client", "host", "#partitions", "assignment"]);
    for member in members {
        let assignment: Vec<String> = member.assignment.iter().map(ToString::to_string).collect();
        table.row([
            member.member.clone(),
            member.instance.clone().unwrap_or_else(|| "-".to_owned()),
            member.client_id.clone(),
            member.host.clone(),
            member.assignment.len().to_string(),
            assignment.join(","),
        ]);
    }
    table.print()
}

fn print_partitions(group: &Described) -> Result<(), Failure> {
    if group.partitions.is_empty() {
        return Ok(());
    }
    let number = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |it| it.to_string());
    let mut table =
        Table::new(&["topic", "#partition", "#current", "#end", "#lag", "member", "client", "host"]);
    for partition in &group.partitions {
        let owner = group.members.iter().find(|it| partition.member.as_ref() == Some(&it.member));
        let of_owner =
            |cell: fn(&Member) -> &String| owner.map_or_else(|| "-".to_owned(), |it| cell(it).clone());
        table.row([
            partition.topic.clone(),
            partition.partition.to_string(),
            number(partition.current_offset),
            number(partition.end_offset),
            number(partition.lag),
            of_owner(|it| &it.member),
            of_owner(|it| &it.client_id),
            of_owner(|it| &it.host),
        ]);
    }
    table.print()
}

fn row(partition: &TopicPartition, current_offset: Option<i64>) -> Partition {
    Partition {
        topic: partition.topic().to_owned(),
        partition: partition.partition,
        current_offset,
        end_offset: None,
        lag: None,
        member: None,
    }
}

/// The answer about the only group that was asked about.
fn one<V>(results: ItemResults<String, V>, id: &str) -> Result<V, AdminError> {
    let described = results.all()?.pop().map(|(_, described)| described);
    described.ok_or_else(|| AdminError::Missing { resource: Resource::Group(id.to_owned()) })
}

impl From<ConsumerGroupDescription> for Described {
    fn from(group: ConsumerGroupDescription) -> Self {
        Self {
            group: group.id,
            r#type: group.group_type.name(),
            state: group.state.name(),
            protocol: group.assignor,
            epoch: group.group_epoch,
            coordinator: group.coordinator,
            members: group.members.into_iter().map(Member::from).collect(),
            partitions: Vec::new(),
        }
    }
}

impl From<ConsumerMember> for Member {
    fn from(member: ConsumerMember) -> Self {
        Self {
            member: member.id,
            instance: member.instance_id,
            client_id: member.client_id,
            host: member.host,
            epoch: member.epoch,
            assignment: member.assignment,
        }
    }
}

impl From<ShareGroupDescription> for Described {
    fn from(group: ShareGroupDescription) -> Self {
        Self {
            group: group.id,
            r#type: GroupType::Share.name(),
            state: group.state.name(),
            protocol: group.assignor,
            epoch: Some(group.group_epoch),
            coordinator: group.coordinator,
            members: group.members.into_iter().map(Member::from).collect(),
            partitions: Vec::new(),
        }
    }
}

impl From<ShareMember> for Member {
    fn from(member: ShareMember) -> Self {
        Self {
            member: member.id,
            instance: None,
            client_id: member.client_id,
            host: member.host,
            epoch: Some(member.epoch),
            assignment: member.assignment,
        }
    }
}

impl From<ClassicGroupDescription> for Described {
    fn from(group: ClassicGroupDescription) -> Self {
        let members = group.members.into_iter().map(|member| Member {
            assignment: member.partitions(),
            member: member.id,
            instance: member.instance_id,
            client_id: member.client_id,
            host: member.host,
            epoch: None,
        });
        Self {
            members: members.collect(),
            group: group.id,
            r#type: GroupType::Classic.name(),
            state: group.state.name(),
            protocol: group.protocol,
            epoch: None,
            coordinator: group.coordinator,
            partitions: Vec::new(),
        }
    }
}
