//! `kafka groups list|describe|delete|reset-offsets|delete-offsets|remove-members`

mod describe;
pub(crate) mod plan;
mod reset;

use clap::{Args, Subcommand};
use kafka_admin::groups::{GroupListing, GroupState, GroupType, MemberIdentity, MembersToRemove};
use kafka_admin::{Admin, ItemResults};
use kafka_client::TopicPartition;
use kafka_client::wire::ErrorCode;
use serde::Serialize;

use crate::connection::{AdminOptions, existing_topic};
use crate::failure::Failure;
use crate::outcome::{Outcome, report};
use crate::output::{Table, note, print_json};

/// List, describe and delete groups, and move their offsets
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    List(List),
    Describe(describe::Describe),
    Delete(Delete),
    ResetOffsets(reset::ResetOffsets),
    DeleteOffsets(DeleteOffsets),
    RemoveMembers(RemoveMembers),
}

/// List the cluster's groups of every type
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kafka groups list
  kafka groups list --state stable --type consumer --type classic
  kafka groups list --protocol connect --json")]
pub(crate) struct List {
    /// Only groups in this state, such as stable or empty; repeatable
    #[arg(long = "state", value_name = "STATE")]
    states: Vec<GroupState>,

    /// Only groups of this type: classic, consumer, share or streams; repeatable
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<GroupType>,

    /// Only groups whose members speak this, such as consumer or connect; repeatable
    #[arg(long = "protocol", value_name = "NAME")]
    protocols: Vec<String>,

    #[command(flatten)]
    common: AdminOptions,
}

/// Delete groups without members, with what they committed
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kafka groups delete billing
  kafka groups delete billing audit --if-exists")]
pub(crate) struct Delete {
    /// The groups' ids
    #[arg(value_name = "GROUP", required = true)]
    ids: Vec<String>,

    /// A group that does not exist is no error
    #[arg(long)]
    if_exists: bool,

    #[command(flatten)]
    common: AdminOptions,
}

/// Forget offsets that a group of consumers, or a share group, has committed
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kafka groups delete-offsets billing --topic orders
  kafka groups delete-offsets billing --topic orders:0,2

Topics that members of the group subscribe to are refused. Share groups forget whole topics.")]
pub(crate) struct DeleteOffsets {
    /// The group's id
    group: String,

    /// A topic, or some of its partitions as TOPIC:0,1; repeatable
    #[arg(long = "topic", value_name = "TOPIC", required = true, value_parser = plan::scope)]
    topics: Vec<plan::Scope>,

    #[command(flatten)]
    common: AdminOptions,
}

/// Make members leave a group, as if their time was over; those that live join again
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kafka groups remove-members billing --instance billing-1 --reason 'machine is gone'
  kafka groups remove-members billing --all")]
pub(crate) struct RemoveMembers {
    /// The group's id
    group: String,

    /// A member's id, as `kafka groups describe` shows it; repeatable
    #[arg(long = "member", value_name = "ID", required_unless_present_any = ["instances", "all"])]
    members: Vec<String>,

    /// A static member's group.instance.id; repeatable
    #[arg(long = "instance", value_name = "ID")]
    instances: Vec<String>,

    /// Every member
    #[arg(long, conflicts_with_all = ["members", "instances"])]
    all: bool,

    /// Why, for the coordinator's log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,

    #[command(flatten)]
    common: AdminOptions,
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::List(args) => args.run().await,
        Command::Describe(args) => args.run().await,
        Command::Delete(args) => args.run().await,
        Command::ResetOffsets(args) => args.run().await,
        Command::DeleteOffsets(args) => args.run().await,
        Command::RemoveMembers(args) => args.run().await,
    }
}

#[derive(Debug, Serialize)]
struct Listed<'a> {
    group: &'a str,
    r#type: &'a str,
    state: &'a str,
    protocol: &'a str,
}

impl<'a> From<&'a GroupListing> for Listed<'a> {
    fn from(group: &'a GroupListing) -> Self {
        Self {
            group: &group.id,
            r#type: group.group_type.name(),
            state: group.state.name(),
            protocol: &group.protocol_type,
        }
    }
}

impl List {
    async fn run(self) -> Result<(), Failure> {
        let admin = self.common.admin().await?;
        let groups = admin.list_groups().in_states(self.states).of_types(self.types);
        let groups = groups.with_protocol_types(self.protocols).await?;
        if self.common.json {
            return groups.iter().try_for_each(|group| print_json(&Listed::from(group)));
        }
        if groups.is_empty() {
            note("no groups");
            return Ok(());
        }
        let mut table = Table::new(&["group", "type", "state", "protocol"]);
        for group in groups {
            table.row([group.id, group.group_type.to_string(), group.state.to_string(), group.protocol_type]);
        }
        table.print()
    }
}

impl Delete {
    async fn run(self) -> Result<(), Failure> {
        let admin = self.common.admin().await?;
        let results = admin.delete_groups(self.ids).await?;
        let results = results.iter().map(|(id, result)| (id.as_str(), result));
        report(results, self.common.json, |id, result| match result {
            Ok(()) => Outcome::new(id, "deleted"),
            Err(error) if self.if_exists && error.code() == Some(ErrorCode::GroupIdNotFound) => {
                Outcome::new(id, "missing")
            }
            Err(error) => Outcome::failed(id, error),
        })
    }
}

impl DeleteOffsets {
    async fn run(self) -> Result<(), Failure> {
        let admin = self.common.admin().await?;
        if group_type(&admin, &self.group).await? == Some(GroupType::Share) {
            if let Some(scope) = self.topics.iter().find(|scope| !scope.partitions.is_empty()) {
                let topic = &scope.topic;
                return Err(Failure::usage(format!("a share group forgets {topic:?} as a whole, or not")));
            }
            let topics = self.topics.into_iter().map(|scope| scope.topic);
            let results = admin.delete_share_group_offsets(self.group, topics).await?;
            return report_done(&results, self.common.json, "deleted", Clone::clone);
        }
        let partitions = partitions(&admin, self.topics).await?;
        let results = admin.delete_group_offsets(self.group, partitions).await?;
        report_done(&results, self.common.json, "deleted", ToString::to_string)
    }
}

impl RemoveMembers {
    async fn run(self) -> Result<(), Failure> {
        let members = match self.all {
            true => MembersToRemove::All,
            false => {
                let instances = self.instances.into_iter().map(MemberIdentity::Instance);
                let members = self.members.into_iter().map(MemberIdentity::Member);
                MembersToRemove::These(instances.chain(members).collect())
            }
        };
        let admin = self.common.admin().await?;
        let removal = admin.remove_members(self.group, members);
        let removal = match self.reason {
            Some(reason) => removal.reason(reason),
            None => removal,
        };
        let results = removal.await?;
        if results.is_empty() {
            note("the group has no members");
        }
        report_done(&results, self.common.json, "removed", |member| match member {
            MemberIdentity::Instance(id) | MemberIdentity::Member(id) => id.clone(),
            other => format!("{other:?}"),
        })
    }
}

/// Reports items that are done or have failed.
fn report_done<K>(
    results: &ItemResults<K, ()>,
    json: bool,
    done: &'static str,
    name: impl Fn(&K) -> String,
) -> Result<(), Failure> {
    let names: Vec<String> = results.iter().map(|(item, _)| name(item)).collect();
    let results = names.iter().map(String::as_str).zip(results.iter().map(|(_, result)| result));
    report(results, json, Outcome::or_failed(done))
}

/// What type a group is of; `None` if there is no such group.
async fn group_type(admin: &Admin, group: &str) -> Result<Option<GroupType>, Failure> {
    let groups = admin.list_groups().await?;
    Ok(groups.into_iter().find(|listing| listing.id == group).map(|listing| listing.group_type))
}

/// The partitions that are meant; a topic without numbers is all of it.
pub(crate) async fn partitions(
    admin: &Admin,
    scopes: Vec<plan::Scope>,
) -> Result<Vec<TopicPartition>, Failure> {
    let mut partitions = Vec::new();
    for plan::Scope { topic, partitions: numbers } in scopes {
        let numbers = match numbers.is_empty() {
            false => numbers,
            true => {
                let described = existing_topic(admin, &topic).await?;
                described.partitions.iter().map(|partition| partition.partition).collect()
            }
        };
        partitions.extend(numbers.into_iter().map(|number| TopicPartition::new(topic.as_str(), number)));
    }
    partitions.sort();
    partitions.dedup();
    Ok(partitions)
}
